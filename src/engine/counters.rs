//! What has been done since the open

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use terrace_base::SeqNo;
use terrace_compaction::MergeResult;

use crate::write::prepared::Write;

/// What has been done since the open.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) writes: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) flushed: AtomicU64,
    pub(crate) compacted: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) collected: AtomicU64,
    /// `writes` when the compactor last looked, and since when it has not changed (microseconds,
    /// from 1).
    seen: AtomicU64,
    quiet_since: AtomicU64,
    /// What was visible when an idle database was last looked at.
    looked_at: AtomicU64,
}

impl Counters {
    #[inline]
    pub(crate) fn written(&self, write: &Write<'_>) {
        self.writes
            .fetch_add(u64::from(write.count), Ordering::Relaxed);
        self.bytes.fetch_add(write.len as u64, Ordering::Relaxed);
    }

    /// Large values were written.
    pub(crate) fn stored(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Large values were copied.
    pub(crate) fn collected(&self, bytes: u64) {
        self.collected.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn has_written(&self) -> bool {
        self.writes.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn flushed(&self, result: &MergeResult) {
        self.flushed
            .fetch_add(result.bytes_written, Ordering::Relaxed);
    }

    pub(crate) fn compacted(&self, result: &MergeResult) {
        self.compacted
            .fetch_add(result.bytes_written, Ordering::Relaxed);
    }

    /// True, once for each sequence number.
    pub(crate) fn is_new(&self, visible: SeqNo) -> bool {
        self.looked_at.swap(visible.get(), Ordering::Relaxed) != visible.get()
    }

    /// True if nothing was written for `time`, as far as the calls of this method can tell: the
    /// write path itself reads no clock.
    pub(crate) fn quiet_for(&self, now: Duration, time: Duration) -> bool {
        let writes = self.writes.load(Ordering::Relaxed) + 1;
        let now = now.as_micros() as u64 + 1;
        if self.seen.swap(writes, Ordering::Relaxed) != writes {
            self.quiet_since.store(now, Ordering::Relaxed);
            return false;
        }
        now.saturating_sub(self.quiet_since.load(Ordering::Relaxed)) >= time.as_micros() as u64
    }
}
