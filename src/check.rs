//! Conditions of a write: what must not have changed since it was decided.
//!
//! Whoever writes on a condition (a swap, a counter, a transaction) reads and decides outside of every lock, as of
//! a sequence number `since`, and hands the write to the commit path together with what it looked at. Under the
//! commit lock it is then asked whether any of that has an entry above `since`. If so nothing is written, and the
//! caller reads and decides again.
//!
//! ```text
//! read k at #7, decide    another thread appends k#8    append: k has an entry above #7 -> changed, again
//! ```
//!
//! The newest appended entries count, published or not, so that many writers of one key are decided one after the
//! other and then share a sync. A range delete counts as a write of each of its keys. Under the lock only memory is
//! looked at: the active list, and sealed pieces that reach above `since`. If a flush has meanwhile put something above it into tables, the answer is "changed"
//! without a look: that happens once for each flush, and a wrong "changed" costs but a repetition.

use std::ops::Bound;
use std::sync::Arc;

use terrace_base::hash::key_hash;
use terrace_base::{
    DeletedRange, Error, ErrorKind, InternalIterator, KeyRef, KeyspaceId, RangeSet, Result, SeqNo,
    UserKey, mutant,
};
use terrace_compaction::TableFile;

use crate::batch::check_lengths;
use crate::bounds::OwnedBounds;
use crate::commit::Receipt;
use crate::ends::{Ends, Proof};
use crate::engine::Engine;
use crate::keyspace::KeyspaceState;
use crate::memtable::{Form, List};
use crate::options::Durability;
use crate::view::View;
use crate::write::Write;

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

/// What must have no entry above `since`.
#[derive(Debug)]
pub(crate) struct Checks<'a> {
    pub(crate) since: SeqNo,
    pub(crate) keys: &'a [CheckedKey<'a>],
    pub(crate) ranges: &'a [(KeyspaceId, OwnedBounds)],
    /// That the first range holds nothing alive: noted once that is certain.
    pub(crate) proof: Option<Proof<'a>>,
    /// Keyspaces that hold nothing that expires. Whoever appends such an entry has noted it first.
    pub(crate) lasting: &'a [&'a KeyspaceState],
}

