//! Keyspaces: maps of their own in one database, and the catalogue that names them.
//!
//! A keyspace is a 4-byte id in front of its keys: one log, one memtable and one tree serve all of
//! them, so thousands are cheap and a batch across them is one log frame. Creating and dropping one
//! are operations in the log, in commit order with the writes around them; a flush carries those it
//! covers into the manifest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use terrace_base::hash::key_hash;
use terrace_base::{Error, ErrorKind, KeyspaceId, Result, SeqNo, UserKey, ValueKind, mutant};
use terrace_compaction::{KeyRange, KeyspaceRecord, VersionEdit};
use terrace_sstable::TableInfo;

use crate::bounds::KeyBounds;
use crate::db::snapshot::Snapshot;
use crate::db::{Db, Handle};
use crate::keyspace::policies::Policies;
use crate::options::keyspace::KeyspaceOptions;
use crate::read::context::millis;
use crate::sync::{Mutex, MutexGuard, Rank, lock};
use crate::write::batch::{Batch, check_lengths};
use crate::write::expiry::Expiry;
use crate::write::payload::Framing;
use crate::write::write::{Entries, Entry, Write};

/// Longest name of a keyspace in bytes.
pub const MAX_KEYSPACE_NAME_LEN: usize = 255;

/// Name of the keyspace that a [`Db`] itself is.
pub(crate) const DEFAULT_NAME: &str = "default";

/// The names that a keyspace has had since the open. Handles lend out the last of them, so those
/// before stay.
#[derive(Debug)]
struct Names {
    name: String,
    next: OnceLock<Box<Names>>,
}

impl Names {
    fn last(&self) -> &Names {
        let mut last = self;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // One by one: a long row must not go by recursion.
        let mut next = self.next.take();
        while let Some(mut names) = next {
            next = names.next.take();
        }
    }
}

/// What all handles of a keyspace share.
#[derive(Debug)]
pub(crate) struct KeyspaceState {
    pub(crate) id: KeyspaceId,
    names: Names,
    /// Which open database it belongs to.
    pub(crate) owner: u64,
    /// Sequence number at which it was dropped; 0 while it lives.
    dropped: AtomicU64,
    options: Mutex<KeyspaceOptions>,
    /// Milliseconds after which plain puts expire; `u64::MAX` is never.
    expiry: AtomicU64,
    /// It may hold an entry that expires, as far as the tables, the log and the writes since say.
    expiring: AtomicBool,
}

impl KeyspaceState {
    pub(crate) fn new(
        owner: u64,
        id: KeyspaceId,
        name: &str,
        options: KeyspaceOptions,
    ) -> Arc<KeyspaceState> {
        let state = KeyspaceState {
            id,
            names: Names {
                name: name.into(),
                next: OnceLock::new(),
            },
            owner,
            dropped: AtomicU64::new(0),
            options: Mutex::new(Rank::KeyspaceOptions, KeyspaceOptions::default()),
            expiry: AtomicU64::new(u64::MAX),
            expiring: AtomicBool::new(false),
        };
        state.set_options(options);
        Arc::new(state)
    }

    pub(crate) fn name(&self) -> &str {
        &self.names.last().name
    }

    /// REQUIRES: one rename at a time.
    fn rename(&self, name: &str) {
        self.names.last().next.get_or_init(|| {
            Box::new(Names {
                name: name.into(),
                next: OnceLock::new(),
            })
        });
    }

    pub(crate) fn options(&self) -> KeyspaceOptions {
        lock(&self.options).clone()
    }

    fn set_options(&self, options: KeyspaceOptions) {
        let expiry = options.expiry.map_or(u64::MAX, millis);
        *lock(&self.options) = options;
        self.expiry.store(expiry, Ordering::Release);
    }

    /// Milliseconds after which plain puts expire.
    #[inline]
    pub(crate) fn expiry(&self) -> Option<u64> {
        match self.expiry.load(Ordering::Relaxed) {
            u64::MAX => None,
            time => Some(time),
        }
    }

