//! How writes look in the log.
//!
//! The payload of a log frame is a sequence of operations; the frame's count says how many, and the
//! i-th has the sequence number `first + i`.
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
//! Numbers up to 31 are those of `ValueKind`, whose stored values stand here as they will in
//! tables; those not listed are reserved. Example: putting `a` = `xy` into the default keyspace and
//! deleting `b` from keyspace 7:
//!
//! ```text
//! 01 00 01 61 02 78 79   02 07 01 62
//! ```

use terrace_base::coding::{put_slice, put_varint};
use terrace_base::{Decoder, Error, KeyspaceId, Result, UserKey, ValueKind};

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
    /// Every key from `lower` to before `upper` is gone; to the keyspace's end if there is no
    /// `upper`.
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

/// Appends the operation that sets or removes a key; `stored` is what an entry of the kind stores.
pub(crate) fn encode_entry(out: &mut Vec<u8>, user: UserKey<'_>, kind: ValueKind, stored: &[u8]) {
    let framing = Framing::new(user, kind, stored.len());
    out.extend_from_slice(framing.before_key());
    out.extend_from_slice(user.bytes);
    out.extend_from_slice(framing.before_value());
    out.extend_from_slice(stored);
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

/// What stands in front of the key, and in front of the value, of one operation: the parts of a
/// payload that are not the caller's bytes, made on the stack.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::batch::Batch;

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
}
