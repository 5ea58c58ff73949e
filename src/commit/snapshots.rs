//! Which read points are in use.
//!
//! A compaction may drop a version only if no snapshot can see it. A job lists the snapshots
//! together with the visible sequence number under the mutex that registers them, so that none
//! slips in between: one registered later reads at or above what the job saw as visible, and sees
//! nothing that the job dropped. Plain gets and iterators register nothing: the tables that they
//! pinned hold what they may see.

use std::collections::BTreeMap;

use terrace_base::{SeqNo, mutant};

use crate::sync::{AtomicU64, Mutex, Ordering, Rank, lock};

#[derive(Debug)]
pub(crate) struct SnapshotList {
    counts: Mutex<BTreeMap<SeqNo, Registered>>,
    /// How many snapshots were released.
    released: AtomicU64,
}

#[derive(Debug)]
struct Registered {
    snapshots: usize,
    /// The time of the first of them.
    time: u64,
}

impl Default for SnapshotList {
    fn default() -> SnapshotList {
        SnapshotList {
            counts: Mutex::new(Rank::Snapshots, BTreeMap::new()),
            released: AtomicU64::new(0),
        }
    }
}

impl SnapshotList {
    /// Registers a snapshot of what is visible now, and says at what time that is.
    pub(crate) fn register(&self, visible: &AtomicU64, now: impl FnOnce() -> u64) -> (SeqNo, u64) {
        let early = mutant("register-late").then(|| visible.load(Ordering::Acquire));
        let mut counts = lock(&self.counts);
        let seq = SeqNo::new(early.unwrap_or_else(|| visible.load(Ordering::Acquire)));
        let time = now();
        let new = Registered { snapshots: 0, time };
        if !mutant("forget-snapshot") {
            counts.entry(seq).or_insert(new).snapshots += 1;
        }
        (seq, time)
    }

    /// Registers a read point that may be above what is visible. REQUIRES: the commit lock is held,
    /// and `seq` is the last number given out. A job that listed the snapshots before keeps every
    /// delete above what was visible then, and so above `seq`.
    fn register_at(&self, seq: SeqNo) {
        if mutant("step-without-pin") {
            return;
        }
        let new = Registered {
            snapshots: 0,
            time: 0,
        };
        lock(&self.counts).entry(seq).or_insert(new).snapshots += 1;
    }

    /// How many snapshots were released since the open.
    pub(crate) fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    pub(crate) fn release(&self, seq: SeqNo) {
        self.released.fetch_add(1, Ordering::Relaxed);
        let mut counts = lock(&self.counts);
        let known =
            counts.contains_key(&seq) || mutant("forget-snapshot") || mutant("step-without-pin");
        debug_assert!(known, "snapshot {seq} is released and not registered");
        if let Some(registered) = counts.get_mut(&seq) {
            registered.snapshots -= 1;
            if registered.snapshots == 0 {
                counts.remove(&seq);
            }
        }
    }

    /// The snapshots in rising order with their times, and what is visible, at one moment.
    pub(crate) fn list(&self, visible: &AtomicU64) -> (Vec<(SeqNo, u64)>, SeqNo) {
        let counts = lock(&self.counts);
        let snapshots = counts.iter();
        (
            snapshots.map(|(&seq, known)| (seq, known.time)).collect(),
            SeqNo::new(visible.load(Ordering::Acquire)),
        )
    }
}

/// Keeps a read point registered.
#[derive(Debug)]
pub(crate) struct ReadPin<'a> {
    snapshots: &'a SnapshotList,
    seq: SeqNo,
}

impl<'a> ReadPin<'a> {
    /// REQUIRES: as for [`SnapshotList::register_at`].
    pub(super) fn new(snapshots: &'a SnapshotList, seq: SeqNo) -> ReadPin<'a> {
        snapshots.register_at(seq);
        ReadPin { snapshots, seq }
    }
}

impl Drop for ReadPin<'_> {
    fn drop(&mut self) {
        self.snapshots.release(self.seq);
    }
}
