//! Segments of the log that are no longer needed: released, kept for another use, or removed

use std::collections::VecDeque;

use terrace_base::{FileNumber, Result, mutant};
use terrace_wal::Lsn;

use crate::engine::Engine;
use crate::engine::log_segments::{drop_segments, most_reusable};

/// After a flush: segments below `flushed` become reusable, and more of them than wanted are
/// deleted.
pub(crate) fn release_log(engine: &Engine, flushed: Lsn) -> Result<()> {
    let released = engine.committer.with_log(|log| log.release(flushed));
    let reusable = released
        .iter()
        .map(|segment| (segment.number, segment.size));
    engine.versions.lock().reusable.extend(reusable);
    trim_log(engine, most_reusable(&engine.options))
}

/// Deletes reusable segments down to `kept` of them, and to as many bytes as `kept` of the
/// largest that this database makes have. The smallest go first, as segments grow until they
/// have their final size; but in front of them those that are larger than that: one was made
/// for a large batch, or with more memory, and may never be needed again.
pub(crate) fn trim_log(engine: &Engine, kept: usize) -> Result<()> {
    let surplus = {
        let mut versions = engine.versions.lock();
        let segments = versions.reusable.make_contiguous();
        segments.sort_by_key(|(_, size)| *size);
        let most = engine.options.largest_segment().saturating_mul(kept as u64);
        surplus(&mut versions.reusable, kept, most)
    };
    engine.heed(drop_segments(&engine.files, &engine.versions, surplus))
}

/// Takes out of `segments`, which rise in size, those beyond a count and a sum of bytes.
fn surplus(
    segments: &mut VecDeque<(FileNumber, u64)>,
    count: usize,
    bytes: u64,
) -> Vec<(FileNumber, u64)> {
    let mut surplus = Vec::new();
    let mut sum: u64 = segments.iter().map(|(_, size)| size).sum();
    while sum > bytes && !mutant("keep-largest-segments") {
        let Some(largest) = segments.pop_back() else {
            break;
        };
        sum -= largest.1;
        surplus.push(largest);
    }
    let beyond = segments.len().saturating_sub(count);
    surplus.extend(segments.drain(..beyond));
    surplus
}
