//! Batches, and how writes look in the log.
//!
//! The payload of a log frame is a sequence of operations; the frame's count says how many, and the i-th has
//! the sequence number `first + i`.
//!
//! ```text
//! payload   := operation*
//! operation := 1 | keyspace | key | value        put
//!            | 2 | keyspace | key                delete
//!            | 3 | keyspace | key | operand      merge
//!            | 4 | keyspace | key | value        put until a time, which the value begins with
//!            | 5 | keyspace | key | reference    put of a value in a blob file
//!            | 6 | keyspace | key | reference    the same until a time, which stands in front
//!            | 7 | keyspace | lower | bounded: u8 (0, 1) | upper      delete a range of keys
//!            | 34 | time: varint                      the database's clock, in milliseconds since 1970
//!            | 32 | keyspace | name | options    create a keyspace
//!            | 33 | keyspace                     drop a keyspace
//!            | 35 | keyspace | options           give a keyspace other options
//!            | 36 | keyspace | name              give a keyspace another name
//! keyspace  := varint
//! key, value, lower, upper, name, options := length: varint | bytes
//! ```
//!
//! Numbers up to 31 are those of `ValueKind`, whose stored values stand here as they will in tables; those not
//! listed are reserved. Example: putting
//! `a` = `xy` into the default keyspace and deleting `b` from keyspace 7:
//!
//! ```text
//! 01 00 01 61 02 78 79   02 07 01 62
//! ```

use std::sync::Arc;

use terrace_base::coding::{put_slice, put_u64, put_varint};
use terrace_base::key::{EXPIRY_LEN, MAX_KEY_LEN, MAX_VALUE_LEN};
use terrace_base::{Decoder, Error, KeyspaceId, Result, SeqNo, UserKey, ValueKind};

use crate::bounds::{KeyBounds, half_open};
use crate::condition::Deferred;
use crate::expiry::{Deadline, Expiry};
use crate::keyspace::{Keyspace, KeyspaceState};
use crate::options::Durability;

/// Most bytes of a batch, keys and values and their framing counted.
pub const MAX_BATCH_LEN: u64 = 1 << 30;

const DELETE_RANGE: u8 = 7;
const CREATE_KEYSPACE: u8 = 32;
const DROP_KEYSPACE: u8 = 33;
const CLOCK: u8 = 34;
const SET_OPTIONS: u8 = 35;
const RENAME_KEYSPACE: u8 = 36;

/// One operation of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    /// An entry as the memtable and the tables hold it.
    Entry {
        user: UserKey<'a>,
        kind: ValueKind,
        value: &'a [u8],
    },
    /// Every key from `lower` to before `upper` is gone; to the keyspace's end if there is no `upper`.
    DeleteRange {
        lower: UserKey<'a>,
        upper: Option<&'a [u8]>,
    },
    CreateKeyspace {
        id: KeyspaceId,
        name: &'a [u8],
        options: &'a [u8],
    },
    DropKeyspace {
        id: KeyspaceId,
    },
    SetOptions {
        id: KeyspaceId,
        options: &'a [u8],
    },
    RenameKeyspace {
        id: KeyspaceId,
        name: &'a [u8],
    },
    /// How far the database's clock had come.
    Clock(u64),
}

/// Reads the operations of a payload; after an error it ends.
#[derive(Debug)]
pub(crate) struct Operations<'a> {
    decoder: Decoder<'a>,
    left: u32,
}

