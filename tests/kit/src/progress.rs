//! How far a workload has come: what a crash at this moment may leave, and what it must.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use terrace::vfs::ImageKind;

/// Three places in the commit order, `durable <= returned <= begun`, and the last sequence number
/// given out. A hook of the file system, or another thread, may read it while an operation runs.
#[derive(Debug, Default)]
pub struct Progress {
    begun: AtomicUsize,
    returned: AtomicUsize,
    durable: AtomicUsize,
    last_seq: AtomicU64,
}

impl Progress {
    /// Commits handed to the database: no more may be found.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    /// Commits that returned: those survive the death of the process.
    pub fn returned(&self) -> usize {
        self.returned.load(Ordering::SeqCst)
    }

    /// Commits acknowledged as durable: those survive a power cut.
    pub fn durable(&self) -> usize {
        self.durable.load(Ordering::SeqCst)
    }

    /// The last sequence number that a caller got to see: none up to it is given out again.
    pub fn last_seq(&self) -> u64 {
        self.last_seq.load(Ordering::SeqCst)
    }

    /// After how many commits the state may be that such a crash at this moment leaves.
    pub fn after(&self, crash: ImageKind) -> RangeInclusive<usize> {
        let least = match crash {
            ImageKind::Cut => self.durable(),
            ImageKind::Kill => self.returned(),
        };
        least..=self.begun()
    }

    pub(crate) fn begin(&self, commits: usize) {
        self.begun.store(commits, Ordering::SeqCst);
    }

    pub(crate) fn end(&self, commits: usize, last_seq: u64) {
        self.returned.store(commits, Ordering::SeqCst);
        self.last_seq.fetch_max(last_seq, Ordering::SeqCst);
    }

    /// After a crash that left so many commits, which are on disk, when `last_seq` was the last
    /// number given out.
    pub(crate) fn restart(&self, commits: usize, last_seq: u64) {
        self.last_seq.store(last_seq, Ordering::SeqCst);
        for place in [&self.begun, &self.returned, &self.durable] {
            place.store(commits, Ordering::SeqCst);
        }
    }

    pub(crate) fn all_durable(&self) {
        self.durable.store(self.returned(), Ordering::SeqCst);
    }
}
