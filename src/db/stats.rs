//! Figures about a database.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use terrace_base::SeqNo;
use terrace_compaction::{LEVELS, MergeResult};

use crate::engine::Engine;
use crate::write::write::Write;

/// One level of the tree.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LevelStats {
    /// Sorted runs.
    pub runs: usize,
    /// Tables.
    pub tables: usize,
    /// Bytes of the tables.
    pub bytes: u64,
    /// Entries in the tables: versions and tombstones.
    pub entries: u64,
    /// Tombstones among them.
    pub tombstones: u64,
}

/// Figures about a database at one moment. Counts of work start at zero with each open.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The last sequence number that readers see.
    pub visible: SeqNo,
    /// The levels, newest data first.
    pub levels: Vec<LevelStats>,
    /// Entries in memory that are not in tables yet.
    pub memtable_entries: u64,
    /// Bytes of the sealed part of them.
    pub memtable_bytes: u64,
    /// Sorted pieces that hold them.
    pub memtable_pieces: usize,
    /// Deletes of ranges whose keys compaction has not worked off yet.
    pub range_deletes: usize,
    /// Bytes of the segments that the log lies in.
    pub log_bytes: u64,
    /// Bytes of tables.
    pub table_bytes: u64,
    /// Blob files: where large values lie.
    pub blob_files: usize,
    /// Bytes of theirs that tables refer to.
    pub blob_live_bytes: u64,
    /// The rest: of values that nothing refers to any more, or that are not in tables yet.
    pub blob_other_bytes: u64,
    /// Bytes of large values written since the open.
    pub bytes_stored: u64,
    /// Bytes of large values copied since the open to give back what was dead beside them.
    pub bytes_collected: u64,
    /// Bytes of decoded blocks in the cache.
    pub cache_bytes: u64,
    /// Bytes of memory that open tables take beside their blocks.
    pub open_table_bytes: u64,
    /// Operations written since the open.
    pub writes: u64,
    /// Bytes of keys and values written since the open, with their framing.
    pub bytes_written: u64,
    /// Bytes of tables written by flushes since the open.
    pub bytes_flushed: u64,
    /// Bytes of tables written by compactions since the open.
    pub bytes_compacted: u64,
}

impl Stats {
    /// Bytes written to the log, to tables and to blob files for each byte written by the caller,
    /// since the open.
    pub fn write_amplification(&self) -> f64 {
        let written = self.bytes_written + self.bytes_stored;
        (written + self.bytes_flushed + self.bytes_compacted) as f64 / written.max(1) as f64
    }
}

/// What has been done since the open.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    writes: AtomicU64,
    bytes: AtomicU64,
    flushed: AtomicU64,
    compacted: AtomicU64,
    stored: AtomicU64,
    collected: AtomicU64,
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

impl Engine {
    pub(crate) fn stats(&self) -> Stats {
        let view = self.views.cell.load();
        let level = |n: usize| {
            let mut stats = LevelStats {
                runs: view.version.level(n).runs.len(),
                ..Default::default()
            };
            for table in view
                .version
                .level(n)
                .runs
                .iter()
                .flat_map(|run| run.tables().iter())
            {
                let info = &table.meta().info;
                stats.tables += 1;
                stats.bytes += info.size;
                stats.entries += info.entries;
                stats.tombstones += info.tombstones;
            }
            stats
        };
        let levels: Vec<LevelStats> = (0..LEVELS).map(level).collect();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let blob_live_bytes: u64 = view.version.blob_bytes().values().sum();
        let blob_bytes: u64 = view.version.blobs().values().map(|blob| blob.size()).sum();
        Stats {
            visible: self.committer.visible(),
            memtable_entries: view.active.len() as u64
                + view.sealed.iter().map(|run| run.entries).sum::<u64>(),
            memtable_bytes: view.sealed_bytes(),
            memtable_pieces: 1 + view.sealed.len(),
            range_deletes: view.range_deletes(),
            log_bytes: self
                .versions
                .lock()
                .state
                .segments
                .values()
                .map(|s| s.size)
                .sum(),
            table_bytes: levels.iter().map(|level| level.bytes).sum(),
            blob_files: view.version.blobs().len(),
            blob_live_bytes,
            blob_other_bytes: blob_bytes.saturating_sub(blob_live_bytes),
            bytes_stored: load(&self.counters.stored),
            bytes_collected: load(&self.counters.collected),
            cache_bytes: self.files.cache.used(),
            open_table_bytes: self.files.cache.charged(),
            writes: load(&self.counters.writes),
            bytes_written: load(&self.counters.bytes),
            bytes_flushed: load(&self.counters.flushed),
            bytes_compacted: load(&self.counters.compacted),
            levels,
        }
    }
}
