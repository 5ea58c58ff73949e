//! Keyspaces: maps of their own in one database, and the catalogue that names them.
//!
//! A keyspace is a 4-byte id in front of its keys: one log, one memtable and one tree serve all of
//! them, so thousands are cheap and a batch across them is one log frame. Creating and dropping one
//! are operations in the log, in commit order with the writes around them; a flush carries those it
//! covers into the manifest.

use std::collections::BTreeMap;
use std::sync::Arc;

use terrace_base::{Error, KeyspaceId, Result, SeqNo, mutant};
use terrace_compaction::{KeyspaceRecord, VersionEdit};
use terrace_sstable::TableInfo;

use crate::keyspace::policies::Policies;
use crate::keyspace::state::{DEFAULT_NAME, KeyspaceState};
use crate::options::keyspace::KeyspaceOptions;
use crate::sync::{Mutex, MutexGuard, Rank, lock};

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
