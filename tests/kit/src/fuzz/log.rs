//! The log and the manifest: frames, segments, edits, and the operations in a frame.

use std::path::Path;
use std::sync::Arc;

use terrace::internals::recode_operations;
use terrace::vfs::MemVfs;
use terrace_base::vfs::{Fs, OpenMode};
use terrace_base::{Error, ErrorKind, FileKind, FileNumber};
use terrace_compaction::{TableMeta, TableStore, Version, VersionEdit};
use terrace_sstable::Table;
use terrace_wal::internals::{decode, encode, recode};
use terrace_wal::{Known, Lsn, SegmentMeta, read_frames, recover};

use super::input::Input;
use super::{Outcome, REPAIR, expect, repair};

/// Where the files of a target lie.
pub(super) const DIR: &str = "/db";
/// Sizes of segments are multiples of this.
pub(super) const SEGMENT_UNIT: usize = 4096;
/// The manifest's file grows by this.
const BLOCK: usize = 64 << 10;
/// The header that a frame file leaves room for.
const START: u64 = 64;
/// Frame files instead of segments.
pub(super) const ONE_FILE: u8 = 2;

/// The salt that a byte of input stands for.
pub(super) fn salt_of(byte: u8) -> u64 {
    (u64::from(byte) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What nobody may see as the answer to damage.
pub(super) fn typed(error: &Error) -> Outcome {
    let fits = matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Unsupported);
    expect(fits, || format!("damage is answered with {error:?}"))
}

/// `flags | salt | offset / 8 | frame`
pub(super) fn frame(data: &[u8]) -> Outcome {
    let input = &mut Input::new(data);
    let flags = input.u8();
    let (salt, offset) = (salt_of(input.u8()), u64::from(input.u8()) * 8);
    let mut bytes = input.rest().to_vec();
    if flags & REPAIR != 0 {
        bytes.resize(bytes.len().next_multiple_of(8).max(32), 0);
        let claimed = repair::u32_at(&bytes, 0).unwrap_or(0) as usize;
        if claimed < 32 || claimed.next_multiple_of(8) != bytes.len() {
            let len = bytes.len() as u32;
            repair::put(&mut bytes, 0, &len.to_le_bytes());
        }
        repair::frame(&mut bytes, salt, offset);
    }
    let parts = match decode(&bytes, salt, offset) {
        Ok(Some(parts)) => parts,
        Ok(None) => return expect(flags & REPAIR == 0, || "a repaired frame is none".into()),
        Err(error) => return typed(&error),
    };
    let again = encode(&parts, salt, offset).map_err(|error| error.to_string())?;
    expect(
        decode(&again, salt, offset).ok() == Some(Some(parts)),
        || format!("{parts:?} is read back as something else"),
    )?;
    for (salt, offset) in [
        (salt ^ 1, offset),
        (salt ^ 1 << 40, offset),
        (salt, offset + 8),
    ] {
        let elsewhere = decode(&bytes, salt, offset);
        expect(matches!(elsewhere, Ok(None)), || {
            "a frame verifies where it does not belong".into()
        })?;
    }
    match recode(parts.kind, parts.payload) {
        Ok(once) => {
            let twice = recode(parts.kind, &once).map_err(|error| error.to_string())?;
            expect(once == twice, || "a payload changes when read back".into())
        }
        Err(error) => typed(&error),
    }
}

/// `flags | manifest edit | flushed: u16 | (number | salt | units of size | length: u16 | bytes)*`
///
/// Behind the bytes a file holds zeroes. With [`ONE_FILE`] the first one is a file of frames like
/// the manifest.
pub(super) fn segment(data: &[u8]) -> Outcome {
    let input = &mut Input::new(data);
    let flags = input.u8();
    let edit = u64::from(input.u8());
    let flushed = Lsn(u64::from(input.u16()));
    let vfs = MemVfs::new(1);
    let mut metas = Vec::new();
    while !input.is_empty() && metas.len() < 4 {
        let number = FileNumber(u64::from(input.u8()));
        let salt = salt_of(input.u8());
        let units = usize::from(input.u8() % 3) + 1;
        let len = usize::from(input.u16());
        let mut bytes = input.bytes(len).to_vec();
        let (size, start) = match flags & ONE_FILE != 0 {
            true => (units.min(2) * BLOCK, START as usize),
            false => (units * SEGMENT_UNIT, 0),
        };
        bytes.resize(size, 0);
        if flags & REPAIR != 0 {
            repair::frames(&mut bytes, salt, start);
        }
        vfs.write_file(FileKind::Segment(number).path(Path::new(DIR)), &bytes);
        metas.push(SegmentMeta {
            number,
            salt,
            size: size as u64,
        });
        if flags & ONE_FILE != 0 {
            break;
        }
    }
    let fs = Fs::new(vfs);
    match metas.first() {
        Some(meta) if flags & ONE_FILE != 0 => one_file(&fs, meta),
        _ => many_files(&fs, &metas, flushed, edit),
    }
}

fn one_file(fs: &Fs, meta: &SegmentMeta) -> Outcome {
    let path = FileKind::Segment(meta.number).path(Path::new(DIR));
    let file = fs
        .open(&path, OpenMode::Read)
        .map_err(|error| error.to_string())?;
    let mut last = None;
    let mut rising = true;
    let tail = read_frames(&file, meta.salt, START, &mut |number, _| {
        rising &= last.is_none_or(|last| last + 1 == number);
        last = Some(number);
        Ok(())
    });
    expect(rising, || "numbers of frames do not rise by one".into())?;
    match tail {
        Ok(tail) => expect(tail.end <= meta.size && tail.synced <= tail.end, || {
            format!("of {} bytes this is read: {tail:?}", meta.size)
        }),
        Err(error) => typed(&error),
    }
}

fn many_files(fs: &Fs, metas: &[SegmentMeta], flushed: Lsn, edit: u64) -> Outcome {
    let read = || {
        let mut frames = Vec::new();
        let last_seq = terrace::SeqNo::MAX;
        let known = Known {
            flushed,
            edit,
            last_seq,
        };
        let found = recover(fs, Path::new(DIR), metas, known, &mut |frame| {
            frames.push((frame.lsn, frame.end, frame.first_seq, frame.count));
            Ok(())
        });
        (frames, found)
    };
    let (frames, found) = read();
    let rising = frames.windows(2).all(|pair| match pair {
        [a, b] => a.1 <= b.0 && a.2 < b.2,
        _ => true,
    });
    expect(rising, || format!("frames do not rise: {frames:?}"))?;
    let (again, found_again) = read();
    let same = format!("{found:?}") == format!("{found_again:?}");
    expect(same && again == frames, || {
        "reading twice gives different answers".into()
    })?;
    let found = match found {
        Ok(found) => found,
        Err(error) => return typed(&error),
    };
    let listed = found.used.len() + found.unused.len() + found.dropped.len();
    let last = frames.last().map_or(flushed, |last| last.1);
    let fits = found.end >= last
        && found.end >= flushed
        && found.highest_seen >= found.end
        && found.synced <= found.end
        && listed == metas.len();
    expect(fits, || {
        format!("frames up to {last}, flushed {flushed}, and {found:?}")
    })
}

#[derive(Debug)]
struct NoTables;

impl TableStore for NoTables {
    fn open(&self, _: &TableMeta) -> terrace::Result<Table> {
        Err(Error::corruption("there are no tables"))
    }

    fn obsolete(&self, _: FileNumber) {}
}

/// `flags | payload`
pub(super) fn edit(data: &[u8]) -> Outcome {
    let payload = data.get(1..).unwrap_or_default();
    let edit = match VersionEdit::decode(payload) {
        Ok(edit) => edit,
        Err(error) => return typed(&error),
    };
    let mut once = Vec::new();
    edit.encode(&mut once);
    let again = VersionEdit::decode(&once).map_err(|error| error.to_string())?;
    expect(again == edit, || {
        format!("an edit is read back as another: {edit:?}, {again:?}")
    })?;
    let text = format!("{edit:?}");
    let parsed = VersionEdit::parse(&text).map_err(|error| format!("{text}: {error}"))?;
    expect(parsed == edit, || {
        format!("an edit is parsed as another: {text}, {parsed:?}")
    })?;
    let store: Arc<dyn TableStore> = Arc::new(NoTables);
    match Version::empty().apply(&edit, &store) {
        Ok(version) => {
            let whole = Version::empty().apply(&version.as_edit(), &store);
            let same = whole.is_ok_and(|whole| format!("{whole:?}") == format!("{version:?}"));
            expect(same, || {
                format!("a tree is not what its edit makes: {version:?}")
            })
        }
        Err(error) => typed(&error),
    }
}

/// `count | payload`
pub(super) fn batch(data: &[u8]) -> Outcome {
    let input = &mut Input::new(data);
    let count = u32::from(input.u8());
    let payload = input.rest();
    match recode_operations(payload, count) {
        Ok((again, read)) => expect(again == payload && read == count, || {
            format!("{read} of {count} operations, written again as {again:?}")
        }),
        Err(_) => Ok(()),
    }
}
