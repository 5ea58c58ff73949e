//! Stretches of keys in which nothing is alive, so that a walk over them is not repeated
//!
//! A queue that is taken from the front has a long stretch of tombstones before its first living
//! key, and whatever reads it from the front would walk over all of them each time: until a flush
//! drops them, or, in tables, until a merge does. So a walk that has stepped over [`STEP`] dead
//! keys in a row asks here whether it is in a *stretch*, and goes on at its end; and what it has
//! walked over in the end makes the stretch longer. A walk that meets few dead keys never comes
//! here.
//!
//! # Why a stretch is right
//!
//! A stretch is `lower..upper` of a keyspace, and says: a reader at `since` or later, by a clock at
//! or before `time`, sees nothing alive in there. A walk at `r` proves this of what it has
//! walked over, for readers at `r`. For later readers it stays true because every write passes
//! here, under the commit lock and before it is visible: one that makes a key in the stretch live
//! cuts the stretch at that key. A reader chooses its sequence number first and asks here second,
//! so it meets the cut of every write that it sees.
//!
//! A proof is older than the moment at which it arrives: keys may have come to life in between.
//! Hence a stretch is *watched*: from the sequence number `watched` on, the nearest live writes on
//! both sides, `below` and `above`, are remembered. A proof at `watched` or later makes the stretch
//! longer as far as these.
//!
//! ```text
//!      below     lower            upper      above
//!        |         [ . . . dead . . )          |
//!                  the next proof may move upper up to here
//! ```
//!
//! A stretch begins empty, where a first walk came to the end of what is dead, and is not watched:
//! the next write begins the watch, or the next scan that finds the commit lock free, because only
//! under that lock it is certain that no write has been overlooked. It is begun anew when a proof
//! was cut short by `above` or `below`, as in a queue whose tail has become its head.
//!
//! Ingests bring keys to life that do not pass here: they make everything be forgotten.

use std::sync::atomic::{AtomicU8, Ordering};

use terrace_base::{KeyspaceId, SeqNo, UserKey, ValueKind, mutant};

use crate::read::context::{Context, ReadPoint};
use crate::sync::{Mutex, Rank, lock};

/// A walk asks after as many dead keys in a row.
pub(crate) const STEP: usize = 32;
/// Stretches that are remembered; the one that was used longest ago makes room.
const MOST: usize = 16;

/// Bits that say which writes have to tell of themselves: live ones because of a stretch that is
/// watched, the next one because of a stretch that is to be, and live ones because of
/// [`crate::commit::queue_bounds`].
const WATCHED: u8 = 1;
const WAITING: u8 = 2;
const ENDS: u8 = 4;

/// The end of a stretch; `None` is the end of the keyspace.
pub(crate) type Upper = Option<Vec<u8>>;

#[derive(Debug)]
struct Stretch {
    keyspace: KeyspaceId,
    lower: Vec<u8>,
    upper: Upper,
    since: SeqNo,
    time: u64,
    /// Live writes above this number are noted in the two below; `None` until the next write.
    watched: Option<SeqNo>,
    /// The greatest live key below `lower` that was written since.
    below: Option<Vec<u8>>,
    /// The least live key at or above `upper` that was written since.
    above: Option<Vec<u8>>,
}

/// True if `key` lies below `upper`.
fn is_below(key: &[u8], upper: Option<&[u8]>) -> bool {
    upper.is_none_or(|upper| key < upper)
}

impl Stretch {
    fn new(keyspace: KeyspaceId, at: &[u8]) -> Stretch {
        Stretch {
            keyspace,
            lower: at.to_vec(),
            upper: Some(at.to_vec()),
            since: SeqNo::ZERO,
            time: 0,
            watched: None,
            below: None,
            above: None,
        }
    }

    fn holds(&self, key: &[u8]) -> bool {
        self.lower.as_slice() <= key && is_below(key, self.upper.as_deref())
    }

    /// `key` has come to life.
    fn cut_at(&mut self, key: &[u8]) {
        let nearest = |nearest: &mut Option<Vec<u8>>, nearer: bool| {
            if nearer {
                *nearest = Some(key.to_vec());
            }
        };
        if key < self.lower.as_slice() {
            let nearer = self.below.as_deref().is_none_or(|below| below < key);
            return nearest(&mut self.below, nearer);
        }
        if is_below(key, self.upper.as_deref()) {
            self.upper = Some(key.to_vec());
        }
        let nearer = self.above.as_deref().is_none_or(|above| key < above);
        nearest(&mut self.above, nearer);
    }

    /// A walk at `at` has found nothing alive from `from` to `to`; false if that says nothing of
    /// this stretch.
    fn extend(&mut self, from: &[u8], to: Option<&[u8]>, at: &ReadPoint) -> bool {
        let touches = is_below(from, self.upper.as_deref()) || Some(from) == self.upper.as_deref();
        if !touches || !(is_below(&self.lower, to) || Some(self.lower.as_slice()) == to) {
            return false;
        }
        if self.watched.is_none_or(|watched| at.seq < watched) {
            return true; // The next walk will know.
        }
        let mut lower = from.to_vec();
        if let Some(below) = &self.below
            && from <= below.as_slice()
        {
            lower = [below, &[0][..]].concat(); // The least key above it.
            self.watched = None;
        }
        let mut upper = to.map(<[u8]>::to_vec);
        if let Some(above) = &self.above
            && is_below(above, to)
            && !mutant("stretch-overlooks-puts")
        {
            upper = Some(above.clone());
            self.watched = None;
        }
        if self.watched.is_none() {
            (self.below, self.above) = (None, None);
        }
        self.lower = std::mem::take(&mut self.lower).min(lower);
        if let Some(now) = &self.upper
            && is_below(now, upper.as_deref())
        {
            self.upper = upper;
        }
        self.since = self.since.max(at.seq);
        self.time = self.time.max(at.now.unwrap_or(0));
        true
    }
}

