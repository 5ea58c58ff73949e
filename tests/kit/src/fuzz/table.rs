//! A table as a whole: whatever it says of itself, every way of reading it agrees or names the damage.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use terrace::Bytes;
use terrace_base::hash::key_hash;
use terrace_base::key::{KeyRef, KeyspaceId, OwnedKey, SeqNo, UserKey, ValueKind};
use terrace_base::{InternalIterator, Result};
use terrace_sstable::{BlockCache, Compression, Table, TableIter, TableWriter, WriterOptions};

use super::log::typed;
use super::repair::{self, u32_at, u64_at};
use super::{Outcome, REPAIR, expect};

/// So many entries are looked for.
const MOST: usize = 64;
const POINT_INDEX: u32 = 2;

/// Entries in order.
pub(super) type Entries = Vec<(OwnedKey, Vec<u8>)>;

/// A valid table.
pub(super) struct Sample {
    pub bytes: Vec<u8>,
    pub entries: Entries,
    /// Where its point index lies.
    pub index: Range<usize>,
}

/// The table of `count` keys of two keyspaces, some with older versions, some deleted.
pub(super) fn make(count: u64, compression: Compression, value_len: usize) -> Sample {
    let mut entries = Entries::new();
    for n in 0..count {
        let keyspace = KeyspaceId(u32::from(n >= count * 3 / 4));
        let bytes = format!("key {n:03}");
        let user = UserKey::new(keyspace, bytes.as_bytes());
        for version in (0..=(n % 5) / 3).rev() {
            let kind = match n % 7 {
                5 => ValueKind::Tombstone,
                _ => ValueKind::Put,
            };
            let key = KeyRef::new(user, SeqNo::new(n * 3 + version + 1), kind);
            let value = match kind {
                ValueKind::Tombstone => Vec::new(),
                _ => vec![b'v'; value_len + n as usize % 5],
            };
            entries.push((key.to_owned(), value));
        }
    }
    let mut options = WriterOptions::new(0x1234_5678_9abc_def0, 42);
    (options.compression, options.block_size) = (compression, 512);
    let bytes = write(&entries, options).unwrap_or_default();
    Sample {
        index: index_of(&bytes).unwrap_or(0..0),
        bytes,
        entries,
    }
}

fn write(entries: &Entries, options: WriterOptions) -> Result<Vec<u8>> {
    let mut writer = TableWriter::new(Vec::new(), options);
    for (key, value) in entries {
        writer.add(key.as_ref(), value)?;
    }
    Ok(writer.finish()?.1)
}

/// Where the point index of a valid table lies, its header aside.
fn index_of(bytes: &[u8]) -> Option<Range<usize>> {
    let tail = bytes.len().checked_sub(36)?;
    let count = u32_at(bytes, tail + 16)? as usize;
    let entries = (tail - count * 28..tail).step_by(28);
    let at = entries
        .into_iter()
        .find(|at| u32_at(bytes, *at) == Some(POINT_INDEX))?;
    let (offset, len) = (u64_at(bytes, at + 8)?, u64_at(bytes, at + 16)?);
    Some(offset as usize..(offset + len) as usize)
}

/// The table that point indexes are tried on.
pub(super) fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| make(60, Compression::None, 9))
}

fn open(bytes: Vec<u8>) -> Result<Arc<Table>> {
    let tail = bytes.len().saturating_sub(36);
    let id = u64_at(&bytes, tail).unwrap_or(0);
    let cache = BlockCache::new(64 << 10);
    Table::open_image(Bytes::from(bytes), id, &cache).map(Arc::new)
}

/// Opens a table whose blocks hold `entries`; whatever its index says, an answer is one of them.
pub(super) fn check_answers(bytes: Vec<u8>, entries: &Entries) -> Outcome {
    let table = match open(bytes) {
        Ok(table) => table,
        Err(error) => return typed(&error),
    };
    let verified = table.verify();
    for (i, (key, _)) in entries.iter().enumerate() {
        let user = key.user.as_ref();
        let newest = i
            .checked_sub(1)
            .and_then(|i| entries.get(i))
            .is_none_or(|(before, _)| before.user != key.user);
        let elsewhere = UserKey::new(KeyspaceId(user.keyspace.0 ^ 1), user.bytes);
        for (user, at) in [(user, key.seq), (user, SeqNo::MAX), (elsewhere, SeqNo::MAX)] {
            let found = match table.get(&user, key_hash(user), at) {
                Ok(found) => found,
                Err(error) => {
                    typed(&error)?;
                    continue;
                }
            };
            let Some(found) = found else {
                let right = verified.is_err() || user == elsewhere;
                expect(right, || format!("a table that verifies lacks {user:?}"))?;
                continue;
            };
            let is_there = entries.iter().any(|(key, value)| {
                key.user.as_ref() == user
                    && (key.seq, key.kind) == (found.seq, found.kind)
                    && value.as_slice() == &found.value[..]
            });
            expect(is_there && found.seq <= at, || {
                format!("{user:?} at {at} is answered with {found:?}")
            })?;
            let newer = newest && user != elsewhere && found.seq != key.seq;
            expect(verified.is_err() || !newer, || {
                format!("a table that verifies answers {user:?} with an older version: {found:?}")
            })?;
        }
    }
    Ok(())
}

