//! The resolution of a batch with conditions, counters, appended bytes or operands into a plain one

use std::borrow::Cow;
use std::collections::BTreeMap;

use terrace_base::hash::key_hash;
use terrace_base::key::split_expiry;
use terrace_base::{Error, Result, SeqNo, UserKey, ValueKind, mutant};

use crate::commit::checks::{Checks, conflict};
use crate::commit::committer::Receipt;
use crate::db::append::{append_if, date, nothing_written, stamp, state_of};
use crate::db::atomic::newest;
use crate::engine::Engine;
use crate::keyspace::state::KeyspaceState;
use crate::read::basis::CheckedKey;
use crate::read::blob::Want;
use crate::read::context::ReadPoint;
use crate::read::get::Live;
use crate::read::view::View;
use crate::write::batch::{Batch, MAX_BATCH_LEN, check_lengths};
use crate::write::deferred::{Condition, What};
use crate::write::payload::{Operation, Operations, encode_delete_range, encode_entry};
use crate::write::prepared::Write;
use crate::write::values::counter;

/// The plain form of a batch.
struct Resolved<'a> {
    payload: Cow<'a, [u8]>,
    count: u32,
    /// When the first of the values made here expires; as late as can be if none does.
    first_expiry: u64,
}

/// Appends a batch with conditions, changes or operands, once it is clear what it writes.
pub(crate) fn append_conditional(engine: &Engine, batch: &mut Batch) -> Result<Receipt> {
    let mut clock = date(engine, batch);
    let batch = &*batch;
    let merging = batch.merging.iter();
    let merging = merging.map(|id| state_of(engine, *id, &batch.keyspaces));
    let merging: Vec<&KeyspaceState> = merging.collect();
    let mut attempt = 0;
    loop {
        engine.check_open()?;
        for keyspace in &batch.keyspaces {
            keyspace.check_alive()?;
        }
        let (reading, lasting): (Vec<_>, Vec<_>) = merging
            .iter()
            .copied()
            .partition(|state| state.may_expire());
        let targets = targets(batch, &reading)?;
        let keys = batch.deferred.conditions.iter();
        let keys = keys.map(|condition| condition.user.as_ref());
        let mut keys: Vec<_> = keys.chain(targets.keys().copied()).collect();
        keys.sort_unstable();
        keys.dedup();
        let keys: Vec<_> = keys.into_iter().map(CheckedKey::new).collect();
        let (view, at, pin) = newest(engine, attempt);
        let state = State {
            engine,
            batch,
            view: &view,
            at: ReadPoint::newest(at),
            now: engine.context.now(),
            reading: &reading,
        };
        let mut seen = SeqNo::ZERO;
        let resolved = match state.resolve(&targets, &mut seen) {
            Ok(resolved) => resolved,
            Err(error) => {
                engine.committer.wait_visible(seen)?;
                return Err(error);
            }
        };
        if resolved.count == 0 {
            engine.committer.wait_visible(seen)?;
            return nothing_written(engine);
        }
        if resolved.first_expiry < u64::MAX {
            let stamp = stamp(engine, state.now, resolved.first_expiry);
            clock = clock.or(stamp);
        }
        let parts = [clock.as_deref().unwrap_or_default(), &*resolved.payload];
        let write = Write {
            range_deletes: batch.range_deletes,
            ..Write::of_payload(resolved.count, &parts)
        };
        let checks = Checks {
            lasting: &lasting,
            attempt,
            pinned: pin.is_some(),
            ..Checks::keys(at, &keys)
        };
        let receipt = append_if(engine, &write, batch.durability, &batch.keyspaces, &checks)?;
        if let Some(receipt) = receipt {
            return Ok(receipt);
        }
        attempt += 1;
    }
}

/// How often each key is changed.
type Targets<'a> = BTreeMap<UserKey<'a>, usize>;

/// The keys whose values decide what `batch` writes, and how often it changes each.
fn targets<'a>(batch: &'a Batch, reading: &[&KeyspaceState]) -> Result<Targets<'a>> {
    let mut targets = Targets::new();
    for change in &batch.deferred.changes {
        *targets.entry(change.user.as_ref()).or_default() += 1;
    }
    if !reading.is_empty() {
        for operation in Operations::new(&batch.payload, batch.count) {
            if let Operation::Entry { user, kind, .. } = operation?
                && is_combined(reading, user, kind)
            {
                *targets.entry(user).or_default() += 1;
            }
        }
    }
    Ok(targets)
}

