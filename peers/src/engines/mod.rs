//! What an engine must be able to do to take part.
//!
//! The traits are generic on purpose: the measured loops are compiled once for each engine and call
//! it directly. An adapter uses what the engine's own documents recommend, and of two ways the one
//! that is better for that engine.

use crate::Result;
use crate::measure;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

#[cfg(feature = "fjall")]
pub mod fjall;
#[cfg(feature = "lmdb")]
pub mod lmdb;
pub mod null;
#[cfg(feature = "terrace")]
pub mod terrace;

/// Every engine of this build, in the order of the tables.
pub const NAMES: &[&str] = &[
    "null",
    #[cfg(feature = "terrace")]
    "terrace",
    #[cfg(feature = "fjall")]
    "fjall",
    #[cfg(feature = "lmdb")]
    "lmdb",
];

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It survives kill -9 of the process.
    Buffered,
    /// It survives a power cut.
    Sync,
}

/// Compression of table blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None anywhere.
    None,
    /// LZ4 in the levels where the engine puts it by default.
    Lz4,
}

/// What background work is waited for before the settled reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Settle {
    /// Terrace to the state that it comes to by itself; each peer to the one in which it reads best.
    Peers,
    /// All to the state that they come to by themselves.
    Idle,
    /// A full compaction of all.
    Full,
}

/// How to open an engine.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub durability: Durability,
    pub compression: Compression,
    /// Bytes for write buffers and caches together.
    pub memory: u64,
    /// How many keys there will be, and the bytes of a value: for map sizes, and for the null engine.
    pub keys: usize,
    pub value: usize,
}

/// An ordered map on disk.
pub trait Engine: Sized + Send + Sync {
    /// False for the engine that only measures the harness: its answers are not checked.
    const REAL: bool = true;

    /// What a reading thread holds for the length of a row.
    type Reader<'a>: Reader
    where
        Self: 'a;

    /// Opens or creates the database in `dir`, which exists.
    fn open(dir: &Path, config: &Config) -> Result<Self>;

    /// Writes one pair, done as the durability says.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;

    /// The same for a key above all others, for engines that want to know.
    fn put_ascending(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put(key, value)
    }

    /// Writes all pairs as one atomic unit.
    fn put_batch<'p>(
        &self,
        pairs: impl ExactSizeIterator<Item = (&'p [u8], &'p [u8])>,
    ) -> Result<()>;

    /// In one transaction, serializable and done as the durability says: puts what `f` makes of the value, if there is
    /// one, and says whether there was. As often as it takes to go through.
    fn read_modify_write<'v>(&self, key: &[u8], f: impl FnMut(&[u8]) -> &'v [u8]) -> Result<bool>;

    /// Begins to read.
    fn reader(&self) -> Result<Self::Reader<'_>>;

    /// Waits until the engine has come to rest by itself: memtables are tables, and nothing is due.
    /// Returns how much of
    /// the wait was only spent to see that; none where nothing ever runs in the background.
    fn wait_idle(&self) -> Result<Option<Duration>>;

    /// Compacts everything, with the same result; none where there is nothing to compact.
    fn compact(&self) -> Result<Option<Duration>>;

    /// Whether `Settle::Peers` compacts this engine.
    const COMPACT_TO_READ: bool = false;

    /// Bytes that the database takes in `dir`, at rest.
    fn disk_bytes(&self, dir: &Path) -> Result<u64> {
        measure::disk_bytes(dir)
    }

    /// Closes the database as a careful user would.
    fn close(self) -> Result<()>;
}

/// A reading thread's side of an engine. Callbacks borrow what the engine lends.
pub trait Reader {
    /// Shows the value to `f` if there is one, and says whether there was.
    fn get(&mut self, key: &[u8], f: impl FnOnce(&[u8])) -> Result<bool>;

    /// Visits all pairs in ascending order and counts them.
    fn scan(&mut self, f: impl FnMut(&[u8], &[u8])) -> Result<usize>;

    /// Visits all pairs in descending order and counts them.
    fn scan_back(&mut self, f: impl FnMut(&[u8], &[u8])) -> Result<usize>;

    /// Visits up to `limit` pairs from the first key not below `key`, with a new iterator.
    fn seek(&mut self, key: &[u8], limit: usize, f: impl FnMut(&[u8], &[u8])) -> Result<usize>;

    /// Lets the reader see newer writes, where it does not by itself.
    fn refresh(&mut self) -> Result<()> {
        Ok(())
    }
}
