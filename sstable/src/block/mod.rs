//! A data block: the entries of one stretch of keys, all in one keyspace.
//!
//! ```text
//! block   := header body padding              starts at a multiple of 8, zero-padded to one
//! header  := crc:u32 count:u16 prefix:u16 keyspace:u32 kind:u8 flags:u8 0:u16 highest:u64 raw:u32 plain:u32
//! body    := head:u32{count} offset:u16{count} padding8 (record padding8){count}          kind 0, raw
//! body    := packed, see `compressed`                                                     kind 1, LZ4; 2, zstd
//! record  := trailer:u64 value_len:u32 key_len:u16 key value
//! ```
//!
//! - `crc` is the checksum of all bytes after it, padding included, at the block's offset in the
//!   file.
//! - `prefix` is how many bytes all keys of the block begin with alike. `head[i]` is the next 4
//!   bytes of key i as a big-endian number, padded with zeroes: a search is a binary search over
//!   contiguous numbers, and looks at records only among equal ones.
//! - `offset[i]` is where record i starts, from the start of the block, in units of 8 bytes; always
//!   below 8 KiB, so that 10 bits name a record ([`crate::point_index`] does).
//! - `trailer` is sequence number and kind, `highest` the highest sequence number; `raw` is the
//!   length of the block in raw form, and `plain` what the packed part unpacks to (0 in a raw
//!   block).
//! - `flags`: 1 there are tombstones; 2 values that expire; 4 some key has several versions, here
//!   or in the block before or after; 8 merge operands; 16 places in blob files; 32 the first
//!   entry's key is also the last of the block before ("continues").
//!
//! A block is cut between user keys. A key whose versions do not fit into one block has blocks of
//! its own, all but the first of which continue.
//!
//! Example: key `ab` put at 7 with value `x` in keyspace 0, alone in its block, in hex:
//!
//! ```text
//! 00  .. .. .. ..  01 00  02 00  00 00 00 00  00  00  00 00     crc, 1 entry, prefix 2, keyspace 0, raw
//! 10  07 00 00 00 00 00 00 00  40 00 00 00  00 00 00 00         highest 7, 64 bytes
//! 20  00 00 00 00  05 00  00 00                                 head 0, record at 5 * 8, padding
//! 28  01 07 00 00 00 00 00 00  01 00 00 00  02 00  61 62        trailer, value_len 1, key_len 2, `ab`
//! 38  78 00 00 00 00 00 00 00                                   `x`, padding
//! ```
#![deny(clippy::indexing_slicing)]

mod builder;
mod codec;
mod compressed;

use std::cmp::Ordering;

pub(crate) use builder::BlockBuilder;
pub(crate) use compressed::{Packer, unpack};
use terrace_base::checksum::checksum;
use terrace_base::coding::{Decoder, align8, put_u32, put_u64};
use terrace_base::error::{Error, Result};
use terrace_base::key::{KeyRef, KeyspaceId, SeqNo, UserKey, ValueKind, split_trailer};
use terrace_base::mutant;

use crate::options::no_zstd;

const CRC_LEN: usize = 4;
const COUNT_AT: usize = CRC_LEN;
const PREFIX_AT: usize = COUNT_AT + 2;
const KEYSPACE_AT: usize = PREFIX_AT + 2;
const KIND_AT: usize = KEYSPACE_AT + 4;
const FLAGS_AT: usize = KIND_AT + 1;
const HIGHEST_AT: usize = FLAGS_AT + 1 + 2;
const RAW_AT: usize = HIGHEST_AT + 8;
const PLAIN_AT: usize = RAW_AT + 4;
pub(crate) const HEADER_LEN: usize = PLAIN_AT + 4;
const _: () = assert!(HEADER_LEN == 32 && HIGHEST_AT.is_multiple_of(8));

/// What stands before the key in a record.
const RECORD_HEAD_LEN: usize = 8 + 4 + 2;
/// Records start below this, so that 10 bits of 8-byte units name them.
pub(crate) const MAX_RECORD_START: usize = 8 << 10;
/// What a head and an offset take.
const SLOT_LEN: usize = 4 + 2;

pub(crate) const TOMBSTONES: u8 = 1;
pub(crate) const EXPIRY: u8 = 2;
pub(crate) const VERSIONS: u8 = 4;
pub(crate) const OPERANDS: u8 = 8;
pub(crate) const BLOBS: u8 = 16;
pub(crate) const CONTINUES: u8 = 32;
/// Some entry is no plain put.
pub(crate) const KINDS: u8 = TOMBSTONES | EXPIRY | OPERANDS | BLOBS;
const KNOWN_FLAGS: u8 = KINDS | VERSIONS | CONTINUES;

