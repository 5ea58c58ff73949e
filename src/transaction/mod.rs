//! Transactions: reads and writes across keyspaces that take effect together, as if alone, or not
//! at all.
//!
//! They are optimistic (Kung and Robinson, "On optimistic methods for concurrency control", 1981).
//! A transaction reads a snapshot and what it wrote itself, keeps its writes in memory, and locks
//! nothing. [`Transaction::commit`] asks whether what it read is still so. If it is, all of it
//! might as well have been read at that moment, just before its own writes: transactions are as if
//! run one after another in the order of their commits. If it is not, the commit is a `Conflict`
//! that names a key, and nothing was written.
//!
//! ```text
//! begin, at #7    get a, scan b..=d, put x    commit: an entry of a or in b..=d above #7? Conflict : x#12
//! ```
//!
//! The question is put twice: at length and outside of every lock, tables included; then under the
//! commit lock only about what was appended since ([`crate::commit::checks`]). It is about the
//! newest appended state, published or not; a `Conflict` is answered once what it is about is
//! published, so that the next attempt sees it.
//!
//! A transaction that wrote nothing has nothing to ask: it saw the state after some commit and
//! before the next. Under [`Isolation::Snapshot`] only the keys written are asked about: lost
//! updates cannot be, write skew can.

pub(crate) mod readable;
pub(crate) mod write_set;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use terrace_base::key::split_expiry;
use terrace_base::{Error, ErrorKind, KeyspaceId, Result, SeqNo, UserKey, mutant};
use terrace_sstable::Value;
use write_set::Writes;

use crate::bounds::{KeyBounds, OwnedBounds, half_open};
use crate::commit::checks::{Checks, conflict};
use crate::db::Db;
use crate::db::append::{append_if, check_batch, date};
use crate::db::keyspace::Keyspace;
use crate::db::readable::{Reader, count};
use crate::db::snapshot::Snapshot;
use crate::keyspace::state::KeyspaceState;
use crate::memtable::tx_buffer::OwnWrite;
use crate::read::basis::{Basis, CheckedKey, Stretch};
use crate::read::blob::Want;
use crate::read::context::ReadPoint;
use crate::read::get::Live;
use crate::read::iter::{Overlay, Scan};
use crate::read::read_set::{ReadSet, in_order};
use crate::sync::{Mutex, Rank, lock, yield_now};
use crate::write::batch::{Batch, MAX_BATCH_LEN, check_lengths};
use crate::write::expiry::{Deadline, Expiry};
use crate::write::prepared::Write;

/// How often [`Db::transact`] tries.
const ATTEMPTS: u32 = 64;
/// How often it gives the processor away in between at most: a clock of a test may stand still.
const MOST_YIELDS: usize = 1000;

/// How much a [`Transaction`] may notice of others.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Nothing: the result is as if transactions ran one after another.
    #[default]
    Serializable,
    /// It reads one moment, and no other wrote since then what it writes. Two transactions may each
    /// read what the other writes.
    Snapshot,
}

/// Reads and writes of the whole database that take effect together or not at all, looking at the
/// default keyspace.
///
/// It reads the moment at which it began, and its own writes on top. [`Transaction::commit`] writes
/// all of them, or is a `Conflict` if what was read has changed. [`Db::transact`] tries again by
/// itself. Dropped, it is rolled back. Like a [`Snapshot`] it keeps the database open, and old
/// versions alive; its writes lie in memory.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// use terrace::ErrorKind;
/// let db = terrace::Db::in_memory()?;
/// db.put("stock", "1")?;
///
/// let (mine, yours) = (db.transaction(), db.transaction());
/// for buyer in [&mine, &yours] {
///     if buyer.get("stock")?.unwrap() == "1" {
///         buyer.put("stock", "0")?; // both think that the last one is theirs
///     }
/// }
/// mine.commit()?;
/// let error = yours.commit().unwrap_err();
/// assert_eq!((error.kind(), error.key()), (ErrorKind::Conflict, Some(&b"stock"[..])));
/// # Ok(()) }
/// ```
pub struct Transaction {
    snapshot: Snapshot,
    isolation: Isolation,
    writes: Mutex<Writes>,
    reads: Arc<Mutex<ReadSet>>,
    /// The keyspaces used, other than the default one: they must be alive at the commit.
    used: Mutex<Vec<Arc<KeyspaceState>>>,
}

