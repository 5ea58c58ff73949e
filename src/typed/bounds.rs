//! What callers may write for a key, and for a range of keys.

use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use super::key::Key;

/// What may be given for a key of type `K`: the key, a reference to it, and borrowed forms of
/// strings.
pub trait AsKey<K> {
    /// The bytes of the key, as [`Key::to_bytes`] makes them.
    fn key_bytes(&self) -> Vec<u8>;
}

impl<K: Key> AsKey<K> for K {
    fn key_bytes(&self) -> Vec<u8> {
        self.to_bytes()
    }
}

impl<K: Key> AsKey<K> for &K {
    fn key_bytes(&self) -> Vec<u8> {
        self.to_bytes()
    }
}

impl AsKey<String> for &str {
    fn key_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl AsKey<Vec<u8>> for &[u8] {
    fn key_bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
}

impl<const N: usize> AsKey<Vec<u8>> for &[u8; N] {
    fn key_bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
}

/// A range of keys of type `K`: `..`, `a..`, `..b`, `..=b`, `a..b`, `a..=b` or a pair of
/// [`Bound`]s, of whatever [`AsKey`] takes. An inverted range is empty.
pub trait TypedBounds<K> {
    /// The bounds as bytes.
    fn byte_bounds(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>);
}

impl<K: Key> TypedBounds<K> for RangeFull {
    fn byte_bounds(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        (Bound::Unbounded, Bound::Unbounded)
    }
}

macro_rules! typed_bounds {
    ($($range:ty, |$it:ident| $lower:expr, $upper:expr;)*) => {$(
        impl<K: Key, B: AsKey<K>> TypedBounds<K> for $range {
            fn byte_bounds(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
                let $it = self;
                ($lower, $upper)
            }
        }
    )*};
}

typed_bounds! {
    RangeFrom<B>, |r| Bound::Included(r.start.key_bytes()), Bound::Unbounded;
    RangeTo<B>, |r| Bound::Unbounded, Bound::Excluded(r.end.key_bytes());
    RangeToInclusive<B>, |r| Bound::Unbounded, Bound::Included(r.end.key_bytes());
    Range<B>, |r| Bound::Included(r.start.key_bytes()), Bound::Excluded(r.end.key_bytes());
    RangeInclusive<B>, |r|
        Bound::Included(r.start().key_bytes()), Bound::Included(r.end().key_bytes());
}

impl<K: Key, A: AsKey<K>, B: AsKey<K>> TypedBounds<K> for (Bound<A>, Bound<B>) {
    fn byte_bounds(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        (
            self.0.as_ref().map(AsKey::key_bytes),
            self.1.as_ref().map(AsKey::key_bytes),
        )
    }
}
