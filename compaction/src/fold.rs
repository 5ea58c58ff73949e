//! Merge operands of one key, combined where they meet.
//!
//! An operand says how a value follows from the older one, and a merge operator, which is the
//! caller's, puts two of them together. What lies in one stripe no reader can tell apart, so all
//! operands of a key in a stripe become one entry, under the sequence number of the newest:
//!
//! ```text
//! a#9,MERGE a#7,MERGE a#5,PUT    ->  a#9,PUT      the put below them is in the stripe
//! a#9,MERGE a#7,MERGE a#5,DEL    ->  a#9,PUT      there is certainly no value below them
//! a#9,MERGE a#7,MERGE            ->  a#9,MERGE    what lies below is not known here
//! ```
//!
//! A put whose value lies in a blob file is read, if the job can, and the result is an entry with
//! the whole value. Where the operator fails, all stay as they are. A put that expires is no base:
//! it keeps its time, and once that is over the operands above it are the value.

use std::fmt;

use terrace_base::{RangeSet, SeqNo, UserKey, ValueKind, mutant};

/// Operands of this many bytes are combined without waiting for those that follow: they lie in
/// memory meanwhile.
const LONG: usize = 64 << 20;

/// What parts of a key's value, oldest first, are together; `None`: they are to stay as they are.
pub type Combine<'a> = dyn Fn(UserKey<'_>, &[&[u8]]) -> Option<Vec<u8>> + 'a;

/// How operands are combined.
#[derive(Clone, Copy)]
pub struct Folding<'a> {
    /// By the caller's operator.
    pub combine: &'a Combine<'a>,
    /// All range deletes that may lie between two entries of the input.
    pub deleted: &'a RangeSet,
}

impl fmt::Debug for Folding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folding")
            .field("deleted", &self.deleted)
            .finish_non_exhaustive()
    }
}

impl Folding<'_> {
    /// True if a range that covers the key was deleted after `older` and before `newer` was
    /// written.
    pub(crate) fn deleted_between(&self, key: UserKey<'_>, older: SeqNo, newer: SeqNo) -> bool {
        let delete = self.deleted.oldest_above(key, older);
        delete.is_some_and(|seq| seq < newer)
    }
}

/// What lies below the operands of a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// Perhaps a value.
    Unknown,
    /// No value.
    Absent,
    /// A put, which is the last part of the chain.
    Taken,
}

/// An entry of a key.
#[derive(Debug)]
pub(crate) struct Part {
    pub seq: SeqNo,
    pub kind: ValueKind,
    pub value: Vec<u8>,
}

/// Operands of one key and stripe, and perhaps the put below them; newest first.
#[derive(Debug)]
pub(crate) struct Chain {
    pub parts: Vec<Part>,
    bytes: usize,
}

impl Chain {
    /// Begins with the newest operand.
    pub(crate) fn new(seq: SeqNo, value: &[u8]) -> Chain {
        let (parts, bytes) = (Vec::new(), 0);
        let mut chain = Chain { parts, bytes };
        chain.push(seq, ValueKind::Merge, value);
        chain
    }

    pub(crate) fn push(&mut self, seq: SeqNo, kind: ValueKind, value: &[u8]) {
        self.bytes += value.len();
        let value = value.to_vec();
        self.parts.push(Part { seq, kind, value });
    }

    /// True if it takes no more operands.
    pub(crate) fn is_long(&self) -> bool {
        self.parts.len() > 1 && self.bytes > LONG
    }

    /// Puts one entry in the place of all parts: a put if they are the `whole` value. How many
    /// parts went; `None` if they stay.
    pub(crate) fn combine(
        &mut self,
        key: UserKey<'_>,
        whole: bool,
        folding: Folding<'_>,
    ) -> Option<u64> {
        let seq = self.parts.first()?.seq;
        let mut oldest_first: Vec<&[u8]> =
            self.parts.iter().rev().map(|part| &*part.value).collect();
        if mutant("fold-wrong-order") {
            oldest_first.reverse();
        }
        let value = (folding.combine)(key, &oldest_first)?;
        let gone = self.parts.len() as u64 - 1;
        let kind = match whole {
            true => ValueKind::Put,
            false => ValueKind::Merge,
        };
        self.parts = vec![Part { seq, kind, value }];
        Some(gone)
    }
}
