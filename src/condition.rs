//! What a batch leaves to be found out when it is written: conditions, counters, appended bytes.
//!
//! A [`Batch`] with any of these is made into a plain one when it is written: conditions are tested and new values
//! computed from the newest appended state, under no lock, and the result is appended on condition that none of
//! the keys looked at has changed ([`crate::check`]); else the same again. So the log holds only puts and deletes.
//!
//! What comes of a value that expires holds for ever. A condition is about the database, whatever the batch does to its key. A counter or an append sees what stands
//! before it in the batch:
//!
//! ```text
//! put n = 5; add 2 to n; delete m; append "x" to m      is written as      put n = 5; put n = 7; delete m; put m = "x"
//! ```

use std::collections::BTreeMap;

use terrace_base::hash::key_hash;
use terrace_base::key::split_expiry;
use terrace_base::{Error, KeyspaceId, OwnedUserKey, Result, SeqNo, UserKey, ValueKind};

use crate::batch::{Batch, MAX_BATCH_LEN};
use crate::blob::Want;
use crate::check::{CheckedKey, Checks, conflict, counter, joined};
use crate::commit::Receipt;
use crate::context::{Context, ReadPoint};
use crate::engine::Engine;
use crate::get::Live;
use crate::operations::{Operation, Operations, encode_put};
use crate::view::View;
use crate::write::Write;

/// What of a batch is found out when it is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deferred {
    conditions: Vec<Condition>,
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
struct Condition {
    user: OwnedUserKey,
    /// `None`: the key has no value.
    version: Option<SeqNo>,
}

/// A new value that depends on the one before.
#[derive(Clone, Debug)]
struct Change {
    user: OwnedUserKey,
    /// Where in the batch's payload it stands: behind so many bytes and operations.
    bytes: usize,
    operations: u32,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Add(i64),
    Append(Box<[u8]>),
}

impl Deferred {
    pub(crate) fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.changes.is_empty()
    }

    /// How many operations it will add to the batch.
    pub(crate) fn changes(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.conditions.clear();
        self.changes.clear();
    }

    /// The changes behind so many operations now lie behind so many bytes.
    pub(crate) fn move_changes(&mut self, operations: u32, bytes: usize) {
        let behind = |change: &&mut Change| change.operations == operations;
        for change in self.changes.iter_mut().filter(behind) {
            change.bytes = bytes;
        }
    }

    fn keys(&self) -> impl Iterator<Item = UserKey<'_>> {
        let conditions = self.conditions.iter().map(|condition| &condition.user);
        let changes = self.changes.iter().map(|change| &change.user);
        conditions.chain(changes).map(OwnedUserKey::as_ref)
    }
}

impl Batch {
    pub(crate) fn add_condition(&mut self, id: KeyspaceId, key: &[u8], version: Option<SeqNo>) {
        if self.admit(key.len(), 0) {
            let user = UserKey::new(id, key).to_owned();
            self.deferred.conditions.push(Condition { user, version });
        }
    }

    pub(crate) fn add_sum(&mut self, id: KeyspaceId, key: &[u8], delta: i64) {
        self.add_change(id, key, size_of::<i64>(), || What::Add(delta));
    }

    pub(crate) fn add_append(&mut self, id: KeyspaceId, key: &[u8], bytes: &[u8]) {
        self.add_change(id, key, bytes.len(), || What::Append(bytes.into()));
    }

    fn add_change(&mut self, id: KeyspaceId, key: &[u8], len: usize, what: impl FnOnce() -> What) {
        if self.admit(key.len(), len) {
            self.deferred.changes.push(Change {
                user: UserKey::new(id, key).to_owned(),
                bytes: self.payload.len(),
                operations: self.count,
                what: what(),
            });
        }
    }
}

/// The plain form of a batch.
struct Resolved {
    payload: Vec<u8>,
    count: u32,
}

impl Engine {
    /// Appends a batch with conditions or changes, once it is clear what it writes.
    pub(crate) fn append_conditional(&self, batch: &mut Batch) -> Result<Receipt> {
        let clock = self.date(batch);
        let batch = &*batch;
        let mut keys: Vec<_> = batch.deferred.keys().collect();
        keys.sort_unstable();
        keys.dedup();
        let keys: Vec<_> = keys.into_iter().map(CheckedKey::new).collect();
        loop {
            self.check_open()?;
            for keyspace in &batch.keyspaces {
                keyspace.check_alive()?;
            }
            let (view, at) = self.committer.newest();
            let state = State {
                view: &view,
                at: ReadPoint::newest(at),
                context: &self.context,
            };
            let mut seen = SeqNo::ZERO;
            let resolved = match resolve(batch, state, &mut seen) {
                Ok(resolved) => resolved,
                Err(error) => {
                    self.committer.wait_visible(seen)?;
                    return Err(error);
                }
            };
            if resolved.count == 0 {
                self.committer.wait_visible(seen)?;
                return self.nothing_written();
            }
            let parts = [clock.as_deref().unwrap_or_default(), &resolved.payload];
            let write = Write {
                ranges: batch.ranges,
                ..Write::of_payload(resolved.count, &parts)
            };
            let checks = Checks::keys(at, &keys);
            let receipt = self.append_if(&write, batch.durability, &batch.keyspaces, &checks)?;
            if let Some(receipt) = receipt {
                return Ok(receipt);
            }
        }
    }
}

