//! fjall 3: an LSM tree, our nearest neighbour.
//!
//! Its defaults stand (64 MiB memtables, 4 KiB blocks, leveled compaction, a Bloom filter, at most
//! four workers, no compression in the first two levels), but for the cache, which it wants to be
//! sized by the user. A write goes to the operating system before it returns; Sync adds a `persist`. It is opened as its
//! database with optimistic transactions, which is the plain one and an oracle beside it; rows that need no
//! transaction go to the plain one.

use super::{Compression, Config, Durability, Engine, Reader};
use crate::Result;
use crate::measure;
use ::fjall::config::CompressionPolicy;
use ::fjall::{
    CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, OptimisticTxDatabase,
    PersistMode, Readable,
};
use std::ops::Bound;
use std::path::Path;
use std::time::{Duration, Instant};

/// Four memtables of its default size: with as many sealed ones it halts writers.
const WRITE_BUFFERS: u64 = 4 * (64 << 20);
/// Counters that do not move for so long stand still.
const STILL: Duration = Duration::from_millis(300);

pub struct Fjall {
    transactions: OptimisticTxDatabase,
    db: Database,
    pairs: Keyspace,
    sync: bool,
}

impl Fjall {
    /// What changes while anything goes on in the background.
    fn activity(&self) -> (usize, usize, usize, usize, usize) {
        (
            self.db.outstanding_flushes(),
            self.db.active_compactions(),
            self.db.compactions_completed(),
            self.pairs.sealed_memtable_count(),
            self.pairs.table_count(),
        )
    }

    fn is_busy(&self) -> bool {
        let (flushes, compactions, _, sealed, _) = self.activity();
        flushes + compactions + sealed > 0
    }

    /// Waits until the counters stand still, and returns the time that only watching took.
    fn wait_still(&self) -> Duration {
        let mut last = self.activity();
        let mut since = Instant::now();
        while since.elapsed() < STILL {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.activity();
            if now != last || self.is_busy() {
                last = now;
                since = Instant::now();
            }
        }
        since.elapsed()
    }
}

fn policy(compression: Compression) -> CompressionPolicy {
    use CompressionType::{Lz4, None as Raw};
    match compression {
        Compression::None => CompressionPolicy::disabled(),
        Compression::Lz4 => CompressionPolicy::new([Raw, Raw, Lz4]),
    }
}

impl Engine for Fjall {
    type Reader<'a> = &'a Fjall;
    /// At rest it may keep several runs in level 0, and reads them more slowly.
    const COMPACT_TO_READ: bool = true;

    fn open(dir: &Path, config: &Config) -> Result<Fjall> {
        let cache = config.memory.saturating_sub(WRITE_BUFFERS).max(32 << 20);
        let transactions = OptimisticTxDatabase::builder(dir)
            .cache_size(cache)
            .open()?;
        let db = transactions.inner().clone();
        let pairs = db.keyspace("default", || {
            KeyspaceCreateOptions::default()
                .data_block_compression_policy(policy(config.compression))
        })?;
        let sync = config.durability == Durability::Sync;
        Ok(Fjall {
            transactions,
            db,
            pairs,
            sync,
        })
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.pairs.insert(key, value)?;
        if self.sync {
            self.db.persist(PersistMode::SyncAll)?;
        }
        Ok(())
    }

    fn put_batch<'p>(
        &self,
        pairs: impl ExactSizeIterator<Item = (&'p [u8], &'p [u8])>,
    ) -> Result<()> {
        let mode = if self.sync {
            PersistMode::SyncAll
        } else {
            PersistMode::Buffer
        };
        let mut batch = ::fjall::OwnedWriteBatch::with_capacity(self.db.clone(), pairs.len())
            .durability(Some(mode));
        for (key, value) in pairs {
            batch.insert(&self.pairs, key, value);
        }
        Ok(batch.commit()?)
    }

    fn read_modify_write<'v>(
        &self,
        key: &[u8],
        mut f: impl FnMut(&[u8]) -> &'v [u8],
    ) -> Result<bool> {
        loop {
            let mut txn = self.transactions.write_tx()?;
            if self.sync {
                txn = txn.durability(Some(PersistMode::SyncAll));
            }
            let Some(old) = txn.get(&self.pairs, key)? else {
                return Ok(false);
            };
            txn.insert(&self.pairs, key, f(&old));
            if txn.commit()?.is_ok() {
                return Ok(true);
            }
        }
    }

    fn reader(&self) -> Result<&Fjall> {
        Ok(self)
    }

    fn wait_idle(&self) -> Result<Option<Duration>> {
        self.pairs.rotate_memtable_and_wait()?;
        Ok(Some(self.wait_still()))
    }

    fn compact(&self) -> Result<Option<Duration>> {
        self.pairs.major_compact()?;
        Ok(Some(self.wait_still()))
    }

    /// Tables that a compaction has replaced stay until a memtable is next rotated: in use they would soon
    /// go, so they are not counted.
    fn disk_bytes(&self, dir: &Path) -> Result<u64> {
        let tables = measure::disk_bytes(self.pairs.path())?;
        let rest = measure::disk_bytes(dir)?.saturating_sub(tables);
        Ok(rest + tables.min(self.pairs.disk_space()))
    }

    fn close(self) -> Result<()> {
        Ok(()) // By drop, as its documents have it.
    }
}

/// Shows the pairs of an iterator to `f`.
fn visit(pairs: impl Iterator<Item = Guard>, mut f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
    let mut count = 0;
    for guard in pairs {
        let (key, value) = guard.into_inner()?;
        f(&key, &value);
        count += 1;
    }
    Ok(count)
}

impl Reader for &Fjall {
    fn get(&mut self, key: &[u8], f: impl FnOnce(&[u8])) -> Result<bool> {
        Ok(self.pairs.get(key)?.map(|value| f(&value)).is_some())
    }

    fn scan(&mut self, f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        visit(self.pairs.iter(), f)
    }

    fn scan_back(&mut self, f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        visit(self.pairs.iter().rev(), f)
    }

    fn seek(&mut self, key: &[u8], limit: usize, f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        let range = (Bound::Included(key), Bound::Unbounded);
        visit(self.pairs.range::<&[u8], _>(range).take(limit), f)
    }
}
