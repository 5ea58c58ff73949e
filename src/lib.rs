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

mod approximate;
mod assemble;
mod atomic;
mod background;
mod basis;
mod batch;
mod blob;
mod bounds;
mod check;
mod checkpoint;
mod claims;
mod commit;
mod compact;
mod condition;
mod context;
mod db;
mod deleted;
mod ends;
mod engine;
mod events;
mod expiry;
mod few;
mod files;
mod flush;
mod get;
mod idle;
mod ingest;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod internals;
mod iter;
mod keyspace;
mod keyspace_changes;
mod keyspace_options;
mod lent;
mod log_size;
mod manifest;
mod memtable;
mod new_tables;
mod operations;
mod options;
#[cfg(feature = "serde")]
mod options_serde;
mod pacer;
mod policy;
mod readable;
mod rebuild;
mod reclaim;
mod recovery;
mod replay;
mod salvage;
mod segments;
#[cfg(all(test, terrace_shuttle))]
mod shuttle_tests;
mod snapshot;
mod snapshot_list;
mod space;
mod spill;
mod stats;
mod stretches;
mod sync;
mod ticket;
mod tidy;
mod transaction;
mod typed;
mod undeleted;
mod version_set;
mod view;
mod walk;
mod workers;
mod write;

pub use bytes::Bytes;
pub use terrace_base::key::{MAX_KEY_LEN, MAX_VALUE_LEN};
pub use terrace_base::{Error, ErrorKind, Result, SeqNo};

#[cfg(feature = "testing")]
#[doc(hidden)]
pub use options::Tuning;
#[cfg(feature = "testing")]
pub use terrace_base::{clock, vfs};

pub use atomic::Swap;
pub use batch::{Batch, BatchKeyspace, MAX_BATCH_LEN};
pub use bounds::KeyBounds;
pub use db::Db;
pub use expiry::Expiry;
pub use ingest::IngestProgress;
pub use iter::{Cursor, Iter, Keys};
pub use keyspace::{Keyspace, MAX_KEYSPACE_NAME_LEN};
pub use keyspace_options::KeyspaceOptions;
pub use options::{Compression, Durability, IoMode, Options};
pub use readable::{Entry, Readable};
pub use salvage::{Kept, Loss, LossKind, LostKeys, Salvage};
pub use snapshot::Snapshot;
pub use stats::{LevelStats, Stats};
pub use ticket::Ticket;
pub use transaction::{Isolation, Savepoint, Transaction, TxKeyspace};
#[cfg(feature = "json")]
pub use typed::Json;
pub use typed::{AsKey, AsValue, Key, Place, Typed, TypedBounds, TypedIter, Value};