/// A [`Transaction`] looking at one keyspace.
pub struct TxKeyspace<'a> {
    transaction: &'a Transaction,
    snapshot: Snapshot,
}

/// A state of a transaction's writes to go back to: see [`Transaction::savepoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savepoint(u64);

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transaction({:?} at {:?})", self.isolation, self.seq())
    }
}

impl fmt::Debug for TxKeyspace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TxKeyspace({:?})", self.snapshot)
    }
}

/// Reads of a transaction in one keyspace.
#[derive(Clone, Copy)]
pub(crate) struct TxReader<'a> {
    base: Reader<'a>,
    transaction: &'a Transaction,
}

impl TxReader<'_> {
    fn id(&self) -> KeyspaceId {
        self.base.keyspace.id
    }

    /// A key that the transaction has written is not read from the database, and so cannot
    /// conflict.
    pub(crate) fn read<R>(
        &self,
        key: &[u8],
        want: Want,
        found: impl FnOnce(Live<'_>) -> R,
    ) -> Result<Option<R>> {
        self.base.check()?;
        let own = lock(&self.transaction.writes).get(self.id(), key);
        if let Some(own) = own {
            let (expires, value) = match &own {
                OwnWrite::Delete => return Ok(None),
                OwnWrite::Put(value) | OwnWrite::Lasting(value) => (None, &**value),
                OwnWrite::Expiring(stored) => {
                    let (time, value) = split_expiry(stored)?;
                    (Some(time), value)
                }
            };
            let (seq, value) = (SeqNo::MAX, Value::borrowed(value));
            let context = &self.base.engine.context;
            let at = self
                .base
                .at
                .unwrap_or_else(|| ReadPoint::newest(SeqNo::MAX));
            if expires.is_some_and(|time| context.is_expired(time, at)) {
                return Ok(None);
            }
            return Ok(Some(found(Live {
                seq,
                expires,
                value,
                partial: false,
            })));
        }
        if self.transaction.isolation == Isolation::Serializable {
            lock(&self.transaction.reads).add_key(self.id(), key);
        }
        self.base.read(key, want, found)
    }

    pub(crate) fn multi_get(
        &self,
        keys: impl IntoIterator<Item: AsRef<[u8]>>,
    ) -> Result<Vec<Option<Bytes>>> {
        self.base.check()?;
        let read = |key: &[u8]| self.read(key, Want::Whole, |live| live.value.into_bytes());
        keys.into_iter().map(|key| read(key.as_ref())).collect()
    }

    pub(crate) fn scan(&self, bounds: OwnedBounds) -> Result<Scan> {
        let mut scan = self.base.scan(bounds)?;
        let noted = self.transaction.isolation == Isolation::Serializable;
        let writes = lock(&self.transaction.writes);
        scan.overlay = Some(Overlay {
            own: writes.of(self.id()),
            ranges: writes.ranges().clone(),
            reads: noted.then(|| self.transaction.reads.clone()),
        });
        Ok(scan)
    }

    pub(crate) fn count(&self, bounds: OwnedBounds) -> Result<u64> {
        count(self.scan(bounds))
    }

    fn write(&self, key: &[u8], write: OwnWrite) -> Result<()> {
        self.base.check()?;
        check_lengths(key.len(), write.stored().len())?;
        lock(&self.transaction.writes).set(self.id(), key, write)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(after) = self.base.keyspace.expiry() {
            return self.put_expiring(key, value, Expiry::In(Duration::from_millis(after)));
        }
        self.write(key, OwnWrite::Put(Bytes::copy_from_slice(value)))
    }

    fn put_expiring(&self, key: &[u8], value: &[u8], expiry: Expiry) -> Result<()> {
        check_lengths(key.len(), value.len())?;
        let time = match expiry.deadline() {
            None => return self.write(key, OwnWrite::Lasting(Bytes::copy_from_slice(value))),
            Some(Deadline::After(time)) => self.base.engine.context.now().saturating_add(time),
            Some(Deadline::At(time)) => time,
        };
        let stored = [&time.to_le_bytes(), value].concat();
        self.write(key, OwnWrite::Expiring(stored.into()))
    }

    fn delete_range(&self, range: &impl KeyBounds) -> Result<()> {
        self.base.check()?;
        let Some((lower, upper)) = half_open(range) else {
            return Ok(());
        };
        // The end of a range that includes its last key is a byte longer than that key.
        let longest = lower.len().max(upper.as_ref().map_or(0, Vec::len));
        check_lengths(longest.saturating_sub(1), 0)?;
        lock(&self.transaction.writes).delete_range(self.id(), &lower, upper.as_deref())
    }
}

