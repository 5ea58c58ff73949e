//! Conditions of a write: what must not have changed since it was decided.
//!
//! A write on a condition (a swap, a counter, a transaction) is decided outside of
//! every lock, as of a sequence number `since`, and hands the write to the commit path together
//! with what it looked at. Under the commit lock it is then asked whether any of that has an entry
//! above `since`. If so nothing is written, and the caller reads and decides again.
//!
//! ```text
//! read k at #7, decide    another thread appends k#8    append: k has an entry above #7 -> changed, again
//! ```
//!
//! The newest appended entries count, published or not, so that many writers of one key are decided
//! one after the other and then share a sync. A range delete counts as a write of each of its keys.
//! Under the lock only a bounded piece of memory is looked at: if more than a list's entries lie in
//! sealed pieces above `since`, or anything in tables, the answer is "changed" without a look, and
//! a wrong "changed" costs but a repetition. An attempt that was overtaken several times insists:
//! then all of it is looked at under the lock, so that every decision comes to its end. Such an
//! attempt registers its read point before it reads ([`Checks::pinned`]): a flush or a compaction
//! could drop a key together with its tombstone, which is the trace of the delete.

use terrace_base::{Error, ErrorKind, Result, SeqNo, mutant};

use crate::commit::queue_bounds::{Ends, Proof};
use crate::keyspace::state::KeyspaceState;
use crate::options::LIST_ENTRIES;
use crate::read::basis::{Basis, CheckedKey, Stretch};
use crate::read::view::View;

/// The most keys that are looked up in sealed pieces under the commit lock.
const FEW_KEYS: usize = 256;
/// Attempts after which a write registers its read point and checks everything under the lock.
pub(crate) const PATIENCE: u32 = 4;

/// What must have no entry above `since`.
#[derive(Debug)]
pub(crate) struct Checks<'a> {
    pub(crate) since: SeqNo,
    /// In order.
    pub(crate) keys: &'a [CheckedKey<'a>],
    /// In order, and not overlapping.
    pub(crate) ranges: &'a [Stretch],
    /// That the first range holds nothing alive: noted once that is certain.
    pub(crate) proof: Option<Proof<'a>>,
    /// Keyspaces without an entry that expires. A writer of such an entry marks the keyspace first.
    pub(crate) lasting: &'a [&'a KeyspaceState],
    /// How often this write was overtaken.
    pub(crate) attempt: u32,
    /// A registered read point keeps the keys that were read, and so the tombstones above them.
    pub(crate) pinned: bool,
}

impl<'a> Checks<'a> {
    pub(crate) fn keys(since: SeqNo, keys: &'a [CheckedKey<'a>]) -> Checks<'a> {
        Checks {
            since,
            keys,
            ranges: &[],
            proof: None,
            lasting: &[],
            attempt: 0,
            pinned: false,
        }
    }

    /// That keyspaces hold nothing that expires, and nothing else.
    pub(crate) fn lasting(keyspaces: &'a [&'a KeyspaceState]) -> Checks<'a> {
        Checks {
            lasting: keyspaces,
            ..Checks::keys(SeqNo::MAX, &[])
        }
    }

    /// True if nothing has changed. REQUIRES: the commit lock is held, `view` is the present one,
    /// and `appended` the last number given out.
    pub(crate) fn hold(&self, view: &View, appended: SeqNo, ends: &mut Ends) -> Result<bool> {
        let may_expire = self.lasting.iter().any(|state| state.may_expire());
        if may_expire && !mutant("merge-unchecked") {
            return Ok(false);
        }
        if self.proof.as_ref().is_some_and(|proof| !ends.admit(proof)) {
            return Ok(false);
        }
        if appended > self.since {
            let insists = self.attempt >= PATIENCE && self.pinned;
            if !insists && self.takes_long(view) {
                return Ok(false);
            }
            let basis = Basis {
                keys: if mutant("skip-recheck-of-keys") {
                    &[]
                } else {
                    self.keys
                },
                ranges: if mutant("skip-recheck-of-ranges") {
                    &[]
                } else {
                    self.ranges
                },
            };
            if view.changed(&basis, self.since)?.is_some() {
                return Ok(false);
            }
        }
        if let Some(proof) = &self.proof {
            ends.note_proof(proof);
        }
        Ok(true)
    }

    /// True if it takes long to see whether anything has changed.
    fn takes_long(&self, view: &View) -> bool {
        if view.tables_upto > self.since {
            return true;
        }
        let newer = view
            .sealed
            .iter()
            .take_while(|run| run.last_seq > self.since);
        (self.keys.len() > FEW_KEYS || !self.ranges.is_empty())
            && newer.map(|run| run.entries).sum::<u64>() > LIST_ENTRIES as u64
    }
}

/// The error of a condition on `key` that does not hold.
#[cold]
pub(crate) fn conflict(key: &[u8], what: &str) -> Error {
    let shown = key.get(..64).unwrap_or(key).escape_ascii();
    Error::new(ErrorKind::Conflict, format!("key `{shown}` {what}")).about_key(key)
}