/// `flags | table`
pub(super) fn table(data: &[u8]) -> Outcome {
    let flags = data.first().copied().unwrap_or(0);
    let mut bytes = data.get(1..).unwrap_or_default().to_vec();
    if flags & REPAIR != 0 {
        repair::table(&mut bytes);
    }
    let table = match open(bytes) {
        Ok(table) => table,
        Err(error) => return typed(&error),
    };
    let verified = table.verify();
    if let Err(error) = &verified {
        typed(error)?;
    }
    let mut entries = Entries::new();
    let read = walk(&table, &mut entries);
    match read {
        Ok(whole) => expect(whole || verified.is_err(), || {
            "the ways through a table that verifies differ".into()
        })?,
        Err(error) => typed(&error)?,
    }
    if verified.is_ok() {
        let rising = entries.windows(2).all(|pair| match pair {
            [a, b] => a.0.as_ref() < b.0.as_ref(),
            _ => true,
        });
        let info = table.info();
        expect(rising && entries.len() as u64 == info.entries, || {
            format!("{} entries of {info:?} that do not rise", entries.len())
        })?;
        gets(&table, &entries)?;
    }
    seeks(&table, &entries, verified.is_ok())
}

fn entry(iter: &TableIter) -> Option<(OwnedKey, Vec<u8>)> {
    iter.valid()
        .then(|| (iter.key().to_owned(), iter.value().to_vec()))
}

/// Takes in all entries; true if all ways give the same.
fn walk(table: &Arc<Table>, entries: &mut Entries) -> Result<bool> {
    let mut iter = table.iter();
    iter.first()?;
    while let Some(entry) = entry(&iter) {
        entries.push(entry);
        iter.next()?;
    }
    let mut scan = table.scan();
    scan.first()?;
    let mut same = true;
    for wanted in entries.iter() {
        same &= entry(&scan).as_ref() == Some(wanted);
        scan.next()?;
    }
    same &= !scan.valid();
    iter.last()?;
    for wanted in entries.iter().rev() {
        same &= entry(&iter).as_ref() == Some(wanted);
        iter.prev()?;
    }
    Ok(same && !iter.valid())
}

/// Each newest version is found.
fn gets(table: &Table, entries: &Entries) -> Outcome {
    let mut before = None;
    for (key, value) in entries {
        let user = key.user.as_ref();
        if before.replace(user) == Some(user) {
            continue;
        }
        let found = table
            .get(&user, key_hash(user), SeqNo::MAX)
            .map_err(|error| error.to_string())?;
        let right = found.as_ref().is_some_and(|found| {
            (found.seq, found.kind) == (key.seq, key.kind) && &found.value[..] == value.as_slice()
        });
        expect(right && table.may_contain(user, key_hash(user)), || {
            format!("{user:?} is {found:?} instead of {value:?}")
        })?;
    }
    Ok(())
}

/// Seeks in both directions; in a table that verifies they lead where they must.
fn seeks(table: &Arc<Table>, entries: &Entries, verified: bool) -> Outcome {
    let step = entries.len() / MOST + 1;
    let mut iter = table.iter();
    for (i, (key, _)) in entries.iter().enumerate().step_by(step) {
        let mut longer = key.user.bytes.to_vec();
        longer.push(0);
        let longer = UserKey::new(key.user.keyspace, &longer);
        for target in [key.as_ref(), KeyRef::lookup(longer, SeqNo::MAX)] {
            let at = entries.partition_point(|(key, _)| {
                let (a, b) = (key.as_ref(), target);
                a.user < b.user || (a.user == b.user && a.seq > b.seq)
            });
            let exact = target == key.as_ref();
            let moved = both_ways(&mut iter, target);
            let (forward, before, backward) = match moved {
                Ok(found) => found,
                Err(error) => {
                    typed(&error)?;
                    continue;
                }
            };
            if !verified {
                continue;
            }
            let last = i.checked_sub(1).and_then(|i| entries.get(i));
            let right = forward.as_ref() == entries.get(at)
                && (!exact || (before.as_ref() == last && backward.as_ref() == entries.get(i)));
            expect(right, || {
                format!("{target:?} leads to {forward:?}, {before:?} and {backward:?}")
            })?;
        }
    }
    Ok(())
}

type Step = Option<(OwnedKey, Vec<u8>)>;

/// Where `seek` leads, what is before that, and where `seek_for_prev` leads.
fn both_ways(iter: &mut TableIter, target: KeyRef<'_>) -> Result<(Step, Step, Step)> {
    iter.seek(target)?;
    let forward = entry(iter);
    iter.prev()?;
    let before = entry(iter);
    iter.seek_for_prev(target)?;
    Ok((forward, before, entry(iter)))
}
