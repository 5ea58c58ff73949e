//! Damaged tables in a running database: only the reads that touch the damage fail, merges go on around it, and
//! `health` names it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use terrace::vfs::{MemVfs, Vfs};
use terrace::{Compression, Db, ErrorKind, IoMode, Options};

const DIR: &str = "/db";

fn options(vfs: &Arc<MemVfs>, manual: bool) -> Options {
    let shared: Arc<dyn Vfs> = vfs.clone();
    Options::new()
        .memory(4 << 20)
        .compression(Compression::None)
        .io(IoMode::Pread)
        .tune(|tuning| {
            tuning.manual = manual;
            tuning.table_bytes = 32 << 10;
        })
        .vfs(shared)
}

fn key(n: u32) -> String {
    format!("key{n:05}")
}

/// A database with several tables in the last level, closed; one block of the middle table is
/// damaged. Returns the table's path and a key in the block.
fn damaged() -> (Arc<MemVfs>, PathBuf, u32) {
    let vfs = MemVfs::new(5);
    let db = options(&vfs, true).open(DIR).unwrap();
    for n in 0..1000 {
        db.put(key(n), [n as u8; 150]).unwrap();
    }
    db.compact_all().unwrap();
    assert!(db.stats().levels[6].tables >= 4);
    db.close().unwrap();
    let tables = vfs.files().into_iter().map(|(path, _)| path);
    let tables: Vec<PathBuf> = tables
        .filter(|path| path.to_string_lossy().ends_with(".sst"))
        .collect();
    let path = tables[tables.len() / 2].clone();
    let mut bytes = vfs.read_file(&path).unwrap();
    bytes[10_000] ^= 16;
    vfs.write_file(&path, &bytes);
    let db = options(&vfs, true).open(DIR).unwrap();
    let lost: Vec<u32> = (0..1000).filter(|n| db.get(key(*n)).is_err()).collect();
    (vfs, path, lost[lost.len() / 2])
}

/// How many keys can be read; each of the others names the damage.
fn readable(db: &Db, damaged: &Path) -> u32 {
    let mut count = 0;
    for n in 0..1000 {
        match db.get(key(n)) {
            Ok(value) => {
                assert_eq!(value.as_deref(), Some(&[n as u8; 150][..]), "{n}");
                count += 1;
            }
            Err(error) => names(&error, damaged),
        }
    }
    count
}

fn names(error: &terrace::Error, damaged: &Path) {
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    assert_eq!(error.file().map(|(path, _)| path), Some(damaged), "{error}");
}

#[test]
fn a_damaged_block_fails_only_the_reads_that_touch_it() {
    let (vfs, path, _) = damaged();
    let db = options(&vfs, true).open(DIR).unwrap();
    db.health().unwrap();
    let count = readable(&db, &path);
    assert!(
        (940..1000).contains(&count),
        "{count} of 1000 keys can be read"
    );
    names(&db.health().unwrap_err(), &path);
    assert_eq!(db.iter().filter(Result::is_err).count(), 1);
    // The front and the back of it, up to the damage.
    assert!(db.iter().take_while(Result::is_ok).count() > 300);
    assert!(db.iter().rev().take_while(Result::is_ok).count() > 300);
}

#[test]
fn a_merge_that_meets_damage_fails_once_and_others_go_on() {
    let (vfs, path, lost) = damaged();
    let db = options(&vfs, true).open(DIR).unwrap();
    let value = [7; 150];
    db.put(key(lost), value).unwrap();
    db.flush().unwrap();
    names(&db.wait_idle().unwrap_err(), &path);
    names(&db.health().unwrap_err(), &path);
    db.wait_idle().unwrap();
    names(&db.health().unwrap_err(), &path);
    assert_eq!(
        db.stats().levels[0].runs,
        1,
        "what lies above the damage stays there"
    );
    assert_eq!(db.get(key(lost)).unwrap().as_deref(), Some(&value[..]));
    db.compact_all().unwrap();
    db.close().unwrap();
    assert!(
        vfs.read_file(&path).is_some(),
        "a damaged table is not removed"
    );
}

#[test]
fn merges_elsewhere_go_on_beside_a_damaged_table() {
    let (vfs, path, _) = damaged();
    let db = options(&vfs, true).open(DIR).unwrap();
    readable(&db, &path);
    for range in [0..100, 900..1000] {
        for n in range {
            db.put(key(n), [n as u8; 150]).unwrap();
        }
        db.flush().unwrap();
    }
    db.wait_idle().unwrap();
    assert!(db.stats().levels[0].runs == 0 && db.stats().bytes_compacted > 0);
    db.compact_all().unwrap();
    names(&db.health().unwrap_err(), &path);
    assert!(readable(&db, &path) >= 940);
}

#[test]
fn threads_do_not_try_a_damaged_table_again_and_again() {
    let (vfs, path, lost) = damaged();
    let db = options(&vfs, false).open(DIR).unwrap();
    db.put(key(lost), "new").unwrap();
    db.flush().unwrap();
    // The job fails once; whoever waits before the thread has looked again is told.
    let mut told = 0;
    while let Err(error) = db.wait_idle() {
        names(&error, &path);
        told += 1;
        assert!(told < 1000, "it is tried again and again");
        std::thread::sleep(Duration::from_millis(10));
    }
    let settled = db.stats().bytes_compacted;
    db.wait_idle().unwrap();
    assert_eq!(db.stats().bytes_compacted, settled);
    names(&db.health().unwrap_err(), &path);
    db.put(key(2000), "works").unwrap();
    assert_eq!(db.get(key(2000)).unwrap().unwrap(), "works");
    db.close().unwrap();
}
