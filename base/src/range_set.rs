//! Deleted ranges of keys, and what they hide.
//!
//! A range delete is one write: from its sequence number on, every older entry of the range is gone. The deletes
//! that are in force together form a [`RangeSet`], which never changes; another delete makes another set. For
//! look-ups the set is cut into *fragments*, stretches of keys that the same deletes cover:
//!
//! ```text
//! deletes      [b, f) at 5      [d, k) at 9
//! fragments    [b, d): 5   [d, f): 9 5   [f, k): 9
//! ```
//!
//! An entry written at `seq` is hidden from a reader at `at` if its fragment has a delete above `seq` and not above
//! `at`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::key::{KeyspaceId, SeqNo, UserKey};

/// Of so many of the newest deletes it is asked whether they cover others.
const COVERING: usize = 8;

/// One range delete.
#[derive(Clone, PartialEq, Eq)]
pub struct DeletedRange {
    /// The keyspace of the keys.
    pub keyspace: KeyspaceId,
    /// The first key that is gone.
    pub lower: Box<[u8]>,
    /// The first key behind the range; the range goes to the keyspace's end if there is none.
    pub upper: Option<Box<[u8]>>,
    /// When it was written.
    pub seq: SeqNo,
}

impl DeletedRange {
    /// True if it covers all that `other` does.
    pub fn covers(&self, other: &DeletedRange) -> bool {
        self.keyspace == other.keyspace
            && self.lower <= other.lower
            && ends_by(other.upper.as_deref(), self.upper.as_deref())
    }

    /// True if it covers every key from `first` to `last`.
    pub fn covers_keys(&self, first: UserKey<'_>, last: UserKey<'_>) -> bool {
        first.keyspace == self.keyspace
            && last.keyspace == self.keyspace
            && *self.lower <= *first.bytes
            && is_before(last.bytes, self.upper.as_deref())
    }

    /// True if it covers a key from `first` to `last`, should there be one.
    pub fn touches(&self, first: UserKey<'_>, last: UserKey<'_>) -> bool {
        let begins = UserKey::new(self.keyspace, &self.lower);
        let ends_behind_first =
            (first.keyspace < self.keyspace) || is_before(first.bytes, self.upper.as_deref());
        first.keyspace <= self.keyspace && begins <= last && ends_behind_first
    }
}

impl fmt::Debug for DeletedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}, ", UserKey::new(self.keyspace, &self.lower))?;
        match &self.upper {
            Some(upper) => write!(f, "{})#{}", upper.escape_ascii(), self.seq),
            None => write!(f, "end)#{}", self.seq),
        }
    }
}

/// True if `key` lies before the end `upper` of a range; `None` is the keyspace's end.
fn is_before(key: &[u8], upper: Option<&[u8]>) -> bool {
    upper.is_none_or(|upper| key < upper)
}

/// True if a range that ends at `a` ends no later than one that ends at `b`.
fn ends_by(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    match (a, b) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(a), Some(b)) => a <= b,
    }
}

/// A stretch of keys that the same deletes cover.
#[derive(Clone, PartialEq, Eq)]
pub struct Fragment {
    keyspace: KeyspaceId,
    lower: Box<[u8]>,
    upper: Option<Box<[u8]>>,
    /// Newest first.
    seqs: Vec<SeqNo>,
}

impl fmt::Debug for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}, ", UserKey::new(self.keyspace, &self.lower))?;
        match &self.upper {
            Some(upper) => write!(f, "{}){:?}", upper.escape_ascii(), self.seqs),
            None => write!(f, "end){:?}", self.seqs),
        }
    }
}

impl Fragment {
    /// The first key.
    pub fn lower(&self) -> &[u8] {
        &self.lower
    }

    /// The first key behind it; the keyspace's end if there is none.
    pub fn upper(&self) -> Option<&[u8]> {
        self.upper.as_deref()
    }

    /// The newest delete that a reader at `at` sees.
    #[inline]
    pub fn newest(&self, at: SeqNo) -> Option<SeqNo> {
        self.seqs.iter().copied().find(|&seq| seq <= at)
    }

    /// The oldest delete above `seq`.
    pub fn oldest_above(&self, seq: SeqNo) -> Option<SeqNo> {
        self.seqs.iter().rev().copied().find(|&s| s > seq)
    }
}

/// The range deletes that are in force together.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Arc<DeletedRange>>,
    /// By keyspace and key, disjoint.
    fragments: Vec<Fragment>,
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.ranges).finish()
    }
}

