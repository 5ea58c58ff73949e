//! One small sorted list of entries: a lock-free skiplist over an arena.
//!
//! A node of the skiplist is a [`Node`]: the key's first 16 bytes inline, so that most comparisons
//! touch nothing else, and a pointer to key and value in the list's arena. An insert therefore
//! allocates only the node itself. There is one inserter at a time ([`ListWriter`] is unique) and
//! any number of readers.
//!
//! This file is the only unsafe one of the crate. Its invariants:
//!
//! 1. Arena memory is written before the node that points to it is inserted (no node points to what
//!    was not written, and nothing else reads a chunk), never written again, and freed only with
//!    the [`List`]: chunks are only ever pushed, and a chunk's bytes do not move when the vector of
//!    chunks grows. A [`Chunk`] is a pointer, not a `Box`: moving a box says that no other pointer
//!    to its bytes is in use.
//! 2. A `Node` leaves this file only inside a [`ListCursor`], which holds the `Arc<List>` whose
//!    arena it points into. A probe (a node made to search for) points at the caller's key and
//!    lives only for the call that made it.
#![allow(unsafe_code)]

use std::cmp::Ordering;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::{Bound, Range};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use crossbeam_epoch as epoch;
use crossbeam_skiplist::base::SkipList;
use terrace_base::key::split_trailer;
use terrace_base::{
    DeletedRange, InternalIterator, KeyRef, KeyspaceId, RangeSet, Result, SeqNo, UserKey, ValueKind,
};

use super::bloom::Filter;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{ArcCell, AtomicU64};

/// Bytes of an arena chunk: an eighth of the list, so that the chunk that is begun last is a small
/// part of it.
const CHUNK: Range<usize> = 4 << 10..256 << 10;
/// What a skiplist node costs beside its entry's bytes: the node, its tower of on average two
/// pointers, its reference count, and the allocator's rounding.
const NODE_OVERHEAD: usize = size_of::<Node>() + 48;
/// Entries that a cursor copies out under its first pin after a seek: many look at few entries and
/// seek again.
const FIRST_BATCH: usize = 4;
/// The most that it copies out under one pin.
const BATCH: usize = 64;

/// An entry as the skiplist sees it.
#[derive(Clone, Copy)]
struct Node {
    /// The first 16 bytes of the user key, big-endian, padded with zeroes.
    prefix: [u64; 2],
    keyspace: u32,
    key_len: u32,
    /// Sequence number and kind.
    trailer: u64,
    /// Key, then value.
    bytes: *const u8,
    value_len: u32,
}

// SAFETY: the pointer is to memory that is immutable while reachable (invariants 1 and 2).
unsafe impl Send for Node {}
// SAFETY: as above.
unsafe impl Sync for Node {}

impl Node {
    /// A node for `key`; `bytes` must hold the key and then `value_len` bytes while the node is
    /// used.
    fn new(key: KeyRef<'_>, bytes: *const u8, value_len: u32) -> Node {
        let word = |at: usize| terrace_base::key::head_of(key.user.bytes.get(at..).unwrap_or(&[]));
        Node {
            prefix: [word(0), word(8)],
            keyspace: key.user.keyspace.0,
            key_len: key.user.bytes.len() as u32,
            trailer: key.trailer(),
            bytes,
            value_len,
        }
    }

    /// A node to search for: every entry of `key` that is visible at its sequence number is at or
    /// behind it.
    fn probe(key: KeyRef<'_>) -> Node {
        Node::new(key, key.user.bytes.as_ptr(), 0)
    }

    /// SAFETY: `bytes` must be alive for `'a` (invariant 2).
    unsafe fn key<'a>(&self) -> &'a [u8] {
        // SAFETY: `bytes` starts with the key; the caller vouches for the lifetime.
        unsafe { std::slice::from_raw_parts(self.bytes, self.key_len as usize) }
    }

    /// SAFETY: as for `key`, and the node is not a probe.
    unsafe fn value<'a>(&self) -> &'a [u8] {
        // SAFETY: the value follows the key in one allocation of the arena.
        unsafe {
            std::slice::from_raw_parts(
                self.bytes.add(self.key_len as usize),
                self.value_len as usize,
            )
        }
    }

