//! A [`CompactionIter`] goes through sorted entries and drops what no reader can see.
//!
//! An entry whose time is over for every reader that could see it counts as a tombstone, and is written as one if it
//! has to stay. An entry goes for one of four reasons, tried in this order:
//!
//! 1. *Dropped keyspace*: its keyspace is gone, and no snapshot is older than that.
//! 2. *Shadowed*: a newer version of its key lies in the same stripe (see [`Stripes`]).
//! 3. *Range delete*: a newer delete of a range that covers it lies in the same stripe.
//! 4. *Tombstone*: nothing that it hides can return. It lies in the oldest stripe, so that rule 2 takes every older
//!    version of its key out of the input, and no older run outside the input can hold the key.
//!
//! A tombstone that goes still shadows: the versions below it must not come back.
//!
//! ```text
//! in        a#9,PUT  a#7,PUT  a#4,DEL  a#2,PUT     snapshots: 5, visible: 9
//! stripe    1        1        0        0
//! out       a#9,PUT  shadowed tombstone shadowed   (if no older run can hold a)
//! ```

use std::cmp::Ordering;

use terrace_base::key::split_expiry;
use terrace_base::{
    Error, InternalIterator, KeyRef, KeyspaceId, RangeSet, Result, SeqNo, UserKey, ValueKind,
    mutant,
};

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
}

impl DropCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.shadowed + self.tombstones + self.dropped_keyspace + self.range_deleted + self.expired
    }

    fn count(&mut self, why: Dropped) {
        *match why {
            Dropped::Shadowed => &mut self.shadowed,
            Dropped::Tombstone => &mut self.tombstones,
            Dropped::DroppedKeyspace => &mut self.dropped_keyspace,
            Dropped::RangeDeleted => &mut self.range_deleted,
            Dropped::Expired => &mut self.expired,
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
    /// The user key of the last entry read, and what became of it.
    last: Option<Last>,
    /// The keyspace of the last entry, and whether its entries go.
    keyspace: Option<(KeyspaceId, bool)>,
    key: Vec<u8>,
    read: u64,
    counts: DropCounts,
    started: bool,
    /// The present entry has expired.
    expired: bool,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    keyspace: KeyspaceId,
    seq: SeqNo,
    stripe: usize,
}

impl<'a, I: InternalIterator> CompactionIter<'a, I> {
    /// Goes through `input` from its first entry.
    pub fn new(input: I, rules: Rules<'a>) -> CompactionIter<'a, I> {
        CompactionIter {
            input,
            rules,
            last: None,
            keyspace: None,
            key: Vec::new(),
            read: 0,
            counts: DropCounts::default(),
            started: false,
            expired: false,
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

    /// Moves to the next entry and says what becomes of it. After an error the iterator must not be asked
    /// again.
    pub fn advance(&mut self) -> Result<Step> {
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
        let key = self.input.key();
        if self.expired {
            return (KeyRef::new(key.user, key.seq, ValueKind::Tombstone), &[]);
        }
        (key, self.input.value())
    }

    /// Moves to the next entry of the input; false at its end.
    fn step(&mut self) -> Result<bool> {
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
    fn judge(&mut self) -> Result<Option<Dropped>> {
        self.expired = false;
        let key = self.input.key();
        let hidden_in = self.hidden_in(key)?;
        let stripe = self.rules.stripes.of(key.seq);
        if hidden_in.is_none() {
            self.key.clear();
            self.key.extend_from_slice(key.user.bytes);
        }
        self.last = Some(Last {
            keyspace: key.user.keyspace,
            seq: key.seq,
            stripe,
        });
        if keyspace_is_gone(&mut self.keyspace, &self.rules, key.user.keyspace) {
            return Ok(Some(Dropped::DroppedKeyspace));
        }
        if hidden_in == Some(stripe) || hidden_in.is_some() && mutant("drop-version-early") {
            return Ok(Some(Dropped::Shadowed));
        }
        if is_range_deleted(&self.rules, key, stripe) {
            return Ok(Some(Dropped::RangeDeleted));
        }
        self.expired = key.kind.expires()
            && split_expiry(self.input.value())?.0 <= self.rules.stripes.time_of(stripe);
        let hides = match key.kind {
            ValueKind::Tombstone => Dropped::Tombstone,
            _ if self.expired => Dropped::Expired,
            _ => return Ok(None),
        };
        let hides_nothing = stripe == 0
            && (!(self.rules.may_exist_below)(key.user) || mutant("drop-tombstone-early"));
        Ok(hides_nothing.then_some(hides))
    }

    /// The stripe of the next newer version of `key`, if there is one; an error if `key` does not come
    /// after the last entry.
    fn hidden_in(&self, key: KeyRef<'_>) -> Result<Option<usize>> {
        let Some(last) = self.last else {
            return Ok(None);
        };
        let last_user = UserKey::new(last.keyspace, &self.key);
        match last_user.cmp(&key.user) {
            Ordering::Less => Ok(None),
            Ordering::Equal if last.seq > key.seq => Ok(Some(last.stripe)),
            _ => Err(Error::corruption(format!(
                "tables to be merged hold {key:?} after {last_user:?}#{}",
                last.seq
            ))),
        }
    }
}

/// True if a delete of a range hides `key` from every reader that could see it.
fn is_range_deleted(rules: &Rules<'_>, key: KeyRef<'_>, stripe: usize) -> bool {
    if rules.deleted.is_empty() {
        return false;
    }
    let fragment = rules.deleted.fragment(key.user);
    let hidden_by = fragment.and_then(|fragment| fragment.oldest_above(key.seq));
    hidden_by.is_some_and(|seq| rules.stripes.of(seq) == stripe)
}

/// True if the entries of `id` go. Asked once for each stretch of a keyspace.
fn keyspace_is_gone(
    known: &mut Option<(KeyspaceId, bool)>,
    rules: &Rules<'_>,
    id: KeyspaceId,
) -> bool {
    if let Some((last, gone)) = *known
        && last == id
    {
        return gone;
    }
    let gone = rules.dropped_keyspaces.iter().any(|&(dropped, at)| {
        dropped == id && rules.oldest_snapshot.is_none_or(|oldest| oldest >= at)
    });
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
