//! The iterator interface of every sorted source of entries

use bytes::Bytes;

use crate::error::Result;
use crate::key::KeyRef;

/// A position in a sequence of entries that rises strictly in the order of [`KeyRef`].
///
/// A new iterator is not valid until it is positioned. A move that fails leaves it invalid; the
/// error is returned once by that move, and the next seek starts afresh. Moving an invalid iterator
/// is allowed and leaves it invalid.
pub trait InternalIterator {
    /// Moves to the first entry at or after `target`.
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()>;
    /// Moves to the last entry at or before `target`.
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()>;
    /// Moves to the first entry.
    fn first(&mut self) -> Result<()>;
    /// Moves to the last entry.
    fn last(&mut self) -> Result<()>;
    /// Moves to the next entry.
    fn next(&mut self) -> Result<()>;
    /// Moves to the entry before.
    fn prev(&mut self) -> Result<()>;
    /// True when on an entry.
    fn valid(&self) -> bool;
    /// The key of the entry. Meaningful only while valid; else an empty key.
    fn key(&self) -> KeyRef<'_>;
    /// The value of the entry, empty for a tombstone or while not valid.
    fn value(&self) -> &[u8];
    /// The user key as a slice that outlives the iterator, without copying where the source allows.
    fn key_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.key().user.bytes)
    }
    /// The value as a slice that outlives the iterator, without copying where the source allows.
    fn value_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.value())
    }
}
