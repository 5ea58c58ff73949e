//! Walking over keys that are dead, many of them in a row
//!
//! A walk comes here at the first dead key, and goes back to its loop at the first that is not.
//! Every [`STEP`] keys it asks whether it is in a stretch that is known to be dead, and goes on at
//! its end; in the end it says what it has found dead. See [`crate::read::dead_ranges`].
//!
//! What a transaction has written itself may lie in a stretch: the walk stops there. And what is
//! dead to a transaction that has written may be alive to others: it proves nothing.

use std::ops::Bound;
use std::sync::OnceLock;

use terrace_base::key::{EXPIRY_LEN, split_expiry};
use terrace_base::{
    Error, InternalIterator, KeyRef, KeyspaceId, Result, SeqNo, UserKey, ValueKind, mutant,
};

use crate::read::db_iter::{IN_BLOB, Walk};
use crate::read::dead_ranges::{STEP, Upper};

/// The least key above `key`.
fn next_key(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

impl Walk {
    /// From a dead key, which the source stands on, over all that follow.
    #[inline(never)]
    pub(crate) fn pass_dead_ahead(&mut self) -> Result<()> {
        let mut passed = 0_usize;
        let mut from = None;
        loop {
            passed += 1;
            if !passed.is_multiple_of(STEP) || !self.jump_ahead(&mut from)? {
                self.remember_key();
                self.sources.next()?;
            }
            if !self.is_on_dead_key()? {
                break;
            }
        }
        if let Some(from) = from.filter(|_| self.proves) {
            let to = self.dead_up_to();
            let stretches = &self.context.stretches;
            stretches.found_dead(self.keyspace, &from, to.as_deref(), &self.key, &self.at);
        }
        Ok(())
    }

    /// True if the next key that may be seen, from where the source stands, is within the bounds
    /// and dead.
    fn is_on_dead_key(&mut self) -> Result<bool> {
        while !self.plain() && self.sources.valid() {
            let key = self.sources.key();
            if key.user.keyspace != self.keyspace || !self.bounds.below_upper(key.user.bytes) {
                return Ok(false);
            }
            let hidden = (key.seq > self.at.seq && key.seq != SeqNo::MAX)
                || (self.skipping && key.user.bytes == self.key.as_slice());
            if !hidden {
                let kind = key.kind;
                return Ok(!self.is_live(kind, |walk| walk.sources.value())?);
            }
            self.sources.next()?;
        }
        Ok(false)
    }

    /// On a dead key: moves to the end of the stretch that it lies in; false if that is not known.
    /// `from` becomes the key from which on all is known to be dead.
    fn jump_ahead(&mut self, from: &mut Option<Vec<u8>>) -> Result<bool> {
        let here = self.here().to_vec();
        let known = &self.context.stretches;
        let Some((lower, upper)) = known.around(self.keyspace, &here, &mut self.at, &self.context)
        else {
            from.get_or_insert(here);
            return Ok(false);
        };
        let own = self.own.as_ref().filter(|_| !mutant("stretch-hides-own"));
        let own = own.and_then(|own| {
            let behind = (Bound::Excluded(here.as_slice()), Bound::Unbounded);
            own.range::<[u8], _>(behind)
                .next()
                .map(|(key, _)| key.to_vec())
        });
        let target = match (own, upper) {
            (Some(own), Some(upper)) => Some(own.min(upper)),
            (own, upper) => own.or(upper),
        };
        match target {
            Some(key) => self.sources.seek(self.newest_of(&key))?,
            None => {
                let Some(next) = self.keyspace.0.checked_add(1) else {
                    return Ok(false);
                };
                let end = UserKey::new(KeyspaceId(next), &[]);
                self.sources.seek(KeyRef::lookup(end, SeqNo::MAX))?;
            }
        }
        from.get_or_insert(lower);
        Ok(true)
    }

    /// Where the stretch of dead keys ends that the walk has come to the end of.
    fn dead_up_to(&self) -> Upper {
        let is_here = self.sources.valid() && self.sources.key().user.keyspace == self.keyspace;
        match (&self.bounds.upper, is_here) {
            (_, true) if self.bounds.below_upper(self.here()) => Some(self.here().to_vec()),
            (Bound::Included(upper) | Bound::Excluded(upper), _) => Some(upper.to_vec()),
            (Bound::Unbounded, _) => None,
        }
    }

    /// Steps backwards over dead keys, from a saved key that is dead and a source before it. True
    /// if a live key was saved.
    #[inline(never)]
    pub(crate) fn pass_dead_back(&mut self) -> Result<bool> {
        let mut passed = 1_usize;
        let mut to = None;
        let mut last = Vec::new();
        let mut saved = false;
        while !self.plain() && self.sources.valid() {
            let key = self.sources.key();
            if key.user.keyspace != self.keyspace || !self.bounds.above_lower(key.user.bytes) {
                break;
            }
            if passed.is_multiple_of(STEP) {
                passed += 1;
                last.clone_from(&self.key);
                if self.jump_back(&mut to)? {
                    continue;
                }
            }
            saved = self.save_newest()?;
            if saved {
                break;
            }
            passed += 1;
        }
        if let Some(to) = to.filter(|_| self.proves) {
            let from = self.dead_down_to(saved);
            let stretches = &self.context.stretches;
            stretches.found_dead(self.keyspace, &from, to.as_deref(), &last, &self.at);
        }
        Ok(saved)
    }

    /// Behind a dead key, the saved one: moves in front of the stretch that it lies in; false if
    /// that is not known.
    fn jump_back(&mut self, to: &mut Option<Upper>) -> Result<bool> {
        let known = &self.context.stretches;
        let found = known.around(self.keyspace, &self.key, &mut self.at, &self.context);
        let Some((lower, upper)) = found else {
            to.get_or_insert_with(|| Some(self.key.clone()));
            return Ok(false);
        };
        let own = self.own.as_ref().and_then(|own| {
            let within = (
                Bound::Included(lower.as_slice()),
                Bound::Excluded(self.key.as_slice()),
            );
            let mut within = (lower < self.key).then(|| own.range::<[u8], _>(within))?;
            within.next_back().map(|(key, _)| key.to_vec())
        });
        let (key, seq) = match &own {
            Some(own) => (own, SeqNo::ZERO),
            None => (&lower, SeqNo::MAX),
        };
        let before = KeyRef::lookup(UserKey::new(self.keyspace, key), seq);
        self.sources.seek_for_prev(before)?;
        to.get_or_insert(upper);
        Ok(true)
    }

    fn dead_down_to(&self, saved: bool) -> Vec<u8> {
        if saved {
            return next_key(&self.key);
        }
        let is_here = self.sources.valid() && self.sources.key().user.keyspace == self.keyspace;
        match &self.bounds.lower {
            _ if is_here && self.bounds.above_lower(self.here()) => next_key(self.here()),
            Bound::Included(lower) => lower.to_vec(),
            Bound::Excluded(lower) => next_key(lower),
            Bound::Unbounded => Vec::new(),
        }
    }

    /// [`Walk::is_live`] of an entry that is neither put nor tombstone.
    #[cold]
    pub(crate) fn is_special_live(
        &mut self,
        kind: ValueKind,
        value: fn(&Walk) -> &[u8],
    ) -> Result<bool> {
        match kind {
            ValueKind::PutExpiring => {
                let (time, _) = split_expiry(value(self))?;
                self.skip = EXPIRY_LEN;
                let now = *self.at.now.get_or_insert_with(|| self.context.now());
                Ok(now < time)
            }
            ValueKind::Blob | ValueKind::BlobExpiring => {
                self.skip = IN_BLOB;
                self.large = OnceLock::new();
                if kind == ValueKind::Blob {
                    return Ok(true);
                }
                let (time, _) = split_expiry(value(self))?;
                let now = *self.at.now.get_or_insert_with(|| self.context.now());
                Ok(now < time)
            }
            ValueKind::Merge => Ok(true),
            ValueKind::Put | ValueKind::Tombstone => {
                Err(Error::bug("a plain value was to be resolved"))
            }
        }
    }
}
