//! A [`CompactionIter`] goes through sorted entries and drops what no reader can see.
//!
//! An entry whose time is over for every reader that could see it counts as a tombstone, and is
//! written as one if it has to stay; so does a put that a filter does not want. An entry goes for
//! one of four reasons, tried in this order:
//!
//! 1. *Dropped keyspace*: its keyspace is gone, and no snapshot is older than that.
//! 2. *Shadowed*: a newer version of its key lies in the same stripe (see [`Stripes`]), and is no
//!    operand.
//! 3. *Range delete*: a newer delete of a range that covers it lies in the same stripe.
//! 4. *Tombstone*: nothing that it hides can return. It lies in the oldest stripe, so that rule 2
//!    takes every older version of its key out of the input, and no older run outside the input can
//!    hold the key.
//!
//! A tombstone that goes still shadows: the versions below it must not come back.
//!
//! Operands of a merge hide nothing: a reader combines them with what lies below. Those of one key
//! and stripe are combined into one here (see [`crate::fold`]).
//!
//! ```text
//! in        a#9,PUT  a#7,PUT  a#4,DEL  a#2,PUT     snapshots: 5, visible: 9
//! stripe    1        1        0        0
//! out       a#9,PUT  shadowed tombstone shadowed   (if no older run can hold a)
//! ```

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

use terrace_base::key::split_expiry;
use terrace_base::{
    Error, InternalIterator, KeyRef, KeyspaceId, RangeSet, Result, SeqNo, UserKey, ValueKind,
    mutant,
};

use crate::fold::{Base, Chain, Folding, Part};
use crate::stripes::Stripes;

/// Why an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A newer version of its key lies in the same stripe.
    Shadowed,
    /// A tombstone that hides nothing.
    Tombstone,
    /// Its keyspace is gone.
    DroppedKeyspace,
    /// A newer delete of a range covers it.
    RangeDeleted,
    /// It has expired, and hides nothing.
    Expired,
    /// The filter does not want it, and it hides nothing.
    Filtered,
}

/// How many entries went, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounts {
    /// A newer version of the key lies in the same stripe.
    pub shadowed: u64,
    /// Tombstones that hide nothing.
    pub tombstones: u64,
    /// The keyspace is gone.
    pub dropped_keyspace: u64,
    /// Covered by the delete of a range.
    pub range_deleted: u64,
    /// Tombstones that hide nothing, of entries that expired.
    pub expired: u64,
    /// Entries that a filter does not want, and that hide nothing.
    pub filtered: u64,
    /// Combined into a newer entry of their key.
    pub merged: u64,
}

impl DropCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        let gone = self.shadowed + self.tombstones + self.dropped_keyspace + self.range_deleted;
        gone + self.expired + self.filtered + self.merged
    }

    fn count(&mut self, why: Dropped) {
        *match why {
            Dropped::Shadowed => &mut self.shadowed,
            Dropped::Tombstone => &mut self.tombstones,
            Dropped::DroppedKeyspace => &mut self.dropped_keyspace,
            Dropped::RangeDeleted => &mut self.range_deleted,
            Dropped::Expired => &mut self.expired,
            Dropped::Filtered => &mut self.filtered,
        } += 1;
    }
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody can still see it.
    Kept,
    /// It goes.
    Dropped(Dropped),
    /// There is none: the input has ended.
    End,
}

/// False for an entry that a filter does not want.
pub type Keeps<'a> = dyn Fn(UserKey<'_>, &[u8]) -> bool + 'a;

/// The value at the place in a blob file that a stored value names; `None` if it cannot be read
/// now.
pub type Fetch<'a> = dyn Fn(UserKey<'_>, &[u8]) -> Option<Vec<u8>> + 'a;

/// What decides about entries.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The snapshots and what is visible.
    pub stripes: &'a Stripes,
    /// Keyspaces that are gone, each from its sequence number on.
    pub dropped_keyspaces: &'a [(KeyspaceId, SeqNo)],
    /// Ranges of keys that are deleted.
    pub deleted: &'a RangeSet,
    /// The oldest snapshot, if there is one.
    pub oldest_snapshot: Option<SeqNo>,
    /// May an older run outside the input hold the key? If unsure: yes.
    pub may_exist_below: &'a dyn Fn(UserKey<'_>) -> bool,
    /// How operands are combined; not at all if there is no operator.
    pub folding: Option<Folding<'a>>,
    /// False for a put that is to go as if it were deleted. Asked only where no snapshot can see
    /// the entry.
    pub keeps: Option<&'a Keeps<'a>>,
    /// Reads a value from its blob file, for operators and filters; without it such entries stay as
    /// they are.
    pub fetch: Option<&'a Fetch<'a>>,
}