    fn same_user_key(&self, other: &Node) -> bool {
        self.keyspace == other.keyspace
            && self.key_len == other.key_len
            && self.prefix == other.prefix
            // SAFETY: both are alive where they are compared (invariant 2).
            && (self.key_len <= 16 || unsafe { self.key() == other.key() })
    }
}

impl Node {
    /// The first 16 bytes of the key as one number.
    #[inline]
    fn head(&self) -> u128 {
        u128::from(self.prefix[0]) << 64 | u128::from(self.prefix[1])
    }

    /// The order of two nodes whose heads do not tell it.
    fn cmp_further(&self, other: &Node) -> Ordering {
        (self.keyspace, self.head())
            .cmp(&(other.keyspace, other.head()))
            .then_with(|| {
                if self.key_len <= 16 && other.key_len <= 16 {
                    // Equal prefixes: one key is the other plus zero bytes, and the shorter comes
                    // first.
                    self.key_len.cmp(&other.key_len)
                } else {
                    // SAFETY: both are alive where they are compared (invariant 2).
                    unsafe { self.key().cmp(other.key()) }
                }
            })
            .then_with(|| (other.trailer >> 8).cmp(&(self.trailer >> 8)))
    }
}

impl Ord for Node {
    #[inline]
    fn cmp(&self, other: &Node) -> Ordering {
        let (head, others) = (self.head(), other.head());
        if self.keyspace == other.keyspace && head != others {
            return match head < others {
                true => Ordering::Less,
                false => Ordering::Greater,
            };
        }
        self.cmp_further(other)
    }
}

impl PartialOrd for Node {
    #[inline]
    fn partial_cmp(&self, other: &Node) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Node {}

/// A piece of the arena, freed when this is dropped.
struct Chunk(NonNull<[MaybeUninit<u8>]>);

// SAFETY: it owns its bytes, and frees them wherever it is dropped.
unsafe impl Send for Chunk {}

impl Chunk {
    fn new(size: usize) -> Chunk {
        Chunk(NonNull::from(Box::leak(Box::new_uninit_slice(size))))
    }

    fn start(&self) -> *mut u8 {
        self.0.as_ptr().cast()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from a box in `new`, and nothing else makes it one again.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A sorted list of entries: one inserter, any number of readers.
pub(crate) struct List {
    nodes: SkipList<Node, ()>,
    filter: Filter,
    /// Read only to free them; pushed to once per chunk.
    chunks: Mutex<Vec<Chunk>>,
    entries: AtomicU64,
    /// The range deletes, and how many, so that a get need not look at them where there are none.
    ranges: ArcCell<RangeSet>,
    range_count: AtomicU64,
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "List({} entries)", self.len())
    }
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.entries.load(Acquire) as usize
    }

    /// True if neither an entry nor a range delete was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && !self.has_ranges()
    }

    #[inline]
    pub(crate) fn has_ranges(&self) -> bool {
        self.range_count.load(Acquire) > 0
    }

    /// The range deletes written so far. They must be asked for after the sequence number at which
    /// is read.
    pub(crate) fn ranges(&self) -> Arc<RangeSet> {
        self.ranges.load_full()
    }

    /// The newest version of `key` at or below `at`, if there is one. The value lies in the arena,
    /// which lives as long as the list.
    #[inline]
    pub(crate) fn get(
        &self,
        key: &UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<(SeqNo, ValueKind, &[u8])>> {
        match self.filter.may_contain(hash) {
            true => self.look(key, at),
            false => Ok(None),
        }
    }

    /// Looks up the newest entry of a key at `at`, without asking the filter.
    fn look(&self, key: &UserKey<'_>, at: SeqNo) -> Result<Option<(SeqNo, ValueKind, &[u8])>> {
        let guard = epoch::pin();
        let probe = Node::probe(KeyRef::lookup(*key, at));
        let Some(entry) = self.nodes.lower_bound(Bound::Included(&probe), &guard) else {
            return Ok(None);
        };
        let node = entry.key();
        if !node.same_user_key(&probe) {
            return Ok(None);
        }
        let (seq, kind) = split_trailer(node.trailer)?;
        // SAFETY: the node is in this list, whose arena lives as long as `self`.
        Ok(Some((seq, kind, unsafe { node.value() })))
    }

    /// Memory that it holds, as its writer counts it.
    pub(crate) fn bytes(&self) -> usize {
        let chunks = self
            .chunks
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let chunks: usize = chunks.iter().map(|chunk| chunk.0.len()).sum();
        let ranges = self.ranges().memory() as usize;
        self.filter.bytes() + chunks + ranges + self.len() * NODE_OVERHEAD
    }

    pub(crate) fn cursor(self: &Arc<List>) -> ListCursor {
        ListCursor {
            list: self.clone(),
            batch: Vec::new(),
            at: 0,
        }
    }
}

