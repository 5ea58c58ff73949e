//! Point reads: memtable first, then tables from the newest run to the oldest.
//!
//! A get hashes its key once. It takes no lock and touches no counter that others write: the view is borrowed
//! for the time of the call. Among tables it first picks the candidate of each run by key range, asks the
//! processor to fetch all their index buckets, and only then tests them: several cache misses in a row become
//! one.
//!
//! A plain put is its value and a tombstone has none; what other kinds of entry mean is said once, in
//! [`View::resolve`].

use std::ops::Deref;

use bytes::Bytes;
use terrace_base::hash::key_hash;
use terrace_base::key::{EXPIRY_LEN, split_expiry};
use terrace_base::{Error, Result, SeqNo, UserKey, ValueKind};
use terrace_sstable::{Found, Table, Value};

use crate::context::{Context, ReadPoint};
use crate::memtable::Form;
use crate::view::View;

/// Candidate tables whose buckets are fetched together.
const ROUND: usize = 12;

/// A value where it lies.
#[derive(Debug)]
pub(crate) enum Hit<'v> {
    Memory(&'v [u8]),
    Table(Value<'v>),
    /// Made of operands.
    Made(Bytes),
}

impl Deref for Hit<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Hit::Memory(value) => value,
            Hit::Table(value) => value,
            Hit::Made(value) => value,
        }
    }
}

impl Hit<'_> {
    /// Owned: a copy, or for a large value of a table a slice that pins the table.
    #[inline]
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Hit::Memory(value) => Bytes::copy_from_slice(value),
            Hit::Table(value) => value.into_bytes(),
            Hit::Made(value) => value,
        }
    }

    /// Without the first `n` bytes.
    fn skip(self, n: usize) -> Self {
        match self {
            Hit::Memory(value) => Hit::Memory(value.get(n..).unwrap_or_default()),
            Hit::Table(value) => Hit::Table(value.skip(n)),
            Hit::Made(value) => Hit::Made(value.slice(n.min(value.len())..)),
        }
    }
}

/// A stored entry: what the last write did to a key.
#[derive(Debug)]
pub(crate) struct Stored<'v> {
    pub(crate) seq: SeqNo,
    pub(crate) kind: ValueKind,
    pub(crate) value: Hit<'v>,
}

/// What a key has.
#[derive(Debug)]
pub(crate) struct Live<'v> {
    /// The write that set it.
    pub(crate) seq: SeqNo,
    /// When it goes, if it does; milliseconds since 1970.
    pub(crate) expires: Option<u64>,
    pub(crate) value: Hit<'v>,
}