    /// Notes that it gets an entry that expires: before that is appended, or while the database is
    /// opened.
    pub(crate) fn note_expiring(&self) {
        self.expiring.store(true, Ordering::Release);
    }

    /// True if it may hold an entry that expires, or has a default expiry. Then a merge reads; see
    /// [`crate::write::expiry`].
    #[inline]
    pub(crate) fn may_expire(&self) -> bool {
        self.expiry().is_some() || self.expiring.load(Ordering::Acquire)
    }

    /// `NotFound` once it has been dropped.
    #[inline]
    pub(crate) fn check_alive(&self) -> Result<()> {
        match self.dropped.load(Ordering::Acquire) {
            0 => Ok(()),
            _ => Err(self.gone()),
        }
    }

    /// `NotFound` if it had been dropped by `at`.
    #[inline]
    pub(crate) fn check_alive_at(&self, at: SeqNo) -> Result<()> {
        match self.dropped.load(Ordering::Acquire) {
            0 => Ok(()),
            seq if at.get() < seq => Ok(()),
            _ => Err(self.gone()),
        }
    }

    #[cold]
    fn gone(&self) -> Error {
        Error::new(
            ErrorKind::NotFound,
            format!("keyspace `{}` was dropped", self.name()),
        )
    }

    pub(crate) fn set_dropped(&self, at: SeqNo) {
        self.dropped.store(at.get().max(1), Ordering::Release);
    }
}

/// The keyspaces of an open database.
#[derive(Debug)]
pub(crate) struct Catalogue {
    inner: Mutex<CatalogueInner>,
    policies: Arc<Policies>,
    /// Held while one is created or dropped, which may wait for a sync.
    changing: Mutex<()>,
}

#[derive(Debug, Default)]
pub(crate) struct CatalogueInner {
    by_name: BTreeMap<String, Arc<KeyspaceState>>,
    by_id: BTreeMap<KeyspaceId, Arc<KeyspaceState>>,
    next_id: u32,
    /// What the log holds and the manifest does not, in commit order.
    unflushed: Vec<(SeqNo, Change)>,
    /// Dropped keyspaces whose entries may still be about.
    dropped: BTreeMap<KeyspaceId, SeqNo>,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create(KeyspaceRecord),
    Drop(KeyspaceId),
    Options(KeyspaceId, KeyspaceOptions),
    Rename(KeyspaceId, String),
}

impl Change {
    /// Puts the change, made at `seq`, into an edit.
    pub(crate) fn put_into(&self, seq: SeqNo, edit: &mut VersionEdit) {
        match self {
            Change::Create(record) => edit.keyspaces_created.push(record.clone()),
            Change::Drop(id) => edit.keyspaces_dropped.push((*id, seq)),
            Change::Options(id, options) => edit.keyspaces_changed.push((*id, options.encode())),
            Change::Rename(id, name) => edit.keyspaces_renamed.push((*id, name.clone())),
        }
    }
}

impl CatalogueInner {
    fn put(&mut self, state: Arc<KeyspaceState>) {
        self.by_name.insert(state.name().into(), state.clone());
        self.by_id.insert(state.id, state);
    }

    fn take(&mut self, id: KeyspaceId) -> Option<Arc<KeyspaceState>> {
        let state = self.by_id.remove(&id)?;
        self.by_name.remove(state.name());
        Some(state)
    }
}

