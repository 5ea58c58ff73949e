//! Inputs to begin with, made from valid structures by the code that writes them.

use std::path::Path;

use terrace::Compression;
use terrace::vfs::MemVfs;
use terrace_base::key::{KeyspaceId, SeqNo, UserKey, ValueKind};
use terrace_base::vfs::{Fs, OpenMode};
use terrace_base::{FileKind, FileNumber, KeyRef};
use terrace_compaction::VersionEdit;
use terrace_sstable::internals::{Block, Index};
use terrace_wal::internals::{Parts, encode};
use terrace_wal::{FrameFile, FrameKind, Log, Lsn, SegmentMeta, Start, create_segment};

use super::REPAIR;
use super::disk::BASES;
use super::log::{DIR, ONE_FILE, salt_of};
use super::repair::{u32_at, u64_at};
use super::table::{Entries, make, sample};
use super::table_parts::{IN_TABLE, PLACE};

/// The input for each of the flags.
fn flagged(flags: &[u8], rest: &[u8]) -> Vec<Vec<u8>> {
    flags.iter().map(|flag| [&[*flag], rest].concat()).collect()
}

pub(super) fn frame() -> Vec<Vec<u8>> {
    let close = [7u64.to_le_bytes(), 3u64.to_le_bytes()].concat();
    let link = [9, 0, 0, 0, 0, 0, 0, 1].map(u64::to_le_bytes).concat();
    let kinds = [
        (FrameKind::Data, 1, b"abc".as_slice()),
        (FrameKind::Mark, 0, b""),
        (FrameKind::Close, 0, &close),
        (FrameKind::Link, 0, &link),
    ];
    let mut all = Vec::new();
    for (kind, count, payload) in kinds {
        let parts = Parts {
            kind,
            count,
            first_seq: SeqNo::new(5),
            synced: 96,
            payload,
        };
        if let Ok(bytes) = encode(&parts, salt_of(1), 96) {
            all.extend(flagged(
                &[0, REPAIR],
                &[&[1, 12], bytes.as_slice()].concat(),
            ));
        }
    }
    all
}

/// What stands in an input for a file with these bytes.
fn listed(number: u8, salt: u8, units: u8, bytes: &[u8]) -> Vec<u8> {
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    let used = bytes.get(..used).unwrap_or(&[]);
    let len = (used.len() as u16).to_le_bytes();
    [&[number, salt, units - 1], &len[..], used].concat()
}

fn log_of(close: bool) -> terrace::Result<Vec<u8>> {
    let vfs = MemVfs::new(1);
    let (fs, dir) = (Fs::new(vfs.clone()), Path::new(DIR));
    vfs.write_file(dir.join("LOCK"), b"");
    let start = Start {
        next: Lsn(0),
        last_seq: SeqNo::ZERO,
        predecessor: None,
        sealed: Vec::new(),
    };
    let mut log = Log::new(fs.clone(), dir.into(), start);
    for (number, salt) in [(1, 1), (2, 2)] {
        create_segment(&fs, dir, FileNumber(number), 4096)?;
        let meta = SegmentMeta {
            number: FileNumber(number),
            salt: salt_of(salt),
            size: 4096,
        };
        log.put_spare(meta, 1)?;
        for n in 0..4 {
            let first = (number - 1) * 100 + n * 2 + 1;
            log.append(2, SeqNo::new(first), &[&[b'x'; 900][..n as usize * 290]])?;
            let point = log.sync_point();
            if n % 2 == 1 {
                point.run()?;
                log.note_synced(log.end());
            }
        }
    }
    if close {
        log.close(SeqNo::new(108), 1)?;
    }
    let mut all = vec![1, 0, 0];
    for number in [1u8, 2] {
        let path = FileKind::Segment(FileNumber(u64::from(number))).path(dir);
        let bytes = vfs.read_file(path).unwrap_or_default();
        all.extend(listed(number, number, 1, &bytes));
    }
    Ok(all)
}

fn frame_file() -> terrace::Result<Vec<u8>> {
    let vfs = MemVfs::new(1);
    vfs.write_file(Path::new(DIR).join("LOCK"), b"");
    let fs = Fs::new(vfs.clone());
    let path = FileKind::Segment(FileNumber(1)).path(Path::new(DIR));
    let file = fs.open(&path, OpenMode::CreateNew)?;
    let mut frames = FrameFile::create(file, salt_of(1), 64)?;
    for number in 5..9 {
        frames.append(number, b"an edit")?;
        frames.sync()?;
    }
    frames.mark()?;
    let bytes = vfs.read_file(&path).unwrap_or_default();
    Ok([&[0, 0, 0][..], &listed(1, 1, 1, &bytes)].concat())
}

pub(super) fn segment() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for close in [false, true] {
        if let Ok(log) = log_of(close) {
            all.extend(flagged(&[0, REPAIR], &log));
        }
    }
    if let Ok(file) = frame_file() {
        all.extend(flagged(&[ONE_FILE, ONE_FILE | REPAIR], &file));
    }
    all
}