impl RangeSet {
    /// The set of these deletes. Costs as much as sorting them; deletes that all overlap each other cost their number
    /// squared.
    pub fn new(mut ranges: Vec<Arc<DeletedRange>>) -> RangeSet {
        ranges.sort_by_key(|range| range.seq);
        ranges.dedup_by_key(|range| range.seq);
        let keyspaces: BTreeSet<KeyspaceId> = ranges.iter().map(|range| range.keyspace).collect();
        let mut fragments = Vec::new();
        for id in keyspaces {
            let of_one = ranges.iter().filter(|range| range.keyspace == id);
            cut(id, of_one.map(|range| &**range).collect(), &mut fragments);
        }
        RangeSet { ranges, fragments }
    }

    /// This set and one delete more.
    pub fn with(&self, range: DeletedRange) -> RangeSet {
        let mut ranges = self.ranges.clone();
        ranges.push(Arc::new(range));
        RangeSet::new(ranges)
    }

    /// All deletes of some sets.
    pub fn union<'a>(sets: impl IntoIterator<Item = &'a RangeSet>) -> RangeSet {
        let ranges = sets.into_iter().flat_map(|set| set.ranges.iter().cloned());
        RangeSet::new(ranges.collect())
    }

    /// Those deletes of some sets that a reader at `at` needs: neither the ones behind it, nor what one of the newest
    /// covers. So a range that was deleted again and again, longer each time, costs as much as there are deletes, and not
    /// that squared.
    pub fn union_at<'a>(sets: impl IntoIterator<Item = &'a RangeSet>, at: SeqNo) -> RangeSet {
        let all = sets.into_iter().flat_map(|set| &set.ranges);
        let mut ranges: Vec<_> = all.filter(|range| range.seq <= at).cloned().collect();
        ranges.sort_by_key(|range| std::cmp::Reverse(range.seq));
        let mut newest: Vec<Arc<DeletedRange>> = Vec::new();
        ranges.retain(|range| {
            let needed = !newest.iter().any(|newer| newer.covers(range));
            if needed && newest.len() < COVERING {
                newest.push(range.clone());
            }
            needed
        });
        RangeSet::new(ranges)
    }

    /// True if nothing is deleted by range.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The deletes, oldest first.
    pub fn ranges(&self) -> &[Arc<DeletedRange>] {
        &self.ranges
    }

    /// The fragment that `key` lies in.
    pub fn fragment(&self, key: UserKey<'_>) -> Option<&Fragment> {
        let behind = self
            .fragments
            .partition_point(|fragment| UserKey::new(fragment.keyspace, &fragment.lower) <= key);
        let fragment = self.fragments.get(behind.checked_sub(1)?)?;
        let inside =
            fragment.keyspace == key.keyspace && is_before(key.bytes, fragment.upper.as_deref());
        inside.then_some(fragment)
    }

    /// The newest delete of `key` at or below `at`; zero if there is none.
    #[inline]
    pub fn newest(&self, key: UserKey<'_>, at: SeqNo) -> SeqNo {
        if self.is_empty() {
            return SeqNo::ZERO;
        }
        let found = self.fragment(key).and_then(|fragment| fragment.newest(at));
        found.unwrap_or(SeqNo::ZERO)
    }

    /// True if a delete covers a key from `first` to `last`, should there be one.
    pub fn touches(&self, first: UserKey<'_>, last: UserKey<'_>) -> bool {
        self.ranges.iter().any(|range| range.touches(first, last))
    }
}

/// Cuts the deletes of one keyspace into fragments.
fn cut(keyspace: KeyspaceId, mut ranges: Vec<&DeletedRange>, out: &mut Vec<Fragment>) {
    ranges.sort_by(|a, b| a.lower.cmp(&b.lower));
    let mut bounds: Vec<&[u8]> = ranges
        .iter()
        .flat_map(|range| [Some(&*range.lower), range.upper.as_deref()])
        .flatten()
        .collect();
    bounds.sort_unstable();
    bounds.dedup();
    let mut open: Vec<&DeletedRange> = Vec::new();
    let mut next = ranges.into_iter().peekable();
    for (i, &lower) in bounds.iter().enumerate() {
        open.retain(|range| is_before(lower, range.upper.as_deref()));
        while let Some(range) = next.next_if(|range| *range.lower <= *lower) {
            if is_before(lower, range.upper.as_deref()) {
                open.push(range);
            }
        }
        if open.is_empty() {
            continue;
        }
        let mut seqs: Vec<SeqNo> = open.iter().map(|range| range.seq).collect();
        seqs.sort_unstable_by(|a, b| b.cmp(a));
        out.push(Fragment {
            keyspace,
            lower: lower.into(),
            upper: bounds.get(i + 1).map(|&upper| upper.into()),
            seqs,
        });
    }
}

#[cfg(test)]
#[path = "range_set_tests.rs"]
mod tests;
