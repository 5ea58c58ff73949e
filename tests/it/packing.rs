//! Compression over the life of a database: each kind is read whatever the database was opened with, and written anew
//! by `compact_all`; what this build has no feature for is refused before a file is touched.

use std::path::Path;

use terrace::vfs::MemVfs;
use terrace::{Compression, Db, Durability, ErrorKind, IoMode, KeyspaceOptions, Options};

const KEYS: u32 = 3000;

fn value(i: u32, round: u32) -> String {
    format!("value {i} of round {round}, and the same words again, again, again")
}

fn open(dir: &Path, compression: Compression, io: IoMode) -> Db {
    let options = Options::new().durability(Durability::Buffered);
    options.io(io).compression(compression).open(dir).unwrap()
}

fn write(db: &Db, round: u32) {
    for i in (0..KEYS).filter(|i| i % 7 == round % 7 || round == 0) {
        db.put(i.to_be_bytes(), value(i, round)).unwrap();
    }
}

/// The newest round up to `round` that wrote key `i`.
fn check(db: &Db, round: u32) {
    let newest = |i| (0..=round).rev().find(|r| i % 7 == r % 7).unwrap_or(0);
    assert_eq!(db.iter().count(), KEYS as usize);
    for (i, entry) in (0..KEYS).zip(db.iter()) {
        let (key, found) = entry.unwrap();
        assert_eq!(key, i.to_be_bytes()[..]);
        assert_eq!(found, value(i, newest(i)), "{i} after round {round}");
        assert_eq!(db.get(key).unwrap(), Some(found));
    }
}

/// The kinds of the first blocks of all tables: 0 raw, 1 LZ4, 2 zstd.
fn kinds(dir: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let tables = files.filter(|path| path.extension().is_some_and(|e| e == "sst"));
    tables
        .map(|path| std::fs::read(path).unwrap()[12])
        .collect()
}

#[test]
fn a_database_changes_its_compression_when_it_is_opened_again() {
    use Compression::{Lz4, None, Zstd};
    let dir = tempfile::tempdir().unwrap();
    let mut sizes = std::collections::HashMap::new();
    // Without its feature zstd is left out: the first round there is writes every key.
    let known = [Zstd, None, Lz4, Zstd, Lz4, None, Zstd].into_iter();
    let known = known.filter(|compression| compression.check().is_ok());
    for (round, compression) in (0..).zip(known) {
        let io = [IoMode::Mmap, IoMode::Pread][round as usize % 2];
        let db = open(dir.path(), compression, io);
        if !kinds(dir.path()).is_empty() {
            check(&db, round - 1);
        }
        write(&db, round);
        check(&db, round);
        db.compact_all().unwrap();
        check(&db, round);
        db.wait_idle().unwrap();
        assert_eq!(kinds(dir.path()), [compression as u8], "{compression:?}");
        sizes.insert(compression, db.stats().table_bytes);
        db.close().unwrap();
    }
    assert!(sizes[&Lz4] < sizes[&None], "{sizes:?}");
    let zstd = sizes.get(&Zstd);
    assert!(zstd.is_none_or(|size| *size < sizes[&Lz4]), "{sizes:?}");
}

#[test]
fn what_this_build_has_no_feature_for_is_refused_and_nothing_is_touched() {
    let vfs = MemVfs::new(1);
    let options = Options::new()
        .vfs(vfs.clone())
        .compression(Compression::Zstd);
    let opened = options.open("/db");
    assert_eq!(opened.is_ok(), cfg!(feature = "zstd"));
    let Err(error) = opened else { return };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.to_string().contains("enable the feature `zstd`"),
        "{error}"
    );
    assert_eq!(vfs.mutations(), 0);
    let in_memory = Options::new()
        .compression(Compression::Zstd)
        .open_in_memory();
    assert_eq!(in_memory.unwrap_err().kind(), ErrorKind::Unsupported);
}

/// So many blocks a point index can name.
const MOST_BLOCKS: u64 = 8192;

/// Tables are cut by their size on disk. However well their blocks pack, and however small they
/// are, each ends before it has more blocks than its index can name.
#[test]
fn tables_that_pack_well_end_before_their_index_is_full() {
    let (keys, block) = (40_000u64, 512u64);
    let options = Options::new().durability(Durability::Buffered);
    let db = options
        .tune(|tuning| tuning.manual = true)
        .open_in_memory()
        .unwrap();
    db.set_options(KeyspaceOptions::new().block_size(Some(block)))
        .unwrap();
    let value = [b'v'; 190]; // Two entries fill a block.
    for n in 0..keys {
        db.put((2 * n).to_be_bytes(), value).unwrap();
    }
    db.compact_all().unwrap();
    let stats = db.stats();
    let last = stats.levels.last().unwrap();
    let blocks = keys / 2;
    assert!(
        last.bytes < blocks * block / 2,
        "they do not pack: {stats:?}"
    );
    let tables = last.tables as u64;
    assert!(
        tables > blocks / MOST_BLOCKS,
        "{tables} tables of {blocks} blocks"
    );
    assert!(
        tables <= blocks / MOST_BLOCKS + 2,
        "{tables} tables of {blocks} blocks"
    );
    for n in (0..2 * keys).step_by(101) {
        let found = db.get(n.to_be_bytes()).unwrap();
        assert_eq!(found.is_some(), n % 2 == 0, "{n}");
    }
    assert_eq!(db.count(..).unwrap(), keys);
}