impl std::fmt::Debug for Rules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules")
            .field("stripes", &self.stripes)
            .field("dropped_keyspaces", &self.dropped_keyspaces)
            .field("deleted", &self.deleted)
            .field("oldest_snapshot", &self.oldest_snapshot)
            .finish_non_exhaustive()
    }
}

/// The entries of `I` that somebody can still see.
pub struct CompactionIter<'a, I> {
    input: I,
    rules: Rules<'a>,
    /// The dropped keyspaces of the rules, to be looked up.
    dropped: HashMap<KeyspaceId, SeqNo>,
    /// The user key of the last entry judged, and what became of it.
    last: Option<Last>,
    /// The keyspace of the last entry, and whether its entries go.
    keyspace: Option<(KeyspaceId, bool)>,
    key: Vec<u8>,
    read: u64,
    counts: DropCounts,
    started: bool,
    /// The input stands on an entry that is counted as read and not judged yet.
    ahead: bool,
    /// The present entry counts as a tombstone: it has expired, or the filter does not want it.
    gone: bool,
    /// The present entry, where it is not the input's, and those that come after it; all of the
    /// last key.
    folded: VecDeque<Part>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    keyspace: KeyspaceId,
    seq: SeqNo,
    /// Older versions of the key are hidden in this stripe.
    hides: Option<usize>,
}