impl Transaction {
    fn new(db: &Db) -> Transaction {
        Transaction {
            snapshot: db.snapshot(),
            isolation: Isolation::Serializable,
            writes: Mutex::new(Rank::TransactionWrites, Writes::new(MAX_BATCH_LEN)),
            reads: Arc::new(Mutex::new(Rank::TransactionReads, ReadSet::default())),
            used: Mutex::new(Rank::TransactionUsed, Vec::new()),
        }
    }

    pub(crate) fn reader(&self) -> TxReader<'_> {
        TxReader {
            base: self.snapshot.reader(),
            transaction: self,
        }
    }

    /// Sets the isolation of the transaction, before its first read: reads under
    /// [`Isolation::Snapshot`] are not validated at commit.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # use terrace::Isolation;
    /// # let db = terrace::Db::in_memory()?;
    /// let report = db.transaction().isolation(Isolation::Snapshot);
    /// // A concurrent write is a conflict only if it is one to "total".
    /// report.put("total", db.count(..)?.to_string())?;
    /// db.put("other", "1")?;
    /// report.commit()?;
    /// # Ok(()) }
    /// ```
    pub fn isolation(mut self, isolation: Isolation) -> Transaction {
        self.isolation = isolation;
        self
    }

    /// The last sequence number that it sees, beside its own writes.
    pub fn seq(&self) -> SeqNo {
        self.snapshot.seq()
    }

    /// Reads and writes of this transaction in `keyspace`. If that belongs to another database,
    /// every call is `Invalid`.
    pub fn keyspace(&self, keyspace: &Keyspace) -> TxKeyspace<'_> {
        let snapshot = self.snapshot.keyspace(keyspace);
        if let Some(state) = snapshot.state().filter(|state| state.id != KeyspaceId(0)) {
            let mut used = lock(&self.used);
            if !used.iter().any(|known| Arc::ptr_eq(known, state)) {
                used.push(state.clone());
            }
        }
        TxKeyspace {
            transaction: self,
            snapshot,
        }
    }

    /// Sets `key` to `value` in the default keyspace. The keyspace's default expiry, if it has one,
    /// counts from this call.
    ///
    /// # Errors
    /// `Invalid` for a key over 65,531 bytes, a value over 1 GiB, or if all writes of the
    /// transaction would not fit into a batch, 1 GiB: what was written before stays. `Closed` after
    /// `close`.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.reader().put(key.as_ref(), value.as_ref())
    }

    /// Removes `key` from the default keyspace.
    ///
    /// # Errors
    /// As for [`Transaction::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.reader().write(key.as_ref(), OwnWrite::Delete)
    }

    /// Sets `key` to `value` in the default keyspace until a time, from which on it is absent; a
    /// time relative to now counts from this call.
    ///
    /// # Errors
    /// As for [`Transaction::put`].
    pub fn put_expiring(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.reader().put_expiring(key, value, expiry)
    }

    /// Removes every key of `range` from the default keyspace, those that others put there before
    /// the commit included; what the transaction puts there later stays. The keys are not read:
    /// under [`Isolation::Serializable`] a write to one meanwhile is no conflict.
    ///
    /// # Errors
    /// As for [`Transaction::put`].
    pub fn delete_range(&self, range: impl KeyBounds) -> Result<()> {
        self.reader().delete_range(&range)
    }

    /// Marks the writes up to here, for [`Transaction::rollback_to`].
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let db = terrace::Db::in_memory()?;
    /// let tx = db.transaction();
    /// tx.put("a", "1")?;
    /// let before = tx.savepoint();
    /// tx.put("a", "2")?;
    /// tx.put("b", "2")?;
    /// tx.rollback_to(&before)?;
    /// tx.commit()?;
    /// assert_eq!(db.get("a")?.unwrap(), "1");
    /// assert_eq!(db.get("b")?, None);
    /// # Ok(()) }
    /// ```
    pub fn savepoint(&self) -> Savepoint {
        Savepoint(lock(&self.writes).save())
    }

    /// Undoes all writes since `savepoint`, in every keyspace. What was read since then still
    /// counts at the commit: it may have led here. The savepoint can be used again; those made
    /// after it cannot.
    ///
    /// # Errors
    /// `Invalid` for a savepoint of another transaction, or one made after a savepoint that was
    /// gone back to.
    pub fn rollback_to(&self, savepoint: &Savepoint) -> Result<()> {
        if lock(&self.writes).go_back(savepoint.0) {
            return Ok(());
        }
        Err(Error::invalid(
            "the savepoint is of another transaction, or behind one that was gone back to",
        ))
    }

    /// Ends it with nothing written, as dropping does.
    pub fn rollback(self) {}

    /// Writes all of it, as durable as the database's options say; the sequence number of the last
    /// write, or of what was read if nothing was written.
    ///
    /// # Errors
    /// `Conflict`, naming a key, if what was read (under [`Isolation::Snapshot`]: a key that is to
    /// be written) was written by others since it began: begin again, or use [`Db::transact`].
    /// `NotFound` if a keyspace that was used has been dropped. Else as for [`Keyspace::put`].
    /// Nothing was written, but after `ReadOnly` it may be there when the database is opened again.
    pub fn commit(self) -> Result<SeqNo> {
        let writes = lock(&self.writes);
        let handle = self.snapshot.handle();
        if writes.is_empty() {
            handle.engine().check_open()?;
            return Ok(self.seq());
        }
        let mut batch = writes.to_batch()?;
        batch.keyspaces = lock(&self.used).clone();
        match self.isolation {
            Isolation::Serializable => {
                // An iterator that is still about reads for itself from now on.
                let reads = std::mem::take(&mut *lock(&self.reads));
                let mut keys: Vec<_> = reads.keys().map(CheckedKey::new).collect();
                keys.sort_unstable_by_key(|key| key.user);
                let stretches = match mutant("skip-read-ranges") {
                    true => Vec::new(),
                    false => reads.stretches(),
                };
                self.append(&mut batch, &keys, &stretches)
            }
            Isolation::Snapshot => {
                let written: Vec<_> = writes.keys().collect();
                let users = written.iter().map(|(id, key)| UserKey::new(*id, key));
                let keys: Vec<_> = users.map(CheckedKey::new).collect();
                self.append(&mut batch, &keys, &in_order(writes.stretches()))
            }
        }
    }

    fn append(
        &self,
        batch: &mut Batch,
        keys: &[CheckedKey<'_>],
        ranges: &[Stretch],
    ) -> Result<SeqNo> {
        let engine = self.snapshot.handle().writer()?;
        engine.check_open()?;
        check_batch(engine, batch)?;
        let clock = date(engine, batch);
        let parts = [clock.as_deref().unwrap_or_default(), &batch.payload];
        let write = Write::of_batch(batch, &parts);
        let basis = Basis { keys, ranges };
        let mut asked_upto = self.seq();
        let mut attempt = 0;
        loop {
            // Only what was written since the last look: it takes ever less time, and is overtaken
            // by ever less.
            let (view, upto) = engine.committer.newest();
            if let Some((key, seq)) = view.changed(&basis, asked_upto)? {
                engine.committer.wait_visible(seq)?;
                return Err(conflict(&key, "was written since the transaction began"));
            }
            drop(view);
            asked_upto = upto;
            let checks = Checks {
                ranges,
                attempt,
                pinned: true, // By its snapshot, which sees each key before its delete.
                ..Checks::keys(upto, keys)
            };
            let receipt = append_if(engine, &write, None, &batch.keyspaces, &checks)?;
            if let Some(receipt) = receipt {
                engine.committer.wait_visible(receipt.last)?;
                return Ok(receipt.last);
            }
            attempt += 1;
        }
    }
}

