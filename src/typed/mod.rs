//! Keys and values that are more than bytes.
//!
//! A [`Typed`] view of a keyspace takes keys of one type and values of another, and stores their
//! encodings. Those of keys keep the order: `a < b` exactly if the bytes of `a` come before those
//! of `b`, so that ranges mean what they say. The view holds nothing and writes nothing of its own:
//! the keyspace stays a map from bytes to bytes, and the encodings, which are written down in
//! [`Key`] and [`Value`], are what a program in another language goes by.
//!
//! ```text
//! (42u16, "ab", Some(-1i8))      00 2a | 61 62 00 01 | 01 7f
//! ```
//!
//! Bytes that no value of the type encodes to are `Invalid` when they are read: nothing is damaged,
//! for the table's checksum was right; the keyspace was written with other types.
//!
//! Batches and transactions take bytes: [`Key::to_bytes`] and [`Value::to_value`] make them.

mod bounds;
mod key;
mod tuple;
mod value;

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;

pub use bounds::{AsKey, TypedBounds};
pub use key::{Key, Place};
use terrace_base::{Result, SeqNo};
#[cfg(feature = "json")]
pub use value::Json;
pub use value::{AsValue, Value};

use crate::Bytes;
use crate::db::keyspace::Keyspace;
use crate::read::iter::Iter;

/// A keyspace seen as a map from `K` to `V`; made by [`Keyspace::typed`]. Cheap to clone; keeps the
/// database open.
///
/// Keys and values are given by value or by reference; for `String` also as `&str`, for `Vec<u8>`
/// as `&[u8]`.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// let db = terrace::Db::in_memory()?;
/// let scores = db.typed::<(String, i64), String>();
/// scores.put(("chess".into(), -3), "Ada")?;
/// scores.put(("chess".into(), 12), "Bo")?;
/// scores.put(("go".into(), 5), "Cy")?;
/// let chess = scores.range(("chess".into(), i64::MIN)..=("chess".into(), i64::MAX));
/// let names: Vec<String> = chess.rev().map(|entry| Ok(entry?.1)).collect::<terrace::Result<_>>()?;
/// assert_eq!(names, ["Bo", "Ada"]);
/// # Ok(()) }
/// ```
pub struct Typed<K, V> {
    keyspace: Keyspace,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Typed<K, V> {
    fn clone(&self) -> Typed<K, V> {
        Typed {
            keyspace: self.keyspace.clone(),
            types: PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for Typed<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Typed({:?})", self.keyspace)
    }
}

impl Keyspace {
    /// This keyspace as a map from `K` to `V`. Later readers must use types of the same
    /// encodings.
    pub fn typed<K: Key, V: Value>(&self) -> Typed<K, V> {
        Typed {
            keyspace: self.clone(),
            types: PhantomData,
        }
    }
}

impl<K: Key, V: Value> Typed<K, V> {
    /// The keyspace that it shows.
    pub fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// Sets `key` to `value`; the write's sequence number.
    ///
    /// # Errors
    /// As for [`Keyspace::put`], where the lengths are those of the encodings; `Invalid` if the
    /// value cannot be encoded.
    pub fn put(&self, key: impl AsKey<K>, value: impl AsValue<V>) -> Result<SeqNo> {
        self.keyspace.put(key.key_bytes(), value.value_bytes()?)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// As for [`Keyspace::get`]; `Invalid` if what is stored is no `V`.
    pub fn get(&self, key: impl AsKey<K>) -> Result<Option<V>> {
        let value = self.keyspace.get(key.key_bytes())?;
        value.map(V::from_value).transpose()
    }

    /// Removes `key`, which need not exist; the write's sequence number.
    ///
    /// # Errors
    /// As for [`Keyspace::delete`].
    pub fn delete(&self, key: impl AsKey<K>) -> Result<SeqNo> {
        self.keyspace.delete(key.key_bytes())
    }

    /// True if `key` has a value.
    ///
    /// # Errors
    /// As for [`Keyspace::contains_key`].
    pub fn contains_key(&self, key: impl AsKey<K>) -> Result<bool> {
        self.keyspace.contains_key(key.key_bytes())
    }

    /// The first entry.
    ///
    /// # Errors
    /// As for [`Typed::get`]; `Invalid` if the key is no `K`.
    pub fn first(&self) -> Result<Option<(K, V)>> {
        self.iter().next().transpose()
    }

    /// The last entry.
    ///
    /// # Errors
    /// As for [`Typed::first`].
    pub fn last(&self) -> Result<Option<(K, V)>> {
        self.iter().next_back().transpose()
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> TypedIter<K, V> {
        TypedIter::new(self.keyspace.iter())
    }

    /// The entries of a range in the order of their keys; an inverted range has none.
    pub fn range(&self, range: impl TypedBounds<K>) -> TypedIter<K, V> {
        TypedIter::new(self.keyspace.range(range.byte_bounds()))
    }
}

/// Entries of a [`Typed`] in the order of their keys, from both ends. Yields an error once and then
/// `None`.
pub struct TypedIter<K, V> {
    /// `None` behind an error.
    iter: Option<Iter>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> fmt::Debug for TypedIter<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedIter").field(&self.iter).finish()
    }
}

impl<K: Key, V: Value> TypedIter<K, V> {
    fn new(iter: Iter) -> TypedIter<K, V> {
        TypedIter {
            iter: Some(iter),
            types: PhantomData,
        }
    }

    fn decode(&mut self, entry: Option<Result<(Bytes, Bytes)>>) -> Option<Result<(K, V)>> {
        let decode =
            |(key, value): (Bytes, Bytes)| Ok((K::from_bytes(&key)?, V::from_value(value)?));
        let entry = entry?.and_then(decode);
        if entry.is_err() {
            self.iter = None;
        }
        Some(entry)
    }
}

impl<K: Key, V: Value> Iterator for TypedIter<K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Result<(K, V)>> {
        let entry = self.iter.as_mut()?.next();
        self.decode(entry)
    }
}

impl<K: Key, V: Value> DoubleEndedIterator for TypedIter<K, V> {
    fn next_back(&mut self) -> Option<Result<(K, V)>> {
        let entry = self.iter.as_mut()?.next_back();
        self.decode(entry)
    }
}

impl<K: Key, V: Value> FusedIterator for TypedIter<K, V> {}