/// True if an entry is an operand that is combined before it is written.
fn is_combined(reading: &[&KeyspaceState], user: UserKey<'_>, kind: ValueKind) -> bool {
    kind == ValueKind::Merge && reading.iter().any(|state| state.id == user.keyspace)
}

/// A value, and when it expires.
#[derive(Debug)]
struct Held {
    value: Vec<u8>,
    expires: Option<u64>,
}

/// The values of the keys that decide, as they are behind the operations done so far.
type Values<'a> = BTreeMap<UserKey<'a>, Option<Held>>;

/// The state that a batch is resolved against.
#[derive(Clone, Copy)]
struct State<'a> {
    engine: &'a Engine,
    batch: &'a Batch,
    view: &'a View,
    at: ReadPoint,
    now: u64,
    /// The keyspaces in which operands are combined here; see [`crate::write::expiry`].
    reading: &'a [&'a KeyspaceState],
}

impl<'a> State<'a> {
    /// The version of a key and its value. `seen` becomes the newest entry looked at.
    fn look(
        &self,
        user: UserKey<'_>,
        want: Want,
        seen: &mut SeqNo,
    ) -> Result<(SeqNo, Option<Live<'a>>)> {
        let (hash, context) = (key_hash(user), &self.engine.context);
        let (seq, live) = self.view.look(&user, hash, &self.at, context, want)?;
        *seen = seq.max(*seen);
        Ok((seq, live))
    }

    /// A `Conflict` unless the conditions hold.
    fn check_conditions(&self, seen: &mut SeqNo) -> Result<()> {
        for Condition { user, version } in &self.batch.deferred.conditions {
            let user = user.as_ref();
            match (version, self.look(user, Want::Nothing, seen)?) {
                (None, (_, None)) => {}
                (Some(version), (seq, Some(_))) if *version == seq => {}
                (None, (_, Some(_))) => return Err(conflict(user.bytes, "exists")),
                (Some(_), (_, None)) => return Err(conflict(user.bytes, "does not exist")),
                (Some(_), (_, Some(_))) => return Err(conflict(user.bytes, "has another version")),
            }
        }
        Ok(())
    }

