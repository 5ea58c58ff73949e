//! Which read points are in use.
//!
//! A compaction may drop a version only if no snapshot can see it. A job lists the snapshots together with
//! the visible sequence number under the mutex that registers them, so that none slips in between: one
//! registered later reads at or above what the job saw as visible, and sees nothing that the job dropped.
//! Plain gets and iterators register nothing: the tables that they pinned hold what they may see.

use std::collections::BTreeMap;

use terrace_base::SeqNo;

use crate::sync::{AtomicU64, Mutex, Ordering, lock};

#[derive(Debug, Default)]
pub(crate) struct SnapshotList {
    counts: Mutex<BTreeMap<SeqNo, usize>>,
}

impl SnapshotList {
    /// Registers a snapshot of what is visible now.
    pub(crate) fn register(&self, visible: &AtomicU64) -> SeqNo {
        let mut counts = lock(&self.counts);
        let seq = SeqNo::new(visible.load(Ordering::Acquire));
        *counts.entry(seq).or_default() += 1;
        seq
    }

    /// Registers another handle of a snapshot that is registered already.
    pub(crate) fn register_again(&self, seq: SeqNo) {
        *lock(&self.counts).entry(seq).or_default() += 1;
    }

    pub(crate) fn release(&self, seq: SeqNo) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&seq) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&seq);
            }
        }
    }

    /// The snapshots in rising order, and what is visible, at one moment.
    pub(crate) fn list(&self, visible: &AtomicU64) -> (Vec<SeqNo>, SeqNo) {
        let counts = lock(&self.counts);
        (counts.keys().copied().collect(), SeqNo::new(visible.load(Ordering::Acquire)))
    }
}
