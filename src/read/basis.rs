//! Finds what was written to the keys and ranges that a decision rests on, after it was made.
//!
//! A transaction may have read a million keys while others wrote a hundred. So the search costs
//! what the smaller side costs, in each piece that may hold newer entries (a list, a memtable
//! image, a table):
//!
//! ```text
//! piece of 100 entries, basis of 1 M keys    walk the piece, look up its newer entries
//! piece of 1 M entries, basis of 3 keys      look up the keys in the piece
//! ```
//!
//! Range deletes are asked once for the whole basis: their tree leaves out what is not newer.

use std::ops::Bound;
use std::sync::Arc;

use terrace_base::hash::key_hash;
use terrace_base::{
    DeletedRange, InternalIterator, KeyRef, KeyspaceId, RangeSet, Result, SeqNo, UserKey, mutant,
};
use terrace_sstable::Table;

use crate::bounds::OwnedBounds;
use crate::memtable::{Form, List};
use crate::read::view::View;

/// A key that a decision rests on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckedKey<'a> {
    pub(crate) user: UserKey<'a>,
    pub(crate) hash: u64,
}

impl<'a> CheckedKey<'a> {
    pub(crate) fn new(user: UserKey<'a>) -> CheckedKey<'a> {
        let hash = key_hash(user);
        CheckedKey { user, hash }
    }
}

/// The range of a keyspace.
pub(crate) type Stretch = (KeyspaceId, OwnedBounds);

/// A key and the sequence number of a write of it.
pub(crate) type Change = (Vec<u8>, SeqNo);

/// What a decision rests on. Both are in order, and the ranges do not overlap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Basis<'a> {
    pub(crate) keys: &'a [CheckedKey<'a>],
    pub(crate) ranges: &'a [Stretch],
}

impl<'a> Basis<'a> {
    pub(crate) fn len(&self) -> usize {
        self.keys.len() + self.ranges.len()
    }

    /// The part of it that lies between two keys, both included.
    fn between(&self, smallest: UserKey<'_>, largest: UserKey<'_>) -> Basis<'a> {
        let begin = self.keys.partition_point(|key| key.user < smallest);
        let end = self.keys.partition_point(|key| key.user <= largest);
        let first = self.ranges.partition_point(|range| ends(range) < smallest);
        let last = self
            .ranges
            .partition_point(|range| begins(range) <= largest);
        Basis {
            keys: self.keys.get(begin..end).unwrap_or(&[]),
            ranges: self.ranges.get(first..last).unwrap_or(&[]),
        }
    }

    /// The smallest and the largest key that it may be about.
    fn bounds(&self) -> Option<(UserKey<'a>, UserKey<'a>)> {
        let smallest = self.keys.first().map(|key| key.user);
        let largest = self.keys.last().map(|key| key.user);
        let smallest = smallest.into_iter().chain(self.ranges.first().map(begins));
        let largest = largest.into_iter().chain(self.ranges.last().map(ends));
        Some((smallest.min()?, largest.max()?))
    }

    /// True if it holds `key`.
    fn has(&self, key: UserKey<'_>) -> bool {
        let known = |at: &CheckedKey<'_>| at.user.cmp(&key);
        if self.keys.binary_search_by(known).is_ok() {
            return true;
        }
        let next = self.ranges.partition_point(|range| begins(range) <= key);
        let range = next.checked_sub(1).and_then(|at| self.ranges.get(at));
        range.is_some_and(|(keyspace, bounds)| {
            *keyspace == key.keyspace
                && bounds.above_lower(key.bytes)
                && bounds.below_upper(key.bytes)
        })
    }

    /// A key of it that a range delete covers.
    fn covered(&self, deleted: &DeletedRange) -> Option<Vec<u8>> {
        let lower = UserKey::new(deleted.keyspace, &deleted.lower);
        let inside = |user: UserKey<'_>| {
            user.keyspace == deleted.keyspace
                && deleted
                    .upper
                    .as_deref()
                    .is_none_or(|upper| user.bytes < upper)
        };
        let at = self.keys.partition_point(|key| key.user < lower);
        let key = self.keys.get(at).filter(|key| inside(key.user));
        if let Some(key) = key {
            return Some(key.user.bytes.to_vec());
        }
        // The last range that begins at or before it, and those that begin in it.
        let from = self.ranges.partition_point(|range| begins(range) <= lower);
        let near = self.ranges.get(from.saturating_sub(1)..).unwrap_or(&[]);
        for range in near {
            let (keyspace, bounds) = range;
            if begins(range) >= lower && !inside(begins(range)) {
                return None;
            }
            let first = bounds.first().max(deleted.lower.to_vec());
            if inside(UserKey::new(*keyspace, &first)) && bounds.below_upper(&first) {
                return Some(first);
            }
        }
        None
    }

    /// What a set of range deletes has above `since`.
    fn deleted(&self, set: &RangeSet, since: SeqNo) -> Option<Change> {
        if set.is_empty() {
            return None;
        }
        let (first, last) = self.bounds()?;
        let found = set.find_touching(first, last, since, |range| self.covered(range).is_some())?;
        Some((self.covered(found)?, found.seq))
    }

    /// What a piece of `entries` entries has above `since`.
    fn find(&self, piece: &Piece<'_>, since: SeqNo) -> Result<Option<Change>> {
        if piece.entries() <= self.len() {
            return match piece {
                Piece::List(list) => self.walk(&mut list.cursor(), since),
                Piece::Table(table) => self.walk(&mut table.iter(), since),
            };
        }
        for key in self.keys {
            if let Some(seq) = piece.newest(key)?.filter(|seq| *seq > since) {
                return Ok(Some((key.user.bytes.to_vec(), seq)));
            }
        }
        for (keyspace, bounds) in self.ranges {
            let found = match piece {
                Piece::List(list) => first_above(&mut list.cursor(), *keyspace, bounds, since)?,
                Piece::Table(table) => first_above(&mut table.iter(), *keyspace, bounds, since)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The first entry of `iter` above `since` that concerns it.
    fn walk(&self, iter: &mut impl InternalIterator, since: SeqNo) -> Result<Option<Change>> {
        let Some((first, last)) = self.bounds() else {
            return Ok(None);
        };
        iter.seek(KeyRef::lookup(first, SeqNo::MAX))?;
        while iter.valid() {
            let KeyRef { user, seq, .. } = iter.key();
            if user > last {
                break;
            }
            if seq > since && self.has(user) {
                return Ok(Some((user.bytes.to_vec(), seq)));
            }
            iter.next()?;
        }
        Ok(None)
    }
}

fn begins((keyspace, bounds): &Stretch) -> UserKey<'_> {
    bounds.closed(*keyspace).0
}

fn ends((keyspace, bounds): &Stretch) -> UserKey<'_> {
    bounds.closed(*keyspace).1
}

