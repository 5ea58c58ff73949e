//! Iterators and cursors as callers see them.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use bytes::Bytes;
use terrace_base::{Error, KeyspaceId, RangeSet, Result, mutant};

use crate::bounds::OwnedBounds;
use crate::logging::damage;
use crate::memtable::tx_buffer::Own;
use crate::read::context::{Context, ReadPoint};
use crate::read::db_iter::Walk;
use crate::read::read_set::ReadSet;
use crate::read::view::View;
use crate::sync::Mutex;

/// What an iterator or a cursor reads from. It pins a view and keeps no database open.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    pub(crate) view: Arc<View>,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) at: ReadPoint,
    pub(crate) context: Arc<Context>,
    pub(crate) bounds: OwnedBounds,
    /// Of a transaction.
    pub(crate) overlay: Option<Overlay>,
}

/// How a transaction reads: with its own writes on top, and with what it reads noted.
#[derive(Clone, Debug)]
pub(crate) struct Overlay {
    pub(crate) own: Option<Arc<Own>>,
    /// What it has deleted by range.
    pub(crate) ranges: Arc<RangeSet>,
    pub(crate) reads: Option<Arc<Mutex<ReadSet>>>,
}

impl Overlay {
    /// True if the transaction has changed nothing that the walk could see.
    pub(crate) fn is_empty(&self) -> bool {
        self.own.is_none() && self.ranges.is_empty()
    }
}

impl Scan {
    fn walk(&self) -> Walk {
        Walk::new(self)
    }
}

/// Entries of a range in key order, from both ends, as of the moment when it was made.
///
/// Yields an error once and then `None`. Keys and values of up to 512 bytes are copies; larger ones
/// are slices that keep their table's file mapped, or their decoded block in memory, for as long as
/// they live. An iterator pins what it reads: drop it when done, or its files stay on disk. It
/// outlives its database's `close`.
pub struct Iter {
    scan: Option<Scan>,
    error: Option<Error>,
    front: Option<Walk>,
    back: Option<Walk>,
    /// The last keys given out at either end.
    front_key: Option<Bytes>,
    back_key: Option<Bytes>,
}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter")
            .field("done", &self.scan.is_none())
            .finish_non_exhaustive()
    }
}

impl Iter {
    pub(crate) fn new(scan: Result<Scan>) -> Iter {
        let (scan, error) = match scan {
            Ok(scan) => (Some(scan), None),
            Err(error) => (None, Some(error)),
        };
        Iter {
            scan,
            error,
            front: None,
            back: None,
            front_key: None,
            back_key: None,
        }
    }

    /// Only the keys.
    pub fn keys(self) -> Keys {
        Keys(self)
    }

    fn end(&mut self) {
        (self.scan, self.front, self.back) = (None, None, None);
    }

    /// Moves the front to its next entry; false at the end.
    fn advance(&mut self) -> Result<bool> {
        let Some(scan) = &self.scan else {
            return Ok(false);
        };
        match &mut self.front {
            Some(walk) => walk.next()?,
            none => none.insert(scan.walk()).first()?,
        }
        let Some(walk) = &self.front else {
            return Ok(false);
        };
        if !walk.valid()
            || self
                .back_key
                .as_ref()
                .is_some_and(|key| walk.key() >= key.as_ref())
        {
            self.end();
            return Ok(false);
        }
        if self.back.is_some() {
            self.front_key = Some(walk.key_bytes());
        }
        Ok(true)
    }

    /// Moves the back to its next entry; false at the end.
    fn advance_back(&mut self) -> Result<bool> {
        let Some(scan) = &self.scan else {
            return Ok(false);
        };
        match &mut self.back {
            Some(walk) => walk.prev()?,
            none => {
                self.front_key = self
                    .front
                    .as_ref()
                    .filter(|w| w.valid())
                    .map(Walk::key_bytes);
                none.insert(scan.walk()).last()?;
            }
        }
        let Some(walk) = &self.back else {
            return Ok(false);
        };
        if !walk.valid()
            || self
                .front_key
                .as_ref()
                .is_some_and(|key| walk.key() <= key.as_ref())
        {
            self.end();
            return Ok(false);
        }
        self.back_key = Some(walk.key_bytes());
        Ok(true)
    }

    fn step<T>(
        &mut self,
        advance: fn(&mut Iter) -> Result<bool>,
        item: impl FnOnce(&Iter) -> Result<T>,
    ) -> Option<Result<T>> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        let next = match advance(self) {
            Ok(true) => item(self),
            Ok(false) => return None,
            Err(error) => Err(error),
        };
        if let Err(error) = &next {
            damage(error);
            match mutant("iterate-past-error") {
                true => (self.front, self.back) = (None, None),
                false => self.end(),
            }
        }
        Some(next)
    }
}

fn entry(walk: Option<&Walk>) -> Result<(Bytes, Bytes)> {
    match walk {
        Some(walk) => Ok((walk.key_bytes(), walk.value_bytes()?)),
        None => Ok(Default::default()),
    }
}

