//! Ranges of keys as callers write them.

use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use terrace_base::{KeyspaceId, UserKey};

/// A range of keys: `..`, `a..`, `..b`, `..=b`, `a..b`, `a..=b` or a pair of [`Bound`]s, of
/// anything that is bytes. The standard library's `RangeBounds` takes neither `..` nor borrowed
/// bounds here. An inverted range is empty.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// let db = terrace::Db::in_memory()?;
/// db.put("b", "1")?;
/// assert_eq!(db.range("a".."c").count(), 1);
/// assert_eq!(db.range(..).count(), 1);
/// assert_eq!(db.range("c".."a").count(), 0);
/// # Ok(()) }
/// ```
pub trait KeyBounds {
    /// Lower and upper bound.
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>);
}

impl<T: KeyBounds + ?Sized> KeyBounds for &T {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (**self).bounds()
    }
}

impl KeyBounds for RangeFull {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Unbounded, Bound::Unbounded)
    }
}

macro_rules! key_bounds {
    ($($range:ty, |$it:ident| $lower:expr, $upper:expr;)*) => {$(
        impl<B: AsRef<[u8]>> KeyBounds for $range {
            fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
                let $it = self;
                ($lower, $upper)
            }
        }
    )*};
}

key_bounds! {
    RangeFrom<B>, |r| Bound::Included(r.start.as_ref()), Bound::Unbounded;
    RangeTo<B>, |r| Bound::Unbounded, Bound::Excluded(r.end.as_ref());
    RangeToInclusive<B>, |r| Bound::Unbounded, Bound::Included(r.end.as_ref());
    Range<B>, |r| Bound::Included(r.start.as_ref()), Bound::Excluded(r.end.as_ref());
    RangeInclusive<B>, |r| Bound::Included(r.start().as_ref()), Bound::Included(r.end().as_ref());
}

impl<A: AsRef<[u8]>, B: AsRef<[u8]>> KeyBounds for (Bound<A>, Bound<B>) {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (
            self.0.as_ref().map(AsRef::as_ref),
            self.1.as_ref().map(AsRef::as_ref),
        )
    }
}

/// The key next to `key`: nothing lies between them.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The range from its first possible key to before the second; to the end if there is no second.
/// `None` if no key can lie in it.
pub(crate) fn half_open(range: &impl KeyBounds) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let (lower, upper) = range.bounds();
    let lower = match lower {
        Bound::Unbounded => Vec::new(),
        Bound::Included(key) => key.to_vec(),
        Bound::Excluded(key) => after(key),
    };
    let upper = match upper {
        Bound::Unbounded => None,
        Bound::Included(key) => Some(after(key)),
        Bound::Excluded(key) => Some(key.to_vec()),
    };
    let some = upper.as_ref().is_none_or(|upper| lower < *upper);
    some.then_some((lower, upper))
}

/// An owned range, as iterators keep it.
#[derive(Clone, Debug)]
pub(crate) struct OwnedBounds {
    pub(crate) lower: Bound<Vec<u8>>,
    pub(crate) upper: Bound<Vec<u8>>,
}

impl OwnedBounds {
    pub(crate) fn all() -> OwnedBounds {
        OwnedBounds {
            lower: Bound::Unbounded,
            upper: Bound::Unbounded,
        }
    }

    pub(crate) fn new(range: &impl KeyBounds) -> OwnedBounds {
        let (lower, upper) = range.bounds();
        OwnedBounds {
            lower: lower.map(<[u8]>::to_vec),
            upper: upper.map(<[u8]>::to_vec),
        }
    }

    /// All keys that start with `prefix`.
    pub(crate) fn prefix(prefix: &[u8]) -> OwnedBounds {
        let upper = match prefix.iter().rposition(|&byte| byte != u8::MAX) {
            Some(last) => {
                let mut end: Vec<u8> = prefix.iter().take(last + 1).copied().collect();
                if let Some(byte) = end.last_mut() {
                    *byte += 1;
                }
                Bound::Excluded(end)
            }
            None => Bound::Unbounded,
        };
        OwnedBounds {
            lower: Bound::Included(prefix.to_vec()),
            upper,
        }
    }

    pub(crate) fn lower_key(&self) -> Bound<&[u8]> {
        self.lower.as_ref().map(Vec::as_slice)
    }

    pub(crate) fn upper_key(&self) -> Bound<&[u8]> {
        self.upper.as_ref().map(Vec::as_slice)
    }

    /// The first key that may lie in it.
    pub(crate) fn first(&self) -> Vec<u8> {
        match &self.lower {
            Bound::Unbounded => Vec::new(),
            Bound::Included(key) => key.clone(),
            Bound::Excluded(key) => after(key),
        }
    }

    /// A closed range of whole keys that holds this one.
    pub(crate) fn closed(&self, keyspace: KeyspaceId) -> (UserKey<'_>, UserKey<'_>) {
        let lower: &[u8] = match &self.lower {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => &[],
        };
        let largest = match &self.upper {
            Bound::Included(key) | Bound::Excluded(key) => UserKey::new(keyspace, key),
            Bound::Unbounded => UserKey::new(KeyspaceId(keyspace.0.saturating_add(1)), &[]),
        };
        (UserKey::new(keyspace, lower), largest)
    }

    #[inline]
    pub(crate) fn above_lower(&self, key: &[u8]) -> bool {
        match &self.lower {
            Bound::Unbounded => true,
            Bound::Included(lower) => key >= lower.as_slice(),
            Bound::Excluded(lower) => key > lower.as_slice(),
        }
    }

    #[inline]
    pub(crate) fn below_upper(&self, key: &[u8]) -> bool {
        match &self.upper {
            Bound::Unbounded => true,
            Bound::Included(upper) => key <= upper.as_slice(),
            Bound::Excluded(upper) => key < upper.as_slice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_the_largest_bytes_has_no_upper_bound() {
        let bounds = OwnedBounds::prefix(b"ab");
        assert!(bounds.above_lower(b"ab") && bounds.below_upper(b"ab\xff\xff"));
        assert!(!bounds.below_upper(b"ac"));
        let bounds = OwnedBounds::prefix(b"a\xff");
        assert!(bounds.below_upper(b"a\xff\xff") && !bounds.below_upper(b"b"));
        let bounds = OwnedBounds::prefix(b"\xff\xff");
        assert!(bounds.below_upper(b"\xff\xff\xff") && !bounds.above_lower(b"\xff"));
        assert!(OwnedBounds::prefix(b"").above_lower(b""));
    }
}