impl Catalogue {
    /// The catalogue that the manifest holds.
    pub(crate) fn new<'a>(
        owner: u64,
        records: impl Iterator<Item = &'a KeyspaceRecord>,
        next_id: u32,
        dropped: impl Iterator<Item = (KeyspaceId, SeqNo)>,
        policies: Arc<Policies>,
    ) -> Result<Catalogue> {
        let inner = CatalogueInner {
            next_id,
            dropped: dropped.collect(),
            ..Default::default()
        };
        let catalogue = Catalogue {
            inner: Mutex::new(Rank::Catalogue, inner),
            policies,
            changing: Mutex::new(Rank::ChangingCatalogue, ()),
        };
        let options = KeyspaceOptions::default();
        catalogue.add(KeyspaceState::new(
            owner,
            KeyspaceId(0),
            DEFAULT_NAME,
            options,
        ));
        for record in records {
            // The default keyspace is among them if it has options.
            let options = KeyspaceOptions::decode(&record.options)?;
            catalogue.add(KeyspaceState::new(owner, record.id, &record.name, options));
        }
        Ok(catalogue)
    }

    fn lock(&self) -> MutexGuard<'_, CatalogueInner> {
        lock(&self.inner)
    }

    pub(crate) fn lock_for_change(&self) -> MutexGuard<'_, ()> {
        lock(&self.changing)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<KeyspaceState>> {
        self.lock().by_name.get(name).cloned()
    }

    /// Notes what tables say of the entries that expire in them.
    pub(crate) fn note_tables<'a>(&self, tables: impl Iterator<Item = &'a TableInfo>) {
        let by_id: BTreeMap<KeyspaceId, Arc<KeyspaceState>> = {
            let inner = self.lock();
            let states = inner.by_name.values();
            states.map(|state| (state.id, state.clone())).collect()
        };
        for info in tables.filter(|info| info.expiries.is_some()) {
            let held = info.smallest.keyspace..=info.largest.keyspace;
            by_id
                .range(held)
                .for_each(|(_, state)| state.note_expiring());
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().by_name.keys().cloned().collect()
    }

    /// An id that was never used.
    pub(crate) fn new_id(&self) -> Result<KeyspaceId> {
        let mut inner = self.lock();
        let id = KeyspaceId(inner.next_id);
        inner.next_id = inner
            .next_id
            .checked_add(1)
            .ok_or_else(|| Error::invalid("the ids of keyspaces are used up"))?;
        Ok(id)
    }

    /// Notes a change that is in the log at `seq`; under the commit lock, so that no flush takes
    /// the log below it without it.
    pub(crate) fn note(&self, seq: SeqNo, change: Change) {
        let mut inner = self.lock();
        match &change {
            Change::Create(_) => {}
            Change::Drop(id) => {
                inner.dropped.insert(*id, seq);
                if let Some(state) = inner.take(*id) {
                    state.set_dropped(seq);
                }
            }
            Change::Options(id, options) => {
                if let Some(state) = inner.by_id.get(id) {
                    state.set_options(options.clone());
                    self.policies.set(*id, options);
                }
            }
            Change::Rename(id, name) => {
                if let Some(state) = inner.take(*id) {
                    state.rename(name);
                    inner.put(state);
                }
            }
        }
        inner.unflushed.push((seq, change));
    }

    /// Makes a created keyspace findable.
    pub(crate) fn add(&self, state: Arc<KeyspaceState>) {
        let mut inner = self.lock();
        self.policies.set(state.id, &state.options());
        inner.put(state);
    }

    /// Replays a change found in the log.
    pub(crate) fn replay(&self, owner: u64, seq: SeqNo, change: Change) -> Result<()> {
        if let Change::Create(record) = &change {
            let options = KeyspaceOptions::decode(&record.options)?;
            self.add(KeyspaceState::new(owner, record.id, &record.name, options));
            let mut inner = self.lock();
            inner.next_id = inner.next_id.max(record.id.0.saturating_add(1));
        }
        self.note(seq, change);
        Ok(())
    }

    /// Puts the changes up to `seq` into a flush edit; [`Catalogue::forget_upto`] once it is
    /// durable.
    pub(crate) fn add_to_edit(&self, seq: SeqNo, edit: &mut VersionEdit) {
        let inner = self.lock();
        let forgotten =
            |change: &Change| matches!(change, Change::Drop(_)) && mutant("forget-keyspace-drop");
        let upto = inner.unflushed.iter().filter(|(at, _)| *at <= seq);
        for (at, change) in upto.filter(|(_, change)| !forgotten(change)) {
            change.put_into(*at, edit);
        }
        edit.next_keyspace = Some(inner.next_id);
    }

    pub(crate) fn unflushed(&self) -> usize {
        self.lock().unflushed.len()
    }

    pub(crate) fn forget_upto(&self, seq: SeqNo) {
        let unflushed = &mut self.lock().unflushed;
        unflushed.retain(|(at, _)| *at > seq);
        unflushed.shrink_to(2 * unflushed.len());
    }

    /// The keyspaces dropped, whether flushed or not.
    pub(crate) fn dropped(&self) -> Vec<(KeyspaceId, SeqNo)> {
        let inner = self.lock();
        inner.dropped.iter().map(|(id, at)| (*id, *at)).collect()
    }

    /// How many dropped keyspaces are kept.
    pub(crate) fn dropped_len(&self) -> usize {
        self.lock().dropped.len()
    }

    /// Forgets dropped keyspaces that no entry is left of.
    pub(crate) fn forget_dropped(&self, ids: &[KeyspaceId]) {
        let mut inner = self.lock();
        for id in ids {
            inner.dropped.remove(id);
        }
        self.policies.forget(ids);
    }
}