impl TxKeyspace<'_> {
    pub(crate) fn reader(&self) -> TxReader<'_> {
        TxReader {
            base: self.snapshot.reader(),
            transaction: self.transaction,
        }
    }

    /// Sets `key` to `value`. The keyspace's default expiry, if it has one, counts from this call.
    ///
    /// # Errors
    /// As for [`Transaction::put`]; `NotFound` if the keyspace had been dropped when the
    /// transaction began, `Invalid` if it is of another database.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.reader().put(key.as_ref(), value.as_ref())
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// As for [`TxKeyspace::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.reader().write(key.as_ref(), OwnWrite::Delete)
    }

    /// Sets `key` to `value` until a time, from which on it is absent; a time relative to now
    /// counts from this call.
    ///
    /// # Errors
    /// As for [`TxKeyspace::put`].
    pub fn put_expiring(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.reader().put_expiring(key, value, expiry)
    }

    /// Removes every key of `range`, those that others put there before the commit included; what
    /// the transaction puts there later stays. The keys are not read: under
    /// [`Isolation::Serializable`] a write to one meanwhile is no conflict.
    ///
    /// # Errors
    /// As for [`TxKeyspace::put`].
    pub fn delete_range(&self, range: impl KeyBounds) -> Result<()> {
        self.reader().delete_range(&range)
    }
}