/// The flags that an entry of this kind sets.
#[inline]
const fn flags_of(kind: ValueKind) -> u8 {
    match kind {
        ValueKind::Put => 0,
        ValueKind::Tombstone => TOMBSTONES,
        ValueKind::Merge => OPERANDS,
        ValueKind::PutExpiring => EXPIRY,
        ValueKind::Blob => BLOBS,
        ValueKind::BlobExpiring => BLOBS | EXPIRY,
    }
}

pub(crate) const RAW: u8 = 0;
pub(crate) const LZ4: u8 = 1;
pub(crate) const ZSTD: u8 = 2;
/// The highest kind that this build reads.
const NEWEST_KIND: u8 = if cfg!(feature = "zstd") { ZSTD } else { LZ4 };

/// The header of a block, decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub count: u16,
    pub prefix: u16,
    pub keyspace: KeyspaceId,
    pub kind: u8,
    pub flags: u8,
    pub highest: SeqNo,
    pub raw_len: u32,
    pub plain_len: u32,
}

impl Header {
    /// Appends the header with a checksum of zero.
    fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, 0);
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.prefix.to_le_bytes());
        put_u32(out, self.keyspace.0);
        out.extend_from_slice(&[self.kind, self.flags, 0, 0]);
        put_u64(out, self.highest.get());
        put_u32(out, self.raw_len);
        put_u32(out, self.plain_len);
    }

    /// Reads the header of `block`.
    #[inline]
    pub fn decode(block: &[u8]) -> Result<Header> {
        let mut decoder = Decoder::new(block);
        decoder.u32()?; // The checksum is `check_crc`'s.
        let (count, prefix) = (decoder.u16()?, decoder.u16()?);
        let keyspace = KeyspaceId(decoder.u32()?);
        let (kind, flags, zero) = (decoder.u8()?, decoder.u8()?, decoder.u16()?);
        let highest = decoder.u64()?;
        let (raw_len, plain_len) = (decoder.u32()?, decoder.u32()?);
        if kind > NEWEST_KIND || flags & !KNOWN_FLAGS != 0 {
            return Err(unknown(kind, flags));
        }
        if count == 0 || zero != 0 || highest > SeqNo::MAX.get() {
            return Err(Error::corruption("a block's header contradicts itself"));
        }
        Ok(Header {
            count,
            prefix,
            keyspace,
            kind,
            flags,
            highest: SeqNo::new(highest),
            raw_len,
            plain_len,
        })
    }

    /// Where the first record of the raw form starts.
    #[inline]
    fn records_at(&self) -> usize {
        records_at(usize::from(self.count))
    }
}

#[cold]
fn unknown(kind: u8, flags: u8) -> Error {
    if kind == ZSTD && flags & !KNOWN_FLAGS == 0 {
        return no_zstd();
    }
    Error::unsupported(format!(
        "a block of kind {kind} with flags {flags:#x} was written by a newer terrace"
    ))
}

#[inline]
fn records_at(count: usize) -> usize {
    align8((HEADER_LEN + SLOT_LEN * count) as u64) as usize
}

/// How long the stored block at the front of `bytes` claims to be, padding included.
pub(crate) fn stored_len(bytes: &[u8], header: &Header) -> Option<usize> {
    let len = match header.kind {
        RAW => header.raw_len as usize,
        _ => compressed::packed_len(bytes, header)?,
    };
    (len >= HEADER_LEN).then_some(align8(len as u64) as usize)
}

/// Length of a record without padding.
#[inline]
fn record_len(key_len: usize, value_len: usize) -> usize {
    RECORD_HEAD_LEN + key_len + value_len
}

/// Puts the checksum of `block`, which is to lie at `offset` of the file `id`, into its header.
pub(crate) fn seal(block: &mut [u8], id: u64, offset: u64) {
    if let Some((crc, rest)) = block.split_first_chunk_mut::<CRC_LEN>() {
        *crc = checksum(rest, id, offset).to_le_bytes();
    }
}

