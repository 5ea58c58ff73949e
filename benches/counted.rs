//! Each kernel a fixed number of times, on one thread and without a clock: for counting instructions.
//!
//! ```text
//! benches/callgrind.sh          # instructions of each kernel per operation
//! ```
//!
//! The counts of one machine repeat to a fraction of a percent, whatever else it does, so that a
//! change which costs instructions shows. They say nothing about cache misses: `kernels.rs` and
//! `engine.rs` do. Each kernel is a function of its own that is not inlined, and prints its name
//! and how often it runs; the script divides.
#![allow(clippy::unwrap_used)] // A bench that fails has nobody to answer to.

mod common;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use common::{KEYS, Key, Values};
use terrace::internals::MemList;
use terrace::{Compression, Cursor, Db, Durability, Options};
use terrace_base::hash::key_hash;
use terrace_base::{FileNumber, InternalIterator, SeqNo};
use terrace_compaction::{AddedTable, RemovedTable, TableMeta, TableStore, Version, VersionEdit};
use terrace_sstable::Table;
use terrace_wal::Log;

/// Operations of most kernels.
const N: usize = 20_000;

fn count(name: &str, n: usize) {
    println!("kernel {name} {n}");
}

/// `name` keeps the compiler from making one function of several kernels.
#[inline(always)]
fn steps(iter: &mut impl InternalIterator, n: usize, name: &str) {
    black_box(name);
    for _ in 0..n {
        black_box((iter.key().user.bytes.len(), iter.value().len()));
        iter.next().unwrap();
    }
    assert!(iter.valid());
}

/// A tree of many tables without files, and edits that replace one table of it, as a merge does.
#[derive(Debug)]
pub struct Edits {
    version: Version,
    store: Arc<dyn TableStore>,
    tables: u64,
}

#[derive(Debug)]
struct NoFiles;

impl TableStore for NoFiles {
    fn open(&self, _: &TableMeta) -> terrace_base::Result<Table> {
        Err(terrace_base::Error::invalid("there are no files here"))
    }
    fn obsolete(&self, _: FileNumber) {}
}

fn added(number: u64, at: u64) -> AddedTable {
    let text = format!("{number:06}:[key{at:09}a#1-key{at:09}z#2](size=32M)");
    AddedTable {
        level: 6,
        run: 0,
        meta: TableMeta::parse(&text).unwrap(),
    }
}

impl Edits {
    fn new(tables: u64) -> Edits {
        let store: Arc<dyn TableStore> = Arc::new(NoFiles);
        let edit = VersionEdit {
            added: (0..tables).map(|n| added(n + 1, n)).collect(),
            ..VersionEdit::default()
        };
        Edits {
            version: Version::empty().apply(&edit, &store).unwrap(),
            store,
            tables,
        }
    }

    /// `name` keeps the compiler from making one function of several kernels.
    #[inline(always)]
    fn run(&mut self, n: usize, name: &str) {
        black_box(name);
        for i in 0..n as u64 {
            let at = i * 7919 % self.tables;
            let new = added(self.tables + i + 1, at);
            let first = new.meta.info.smallest.as_ref();
            let old = self.version.level(6).runs[0].find(first).unwrap().number();
            let edit = VersionEdit {
                removed: vec![RemovedTable {
                    level: 6,
                    number: old,
                }],
                added: vec![new],
                ..VersionEdit::default()
            };
            self.version = self.version.apply(&edit, &self.store).unwrap();
        }
    }
}

/// What is counted. No closure and no other function may stand here: the script counts from entry
/// to exit of whatever is in this module.
mod kernel {
    use super::*;

    #[inline(never)]
    pub fn list_insert(list: &mut MemList, keys: &[Key], values: &Values) {
        for (i, key) in keys.iter().enumerate() {
            list.insert(key, i as u64 + 1, values.get(i));
        }
    }

    #[inline(never)]
    pub fn list_get_hit(list: &MemList, keys: &[Key]) {
        for key in keys {
            assert!(black_box(list.get(key).unwrap()).is_some());
        }
    }

