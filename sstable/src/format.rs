//! The frame of a table file: sections and the footer.
//!
//! ```text
//! file     := block* section* footer            blocks: see `block`; they fill [0, first section's offset)
//! section  := payload padding                   zeroes up to the next multiple of 64 of the file's offset
//! footer   := entry{count} id:u64 size:u64 count:u32 version:u32 crc:u32 magic:[u8; 8]
//! entry    := tag:u32 flags:u32 offset:u64 length:u64 crc:u32       length includes the padding
//! ```
//!
//! Integers are little-endian. `id` is the random number of the file and `size` its whole length. A
//! section's `crc` is the checksum of its bytes at its offset; the footer's is that of all footer
//! bytes before the field, at the footer's offset. Sections tile the space between the last block
//! and the footer, so that every byte of a file is under some checksum. Bit 0 of `flags` says that
//! a reader that does not know the tag must refuse the file (`Unsupported`); other sections are
//! skipped. The other flags are zero.
//!
//! Example: a table with one block of 64 bytes, fences of 40 bytes, no point index, properties of
//! 50:
//!
//! ```text
//! 0    block 0
//! 64   fences and 24 zeroes        entry {tag 1, flags 1, offset 64, length 64}
//! 128  properties and 14 zeroes    entry {tag 3, flags 1, offset 128, length 64}
//! 192  footer: 2 * 28 + 36 bytes   size 284, count 2, version 1
//! ```
#![deny(clippy::indexing_slicing)]

use terrace_base::checksum::checksum;
use terrace_base::coding::{Decoder, put_u32, put_u64};
use terrace_base::error::{Error, Result};

pub(crate) const MAGIC: [u8; 8] = *b"\xF0terrSST";
/// The one version of the format so far.
const VERSION: u32 = 1;

// Tags of sections. Never reused; reserved: 5 range tombstones, 6 blob references.
pub(crate) const FENCES: u32 = 1;
pub(crate) const POINT_INDEX: u32 = 2;
pub(crate) const PROPERTIES: u32 = 3;
pub(crate) const FILTER: u32 = 4;

const REQUIRED: u32 = 1;

const ENTRY_LEN: usize = 4 + 4 + 8 + 8 + 4;
const TAIL_LEN: usize = 8 + 8 + 4 + 4 + 4 + 8;
const _: () = assert!(ENTRY_LEN == 28 && TAIL_LEN == 36);
/// More than any version will need.
const MAX_SECTIONS: usize = 32;
/// Reading this much of a file's end gets every footer.
pub(crate) const MAX_FOOTER_LEN: usize = TAIL_LEN + MAX_SECTIONS * ENTRY_LEN;
/// Sections start and end at multiples of this, but for the first one's start: buckets of the point
/// index are then whole cache lines in a map.
pub(crate) const SECTION_ALIGN: u64 = 64;

/// Where a section lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub tag: u32,
    pub required: bool,
    pub offset: u64,
    pub len: u64,
    pub crc: u32,
}

/// The sections of a table and where its data ends.
#[derive(Debug)]
pub(crate) struct Footer {
    pub sections: Vec<Section>,
    pub data_end: u64,
}

impl Footer {
    /// The section with this tag.
    pub fn section(&self, tag: u32) -> Option<&Section> {
        self.sections.iter().find(|section| section.tag == tag)
    }
}

/// Pads `payload`, which is to lie at `offset`, and describes it.
pub(crate) fn seal_section(
    tag: u32,
    required: bool,
    id: u64,
    offset: u64,
    payload: &mut Vec<u8>,
) -> Section {
    let end = (offset + payload.len() as u64).next_multiple_of(SECTION_ALIGN);
    payload.resize((end - offset) as usize, 0);
    Section {
        tag,
        required,
        offset,
        len: end - offset,
        crc: checksum(payload, id, offset),
    }
}