impl<'a> Operations<'a> {
    pub(crate) fn new(payload: &'a [u8], count: u32) -> Operations<'a> {
        Operations {
            decoder: Decoder::new(payload),
            left: count,
        }
    }

    fn read(&mut self) -> Result<Operation<'a>> {
        let d = &mut self.decoder;
        let code = d.u8()?;
        if code == CLOCK {
            return Ok(Operation::Clock(d.varint()?));
        }
        let id = KeyspaceId(d.varint_u32()?);
        Ok(match code {
            1..=6 => {
                let kind = ValueKind::from_byte(code)?;
                let user = UserKey::new(id, d.slice()?);
                let value = match kind {
                    ValueKind::Tombstone => &[],
                    _ => d.slice()?,
                };
                kind.check_len(value.len())?;
                Operation::Entry { user, kind, value }
            }
            DELETE_RANGE => {
                let lower = UserKey::new(id, d.slice()?);
                let (bounded, upper) = (d.u8()?, d.slice()?);
                let upper = match bounded {
                    0 if upper.is_empty() => None,
                    1 if upper > lower.bytes => Some(upper),
                    _ => return Err(Error::corruption("a deleted range in the log is empty")),
                };
                Operation::DeleteRange { lower, upper }
            }
            CREATE_KEYSPACE => Operation::CreateKeyspace {
                id,
                name: d.slice()?,
                options: d.slice()?,
            },
            DROP_KEYSPACE => Operation::DropKeyspace { id },
            SET_OPTIONS => Operation::SetOptions {
                id,
                options: d.slice()?,
            },
            RENAME_KEYSPACE => Operation::RenameKeyspace {
                id,
                name: d.slice()?,
            },
            8..=31 => {
                return Err(Error::unsupported(format!(
                    "operation {code} in the log was written by a newer terrace"
                )));
            }
            _ => return Err(Error::corruption(format!("{code} is no operation"))),
        })
    }
}

impl<'a> Iterator for Operations<'a> {
    type Item = Result<Operation<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Result<Operation<'a>>> {
        if self.left == 0 {
            // What follows the last operation would be lost without a word.
            return match self.decoder.finish() {
                Ok(()) => None,
                Err(error) => {
                    self.decoder = Decoder::new(&[]);
                    Some(Err(error))
                }
            };
        }
        self.left -= 1;
        let operation = self.read();
        if operation.is_err() {
            (self.left, self.decoder) = (0, Decoder::new(&[]));
        }
        Some(operation)
    }
}

/// Appends the operation that deletes a range of keys.
pub(crate) fn encode_delete_range(out: &mut Vec<u8>, lower: UserKey<'_>, upper: Option<&[u8]>) {
    out.push(DELETE_RANGE);
    put_varint(out, u64::from(lower.keyspace.0));
    put_slice(out, lower.bytes);
    out.push(u8::from(upper.is_some()));
    put_slice(out, upper.unwrap_or_default());
}

/// Appends the operation that creates a keyspace.
pub(crate) fn encode_create(out: &mut Vec<u8>, id: KeyspaceId, name: &str, options: &[u8]) {
    out.push(CREATE_KEYSPACE);
    put_varint(out, u64::from(id.0));
    put_slice(out, name.as_bytes());
    put_slice(out, options);
}

/// The operation that says how far the clock has come.
pub(crate) fn encode_clock(time: u64) -> Vec<u8> {
    let mut out = vec![CLOCK];
    put_varint(&mut out, time);
    out
}

/// Appends the operation that drops a keyspace.
pub(crate) fn encode_drop(out: &mut Vec<u8>, id: KeyspaceId) {
    out.push(DROP_KEYSPACE);
    put_varint(out, u64::from(id.0));
}

/// Appends the operation that sets a key.
#[inline]
pub(crate) fn encode_put(out: &mut Vec<u8>, user: UserKey<'_>, value: &[u8]) {
    let framing = Framing::new(user, ValueKind::Put, value.len());
    out.extend_from_slice(framing.before_key());
    out.extend_from_slice(user.bytes);
    out.extend_from_slice(framing.before_value());
    out.extend_from_slice(value);
}

/// Appends the operation that gives a keyspace other options.
pub(crate) fn encode_set_options(out: &mut Vec<u8>, id: KeyspaceId, options: &[u8]) {
    out.push(SET_OPTIONS);
    put_varint(out, u64::from(id.0));
    put_slice(out, options);
}

/// Appends the operation that gives a keyspace another name.
pub(crate) fn encode_rename(out: &mut Vec<u8>, id: KeyspaceId, name: &str) {
    out.push(RENAME_KEYSPACE);
    put_varint(out, u64::from(id.0));
    put_slice(out, name.as_bytes());
}

/// What stands in front of the key, and in front of the value, of one operation: the parts of a payload that
/// are not the caller's bytes, made on the stack.
#[derive(Debug)]
pub(crate) struct Framing {
    bytes: [u8; 24],
    key_at: usize,
    len: usize,
}