impl View {
    /// What `key` has for a reader at `at`.
    #[inline]
    pub(crate) fn get(
        &self,
        key: UserKey<'_>,
        at: ReadPoint,
        context: &Context,
    ) -> Result<Option<Live<'_>>> {
        match self.newest(key, key_hash(key), at.seq)? {
            Some(stored) => self.live(key, stored, at, context),
            None => Ok(None),
        }
    }

    /// The same, behind the sequence number of the key's newest entry, whatever that did; zero if there is none.
    pub(crate) fn look(
        &self,
        key: UserKey<'_>,
        hash: u64,
        at: ReadPoint,
        context: &Context,
    ) -> Result<(SeqNo, Option<Live<'_>>)> {
        match self.newest(key, hash, at.seq)? {
            Some(stored) => Ok((stored.seq, self.live(key, stored, at, context)?)),
            None => Ok((SeqNo::ZERO, None)),
        }
    }

    /// What an entry means.
    #[inline]
    fn live<'v>(
        &'v self,
        key: UserKey<'_>,
        stored: Stored<'v>,
        at: ReadPoint,
        context: &Context,
    ) -> Result<Option<Live<'v>>> {
        match stored.kind {
            ValueKind::Put => Ok(Some(Live {
                seq: stored.seq,
                expires: None,
                value: stored.value,
            })),
            ValueKind::Tombstone => Ok(None),
            _ => self.resolve(key, stored, at, context),
        }
    }

    /// What an entry that is neither put nor tombstone means.
    #[cold]
    fn resolve<'v>(
        &'v self,
        key: UserKey<'_>,
        stored: Stored<'v>,
        at: ReadPoint,
        context: &Context,
    ) -> Result<Option<Live<'v>>> {
        let Stored { seq, kind, value } = stored;
        match kind {
            ValueKind::Merge => self.combined(key, seq, value, at, context).map(Some),
            ValueKind::PutExpiring => {
                let (time, _) = split_expiry(&value)?;
                let live = Live {
                    seq,
                    expires: Some(time),
                    value: value.skip(EXPIRY_LEN),
                };
                Ok((!context.is_expired(time, at)).then_some(live))
            }
            _ => Err(Error::unsupported(format!(
                "an entry of kind {kind:?} cannot be read"
            ))),
        }
    }

    /// The value of a key whose newest entry is the operand `newest`, with whatever lies below it.
    fn combined<'v>(
        &'v self,
        key: UserKey<'_>,
        seq: SeqNo,
        newest: Hit<'v>,
        at: ReadPoint,
        context: &Context,
    ) -> Result<Live<'v>> {
        let hash = key_hash(key);
        let mut parts = vec![newest];
        let mut below = seq.before();
        while let Some(older) = self.newest(key, hash, below)? {
            below = older.seq.before();
            let is_operand = older.kind == ValueKind::Merge;
            if is_operand || older.kind == ValueKind::Put {
                parts.push(older.value);
            } else if older.kind != ValueKind::Tombstone {
                parts.extend(
                    self.resolve(key, older, at, context)?
                        .map(|live| live.value),
                );
            }
            if !is_operand {
                break;
            }
        }
        let oldest_first: Vec<&[u8]> = parts.iter().rev().map(|part| &**part).collect();
        let value = context.policies.combine(key, &oldest_first)?;
        Ok(Live {
            seq,
            expires: None, // What lies below may expire; the operands stay.
            value: Hit::Made(Bytes::from(value)),
        })
    }

    /// The newest entry of `key` at or below `at`, whatever it did. A key that a range delete hides is shown as a
    /// tombstone of that delete.
    ///
    /// Pieces and runs are asked from the newest on, so that the first entry found is the newest. The deletes of a
    /// piece hide all that lies in older ones; those of the tables hide what lies in tables and is older.
    #[inline]
    pub(crate) fn newest(
        &self,
        key: UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<Stored<'_>>> {
        let in_list = |(seq, kind, value)| Stored {
            seq,
            kind,
            value: Hit::Memory(value),
        };
        let found = self.active.get(key, hash, at)?.map(in_list);
        if self.active.has_ranges() {
            let deleted = self.active.ranges().newest(key, at);
            if let Some(found) = unless_deleted(found, deleted) {
                return Ok(Some(found));
            }
        } else if found.is_some() {
            return Ok(found);
        }
        for run in &self.sealed {
            let found = match &run.form {
                Form::List(list) => list.get(key, hash, at)?.map(in_list),
                Form::Image(table) => table.get(key, hash, at)?.map(Stored::from),
            };
            if let Some(found) = unless_deleted(found, run.ranges.newest(key, at)) {
                return Ok(Some(found));
            }
        }
        let found = self.newest_in_tables(key, hash, at);
        if let Err(error) = &found {
            self.version.note_damage(error);
        }
        Ok(unless_deleted(
            found?,
            self.version.deleted().newest(key, at),
        ))
    }

    #[inline]
    fn newest_in_tables(
        &self,
        key: UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<Stored<'_>>> {
        let mut round: [Option<&Table>; ROUND] = [None; ROUND];
        let mut count = 0;
        // Not one iterator over all runs: most levels have one or none, and plain loops skip those fast.
        for level in self.version.levels() {
            for run in &level.runs {
                let Some(candidate) = run.find(key) else {
                    continue;
                };
                if count == ROUND {
                    if let Some(found) = first_found(&round, key, hash, at)? {
                        return Ok(Some(found.into()));
                    }
                    count = 0;
                }
                if let Some(slot) = round.get_mut(count) {
                    *slot = Some(candidate.table()?);
                    count += 1;
                }
            }
        }
        let found = first_found(round.get(..count).unwrap_or(&[]), key, hash, at)?;
        Ok(found.map(Stored::from))
    }
}

/// `found`, or the range delete at `deleted` if that is newer; zero is none.
#[inline]
fn unless_deleted(found: Option<Stored<'_>>, deleted: SeqNo) -> Option<Stored<'_>> {
    match found {
        Some(found) if found.seq > deleted => Some(found),
        _ if deleted == SeqNo::ZERO => None,
        _ => Some(Stored {
            seq: deleted,
            kind: ValueKind::Tombstone,
            value: Hit::Memory(&[]),
        }),
    }
}

impl<'v> From<Found<'v>> for Stored<'v> {
    #[inline]
    fn from(found: Found<'v>) -> Stored<'v> {
        Stored {
            seq: found.seq,
            kind: found.kind,
            value: Hit::Table(found.value),
        }
    }
}

/// What the first of `tables` that has `key` says of it.
#[inline]
fn first_found<'v>(
    tables: &[Option<&'v Table>],
    key: UserKey<'_>,
    hash: u64,
    at: SeqNo,
) -> Result<Option<Found<'v>>> {
    if tables.len() > 1 {
        tables
            .iter()
            .flatten()
            .for_each(|table| table.prefetch(hash));
    }
    for table in tables.iter().flatten() {
        let found = table.get(key, hash, at)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}
