//! The reads that a keyspace, a snapshot and a transaction have in common.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use terrace_base::{Error, Result, SeqNo, UserKey, mutant};

use crate::bounds::{KeyBounds, OwnedBounds};
use crate::db::keyspace::Keyspace;
use crate::db::snapshot::Snapshot;
use crate::engine::Engine;
use crate::keyspace::state::KeyspaceState;
use crate::logging::damage;
use crate::read::blob::Want;
use crate::read::context::ReadPoint;
use crate::read::get::Live;
use crate::read::iter::{Cursor, Iter, Scan};

/// A value with the sequence number that wrote it.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The sequence number of the write that set it: the key's version. What a transaction has
    /// written itself has [`SeqNo::MAX`] until it is committed.
    pub version: SeqNo,
    /// From when on the key is absent, if it was written with an expiry.
    pub expires_at: Option<SystemTime>,
}

/// Where to read: the present, or a snapshot's moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) keyspace: &'a KeyspaceState,
    pub(crate) at: Option<ReadPoint>,
    pub(crate) wrong: Option<&'a Error>,
}

impl Reader<'_> {
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.engine.check_open()?;
        if mutant("lock-to-read") {
            self.engine.committer.end();
        }
        if mutant("reads-end-with-log") {
            self.engine.check_writable()?;
        }
        if let Some(wrong) = self.wrong {
            return Err(wrong.clone());
        }
        match self.at {
            None => self.keyspace.check_alive(),
            Some(at) => self.keyspace.check_alive_at(at.seq),
        }
    }

    /// Where to read; asked after the view is loaded.
    #[inline]
    fn at(&self) -> ReadPoint {
        self.at
            .unwrap_or_else(|| ReadPoint::newest(self.engine.committer.visible()))
    }

    /// The view comes first and the sequence number second: see [`crate::read::view`].
    #[inline]
    pub(crate) fn read<R>(
        &self,
        key: &[u8],
        want: Want,
        found: impl FnOnce(Live<'_>) -> R,
    ) -> Result<Option<R>> {
        self.check()?;
        let view = self.engine.views.cell.load();
        let key = UserKey::new(self.keyspace.id, key);
        view.get(&key, &self.at(), &self.engine.context, want, found)
            .inspect_err(damage)
    }

    pub(crate) fn scan(&self, bounds: OwnedBounds) -> Result<Scan> {
        self.check()?;
        if self.at.is_none() && self.engine.context.stretches.is_waiting() {
            self.engine.committer.watch_stretches();
        }
        let view = self.engine.views.cell.load_full();
        Ok(Scan {
            view,
            keyspace: self.keyspace.id,
            at: self.at(),
            context: self.engine.context.clone(),
            bounds,
            overlay: None,
        })
    }

    fn multi_get(&self, keys: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<Vec<Option<Bytes>>> {
        self.check()?;
        let early = mutant("view-after-visible").then(|| self.at());
        let view = self.engine.views.cell.load_full();
        let mut at = early.unwrap_or_else(|| self.at());
        at.now.get_or_insert_with(|| self.engine.context.now());
        keys.into_iter()
            .map(|key| {
                let key = UserKey::new(self.keyspace.id, key.as_ref());
                let owned = |live: Live<'_>| live.value.into_bytes();
                view.get(&key, &at, &self.engine.context, Want::Whole, owned)
                    .inspect_err(damage)
            })
            .collect()
    }

    fn count(&self, bounds: OwnedBounds) -> Result<u64> {
        count(self.scan(bounds))
    }
}

/// How many entries a scan has.
pub(crate) fn count(scan: Result<Scan>) -> Result<u64> {
    let mut cursor = Cursor::new(scan);
    let mut count = 0;
    let mut on = cursor.first()?;
    while on {
        count += 1;
        on = cursor.next()?;
    }
    Ok(count)
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// What can be read of a [`Keyspace`] (and so of a [`Db`](crate::Db)), of a [`Snapshot`] and of a
/// [`Transaction`](crate::Transaction), for code that takes any of them. The same methods stand on
/// the types themselves.
pub trait Readable: sealed::Sealed {
    /// The value of `key`. Values of up to 512 bytes are copies; a larger one is a slice that keeps
    /// its table's file mapped, or its decoded block in memory, for as long as it lives. A value
    /// from the keyspace's blob threshold on (4 KiB by default) lies in a blob file: it is read and
    /// verified as a whole, into memory of its own.
    ///
    /// # Errors
    /// `NotFound` if the keyspace was dropped, `Corruption` or `Io` if a table that may hold the
    /// key cannot be read, `Closed` after `close`.
    fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>>;
    /// What `f` makes of the value of `key`, without copying it. `f` runs under no lock and may use
    /// the database.
    ///
    /// # Errors
    /// As for `get`.
    fn get_with<R>(&self, key: impl AsRef<[u8]>, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>>;
    /// The value of `key` and its version.
    ///
    /// # Errors
    /// As for `get`.
    fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>>;
    /// The bytes `part` of the value of `key`, as far as it has them: of a value in a blob file no
    /// more is read than the 32 KiB pieces that hold them, which are verified.
    ///
    /// # Errors
    /// As for `get`.
    fn get_slice(&self, key: impl AsRef<[u8]>, part: Range<u64>) -> Result<Option<Bytes>>;
    /// The values of `keys`, in their order, all as of one moment.
    ///
    /// # Errors
    /// As for `get`.
    fn multi_get(&self, keys: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<Vec<Option<Bytes>>>;
    /// True if `key` has a value.
    ///
    /// # Errors
    /// As for `get`.
    fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool>;
    /// True if no key has a value.
    ///
    /// # Errors
    /// As for `get`.
    fn is_empty(&self) -> Result<bool>;
    /// The first key and its value.
    ///
    /// # Errors
    /// As for `get`.
    fn first(&self) -> Result<Option<(Bytes, Bytes)>>;
    /// The last key and its value.
    ///
    /// # Errors
    /// As for `get`.
    fn last(&self) -> Result<Option<(Bytes, Bytes)>>;
    /// All entries in key order.
    fn iter(&self) -> Iter;
    /// The entries of a range in key order; an inverted range has none.
    fn range(&self, range: impl KeyBounds) -> Iter;
    /// The entries whose keys start with `prefix`, in key order.
    fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter;
    /// How many entries a range has. It walks over them.
    ///
    /// # Errors
    /// As for `get`.
    fn count(&self, range: impl KeyBounds) -> Result<u64>;
    /// A cursor over all entries, on none of them yet.
    fn cursor(&self) -> Cursor;
}

macro_rules! readable {
    ($type:ty) => {
        impl $type {
            /// The value of `key`. Values of up to 512 bytes are copies; a larger one is a slice
            /// that keeps its table's file mapped, or its decoded block in memory, for as long as
            /// it lives.
            ///
            /// # Errors
            /// `NotFound` if the keyspace was dropped, `Corruption` or `Io` if a table that may
            /// hold the key cannot be read, `Closed` after `close`.
            #[inline]
            pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
                self.reader()
                    .read(key.as_ref(), $crate::read::blob::Want::Whole, |live| {
                        live.value.into_bytes()
                    })
            }
            /// What `f` makes of the value of `key`, without copying it. `f` runs under no lock and
            /// may use the database.
            ///
            /// # Errors
            /// As for `get`.
            #[inline]
            pub fn get_with<R>(
                &self,
                key: impl AsRef<[u8]>,
                f: impl FnOnce(&[u8]) -> R,
            ) -> Result<Option<R>> {
                self.reader()
                    .read(key.as_ref(), $crate::read::blob::Want::Whole, |live| {
                        f(&live.value)
                    })
            }
            /// The value of `key` and its version.
            ///
            /// # Errors
            /// As for `get`.
            pub fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
                self.reader()
                    .read(key.as_ref(), $crate::read::blob::Want::Whole, |live| {
                        Entry {
                            version: live.seq,
                            expires_at: live.expires.map(crate::read::context::time_of),
                            value: live.value.into_bytes(),
                        }
                    })
            }
            /// The bytes `part` of the value of `key`, as far as it has them: of a value in a blob
            /// file no more is read than the 32 KiB pieces that hold them, which are verified.
            ///
            /// ```
            /// # fn main() -> terrace::Result<()> {
            /// let db = terrace::Db::in_memory()?;
            /// db.put("film", vec![7; 1 << 20])?;
            /// assert_eq!(db.get_slice("film", 1_000_000..1_000_010)?.unwrap(), vec![7; 10]);
            /// assert_eq!(db.get_slice("film", 1_048_575..u64::MAX)?.unwrap(), vec![7; 1]);
            /// assert_eq!(db.get_slice("other", 0..10)?, None);
            /// # Ok(()) }
            /// ```
            ///
            /// # Errors
            /// As for `get`.
            pub fn get_slice(
                &self,
                key: impl AsRef<[u8]>,
                part: Range<u64>,
            ) -> Result<Option<Bytes>> {
                let (start, end) = (part.start, part.end);
                self.reader().read(
                    key.as_ref(),
                    $crate::read::blob::Want::Part(start, end),
                    |live| live.part(start, end),
                )
            }
            /// The values of `keys`, in their order, all as of one moment.
            ///
            /// # Errors
            /// As for `get`.
            pub fn multi_get(
                &self,
                keys: impl IntoIterator<Item: AsRef<[u8]>>,
            ) -> Result<Vec<Option<Bytes>>> {
                self.reader().multi_get(keys)
            }
            /// True if `key` has a value.
            ///
            /// # Errors
            /// As for `get`.
            pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
                let found =
                    self.reader()
                        .read(key.as_ref(), $crate::read::blob::Want::Nothing, |_| ())?;
                Ok(found.is_some())
            }
            /// True if no key has a value.
            ///
            /// # Errors
            /// As for `get`.
            pub fn is_empty(&self) -> Result<bool> {
                Ok(!self.cursor().first()?)
            }
            /// The first key and its value.
            ///
            /// # Errors
            /// As for `get`.
            pub fn first(&self) -> Result<Option<(Bytes, Bytes)>> {
                self.iter().next().transpose()
            }
            /// The last key and its value.
            ///
            /// # Errors
            /// As for `get`.
            pub fn last(&self) -> Result<Option<(Bytes, Bytes)>> {
                self.iter().next_back().transpose()
            }
            /// All entries in key order.
            pub fn iter(&self) -> Iter {
                Iter::new(self.reader().scan(OwnedBounds::all()))
            }
            /// The entries of a range in key order; an inverted range has none.
            pub fn range(&self, range: impl KeyBounds) -> Iter {
                Iter::new(self.reader().scan(OwnedBounds::new(&range)))
            }
            /// The entries whose keys start with `prefix`, in key order.
            pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter {
                Iter::new(self.reader().scan(OwnedBounds::prefix(prefix.as_ref())))
            }
            /// How many entries a range has. It walks over them.
            ///
            /// # Errors
            /// As for `get`.
            pub fn count(&self, range: impl KeyBounds) -> Result<u64> {
                self.reader().count(OwnedBounds::new(&range))
            }
            /// A cursor over all entries, on none of them yet.
            pub fn cursor(&self) -> Cursor {
                Cursor::new(self.reader().scan(OwnedBounds::all()))
            }
        }

        impl $crate::db::readable::sealed::Sealed for $type {}

        impl $crate::db::readable::Readable for $type {
            fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
                <$type>::get(self, key)
            }
            fn get_with<R>(
                &self,
                key: impl AsRef<[u8]>,
                f: impl FnOnce(&[u8]) -> R,
            ) -> Result<Option<R>> {
                <$type>::get_with(self, key, f)
            }
            fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
                <$type>::get_entry(self, key)
            }
            fn get_slice(&self, key: impl AsRef<[u8]>, part: Range<u64>) -> Result<Option<Bytes>> {
                <$type>::get_slice(self, key, part)
            }
            fn multi_get(
                &self,
                keys: impl IntoIterator<Item: AsRef<[u8]>>,
            ) -> Result<Vec<Option<Bytes>>> {
                <$type>::multi_get(self, keys)
            }
            fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
                <$type>::contains_key(self, key)
            }
            fn is_empty(&self) -> Result<bool> {
                <$type>::is_empty(self)
            }
            fn first(&self) -> Result<Option<(Bytes, Bytes)>> {
                <$type>::first(self)
            }
            fn last(&self) -> Result<Option<(Bytes, Bytes)>> {
                <$type>::last(self)
            }
            fn iter(&self) -> Iter {
                <$type>::iter(self)
            }
            fn range(&self, range: impl KeyBounds) -> Iter {
                <$type>::range(self, range)
            }
            fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter {
                <$type>::prefix(self, prefix)
            }
            fn count(&self, range: impl KeyBounds) -> Result<u64> {
                <$type>::count(self, range)
            }
            fn cursor(&self) -> Cursor {
                <$type>::cursor(self)
            }
        }
    };
}

readable!(Keyspace);
readable!(Snapshot);
pub(crate) use readable;

impl Keyspace {
    #[inline]
    fn reader(&self) -> Reader<'_> {
        Reader {
            engine: self.handle.engine(),
            keyspace: &self.state,
            at: None,
            wrong: None,
        }
    }
}