impl<'a> Checks<'a> {
    pub(crate) fn keys(since: SeqNo, keys: &'a [CheckedKey<'a>]) -> Checks<'a> {
        Checks {
            since,
            keys,
            ranges: &[],
            proof: None,
            lasting: &[],
        }
    }

    /// That keyspaces hold nothing that expires, and nothing else.
    pub(crate) fn lasting(keyspaces: &'a [&'a KeyspaceState]) -> Checks<'a> {
        Checks {
            lasting: keyspaces,
            ..Checks::keys(SeqNo::MAX, &[])
        }
    }

    /// True if nothing has changed. REQUIRES: the commit lock is held, and `view` is the present one.
    pub(crate) fn hold(&self, view: &View, ends: &mut Ends) -> Result<bool> {
        let may_expire = self.lasting.iter().any(|state| state.may_expire());
        if view.tables_upto > self.since || may_expire && !mutant("merge-unchecked") {
            return Ok(false);
        }
        if self.proof.as_ref().is_some_and(|proof| !ends.admit(proof)) {
            return Ok(false);
        }
        let ranges = self.ranges.iter();
        for (keyspace, bounds) in ranges.filter(|_| !mutant("skip-recheck-of-ranges")) {
            if view.changed_in(*keyspace, bounds, self.since)?.is_some() {
                return Ok(false);
            }
        }
        if let Some(proof) = &self.proof {
            ends.note_proof(proof);
        }
        let keys = self.keys.iter();
        for key in keys.filter(|_| !mutant("skip-recheck-of-keys")) {
            if view.changed(key, self.since)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl View {
    /// The sequence number of the newest write of `key`, if it is above `since`. Tables are read only if they may hold
    /// such a one.
    pub(crate) fn changed(&self, key: &CheckedKey<'_>, since: SeqNo) -> Result<Option<SeqNo>> {
        let CheckedKey { user, hash } = *key;
        let in_list = |list: &List| -> Result<SeqNo> {
            let found = list.get(&user, hash, SeqNo::MAX)?;
            Ok(found.map_or(SeqNo::ZERO, |(seq, _, _)| seq))
        };
        let mut newest = in_list(&self.active)?;
        if self.active.has_ranges() {
            newest = newest.max(self.active.ranges().newest(user, SeqNo::MAX));
        }
        for run in self.sealed.iter().take_while(|run| run.last_seq > since) {
            if newest > SeqNo::ZERO {
                break;
            }
            newest = match &run.form {
                Form::List(list) => in_list(list)?,
                Form::Image(table) => {
                    let found = table.get(&user, hash, SeqNo::MAX)?;
                    found.map_or(SeqNo::ZERO, |found| found.seq)
                }
            };
            newest = newest.max(run.ranges.newest(user, SeqNo::MAX));
        }
        if newest == SeqNo::ZERO && self.tables_upto > since && !mutant("check-without-tables") {
            let found = self.newest(&user, hash, SeqNo::MAX)?;
            newest = found.map_or(SeqNo::ZERO, |found| found.seq);
        }
        Ok((newest > since).then_some(newest))
    }

    /// A write above `since` in a range, if there is one: a key of it, and its sequence number.
    pub(crate) fn changed_in(
        &self,
        keyspace: KeyspaceId,
        bounds: &OwnedBounds,
        since: SeqNo,
    ) -> Result<Option<(Vec<u8>, SeqNo)>> {
        let (smallest, largest) = bounds.closed(keyspace);
        if smallest > largest {
            return Ok(None);
        }
        let deleted = |set: &RangeSet| {
            let first = |range: &DeletedRange| smallest.bytes.max(&range.lower).to_vec();
            let inside = |range: &DeletedRange| bounds.below_upper(&first(range));
            let found = set.find_touching(smallest, largest, since, inside)?;
            Some((first(found), found.seq))
        };
        if self.active.has_ranges()
            && let Some(found) = deleted(&self.active.ranges())
        {
            return Ok(Some(found));
        }
        let mut found = first_above(&mut self.active.cursor(), keyspace, bounds, since)?;
        for run in self.sealed.iter().take_while(|run| run.last_seq > since) {
            if found.is_some() {
                return Ok(found);
            }
            found = match deleted(&run.ranges) {
                None => first_above(&mut run.iter(), keyspace, bounds, since)?,
                found => found,
            };
        }
        if found.is_some() || self.tables_upto <= since {
            return Ok(found);
        }
        found = deleted(self.version.deleted());
        for run in self.version.runs() {
            let tables = run.tables().part(run.overlapping(smallest, largest));
            let newer = |file: &&Arc<_>| TableFile::info(file).max_seq > since;
            for file in tables.into_iter().flat_map(|t| t.iter()).filter(newer) {
                if found.is_some() {
                    return Ok(found);
                }
                found = first_above(&mut file.table()?.iter(), keyspace, bounds, since)?;
            }
        }
        Ok(found)
    }
}

/// The first entry above `since` that `iter` has in a range.
fn first_above(
    iter: &mut impl InternalIterator,
    keyspace: KeyspaceId,
    bounds: &OwnedBounds,
    since: SeqNo,
) -> Result<Option<(Vec<u8>, SeqNo)>> {
    let (key, seq): (&[u8], _) = match &bounds.lower {
        Bound::Included(key) => (key, SeqNo::MAX),
        Bound::Excluded(key) => (key, SeqNo::ZERO), // Behind every version.
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

impl Engine {
    /// Appends a write if `checks` hold; `None` if they do not. It is done once it is visible.
    pub(crate) fn append_if(
        &self,
        write: &Write<'_>,
        durability: Option<Durability>,
        keyspaces: &[Arc<KeyspaceState>],
        checks: &Checks<'_>,
    ) -> Result<Option<Receipt>> {
        self.check_process()?;
        if self.may_be_large(write) {
            return self.separate(write, |small| {
                self.append_if(small, durability, keyspaces, checks)
            });
        }
        self.views.pacer.pace(self, write)?;
        let durability = durability.unwrap_or(self.options.durability);
        let receipt =
            self.committer
                .append_if(write, durability, keyspaces, Some(checks), &mut |_| {})?;
        if receipt.is_some() {
            self.counters.written(write);
        }
        Ok(receipt)
    }
}

/// A counter's next value: 8 bytes, little-endian; none counts as 0.
pub(crate) fn counter(value: Option<&[u8]>, delta: i64) -> Result<i64> {
    let now = match value {
        None => 0,
        Some(bytes) => match <[u8; 8]>::try_from(bytes) {
            Ok(bytes) => i64::from_le_bytes(bytes),
            Err(_) => {
                return Err(Error::invalid(format!(
                    "a counter has 8 bytes; this value has {}",
                    bytes.len()
                )));
            }
        },
    };
    now.checked_add(delta)
        .ok_or_else(|| Error::invalid(format!("the sum of {now} and {delta} is out of range")))
}

/// A value with `bytes` appended.
pub(crate) fn joined(value: Option<&[u8]>, bytes: &[u8]) -> Result<Vec<u8>> {
    let value = value.unwrap_or(&[]);
    check_lengths(0, value.len().saturating_add(bytes.len()))?;
    Ok([value, bytes].concat())
}

/// The error of a condition on `key` that does not hold.
#[cold]
pub(crate) fn conflict(key: &[u8], what: &str) -> Error {
    let shown = key.get(..64).unwrap_or(key).escape_ascii();
    Error::new(ErrorKind::Conflict, format!("key `{shown}` {what}")).about_key(key)
}