/// Checks the checksum of a stored block.
pub(crate) fn check_crc(block: &[u8], id: u64, offset: u64) -> Result<()> {
    match block.split_first_chunk::<CRC_LEN>() {
        Some((crc, rest)) if u32::from_le_bytes(*crc) == checksum(rest, id, offset) => Ok(()),
        Some(_) if mutant("unchecked-block") => Ok(()),
        _ => Err(Error::corruption("a block does not verify")),
    }
}

/// The 4 bytes of `key` behind the common prefix, as a number that orders as they do.
#[inline]
fn head_behind(key: &[u8], prefix: usize) -> u32 {
    let rest = key.get(prefix..).unwrap_or_default();
    match rest.first_chunk::<4>() {
        Some(chunk) => u32::from_be_bytes(*chunk),
        None => rest
            .iter()
            .enumerate()
            .fold(0, |head, (i, b)| head | u32::from(*b) << (24 - 8 * i)),
    }
}

/// How many bytes `a` and `b` begin with alike.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// One entry in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub trailer: u64,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record that starts at byte `pos` of a raw block; `None` if it does not lie within.
    #[inline]
    pub fn at(block: &'a [u8], pos: usize) -> Option<Record<'a>> {
        let rest = block.get(pos..)?;
        let (trailer, rest) = rest.split_first_chunk::<8>()?;
        let (value_len, rest) = rest.split_first_chunk::<4>()?;
        let (key_len, rest) = rest.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*key_len)))?;
        let value = rest.get(..u32::from_le_bytes(*value_len) as usize)?;
        Some(Record {
            trailer: u64::from_le_bytes(*trailer),
            key,
            value,
        })
    }

    /// Where the value starts, if the record starts at `pos`.
    #[inline]
    pub fn value_start(&self, pos: usize) -> usize {
        pos + RECORD_HEAD_LEN + self.key.len()
    }

    #[inline]
    pub fn seq(&self) -> SeqNo {
        SeqNo::new(self.trailer >> 8)
    }

    /// Blocks are validated before use, so an unknown kind does not occur; it hides its value if it
    /// does.
    #[inline]
    pub fn kind(&self) -> ValueKind {
        ValueKind::of_byte(self.trailer as u8).unwrap_or(ValueKind::Tombstone)
    }

    /// How the entry compares with the position of `key` at `seq`, kinds aside.
    #[inline]
    fn cmp(&self, key: &[u8], seq: SeqNo) -> Ordering {
        self.key.cmp(key).then_with(|| seq.cmp(&self.seq()))
    }
}

/// A block in raw form, with what a reader needs of its header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawBlock<'a> {
    bytes: &'a [u8],
    header: Header,
}

