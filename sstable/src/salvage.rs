//! What can still be read of a table that is damaged: its blocks, one by one.
//!
//! Nothing but the table's id is needed to tell a block from other bytes: the checksum knows the id
//! and the offset. So the file is searched front to back. A block that verifies is taken and the
//! search continues after it; elsewhere it continues 8 bytes further. Footer, fences and point
//! index are not used to find blocks, so it does not matter whether they can be read; the id comes
//! from the manifest, or else from the footer, which is looked for from the end, in case something
//! was appended.
//!
//! Between two blocks that verify, and before the first and after the last, lies what is lost.
//! Keys there lie between those of the neighbours, *both included*: a key may have versions in
//! several blocks.
//!
//! The search computes checksums only where a block's header is plausible; bytes made to look like
//! many long blocks would cost one each, so broken candidates may add up to a few times the file's
//! size, and what lies after is then given up.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use bytes::Bytes;
use terrace_base::checksum::checksum;
use terrace_base::error::{ErrorKind, Result};
use terrace_base::key::{KeyRef, OwnedUserKey, SeqNo, UserKey};
use terrace_base::mutant;

use crate::block::{self, Header, RawBlock, key_of, unpack};
use crate::format::{self, MAGIC, decode_footer};
use crate::properties::{self, TableInfo};

/// Broken candidates may add up to this many times the size of the file,
const PATIENCE: u64 = 8;
/// and to this much in a small file.
const LEAST_PATIENCE: u64 = 8 << 20;

/// What a file says of itself at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The random number of the file.
    pub id: u64,
    /// Where its footer ends: its length as it was written.
    pub size: u64,
    /// Where its blocks end.
    pub data_end: u64,
    /// Its properties, if they verify.
    pub info: Option<TableInfo>,
}

/// A stretch of a table that does not verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostStretch {
    /// Where it lies in the file.
    pub bytes: Range<u64>,
    /// The last key in front of it; `None` if it begins the table.
    pub after: Option<OwnedUserKey>,
    /// The first key behind it; `None` if it ends the table.
    pub before: Option<OwnedUserKey>,
}

/// What [`salvage`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Blocks that verify.
    pub blocks: u64,
    /// Entries in them.
    pub entries: u64,
    /// What lies between them.
    pub lost: Vec<LostStretch>,
}

/// Looks for a footer that verifies, from the end of `bytes`. One of a newer format is
/// `Unsupported`.
pub fn identify(bytes: &[u8]) -> Result<Option<Identity>> {
    let mut end = bytes.len();
    loop {
        let front = bytes.get(..end).unwrap_or_default();
        let Some(at) = front.windows(MAGIC.len()).rposition(|w| w == MAGIC) else {
            return Ok(None);
        };
        let whole = bytes.get(..at + MAGIC.len()).unwrap_or_default();
        if let Some(identity) = identity_of(whole)? {
            return Ok(Some(identity));
        }
        end = at + MAGIC.len() - 1;
    }
}

/// What the footer says that ends `bytes`, if it verifies.
fn identity_of(bytes: &[u8]) -> Result<Option<Identity>> {
    let tail_at = bytes.len().saturating_sub(format::MAX_FOOTER_LEN);
    let tail = bytes.get(tail_at..).unwrap_or_default();
    let Some(id) = format::id_in_footer(tail) else {
        return Ok(None);
    };
    let size = bytes.len() as u64;
    let footer = match decode_footer(tail, id, size) {
        Ok(footer) => footer,
        Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
        Err(_) => return Ok(None),
    };
    let info = footer.section(format::PROPERTIES).and_then(|section| {
        let (start, end) = (section.offset, section.offset + section.len);
        let payload = bytes.get(start as usize..end as usize)?;
        let verifies = checksum(payload, id, start) == section.crc;
        let info = || properties::decode(payload, id, size).ok();
        verifies.then(info).flatten()
    });
    Ok(Some(Identity {
        id,
        size,
        data_end: footer.data_end,
        info,
    }))
}

/// Gives every entry of every block of `bytes` that verifies under `id` to `sink`, in order.
/// `blocks` is how many there were, if that is known: once all are found nothing is lost, whatever
/// lies after.
pub fn salvage(
    bytes: &Bytes,
    id: u64,
    blocks: Option<u64>,
    sink: &mut dyn FnMut(KeyRef<'_>, &[u8]) -> Result<()>,
) -> Result<Salvaged> {
    let mut search = Search {
        bytes,
        id,
        broken: 0,
        scratch: Vec::new(),
    };
    let mut found = Salvaged::default();
    let mut last: Option<(OwnedUserKey, SeqNo)> = None;
    let (mut behind, mut at) = (0, 0);
    while let Some((range, raw)) = search.next(at) {
        at = range.end;
        let block = RawBlock::new(&raw)?;
        let keyspace = block.header().keyspace;
        let (Some(first), Some(end)) = (block.record(0), block.record(block.len() - 1)) else {
            continue;
        };
        let user = UserKey::new(keyspace, first.key);
        let rises = last.as_ref().is_none_or(|(key, seq)| {
            key.as_ref() < user || (key.as_ref() == user && *seq > first.seq())
        });
        if !rises {
            continue; // It verifies, but no writer puts it here.
        }
        if range.start > behind && !mutant("salvage-hides-block") {
            found.lost.push(LostStretch {
                bytes: behind as u64..range.start as u64,
                after: last.take().map(|(key, _)| key),
                before: Some(user.to_owned()),
            });
        }
        for n in 0..block.len() {
            let Some(record) = block.record(n) else { break };
            sink(key_of(keyspace, &record), record.value)?;
            found.entries += 1;
        }
        found.blocks += 1;
        last = Some((UserKey::new(keyspace, end.key).to_owned(), end.seq()));
        behind = range.end;
    }
    let more = match blocks {
        Some(blocks) => found.blocks < blocks,
        None => behind < bytes.len(),
    };
    if more {
        found.lost.push(LostStretch {
            bytes: behind as u64..bytes.len() as u64,
            after: last.map(|(key, _)| key),
            before: None,
        });
    }
    Ok(found)
}

/// The search for blocks.
struct Search<'a> {
    bytes: &'a Bytes,
    id: u64,
    /// How long the candidates were that did not verify.
    broken: u64,
    scratch: Vec<u8>,
}

impl Search<'_> {
    /// The first block at or behind `at` that verifies, in raw form.
    fn next(&mut self, mut at: usize) -> Option<(Range<usize>, Bytes)> {
        let patience = (self.bytes.len() as u64).saturating_mul(PATIENCE);
        while self.bytes.len() > at && self.broken <= patience.max(LEAST_PATIENCE) {
            if let Some(found) = self.block_at(at) {
                return Some(found);
            }
            at += 8;
        }
        None
    }

    fn block_at(&mut self, at: usize) -> Option<(Range<usize>, Bytes)> {
        let rest = self.bytes.get(at..)?;
        let header = Header::decode(rest).ok()?;
        let len = block::stored_len(rest, &header).filter(|len| *len <= rest.len())?;
        self.broken += len as u64;
        let stored = self.bytes.slice(at..at + len);
        block::check_crc(&stored, self.id, at as u64).ok()?;
        let raw = match header.kind {
            block::RAW => stored,
            _ => unpack(&stored, &header, &mut self.scratch).ok()?.into(),
        };
        RawBlock::new(&raw).ok()?.validate().ok()?;
        self.broken -= len as u64;
        Some((at..at + len, raw))
    }
}

#[cfg(test)]
#[path = "salvage_tests.rs"]
mod tests;
