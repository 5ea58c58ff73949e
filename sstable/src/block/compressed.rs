//! A block packed with LZ4 or zstd (see `codec`). Heads, offsets and padding are left out;
//! unpacking rebuilds the raw block byte by byte (but for the checksum, which is 0), so that a
//! place in it means the same in both.
//!
//! ```text
//! packed := length:u32 seq_width:u8 key_width:u8 value_width:u8 0:u8 lowest:u64 body:[u8; length] seq{count}
//! plain  := kind:u8{count} key_len{count} value_len{count} prefix rest{count} value{count}     in `body`
//! ```
//!
//! Columns pack better than records. `seq` is the sequence number minus the `lowest` in `seq_width`
//! bytes (0 to 7); these are next to random, and packing would only lengthen them. `key_len` is the
//! length of the key after the common prefix, in `key_width` bytes (0 to 2), `rest` those bytes;
//! `value_len` takes `value_width` bytes (0 to 4). The kinds are left out where the block's flags
//! say that all are plain puts. `plain` in the block's header is the length of `plain`.
//!
//! A block that this does not shrink below 7/8 of its raw form is stored raw.
//!
//! Example: keys `aa`, `ab`, `ac`, put at 5, 6 and 9 with the value `x`: lowest 5, sequence numbers
//! `00 01 04`, and plain `01 01 01  01 01 01  a  a b c  x x x` (its first two columns are lengths).
#![deny(clippy::indexing_slicing)]

use terrace_base::coding::{Decoder, align8, put_u32, put_u64};
use terrace_base::error::{Error, Result};
use terrace_base::key::{SeqNo, ValueKind};

use super::builder::put_record;
use super::codec::{self, Codec};
use super::{
    HEADER_LEN, Header, KINDS, MAX_RECORD_START, RAW, RECORD_HEAD_LEN, RawBlock, head_behind,
    record_len,
};
use crate::options::Compression;

const PACKED_HEAD_LEN: usize = 4 + 4 + 8;

/// Packs blocks, one after the other, in the same memory.
pub(crate) struct Packer {
    codec: Codec,
    plain: Vec<u8>,
    stored: Vec<u8>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

/// How many bytes `n` takes.
fn width_of(n: u64) -> usize {
    (u64::BITS - n.leading_zeros()).div_ceil(8) as usize
}

fn put_number(out: &mut Vec<u8>, n: u64, width: usize) {
    out.extend(n.to_le_bytes().iter().take(width));
}

/// Numbers of one width, end to end.
struct Column<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl<'a> Column<'a> {
    fn take(from: &mut Decoder<'a>, count: usize, width: u8) -> Result<Column<'a>> {
        let width = usize::from(width);
        Ok(Column {
            bytes: from.bytes(count * width)?,
            width,
        })
    }

    #[inline]
    fn get(&self, i: usize) -> u64 {
        let at = i * self.width;
        let number = self.bytes.get(at..at + self.width).unwrap_or_default();
        match number {
            [] => 0,
            [a] => u64::from(*a),
            [a, b] => u64::from(u16::from_le_bytes([*a, *b])),
            [a, b, c] => u64::from(u32::from_le_bytes([*a, *b, *c, 0])),
            more => more.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)),
        }
    }
}

/// The ranges that the columns of a block span.
struct Spans {
    lowest: u64,
    seq_width: usize,
    key_width: usize,
    value_width: usize,
}

impl Spans {
    fn of(block: &RawBlock<'_>) -> Option<Spans> {
        let (mut lowest, mut longest_key, mut longest_value) = (SeqNo::MAX, 0, 0);
        for i in 0..block.len() {
            let record = block.record(i)?;
            lowest = lowest.min(record.seq());
            longest_key = longest_key.max(record.key.len());
            longest_value = longest_value.max(record.value.len());
        }
        let header = block.header();
        Some(Spans {
            lowest: lowest.get(),
            seq_width: width_of(header.highest.get() - lowest.get()),
            key_width: width_of((longest_key - usize::from(header.prefix)) as u64),
            value_width: width_of(longest_value as u64),
        })
    }
}

