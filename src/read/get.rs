//! Point reads: memtable first, then tables from the newest run to the oldest.
//!
//! A get hashes its key once. It takes no lock and touches no counter that others write: the view
//! is borrowed for the time of the call. Among tables it first picks the candidate of each run by
//! key range, asks the processor to fetch all their index buckets, and only then tests them:
//! several cache misses in a row become one.
//!
//! The key is lent from function to function, and what a table answers is handed on whole. Where
//! each took the key by value, its three words were put together on the stack and loaded from there
//! at once, which stalls the processor: a get of an absent key took 60 ns instead of 42, with fewer
//! instructions.
//!
//! A plain put is its value and a tombstone has none; what other kinds of entry mean is said once,
//! in [`View::resolve`].

use bytes::Bytes;
use terrace_base::hash::key_hash;
use terrace_base::key::{EXPIRY_LEN, split_expiry};
use terrace_base::{Error, Result, SeqNo, UserKey, ValueKind};
use terrace_compaction::TableRef;
use terrace_sstable::{Found, Table, Value};

use crate::memtable::Form;
use crate::read::blob::Want;
use crate::read::context::{Context, ReadPoint};
use crate::read::view::View;

/// Candidate tables whose buckets are fetched together.
const ROUND: usize = 12;

/// What a key has.
#[derive(Debug)]
pub(crate) struct Live<'v> {
    /// The write that set it.
    pub(crate) seq: SeqNo,
    /// When it goes, if it does; milliseconds since 1970.
    pub(crate) expires: Option<u64>,
    pub(crate) value: Value<'v>,
    /// The value is but the part that was wanted.
    pub(crate) partial: bool,
}

impl Live<'_> {
    /// The bytes from `start` to `end` of the value, as far as it has them; read with
    /// [`Want::Part`].
    pub(crate) fn part(self, start: u64, end: u64) -> Bytes {
        let len = self.value.len();
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(len);
        let (start, end) = (place(start), place(end));
        match self.partial {
            true => self.value.into_bytes(),
            false if start >= end => Bytes::new(),
            false => self.value.within(start, end).into_bytes(),
        }
    }
}

