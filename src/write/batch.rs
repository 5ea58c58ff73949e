//! Batches: operations gathered as they will stand in the log, to be written together.

use std::sync::Arc;

use terrace_base::coding::put_u64;
use terrace_base::key::{EXPIRY_LEN, MAX_KEY_LEN, MAX_VALUE_LEN};
use terrace_base::{Error, KeyspaceId, Result, SeqNo, UserKey, ValueKind};

use crate::bounds::{KeyBounds, half_open};
use crate::keyspace::state::KeyspaceState;
use crate::options::Durability;
use crate::write::deferred::Deferred;
use crate::write::expiry::{Deadline, Expiry};
use crate::write::payload::{Framing, Operation, Operations, encode_delete_range};

/// Most bytes of a batch, keys and values and their framing counted.
pub const MAX_BATCH_LEN: u64 = 1 << 30;

/// `Invalid` unless a key and a value of these lengths may be written.
#[inline]
pub(crate) fn check_lengths(key: usize, value: usize) -> Result<()> {
    if key > MAX_KEY_LEN {
        return Err(Error::invalid(format!(
            "the key has {key} bytes; at most {MAX_KEY_LEN} are allowed"
        )));
    }
    if value as u64 > MAX_VALUE_LEN {
        return Err(Error::invalid(format!(
            "the value has {value} bytes; at most {MAX_VALUE_LEN} are allowed"
        )));
    }
    Ok(())
}
/// Writes that happen together or not at all, also across keyspaces, in one log frame.
///
/// Later operations of a batch win over earlier ones on the same key. Arguments are checked by
/// [`Db::write`](crate::Db::write), which fails with the first that is wrong and then writes
/// nothing.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// let db = terrace::Db::in_memory()?;
/// let users = db.keyspace("users")?;
/// let mut batch = terrace::Batch::new();
/// batch.put("total", "1");
/// batch.keyspace(&users).put("ada", "1815");
/// db.write(batch)?;
/// assert_eq!(users.get("ada")?.unwrap(), "1815");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) payload: Vec<u8>,
    pub(crate) count: u32,
    pub(crate) durability: Option<Durability>,
    /// Where in the payload a time of expiry stands, and when it is.
    pub(crate) deadlines: Vec<(usize, Deadline)>,
    /// Which operations are puts that a keyspace's expiry does not touch.
    pub(crate) lasting: Vec<u32>,
    /// The keyspaces that the batch has operands for.
    pub(crate) merging: Vec<KeyspaceId>,
    /// The keyspaces that the batch has values for that expire.
    pub(crate) expiring: Vec<KeyspaceId>,
    /// The keyspaces that the batch names, other than a default one.
    pub(crate) keyspaces: Vec<Arc<KeyspaceState>>,
    pub(crate) wrong: Option<Error>,
    /// How many ranges it deletes.
    pub(crate) range_deletes: u32,
    /// Bytes of the largest value.
    pub(crate) largest: usize,
    /// What is found out when it is written.
    pub(crate) deferred: Deferred,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Forgets all operations and keeps the memory.
    pub fn clear(&mut self) {
        self.payload.clear();
        self.keyspaces.clear();
        self.deferred.clear();
        (self.count, self.durability, self.wrong) = (0, None, None);
        self.largest = 0;
        self.deadlines.clear();
        self.lasting.clear();
        self.merging.clear();
        self.expiring.clear();
    }

    /// How many operations there are. A condition is none.
    pub fn len(&self) -> usize {
        self.count as usize + self.deferred.changes()
    }

    /// True if there is no operation.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets `key` to `value` in the default keyspace.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.add_put(KeyspaceId(0), key.as_ref(), value.as_ref());
        self
    }

    /// Sets `key` to `value` in the default keyspace, until a time.
    pub fn put_expiring(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> &mut Self {
        self.add_put_expiring(KeyspaceId(0), key.as_ref(), value.as_ref(), expiry);
        self
    }

    /// Combines the value of `key` in the default keyspace with `operand`; see
    /// [`Keyspace::merge`](crate::Keyspace::merge).
    pub fn merge(&mut self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> &mut Self {
        self.add_merge(KeyspaceId(0), key.as_ref(), operand.as_ref());
        self
    }

    /// Removes `key` from the default keyspace.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.add_delete(KeyspaceId(0), key.as_ref());
        self
    }

    /// Removes every key of `range` from the default keyspace; what the batch puts there later
    /// stays.
    pub fn delete_range(&mut self, range: impl KeyBounds) -> &mut Self {
        self.add_delete_range(KeyspaceId(0), &range);
        self
    }

    /// Adds `delta` to the counter `key` of the default keyspace, as
    /// [`Keyspace::add_i64`](crate::Keyspace::add_i64) does. It counts on from what stands before
    /// it in the batch.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// let db = terrace::Db::in_memory()?;
    /// let mut batch = terrace::Batch::new();
    /// batch.put("order/7", "3 pens").add_i64("orders", 1).append("log", "order/7 ");
    /// db.write(batch)?;
    /// assert_eq!(db.get("orders")?.unwrap()[..], 1i64.to_le_bytes());
    /// # Ok(()) }
    /// ```
    pub fn add_i64(&mut self, key: impl AsRef<[u8]>, delta: i64) -> &mut Self {
        self.add_sum(KeyspaceId(0), key.as_ref(), delta);
        self
    }

    /// Appends `bytes` to the value of `key` in the default keyspace, as
    /// [`Keyspace::append`](crate::Keyspace::append) does, after what stands before it in the
    /// batch.
    pub fn append(&mut self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.add_append(KeyspaceId(0), key.as_ref(), bytes.as_ref());
        self
    }

    /// The batch is written only if the last write of `key` in the default keyspace set a value and
    /// has the sequence number `version`. Else [`Db::write`](crate::Db::write) is a `Conflict` that
    /// names the key. The condition is about the database before the batch, wherever in the batch
    /// it stands.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # use terrace::{Batch, Db, ErrorKind};
    /// # let db = Db::in_memory()?;
    /// let version = db.put("ada", "engine")?;
    /// let mut batch = Batch::new();
    /// batch.require_version("ada", version).require_absent("bob");
    /// batch.put("ada", "notes").put("bob", "new");
    /// db.write(batch.clone())?;
    /// let error = db.write(batch).unwrap_err(); // neither holds any more
    /// assert_eq!((error.kind(), error.key()), (ErrorKind::Conflict, Some(&b"ada"[..])));
    /// # Ok(()) }
    /// ```
    pub fn require_version(&mut self, key: impl AsRef<[u8]>, version: SeqNo) -> &mut Self {
        self.add_condition(KeyspaceId(0), key.as_ref(), Some(version));
        self
    }

    /// The batch is written only if `key` has no value in the default keyspace before it; else as
    /// for [`Batch::require_version`].
    pub fn require_absent(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.add_condition(KeyspaceId(0), key.as_ref(), None);
        self
    }

    /// When this batch counts as done, if not as the database's options say.
    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.durability = Some(durability);
        self
    }

    pub(crate) fn add_put(&mut self, id: KeyspaceId, key: &[u8], value: &[u8]) {
        self.add_entry(UserKey::new(id, key), ValueKind::Put, value, None);
    }

    /// Adds an entry; `value` comes without the time of expiry, which is `deadline`.
    fn add_entry(
        &mut self,
        user: UserKey<'_>,
        kind: ValueKind,
        value: &[u8],
        deadline: Option<Deadline>,
    ) {
        if self.admit(user.bytes.len(), value.len()) {
            self.count += 1;
            self.largest = self.largest.max(value.len());
            let len = value.len() + deadline.map_or(0, |_| EXPIRY_LEN);
            let framing = Framing::new(user, kind, len);
            self.payload.extend_from_slice(framing.before_key());
            self.payload.extend_from_slice(user.bytes);
            self.payload.extend_from_slice(framing.before_value());
            if let Some(deadline) = deadline {
                self.deadlines.push((self.payload.len(), deadline));
                if !self.expiring.contains(&user.keyspace) {
                    self.expiring.push(user.keyspace);
                }
                put_u64(&mut self.payload, 0);
            }
            self.payload.extend_from_slice(value);
        }
    }

    fn add_put_expiring(&mut self, id: KeyspaceId, key: &[u8], value: &[u8], expiry: Expiry) {
        let Some(deadline) = expiry.deadline() else {
            return self.add_lasting_put(id, key, value);
        };
        let user = UserKey::new(id, key);
        self.add_entry(user, ValueKind::PutExpiring, value, Some(deadline));
    }

    /// Adds a put that does not get its keyspace's expiry.
    pub(crate) fn add_lasting_put(&mut self, id: KeyspaceId, key: &[u8], value: &[u8]) {
        self.lasting.push(self.count);
        self.add_put(id, key, value);
    }

    pub(crate) fn add_put_until(&mut self, id: KeyspaceId, key: &[u8], value: &[u8], time: u64) {
        let (user, deadline) = (UserKey::new(id, key), Deadline::At(time));
        self.add_entry(user, ValueKind::PutExpiring, value, Some(deadline));
    }

    /// Gives the plain puts of keyspaces the expiry that their options say, in milliseconds.
    #[cold]
    pub(crate) fn expire(&mut self, expiry: impl Fn(KeyspaceId) -> Option<u64>) -> Result<()> {
        let old = std::mem::take(self);
        (self.durability, self.keyspaces) = (old.durability, old.keyspaces);
        (self.merging, self.deferred) = (old.merging, old.deferred);
        let mut deadlines = old.deadlines.iter();
        for (n, operation) in Operations::new(&old.payload, old.count).enumerate() {
            match operation? {
                Operation::Entry { user, kind, value } => {
                    let after = expiry(user.keyspace).map(Deadline::After);
                    let lasts =
                        kind != ValueKind::Put || old.lasting.binary_search(&(n as u32)).is_ok();
                    let (kind, deadline) = match (kind, after.filter(|_| !lasts)) {
                        (_, Some(after)) => (ValueKind::PutExpiring, Some(after)),
                        (ValueKind::PutExpiring, _) => (kind, deadlines.next().map(|(_, at)| *at)),
                        _ => (kind, None),
                    };
                    let value = match deadline {
                        Some(_) if !lasts => value,
                        Some(_) => value.get(EXPIRY_LEN..).unwrap_or_default(),
                        None => value,
                    };
                    self.add_entry(user, kind, value, deadline);
                }
                Operation::DeleteRange { lower, upper } => self.add_range(lower, upper),
                _ => {}
            }
        }
        self.wrong.clone().map_or(Ok(()), Err)
    }

    /// Writes the times of expiry into the payload, and returns the first of them.
    pub(crate) fn date(&mut self, now: u64) -> u64 {
        let mut first = u64::MAX;
        for (at, deadline) in &self.deadlines {
            let time = match deadline {
                Deadline::After(time) => now.saturating_add(*time),
                Deadline::At(time) => *time,
            };
            first = first.min(time);
            if let Some(place) = self.payload.get_mut(*at..at + EXPIRY_LEN) {
                place.copy_from_slice(&time.to_le_bytes());
            }
        }
        first
    }

    fn add_merge(&mut self, id: KeyspaceId, key: &[u8], operand: &[u8]) {
        if !self.merging.contains(&id) {
            self.merging.push(id);
        }
        self.add_entry(UserKey::new(id, key), ValueKind::Merge, operand, None);
    }

    pub(crate) fn add_delete(&mut self, id: KeyspaceId, key: &[u8]) {
        self.add_entry(UserKey::new(id, key), ValueKind::Tombstone, &[], None);
    }

    pub(crate) fn add_delete_range(&mut self, id: KeyspaceId, range: &impl KeyBounds) {
        let Some((lower, upper)) = half_open(range) else {
            return; // An empty range.
        };
        self.add_range(UserKey::new(id, &lower), upper.as_deref());
    }

    pub(crate) fn add_range(&mut self, lower: UserKey<'_>, upper: Option<&[u8]>) {
        let (lower_len, upper_len) = (lower.bytes.len(), upper.map_or(0, <[u8]>::len));
        // The end of a range that includes its last key is a byte longer than that key.
        let longest = lower_len.max(upper_len).saturating_sub(1);
        if self.admit(longest, lower_len + upper_len) {
            self.count += 1;
            self.range_deletes += 1;
            encode_delete_range(&mut self.payload, lower, upper);
        }
    }

    /// True if an operation with a key and a value of these lengths may be added.
    pub(crate) fn admit(&mut self, key: usize, value: usize) -> bool {
        if self.wrong.is_some() {
            return false;
        }
        let size = self.payload.len() as u64 + key as u64 + value as u64 + 24;
        let result = check_lengths(key, value).and_then(|()| {
            if size > MAX_BATCH_LEN || self.len() >= u32::MAX as usize {
                return Err(Error::invalid(format!(
                    "the batch would have {size} bytes; at most {MAX_BATCH_LEN} are allowed"
                )));
            }
            Ok(())
        });
        match result {
            Ok(()) => true,
            Err(error) => {
                self.wrong = Some(error);
                false
            }
        }
    }
}