impl Packer {
    /// `None` where nothing is to be packed, or this build cannot.
    pub fn new(compression: Compression) -> Option<Packer> {
        Some(Packer {
            codec: Codec::new(compression)?,
            plain: Vec::new(),
            stored: Vec::new(),
        })
    }

    /// The stored form of the raw block `raw`; `None` if it is hardly smaller.
    pub fn pack(&mut self, raw: &[u8], header: &Header) -> Option<(&mut Vec<u8>, Header)> {
        let block = RawBlock::with_header(raw, *header);
        let spans = Spans::of(&block)?;
        self.fill_plain(&block, &spans)?;
        let header = Header {
            kind: self.codec.kind(),
            plain_len: u32::try_from(self.plain.len()).ok()?,
            ..*header
        };
        self.stored.clear();
        header.encode(&mut self.stored);
        let head_at = self.stored.len();
        let body_at = head_at + PACKED_HEAD_LEN;
        let room = self.codec.room(self.plain.len());
        self.stored.resize(body_at + room, 0);
        let out = self.stored.get_mut(body_at..)?;
        let length = self.codec.pack(&self.plain, out)?;
        let mut head = Vec::with_capacity(PACKED_HEAD_LEN);
        put_u32(&mut head, u32::try_from(length).ok()?);
        let widths = [spans.seq_width, spans.key_width, spans.value_width, 0];
        head.extend(widths.map(|width| width as u8));
        put_u64(&mut head, spans.lowest);
        self.stored
            .get_mut(head_at..body_at)?
            .copy_from_slice(&head);
        self.stored.truncate(body_at + length);
        for i in 0..block.len() {
            let seq = block.record(i)?.seq().get() - spans.lowest;
            put_number(&mut self.stored, seq, spans.seq_width);
        }
        let padded = align8(self.stored.len() as u64) as usize;
        self.stored.resize(padded, 0);
        (padded < raw.len() / 8 * 7).then_some((&mut self.stored, header))
    }

    fn fill_plain(&mut self, block: &RawBlock<'_>, spans: &Spans) -> Option<()> {
        let plain = &mut self.plain;
        plain.clear();
        let prefix = usize::from(block.header().prefix);
        if block.header().flags & KINDS != 0 {
            for i in 0..block.len() {
                plain.push(block.record(i)?.trailer as u8);
            }
        }
        for i in 0..block.len() {
            let rest = block.record(i)?.key.len() - prefix;
            put_number(plain, rest as u64, spans.key_width);
        }
        for i in 0..block.len() {
            put_number(
                plain,
                block.record(i)?.value.len() as u64,
                spans.value_width,
            );
        }
        plain.extend_from_slice(block.record(0)?.key.get(..prefix)?);
        for i in 0..block.len() {
            plain.extend_from_slice(block.record(i)?.key.get(prefix..)?);
        }
        for i in 0..block.len() {
            plain.extend_from_slice(block.record(i)?.value);
        }
        Some(())
    }
}

/// How long the packed block at the front of `stored` claims to be, without padding.
pub(super) fn packed_len(stored: &[u8], header: &Header) -> Option<usize> {
    let mut decoder = Decoder::new(stored);
    decoder.bytes(HEADER_LEN).ok()?;
    let (length, seq_width) = (decoder.u32().ok()?, decoder.u8().ok()?);
    let seqs = usize::from(header.count) * usize::from(seq_width);
    Some(HEADER_LEN + PACKED_HEAD_LEN + length as usize + seqs)
}

