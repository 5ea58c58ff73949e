//! Walking over the live entries of a keyspace, in both directions.
//!
//! Below lie all versions of all keys, merged from the memtable's pieces and the runs that can hold
//! the range. A [`Walk`] shows of each key the newest version at its read point, if that is not a
//! tombstone.
//!
//! Forwards the newest visible version of a key comes first: it is shown where it lies, and the
//! rest of the key's versions are skipped by comparing with a copy of the key. Backwards the
//! versions come oldest first, so the best so far is copied until the key changes; the source then
//! stands before the key shown.
//!
//! An entry that is neither put nor tombstone is looked at on a cold path, [`Walk::is_live`]. Where
//! the newest version of a key is an operand, those below it are gathered and combined, and the
//! result is shown: forwards the source then stands on or after the key.
//!
//! What a transaction has written itself is one more source, of entries at [`SeqNo::MAX`] that hide
//! all others; and what it reads is noted in a [`Trace`].
//!
//! With one source, which is the state of a settled database, there is no merge; and in a block
//! that holds only one put of each key, all of them visible, no version is looked at: a step is a
//! step in the block.

mod skip_dead;

use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use terrace_base::{InternalIterator, KeyRef, KeyspaceId, Result, SeqNo, UserKey, ValueKind};
use terrace_compaction::BlobFiles;

use crate::bounds::OwnedBounds;
use crate::memtable::tx_buffer::Own;
use crate::read::blob::Want;
use crate::read::context::{Context, ReadPoint};
use crate::read::iter::{Overlay, Scan};
use crate::read::read_set::Trace;
pub(crate) use crate::read::sources::{Source, versions};
use crate::read::sources::{Sources, sources};

/// What [`Walk::skip`] is where the stored value is a reference to a blob file.
const IN_BLOB: usize = usize::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// On no entry.
    Nowhere,
    /// The entry is the source's; moving forwards.
    Ahead,
    /// The entry is the source's; moving backwards.
    Back,
    /// The entry is the saved one, and the source stands before its key; moving backwards.
    Saved,
    /// The entry is the saved one, and the source stands on an older version of its key, or after
    /// it; moving forwards.
    Made,
}

/// A position among the live entries of a keyspace.
#[derive(Debug)]
pub(crate) struct Walk {
    sources: Sources,
    keyspace: KeyspaceId,
    at: ReadPoint,
    context: Arc<Context>,
    bounds: OwnedBounds,
    position: Position,
    /// How many bytes of the stored value come before the value shown; [`IN_BLOB`] if that lies
    /// elsewhere.
    skip: usize,
    /// The files that it may lie in.
    blobs: Option<Arc<BlobFiles>>,
    /// The value shown, once it was read from one.
    large: OnceLock<Bytes>,
    /// Forwards: the key whose versions are done with. Backwards: the key shown, if it was copied.
    key: Vec<u8>,
    value: Vec<u8>,
    /// `key` names a key to skip.
    skipping: bool,
    /// What a walk is placed in front of a key with: `at`, or in a transaction what is in front of
    /// its own writes.
    in_front: SeqNo,
    /// Notes what was walked over.
    trace: Option<Box<Trace>>,
    /// What the transaction has written itself.
    own: Option<Arc<Own>>,
    /// What is dead to this walk is dead to others.
    proves: bool,
}