    /// What the batch writes. `seen` becomes the newest entry looked at.
    fn resolve(&self, targets: &Targets<'a>, seen: &mut SeqNo) -> Result<Resolved<'a>> {
        self.check_conditions(seen)?;
        let Batch {
            payload,
            count,
            deferred,
            ..
        } = self.batch;
        if targets.is_empty() {
            return Ok(Resolved {
                payload: Cow::Borrowed(payload),
                count: *count,
                first_expiry: u64::MAX,
            });
        }
        let mut values = Values::new();
        for user in targets.keys() {
            let (_, live) = self.look(*user, Want::Whole, seen)?;
            let held = live.map(|live| Held {
                value: live.value.to_vec(),
                expires: live.expires,
            });
            values.insert(*user, held);
        }
        let mut out = Output {
            changes: targets.clone(),
            ..Output::default()
        };
        let mut changes = deferred.changes.iter().peekable();
        for (n, operation) in (0..).zip(Operations::new(payload, *count)) {
            while let Some(change) = changes.next_if(|change| change.operations == n) {
                self.change(&mut values, &mut out, change.user.as_ref(), &change.what)?;
            }
            self.operation(&mut values, &mut out, operation?)?;
        }
        for change in changes {
            self.change(&mut values, &mut out, change.user.as_ref(), &change.what)?;
        }
        Ok(Resolved {
            payload: Cow::Owned(out.payload),
            count: count + deferred.changes.len() as u32,
            first_expiry: out.first_expiry,
        })
    }

    /// Writes the new value of a key that decides. It keeps the expiry that the old one has; where
    /// there was none it gets the keyspace's.
    fn change(
        &self,
        values: &mut Values<'a>,
        out: &mut Output<'a>,
        user: UserKey<'a>,
        what: &What,
    ) -> Result<()> {
        let held = values.entry(user).or_default();
        let old = held.as_ref().map(|held| held.value.as_slice());
        let value = match what {
            What::Add(delta) => counter(old, *delta)?.to_le_bytes().to_vec(),
            What::Merge(operand) => self.combined(user, old, operand)?,
            What::Append(more) => {
                check_lengths(0, old.map_or(0, <[u8]>::len).saturating_add(more.len()))?;
                let mut value = held.as_mut().map(|held| std::mem::take(&mut held.value));
                value.get_or_insert_default().extend_from_slice(more);
                value.unwrap_or_default()
            }
        };
        let state = state_of(self.engine, user.keyspace, &self.batch.keyspaces);
        let expires = match held {
            Some(held) => held.expires,
            None => state.expiry().map(|after| self.now.saturating_add(after)),
        };
        if expires.is_some() {
            state.note_expiring();
        }
        out.change(user, &value, expires)?;
        *held = Some(Held { value, expires });
        Ok(())
    }

    fn combined(&self, user: UserKey<'_>, old: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>> {
        let parts: Vec<&[u8]> = old.into_iter().chain([operand]).collect();
        let value = self.engine.context.policies.combine(user, &parts)?;
        check_lengths(0, value.len())?;
        Ok(value)
    }

    /// Writes an operation, and notes what it makes of those of the values that it concerns.
    fn operation(
        &self,
        values: &mut Values<'a>,
        out: &mut Output<'a>,
        operation: Operation<'a>,
    ) -> Result<()> {
        match operation {
            Operation::Entry { user, kind, value } => {
                if is_combined(self.reading, user, kind) {
                    return self.change(values, out, user, &What::Merge(value.into()));
                }
                out.entry(user, kind, value)?;
                let Some(known) = values.get_mut(&user) else {
                    return Ok(());
                };
                *known = match kind {
                    ValueKind::Put => Some(Held {
                        value: value.to_vec(),
                        expires: None,
                    }),
                    ValueKind::Tombstone => None,
                    ValueKind::Merge => {
                        let old = known.as_ref().map(|held| held.value.as_slice());
                        Some(Held {
                            value: self.combined(user, old, value)?,
                            expires: None,
                        })
                    }
                    ValueKind::PutExpiring => {
                        let (time, value) = split_expiry(value)?;
                        let expired = self.engine.context.is_expired(time, self.at);
                        (!expired).then(|| Held {
                            value: value.to_vec(),
                            expires: Some(time),
                        })
                    }
                    _ => {
                        return Err(Error::unsupported(format!(
                            "a batch that changes a value of kind {kind:?} which it sets itself"
                        )));
                    }
                };
            }
            Operation::DeleteRange { lower, upper } => {
                encode_delete_range(&mut out.payload, lower, upper);
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
}

/// The payload of a batch in its plain form.
#[derive(Debug)]
struct Output<'a> {
    /// How often each key is still to be changed.
    changes: Targets<'a>,
    payload: Vec<u8>,
    first_expiry: u64,
}

impl Default for Output<'_> {
    fn default() -> Self {
        Output {
            changes: Targets::new(),
            payload: Vec::new(),
            first_expiry: u64::MAX,
        }
    }
}

impl<'a> Output<'a> {
    /// Writes the new value of a key, or a delete in its place if another change follows.
    fn change(&mut self, user: UserKey<'a>, value: &[u8], expires: Option<u64>) -> Result<()> {
        if let Some(left) = self.changes.get_mut(&user) {
            *left = left.saturating_sub(1);
            if *left > 0 && !mutant("write-every-change") {
                return self.entry(user, ValueKind::Tombstone, &[]);
            }
        }
        self.put(user, value, expires)
    }

    fn put(&mut self, user: UserKey<'_>, value: &[u8], expires: Option<u64>) -> Result<()> {
        let Some(time) = expires else {
            return self.entry(user, ValueKind::Put, value);
        };
        self.first_expiry = self.first_expiry.min(time);
        let stored = [&time.to_le_bytes(), value].concat();
        self.entry(user, ValueKind::PutExpiring, &stored)
    }

    fn entry(&mut self, user: UserKey<'_>, kind: ValueKind, stored: &[u8]) -> Result<()> {
        encode_entry(&mut self.payload, user, kind, stored);
        match self.payload.len() as u64 {
            0..=MAX_BATCH_LEN => Ok(()),
            len => Err(Error::invalid(format!(
                "the batch would have {len} bytes; at most {MAX_BATCH_LEN} are allowed"
            ))),
        }
    }
}