fn key(walk: Option<&Walk>) -> Result<Bytes> {
    Ok(walk.map_or_else(Bytes::new, Walk::key_bytes))
}

impl Iterator for Iter {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Result<(Bytes, Bytes)>> {
        self.step(Iter::advance, |iter| entry(iter.front.as_ref()))
    }

    fn count(mut self) -> usize {
        let mut count = 0;
        while self.step(Iter::advance, |_| Ok(())).is_some() {
            count += 1;
        }
        count
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Result<(Bytes, Bytes)>> {
        self.step(Iter::advance_back, |iter| entry(iter.back.as_ref()))
    }
}

impl FusedIterator for Iter {}

/// The keys of an [`Iter`].
#[derive(Debug)]
pub struct Keys(Iter);

impl Iterator for Keys {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        self.0.step(Iter::advance, |iter| key(iter.front.as_ref()))
    }
}

impl DoubleEndedIterator for Keys {
    fn next_back(&mut self) -> Option<Result<Bytes>> {
        self.0
            .step(Iter::advance_back, |iter| key(iter.back.as_ref()))
    }
}

impl FusedIterator for Keys {}

/// A position among the entries of a keyspace, as of the moment when it was made, that can be moved
/// both ways and lends out key and value without copying.
///
/// A move answers whether the cursor is on an entry. After an error every move answers that error
/// again, until the next seek.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// let db = terrace::Db::in_memory()?;
/// db.put("a", "1")?;
/// db.put("c", "3")?;
/// let mut cursor = db.cursor();
/// assert!(cursor.seek("b")?);
/// assert_eq!((cursor.key(), cursor.value()?), (&b"c"[..], &b"3"[..]));
/// assert!(cursor.prev()?);
/// assert_eq!(cursor.key(), b"a");
/// assert!(!cursor.prev()?);
/// # Ok(()) }
/// ```
pub struct Cursor {
    walk: Result<Walk>,
    error: Option<Error>,
    /// What it walks over, whole: by this the database knows at its close what is still being read.
    _pinned: Option<Arc<View>>,
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("valid", &self.valid())
            .finish_non_exhaustive()
    }
}

impl Cursor {
    pub(crate) fn new(scan: Result<Scan>) -> Cursor {
        match scan {
            Ok(scan) => Cursor {
                walk: Ok(scan.walk()),
                error: None,
                _pinned: Some(scan.view),
            },
            Err(error) => Cursor {
                walk: Err(error),
                error: None,
                _pinned: None,
            },
        }
    }

    #[inline]
    fn go(&mut self, go: impl FnOnce(&mut Walk) -> Result<()>) -> Result<bool> {
        match &mut self.walk {
            Ok(walk) => match go(walk) {
                Ok(()) => Ok(walk.valid()),
                Err(error) => {
                    damage(&error);
                    self.error = Some(error.clone());
                    Err(error)
                }
            },
            Err(error) => Err(error.clone()),
        }
    }

    #[inline]
    fn step(&mut self, go: impl FnOnce(&mut Walk) -> Result<()>) -> Result<bool> {
        match &self.error {
            None => self.go(go),
            Some(error) => Err(error.clone()),
        }
    }

    fn place(&mut self, go: impl FnOnce(&mut Walk) -> Result<()>) -> Result<bool> {
        self.error = None;
        self.go(go)
    }

    /// Moves to the first entry at or behind `key`.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.place(|walk| walk.seek(key.as_ref()))
    }

    /// Moves to the last entry at or before `key`.
    pub fn seek_for_prev(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.place(|walk| walk.seek_for_prev(key.as_ref()))
    }

    /// Moves to the first entry.
    pub fn first(&mut self) -> Result<bool> {
        self.place(Walk::first)
    }

    /// Moves to the last entry.
    pub fn last(&mut self) -> Result<bool> {
        self.place(Walk::last)
    }

    /// Moves to the next entry; stays off if on none.
    #[inline]
    #[allow(clippy::should_implement_trait)] // It lends; an `Iterator` cannot.
    pub fn next(&mut self) -> Result<bool> {
        self.step(Walk::next)
    }

    /// Moves to the entry before; stays off if on none.
    #[inline]
    pub fn prev(&mut self) -> Result<bool> {
        self.step(Walk::prev)
    }

    /// True while on an entry.
    #[inline]
    pub fn valid(&self) -> bool {
        self.error.is_none() && self.walk.as_ref().is_ok_and(Walk::valid)
    }

    /// The key of the entry, empty where there is none.
    #[inline]
    pub fn key(&self) -> &[u8] {
        match &self.walk {
            Ok(walk) if self.error.is_none() => walk.key(),
            _ => &[],
        }
    }

    /// The value of the entry, empty where there is none.
    ///
    /// # Errors
    /// Those of reading a value that does not lie beside its key.
    #[inline]
    pub fn value(&self) -> Result<&[u8]> {
        match &self.walk {
            Ok(walk) if self.error.is_none() => walk.value(),
            _ => Ok(&[]),
        }
    }
}
