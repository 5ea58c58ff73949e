//! A frame as bytes.
//!
//! ```text
//! frame   := length: u32 | crc: u32 | salt: u32 | count: u32 | trailer: u64 | synced: u64
//!          | payload | padding
//! trailer := first sequence number << 8 | kind
//! padding := zeroes up to the next multiple of 8
//! ```
//!
//! Integers are little-endian, frames begin at multiples of 8 and never cross the end of their
//! file.
//!
//! - `length` counts header and payload, without the padding. It is never 0, so zeroes are no
//!   frame.
//! - `crc` is the CRC-32 of all of the frame but itself, padding included, plus `place(salt,
//!   offset)`: see [`terrace_base::checksum`]. So a frame in another place, or of an earlier use of
//!   its file, does not verify.
//! - `salt` is the low half of the file's salt: with `length` a cheap test before any CRC.
//! - `count` is how many sequence numbers the frame takes, from the first on; 0 for all but data.
//! - `synced` is the promise: everything below this position was durable before the frame was
//!   written. It never lies above the frame itself.
//!
//! The kinds and their payloads:
//!
//! ```text
//! 1 data   bytes of the caller
//! 2 link   salt: u64 | predecessor's number: u64, salt: u64, end in its file: u64 (zeroes: none)
//!          | from: u64 | first: u64 | last sequence number: u64 | manifest edit: u64
//! 3 mark   nothing: it repeats the promise
//! 4 close  last sequence number: u64 | manifest edit: u64
//! ```
//!
//! A link is the first frame of every use of a segment. The position of a frame is `first` plus its
//! offset in the file, the link's own offset 0 included. `from` is where the log before it ended:
//! `first`, or less where positions were skipped between two lives of the log.
//!
//! Example: data `abc` with sequence number 5 at offset 96 of a file with salt 0x1111111122222222,
//! everything below position 96 durable:
//!
//! ```text
//! 23000000 c41b0fc9 22222222 01000000   length 35, crc, salt, one sequence number
//! 0105000000000000 6000000000000000     kind 1 and sequence number 5, synced 96
//! 616263 0000000000                     abc, padding to 40 bytes
//! ```
#![deny(clippy::indexing_slicing)]

use std::fmt;

use terrace_base::checksum::{crc32_of_parts, place};
use terrace_base::coding::align8;
use terrace_base::{Decoder, Error, FileNumber, Result, SeqNo, mutant};

const CRC_OFFSET: usize = size_of::<u32>();
const SALT_OFFSET: usize = CRC_OFFSET + size_of::<u32>();
const COUNT_OFFSET: usize = SALT_OFFSET + size_of::<u32>();
const TRAILER_OFFSET: usize = COUNT_OFFSET + size_of::<u32>();
const SYNCED_OFFSET: usize = TRAILER_OFFSET + size_of::<u64>();
/// Length of the header of a frame.
pub(crate) const HEADER_LEN: usize = SYNCED_OFFSET + size_of::<u64>();
const LINK_FIELDS: usize = 8;
/// Length of a whole link frame.
pub(crate) const LINK_LEN: u64 = (HEADER_LEN + LINK_FIELDS * size_of::<u64>()) as u64;
/// Length of a whole mark.
pub(crate) const MARK_LEN: u64 = HEADER_LEN as u64;
/// Length of a whole close frame.
pub(crate) const CLOSE_LEN: u64 = (HEADER_LEN + 2 * size_of::<u64>()) as u64;
/// The longest frame, header included: its length fits 32 bits with room to round up.
pub(crate) const MAX_FRAME_LEN: u64 = 1 << 31;
/// Positions stay below this, so that sums with sizes of files cannot overflow.
pub(crate) const MAX_LSN: u64 = 1 << 62;

const _: () = assert!(HEADER_LEN == 32 && HEADER_LEN.is_multiple_of(8));
const _: () = assert!(
    SALT_OFFSET == 8,
    "the search reads the salt as the second word"
);
const _: () = assert!(LINK_LEN == 96 && CLOSE_LEN == 48);

