//! A write as the commit path takes it: bytes for the log, and what they do to the memtable.

use std::sync::Arc;

use terrace_base::{InternalIterator, KeyRef, Result, SeqNo, UserKey, ValueKind};

use crate::memtable::List;
use crate::write::batch::Batch;
use crate::write::payload::{Operation, Operations};

/// Runs of up to this many hidden entries are skipped one by one at no measurable cost.
const MANY: usize = 128;

/// A write as the commit path takes it: the payload in parts, and how to find its entries without
/// decoding them where that is known.
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
    /// How many ranges it deletes.
    pub(crate) range_deletes: u32,
}

/// An entry as the memtable takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) user: UserKey<'a>,
    /// Of `user`.
    pub(crate) hash: u64,
    pub(crate) kind: ValueKind,
    pub(crate) value: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Entries<'a> {
    One(Entry<'a>),
    Payload(&'a [u8]),
    /// Nothing for the memtable: a change of the catalogue.
    None,
}

/// What a write does to the memtable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect<'a> {
    Entry(Entry<'a>),
    DeletedRange {
        lower: UserKey<'a>,
        upper: Option<&'a [u8]>,
    },
}

fn is_within(key: UserKey<'_>, lower: UserKey<'_>, upper: Option<&[u8]>) -> bool {
    key.keyspace == lower.keyspace && upper.is_none_or(|upper| key.bytes < upper)
}

impl<'a> Write<'a> {
    #[inline]
    pub(crate) fn new<const PARTS: usize>(
        parts: &'a [&'a [u8]; PARTS],
        count: u32,
        entries: Entries<'a>,
    ) -> Write<'a> {
        let len = parts.iter().map(|part| part.len()).sum();
        let largest = match entries {
            Entries::One(Entry { value, .. }) => value.len(),
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
            range_deletes: 0,
        }
    }

    /// The write of a batch whose payload follows `lead`, the bytes of an operation without effect
    /// on entries.
    pub(crate) fn of_batch(batch: &'a Batch, parts: &'a [&'a [u8]; 2]) -> Write<'a> {
        Write {
            largest: batch.largest,
            range_deletes: batch.range_deletes,
            ..Write::of_payload(batch.count, parts)
        }
    }

    /// A write of a payload with `count` operations: the second of `parts`.
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
            Entries::One(Entry { kind, .. }) => kind == ValueKind::Tombstone,
            Entries::Payload(payload) => {
                Operations::new(payload, self.count.saturating_sub(self.lead)).all(takes)
            }
            Entries::None => {
                let mut parts = self.parts.iter();
                parts.all(|part| Operations::new(part, self.count).all(takes))
            }
        }
    }

    /// True if a range that it deletes has enough entries of `list` that a scan would notice them.
    /// They are hidden by stretches only where all that lies around is older than the delete: then
    /// the list is to be sealed first.
    #[cold]
    pub(crate) fn hides_many(&self, list: &Arc<List>) -> Result<bool> {
        let Entries::Payload(payload) = self.entries else {
            return Ok(false);
        };
        let mut cursor = list.cursor();
        for operation in Operations::new(payload, self.count - self.lead) {
            let Operation::DeleteRange { lower, upper } = operation? else {
                continue;
            };
            cursor.seek(KeyRef::lookup(lower, SeqNo::MAX))?;
            let mut count = 0;
            while cursor.valid() && is_within(cursor.key().user, lower, upper) && count < MANY {
                cursor.next()?;
                count += 1;
            }
            if count == MANY {
                return Ok(true);
            }
        }
        Ok(false)
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
            Entries::One(entry) => apply(first, Effect::Entry(entry)),
            Entries::Payload(payload) => {
                let count = self.count - self.lead;
                for (i, operation) in Operations::new(payload, count).enumerate() {
                    let seq = first.plus(u64::from(self.lead) + i as u64);
                    match operation? {
                        Operation::Entry { user, kind, value } => {
                            let hash = key_hash(user);
                            let entry = Entry {
                                user,
                                hash,
                                kind,
                                value,
                            };
                            apply(seq, Effect::Entry(entry));
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
