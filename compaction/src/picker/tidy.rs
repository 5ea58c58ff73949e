//! Merging the newest runs of level 0 with each other
//!
//! A process that lives for a moment adds a run to level 0, by the recovery of what the process
//! before it left or by a flush at its close, and ends before the merge of level 0 into the level
//! below it is done or worth its cost. So recovery and close merge the newest runs into one, in the
//! manner of a counter: the merge takes the next older run as long as that is at most twice as
//! large as all newer ones together, or tiny. Each entry is then written again once whenever the
//! run that it lies in has tripled, and the sizes of the runs that remain at least triple from one
//! to the next: there are no more than the logarithm of the data.
//!
//! ```text
//! level 0, newest first    1K 2K 5K 900K 4M    ->    8K 900K 4M
//! ```
//!
//! Opening and closing must not take long. So a merge is no larger than [`MOST`], unless there are
//! very many runs.

use std::collections::HashSet;
use std::sync::Arc;

use terrace_base::{FileNumber, mutant};

use super::{Blocked, Compaction, CompactionKind, PickOptions};
use crate::run::Run;
use crate::version::Version;

/// A run of at most this many bytes is always taken.
const TINY: u64 = 64 << 10;
/// Bytes of one merge.
const MOST: u64 = 32 << 20;
/// With more runs than this a merge may be of any size.
const TOO_MANY: usize = 32;

/// A merge of the newest runs of level 0 into one run of level 0, if there are more than `options`
/// has due. For callers that know of no running job.
pub fn pick_newest(version: &Version, options: &PickOptions) -> Option<Compaction> {
    newest(version, options, &HashSet::new(), options.level0_runs)
}

/// A merge of the newest runs of level 0 with each other, if there are more than `allowed`; of runs
/// without a table in `busy`.
pub(super) fn newest(
    version: &Version,
    options: &PickOptions,
    busy: &HashSet<FileNumber>,
    allowed: usize,
) -> Option<Compaction> {
    let runs = &version.level(0).runs;
    if runs.len() <= allowed || mutant("many-small-runs") {
        return None;
    }
    let most = match runs.len() > TOO_MANY {
        true => u64::MAX,
        false => MOST,
    };
    let blocked = Blocked { busy };
    let mut bytes = 0_u64;
    let fits = |run: &&Arc<Run>| {
        let small = bytes == 0 || run.size() <= TINY.max(bytes.saturating_mul(2));
        bytes = bytes.saturating_add(run.size());
        small && bytes <= most && !blocked.any(run.tables().iter())
    };
    let count = runs.iter().take_while(fits).count();
    let inputs = runs.get(..count).filter(|runs| runs.len() > 1)?;
    let inputs = inputs.iter().map(|run| (0, run.tables().to_vec()));
    let kind = CompactionKind::Merge;
    Some(Compaction::new(version, options, inputs.collect(), 0, kind))
}
