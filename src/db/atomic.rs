//! Single operations that read, decide and write as one step.
//!
//! All of them are one loop: look at the newest appended entry of the key, published or not; decide
//! on this thread, under no lock; append on condition that the entry is still the newest
//! ([`crate::commit::checks`]); if it is not, again. A repetition costs about a microsecond and
//! waits for no sync, so writers of one hot key get into the log one right after the other and then
//! wait for the same sync.
//!
//! An answer that wrote nothing is given once what it rests on is published: nobody may learn of a
//! write that a power cut could still undo.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use terrace_base::{Result, SeqNo, UserKey, ValueKind};
use terrace_sstable::Value;

use crate::bounds::OwnedBounds;
use crate::commit::checks::{Checks, PATIENCE};
use crate::commit::committer::opened_read_only;
use crate::commit::queue_bounds::{Proof, Side};
use crate::commit::snapshots::ReadPin;
use crate::db::append::{append_if, date};
use crate::db::keyspace::Keyspace;
use crate::engine::Engine;
use crate::read::basis::CheckedKey;
use crate::read::blob::Want;
use crate::read::context::ReadPoint;
use crate::read::db_iter::Walk;
use crate::read::iter::Scan;
use crate::read::view::View;
use crate::write::batch::{Batch, check_lengths};
use crate::write::expiry::Expiry;
use crate::write::payload::Framing;
use crate::write::prepared::{Entries, Entry, Write};
use crate::write::values::{counter, joined};

/// What came of a write on a condition.
///
/// The newest appended state, registered once a step was overtaken [`PATIENCE`] times.
pub(crate) fn newest(engine: &Engine, attempt: u32) -> (Arc<View>, SeqNo, Option<ReadPin<'_>>) {
    if attempt >= PATIENCE {
        let (view, at, pin) = engine.committer.newest_pinned();
        return (view, at, Some(pin));
    }
    let (view, at) = engine.committer.newest();
    (view, at, None)
}

/// ```
/// # fn main() -> terrace::Result<()> {
/// use terrace::Swap;
/// let db = terrace::Db::in_memory()?;
/// assert!(matches!(db.put_if_absent("leader", "n1")?, Swap::Done(_)));
/// let other = db.put_if_absent("leader", "n2")?;
/// assert_eq!(other, Swap::Found(Some("n1".into())));
/// # Ok(()) }
/// ```
#[must_use = "the condition may not have held"]
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The condition held: written, with this sequence number.
    Done(SeqNo),
    /// It did not, because the key has this value, or none. Nothing was written.
    Found(Option<Bytes>),
}

impl Swap {
    /// True if it was written.
    pub fn is_done(&self) -> bool {
        matches!(self, Swap::Done(_))
    }
}

/// What a look at the present value leads to.
enum Step<V, T> {
    /// This becomes the value, `None` for no value.
    Write(Option<V>, T),
    /// Nothing is written.
    Stay(T),
}

impl Keyspace {
    /// Sets `key` to `value` if it has none.
    ///
    /// # Errors
    /// As for [`Keyspace::put`], and as for a read.
    pub fn put_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Swap> {
        self.compare_and_swap(key, None, Some(value.as_ref()))
    }

