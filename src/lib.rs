//! Terrace: an embedded, ordered, durable map from bytes to bytes.
//!
//! An LSM tree: writes go to a checksummed write-ahead log and a skiplist in memory, which is
//! flushed to sorted tables; a background compactor merges those; replaying the log restores the
//! state after a crash.
//!
//! ```
//! # fn main() -> terrace::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! use terrace::{Batch, Db};
//!
//! let db = Db::open(dir.path())?;
//! db.put("apple", "red")?; // survives a power cut once it returns
//!
//! let mut batch = Batch::new(); // all or nothing
//! batch.put("banana", "yellow").delete("apple");
//! db.write(batch)?;
//!
//! let colours = db.keyspace("colours")?; // another map in the same database
//! colours.put("red", "#ff0000")?;
//!
//! let before = db.snapshot();
//! db.put("cherry", "red")?;
//! assert_eq!(before.iter().count(), 1);
//! assert_eq!(db.prefix("ch").next().unwrap()?.0, "cherry");
//! # Ok(()) }
//! ```
//!
//! What it promises:
//!
//! - A write that returned under [`Durability::Sync`], the default, survives a power cut; under
//!   [`Durability::Buffered`] it survives the death of the process.
//! - After any crash the state is that after some prefix of the writes, which holds every
//!   acknowledged durable one; a [`Batch`] is there whole or not at all, across all keyspaces.
//! - Stored bytes that were promised and do not verify are [`ErrorKind::Corruption`] with file and
//!   offset, never a shorter or a wrong answer.
//! - Readers take no lock, never see half a batch, and a [`Snapshot`] always answers the same.
//! - Committed [`Transaction`]s are as if run one after another, unless less is asked for.
//!
//! Errors are one type, [`Error`], whose [`kind`](Error::kind) says what to do about them.

// In the order of their layers: each imports only what stands above it.
mod background;
mod bounds;
mod commit;
mod db;
mod engine;
mod jobs;
mod keyspace;
mod logging;
mod memtable;
mod open;
mod options;
mod read;
mod storage;
mod sync;
mod transaction;
mod typed;
mod write;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod internals;
#[cfg(all(test, terrace_shuttle))]
mod schedule_tests;

pub use bounds::KeyBounds;
pub use bytes::Bytes;
pub use db::Db;
pub use db::atomic::Swap;
pub use db::keyspace::Keyspace;
pub use db::readable::{Entry, Readable};
pub use db::snapshot::Snapshot;
pub use db::stats::{LevelStats, Stats};
pub use db::ticket::Ticket;
pub use jobs::ingest::IngestProgress;
pub use keyspace::state::MAX_KEYSPACE_NAME_LEN;
pub use open::salvage::{Kept, Loss, LossKind, LostKeys, Salvage};
#[cfg(feature = "testing")]
#[doc(hidden)]
pub use options::Tuning;
pub use options::keyspace::KeyspaceOptions;
pub use options::{Compression, Durability, IoMode, Options};
pub use read::iter::{Cursor, Iter, Keys};
pub use terrace_base::key::{MAX_KEY_LEN, MAX_VALUE_LEN};
pub use terrace_base::{Error, ErrorKind, Result, SeqNo};
#[cfg(feature = "testing")]
pub use terrace_base::{clock, vfs};
pub use transaction::{Isolation, Savepoint, Transaction, TxKeyspace};
#[cfg(feature = "json")]
pub use typed::Json;
pub use typed::{AsKey, AsValue, Key, Place, Typed, TypedBounds, TypedIter, Value};
pub use write::batch::{Batch, BatchKeyspace, MAX_BATCH_LEN};
pub use write::expiry::Expiry;
