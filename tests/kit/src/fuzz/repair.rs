//! Puts the checksums of files right, so that what lies behind them is reached.
//!
//! Places and seeds are those of the format documents (`wal/src/format.rs`, `src/storage/manifest.rs`,
//! `sstable/src/format.rs`, `sstable/src/block/mod.rs`). Where a length or a place does not make
//! sense there is nothing to repair, and the file stays as it is.

use terrace_base::FileKind;
use terrace_base::checksum::{checksum, crc32_of_parts, place};

/// Length of the header of a frame, and of a table's block.
const HEADER_LEN: usize = 32;
/// Where the frames of a manifest start.
const MANIFEST_HEADER_LEN: usize = 64;
/// What ends a table's footer, behind the entries of its sections.
const TAIL_LEN: usize = 36;
const ENTRY_LEN: usize = 28;
const FENCES: u32 = 1;

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*chunk))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*chunk))
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at.saturating_add(value.len())) {
        field.copy_from_slice(value);
    }
}

/// A file of a database with this name.
pub(super) fn file(kind: FileKind, bytes: &mut [u8]) {
    match kind {
        FileKind::Current => current(bytes),
        FileKind::Manifest(_) => manifest(bytes),
        FileKind::Segment(_) => {
            // A segment says itself, in its link, under which salt its frames verify.
            if let Some(salt) = u64_at(bytes, HEADER_LEN) {
                frames(bytes, salt, 0);
            }
        }
        FileKind::Table(_) => {
            table(bytes);
        }
        FileKind::Lock | FileKind::CurrentTemporary | FileKind::Reserve | FileKind::Blob(_) => {}
    }
}

fn current(bytes: &mut [u8]) {
    if let Some(covered) = bytes.get(..24) {
        let crc = checksum(covered, 0, 0);
        put(bytes, 24, &crc.to_le_bytes());
    }
}

fn manifest(bytes: &mut [u8]) {
    let Some(salt) = u64_at(bytes, 16) else {
        return;
    };
    if let (Some(front), Some(rest)) = (bytes.get(..12), bytes.get(16..MANIFEST_HEADER_LEN)) {
        let crc = crc32_of_parts(&[front, rest]).wrapping_add(place(salt, 0));
        put(bytes, 12, &crc.to_le_bytes());
        frames(bytes, salt, MANIFEST_HEADER_LEN);
    }
}

/// All frames from `at` on, up to the first whose length is none.
pub(super) fn frames(bytes: &mut [u8], salt: u64, mut at: usize) {
    while let Some(length) = u32_at(bytes, at) {
        let total = (length as usize).next_multiple_of(8);
        let end = at.saturating_add(total);
        let Some(found) = bytes.get_mut(at..end).filter(|_| total >= HEADER_LEN) else {
            return;
        };
        frame(found, salt, at as u64);
        at = end;
    }
}

/// The frame that is all of `bytes`.
pub(super) fn frame(bytes: &mut [u8], salt: u64, offset: u64) {
    put(bytes, 8, &(salt as u32).to_le_bytes());
    if let (Some(length), Some(rest)) = (bytes.get(..4), bytes.get(8..)) {
        let crc = crc32_of_parts(&[length, rest]).wrapping_add(place(salt, offset));
        put(bytes, 4, &crc.to_le_bytes());
    }
}

/// A footer at the end of `tail`, of a file of `size` bytes; where its sections are described.
pub(super) fn footer(tail: &mut [u8], size: u64) -> Option<usize> {
    let tail_at = tail.len().checked_sub(TAIL_LEN)?;
    let id = u64_at(tail, tail_at)?;
    let count = u32_at(tail, tail_at + 16)? as usize;
    let start = tail_at.checked_sub(count.checked_mul(ENTRY_LEN)?)?;
    put(tail, tail_at + 8, &size.to_le_bytes());
    let offset = size - (tail.len() - start) as u64;
    let crc = checksum(tail.get(start..tail_at + 24)?, id, offset);
    put(tail, tail_at + 24, &crc.to_le_bytes());
    Some(start)
}

/// Blocks, sections and footer of a table.
pub(super) fn table(bytes: &mut [u8]) -> Option<()> {
    let size = bytes.len() as u64;
    let entries = footer(bytes, size)?;
    let tail_at = bytes.len().checked_sub(TAIL_LEN)?;
    let id = u64_at(bytes, tail_at)?;
    let mut fences = None;
    for entry in (entries..tail_at).step_by(ENTRY_LEN) {
        let offset = usize::try_from(u64_at(bytes, entry + 8)?).ok()?;
        let len = usize::try_from(u64_at(bytes, entry + 16)?).ok()?;
        let end = offset.checked_add(len)?;
        if u32_at(bytes, entry) == Some(FENCES) {
            fences = Some(offset..end);
        }
        if let Some(section) = bytes.get(offset..end) {
            let crc = checksum(section, id, offset as u64);
            put(bytes, entry + 24, &crc.to_le_bytes());
        }
    }
    footer(bytes, size)?;
    let section = bytes.get(fences?)?.to_vec();
    let count = u32_at(&section, 0)? as usize;
    let starts = count.checked_mul(8)?.checked_add(8)?;
    for i in 0..count {
        let at = starts.checked_add(i.checked_mul(4)?)?;
        let from = u32_at(&section, at)? as usize * 8;
        let to = u32_at(&section, at + 4)? as usize * 8;
        let crc = checksum(bytes.get(from.checked_add(4)?..to)?, id, from as u64);
        put(bytes, from, &crc.to_le_bytes());
    }
    Some(())
}
