//! Point reads: memtable first, then tables from the newest run to the oldest.
//!
//! A get hashes its key once. It takes no lock and touches no counter that others write: the view is borrowed
//! for the time of the call. Among tables it first picks the candidate of each run by key range, asks the
//! processor to fetch all their index buckets, and only then tests them: several cache misses in a row become
//! one.

use std::ops::Deref;

use bytes::Bytes;
use terrace_base::hash::key_hash;
use terrace_base::{Result, SeqNo, UserKey, ValueKind};
use terrace_sstable::{Found, Table, Value};

use crate::memtable::Form;
use crate::view::View;

/// Candidate tables whose buckets are fetched together.
const ROUND: usize = 12;

/// A value where it lies.
#[derive(Debug)]
pub(crate) enum Hit<'v> {
    Memory(&'v [u8]),
    Table(Value<'v>),
}

impl Deref for Hit<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Hit::Memory(value) => value,
            Hit::Table(value) => value,
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
        }
    }
}

impl View {
    /// The value of `key` for a reader at `at`, with the sequence number that wrote it.
    #[inline]
    pub(crate) fn get(&self, key: UserKey<'_>, at: SeqNo) -> Result<Option<(SeqNo, Hit<'_>)>> {
        let hash = key_hash(key);
        let live = |seq, kind, hit| Ok((kind == ValueKind::Put).then_some((seq, hit)));
        if let Some((seq, kind, value)) = self.active.get(key, hash, at)? {
            return live(seq, kind, Hit::Memory(value));
        }
        for run in &self.sealed {
            match &run.form {
                Form::List(list) => {
                    if let Some((seq, kind, value)) = list.get(key, hash, at)? {
                        return live(seq, kind, Hit::Memory(value));
                    }
                }
                Form::Image(table) => {
                    if let Some(found) = table.get(key, hash, at)? {
                        return live(found.seq, found.kind, Hit::Table(found.value));
                    }
                }
            }
        }
        self.get_from_tables(key, hash, at)
    }

    #[inline]
    fn get_from_tables(
        &self,
        key: UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<(SeqNo, Hit<'_>)>> {
        let mut round: [Option<&Table>; ROUND] = [None; ROUND];
        let mut count = 0;
        let newest = 'search: {
            // Not one iterator over all runs: most levels have one or none, and plain loops skip those fast.
            for level in self.version.levels() {
                for run in &level.runs {
                    let Some(candidate) = run.find(key) else {
                        continue;
                    };
                    if count == ROUND {
                        let found = first_found(&round, key, hash, at)?;
                        if found.is_some() {
                            break 'search found;
                        }
                        count = 0;
                    }
                    if let Some(slot) = round.get_mut(count) {
                        *slot = Some(candidate.table()?);
                        count += 1;
                    }
                }
            }
            first_found(round.get(..count).unwrap_or(&[]), key, hash, at)?
        };
        let live = newest.filter(|found| found.kind == ValueKind::Put);
        Ok(live.map(|found| (found.seq, Hit::Table(found.value))))
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
