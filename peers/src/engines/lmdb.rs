//! LMDB through heed: a B+tree in a memory map, one writer, readers that borrow from the map.
//!
//! Buffered is NO_SYNC with one transaction per write: pages go to the operating system at each
//! commit, so a killed process loses nothing, but a power cut may leave a damaged tree, which is less
//! than the others promise. Sync is LMDB's normal commit.

use super::{Config, Durability, Engine, Reader};
use crate::Result;
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, PutFlags, RoTxn, WithoutTls};
use std::ops::Bound;
use std::path::Path;
use std::time::Duration;

type Pairs = Database<'static, Bytes, Bytes>;

#[derive(Debug)]
pub struct Lmdb {
    env: Env<WithoutTls>,
    pairs: Pairs,
}

/// One read transaction, held for a whole row.
pub struct LmdbReader<'e> {
    lmdb: &'e Lmdb,
    txn: Option<RoTxn<'e, WithoutTls>>,
}

/// Sparse: room for every page to be copied many times over.
fn map_size(config: &Config) -> usize {
    (config.keys * (config.value + 64) * 16)
        .max(16 << 30)
        .next_multiple_of(1 << 30)
}

impl Lmdb {
    fn put_with(&self, flags: PutFlags, key: &[u8], value: &[u8]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        self.pairs.put_with_flags(&mut txn, flags, key, value)?;
        Ok(txn.commit()?)
    }
}

impl Engine for Lmdb {
    type Reader<'a> = LmdbReader<'a>;

    fn open(dir: &Path, config: &Config) -> Result<Lmdb> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_size(config)).max_readers(128);
        if config.durability == Durability::Buffered {
            // SAFETY: the flag gives up order on a power cut, which no row puts to the test.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: the directory is ours alone, on a local file system.
        let env = unsafe { options.open(dir)? };
        let txn = env.write_txn()?;
        let pairs = env
            .create_databases_and_commit(txn, |opener, txn| {
                opener
                    .create_database::<Bytes, Bytes>(txn, None)
                    .map(CommitOrAbort::<_, ()>::Commit)
            })?
            .unwrap_commit();
        Ok(Lmdb { env, pairs })
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_with(PutFlags::empty(), key, value)
    }

    fn put_ascending(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_with(PutFlags::APPEND, key, value)
    }

    fn put_batch<'p>(
        &self,
        pairs: impl ExactSizeIterator<Item = (&'p [u8], &'p [u8])>,
    ) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        for (key, value) in pairs {
            self.pairs.put(&mut txn, key, value)?;
        }
        Ok(txn.commit()?)
    }

    fn read_modify_write<'v>(&self, key: &[u8], f: impl FnMut(&[u8]) -> &'v [u8]) -> Result<bool> {
        let mut txn = self.env.write_txn()?;
        let Some(new) = self.pairs.get(&txn, key)?.map(f) else {
            return Ok(false);
        };
        self.pairs.put(&mut txn, key, new)?;
        txn.commit()?;
        Ok(true)
    }

    fn reader(&self) -> Result<LmdbReader<'_>> {
        Ok(LmdbReader {
            lmdb: self,
            txn: Some(self.env.read_txn()?),
        })
    }

    fn wait_idle(&self) -> Result<Option<Duration>> {
        Ok(None)
    }

    fn compact(&self) -> Result<Option<Duration>> {
        Ok(None)
    }

    fn close(self) -> Result<()> {
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

impl LmdbReader<'_> {
    fn txn(&self) -> Result<&RoTxn<'_, WithoutTls>> {
        self.txn
            .as_ref()
            .ok_or_else(|| "no read transaction".into())
    }
}

impl Reader for LmdbReader<'_> {
    fn get(&mut self, key: &[u8], f: impl FnOnce(&[u8])) -> Result<bool> {
        let value = self.lmdb.pairs.get(self.txn()?, key)?;
        Ok(value.map(f).is_some())
    }

    fn scan(&mut self, mut f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut count = 0;
        for pair in self.lmdb.pairs.iter(self.txn()?)? {
            let (key, value) = pair?;
            f(key, value);
            count += 1;
        }
        Ok(count)
    }

    fn scan_back(&mut self, mut f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut count = 0;
        for pair in self.lmdb.pairs.rev_iter(self.txn()?)? {
            let (key, value) = pair?;
            f(key, value);
            count += 1;
        }
        Ok(count)
    }

    fn seek(&mut self, key: &[u8], limit: usize, mut f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        let range = (Bound::Included(key), Bound::Unbounded);
        let mut count = 0;
        for pair in self.lmdb.pairs.range(self.txn()?, &range)?.take(limit) {
            let (key, value) = pair?;
            f(key, value);
            count += 1;
        }
        Ok(count)
    }

    fn refresh(&mut self) -> Result<()> {
        self.txn = None; // First, so that the new one can take its slot.
        self.txn = Some(self.lmdb.env.read_txn()?);
        Ok(())
    }
}