    /// Sets `key` to `new` if its value is `expected`; `None` stands for no value in both.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let db = terrace::Db::in_memory()?;
    /// db.put("state", "idle")?;
    /// assert!(db.compare_and_swap("state", Some(b"idle"), Some(b"busy"))?.is_done());
    /// assert!(!db.compare_and_swap("state", Some(b"idle"), None)?.is_done());
    /// assert_eq!(db.get("state")?.unwrap(), "busy");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`Keyspace::put`], and as for a read.
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<Swap> {
        let decide = |hit: Option<Value<'_>>| {
            Ok(match hit.as_deref() == expected {
                true => Step::Write(new, None),
                false => Step::Stay(Some(hit.map(Value::into_bytes))),
            })
        };
        let (seq, found) = self.rewrite(key.as_ref(), decide)?;
        Ok(found.map_or(Swap::Done(seq), Swap::Found))
    }

    /// Sets `key` to what `f` makes of its value, `None` standing for no value; what it is now. `f`
    /// runs on this thread and under no lock, and runs again whenever another write of the key came
    /// in between.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let db = terrace::Db::in_memory()?;
    /// let longer = |old: Option<&[u8]>| Some([old.unwrap_or(b"-"), b"x"].concat());
    /// assert_eq!(db.update("k", longer)?.unwrap(), "-x");
    /// assert_eq!(db.update("k", longer)?.unwrap(), "-xx");
    /// assert_eq!(db.update("k", |_| None)?, None);
    /// assert!(!db.contains_key("k")?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`Keyspace::put`], and as for a read.
    pub fn update(
        &self,
        key: impl AsRef<[u8]>,
        mut f: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Bytes>> {
        let decide = |hit: Option<Value<'_>>| {
            let new = f(hit.as_deref()).map(Bytes::from);
            Ok(match (&hit, &new) {
                (None, None) => Step::Stay(None),
                _ => Step::Write(new.clone(), new),
            })
        };
        Ok(self.rewrite(key.as_ref(), decide)?.1)
    }

    /// Adds `delta` to the counter `key`, which counts from 0 if it has no value; the sum. A
    /// counter is 8 bytes, little-endian.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let db = terrace::Db::in_memory()?;
    /// assert_eq!(db.add_i64("visits", 5)?, 5);
    /// assert_eq!(db.add_i64("visits", -2)?, 3);
    /// assert_eq!(db.get("visits")?.unwrap()[..], 3i64.to_le_bytes());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Invalid` if the value has another length, or the sum is out of range: nothing is written
    /// then. Else as for [`Keyspace::put`], and as for a read.
    pub fn add_i64(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64> {
        let decide = |hit: Option<Value<'_>>| {
            let sum = counter(hit.as_deref(), delta)?;
            Ok(Step::Write(Some(sum.to_le_bytes()), sum))
        };
        Ok(self.rewrite(key.as_ref(), decide)?.1)
    }

    /// Appends `bytes` to the value of `key`, which is empty if it has none; the write's sequence
    /// number. The whole value is written again: for values that grow long, keep the parts under
    /// keys of their own.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let db = terrace::Db::in_memory()?;
    /// db.append("log", "a")?;
    /// db.append("log", "b")?;
    /// assert_eq!(db.get("log")?.unwrap(), "ab");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`Keyspace::put`], the whole value counting, and as for a read.
    pub fn append(&self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Result<SeqNo> {
        let decide = |hit: Option<Value<'_>>| {
            let whole = joined(hit.as_deref(), bytes.as_ref())?;
            Ok(Step::Write(Some(whole), ()))
        };
        Ok(self.rewrite(key.as_ref(), decide)?.0)
    }

    /// Removes `key`; the value that it had.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let db = terrace::Db::in_memory()?;
    /// db.put("token", "t1")?;
    /// assert_eq!(db.take("token")?.unwrap(), "t1"); // every other caller gets None
    /// assert_eq!(db.take("token")?, None);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`Keyspace::put`], and as for a read.
    pub fn take(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let decide = |hit: Option<Value<'_>>| {
            Ok(match hit {
                Some(hit) => Step::Write(None::<&[u8]>, Some(hit.into_bytes())),
                None => Step::Stay(None),
            })
        };
        Ok(self.rewrite(key.as_ref(), decide)?.1)
    }

    /// Removes the first key; it and its value. What it costs does not grow with the number of keys
    /// removed before.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let db = terrace::Db::in_memory()?;
    /// for (n, job) in [(1u64, "sweep"), (2, "mop")] {
    ///     db.put(n.to_be_bytes(), job)?;
    /// }
    /// assert_eq!(db.pop_first()?.unwrap().1, "sweep"); // of many threads, one gets it
    /// assert_eq!(db.pop_last()?.unwrap().1, "mop");
    /// assert_eq!(db.pop_first()?, None);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`Keyspace::put`], and as for a read.
    pub fn pop_first(&self) -> Result<Option<(Bytes, Bytes)>> {
        self.pop(Side::First)
    }

    /// Removes the last key; it and its value. Costs as [`Keyspace::pop_first`] does.
    ///
    /// # Errors
    /// As for [`Keyspace::put`], and as for a read.
    pub fn pop_last(&self) -> Result<Option<(Bytes, Bytes)>> {
        self.pop(Side::Last)
    }

    /// Sets when the value of `key` expires, or that it never does. False if the key has no value.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// use std::time::Duration;
    /// use terrace::Expiry;
    /// let db = terrace::Db::in_memory()?;
    /// db.put_expiring("session", "ada", Expiry::In(Duration::from_secs(60)))?;
    /// assert!(db.set_expiry("session", Expiry::Never)?);
    /// assert_eq!(db.get_entry("session")?.unwrap().expires_at, None);
    /// assert!(!db.set_expiry("other", Expiry::Never)?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`Keyspace::put`], and as for a read.
    pub fn set_expiry(&self, key: impl AsRef<[u8]>, expiry: Expiry) -> Result<bool> {
        let key = key.as_ref();
        check_lengths(key.len(), 0)?;
        let engine = self.engine_to_write()?;
        let checked = CheckedKey::new(UserKey::new(self.state.id, key));
        let mut attempt = 0;
        loop {
            self.state.check_alive()?;
            let (view, at, pin) = newest(engine, attempt);
            let point = ReadPoint::newest(at);
            let (seen, live) = view.look(
                &checked.user,
                checked.hash,
                &point,
                &engine.context,
                Want::Whole,
            )?;
            let Some(live) = live else {
                engine.committer.wait_visible(seen)?;
                return Ok(false);
            };
            let mut batch = Batch::new();
            let mut part = batch.keyspace(self);
            part.put_expiring(key, &*live.value, expiry);
            let clock = date(engine, &mut batch);
            let parts = [clock.as_deref().unwrap_or_default(), &batch.payload];
            let write = Write::of_batch(&batch, &parts);
            let checks = Checks {
                attempt,
                pinned: pin.is_some(),
                ..Checks::keys(at, std::slice::from_ref(&checked))
            };
            let receipt = append_if(engine, &write, None, &batch.keyspaces, &checks)?;
            if let Some(receipt) = receipt {
                engine.committer.wait_visible(receipt.last)?;
                return Ok(true);
            }
            attempt += 1;
        }
    }

    /// The engine, and `Closed` or `ReadOnly` also where nothing may come to be written.
    pub(crate) fn engine_to_write(&self) -> Result<&Engine> {
        let engine = self.handle.writer()?;
        engine.check_open()?;
        match engine.options.read_only {
            true => Err(opened_read_only()),
            false => Ok(engine),
        }
    }

    /// Writes an operand; `None` if the keyspace may now hold values that expire, with nothing
    /// written.
    pub(crate) fn write_operand(&self, key: &[u8], operand: &[u8]) -> Result<Option<SeqNo>> {
        self.engine_to_write()?;
        let checked = CheckedKey::new(UserKey::new(self.state.id, key));
        let state = &*self.state;
        let checks = Checks::lasting(std::slice::from_ref(&state));
        self.write_one_if(checked, ValueKind::Merge, operand, &checks)
    }

    /// Combines a value with `operand` as one step that reads and writes the whole value.
    pub(crate) fn merge_whole(&self, key: &[u8], operand: &[u8]) -> Result<SeqNo> {
        let policies = &self.handle.engine().context.policies;
        let user = UserKey::new(self.state.id, key);
        let decide = |hit: Option<Value<'_>>| {
            let parts: Vec<&[u8]> = hit.as_deref().into_iter().chain([operand]).collect();
            Ok(Step::Write(Some(policies.combine(user, &parts)?), ()))
        };
        Ok(self.rewrite(key, decide)?.0)
    }

    /// Does what `decide` says of the newest value, as one step. The sequence number is that of the
    /// write, or of what the decision not to write rests on.
    ///
    /// A new value keeps the expiry that the old one has; where there was none it gets the
    /// keyspace's.
    fn rewrite<V: AsRef<[u8]>, T>(
        &self,
        key: &[u8],
        mut decide: impl FnMut(Option<Value<'_>>) -> Result<Step<V, T>>,
    ) -> Result<(SeqNo, T)> {
        check_lengths(key.len(), 0)?;
        let engine = self.engine_to_write()?;
        let checked = CheckedKey::new(UserKey::new(self.state.id, key));
        let mut attempt = 0;
        loop {
            self.state.check_alive()?;
            let pinned = (attempt >= PATIENCE).then(|| engine.committer.newest_pinned());
            // What is visible first: then every entry up to it is in the view.
            let visible = engine.committer.visible();
            let guard = engine.views.cell.load();
            let (view, visible, at) = match &pinned {
                Some((view, at, _)) => (view, *at, *at),
                None => (&*guard, visible, SeqNo::MAX),
            };
            let at = ReadPoint::newest(at);
            let (seen, live) = view.look(
                &checked.user,
                checked.hash,
                &at,
                &engine.context,
                Want::Whole,
            )?;
            let expires = match &live {
                Some(live) => live.expires,
                None => engine.context.deadline(self.state.expiry()),
            };
            let (value, answer) = match decide(live.map(|live| live.value)) {
                Ok(Step::Write(value, answer)) => (value, answer),
                Ok(Step::Stay(answer)) => {
                    engine.committer.wait_visible(seen)?;
                    return Ok((seen, answer));
                }
                Err(error) => {
                    engine.committer.wait_visible(seen)?;
                    return Err(error);
                }
            };
            drop(guard);
            let value = value.as_ref().map(V::as_ref);
            check_lengths(0, value.map_or(0, <[u8]>::len))?;
            let checks = Checks {
                attempt,
                pinned: pinned.is_some(),
                ..Checks::keys(visible.max(seen), std::slice::from_ref(&checked))
            };
            let written = match (value, expires) {
                (None, _) => self.write_one_if(checked, ValueKind::Tombstone, &[], &checks)?,
                (Some(value), None) => {
                    self.write_one_if(checked, ValueKind::Put, value, &checks)?
                }
                (Some(value), Some(time)) => self.write_until_if(checked, value, time, &checks)?,
            };
            if let Some(seq) = written {
                return Ok((seq, answer));
            }
            attempt += 1;
        }
    }

    /// One put of a value that expires at `time`, if `checks` hold.
    fn write_until_if(
        &self,
        key: CheckedKey<'_>,
        value: &[u8],
        time: u64,
        checks: &Checks<'_>,
    ) -> Result<Option<SeqNo>> {
        let engine = self.handle.engine();
        let mut batch = Batch::new();
        batch.keyspace(self);
        batch.add_put_until(self.state.id, key.user.bytes, value, time);
        let clock = date(engine, &mut batch);
        let parts = [clock.as_deref().unwrap_or_default(), &batch.payload];
        let write = Write::of_batch(&batch, &parts);
        let receipt = append_if(engine, &write, None, self.must_live(), checks)?;
        let Some(receipt) = receipt else {
            return Ok(None);
        };
        engine.committer.wait_visible(receipt.last)?;
        Ok(Some(receipt.last))
    }

    /// One entry that is stored as it is given, if `checks` hold.
    fn write_one_if(
        &self,
        key: CheckedKey<'_>,
        kind: ValueKind,
        value: &[u8],
        checks: &Checks<'_>,
    ) -> Result<Option<SeqNo>> {
        let (user, hash) = (key.user, key.hash);
        let framing = Framing::new(user, kind, value.len());
        let parts = [
            framing.before_key(),
            user.bytes,
            framing.before_value(),
            value,
        ];
        let entry = Entry {
            user,
            hash,
            kind,
            value,
        };
        let write = Write::new(&parts, 1, Entries::One(entry));
        let engine = self.handle.engine();
        let receipt = append_if(engine, &write, None, self.must_live(), checks)?;
        let Some(receipt) = receipt else {
            return Ok(None);
        };
        engine.committer.wait_visible(receipt.last)?;
        Ok(Some(receipt.last))
    }

    fn pop(&self, side: Side) -> Result<Option<(Bytes, Bytes)>> {
        let engine = self.engine_to_write()?;
        let id = self.state.id;
        let mut attempt = 0;
        loop {
            self.state.check_alive()?;
            let (view, at, from, pin) = engine.committer.newest_end(id, side, attempt >= PATIENCE);
            let mut bounds = OwnedBounds::all();
            if let Some(from) = &from {
                match side {
                    Side::First => bounds.lower = Bound::Included(from.clone()),
                    Side::Last => bounds.upper = Bound::Included(from.clone()),
                }
            }
            let mut walk = Walk::new(&Scan {
                view,
                keyspace: id,
                at: ReadPoint::newest(at),
                context: engine.context.clone(),
                bounds: bounds.clone(),
                overlay: None,
            });
            match side {
                Side::First => walk.first()?,
                Side::Last => walk.last()?,
            }
            if !walk.valid() {
                engine.committer.wait_visible(at)?;
                return Ok(None);
            }
            let (key, value) = (walk.key_bytes(), walk.value_bytes()?);
            match side {
                Side::First => bounds.upper = Bound::Excluded(key.to_vec()),
                Side::Last => bounds.lower = Bound::Excluded(key.to_vec()),
            }
            let checked = CheckedKey::new(UserKey::new(id, &key));
            let checks = Checks {
                ranges: &[(id, bounds)],
                proof: Some(Proof {
                    keyspace: id,
                    side,
                    from: from.as_deref(),
                    to: &key,
                }),
                attempt,
                pinned: pin.is_some(),
                ..Checks::keys(at, std::slice::from_ref(&checked))
            };
            if self
                .write_one_if(checked, ValueKind::Tombstone, &[], &checks)?
                .is_some()
            {
                return Ok(Some((key, value)));
            }
            attempt += 1;
        }
    }
}
