//! One immutable sorted file, the SSTable.
//!
//! An internal part of the `terrace` crate: its API changes without notice.
//!
//! ```text
//! +---------+---------+-----+---------+--------+-------------+------------+--------+
//! | block 0 | block 1 | ... | block n | fences | point index | properties | footer |
//! +---------+---------+-----+---------+--------+-------------+------------+--------+
//! 0         each 8-aligned            each section ends 64-aligned                 size
//! ```
//!
//! - a **block** (`block`) holds the entries of one stretch of keys, raw or compressed;
//! - **fences** (`fence`) name the first user key of each block: ordered search starts there;
//! - the **point index** (`point_index`) maps the hash of a user key to its newest version: a read
//!   of one key looks at one cache line of it and then at the record, or at nothing else when the
//!   key is absent; a table that can have none has a **filter** (`filter`) in its place;
//! - **properties** (`properties`) hold the counts and bounds, and the **footer** (`format`) says
//!   where everything is.
//!
//! [`TableWriter`] writes a table front to back into a [`Sink`]; [`Table`] reads one through a
//! memory map, through `pread` and the [`BlockCache`], or from memory; [`TableIter`] walks over it.
//! Every byte of a file is covered by a checksum that also knows the file and the place.
#![forbid(unsafe_code)]

mod blob;
mod block;
mod block_cache;
mod fence;
mod filter;
mod format;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod internals;
mod iterator;
mod open;
mod options;
mod paged_index;
mod point_index;
mod properties;
mod reader;
mod salvage;
mod sink;
mod stretch;
mod sync;
mod value;
mod verify;
mod writer;

pub use blob::{BLOB_HEADER_LEN, BlobHead, BlobReader, BlobRef, BlobWriter, blob_header, blob_id};
pub use block_cache::BlockCache;
pub use iterator::TableIter;
pub use open::stated_id;
pub use options::{Compression, IoMode};
pub use properties::{Expiries, TableInfo, decode_blobs, encode_blobs};
pub use reader::Table;
pub use salvage::{Identity, LostStretch, Salvaged, identify, salvage};
pub use sink::{FileSink, Sink};
pub use stretch::Stretch;
pub use value::{Found, Value};
pub use writer::{TableWriter, WriterOptions};

#[cfg(all(test, terrace_shuttle))]
mod schedule_tests;
#[cfg(test)]
mod testing;