/// The bytes of the footer that ends a file whose sections are `sections`.
pub(crate) fn encode_footer(sections: &[Section], id: u64, offset: u64) -> Vec<u8> {
    let len = sections.len() * ENTRY_LEN + TAIL_LEN;
    let mut out = Vec::with_capacity(len);
    for section in sections {
        put_u32(&mut out, section.tag);
        put_u32(&mut out, if section.required { REQUIRED } else { 0 });
        put_u64(&mut out, section.offset);
        put_u64(&mut out, section.len);
        put_u32(&mut out, section.crc);
    }
    put_u64(&mut out, id);
    put_u64(&mut out, offset + len as u64);
    put_u32(&mut out, sections.len() as u32);
    put_u32(&mut out, VERSION);
    let crc = checksum(&out, id, offset);
    put_u32(&mut out, crc);
    out.extend_from_slice(&MAGIC);
    out
}

/// The id that the footer at the end of `tail` names. Nothing of it is checked.
pub(crate) fn id_in_footer(tail: &[u8]) -> Option<u64> {
    let (end, _) = tail
        .get(tail.len().checked_sub(TAIL_LEN)?..)?
        .split_first_chunk::<8>()?;
    Some(u64::from_le_bytes(*end))
}

/// Reads the footer off the end of `tail`, the last bytes of the file `id` of `size` bytes.
pub(crate) fn decode_footer(tail: &[u8], id: u64, size: u64) -> Result<Footer> {
    let (_, end) = tail
        .split_at_checked(tail.len().wrapping_sub(TAIL_LEN))
        .ok_or_else(|| Error::corruption("the file is too short for a table"))?;
    let mut decoder = Decoder::new(end);
    let (found_id, found_size) = (decoder.u64()?, decoder.u64()?);
    let (count, version, crc) = (decoder.u32()?, decoder.u32()?, decoder.u32()?);
    if decoder.rest() != MAGIC {
        return Err(Error::corruption("the file does not end as a table does"));
    }
    let count = count as usize;
    let footer = count
        .checked_mul(ENTRY_LEN)
        .filter(|_| count <= MAX_SECTIONS)
        .and_then(|len| tail.len().checked_sub(len + TAIL_LEN))
        .and_then(|start| tail.get(start..))
        .ok_or_else(|| Error::corruption(format!("the footer names {count} sections")))?;
    let offset = size - footer.len() as u64;
    let hashed = footer
        .get(..footer.len() - 4 - MAGIC.len())
        .unwrap_or_default();
    if checksum(hashed, found_id, offset) != crc {
        return Err(Error::corruption("the footer does not verify"));
    }
    if found_id != id || found_size != size {
        return Err(Error::corruption(format!(
            "this is table {found_id:#018x} of {found_size} bytes, not {id:#018x} of {size}"
        )));
    }
    if version != VERSION {
        return Err(Error::unsupported(format!(
            "the table has format version {version}; this build reads version {VERSION}"
        )));
    }
    decode_entries(Decoder::new(footer), count, offset)
}

fn decode_entries(mut decoder: Decoder<'_>, count: usize, footer_at: u64) -> Result<Footer> {
    let mut sections: Vec<Section> = Vec::with_capacity(count);
    for _ in 0..count {
        let tag = decoder.u32()?;
        let flags = decoder.u32()?;
        let (offset, len, crc) = (decoder.u64()?, decoder.u64()?, decoder.u32()?);
        let required = flags & REQUIRED != 0;
        let known = matches!(tag, FENCES | POINT_INDEX | PROPERTIES);
        if (required && !known) || flags & !REQUIRED != 0 {
            return Err(Error::unsupported(format!(
                "the table has a section {tag} (flags {flags}) that this build does not know"
            )));
        }
        let follows = match sections.last() {
            Some(last) => last.offset + last.len == offset,
            None => offset % 8 == 0,
        };
        let end = offset.checked_add(len);
        let fits = end.is_some_and(|end| end <= footer_at && end % SECTION_ALIGN == 0);
        if !follows || !fits || sections.iter().any(|other| other.tag == tag) {
            return Err(Error::corruption(format!("section {tag} is out of place")));
        }
        sections.push(Section {
            tag,
            required,
            offset,
            len,
            crc,
        });
    }
    let data_end = match (sections.first(), sections.last()) {
        (Some(first), Some(last)) if last.offset + last.len == footer_at => first.offset,
        _ => {
            return Err(Error::corruption("the sections do not reach the footer"));
        }
    };
    Ok(Footer { sections, data_end })
}