impl Walk {
    /// The entries that `scan` names; on none of them yet.
    pub(crate) fn new(scan: &Scan) -> Walk {
        Walk {
            sources: sources(scan),
            keyspace: scan.keyspace,
            at: scan.at,
            context: scan.context.clone(),
            bounds: scan.bounds.clone(),
            position: Position::Nowhere,
            skip: 0,
            blobs: Some(scan.view.version.blobs())
                .filter(|blobs| !blobs.is_empty())
                .cloned(),
            large: OnceLock::new(),
            key: Vec::new(),
            value: Vec::new(),
            skipping: false,
            in_front: match &scan.overlay {
                Some(Overlay { own: Some(_), .. }) => SeqNo::MAX,
                _ => scan.at.seq,
            },
            trace: scan.overlay.as_ref().and_then(|overlay| {
                let reads = overlay.reads.clone()?;
                Some(Box::new(Trace::new(reads, scan.keyspace)))
            }),
            own: scan
                .overlay
                .as_ref()
                .and_then(|overlay| overlay.own.clone()),
            proves: scan.overlay.as_ref().is_none_or(Overlay::is_empty),
        }
    }

    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.position != Position::Nowhere
    }

    /// The key of the entry, empty where there is none.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        match self.position {
            Position::Nowhere => &[],
            Position::Ahead | Position::Back => self.sources.user_key(),
            Position::Saved | Position::Made => &self.key,
        }
    }

    /// The value of the entry, empty where there is none.
    #[inline]
    pub(crate) fn value(&self) -> Result<&[u8]> {
        let stored = match self.position {
            Position::Nowhere => return Ok(&[]),
            Position::Ahead | Position::Back => self.sources.stored(),
            Position::Saved | Position::Made => &self.value,
        };
        match stored.get(self.skip..) {
            Some(value) => Ok(value),
            None => self.large(stored).map(|value| &**value),
        }
    }

    /// The value that `stored` refers to. It is read once, and only if it is asked for.
    #[cold]
    fn large(&self, stored: &[u8]) -> Result<&Bytes> {
        if let Some(value) = self.large.get() {
            return Ok(value);
        }
        let user = UserKey::new(self.keyspace, self.key());
        let value = self.fetch(user, stored)?;
        Ok(self.large.get_or_init(|| value))
    }

    fn fetch(&self, user: UserKey<'_>, stored: &[u8]) -> Result<Bytes> {
        static NONE: BlobFiles = BlobFiles::new();
        crate::read::blob::read(
            self.blobs.as_deref().unwrap_or(&NONE),
            user,
            stored,
            Want::Whole,
        )
    }

    /// The value that an entry of the walk's present key has, whose stored value this is; `skip` is
    /// set for it.
    fn part(&self, stored: &[u8]) -> Result<Vec<u8>> {
        match stored.get(self.skip..) {
            Some(value) => Ok(value.to_vec()),
            None => {
                let user = UserKey::new(self.keyspace, &self.key);
                self.fetch(user, stored).map(|value| value.to_vec())
            }
        }
    }

    pub(crate) fn key_bytes(&self) -> Bytes {
        match self.position {
            Position::Nowhere => Bytes::new(),
            Position::Ahead | Position::Back => self.sources.key_bytes(),
            Position::Saved | Position::Made => Bytes::copy_from_slice(&self.key),
        }
    }

    pub(crate) fn value_bytes(&self) -> Result<Bytes> {
        if self.skip == IN_BLOB {
            self.value()?;
            return Ok(self.large.get().cloned().unwrap_or_default());
        }
        if self.skip > 0 || matches!(self.position, Position::Saved | Position::Made) {
            return self.value().map(Bytes::copy_from_slice);
        }
        Ok(match self.position {
            Position::Nowhere => Bytes::new(),
            _ => self.sources.value_bytes(),
        })
    }

    /// Moves to the first entry.
    pub(crate) fn first(&mut self) -> Result<()> {
        self.start();
        match &self.bounds.lower {
            Bound::Included(key) => {
                self.sources.seek(self.newest_of(key))?;
            }
            // Behind every version of the bound: no entry has sequence number 0.
            Bound::Excluded(key) => {
                self.sources.seek(KeyRef::lookup(
                    UserKey::new(self.keyspace, key),
                    SeqNo::ZERO,
                ))?;
            }
            Bound::Unbounded => {
                self.sources.seek(self.newest_of(&[]))?;
            }
        }
        self.settle_ahead()?;
        self.note(|walk, trace| trace.begin(walk.bounds.lower_key(), walk.up_to_here()));
        Ok(())
    }

    /// Moves to the last entry.
    pub(crate) fn last(&mut self) -> Result<()> {
        self.start();
        match &self.bounds.upper {
            Bound::Included(key) => {
                let behind = KeyRef::lookup(UserKey::new(self.keyspace, key), SeqNo::ZERO);
                self.sources.seek_for_prev(behind)?;
            }
            Bound::Excluded(key) => {
                let before = KeyRef::lookup(UserKey::new(self.keyspace, key), SeqNo::MAX);
                self.sources.seek_for_prev(before)?;
            }
            Bound::Unbounded => match self.keyspace.0.checked_add(1) {
                Some(next) => {
                    let before = UserKey::new(KeyspaceId(next), &[]);
                    self.sources
                        .seek_for_prev(KeyRef::lookup(before, SeqNo::MAX))?;
                }
                None => self.sources.last()?,
            },
        }
        self.settle_back()?;
        self.note(|walk, trace| trace.begin(walk.down_to_here(), walk.bounds.upper_key()));
        Ok(())
    }

    /// Moves to the first entry at or behind `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<()> {
        if !self.bounds.above_lower(key) {
            return self.first();
        }
        self.start();
        self.sources.seek(self.newest_of(key))?;
        self.settle_ahead()?;
        self.note(|walk, trace| trace.begin(Bound::Included(key), walk.up_to_here()));
        Ok(())
    }

    /// Moves to the last entry at or before `key`.
    pub(crate) fn seek_for_prev(&mut self, key: &[u8]) -> Result<()> {
        if !self.bounds.below_upper(key) {
            return self.last();
        }
        self.start();
        let behind = KeyRef::lookup(UserKey::new(self.keyspace, key), SeqNo::ZERO);
        self.sources.seek_for_prev(behind)?;
        self.settle_back()?;
        self.note(|walk, trace| trace.begin(walk.down_to_here(), Bound::Included(key)));
        Ok(())
    }

    /// Notes in a transaction what was read.
    #[inline]
    fn note(&mut self, note: impl FnOnce(&Walk, &mut Trace)) {
        if self.trace.is_some() {
            self.note_now(note);
        }
    }

    #[cold]
    #[inline(never)]
    fn note_now(&mut self, note: impl FnOnce(&Walk, &mut Trace)) {
        if let Some(mut trace) = self.trace.take() {
            note(self, &mut trace);
            self.trace = Some(trace);
        }
    }

    /// Where a walk onwards has come to.
    fn up_to_here(&self) -> Bound<&[u8]> {
        match self.valid() {
            true => Bound::Included(self.key()),
            false => self.bounds.upper_key(),
        }
    }

    /// Where a walk backwards has come to.
    fn down_to_here(&self) -> Bound<&[u8]> {
        match self.valid() {
            true => Bound::Included(self.key()),
            false => self.bounds.lower_key(),
        }
    }

    /// True if the source is on an entry of this keyspace in a block that needs no look at
    /// versions.
    #[inline]
    fn plain(&self) -> bool {
        let table = self.sources.table();
        table.is_some_and(|table| table.plain_below(self.keyspace, self.at.seq))
    }

    /// The user key that the source is on.
    #[inline]
    fn here(&self) -> &[u8] {
        self.sources.user_key()
    }

    fn start(&mut self) {
        self.position = Position::Nowhere;
        self.skipping = false;
    }

    /// The position before every version of `key` that can be seen.
    fn newest_of<'a>(&self, key: &'a [u8]) -> KeyRef<'a> {
        KeyRef::lookup(UserKey::new(self.keyspace, key), self.in_front)
    }

    /// True if an entry of this kind, with the stored value that `value` gives, shows its key. Sets
    /// what of the stored value comes before the value.
    #[inline]
    fn is_live(&mut self, kind: ValueKind, value: fn(&Walk) -> &[u8]) -> Result<bool> {
        self.skip = 0;
        match kind {
            ValueKind::Put => Ok(true),
            ValueKind::Tombstone => Ok(false),
            _ => self.is_special_live(kind, value),
        }
    }

    /// Combines the operand that the source is on with the versions below it, and shows the result.
    #[cold]
    fn combine_ahead(&mut self) -> Result<()> {
        self.remember_key();
        let mut newest_first = Vec::new();
        loop {
            let kind = self.sources.key().kind;
            if self.is_live(kind, |walk| walk.sources.value())? {
                newest_first.push(self.part(self.sources.value())?);
            }
            if kind != ValueKind::Merge {
                break;
            }
            self.sources.next()?;
            let user = UserKey::new(self.keyspace, &self.key);
            if !self.sources.valid() || self.sources.key().user != user {
                break;
            }
        }
        let oldest_first: Vec<&[u8]> = newest_first.iter().rev().map(Vec::as_slice).collect();
        self.combine(&oldest_first)?;
        (self.position, self.skipping) = (Position::Made, false);
        Ok(())
    }

    /// The saved value becomes what `parts` are together.
    fn combine(&mut self, parts: &[&[u8]]) -> Result<()> {
        let user = UserKey::new(self.keyspace, &self.key);
        self.value = self.context.policies.combine(user, parts)?;
        self.skip = 0;
        Ok(())
    }

    /// Moves to the next entry; stays nowhere if on none.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<()> {
        match self.trace {
            None => self.step_ahead(),
            Some(_) => self.noted_next(),
        }
    }

    #[cold]
    fn noted_next(&mut self) -> Result<()> {
        self.step_ahead()?;
        self.note(|walk, trace| trace.extend_up(walk.up_to_here()));
        Ok(())
    }

    #[inline]
    fn step_ahead(&mut self) -> Result<()> {
        if self.position == Position::Ahead
            && let Some(table) = self.sources.table_mut()
            && table.next_plain(self.keyspace, self.at.seq)
        {
            if self.bounds.upper != Bound::Unbounded && !self.bounds.below_upper(self.here()) {
                self.position = Position::Nowhere;
            }
            return Ok(());
        }
        self.step_ahead_further()
    }

    /// Moves to the next live entry where that is not the next one of the block.
    fn step_ahead_further(&mut self) -> Result<()> {
        let position = std::mem::replace(&mut self.position, Position::Nowhere);
        match position {
            Position::Nowhere => return Ok(()),
            Position::Ahead => {
                if !self.plain() {
                    self.remember_key();
                }
                self.sources.next()?;
            }
            Position::Made => self.skipping = true,
            Position::Back | Position::Saved => {
                if position == Position::Back {
                    self.remember_key();
                }
                // Behind every version of the key shown.
                let behind = KeyRef::lookup(UserKey::new(self.keyspace, &self.key), SeqNo::ZERO);
                self.sources.seek(behind)?;
                self.skipping = false;
            }
        }
        self.settle_ahead()
    }

    /// Moves to the entry before; stays nowhere if on none.
    #[inline]
    pub(crate) fn prev(&mut self) -> Result<()> {
        match self.trace {
            None => self.step_back(),
            Some(_) => self.noted_prev(),
        }
    }

    #[cold]
    fn noted_prev(&mut self) -> Result<()> {
        self.step_back()?;
        self.note(|walk, trace| trace.extend_down(walk.down_to_here()));
        Ok(())
    }

    #[inline]
    fn step_back(&mut self) -> Result<()> {
        if self.position == Position::Back
            && let Some(table) = self.sources.table_mut()
            && table.prev_plain(self.keyspace, self.at.seq)
        {
            if self.bounds.lower != Bound::Unbounded && !self.bounds.above_lower(self.here()) {
                self.position = Position::Nowhere;
            }
            return Ok(());
        }
        self.step_back_further()
    }

    /// Moves to the previous live entry where that is not the previous one of the block.
    fn step_back_further(&mut self) -> Result<()> {
        let position = std::mem::replace(&mut self.position, Position::Nowhere);
        match position {
            Position::Nowhere => return Ok(()),
            Position::Ahead | Position::Made => {
                if position == Position::Ahead {
                    self.remember_key();
                }
                let before = KeyRef::lookup(UserKey::new(self.keyspace, &self.key), SeqNo::MAX);
                self.sources.seek_for_prev(before)?;
            }
            // A block where this holds has one version of each key.
            Position::Back => self.sources.prev()?,
            Position::Saved => {}
        }
        self.settle_back()
    }

    fn remember_key(&mut self) {
        self.key.clear();
        self.key.extend_from_slice(self.sources.key().user.bytes);
        self.skipping = true;
    }

    /// From where the source stands, onwards to the next live key.
    #[inline]
    fn settle_ahead(&mut self) -> Result<()> {
        while !self.plain() {
            if !self.sources.valid() {
                return Ok(());
            }
            let key = self.sources.key();
            if key.user.keyspace != self.keyspace || !self.bounds.below_upper(key.user.bytes) {
                return Ok(());
            }
            let hidden = (key.seq > self.at.seq && key.seq != SeqNo::MAX)
                || (self.skipping && key.user.bytes == self.key.as_slice());
            if hidden {
                self.sources.next()?;
                continue;
            }
            let kind = key.kind;
            if !self.is_live(kind, |walk| walk.sources.value())? {
                self.pass_dead_ahead()?;
                continue;
            }
            if kind == ValueKind::Merge {
                return self.combine_ahead();
            }
            self.position = Position::Ahead;
            self.skipping = false;
            return Ok(());
        }
        if self.bounds.upper == Bound::Unbounded || self.bounds.below_upper(self.here()) {
            self.position = Position::Ahead;
            (self.skipping, self.skip) = (false, 0);
        }
        Ok(())
    }

    /// From where the source stands, backwards to the next live key.
    #[inline]
    fn settle_back(&mut self) -> Result<()> {
        while !self.plain() {
            if !self.sources.valid() {
                return Ok(());
            }
            let key = self.sources.key();
            if key.user.keyspace != self.keyspace || !self.bounds.above_lower(key.user.bytes) {
                return Ok(());
            }
            if self.save_newest()? || self.pass_dead_back()? {
                self.position = Position::Saved;
                return Ok(());
            }
        }
        if self.bounds.lower == Bound::Unbounded || self.bounds.above_lower(self.here()) {
            self.position = Position::Back;
            self.skip = 0;
        }
        Ok(())
    }

    /// Goes backwards over all versions of the source's key and saves the newest that may be seen;
    /// false if that is a tombstone or there is none.
    fn save_newest(&mut self) -> Result<bool> {
        self.key.clear();
        self.key.extend_from_slice(self.sources.key().user.bytes);
        let mut base = ValueKind::Tombstone;
        let mut operands = Vec::new(); // Those above it, oldest first.
        while self.sources.valid() {
            let key = self.sources.key();
            if key.user.keyspace != self.keyspace || key.user.bytes != self.key.as_slice() {
                break;
            }
            if key.seq <= self.at.seq || key.seq == SeqNo::MAX {
                if key.kind == ValueKind::Merge {
                    operands.push(self.sources.value().to_vec());
                } else {
                    base = key.kind;
                    operands.clear();
                    self.value.clear();
                    self.value.extend_from_slice(self.sources.value());
                }
            }
            self.sources.prev()?;
        }
        let is_live = self.is_live(base, |walk| &walk.value)?;
        if operands.is_empty() {
            return Ok(is_live);
        }
        if is_live {
            let base = self.part(&self.value)?;
            operands.insert(0, base);
        }
        let oldest_first: Vec<&[u8]> = operands.iter().map(Vec::as_slice).collect();
        self.combine(&oldest_first)?;
        Ok(true)
    }
}
