//! Figures about a database.

use std::sync::atomic::{AtomicU64, Ordering};

use terrace_base::SeqNo;
use terrace_compaction::LEVELS;

use crate::engine::Engine;

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

pub(crate) fn stats(engine: &Engine) -> Stats {
    let view = engine.views.cell.load();
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
        visible: engine.committer.visible(),
        memtable_entries: view.active.len() as u64
            + view.sealed.iter().map(|run| run.entries).sum::<u64>(),
        memtable_bytes: view.sealed_bytes(),
        memtable_pieces: 1 + view.sealed.len(),
        range_deletes: view.range_deletes(),
        log_bytes: engine
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
        bytes_stored: load(&engine.counters.stored),
        bytes_collected: load(&engine.counters.collected),
        cache_bytes: engine.files.cache.used(),
        open_table_bytes: engine.files.cache.charged(),
        writes: load(&engine.counters.writes),
        bytes_written: load(&engine.counters.bytes),
        bytes_flushed: load(&engine.counters.flushed),
        bytes_compacted: load(&engine.counters.compacted),
        levels,
    }
}