/// The one inserter of a list.
pub(crate) struct ListWriter {
    list: Arc<List>,
    /// Where the next entry goes, and the end of that chunk.
    next: *mut u8,
    left: usize,
    /// Chunks as allocated, however much of them is in use, nodes, range deletes and the filter.
    bytes: usize,
    /// At how many it is to be sealed.
    most: usize,
    chunk: usize,
}

// SAFETY: `next` points into a chunk owned by `list`, which moves along; nobody else writes there.
unsafe impl Send for ListWriter {}

impl fmt::Debug for ListWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListWriter({} bytes of {:?})", self.bytes, self.list)
    }
}

impl ListWriter {
    /// A new, empty list and its inserter. It is to be sealed once it holds `most` bytes.
    pub(crate) fn new(most: usize) -> ListWriter {
        let filter = Filter::new(most);
        let bytes = filter.bytes();
        let list = List {
            nodes: SkipList::new(epoch::default_collector().clone()),
            filter,
            chunks: Mutex::new(Vec::new()),
            entries: AtomicU64::new(0),
            ranges: ArcCell::new(Arc::default()),
            range_count: AtomicU64::new(0),
        };
        ListWriter {
            list: Arc::new(list),
            next: NonNull::dangling().as_ptr(), // An empty entry takes no bytes of any chunk.
            left: 0,
            bytes,
            most,
            chunk: (most / 8).clamp(CHUNK.start, CHUNK.end),
        }
    }

    pub(crate) fn list(&self) -> &Arc<List> {
        &self.list
    }

    /// Memory that the list holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Inserts an entry. Key and sequence number are new to the list. `guard` comes from [`pin`].
    pub(crate) fn insert(&mut self, key: KeyRef<'_>, hash: u64, value: &[u8], guard: &Pin) {
        let bytes = self.copy_in(key.user.bytes, value);
        let node = Node::new(key, bytes, value.len() as u32);
        self.list.filter.insert(hash);
        self.list
            .nodes
            .get_or_insert(node, (), &guard.0)
            .release(&guard.0);
        let entries = self.list.entries.load(Relaxed) + 1;
        self.list.entries.store(entries, Release);
        self.bytes += NODE_OVERHEAD;
    }

    /// Deletes a range of keys. The sequence number is new to the list.
    pub(crate) fn delete_range(&mut self, range: DeletedRange) {
        let before = self.list.ranges();
        let ranges = before.with(range);
        self.bytes += (ranges.memory() - before.memory()) as usize;
        let count = ranges.len() as u64;
        self.list.ranges.store(Arc::new(ranges));
        self.list.range_count.store(count, Release);
    }

    /// True once it is to be sealed: it has `entries` entries, or holds as much as it may.
    #[inline]
    pub(crate) fn is_full(&self, entries: usize) -> bool {
        self.bytes >= self.most || self.list.len() >= entries
    }

    fn copy_in(&mut self, key: &[u8], value: &[u8]) -> *const u8 {
        let needed = key.len() + value.len();
        if needed > self.left {
            // One that is large does not end the chunk that others fill.
            if needed > self.chunk / 4 {
                let start = self.allocate(needed);
                // SAFETY: `start` is followed by `needed` bytes of a new chunk, which nothing
                // points to yet.
                unsafe { put(start, key, value) };
                return start;
            }
            (self.next, self.left) = (self.allocate(self.chunk), self.chunk);
        }
        let start = self.next;
        // SAFETY: `next` is followed by `left >= needed` bytes of a chunk that only this writer
        // writes to, and that no node points to yet; before the first chunk both are 0, and `next`
        // is dangling, not null.
        unsafe {
            put(start, key, value);
            self.next = start.add(needed);
        }
        self.left -= needed;
        start
    }