/// The state that a batch is resolved against.
#[derive(Clone, Copy)]
struct State<'a> {
    view: &'a View,
    at: ReadPoint,
    context: &'a Context,
}

impl<'a> State<'a> {
    /// The version of a key and its value. `seen` becomes the newest entry looked at.
    fn look(
        &self,
        user: UserKey<'_>,
        want: Want,
        seen: &mut SeqNo,
    ) -> Result<(SeqNo, Option<Live<'a>>)> {
        let (seq, live) = self
            .view
            .look(&user, key_hash(user), &self.at, self.context, want)?;
        *seen = seq.max(*seen);
        Ok((seq, live))
    }
}

/// What `batch` writes. `seen` becomes the newest entry looked at.
fn resolve(batch: &Batch, state: State<'_>, seen: &mut SeqNo) -> Result<Resolved> {
    let deferred = &batch.deferred;
    for Condition { user, version } in &deferred.conditions {
        let user = user.as_ref();
        match (version, state.look(user, Want::Nothing, seen)?) {
            (None, (_, None)) => {}
            (Some(version), (seq, Some(_))) if *version == seq => {}
            (None, (_, Some(_))) => return Err(conflict(user.bytes, "exists")),
            (Some(_), (_, None)) => return Err(conflict(user.bytes, "does not exist")),
            (Some(_), (_, Some(_))) => return Err(conflict(user.bytes, "has another version")),
        }
    }
    let mut values: BTreeMap<UserKey<'_>, Option<Vec<u8>>> = BTreeMap::new();
    for change in &deferred.changes {
        let user = change.user.as_ref();
        let (_, live) = state.look(user, Want::Whole, seen)?;
        values.insert(user, live.map(|live| live.value.to_vec()));
    }
    let mut operations = Operations::new(&batch.payload, batch.count);
    let mut payload = Vec::with_capacity(batch.payload.len() + 64 * deferred.changes.len());
    let (mut bytes, mut done) = (0, 0);
    for change in &deferred.changes {
        payload.extend_from_slice(batch.payload.get(bytes..change.bytes).unwrap_or(&[]));
        for operation in operations
            .by_ref()
            .take((change.operations - done) as usize)
        {
            overlay(&mut values, operation?, state)?;
        }
        (bytes, done) = (change.bytes, change.operations);
        let user = change.user.as_ref();
        if let Some(value) = values.get_mut(&user) {
            let new = match &change.what {
                What::Add(delta) => counter(value.as_deref(), *delta)?.to_le_bytes().to_vec(),
                What::Append(bytes) => joined(value.as_deref(), bytes)?,
            };
            encode_put(&mut payload, user, &new);
            *value = Some(new);
        }
    }
    payload.extend_from_slice(batch.payload.get(bytes..).unwrap_or(&[]));
    if payload.len() as u64 > MAX_BATCH_LEN {
        return Err(Error::invalid(format!(
            "the batch would have {} bytes; at most {MAX_BATCH_LEN} are allowed",
            payload.len()
        )));
    }
    let count = batch.count + deferred.changes.len() as u32;
    Ok(Resolved { payload, count })
}

/// What an operation makes of those of the values that it concerns.
fn overlay<'a>(
    values: &mut BTreeMap<UserKey<'a>, Option<Vec<u8>>>,
    operation: Operation<'a>,
    state: State<'_>,
) -> Result<()> {
    match operation {
        Operation::Entry { user, kind, value } => {
            let Some(known) = values.get_mut(&user) else {
                return Ok(());
            };
            *known = match kind {
                ValueKind::Put => Some(value.to_vec()),
                ValueKind::Tombstone => None,
                ValueKind::Merge => {
                    let parts: Vec<&[u8]> = known.as_deref().into_iter().chain([value]).collect();
                    Some(state.context.policies.combine(user, &parts)?)
                }
                ValueKind::PutExpiring => {
                    let (time, value) = split_expiry(value)?;
                    (!state.context.is_expired(time, state.at)).then(|| value.to_vec())
                }
                _ => {
                    return Err(Error::unsupported(format!(
                        "a batch that changes a value of kind {kind:?} which it sets itself"
                    )));
                }
            };
        }
        Operation::DeleteRange { lower, upper } => {
            let inside = |user: &UserKey<'_>| upper.is_none_or(|upper| user.bytes < upper);
            for (user, value) in values.range_mut(lower..) {
                if user.keyspace == lower.keyspace && inside(user) {
                    *value = None;
                }
            }
        }
        Operation::CreateKeyspace { .. }
        | Operation::DropKeyspace { .. }
        | Operation::SetOptions { .. }
        | Operation::RenameKeyspace { .. }
        | Operation::Clock(_) => {}
    }
    Ok(())
}