impl<'a, I: InternalIterator> CompactionIter<'a, I> {
    /// Goes through `input` from its first entry.
    pub fn new(input: I, rules: Rules<'a>) -> CompactionIter<'a, I> {
        CompactionIter {
            input,
            dropped: rules.dropped_keyspaces.iter().copied().collect(),
            rules,
            last: None,
            keyspace: None,
            key: Vec::new(),
            read: 0,
            counts: DropCounts::default(),
            started: false,
            ahead: false,
            gone: false,
            folded: VecDeque::new(),
        }
    }

    /// How many entries were read so far.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// How many of them went.
    pub fn counts(&self) -> DropCounts {
        self.counts
    }

    /// Moves to the next entry and says what becomes of it. After an error the iterator must not be
    /// asked again.
    #[inline]
    pub fn advance(&mut self) -> Result<Step> {
        self.folded.pop_front();
        if !self.folded.is_empty() {
            return Ok(Step::Kept);
        }
        if !self.step()? {
            return Ok(Step::End);
        }
        match self.judge()? {
            None => Ok(Step::Kept),
            Some(why) => {
                self.counts.count(why);
                Ok(Step::Dropped(why))
            }
        }
    }

    /// The next entry that stays; `None` at the end.
    pub fn next_kept(&mut self) -> Result<Option<(KeyRef<'_>, &[u8])>> {
        loop {
            match self.advance()? {
                Step::Kept => return Ok(Some(self.entry())),
                Step::Dropped(_) => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// The entry that [`CompactionIter::advance`] moved to.
    #[inline]
    pub fn entry(&self) -> (KeyRef<'_>, &[u8]) {
        if let Some(part) = self.folded.front() {
            let keyspace = self.last.map_or(KeyspaceId(0), |last| last.keyspace);
            let user = UserKey::new(keyspace, &self.key);
            return (KeyRef::new(user, part.seq, part.kind), &part.value);
        }
        let key = self.input.key();
        if self.gone {
            return (KeyRef::new(key.user, key.seq, ValueKind::Tombstone), &[]);
        }
        (key, self.input.value())
    }

    /// Moves to the next entry of the input; false at its end.
    #[inline]
    fn step(&mut self) -> Result<bool> {
        if std::mem::take(&mut self.ahead) {
            return Ok(self.input.valid());
        }
        let moved = match std::mem::replace(&mut self.started, true) {
            true => self.input.next(),
            false => self.input.first(),
        };
        if moved.is_err() && mutant("merge-ends-at-error") {
            return Ok(false);
        }
        moved?;
        let valid = self.input.valid();
        self.read += u64::from(valid);
        Ok(valid)
    }

    /// Why the present entry goes, or `None` if it stays.
    #[inline]
    fn judge(&mut self) -> Result<Option<Dropped>> {
        self.gone = false;
        let key = self.input.key();
        let newer = self.newer_version(key)?;
        let stripe = self.rules.stripes.of(key.seq);
        if newer.is_none() {
            self.key.clear();
            self.key.extend_from_slice(key.user.bytes);
        }
        let shadowed = newer.is_some_and(|newer| newer.hides == Some(stripe));
        let deleted = is_range_deleted(&self.rules, key, stripe);
        let is_operand = key.kind == ValueKind::Merge && !shadowed && !deleted;
        self.last = Some(Last {
            keyspace: key.user.keyspace,
            seq: key.seq,
            hides: Some(stripe).filter(|_| !is_operand),
        });
        let id = key.user.keyspace;
        if keyspace_is_gone(&mut self.keyspace, &self.rules, &self.dropped, id) {
            return Ok(Some(Dropped::DroppedKeyspace));
        }
        if shadowed || newer.is_some() && mutant("drop-version-early") {
            return Ok(Some(Dropped::Shadowed));
        }
        if deleted {
            return Ok(Some(Dropped::RangeDeleted));
        }
        let hides = match key.kind {
            ValueKind::Tombstone => Dropped::Tombstone,
            ValueKind::Put | ValueKind::Blob if self.is_unwanted(stripe) => Dropped::Filtered,
            ValueKind::Merge => return self.fold(stripe).map(|()| None),
            kind if kind.expires() && self.has_expired(stripe)? => Dropped::Expired,
            _ => return Ok(None),
        };
        self.gone = hides != Dropped::Tombstone;
        if hides == Dropped::Expired && mutant("expired-hides-nothing") {
            self.last = self.last.map(|last| Last {
                hides: None,
                ..last
            });
        }
        let user = self.input.key().user;
        let hides_nothing =
            stripe == 0 && (!(self.rules.may_exist_below)(user) || mutant("drop-tombstone-early"));
        Ok(hides_nothing.then_some(hides))
    }

    /// True if the time of the present entry, which is of a kind that expires, is over for all
    /// readers of the stripe.
    fn has_expired(&self, stripe: usize) -> Result<bool> {
        let (time, _) = split_expiry(self.input.value())?;
        Ok(time <= self.rules.stripes.time_of(stripe))
    }

    /// True if the filter does not want the present entry. A snapshot must not see it go.
    #[inline]
    fn is_unwanted(&self, stripe: usize) -> bool {
        let Some(keeps) = self.rules.keeps else {
            return false;
        };
        stripe == 0 && self.rules.oldest_snapshot.is_none() && self.is_refused(keeps)
    }

    /// What the filter says of the present entry.
    #[cold]
    fn is_refused(&self, keeps: &Keeps<'_>) -> bool {
        let (key, value) = (self.input.key(), self.input.value());
        match key.kind.in_blob() {
            false => !keeps(key.user, value),
            true => self
                .fetched(key.user, value)
                .is_some_and(|value| !keeps(key.user, &value)),
        }
    }

    fn fetched(&self, user: UserKey<'_>, stored: &[u8]) -> Option<Vec<u8>> {
        self.rules.fetch.and_then(|fetch| fetch(user, stored))
    }

    /// Combines the operand that the input is on with what follows in its stripe.
    #[cold]
    fn fold(&mut self, stripe: usize) -> Result<()> {
        let Some(folding) = self.rules.folding else {
            return Ok(());
        };
        let mut chain = Chain::new(self.input.key().seq, self.input.value());
        let base = self.collect(&mut chain, stripe, folding)?;
        let last = chain.parts.last().map(|part| part.seq);
        let Some(last) = self.last.as_mut().zip(last).map(|(known, seq)| {
            known.seq = seq;
            known
        }) else {
            return Ok(());
        };
        let user = UserKey::new(last.keyspace, &self.key);
        let whole = base != Base::Unknown;
        if let Some(merged) = chain.combine(user, whole, folding) {
            self.counts.merged += merged;
            last.hides = Some(stripe).filter(|_| whole);
        } else if base == Base::Taken {
            last.hides = Some(stripe); // The put stays as it is.
        }
        self.folded = chain.parts.into();
        Ok(())
    }

    /// Moves the input past the operands of the key in `stripe`, and the put below them, and
    /// takes them along.
    fn collect(&mut self, chain: &mut Chain, stripe: usize, folding: Folding<'_>) -> Result<Base> {
        loop {
            let newer = chain.parts.last().map_or(SeqNo::ZERO, |part| part.seq);
            self.ahead = false;
            self.ahead = self.step()?;
            let user = self.last.map(|last| UserKey::new(last.keyspace, &self.key));
            let Some(user) = user else {
                return Ok(Base::Unknown);
            };
            let key = self.input.valid().then(|| self.input.key());
            let Some(key) = key.filter(|key| key.user == user) else {
                let absent = !(self.rules.may_exist_below)(user) || mutant("fold-without-base");
                return Ok(if absent { Base::Absent } else { Base::Unknown });
            };
            if key.seq >= newer {
                return Ok(Base::Unknown); // Out of order: that is noticed when it is judged.
            }
            if folding.deleted_between(user, key.seq, newer) {
                return Ok(Base::Absent);
            }
            if self.rules.stripes.of(key.seq) != stripe {
                return Ok(Base::Unknown);
            }
            match key.kind {
                ValueKind::Merge if chain.is_long() => return Ok(Base::Unknown),
                ValueKind::Merge | ValueKind::Put => {
                    chain.push(key.seq, key.kind, self.input.value());
                    if key.kind == ValueKind::Put {
                        self.ahead = false;
                        return Ok(Base::Taken);
                    }
                }
                ValueKind::Tombstone => return Ok(Base::Absent),
                ValueKind::Blob => {
                    let Some(value) = self.fetched(user, self.input.value()) else {
                        return Ok(Base::Unknown);
                    };
                    chain.push(key.seq, ValueKind::Put, &value);
                    self.ahead = false;
                    return Ok(Base::Taken);
                }
                // A base that a reader still sees stays what it is: once it has expired, the
                // operands are the value.
                kind if kind.expires() && self.has_expired(stripe)? => return Ok(Base::Absent),
                _ => return Ok(Base::Unknown),
            }
        }
    }

    /// The next newer version of `key`, if there is one; an error if `key` does not come after the
    /// last entry.
    #[inline]
    fn newer_version(&self, key: KeyRef<'_>) -> Result<Option<Last>> {
        let Some(last) = self.last else {
            return Ok(None);
        };
        let last_user = UserKey::new(last.keyspace, &self.key);
        match last_user.cmp(&key.user) {
            Ordering::Less => Ok(None),
            Ordering::Equal if last.seq > key.seq => Ok(Some(last)),
            _ => Err(Error::corruption(format!(
                "tables to be merged hold {key:?} after {last_user:?}#{}",
                last.seq
            ))),
        }
    }
}

/// True if a delete of a range hides `key` from every reader that could see it.
#[inline]
fn is_range_deleted(rules: &Rules<'_>, key: KeyRef<'_>, stripe: usize) -> bool {
    if rules.deleted.is_empty() {
        return false;
    }
    let hidden_by = rules.deleted.oldest_above(key.user, key.seq);
    hidden_by.is_some_and(|seq| rules.stripes.of(seq) == stripe)
}

/// True if the entries of `id` go. Asked once for each stretch of a keyspace.
#[inline]
fn keyspace_is_gone(
    known: &mut Option<(KeyspaceId, bool)>,
    rules: &Rules<'_>,
    dropped: &HashMap<KeyspaceId, SeqNo>,
    id: KeyspaceId,
) -> bool {
    if let Some((last, gone)) = *known
        && last == id
    {
        return gone;
    }
    let gone = dropped
        .get(&id)
        .is_some_and(|at| rules.oldest_snapshot.is_none_or(|oldest| oldest >= *at));
    *known = Some((id, gone));
    gone
}

impl<I: std::fmt::Debug> std::fmt::Debug for CompactionIter<'_, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompactionIter")
            .field("input", &self.input)
            .field("read", &self.read)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}