impl<'a> RawBlock<'a> {
    /// Reads the raw block `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<RawBlock<'a>> {
        Ok(RawBlock::with_header(bytes, Header::decode(bytes)?))
    }

    /// The raw block `bytes`, whose header is `header`.
    #[inline]
    pub const fn with_header(bytes: &'a [u8], header: Header) -> RawBlock<'a> {
        RawBlock { bytes, header }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.header.count)
    }

    /// Where record `i` starts. Beyond the last: a place where no record is.
    #[inline]
    pub fn position(&self, i: usize) -> usize {
        let at = HEADER_LEN + 4 * self.len() + 2 * i;
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<2>())
            .map_or(usize::MAX, |units| {
                usize::from(u16::from_le_bytes(*units)) * 8
            })
    }

    /// Record `i`.
    #[inline]
    pub fn record(&self, i: usize) -> Option<Record<'a>> {
        if i >= self.len() {
            return None;
        }
        Record::at(self.bytes, self.position(i))
    }

    #[inline]
    fn heads(&self) -> &'a [[u8; 4]] {
        self.bytes
            .get(HEADER_LEN..HEADER_LEN + 4 * self.len())
            .map_or(&[], |heads| heads.as_chunks().0)
    }

    /// The first entry at or after the position of `key` at `seq`, or the number of entries.
    pub fn lower_bound(&self, key: &[u8], seq: SeqNo) -> usize {
        let prefix = usize::from(self.header.prefix);
        if prefix > 0 {
            let first = self.record(0).map_or(&[][..], |record| record.key);
            let shared = first.get(..prefix).unwrap_or(first);
            match key.get(..prefix).unwrap_or(key).cmp(shared) {
                Ordering::Less => return 0,
                Ordering::Greater => return self.len(),
                Ordering::Equal => {}
            }
        }
        let wanted = head_behind(key, prefix);
        let heads = self.heads();
        let start = heads.partition_point(|head| u32::from_le_bytes(*head) < wanted);
        let ties = heads.get(start..).unwrap_or_default();
        let same = |head: &[u8; 4]| u32::from_le_bytes(*head) == wanted;
        let count = match ties {
            [first, second, ..] if same(first) && same(second) => ties.partition_point(same),
            [first, ..] if same(first) => 1,
            _ => return start,
        };
        let (mut low, mut high) = (start, start + count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.record(middle) {
                Some(record) if record.cmp(key, seq).is_lt() => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    /// Checks the whole structure; returns how many entries are tombstones.
    pub fn validate(&self) -> Result<u16> {
        let header = &self.header;
        let wrong = |what: &str| Error::corruption(format!("in a block, {what}"));
        if self.bytes.len() != header.raw_len as usize
            || header.kind != RAW
            || header.plain_len != 0
        {
            return Err(wrong("the length is not the one stated"));
        }
        let gap = self
            .bytes
            .get(HEADER_LEN + SLOT_LEN * self.len()..header.records_at());
        if gap.is_none_or(|gap| gap.iter().any(|b| *b != 0)) {
            return Err(wrong("the count is beyond the end"));
        }
        let mut checked = Checked::default();
        let mut pos = header.records_at();
        let mut last: Option<Record<'_>> = None;
        let mut prefix: &[u8] = &[];
        for (i, head) in self.heads().iter().enumerate() {
            if self.position(i) != pos || pos >= MAX_RECORD_START {
                return Err(wrong("a record is not where its offset says"));
            }
            let record = Record::at(self.bytes, pos)
                .ok_or_else(|| wrong("a record reaches beyond the end"))?;
            if i == 0 {
                prefix = record
                    .key
                    .get(..usize::from(header.prefix))
                    .ok_or_else(|| wrong("the common prefix is longer than a key"))?;
            }
            let head_fits = u32::from_le_bytes(*head) == head_behind(record.key, prefix.len());
            if !record.key.starts_with(prefix) || !head_fits {
                return Err(wrong("a head is not its key's"));
            }
            if let Some(last) = last {
                checked.in_order(&last, &record)?;
            }
            checked.take(&record)?;
            last = Some(record);
            let end = pos + record_len(record.key.len(), record.value.len());
            pos = align8(end as u64) as usize;
            if self
                .bytes
                .get(end..pos)
                .is_none_or(|gap| gap.iter().any(|b| *b != 0))
            {
                return Err(wrong("a record is not padded with zeroes"));
            }
        }
        if pos != self.bytes.len() {
            return Err(wrong("bytes follow the last record"));
        }
        checked.agree(header)?;
        Ok(checked.tombstones)
    }
}

/// What [`RawBlock::validate`] gathers.
#[derive(Default)]
struct Checked {
    tombstones: u16,
    versions: bool,
    /// Those that say which kinds there are.
    flags: u8,
    highest: SeqNo,
}

impl Checked {
    #[inline]
    fn in_order(&mut self, last: &Record<'_>, record: &Record<'_>) -> Result<()> {
        match last.key.cmp(record.key) {
            Ordering::Less => Ok(()),
            Ordering::Equal if last.seq() > record.seq() => {
                self.versions = true;
                Ok(())
            }
            _ => Err(Error::corruption("in a block, entries are out of order")),
        }
    }

    #[inline]
    fn take(&mut self, record: &Record<'_>) -> Result<()> {
        if record.trailer as u8 == ValueKind::Put as u8 {
            self.highest = self.highest.max(record.seq());
            return Ok(());
        }
        let (seq, kind) = split_trailer(record.trailer)?;
        kind.check_len(record.value.len())?;
        self.tombstones += u16::from(kind == ValueKind::Tombstone);
        self.flags |= flags_of(kind);
        self.highest = self.highest.max(seq);
        Ok(())
    }

    fn agree(&self, header: &Header) -> Result<()> {
        let versions = header.flags & VERSIONS != 0;
        if self.highest != header.highest
            || header.flags & KINDS != self.flags
            || (self.versions && !versions)
            || (header.flags & CONTINUES != 0 && !versions)
        {
            return Err(Error::corruption("a block's header is not its entries'"));
        }
        Ok(())
    }
}

/// The key of an entry in `keyspace`.
#[inline]
pub(crate) fn key_of<'a>(keyspace: KeyspaceId, record: &Record<'a>) -> KeyRef<'a> {
    KeyRef::new(
        UserKey::new(keyspace, record.key),
        record.seq(),
        record.kind(),
    )
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
