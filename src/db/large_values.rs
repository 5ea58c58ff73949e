//! Takes the large values out of a write.
//!
//! A write whose largest value is below every threshold is not looked at: one comparison. Of any
//! other the puts of large values become entries with a reference, and the rest stays as it is, in
//! the same order.

use terrace_base::key::split_expiry;
use terrace_base::{Result, UserKey, ValueKind};

use crate::engine::Engine;
use crate::storage::blob_files::Placed;
use crate::write::payload::{Framing, Operation, Operations, encode_delete_range};
use crate::write::write::{Entries, Entry, Write};

/// The operations of a write with references in place of large values.
struct Separated {
    payload: Vec<u8>,
    placed: Vec<Placed>,
}

impl Engine {
    /// True if `write` may hold a value that is to go into a blob file.
    #[inline]
    pub(crate) fn may_be_large(&self, write: &Write<'_>) -> bool {
        write.largest >= self.context.policies.large_from()
    }

    /// Has `then` write what `write` is without its large values, which are stored first.
    #[cold]
    #[inline(never)]
    pub(crate) fn separate<R>(
        &self,
        write: &Write<'_>,
        then: impl FnOnce(&Write<'_>) -> Result<R>,
    ) -> Result<R> {
        let operations = match write.entries {
            Entries::One(Entry {
                user, kind, value, ..
            }) => vec![Operation::Entry { user, kind, value }],
            Entries::Payload(bytes) => {
                let count = write.count.saturating_sub(write.lead);
                Operations::new(bytes, count).collect::<Result<_>>()?
            }
            Entries::None => Vec::new(),
        };
        if !operations.iter().any(|operation| self.is_large(operation)) {
            return then(&Write {
                largest: 0,
                ..*write
            });
        }
        self.check_writable()?;
        if self.space.full().is_some() {
            self.check_space(write)?;
        }
        let separated = self.store_all(&operations)?;
        let lead = match (write.lead, write.parts) {
            (0, _) | (_, []) => &[],
            (_, [lead, ..]) => *lead,
        };
        let parts = [lead, &separated.payload];
        let small = Write {
            largest: 0,
            range_deletes: write.range_deletes,
            ..Write::of_payload(write.count.saturating_sub(write.lead), &parts)
        };
        let result = then(&small);
        drop(separated.placed);
        result
    }

    fn is_large(&self, operation: &Operation<'_>) -> bool {
        let Operation::Entry { user, kind, value } = operation else {
            return false;
        };
        let bare = match kind {
            ValueKind::Put => Ok(*value),
            ValueKind::PutExpiring => split_expiry(value).map(|(_, value)| value),
            _ => return false,
        };
        bare.is_ok_and(|value| value.len() >= self.context.policies.threshold(user.keyspace))
    }

    fn store_all(&self, operations: &[Operation<'_>]) -> Result<Separated> {
        let mut separated = Separated {
            payload: Vec::new(),
            placed: Vec::new(),
        };
        for operation in operations {
            match *operation {
                Operation::Entry { user, kind, value } if self.is_large(operation) => {
                    let (kind, time, value) = match kind {
                        ValueKind::PutExpiring => {
                            let (_, bare) = split_expiry(value)?;
                            let time = value.get(..value.len() - bare.len());
                            (ValueKind::BlobExpiring, time.unwrap_or_default(), bare)
                        }
                        _ => (ValueKind::Blob, &[][..], value),
                    };
                    let placed = self.store_large(user, value)?;
                    let stored = [time, &placed.at.encode()].concat();
                    put_entry(&mut separated.payload, user, kind, &stored);
                    separated.placed.push(placed);
                }
                Operation::Entry { user, kind, value } => {
                    put_entry(&mut separated.payload, user, kind, value);
                }
                Operation::DeleteRange { lower, upper } => {
                    encode_delete_range(&mut separated.payload, lower, upper);
                }
                // Writes of the catalogue do not come here.
                Operation::CreateKeyspace { .. }
                | Operation::DropKeyspace { .. }
                | Operation::SetOptions { .. }
                | Operation::RenameKeyspace { .. }
                | Operation::Clock(_) => {}
            }
        }
        Ok(separated)
    }
}

fn put_entry(out: &mut Vec<u8>, user: UserKey<'_>, kind: ValueKind, stored: &[u8]) {
    let framing = Framing::new(user, kind, stored.len());
    out.extend_from_slice(framing.before_key());
    out.extend_from_slice(user.bytes);
    out.extend_from_slice(framing.before_value());
    out.extend_from_slice(stored);
}