    #[inline(never)]
    pub fn table_get_hit(table: &Table, keys: &[Key]) {
        for key in keys {
            let user = common::user(key);
            assert!(
                table
                    .get(&user, key_hash(user), SeqNo::MAX)
                    .unwrap()
                    .is_some()
            );
        }
    }

    #[inline(never)]
    pub fn table_get_miss(table: &Table, keys: &[Key]) {
        for key in keys {
            let user = common::user(key);
            assert!(
                table
                    .get(&user, key_hash(user), SeqNo::MAX)
                    .unwrap()
                    .is_none()
            );
        }
    }

    #[inline(never)]
    pub fn table_seek(iter: &mut impl InternalIterator, keys: &[Key]) {
        for key in keys {
            iter.seek(common::lookup(key)).unwrap();
            black_box(iter.value().len());
        }
    }

    #[inline(never)]
    pub fn table_next(iter: &mut impl InternalIterator, n: usize) {
        super::steps(iter, n, "table_next");
    }

    #[inline(never)]
    pub fn lz4_next(iter: &mut impl InternalIterator, n: usize) {
        super::steps(iter, n, "lz4_next");
    }

    #[inline(never)]
    pub fn merge4_next(iter: &mut impl InternalIterator, n: usize) {
        super::steps(iter, n, "merge4_next");
    }

    #[inline(never)]
    pub fn merge4_prefix(iter: &mut impl InternalIterator, n: usize) {
        super::steps(iter, n, "merge4_prefix");
    }

    #[inline(never)]
    pub fn merge16_next(iter: &mut impl InternalIterator, n: usize) {
        super::steps(iter, n, "merge16_next");
    }

    #[inline(never)]
    pub fn table_write(keys: &[Key], values: &Values) -> Vec<u8> {
        common::write_table(keys, values, Compression::None)
    }

    #[inline(never)]
    pub fn log_append(log: &mut Log, payload: &[u8], n: usize) {
        for seq in 1..=n as u64 {
            log.append(1, SeqNo::new(seq), &[payload]).unwrap();
        }
    }

    #[inline(never)]
    pub fn edit_256_tables(edits: &mut Edits, n: usize) {
        edits.run(n, "edit_256_tables");
    }

    #[inline(never)]
    pub fn edit_10k_tables(edits: &mut Edits, n: usize) {
        edits.run(n, "edit_10k_tables");
    }

    #[inline(never)]
    pub fn db_put(db: &Db, keys: &[Key], values: &Values) {
        for (i, key) in keys.iter().enumerate() {
            db.put(key, values.get(i)).unwrap();
        }
    }

    #[inline(never)]
    pub fn db_flush(db: &Db) {
        db.flush().unwrap();
    }

    #[inline(never)]
    pub fn db_merge(db: &Db) {
        db.compact_all().unwrap();
    }

    #[inline(never)]
    pub fn db_get_hit(db: &Db, keys: &[Key]) {
        for key in keys {
            assert!(db.get_with(key, <[u8]>::len).unwrap().is_some());
        }
    }

    #[inline(never)]
    pub fn db_get_miss(db: &Db, keys: &[Key]) {
        for key in keys {
            assert!(db.get_with(key, <[u8]>::len).unwrap().is_none());
        }
    }

    #[inline(never)]
    pub fn db_seek(db: &Db, keys: &[Key]) {
        for key in keys {
            assert!(db.cursor().seek(key).unwrap());
        }
    }

    #[inline(never)]
    pub fn cursor_seek(cursor: &mut Cursor, keys: &[Key]) {
        for key in keys {
            assert!(cursor.seek(key).unwrap());
        }
    }

    #[inline(never)]
    pub fn cursor_next(cursor: &mut Cursor, n: usize) {
        for _ in 0..n {
            black_box((cursor.key().len(), cursor.value().unwrap().len()));
            cursor.next().unwrap();
        }
        assert!(cursor.valid());
    }

    #[inline(never)]
    pub fn cursor_prev(cursor: &mut Cursor, n: usize) {
        for _ in 0..n {
            black_box((cursor.key().len(), cursor.value().unwrap().len()));
            cursor.prev().unwrap();
        }
        assert!(cursor.valid());
    }
}

