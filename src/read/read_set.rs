//! What a transaction has read: keys, and stretches of keys that iterators and cursors have gone
//! over.
//!
//! A stretch is noted as far as it was gone over and no further: from where a walk was placed to
//! the entry that it shows, both included, or to the end of its range once it found no more.
//! Absence counts: a key that is inserted into a stretch was read as not being there.
//!
//! ```text
//! keys in the database   b d f        range a..z, two steps:    a..=d was read; an insert of e is no conflict
//! ```

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use terrace_base::{KeyspaceId, UserKey};

use crate::bounds::OwnedBounds;
use crate::read::basis::Stretch;
use crate::sync::{Mutex, lock};

/// What a transaction has read.
#[derive(Debug, Default)]
pub(crate) struct ReadSet {
    keys: BTreeMap<KeyspaceId, HashSet<Box<[u8]>>>,
    stretches: Vec<(KeyspaceId, OwnedBounds)>,
}

impl ReadSet {
    pub(crate) fn add_key(&mut self, keyspace: KeyspaceId, key: &[u8]) {
        let keys = self.keys.entry(keyspace).or_default();
        if !keys.contains(key) {
            keys.insert(key.into());
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = UserKey<'_>> {
        let spaces = self.keys.iter();
        spaces.flat_map(|(id, keys)| keys.iter().map(|key| UserKey::new(*id, key)))
    }

    /// The stretches, in order, overlapping ones made into one.
    pub(crate) fn stretches(&self) -> Vec<Stretch> {
        in_order(self.stretches.clone())
    }
}

/// Stretches in order, overlapping ones made into one; inverted ones are left out.
pub(crate) fn in_order(mut stretches: Vec<Stretch>) -> Vec<Stretch> {
    stretches.retain(|(id, bounds)| {
        let (smallest, largest) = bounds.closed(*id);
        smallest <= largest
    });
    stretches.sort_by(|(a, x), (b, y)| {
        a.cmp(b)
            .then_with(|| compare_lower(x.lower_key(), y.lower_key()))
    });
    let mut merged: Vec<Stretch> = Vec::new();
    for (id, next) in stretches {
        match merged.last_mut() {
            Some((last, into)) if *last == id && touches(&into.upper, &next.lower) => {
                if compare_upper(into.upper_key(), next.upper_key()) == Ordering::Less {
                    into.upper = next.upper;
                }
            }
            _ => merged.push((id, next)),
        }
    }
    merged
}

fn compare_lower(a: Bound<&[u8]>, b: Bound<&[u8]>) -> Ordering {
    let place = |bound| match bound {
        Bound::Unbounded => None,
        Bound::Included(key) => Some((key, false)),
        Bound::Excluded(key) => Some((key, true)),
    };
    place(a).cmp(&place(b))
}

fn compare_upper(a: Bound<&[u8]>, b: Bound<&[u8]>) -> Ordering {
    let place = |bound| match bound {
        Bound::Unbounded => (true, None, true),
        Bound::Included(key) => (false, Some(key), true),
        Bound::Excluded(key) => (false, Some(key), false),
    };
    place(a).cmp(&place(b))
}

/// Sets `bound`, in the memory that it has: a walk does so at each step.
fn set(bound: &mut Bound<Vec<u8>>, to: Bound<&[u8]>) {
    match (bound, to) {
        (Bound::Included(key), Bound::Included(to)) => {
            key.clear();
            key.extend_from_slice(to);
        }
        (bound, to) => *bound = to.map(<[u8]>::to_vec),
    }
}

/// True if a stretch that ends at `upper` and one that begins at `lower`, no earlier, may be seen
/// as one.
fn touches(upper: &Bound<Vec<u8>>, lower: &Bound<Vec<u8>>) -> bool {
    match (upper, lower) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
            b <= a
        }
    }
}

/// Notes where a walk goes.
#[derive(Debug)]
pub(crate) struct Trace {
    reads: Arc<Mutex<ReadSet>>,
    keyspace: KeyspaceId,
    /// The stretch that the walk is in.
    current: Option<usize>,
}

impl Trace {
    pub(crate) fn new(reads: Arc<Mutex<ReadSet>>, keyspace: KeyspaceId) -> Trace {
        Trace {
            reads,
            keyspace,
            current: None,
        }
    }

    /// The walk was placed anew, and has read from `lower` to `upper`.
    pub(crate) fn begin(&mut self, lower: Bound<&[u8]>, upper: Bound<&[u8]>) {
        let mut reads = lock(&self.reads);
        self.current = Some(reads.stretches.len());
        let bounds = OwnedBounds {
            lower: lower.map(<[u8]>::to_vec),
            upper: upper.map(<[u8]>::to_vec),
        };
        reads.stretches.push((self.keyspace, bounds));
    }

    /// The walk went on to `upper`.
    pub(crate) fn extend_up(&mut self, upper: Bound<&[u8]>) {
        self.extend(|bounds| {
            if compare_upper(bounds.upper_key(), upper) == Ordering::Less {
                set(&mut bounds.upper, upper);
            }
        });
    }

    /// The walk went back to `lower`.
    pub(crate) fn extend_down(&mut self, lower: Bound<&[u8]>) {
        self.extend(|bounds| {
            if compare_lower(lower, bounds.lower_key()) == Ordering::Less {
                set(&mut bounds.lower, lower);
            }
        });
    }

    fn extend(&mut self, change: impl FnOnce(&mut OwnedBounds)) {
        let mut reads = lock(&self.reads);
        let stretch = self.current.and_then(|at| reads.stretches.get_mut(at));
        if let Some((_, bounds)) = stretch {
            change(bounds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(lower: Bound<&str>, upper: Bound<&str>) -> (KeyspaceId, OwnedBounds) {
        let owned = |bound: Bound<&str>| bound.map(|key| key.as_bytes().to_vec());
        let (lower, upper) = (owned(lower), owned(upper));
        (KeyspaceId(0), OwnedBounds { lower, upper })
    }

    #[test]
    fn stretches_that_overlap_become_one() {
        use Bound::{Excluded, Included, Unbounded};
        let merged = |stretches| {
            let reads = ReadSet {
                stretches,
                ..ReadSet::default()
            };
            let merged = reads.stretches();
            merged
                .into_iter()
                .map(|(_, bounds)| format!("{:?}..{:?}", bounds.lower, bounds.upper))
                .collect::<Vec<_>>()
                .join(" ")
                .replace("[97]", "a")
                .replace("[98]", "b")
                .replace("[99]", "c")
                .replace("[100]", "d")
        };
        let (a, b, c, d) = ("a", "b", "c", "d");
        assert_eq!(
            merged(vec![
                bounds(Included(c), Included(d)),
                bounds(Included(a), Included(b)),
                bounds(Excluded(b), Included(b)),
            ]),
            "Included(a)..Included(b) Included(c)..Included(d)"
        );
        assert_eq!(
            merged(vec![
                bounds(Included(a), Excluded(c)),
                bounds(Included(b), Unbounded),
                bounds(Excluded(d), Included(d)),
            ]),
            "Included(a)..Unbounded"
        );
        assert_eq!(
            merged(vec![
                bounds(Unbounded, Included(a)),
                bounds(Included(a), Included(c)),
                bounds(Included(b), Excluded(c)),
            ]),
            "Unbounded..Included(c)"
        );
    }
}