impl View {
    /// What `use_it` makes of what `key` has for a reader at `at`.
    #[inline]
    pub(crate) fn get<R>(
        &self,
        key: &UserKey<'_>,
        at: &ReadPoint,
        context: &Context,
        want: Want,
        use_it: impl FnOnce(Live<'_>) -> R,
    ) -> Result<Option<R>> {
        match self.newest(key, key_hash(*key), at.seq) {
            Ok(None) => Ok(None),
            // Said here again, for a large answer that passes through fewer hands is a faster one.
            Ok(Some(found)) => match found.kind {
                ValueKind::Put => Ok(Some(use_it(Live {
                    seq: found.seq,
                    expires: None,
                    value: found.value,
                    partial: false,
                }))),
                ValueKind::Tombstone => Ok(None),
                _ => Ok(self.resolve(key, found, at, context, want)?.map(use_it)),
            },
            Err(error) => Err(error),
        }
    }

    /// Reads a value together with the sequence number of the key's newest entry of any kind; zero
    /// if the key has none.
    pub(crate) fn look(
        &self,
        key: &UserKey<'_>,
        hash: u64,
        at: &ReadPoint,
        context: &Context,
        want: Want,
    ) -> Result<(SeqNo, Option<Live<'_>>)> {
        match self.newest(key, hash, at.seq)? {
            Some(stored) => Ok((stored.seq, self.live(key, stored, at, context, want)?)),
            None => Ok((SeqNo::ZERO, None)),
        }
    }

    /// What an entry means.
    #[inline]
    fn live<'v>(
        &'v self,
        key: &UserKey<'_>,
        stored: Found<'v>,
        at: &ReadPoint,
        context: &Context,
        want: Want,
    ) -> Result<Option<Live<'v>>> {
        match stored.kind {
            ValueKind::Put => Ok(Some(Live {
                seq: stored.seq,
                expires: None,
                value: stored.value,
                partial: false,
            })),
            ValueKind::Tombstone => Ok(None),
            _ => self.resolve(key, stored, at, context, want),
        }
    }

    /// What an entry that is neither put nor tombstone means.
    #[cold]
    fn resolve<'v>(
        &'v self,
        key: &UserKey<'_>,
        stored: Found<'v>,
        at: &ReadPoint,
        context: &Context,
        want: Want,
    ) -> Result<Option<Live<'v>>> {
        let Found { seq, kind, value } = stored;
        match kind {
            ValueKind::Merge => self.combined(key, seq, value, at, context).map(Some),
            ValueKind::PutExpiring => {
                let (time, _) = split_expiry(&value)?;
                let live = Live {
                    seq,
                    expires: Some(time),
                    value: value.skip(EXPIRY_LEN),
                    partial: false,
                };
                Ok((!context.is_expired(time, *at)).then_some(live))
            }
            ValueKind::Blob | ValueKind::BlobExpiring => {
                let expires = match kind.expires() {
                    true => Some(split_expiry(&value)?.0),
                    false => None,
                };
                if expires.is_some_and(|time| context.is_expired(time, *at)) {
                    return Ok(None);
                }
                let value = crate::read::blob::read(self.version.blobs(), *key, &value, want)?;
                Ok(Some(Live {
                    seq,
                    expires,
                    value: Value::owned(value),
                    partial: matches!(want, Want::Part(..)),
                }))
            }
            ValueKind::Put | ValueKind::Tombstone => {
                Err(Error::bug("a plain value was to be resolved"))
            }
        }
    }

    /// The value of a key whose newest entry is the operand `newest`, with whatever lies below it.
    fn combined<'v>(
        &'v self,
        key: &UserKey<'_>,
        seq: SeqNo,
        newest: Value<'v>,
        at: &ReadPoint,
        context: &Context,
    ) -> Result<Live<'v>> {
        let hash = key_hash(*key);
        let mut parts = vec![newest];
        let mut below = seq.before();
        while let Some(older) = self.newest(key, hash, below)? {
            below = older.seq.before();
            let is_operand = older.kind == ValueKind::Merge;
            if is_operand || older.kind == ValueKind::Put {
                parts.push(older.value);
            } else if older.kind != ValueKind::Tombstone {
                parts.extend(
                    self.resolve(key, older, at, context, Want::Whole)?
                        .map(|live| live.value),
                );
            }
            if !is_operand {
                break;
            }
        }
        let oldest_first: Vec<&[u8]> = parts.iter().rev().map(|part| &**part).collect();
        let value = context.policies.combine(*key, &oldest_first)?;
        Ok(Live {
            seq,
            expires: None, // What lies below may expire; the operands stay.
            value: Value::owned(Bytes::from(value)),
            partial: false,
        })
    }

    /// The newest entry of `key` at or below `at`, whatever it did. A key that a range delete hides
    /// is shown as a tombstone of that delete.
    ///
    /// Pieces and runs are asked from the newest on, so that the first entry found is the newest.
    /// The deletes of a piece hide all that lies in older ones; those of the tables hide what lies
    /// in tables and is older.
    #[inline]
    pub(crate) fn newest(
        &self,
        key: &UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<Found<'_>>> {
        let found = self.active.get(key, hash, at)?;
        if self.active.has_ranges() {
            let deleted = self.active.ranges().newest(*key, at);
            if found.is_none_or(|(seq, ..)| deleted > seq) && deleted > SeqNo::ZERO {
                return Ok(Some(deleted_at(deleted)));
            }
        }
        if let Some(found) = found {
            return Ok(Some(in_memory(found)));
        }
        for run in &self.sealed {
            let found = match &run.form {
                Form::List(list) => list.get(key, hash, at)?.map(in_memory),
                Form::Image(table) => table.get(key, hash, at)?,
            };
            let deleted = run.ranges.newest(*key, at);
            if deleted > seq_of(&found) {
                return Ok(Some(deleted_at(deleted)));
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        let deleted = self.version.deleted().newest(*key, at);
        if deleted > SeqNo::ZERO {
            return self.newest_below(deleted, key, hash, at);
        }
        self.newest_in_tables(key, hash, at)
    }

    /// The newest entry of the tables, or the delete at `deleted` if that is newer.
    #[cold]
    fn newest_below(
        &self,
        deleted: SeqNo,
        key: &UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<Found<'_>>> {
        let found = self.newest_in_tables(key, hash, at)?;
        match deleted > seq_of(&found) {
            true => Ok(Some(deleted_at(deleted))),
            false => Ok(found),
        }
    }

    #[inline]
    fn newest_in_tables(
        &self,
        key: &UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<Found<'_>>> {
        let runs = self.version.runs();
        if let [run] = runs {
            let Some(file) = run.find(*key) else {
                return Ok(None);
            };
            return match file.kept() {
                Some(table) => self.found_in(table, key, hash, at),
                None => self.newest_in_closed(key, hash, at),
            };
        }
        let mut round: [Option<&Table>; ROUND] = [None; ROUND];
        let mut count = 0;
        for run in runs {
            let Some(candidate) = run.find(*key) else {
                continue;
            };
            if count == ROUND {
                match self.first_found(&round, key, hash, at) {
                    Ok(None) => count = 0,
                    found => return found,
                }
            }
            let Some(table) = candidate.kept() else {
                return self.newest_in_closed(key, hash, at);
            };
            if let Some(slot) = round.get_mut(count) {
                *slot = Some(table);
                count += 1;
            }
        }
        self.first_found(round.get(..count).unwrap_or(&[]), key, hash, at)
    }

    /// Looks for the newest entry in tables that are not open yet, or lent: those may be closed on
    /// return.
    #[cold]
    fn newest_in_closed(
        &self,
        key: &UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<Found<'_>>> {
        for run in self.version.runs() {
            let Some(file) = run.find(*key) else { continue };
            let table = file.table();
            let found = match table.inspect_err(|e| self.version.note_damage(e))? {
                TableRef::Kept(table) => self.first_found(&[Some(table)], key, hash, at)?,
                TableRef::Lent(table) => {
                    let found = self.first_found(&[Some(&table)], key, hash, at)?;
                    found.map(Found::into_owned)
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// What the first of `tables` that has `key` says of it. It is handed on whole: an answer of
    /// ten words that is taken apart and put together again on the way is waited for each time.
    #[inline]
    fn first_found<'v>(
        &self,
        tables: &[Option<&'v Table>],
        key: &UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<Found<'v>>> {
        if tables.len() > 1 {
            let all = tables.iter().flatten();
            all.for_each(|table| table.prefetch(hash));
        }
        for table in tables.iter().flatten() {
            match self.found_in(table, key, hash, at) {
                Ok(None) => {}
                found => return found,
            }
        }
        Ok(None)
    }

    /// What one table says of `key`.
    #[inline]
    fn found_in<'v>(
        &self,
        table: &'v Table,
        key: &UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<Found<'v>>> {
        let found = table.get(key, hash, at);
        if let Err(error) = &found {
            self.version.note_damage(error);
        }
        found
    }
}

/// When `found` was written; zero if there is nothing.
#[inline]
fn seq_of(found: &Option<Found<'_>>) -> SeqNo {
    found.as_ref().map_or(SeqNo::ZERO, |found| found.seq)
}

#[inline]
fn in_memory((seq, kind, value): (SeqNo, ValueKind, &[u8])) -> Found<'_> {
    let value = Value::borrowed(value);
    Found { seq, kind, value }
}

/// The range delete at `seq`, as a key that it hides shows it.
#[cold]
fn deleted_at<'v>(seq: SeqNo) -> Found<'v> {
    in_memory((seq, ValueKind::Tombstone, &[]))
}
