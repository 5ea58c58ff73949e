//! What a look-up finds: a value in place, with what keeps it there.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use terrace_base::key::{SeqNo, ValueKind};

use crate::block_cache::CachedBlock;
use crate::sync::Guard;

/// Values up to this length are copied, so that a small value that is kept pins no table.
pub(crate) const COPY_LIMIT: usize = 512;

/// The newest version that a reader may see.
#[derive(Debug)]
pub struct Found<'t> {
    /// When it was written.
    pub seq: SeqNo,
    /// What the write did.
    pub kind: ValueKind,
    /// The value; empty for a tombstone.
    pub value: Value<'t>,
}

impl Found<'_> {
    /// A copy of it that needs the table no longer.
    pub fn into_owned(self) -> Found<'static> {
        let (seq, kind) = (self.seq, self.kind);
        let value = Value::owned(self.value.into_bytes());
        Found { seq, kind, value }
    }
}

/// A block in raw form and what holds it.
pub(crate) enum BlockRef<'t> {
    /// A part of the table's map or image.
    Mapped { table: &'t Bytes, block: &'t [u8] },
    /// In the block cache.
    Cached(Guard<Option<Arc<CachedBlock>>>),
    /// Read for this one purpose.
    Owned(Bytes),
    /// Of no table.
    Borrowed(&'t [u8]),
}

impl BlockRef<'_> {
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            BlockRef::Mapped { block, .. } => block,
            BlockRef::Cached(guard) => guard.as_ref().map_or(&[], |cached| &cached.bytes),
            BlockRef::Owned(bytes) => bytes,
            BlockRef::Borrowed(bytes) => bytes,
        }
    }

    /// The block as a slice that outlives this reference.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            BlockRef::Mapped { table, block } => table.slice_ref(block),
            BlockRef::Cached(guard) => guard
                .as_ref()
                .map_or_else(Bytes::new, |cached| cached.bytes.clone()),
            BlockRef::Owned(bytes) => bytes.clone(),
            BlockRef::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        }
    }
}

/// A value in place.
pub struct Value<'t> {
    block: BlockRef<'t>,
    start: usize,
    len: usize,
}

impl<'t> Value<'t> {
    #[inline]
    pub(crate) fn new(block: BlockRef<'t>, start: usize, len: usize) -> Value<'t> {
        Value { block, start, len }
    }

    /// A value that lies outside of tables.
    #[inline]
    pub fn borrowed(bytes: &'t [u8]) -> Value<'t> {
        Value::new(BlockRef::Borrowed(bytes), 0, bytes.len())
    }

    /// A value made for this one purpose.
    pub fn owned(bytes: Bytes) -> Value<'t> {
        let len = bytes.len();
        Value::new(BlockRef::Owned(bytes), 0, len)
    }

    /// The value without its first `n` bytes.
    pub fn skip(mut self, n: usize) -> Value<'t> {
        let n = n.min(self.len);
        (self.start, self.len) = (self.start + n, self.len - n);
        self
    }

    /// The bytes from `start` to `end` of the value, as far as it has them.
    pub fn within(self, start: usize, end: usize) -> Value<'t> {
        let mut part = self.skip(start);
        part.len = part.len.min(end.saturating_sub(start));
        part
    }

    /// The value as bytes that outlive the table: a copy up to 512 bytes or of memory outside of
    /// tables, else a slice that keeps the table's map or the cached block in memory.
    pub fn into_bytes(self) -> Bytes {
        if self.len <= COPY_LIMIT {
            return Bytes::copy_from_slice(&self);
        }
        match &self.block {
            BlockRef::Mapped { table, .. } => table.slice_ref(&self),
            BlockRef::Borrowed(_) => Bytes::copy_from_slice(&self),
            other => other.to_bytes().slice(self.start..self.start + self.len),
        }
    }
}

impl Deref for Value<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let rest = self.block.bytes().get(self.start..).unwrap_or_default();
        rest.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.escape_ascii())
    }
}