impl Db {
    /// Begins a transaction: serializable, unless [`Transaction::isolation`] says less.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self)
    }

    /// Runs `f` in a transaction and commits it, again and again while that is a `Conflict`, up to
    /// 64 times; what `f` returned. To give up, `f` returns an error, for example [`Error::other`]:
    /// nothing is written then. It runs on this thread, under no lock, and should do nothing that
    /// may not be done twice.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// let db = terrace::Db::in_memory()?;
    /// db.put("ada", "70")?;
    /// db.put("bob", "30")?;
    /// db.transact(|tx| {
    ///     let balance = |name: &str| -> terrace::Result<u32> {
    ///         let value = tx.get(name)?.unwrap_or_default();
    ///         String::from_utf8_lossy(&value).parse().map_err(terrace::Error::other)
    ///     };
    ///     let (ada, bob) = (balance("ada")?, balance("bob")?);
    ///     tx.put("ada", (ada - 20).to_string())?;
    ///     tx.put("bob", (bob + 20).to_string())
    /// })?;
    /// assert_eq!((db.get("ada")?.unwrap(), db.get("bob")?.unwrap()), ("50".into(), "50".into()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `f` returned; `Conflict` if the last attempt was one; else as for
    /// [`Transaction::commit`].
    pub fn transact<T>(&self, mut f: impl FnMut(&Transaction) -> Result<T>) -> Result<T> {
        let mut attempt = 1;
        loop {
            let transaction = self.transaction();
            let value = f(&transaction)?;
            match transaction.commit() {
                Ok(_) => return Ok(value),
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < ATTEMPTS => {}
                Err(error) => return Err(error),
            }
            self.back_off(attempt);
            attempt += 1;
        }
    }

    /// Sleeps before the next attempt, longer each time, so that contending transactions spread
    /// out.
    fn back_off(&self, attempt: u32) {
        let clock = self.shared().clock();
        let wait = Duration::from_micros(1 << attempt.min(10));
        let start = clock.monotonic();
        for _ in 0..MOST_YIELDS {
            if clock.monotonic().saturating_sub(start) >= wait {
                return;
            }
            yield_now();
        }
    }
}
