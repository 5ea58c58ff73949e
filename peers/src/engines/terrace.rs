//! Terrace, through its public API alone.

use super::{Compression, Config, Durability, Engine, Reader};
use crate::Result;
use ::terrace::{Batch, Cursor, Db, Options};
use std::path::Path;
use std::time::Duration;

#[derive(Debug)]
pub struct Terrace {
    db: Db,
}

impl Engine for Terrace {
    type Reader<'a> = &'a Terrace;

    fn open(dir: &Path, config: &Config) -> Result<Terrace> {
        let durability = match config.durability {
            Durability::Buffered => ::terrace::Durability::Buffered,
            Durability::Sync => ::terrace::Durability::Sync,
        };
        let compression = match config.compression {
            Compression::None => ::terrace::Compression::None,
            Compression::Lz4 => ::terrace::Compression::Lz4,
        };
        let db = Options::new()
            .durability(durability)
            .compression(compression)
            .memory(config.memory)
            .open(dir)?;
        Ok(Terrace { db })
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.put(key, value)?;
        Ok(())
    }

    fn put_batch<'p>(
        &self,
        pairs: impl ExactSizeIterator<Item = (&'p [u8], &'p [u8])>,
    ) -> Result<()> {
        let mut batch = Batch::new();
        for (key, value) in pairs {
            batch.put(key, value);
        }
        self.db.write(batch)?;
        Ok(())
    }

    fn read_modify_write<'v>(
        &self,
        key: &[u8],
        mut f: impl FnMut(&[u8]) -> &'v [u8],
    ) -> Result<bool> {
        let found = self.db.transact(|tx| {
            let Some(new) = tx.get_with(key, &mut f)? else {
                return Ok(false);
            };
            tx.put(key, new)?;
            Ok(true)
        })?;
        Ok(found)
    }

    fn reader(&self) -> Result<&Terrace> {
        Ok(self)
    }

    fn wait_idle(&self) -> Result<Option<Duration>> {
        self.db.wait_idle()?;
        Ok(Some(Duration::ZERO))
    }

    fn compact(&self) -> Result<Option<Duration>> {
        self.db.compact_all()?;
        Ok(Some(Duration::ZERO))
    }

    fn close(self) -> Result<()> {
        Ok(self.db.close()?)
    }
}

/// Shows the entry that the cursor stands on to `f`.
fn show(cursor: &Cursor, f: &mut impl FnMut(&[u8], &[u8])) -> Result<()> {
    f(cursor.key(), cursor.value()?);
    Ok(())
}

impl Reader for &Terrace {
    fn get(&mut self, key: &[u8], f: impl FnOnce(&[u8])) -> Result<bool> {
        Ok(self.db.get_with(key, f)?.is_some())
    }

    fn scan(&mut self, mut f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut cursor = self.db.cursor();
        let mut count = 0;
        let mut on = cursor.first()?;
        while on {
            show(&cursor, &mut f)?;
            count += 1;
            on = cursor.next()?;
        }
        Ok(count)
    }

    fn scan_back(&mut self, mut f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut cursor = self.db.cursor();
        let mut count = 0;
        let mut on = cursor.last()?;
        while on {
            show(&cursor, &mut f)?;
            count += 1;
            on = cursor.prev()?;
        }
        Ok(count)
    }

    fn seek(&mut self, key: &[u8], limit: usize, mut f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut cursor = self.db.cursor();
        let mut count = 0;
        let mut on = limit > 0 && cursor.seek(key)?;
        while on {
            show(&cursor, &mut f)?;
            count += 1;
            on = count < limit && cursor.next()?;
        }
        Ok(count)
    }
}