impl Framing {
    #[inline]
    pub(crate) fn new(user: UserKey<'_>, kind: ValueKind, value_len: usize) -> Framing {
        let mut framing = Framing {
            bytes: [0; 24],
            key_at: 0,
            len: 0,
        };
        framing.push(kind as u8);
        framing.varint(u64::from(user.keyspace.0));
        framing.varint(user.bytes.len() as u64);
        framing.key_at = framing.len;
        if kind != ValueKind::Tombstone {
            framing.varint(value_len as u64);
        }
        framing
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        // 1 + 5 + 3 + 5 bytes at most: a slot is always there.
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }

    #[inline]
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.push(n as u8);
    }

    #[inline]
    pub(crate) fn before_key(&self) -> &[u8] {
        self.bytes.get(..self.key_at).unwrap_or(&[])
    }

    #[inline]
    pub(crate) fn before_value(&self) -> &[u8] {
        self.bytes.get(self.key_at..self.len).unwrap_or(&[])
    }
}

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
/// [`Db::write`](crate::Db::write), which fails with the first that is wrong and then writes nothing.
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
    /// The keyspaces that the batch names, other than a default one.
    pub(crate) keyspaces: Vec<Arc<KeyspaceState>>,
    pub(crate) wrong: Option<Error>,
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
    }

    /// How many operations there are. A condition is none.
    pub fn len(&self) -> usize {
        self.count as usize + self.deferred.changes()
    }

    /// True if there is no operation.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same operations on another keyspace.
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

    /// Combines the value of `key` in the default keyspace with `operand`; see [`Keyspace::merge`].
    pub fn merge(&mut self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> &mut Self {
        self.add_merge(KeyspaceId(0), key.as_ref(), operand.as_ref());
        self
    }

    /// Removes `key` from the default keyspace.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.add_delete(KeyspaceId(0), key.as_ref());
        self
    }

    /// Removes every key of `range` from the default keyspace; what the batch puts there later stays.
    pub fn delete_range(&mut self, range: impl KeyBounds) -> &mut Self {
        self.add_delete_range(KeyspaceId(0), &range);
        self
    }

    /// Adds `delta` to the counter `key` of the default keyspace, as [`Keyspace::add_i64`] does. It counts on from
    /// what stands before it in the batch.
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

    /// Appends `bytes` to the value of `key` in the default keyspace, as [`Keyspace::append`] does, behind what
    /// stands before it in the batch.
    pub fn append(&mut self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.add_append(KeyspaceId(0), key.as_ref(), bytes.as_ref());
        self
    }

    /// The batch is written only if the last write of `key` in the default keyspace set a value and has the sequence
    /// number `version`. Else [`Db::write`](crate::Db::write) is a `Conflict` that names the key. The condition is
    /// about the database before the batch, wherever in the batch it stands.
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

    /// The batch is written only if `key` has no value in the default keyspace before it; else as for
    /// [`Batch::require_version`].
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
            self.deferred.move_changes(n as u32, self.payload.len());
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
        self.deferred.move_changes(old.count, self.payload.len());
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
    id: KeyspaceId,
    batch: &'a mut Batch,
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

    /// Combines the value of `key` with `operand`; see [`Keyspace::merge`].
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

/// A write as the commit path takes it: the payload in parts, and how to find its entries without decoding
/// them where that is known.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub(crate) parts: &'a [&'a [u8]],
    pub(crate) count: u32,
    pub(crate) entries: Entries<'a>,
    /// Bytes of the payload.
    pub(crate) len: usize,
    /// Operations in front that `entries` leaves out: they change no entry.
    pub(crate) lead: u32,
    /// No value in it is larger.
    pub(crate) largest: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Entries<'a> {
    One {
        user: UserKey<'a>,
        hash: u64,
        kind: ValueKind,
        value: &'a [u8],
    },
    Payload(&'a [u8]),
    /// Nothing for the memtable: a change of the catalogue.
    None,
}

/// What a write does to the memtable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect<'a> {
    Entry {
        user: UserKey<'a>,
        hash: u64,
        kind: ValueKind,
        value: &'a [u8],
    },
    DeletedRange {
        lower: UserKey<'a>,
        upper: Option<&'a [u8]>,
    },
}

impl<'a> Write<'a> {
    pub(crate) fn new(parts: &'a [&'a [u8]], count: u32, entries: Entries<'a>) -> Write<'a> {
        let len = parts.iter().map(|part| part.len()).sum();
        let largest = match entries {
            Entries::One { value, .. } => value.len(),
            Entries::Payload(_) => len,
            Entries::None => 0,
        };
        Write {
            parts,
            count,
            entries,
            len,
            lead: 0,
            largest,
        }
    }