/// The raw form of the stored block `stored`, whose header is `header`. `plain` is scratch space.
pub(crate) fn unpack(stored: &[u8], header: &Header, plain: &mut Vec<u8>) -> Result<Vec<u8>> {
    let mut decoder = Decoder::new(stored);
    decoder.bytes(HEADER_LEN)?;
    let length = decoder.u32()? as usize;
    let (seq_width, key_width, value_width) = (decoder.u8()?, decoder.u8()?, decoder.u8()?);
    let zero = decoder.u8()?;
    let lowest = decoder.u64()?;
    let body = decoder.bytes(length)?;
    if seq_width > 7 || key_width > 2 || value_width > 4 || zero != 0 {
        return Err(Error::corruption("a packed block has a column too wide"));
    }
    let count = usize::from(header.count);
    let seqs = Column::take(&mut decoder, count, seq_width)?;
    if decoder.rest().len() >= 8 || decoder.rest().iter().any(|b| *b != 0) {
        return Err(Error::corruption("bytes follow a packed block"));
    }
    let plain_len = header.plain_len as usize;
    let raw_len = header.raw_len as usize;
    // All records but the last lie below MAX_RECORD_START, whatever the prefix that they share.
    let longest = MAX_RECORD_START + RECORD_HEAD_LEN + usize::from(u16::MAX) + 8 + plain_len;
    let most = length
        .saturating_mul(codec::max_ratio(header.kind))
        .saturating_add(64);
    // What the raw form has for a record is longer than what the columns have.
    if plain_len > most || plain_len > raw_len || raw_len > longest {
        return Err(Error::corruption(
            "a packed block claims an impossible length",
        ));
    }
    plain.resize(plain_len, 0);
    codec::unpack(header.kind, body, plain)?;
    let mut from = Decoder::new(plain);
    let columns = Columns {
        kinds: Column::take(&mut from, count, u8::from(header.flags & KINDS != 0))?,
        key_lens: Column::take(&mut from, count, key_width)?,
        value_lens: Column::take(&mut from, count, value_width)?,
        seqs,
        lowest,
    };
    rebuild(header, &columns, from)
}

struct Columns<'a> {
    kinds: Column<'a>,
    key_lens: Column<'a>,
    value_lens: Column<'a>,
    seqs: Column<'a>,
    lowest: u64,
}

fn rebuild(header: &Header, columns: &Columns<'_>, mut from: Decoder<'_>) -> Result<Vec<u8>> {
    let wrong = || Error::corruption("a packed block unpacks to another length than stated");
    let (count, raw_len) = (usize::from(header.count), header.raw_len as usize);
    let records_at = header.records_at();
    let prefix = from.bytes(usize::from(header.prefix))?;
    let keys_len = (0..count).map(|i| columns.key_lens.get(i) as usize).sum();
    let mut keys = Decoder::new(from.bytes(keys_len)?);
    if records_at > raw_len {
        return Err(wrong());
    }
    let mut out = Vec::with_capacity(raw_len);
    let raw = Header {
        kind: RAW,
        plain_len: 0,
        ..*header
    };
    raw.encode(&mut out);
    out.resize(records_at, 0);
    for i in 0..count {
        let rest = keys.bytes(columns.key_lens.get(i) as usize)?;
        let value = from.bytes(columns.value_lens.get(i) as usize)?;
        let pos = out.len();
        let key_len = prefix.len() + rest.len();
        let fits = pos + record_len(key_len, value.len()) <= raw_len;
        if pos >= MAX_RECORD_START || !fits || key_len > usize::from(u16::MAX) {
            return Err(wrong());
        }
        let kind = match columns.kinds.width {
            0 => ValueKind::Put as u64,
            _ => columns.kinds.get(i),
        };
        let seq = columns.lowest.wrapping_add(columns.seqs.get(i));
        put_record(&mut out, (seq << 8) | kind, prefix, rest, value);
        let head = out.get_mut(HEADER_LEN + 4 * i..HEADER_LEN + 4 * i + 4);
        if let Some(head) = head {
            head.copy_from_slice(&head_behind(rest, 0).to_le_bytes());
        }
        let offset_at = HEADER_LEN + 4 * count + 2 * i;
        if let Some(offset) = out.get_mut(offset_at..offset_at + 2) {
            offset.copy_from_slice(&((pos / 8) as u16).to_le_bytes());
        }
    }
    if out.len() != raw_len || !from.is_empty() {
        return Err(wrong());
    }
    Ok(out)
}

#[cfg(test)]
#[path = "compressed_tests.rs"]
mod tests;