/// A position in the one log. Positions only rise, also from one segment and one life to the next.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a frame is. Stored on disk: numbers are never reused, 0 is never valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Bytes of the caller.
    Data = 1,
    /// The first frame of a segment: says where it stands in the log.
    Link = 2,
    /// Repeats the promise.
    Mark = 3,
    /// The log was closed here, everything before it durable.
    Close = 4,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Result<FrameKind> {
        match byte {
            1 => Ok(FrameKind::Data),
            2 => Ok(FrameKind::Link),
            3 => Ok(FrameKind::Mark),
            4 => Ok(FrameKind::Close),
            _ => Err(Error::unsupported(format!(
                "a frame of kind {byte} was written by a newer terrace; open it with that version"
            ))),
        }
    }
}

/// A frame as it is read back.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What it is; [`recover`](crate::recover) hands out data only.
    pub kind: FrameKind,
    /// How many sequence numbers it takes.
    pub count: u32,
    /// The first of them.
    pub first_seq: SeqNo,
    /// Where it begins.
    pub lsn: Lsn,
    /// Where it ends: the position of the next frame.
    pub end: Lsn,
    /// Everything below was durable when it was written.
    pub synced: Lsn,
    /// The bytes given to [`Log::append`](crate::Log::append).
    pub payload: &'a [u8],
}

/// The fields of a frame, apart from its place and its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    pub kind: FrameKind,
    pub count: u32,
    pub first_seq: SeqNo,
    pub synced: u64,
}

/// A frame that verifies, with the length that it takes in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verified<'a> {
    pub fields: Fields,
    pub payload: &'a [u8],
    pub total: u64,
}

/// The length in the file of a frame with a payload of `payload_len` bytes.
#[inline]
pub(crate) const fn frame_len(payload_len: usize) -> u64 {
    // A slice is never longer than half of the address space, so the sum cannot overflow.
    align8(HEADER_LEN as u64 + (payload_len as u64 & (u64::MAX >> 1)))
}

/// Puts the whole frame for `offset` of a file with `salt` into `out`, in place of what it holds.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    fields: Fields,
    payload: &[&[u8]],
    salt: u64,
    offset: u64,
) -> Result<()> {
    out.clear();
    out.extend_from_slice(&[0; HEADER_LEN]);
    for part in payload {
        out.extend_from_slice(part);
    }
    let length = out.len() as u64;
    if length > MAX_FRAME_LEN {
        return Err(Error::invalid(format!(
            "a record of {length} bytes is longer than a frame may be"
        )));
    }
    let trailer = (fields.first_seq.get() << 8) | fields.kind as u64;
    let words = [
        u64::from(length as u32), // The CRC above it comes last.
        u64::from(salt as u32) | u64::from(fields.count) << 32,
        trailer,
        fields.synced,
    ];
    for (place, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    out.resize(align8(length) as usize, 0);
    let crc = crc_of(out).wrapping_add(belonging(salt, offset));
    if let Some(field) = out.get_mut(CRC_OFFSET..SALT_OFFSET) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    Ok(())
}

/// What is added to the CRC of a frame of this use at this offset.
#[inline]
fn belonging(salt: u64, offset: u64) -> u32 {
    place(if mutant("ignore-salt") { 0 } else { salt }, offset)
}

/// The CRC of all of a frame but its crc field.
#[inline]
fn crc_of(frame: &[u8]) -> u32 {
    let (length, rest) = frame.split_at_checked(CRC_OFFSET).unwrap_or((frame, &[]));
    let rest = rest.get(SALT_OFFSET - CRC_OFFSET..).unwrap_or(&[]);
    crc32_of_parts(&[length, rest])
}

/// The length in the file of the frame that these first two words begin, if they can be of a frame
/// of a file with `salt` and it fits the `room` left. Cheap, and rarely wrong: the CRC decides.
#[inline]
pub(crate) fn plausible(first: [u8; 8], second: [u8; 8], salt: u64, room: u64) -> Option<u64> {
    if u64::from_le_bytes(second) as u32 != salt as u32 && !mutant("ignore-salt") {
        return None;
    }
    let length = u64::from(u64::from_le_bytes(first) as u32);
    let total = align8(length);
    (length >= HEADER_LEN as u64 && length <= MAX_FRAME_LEN && total <= room).then_some(total)
}

/// The length in the file that the frame at the front of `bytes` claims, if its header can be one.
#[inline]
pub(crate) fn claimed_len(bytes: &[u8], salt: u64, room: u64) -> Option<u64> {
    let (words, _) = bytes.as_chunks::<8>();
    match words {
        [first, second, ..] => plausible(*first, *second, salt, room),
        _ => None,
    }
}

/// Decodes the frame that is all of `bytes`; `None` if it does not verify. A frame that verifies
/// and is of an unknown kind is `Unsupported`.
pub(crate) fn decode(bytes: &[u8], salt: u64, offset: u64) -> Result<Option<Verified<'_>>> {
    let Some(total) = claimed_len(bytes, salt, bytes.len() as u64) else {
        return Ok(None);
    };
    let mut decoder = Decoder::new(bytes);
    let length = decoder.u32()?;
    let crc = decoder.u32()?;
    if total != bytes.len() as u64 || crc != crc_of(bytes).wrapping_add(belonging(salt, offset)) {
        return Ok(None);
    }
    decoder.u32()?;
    let count = decoder.u32()?;
    let trailer = decoder.u64()?;
    let synced = decoder.u64()?;
    let payload = decoder.bytes(length as usize - HEADER_LEN)?;
    let fields = Fields {
        kind: FrameKind::from_byte(trailer as u8)?,
        count,
        first_seq: SeqNo::new(trailer >> 8),
        synced,
    };
    Ok(Some(Verified {
        fields,
        payload,
        total,
    }))
}