/// `Invalid` unless `name` may name a keyspace: any UTF-8 of 1 to 255 bytes.
pub(crate) fn check_name(name: &str) -> Result<()> {
    match name.len() {
        1..=MAX_KEYSPACE_NAME_LEN => Ok(()),
        len => Err(Error::invalid(format!(
            "the keyspace's name has {len} bytes; 1 to {MAX_KEYSPACE_NAME_LEN} are allowed"
        ))),
    }
}

/// An ordered map of its own within a database. Cheap to clone; keeps the database open.
#[derive(Clone)]
pub struct Keyspace {
    pub(crate) state: Arc<KeyspaceState>,
    pub(crate) handle: Arc<Handle>,
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyspace({:?})", self.state.name())
    }
}

impl Keyspace {
    pub(crate) fn state(&self) -> &Arc<KeyspaceState> {
        &self.state
    }

    /// The database that it belongs to.
    pub fn db(&self) -> Db {
        Db::from_handle(self.handle.clone())
    }

    /// Its name; the new one once it has been renamed.
    pub fn name(&self) -> &str {
        self.state.name()
    }

    /// Its options, as they are stored with it.
    pub fn options(&self) -> KeyspaceOptions {
        self.state.options()
    }

    /// Gives it other options, in the order of the writes around them, and for good.
    ///
    /// # Errors
    /// `Unsupported` if they name an operator or a filter that the database was not opened with;
    /// `Invalid` if the keyspace has a merge operator and they do not name it; else as for
    /// [`Keyspace::put`].
    pub fn set_options(&self, options: KeyspaceOptions) -> Result<()> {
        self.handle
            .writer()?
            .set_keyspace_options(&self.state, options)
    }

    /// Sets `key` to `value`; the write's sequence number, which is the key's new version.
    ///
    /// # Errors
    /// `Invalid` for a key over 65,531 bytes or a value over 1 GiB; `NotFound` if the keyspace was
    /// dropped; `ReadOnly`, `NoSpace`, `Closed` as for every write. After `ReadOnly` the write may
    /// or may not be there when the database is opened again; after the others it is not.
    #[inline]
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<SeqNo> {
        if let Some(after) = self.state.expiry() {
            return self.put_for_a_while(key.as_ref(), value.as_ref(), after);
        }
        self.write_one(ValueKind::Put, key.as_ref(), value.as_ref())
    }

    #[cold]
    fn put_for_a_while(&self, key: &[u8], value: &[u8], after: u64) -> Result<SeqNo> {
        self.put_expiring(key, value, Expiry::In(Duration::from_millis(after)))
    }

