//! Keyspaces: maps of their own in one database

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use terrace_base::hash::key_hash;
use terrace_base::{KeyspaceId, Result, SeqNo, UserKey, ValueKind};
use terrace_compaction::KeyRange;

use crate::BatchKeyspace;
use crate::bounds::KeyBounds;
use crate::db::append::{commit, operands_written, write_batch};
use crate::db::keyspaces::set_keyspace_options;
use crate::db::snapshot::Snapshot;
use crate::db::{Db, Handle};
use crate::jobs::idle::compact_range;
use crate::keyspace::state::KeyspaceState;
use crate::options::keyspace::KeyspaceOptions;
use crate::write::batch::{Batch, check_lengths};
use crate::write::expiry::Expiry;
use crate::write::payload::Framing;
use crate::write::prepared::{Entries, Entry, Write};

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
        set_keyspace_options(self.handle.writer()?, &self.state, options)
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
        write_batch(self.handle.writer()?, &mut batch)
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
                operands_written(engine, 1);
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
        write_batch(self.handle.writer()?, &mut batch)
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
        commit(self.handle.writer()?, &write, None, self.must_live())
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
        compact_range(self.handle.writer()?, &range)
    }
}

impl Batch {
    /// Operations of this batch on another keyspace.
    pub fn keyspace(&mut self, keyspace: &Keyspace) -> BatchKeyspace<'_> {
        let state = keyspace.state();
        if !self.keyspaces.iter().any(|known| Arc::ptr_eq(known, state)) {
            self.keyspaces.push(state.clone());
        }
        BatchKeyspace {
            id: state.id,
            batch: self,
        }
    }
}