/// One use of a segment file, up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub number: FileNumber,
    pub salt: u64,
    pub end: u64,
}

/// The payload of a link frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub salt: u64,
    pub predecessor: Option<Use>,
    pub from: Lsn,
    pub first: Lsn,
    pub last_seq: SeqNo,
    pub manifest_edit: u64,
}

impl Link {
    pub(crate) fn encode(&self) -> [u8; LINK_LEN as usize - HEADER_LEN] {
        let before = self.predecessor.unwrap_or(Use {
            number: FileNumber(0),
            salt: 0,
            end: 0,
        });
        let fields: [u64; LINK_FIELDS] = [
            self.salt,
            before.number.0,
            before.salt,
            before.end,
            self.from.0,
            self.first.0,
            self.last_seq.get(),
            self.manifest_edit,
        ];
        let mut out = [0; LINK_LEN as usize - HEADER_LEN];
        for (place, field) in out.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *place = field.to_le_bytes();
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Link> {
        let mut decoder = Decoder::new(payload);
        let salt = decoder.u64()?;
        let before = Use {
            number: FileNumber(decoder.u64()?),
            salt: decoder.u64()?,
            end: decoder.u64()?,
        };
        let from = Lsn(decoder.u64()?);
        let first = Lsn(decoder.u64()?);
        let last_seq = decode_seq(&mut decoder)?;
        let manifest_edit = decoder.u64()?;
        decoder.finish()?;
        if from > first || first.0 > MAX_LSN {
            return Err(Error::corruption(format!("a link from {from} to {first}")));
        }
        if before.end != 0 && (before.end < LINK_LEN || !before.end.is_multiple_of(8)) {
            return Err(Error::corruption(format!(
                "a link names {} as the end of its predecessor",
                before.end
            )));
        }
        let predecessor = (before.end != 0).then_some(before);
        Ok(Link {
            salt,
            predecessor,
            from,
            first,
            last_seq,
            manifest_edit,
        })
    }
}

/// The payload of a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    pub last_seq: SeqNo,
    pub manifest_edit: u64,
}

impl Close {
    pub(crate) fn encode(&self) -> [u8; CLOSE_LEN as usize - HEADER_LEN] {
        let fields = [self.last_seq.get(), self.manifest_edit];
        let mut out = [0; CLOSE_LEN as usize - HEADER_LEN];
        for (place, field) in out.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *place = field.to_le_bytes();
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Close> {
        let mut decoder = Decoder::new(payload);
        let last_seq = decode_seq(&mut decoder)?;
        let manifest_edit = decoder.u64()?;
        decoder.finish()?;
        Ok(Close {
            last_seq,
            manifest_edit,
        })
    }
}

fn decode_seq(decoder: &mut Decoder<'_>) -> Result<SeqNo> {
    match decoder.u64()? {
        n if n <= SeqNo::MAX.get() => Ok(SeqNo::new(n)),
        n => Err(Error::corruption(format!("{n} is no sequence number"))),
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