    /// Sets `key` to `value` until a time, from which on it is absent; the write's sequence number.
    /// See [`Expiry`].
    ///
    /// # Errors
    /// As for [`Keyspace::put`].
    pub fn put_expiring(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> Result<SeqNo> {
        let mut batch = Batch::new();
        batch.keyspace(self).put_expiring(key, value, expiry);
        self.handle.writer()?.write_batch(&mut batch)
    }

    /// Combines the value of `key` with `operand`, by the keyspace's merge operator; the write's
    /// sequence number.
    ///
    /// It costs what a put costs: nothing is read. Reads, and compaction in time, make the value.
    /// In a keyspace that has a default expiry or has been given values that expire, it is a step
    /// like [`Keyspace::update`] instead, which reads and writes the whole value: a value that
    /// expires keeps its time, and a new one gets the keyspace's. See
    /// [`Options::merge_operator`](crate::Options::merge_operator).
    ///
    /// # Errors
    /// `Invalid` if the keyspace has no merge operator; else as for [`Keyspace::put`].
    pub fn merge(&self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> Result<SeqNo> {
        let (key, operand) = (key.as_ref(), operand.as_ref());
        let engine = self.handle.engine();
        engine.context.policies.check_merge(self.state.id)?;
        check_lengths(key.len(), operand.len())?;
        while !self.state.may_expire() {
            if let Some(seq) = self.write_operand(key, operand)? {
                engine.operands_written(1);
                return Ok(seq);
            }
        }
        self.merge_whole(key, operand)
    }

    /// Removes `key`, which need not exist; the write's sequence number.
    ///
    /// # Errors
    /// As for [`Keyspace::put`].
    #[inline]
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<SeqNo> {
        self.write_one(ValueKind::Tombstone, key.as_ref(), &[])
    }

    /// Removes every key of `range`, at the cost of one write however many there are; the write's
    /// sequence number.
    ///
    /// The space comes back with compaction. Until then the delete itself is kept in memory: some
    /// 250 bytes. If a short look finds at most 16 keys there, those are deleted one by one
    /// instead; if it finds none, nothing is written.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// let db = terrace::Db::in_memory()?;
    /// for day in ["2026-01-30", "2026-01-31", "2026-02-01"] {
    ///     db.put(day, "log")?;
    /// }
    /// db.delete_range(.."2026-02")?;
    /// assert_eq!(db.first()?.unwrap().0, "2026-02-01");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`Keyspace::put`].
    pub fn delete_range(&self, range: impl KeyBounds) -> Result<SeqNo> {
        let mut batch = Batch::new();
        batch.keyspace(self).delete_range(&range);
        let sound = batch.wrong.is_none() && !batch.is_empty();
        if sound && let Some(last) = self.delete_few(&range)? {
            return Ok(last);
        }
        self.handle.writer()?.write_batch(&mut batch)
    }

    /// Removes every key; the write's sequence number.
    ///
    /// # Errors
    /// As for [`Keyspace::put`].
    pub fn clear(&self) -> Result<SeqNo> {
        self.delete_range(..)
    }

    #[inline]
    fn write_one(&self, kind: ValueKind, key: &[u8], value: &[u8]) -> Result<SeqNo> {
        check_lengths(key.len(), value.len())?;
        let user = UserKey::new(self.state.id, key);
        let framing = Framing::new(user, kind, value.len());
        let parts = [framing.before_key(), key, framing.before_value(), value];
        let entry = Entry {
            user,
            hash: key_hash(user),
            kind,
            value,
        };
        let write = Write::new(&parts, 1, Entries::One(entry));
        self.handle.writer()?.write(&write, None, self.must_live())
    }

    /// What must be alive for a write here to go through.
    #[inline]
    pub(crate) fn must_live(&self) -> &[Arc<KeyspaceState>] {
        match self.state.id {
            KeyspaceId(0) => &[], // The default keyspace cannot be dropped.
            _ => std::slice::from_ref(&self.state),
        }
    }

    /// What the whole database holds now, looking at this keyspace. It answers the same for as long
    /// as it lives, and keeps compaction from dropping what it sees.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self)
    }

    /// Merges the tables that overlap `range` down into the last level, which drops what no reader
    /// can see; the memtable is flushed first. Blocks until done.
    ///
    /// # Errors
    /// Those of reading and writing tables.
    pub fn compact(&self, range: impl KeyBounds) -> Result<()> {
        self.state.check_alive()?;
        let (lower, upper) = range.bounds();
        let range = KeyRange::new(self.state.id, lower, upper);
        self.handle.writer()?.compact_range(&range)
    }
}