/// A [`Batch`] looking at one keyspace.
#[derive(Debug)]
pub struct BatchKeyspace<'a> {
    pub(crate) id: KeyspaceId,
    pub(crate) batch: &'a mut Batch,
}

impl BatchKeyspace<'_> {
    /// Sets `key` to `value`, until a time.
    pub fn put_expiring(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> &mut Self {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.batch.add_put_expiring(self.id, key, value, expiry);
        self
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.batch.add_put(self.id, key.as_ref(), value.as_ref());
        self
    }

    /// Combines the value of `key` with `operand`; see [`Keyspace::merge`](crate::Keyspace::merge).
    pub fn merge(&mut self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> &mut Self {
        self.batch
            .add_merge(self.id, key.as_ref(), operand.as_ref());
        self
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.batch.add_delete(self.id, key.as_ref());
        self
    }

    /// Removes every key of `range`.
    pub fn delete_range(&mut self, range: impl KeyBounds) -> &mut Self {
        self.batch.add_delete_range(self.id, &range);
        self
    }

    /// Adds to a counter: see [`Batch::add_i64`].
    pub fn add_i64(&mut self, key: impl AsRef<[u8]>, delta: i64) -> &mut Self {
        self.batch.add_sum(self.id, key.as_ref(), delta);
        self
    }

    /// Appends to a value: see [`Batch::append`].
    pub fn append(&mut self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.batch.add_append(self.id, key.as_ref(), bytes.as_ref());
        self
    }

    /// The batch is written only if `key` has this version: see [`Batch::require_version`].
    pub fn require_version(&mut self, key: impl AsRef<[u8]>, version: SeqNo) -> &mut Self {
        self.batch
            .add_condition(self.id, key.as_ref(), Some(version));
        self
    }

    /// The batch is written only if `key` has no value: see [`Batch::require_absent`].
    pub fn require_absent(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.batch.add_condition(self.id, key.as_ref(), None);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_argument_is_kept() {
        let mut batch = Batch::new();
        batch
            .put("fine", "1")
            .put(vec![0; MAX_KEY_LEN + 1], "")
            .put("fine too", "");
        assert_eq!(batch.len(), 1);
        assert!(batch.wrong.is_some());
        batch.clear();
        assert!(batch.wrong.is_none() && batch.is_empty());
    }
}