    /// The write of a batch whose payload follows `lead`, the bytes of an operation without effect on entries.
    pub(crate) fn of_batch(batch: &'a Batch, parts: &'a [&'a [u8]; 2]) -> Write<'a> {
        Write {
            largest: batch.largest,
            ..Write::of_payload(batch.count, parts)
        }
    }

    /// The same of a payload of `count` operations, the second part.
    pub(crate) fn of_payload(count: u32, parts: &'a [&'a [u8]; 2]) -> Write<'a> {
        let lead = u32::from(!parts[0].is_empty());
        let count = count.saturating_add(lead);
        Write {
            lead,
            ..Write::new(parts, count, Entries::Payload(parts[1]))
        }
    }

    /// True if it takes entries away and adds none.
    pub(crate) fn only_deletes(&self) -> bool {
        let takes = |operation| match operation {
            Ok(Operation::Entry { kind, .. }) => kind == ValueKind::Tombstone,
            Ok(Operation::DeleteRange { .. } | Operation::DropKeyspace { .. }) => true,
            _ => false,
        };
        match self.entries {
            Entries::One { kind, .. } => kind == ValueKind::Tombstone,
            Entries::Payload(payload) => {
                Operations::new(payload, self.count.saturating_sub(self.lead)).all(takes)
            }
            Entries::None => {
                let mut parts = self.parts.iter();
                parts.all(|part| Operations::new(part, self.count).all(takes))
            }
        }
    }

    /// Calls `apply` with each effect on the memtable.
    #[inline]
    pub(crate) fn for_each(
        &self,
        first: SeqNo,
        mut apply: impl FnMut(SeqNo, Effect<'_>),
    ) -> Result<()> {
        use terrace_base::hash::key_hash;
        match self.entries {
            Entries::One {
                user,
                hash,
                kind,
                value,
            } => apply(
                first,
                Effect::Entry {
                    user,
                    hash,
                    kind,
                    value,
                },
            ),
            Entries::Payload(payload) => {
                let count = self.count - self.lead;
                for (i, operation) in Operations::new(payload, count).enumerate() {
                    let seq = first.plus(u64::from(self.lead) + i as u64);
                    match operation? {
                        Operation::Entry { user, kind, value } => {
                            let hash = key_hash(user);
                            apply(
                                seq,
                                Effect::Entry {
                                    user,
                                    hash,
                                    kind,
                                    value,
                                },
                            );
                        }
                        Operation::DeleteRange { lower, upper } => {
                            apply(seq, Effect::DeletedRange { lower, upper });
                        }
                        Operation::CreateKeyspace { .. }
                        | Operation::DropKeyspace { .. }
                        | Operation::SetOptions { .. }
                        | Operation::RenameKeyspace { .. }
                        | Operation::Clock(_) => {}
                    }
                }
            }
            Entries::None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_is_what_is_written() {
        let mut batch = Batch::new();
        batch.put("a", "xy");
        batch.add_delete(KeyspaceId(7), b"b");
        let bytes = [1, 0, 1, b'a', 2, b'x', b'y', 2, 7, 1, b'b'];
        assert_eq!(batch.payload, bytes);
        let operations: Vec<_> = Operations::new(&bytes, 2).collect::<Result<_>>().unwrap();
        assert_eq!(
            operations,
            [
                Operation::Entry {
                    user: UserKey::new(KeyspaceId(0), b"a"),
                    kind: ValueKind::Put,
                    value: b"xy"
                },
                Operation::Entry {
                    user: UserKey::new(KeyspaceId(7), b"b"),
                    kind: ValueKind::Tombstone,
                    value: b""
                },
            ]
        );
    }

    #[test]
    fn malformed_payloads_are_errors() {
        for (payload, count) in [
            (&[1u8, 0, 1][..], 1),
            (&[9, 0, 1, 1], 1),
            (&[99, 0, 1, 1], 1),
            (&[2, 0, 1, b'a', 0], 1),
            (&[2, 0, 1, b'a'], 2),
        ] {
            let results: Vec<_> = Operations::new(payload, count).collect();
            assert!(results.last().is_some_and(Result::is_err), "{payload:?}");
        }
    }

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