/// Entries in order.
enum Piece<'a> {
    List(&'a Arc<List>),
    Table(&'a Arc<Table>),
}

impl Piece<'_> {
    fn entries(&self) -> usize {
        match self {
            Piece::List(list) => list.len(),
            Piece::Table(table) => table.info().entries as usize,
        }
    }

    /// The sequence number of the newest entry of a key.
    fn newest(&self, key: &CheckedKey<'_>) -> Result<Option<SeqNo>> {
        let CheckedKey { user, hash } = key;
        Ok(match self {
            Piece::List(list) => {
                let found = list.get(user, *hash, SeqNo::MAX)?;
                found.map(|(seq, _, _)| seq)
            }
            Piece::Table(table) => table.get(user, *hash, SeqNo::MAX)?.map(|found| found.seq),
        })
    }
}

/// The first entry above `since` that `iter` has in a range.
fn first_above(
    iter: &mut impl InternalIterator,
    keyspace: KeyspaceId,
    bounds: &OwnedBounds,
    since: SeqNo,
) -> Result<Option<Change>> {
    let (key, seq): (&[u8], _) = match &bounds.lower {
        Bound::Included(key) => (key, SeqNo::MAX),
        Bound::Excluded(key) => (key, SeqNo::ZERO), // After every version.
        Bound::Unbounded => (&[], SeqNo::MAX),
    };
    iter.seek(KeyRef::lookup(UserKey::new(keyspace, key), seq))?;
    while iter.valid() {
        let key = iter.key();
        if key.user.keyspace != keyspace || !bounds.below_upper(key.user.bytes) {
            break;
        }
        if key.seq > since {
            return Ok(Some((key.user.bytes.to_vec(), key.seq)));
        }
        iter.next()?;
    }
    Ok(None)
}

impl View {
    /// A write above `since` to a key or a range of `basis`, if there is one. A range delete is a
    /// write of each key in it.
    pub(crate) fn changed(&self, basis: &Basis<'_>, since: SeqNo) -> Result<Option<Change>> {
        let Some((smallest, largest)) = basis.bounds() else {
            return Ok(None);
        };
        if self.active.has_ranges()
            && let Some(found) = basis.deleted(&self.active.ranges(), since)
        {
            return Ok(Some(found));
        }
        let found = basis.find(&Piece::List(&self.active), since)?;
        if found.is_some() {
            return Ok(found);
        }
        for run in self.sealed.iter().take_while(|run| run.last_seq > since) {
            if let Some(found) = basis.deleted(&run.ranges, since) {
                return Ok(Some(found));
            }
            let piece = match &run.form {
                Form::List(list) => Piece::List(list),
                Form::Image(table) => Piece::Table(table),
            };
            let found = basis.find(&piece, since)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        if self.tables_upto <= since || mutant("check-without-tables") {
            return Ok(None);
        }
        if let Some(found) = basis.deleted(self.version.deleted(), since) {
            return Ok(Some(found));
        }
        for run in self.version.runs() {
            if run.max_seq() <= since {
                continue;
            }
            let tables = run.tables().part(run.overlapping(smallest, largest));
            for file in tables.into_iter().flat_map(|tables| tables.iter()) {
                let info = file.info();
                if info.max_seq <= since {
                    continue;
                }
                let part = basis.between(info.smallest.as_ref(), info.largest.as_ref());
                if part.len() == 0 {
                    continue;
                }
                let table = file.table()?;
                let found = part.find(&Piece::Table(&table), since)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
#[path = "basis_tests.rs"]
mod tests;
