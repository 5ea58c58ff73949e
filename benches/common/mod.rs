//! What the benches share: keys and values made ahead, and the tables, logs and databases that they go into.
//!
//! Keys have 16 bytes and values 100, of which half can be compressed. Random keys are spread over
//! the whole range and unlike each other in the first bytes; an absent key lies between two present
//! ones.

// Each bench uses some of it.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use terrace::clock::{Clock, SystemClock};
use terrace::vfs::{Fs, OpenMode, OsVfs};
use terrace::{Compression, Db, Durability, IoMode, Options};
use terrace_base::hash::seeded;
use terrace_base::{FileNumber, KeyRef, KeyspaceId, MergingIterator, SeqNo, UserKey, ValueKind};
use terrace_sstable::{BlockCache, FileSink, Table, TableIter, TableWriter, WriterOptions};
use terrace_wal::{Log, Lsn, SegmentMeta, Start, create_segment};

pub type Key = [u8; 16];

/// Keys of the kernels' tables, and by default of the engine's databases.
pub const KEYS: usize = 200_000;

/// Keys of the engine's databases.
pub fn keys_from_env() -> usize {
    let given = std::env::var("TERRACE_BENCH_KEYS").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(KEYS)
}

fn key(head: u64, i: u64) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&head.to_be_bytes());
    key[8..].copy_from_slice(&i.to_be_bytes());
    key
}

/// `n` keys in no order.
pub fn random_keys(n: usize) -> Vec<Key> {
    (0..n as u64).map(|i| key(seeded(i, 7), i)).collect()
}

/// `n` keys that are none of [`random_keys`], spread like them.
pub fn absent_keys(n: usize) -> Vec<Key> {
    (0..n as u64)
        .map(|i| key(seeded(i, 7), i | 1 << 60))
        .collect()
}

/// `n` keys in order.
pub fn rising_keys(n: usize) -> Vec<Key> {
    (0..n as u64).map(|i| key(i, 0)).collect()
}

pub fn sorted(mut keys: Vec<Key>) -> Vec<Key> {
    keys.sort_unstable();
    keys
}

/// The same keys in another order.
pub fn shuffled(keys: &[Key]) -> Vec<Key> {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by_key(|&i| seeded(i as u64, 99));
    order.into_iter().map(|i| keys[i]).collect()
}

/// Values to take slices of.
pub struct Values(Vec<u8>);

impl Values {
    pub fn new() -> Values {
        let unit = |i: u64| [seeded(i, 1).to_le_bytes(), [i as u8; 8]].concat();
        Values((0..1 << 14).flat_map(unit).collect())
    }

    #[inline]
    pub fn get(&self, i: usize) -> &[u8] {
        let at = (i * 16) % (self.0.len() - 100);
        &self.0[at..at + 100]
    }
}

pub fn user<K: AsRef<[u8]>>(key: &K) -> UserKey<'_> {
    UserKey::new(KeyspaceId(0), key.as_ref())
}

/// The same keys after 16 bytes that are always the same.
pub fn prefixed(keys: &[Key]) -> Vec<[u8; 32]> {
    let longer = |key: &Key| {
        let mut longer = *b"sixteen bytes of................";
        longer[16..].copy_from_slice(key);
        longer
    };
    keys.iter().map(longer).collect()
}

pub fn lookup(key: &Key) -> KeyRef<'_> {
    KeyRef::lookup(user(key), SeqNo::MAX)
}

/// A table image of `keys`, which are sorted.
pub fn write_table<'a, K: AsRef<[u8]> + 'a>(
    keys: impl IntoIterator<Item = &'a K>,
    values: &Values,
    compression: Compression,
) -> Vec<u8> {
    let options = WriterOptions {
        compression,
        ..WriterOptions::new(1, 7)
    };
    let mut writer = TableWriter::new(Vec::new(), options);
    for (i, key) in keys.into_iter().enumerate() {
        let key = KeyRef::new(user(key), SeqNo::new(i as u64 + 1), ValueKind::Put);
        writer.add(key, values.get(i)).unwrap();
    }
    writer.finish().unwrap().1
}

/// A table in memory. Compressed blocks are decoded each time: the cache has no room.
pub fn image(bytes: Vec<u8>) -> Arc<Table> {
    Arc::new(Table::open_image(Bytes::from(bytes), 1, &BlockCache::new(0)).unwrap())
}

/// The same table in a file of `dir`, mapped.
pub fn mapped(bytes: &[u8], dir: &Path) -> Arc<Table> {
    use terrace_sstable::Sink;
    let file = Fs::new(Arc::new(OsVfs))
        .open(&dir.join("1.sst"), OpenMode::CreateNew)
        .unwrap();
    let mut sink = FileSink::new(file.clone());
    sink.write(bytes).unwrap();
    sink.finish().unwrap();
    let cache = BlockCache::new(0);
    Arc::new(Table::open(file, 1, bytes.len() as u64, IoMode::Mmap, &cache).unwrap())
}

/// `keys`, which are sorted, dealt out to `ways` tables at random and merged again.
pub fn merged<K: AsRef<[u8]>>(
    keys: &[K],
    values: &Values,
    ways: u64,
) -> MergingIterator<TableIter> {
    let part = |way: u64| {
        let mine = keys
            .iter()
            .enumerate()
            .filter(move |(i, _)| seeded(*i as u64, 3) % ways == way);
        let table = image(write_table(
            mine.map(|(_, key)| key),
            values,
            Compression::None,
        ));
        table.verify().unwrap(); // Each block is checked once: not what is measured.
        table.iter()
    };
    MergingIterator::new((0..ways).map(part).collect())
}

/// A log in `dir` with one segment of `size` bytes.
pub fn log(dir: &Path, size: u64) -> Log {
    let fs = Fs::new(Arc::new(OsVfs));
    create_segment(&fs, dir, FileNumber(1), size).unwrap();
    let start = Start {
        next: Lsn(0),
        last_seq: SeqNo::ZERO,
        predecessor: None,
        sealed: Vec::new(),
    };
    let mut log = Log::new(fs, dir.into(), start);
    log.put_spare(
        SegmentMeta {
            number: FileNumber(1),
            salt: 42,
            size,
        },
        1,
    )
    .unwrap();
    log
}

/// A database in `dir` without compression.
pub fn open(dir: &Path, durability: Durability) -> Db {
    Options::new()
        .durability(durability)
        .compression(Compression::None)
        .open(dir)
        .unwrap()
}

/// A database in `dir` that holds `keys` and has nothing left to do.
pub fn settled(dir: &Path, keys: &[Key], values: &Values) -> Db {
    let db = open(dir, Durability::Buffered);
    for (i, key) in keys.iter().enumerate() {
        db.put(key, values.get(i)).unwrap();
    }
    db.compact_all().unwrap();
    db
}

/// How long `run` takes.
pub fn time(run: impl FnOnce()) -> std::time::Duration {
    let clock = SystemClock::default();
    let start = clock.monotonic();
    run();
    clock.monotonic() - start
}
