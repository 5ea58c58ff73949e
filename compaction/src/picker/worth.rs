//! Whether a merge of level 0 is worth what it rewrites
//!
//! Level 0 is due by the number of its runs, however small they are: in an idle database one is
//! enough. If a few hundred bytes made the level below be written again each time, a trickle of
//! writes, or of values that expire, would keep the disk busy all the time. So the bytes of the
//! next level that a merge rewrites are limited, for each byte of level 0, to `PickOptions::worth`.
//! Large values that the tables refer to count as theirs. A tombstone may free an entry below: a
//! merge is also worth it if it rewrites at most that many entries for each tombstone.
//!
//! Where a merge is not worth it the newest runs are merged with each other ([`super::tidy`]),
//! which costs little, and level 0 waits until there is more of it. Twice as many runs as are due
//! end the wait, whatever it costs. If another job has taken what they are to be merged with, which
//! may be for long, the newest of that many runs are merged with each other.
//!
//! Runs may also be few and small, and refer to much. A large value that was overwritten stays
//! until the merge that finds both references. So level 0 is also due by the bytes that it refers
//! to (`PickOptions::blob_bytes`), if its merge writes fewer bytes than these.

use std::sync::Arc;

use terrace_base::mutant;

use super::leveled::Picker;
use super::{Compaction, tidy};
use crate::run::Run;
use crate::table_file::TableFile;

/// Bytes in blob files that a table refers to.
fn referred(table: &TableFile) -> u64 {
    table.info().blobs.iter().map(|(_, bytes)| bytes).sum()
}

/// Bytes of large values that whole runs refer to.
pub(super) fn referred_by(runs: &[Arc<Run>]) -> u64 {
    let tables = runs.iter().flat_map(|run| run.tables().iter());
    tables.map(|table| referred(table)).sum()
}

impl Picker<'_> {
    /// The merge of level 0 that is due, as far as it is worth it.
    pub fn merge_level0_if_worth(&self) -> Option<Compaction> {
        let runs = self.oldest_free_runs();
        let plan = self.merge_level0(runs)?;
        let allowed = self.options.due_runs();
        let is_worth = match runs.len() >= allowed {
            true => self.is_worth(&plan),
            false => is_cheap(&plan),
        };
        if is_worth || mutant("merge-at-any-cost") {
            return Some(plan);
        }
        tidy::newest(self.version, self.options, self.blocked.busy, allowed - 1)
    }

    /// A merge of the newest runs of level 0 with each other, once there are many: for when other
    /// jobs have taken what they would be merged with.
    pub fn tidy_beside_jobs(&self) -> Option<Compaction> {
        match mutant("wait-for-busy") {
            true => None,
            false => tidy::newest(
                self.version,
                self.options,
                self.blocked.busy,
                self.many_runs(),
            ),
        }
    }

    /// Number of level-0 runs from which a merge is due whatever it costs.
    fn many_runs(&self) -> usize {
        2 * self.options.level0_runs.max(2)
    }

    fn is_worth(&self, plan: &Compaction) -> bool {
        if self.version.level(0).runs.len() >= self.many_runs() {
            return true;
        }
        let (mut own, mut tombstones) = (0_u64, 0_u64);
        let (mut dragged, mut entries) = (0_u64, 0_u64);
        for (level, table) in &plan.inputs {
            let info = table.info();
            if *level == 0 {
                own = own
                    .saturating_add(info.size)
                    .saturating_add(referred(table));
                tombstones += info.tombstones;
            } else {
                dragged = dragged.saturating_add(info.size);
                entries += info.entries;
            }
        }
        let most = |count: u64| count.saturating_mul(self.options.worth);
        dragged <= most(own) || (tombstones > 0 && entries <= most(tombstones))
    }
}

/// True if a merge writes fewer bytes than its inputs of level 0 refer to in blob files.
fn is_cheap(plan: &Compaction) -> bool {
    let level0 = plan.inputs.iter().filter(|(level, _)| *level == 0);
    let freed: u64 = level0.map(|(_, table)| referred(table)).sum();
    plan.input_bytes() <= freed
}
