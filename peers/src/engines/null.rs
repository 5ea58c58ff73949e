//! The engine that does nothing: its figures are the cost of the harness.

use super::{Config, Engine, Reader};
use crate::Result;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

#[derive(Debug)]
pub struct Null {
    keys: usize,
    value: Vec<u8>,
}

impl Engine for Null {
    const REAL: bool = false;
    type Reader<'a> = &'a Null;

    fn open(_dir: &Path, config: &Config) -> Result<Null> {
        Ok(Null {
            keys: config.keys,
            value: vec![0; config.value],
        })
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        black_box((key, value));
        Ok(())
    }

    fn put_batch<'p>(
        &self,
        pairs: impl ExactSizeIterator<Item = (&'p [u8], &'p [u8])>,
    ) -> Result<()> {
        for pair in pairs {
            black_box(pair);
        }
        Ok(())
    }

    fn read_modify_write<'v>(
        &self,
        key: &[u8],
        mut f: impl FnMut(&[u8]) -> &'v [u8],
    ) -> Result<bool> {
        black_box((key, f(black_box(&self.value))));
        Ok(true)
    }

    fn reader(&self) -> Result<&Null> {
        Ok(self)
    }

    fn wait_idle(&self) -> Result<Option<Duration>> {
        Ok(None)
    }

    fn compact(&self) -> Result<Option<Duration>> {
        Ok(None)
    }

    fn close(self) -> Result<()> {
        Ok(())
    }
}

impl Reader for &Null {
    fn get(&mut self, key: &[u8], f: impl FnOnce(&[u8])) -> Result<bool> {
        black_box(key);
        f(black_box(&self.value));
        Ok(true)
    }

    fn scan(&mut self, f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        let keys = self.keys;
        self.seek(&[0; 16], keys, f)
    }

    fn scan_back(&mut self, f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        self.scan(f)
    }

    fn seek(&mut self, key: &[u8], limit: usize, mut f: impl FnMut(&[u8], &[u8])) -> Result<usize> {
        for _ in 0..limit {
            f(black_box(key), black_box(&self.value));
        }
        Ok(limit)
    }
}