/// One edit with every field, and each line of it alone.
const EDITS: &str = "\
add L0 run 9 000009:[a#1-b#5](size=100,id=7)
remove L0 000007
move L0 L6 run 0 000008
segment 000004 salt=5eed size=4096
segment- 000003
flushed lsn=96 seq=5
ceiling 64
keyspace 1 users created=3 options=0102
keyspace- 1 4
next-keyspace 2
last-seq 5";

pub(super) fn edit() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for text in EDITS.lines().chain([EDITS]) {
        if let Ok(edit) = VersionEdit::parse(text) {
            let mut bytes = vec![0];
            edit.encode(&mut bytes);
            all.push(bytes);
        }
    }
    all
}

pub(super) fn batch() -> Vec<Vec<u8>> {
    let two = [2, 1, 0, 1, b'a', 2, b'x', b'y', 2, 7, 1, b'b'];
    let keyspaces = [2, 32, 1, 1, b'u', 0, 33, 1];
    let followed = [1, 2, 0, 0, 9];
    vec![two.to_vec(), keyspaces.to_vec(), vec![0], followed.to_vec()]
}

fn section_of(table: &[u8], tag: u32) -> Option<&[u8]> {
    let tail = table.len().checked_sub(36)?;
    let count = u32_at(table, tail + 16)? as usize;
    let mut entries = (tail - count * 28..tail).step_by(28);
    let at = entries.find(|at| u32_at(table, *at) == Some(tag))?;
    let (offset, len) = (u64_at(table, at + 8)?, u64_at(table, at + 16)?);
    table.get(offset as usize..(offset + len) as usize)
}

pub(super) fn footer() -> Vec<Vec<u8>> {
    let table = make(5, Compression::None, 3).bytes;
    let footer = table.get(table.len() - 36 - 3 * 28..).unwrap_or(&[]);
    let beyond = ((table.len() - footer.len()) / 64) as u8;
    flagged(&[0, REPAIR], &[&[beyond], footer].concat())
}

pub(super) fn fences() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for count in [3, 40] {
        let table = make(count, Compression::None, 30).bytes;
        let section = section_of(&table, 1).unwrap_or(&[]);
        all.extend(flagged(&[REPAIR], &[&[0, 0], section].concat()));
    }
    all
}

pub(super) fn index() -> Vec<Vec<u8>> {
    let place: Vec<u8> = (0..240u64)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let mut all = flagged(&[PLACE], &[&[8, 0], place.as_slice()].concat());
    let keys: Vec<(u64, usize, usize)> =
        (0..30).map(|n| (n << 59 | n, 0, n as usize * 8)).collect();
    if let Some(section) = Index::encode(3, &keys, 1) {
        all.extend(flagged(&[0], &[&[1, 0], section.as_slice()].concat()));
    }
    let own = sample().bytes.get(sample().index.clone()).unwrap_or(&[]);
    all.extend(flagged(&[IN_TABLE], &[&[0; 4], own].concat()));
    all
}

fn entries(value: &[u8]) -> Entries {
    let mut entries = Entries::new();
    for n in 0..9u64 {
        let key = format!("key{}", n / 2);
        let user = UserKey::new(KeyspaceId(1), key.as_bytes());
        let (kind, value) = match n {
            4 => (ValueKind::Tombstone, &[][..]),
            _ => (ValueKind::Put, value),
        };
        let key = KeyRef::new(user, SeqNo::new(20 - n), kind);
        entries.push((key.to_owned(), value.to_vec()));
    }
    entries
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for value in [&b""[..], b"value", &[b'v'; 100]] {
        let all = entries(value);
        blocks.extend(Block::build(&all));
        blocks.extend(Block::build(all.get(..1).unwrap_or(&[])));
    }
    blocks
}

pub(super) fn block() -> Vec<Vec<u8>> {
    let blocks = blocks();
    let all = blocks.iter();
    all.flat_map(|block| flagged(&[0, REPAIR], block.bytes()))
        .collect()
}

pub(super) fn packed() -> Vec<Vec<u8>> {
    let blocks = blocks();
    let all = blocks.iter().filter_map(Block::pack);
    all.flat_map(|stored| flagged(&[0, REPAIR], &stored))
        .collect()
}

pub(super) fn table() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (count, compression, len) in [
        (1, Compression::None, 1),
        (12, Compression::None, 30),
        (24, Compression::Lz4, 60),
    ] {
        let table = make(count, compression, len).bytes;
        all.extend(flagged(&[0, REPAIR], &table));
    }
    all
}

pub(super) fn directory() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for base in 0..BASES as u8 {
        all.extend(flagged(&[0, 3], &[base]));
        for op in 0..14 {
            let change = [base, op, 1, 40 + op, 0, 2, 1, 9, 9, 9];
            all.extend(flagged(&[0, REPAIR], &change));
        }
    }
    all
}

pub(super) fn operations() -> Vec<Vec<u8>> {
    let numbers = |n: u8| (0..120u8).map(move |i| i.wrapping_mul(37).wrapping_add(n * 11));
    (0..12u8)
        .map(|n| [n, n * 5].into_iter().chain(numbers(n)).collect())
        .collect()
}