/// What is known of the keyspaces of an open database.
#[derive(Debug)]
pub(crate) struct Stretches {
    asks: AtomicU8,
    /// The one used last comes last. Held for a moment, with the commit lock or without any other.
    known: Mutex<Vec<Stretch>>,
}

impl Default for Stretches {
    fn default() -> Stretches {
        Stretches {
            asks: AtomicU8::new(0),
            known: Mutex::new(Rank::Leaf, Vec::new()),
        }
    }
}

impl Stretches {
    /// False if no write has to tell of itself. To be asked under the commit lock.
    #[inline]
    pub(crate) fn ask(&self) -> bool {
        self.asks.load(Ordering::Relaxed) != 0
    }

    /// True if a stretch is not watched yet.
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        self.asks.load(Ordering::Relaxed) & WAITING != 0
    }

    /// Live writes have to tell of themselves from now on, also without a stretch.
    pub(crate) fn keep_asking(&self) {
        if self.asks.load(Ordering::Relaxed) & ENDS == 0 {
            let _known = lock(&self.known);
            self.asks.fetch_or(ENDS, Ordering::Relaxed);
        }
    }

    /// Every entry that is written passes here while writes are asked for. REQUIRES: the commit
    /// lock is held, and the entry not visible yet.
    pub(crate) fn wrote(&self, user: UserKey<'_>, seq: SeqNo, kind: ValueKind) {
        let asks = self.asks.load(Ordering::Relaxed);
        let is_live = kind != ValueKind::Tombstone;
        if asks & WAITING == 0 && (asks & WATCHED == 0 || !is_live) {
            return;
        }
        let mut known = lock(&self.known);
        for stretch in known.iter_mut() {
            // Entries of the same write that came before this one count as seen: the watch begins
            // with this number.
            stretch.watched.get_or_insert(seq);
            if is_live && stretch.keyspace == user.keyspace && !mutant("stretch-ignores-put") {
                stretch.cut_at(user.bytes);
            }
        }
        self.set_asks(&known);
    }

    /// Begins to watch what is not watched yet. REQUIRES: the commit lock is held, and `appended`
    /// the last number given out.
    pub(crate) fn watch(&self, appended: SeqNo) {
        if self.is_waiting() {
            let mut known = lock(&self.known);
            for stretch in known.iter_mut() {
                stretch.watched.get_or_insert(appended);
            }
            self.set_asks(&known);
        }
    }

    fn set_asks(&self, known: &[Stretch]) {
        let waiting = known.iter().any(|stretch| stretch.watched.is_none());
        let asks = match (known, waiting) {
            ([], _) => 0,
            (_, false) => WATCHED,
            (_, true) => WATCHED | WAITING,
        };
        let ends = self.asks.load(Ordering::Relaxed) & ENDS;
        self.asks.store(asks | ends, Ordering::Relaxed);
    }

    /// The stretch that `key` lies in, for a reader at `at`: its two ends. Where something in there
    /// has expired, the time of `at` is fixed by it: what the reader proves with the stretch holds
    /// from then on only.
    pub(crate) fn around(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        at: &mut ReadPoint,
        context: &Context,
    ) -> Option<(Vec<u8>, Upper)> {
        if self.asks.load(Ordering::Relaxed) & WATCHED == 0 || mutant("walk-over-all-dead") {
            return None;
        }
        let mut known = lock(&self.known);
        let holds = |stretch: &Stretch| stretch.keyspace == keyspace && stretch.holds(key);
        let n = known.iter().position(holds)?;
        let stretch = known.remove(n);
        let found = (stretch.lower.clone(), stretch.upper.clone());
        let (since, time) = (stretch.since, stretch.time);
        known.push(stretch);
        drop(known);
        if at.seq < since && !mutant("stretch-hides-from-snapshot") {
            return None;
        }
        if time == 0 {
            return Some(found);
        }
        let now = at.now.unwrap_or_else(|| context.now());
        if now < time {
            return None;
        }
        if !mutant("stretch-without-time") {
            at.now = Some(now);
        }
        Some(found)
    }

    /// A walk at `at` has found nothing alive from `from` to `to`; `last` is the last dead key in
    /// there that it met.
    pub(crate) fn found_dead(
        &self,
        keyspace: KeyspaceId,
        from: &[u8],
        to: Option<&[u8]>,
        last: &[u8],
        at: &ReadPoint,
    ) {
        let mut known = lock(&self.known);
        let mut same = known.iter_mut().filter(|known| known.keyspace == keyspace);
        if !same.any(|stretch| stretch.extend(from, to, at)) {
            if known.len() == MOST {
                known.remove(0);
            }
            known.push(Stretch::new(keyspace, last));
        }
        self.set_asks(&known);
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&self) {
        let mut known = lock(&self.known);
        known.clear();
        self.set_asks(&known);
    }
}

#[cfg(test)]
#[path = "dead_ranges_tests.rs"]
mod tests;