use kernel::*;

fn kernels(keys: &[Key], probes: &[Key], absent: &[Key], values: &Values, dir: &Path) {
    let few = &keys[..16 << 10];
    let mut list = MemList::default();
    list_insert(&mut list, few, values);
    count("list_insert", few.len());
    list_get_hit(&list, few);
    count("list_get_hit", few.len());

    let sorted = common::sorted(keys.to_vec());
    let table = common::image(table_write(&sorted, values));
    count("table_write", sorted.len());
    table.verify().unwrap();
    table_get_hit(&table, probes);
    count("table_get_hit", probes.len());
    table_get_miss(&table, absent);
    count("table_get_miss", absent.len());
    let mut iter = table.iter();
    table_seek(&mut iter, probes);
    count("table_seek", probes.len());
    iter.first().unwrap();
    table_next(&mut iter, N);
    count("table_next", N);
    let packed = common::image(common::write_table(
        &sorted[..2 * N],
        values,
        Compression::Lz4,
    ));
    let mut iter = packed.iter();
    iter.first().unwrap();
    lz4_next(&mut iter, N);
    count("lz4_next", N);

    let mut merged = common::merged(&sorted[..2 * N], values, 4);
    merged.first().unwrap();
    merge4_next(&mut merged, N);
    count("merge4_next", N);
    let longer = common::prefixed(&sorted[..2 * N]);
    let mut merged = common::merged(&longer, values, 4);
    merged.first().unwrap();
    merge4_prefix(&mut merged, N);
    count("merge4_prefix", N);
    let mut merged = common::merged(&sorted[..2 * N], values, 16);
    merged.first().unwrap();
    merge16_next(&mut merged, N);
    count("merge16_next", N);

    edit_256_tables(&mut Edits::new(256), 500);
    count("edit_256_tables", 500);
    edit_10k_tables(&mut Edits::new(10_000), 500);
    count("edit_10k_tables", 500);

    let mut log = common::log(dir, 8 << 20);
    log_append(&mut log, &[0x5A; 130], N);
    count("log_append", N);
}

/// Four flushed runs that are then merged, with no thread but this one.
fn engine(keys: &[Key], probes: &[Key], absent: &[Key], values: &Values, dir: &Path) {
    let options = Options::new()
        .durability(Durability::Buffered)
        .compression(Compression::None);
    let options = options.tune(|tuning| {
        tuning.manual = true;
        tuning.segment_bytes = (64 << 20, Some(64 << 20));
    });
    let db = options.open(dir).unwrap();
    db.put("first", "the log has its segment").unwrap();
    for part in keys.chunks(keys.len() / 4) {
        db_put(&db, part, values);
        db_flush(&db);
    }
    count("db_put", keys.len());
    count("db_flush", keys.len());
    db_merge(&db);
    count("db_merge", keys.len());
    // Every block verifies once per open: not what is counted.
    assert_eq!(db.iter().count(), keys.len() + 1);
    db_get_hit(&db, probes);
    count("db_get_hit", probes.len());
    db_get_miss(&db, absent);
    count("db_get_miss", absent.len());
    db_seek(&db, probes);
    count("db_seek", probes.len());
    let mut cursor = db.cursor();
    cursor_seek(&mut cursor, probes);
    count("cursor_seek", probes.len());
    assert!(cursor.first().unwrap());
    cursor_next(&mut cursor, N);
    count("cursor_next", N);
    assert!(cursor.last().unwrap());
    cursor_prev(&mut cursor, N);
    count("cursor_prev", N);
    db.close().unwrap();
}

fn main() {
    let values = Values::new();
    let keys = common::random_keys(KEYS);
    let probes = &common::shuffled(&keys)[..N];
    let absent = common::absent_keys(N);
    let dir = tempfile::tempdir().unwrap();
    kernels(&keys, probes, &absent, &values, dir.path());
    engine(&keys, probes, &absent, &values, &dir.path().join("db"));
}