    /// Where a new chunk begins.
    #[cold]
    fn allocate(&mut self, size: usize) -> *mut u8 {
        self.bytes += size;
        let chunk = Chunk::new(size);
        let start = chunk.start();
        let mut chunks = self
            .list
            .chunks
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        chunks.push(chunk);
        start
    }
}

/// Writes key and value to `start`.
///
/// SAFETY: `start` is followed by as many bytes, which nothing else reads or writes.
#[inline]
unsafe fn put(start: *mut u8, key: &[u8], value: &[u8]) {
    // SAFETY: as the caller vouches; what is borrowed does not overlap with what is new.
    unsafe {
        std::ptr::copy_nonoverlapping(key.as_ptr(), start, key.len());
        std::ptr::copy_nonoverlapping(value.as_ptr(), start.add(key.len()), value.len());
    }
}

/// Keeps what a reader or the inserter walks over from being freed; one per batch.
pub(crate) struct Pin(epoch::Guard);

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin")
    }
}

/// Pins the skiplists.
pub(crate) fn pin() -> Pin {
    Pin(epoch::pin())
}

/// A position in a list. Forwards it copies out nodes under one pin, 4 and then ever more up to 64
/// at a time; backwards each step is a search, bounded by the list's 16 K entries. Entries inserted
/// meanwhile may be missed: their sequence numbers are above what the reader was promised.
#[derive(Debug)]
pub(crate) struct ListCursor {
    list: Arc<List>,
    batch: Vec<Node>,
    at: usize,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Node({} bytes, trailer {:#x})",
            self.key_len, self.trailer
        )
    }
}

impl ListCursor {
    fn fill(&mut self, from: Bound<&Node>, most: usize) {
        let guard = epoch::pin();
        self.at = 0;
        self.batch.clear();
        let mut entry = self.list.nodes.lower_bound(from, &guard);
        while let Some(here) = entry {
            self.batch.push(*here.key());
            if self.batch.len() == most {
                break;
            }
            entry = here.next();
        }
    }

    fn fill_back(&mut self, to: Bound<&Node>) {
        let guard = epoch::pin();
        self.at = 0;
        self.batch.clear();
        let found = self.list.nodes.upper_bound(to, &guard);
        self.batch.extend(found.map(|entry| *entry.key()));
    }

    #[inline]
    fn node(&self) -> Option<&Node> {
        self.batch.get(self.at)
    }
}

impl InternalIterator for ListCursor {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.fill(Bound::Included(&Node::probe(target)), FIRST_BATCH);
        Ok(())
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.fill_back(Bound::Included(&Node::probe(target)));
        Ok(())
    }

    fn first(&mut self) -> Result<()> {
        self.fill(Bound::Unbounded, FIRST_BATCH);
        Ok(())
    }

    fn last(&mut self) -> Result<()> {
        self.fill_back(Bound::Unbounded);
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.at += 1;
        if self.at >= self.batch.len()
            && let Some(last) = self.batch.last().copied()
        {
            let most = (self.batch.len() * 4).min(BATCH);
            self.fill(Bound::Excluded(&last), most);
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        if self.at > 0 && self.at < self.batch.len() {
            self.at -= 1;
        } else if let Some(here) = self.node().copied() {
            self.fill_back(Bound::Excluded(&here));
        }
        Ok(())
    }

    fn valid(&self) -> bool {
        self.at < self.batch.len()
    }

    fn key(&self) -> KeyRef<'_> {
        match self.node() {
            Some(node) => {
                let (seq, kind) =
                    split_trailer(node.trailer).unwrap_or((SeqNo::ZERO, ValueKind::Tombstone));
                // SAFETY: the node points into the arena of `self.list` (invariant 2).
                let user = UserKey::new(KeyspaceId(node.keyspace), unsafe { node.key() });
                KeyRef::new(user, seq, kind)
            }
            None => KeyRef::new(
                UserKey::new(KeyspaceId(0), &[]),
                SeqNo::ZERO,
                ValueKind::Tombstone,
            ),
        }
    }

    fn value(&self) -> &[u8] {
        // SAFETY: the node points into the arena of `self.list` (invariant 2).
        self.node().map_or(&[], |node| unsafe { node.value() })
    }
}

#[cfg(test)]
#[path = "skiplist_tests.rs"]
mod tests;
