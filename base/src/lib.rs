//! The bottom layer of terrace: what every other part needs and nothing that it decides.
//!
//! An internal part of the `terrace` crate: its API changes without notice.
//!
//! - [`key`]: user keys, sequence numbers, value kinds and *the* order of entries
//! - [`coding`], [`checksum`], [`hash`]: how numbers, checksums and hashes look on disk
//! - [`error`]: the one error type, and [`filename`]: the names of the files of a database
//! - [`iterator`] and [`merging`]: the seam between sources of entries and those who read them
//! - [`persistent`]: a sorted map whose copies share what they have in common
//! - [`vfs`] and [`clock`]: the only ways to the file system and to time
//! - [`mutant`](mod@mutant): deliberate bugs, for testing the tests
#![deny(unsafe_code)]

pub mod checksum;
pub mod clock;
pub mod coding;
pub mod error;
pub mod filename;
pub mod hash;
pub mod iterator;
pub mod key;
pub mod merging;
pub mod mutant;
pub mod persistent;
pub mod prefetch;
pub mod range_set;
pub mod vfs;

pub use clock::{Clock, ManualClock, SystemClock};
pub use coding::Decoder;
pub use error::{Error, ErrorKind, Result};
pub use filename::{FileKind, FileNumber};
pub use iterator::InternalIterator;
pub use key::{KeyRef, KeyspaceId, OwnedKey, OwnedUserKey, SeqNo, UserKey, ValueKind};
pub use merging::MergingIterator;
pub use mutant::mutant;
pub use persistent::PersistentMap;
pub use range_set::{DeletedRange, RangeSet};
