//! The log and the files around it: bounded by the data, however long a database is used

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Batch, Db, Durability, KeyspaceOptions, Options};

fn buffered(vfs: &Arc<MemVfs>) -> Options {
    Options::new()
        .vfs(vfs.clone())
        .durability(Durability::Buffered)
}

/// A hundred keys, each with a new value of 1,000 bytes.
fn overwrite(db: &Db, round: u32) {
    let mut batch = Batch::new();
    for key in 0..100u32 {
        batch.put(key.to_be_bytes(), [round as u8; 1000]);
    }
    db.write(batch).unwrap();
}

fn soon(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(40), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn overwriting_the_same_keys_does_not_make_the_log_long() {
    let memory = 64 << 20;
    let db = buffered(&MemVfs::new(1))
        .memory(memory)
        .open("/db")
        .unwrap();
    let mut longest = 0;
    for round in 0..1200 {
        overwrite(&db, round);
        longest = longest.max(db.stats().log_bytes);
    }
    // Twice a memtable, what is written during a flush, the segment in use and the spare one, and a
    // list.
    let budget = memory / 4;
    let bound = 2 * budget / 3 + budget + 2 * (8 << 20) + (2 << 20);
    assert!(longest <= bound, "{longest} bytes of log");
    assert_eq!(db.iter().count(), 100);
}

#[test]
fn changes_of_the_catalogue_alone_do_not_make_the_log_long() {
    let options = buffered(&MemVfs::new(1)).tune(|tuning| {
        tuning.log_bytes = Some(64 << 10);
        tuning.segment_bytes = (16 << 10, Some(16 << 10));
    });
    let db = options.open("/db").unwrap();
    let users = db.keyspace("users").unwrap();
    for round in 0..8000u64 {
        let expiry = Some(Duration::from_secs(1000 + round));
        users
            .set_options(KeyspaceOptions::new().expiry(expiry))
            .unwrap();
    }
    soon("the log is short", || db.stats().log_bytes <= 160 << 10);
    db.close().unwrap();
    let db = options.open("/db").unwrap();
    let expiry = db.keyspace("users").unwrap().options();
    let last = Some(Duration::from_secs(8999));
    assert_eq!(expiry, KeyspaceOptions::new().expiry(last));
}

#[test]
fn a_closed_database_keeps_no_long_log_though_little_of_it_counts() {
    let options = buffered(&MemVfs::new(1));
    let db = options.open("/db").unwrap();
    for round in 0..40 {
        overwrite(&db, round);
    }
    // Images drop what was overwritten.
    soon("an image", || db.stats().memtable_bytes < 500_000);
    db.close().unwrap();
    let db = options.open("/db").unwrap();
    assert_eq!(db.stats().memtable_entries, 0, "read from the log");
    assert_eq!(db.iter().count(), 100);
}

/// How many files the database has, and how many bytes.
fn files(vfs: &MemVfs) -> (usize, u64) {
    let dir = Path::new("/db");
    let names = vfs.read_dir(dir).unwrap();
    let len = |name: &OsString| vfs.metadata(&dir.join(name)).unwrap().len;
    (names.len(), names.iter().map(len).sum())
}

fn put_one(db: &Db, n: u64) {
    db.put(n.to_be_bytes(), [n as u8; 100]).unwrap();
}

#[test]
fn short_lives_leave_no_more_files_than_their_data_need() {
    for manual in [true, false] {
        let vfs = MemVfs::new(1);
        let options = Options::new()
            .vfs(vfs.clone())
            .tune(|tuning| tuning.manual = manual);
        for n in 0..400 {
            let db = options.open("/db").unwrap();
            put_one(&db, n);
            drop(db);
            let (files, bytes) = files(&vfs);
            assert!(files <= 48, "{files} files after {n} lives");
            assert!(bytes <= 4 << 20, "{bytes} bytes after {n} lives");
        }
        let db = options.open("/db").unwrap();
        assert_eq!(db.iter().count(), 400);
        assert!(db.stats().levels[0].runs <= 8);
    }
}

#[test]
fn lives_that_end_by_kills_leave_few_tables() {
    let mut vfs = MemVfs::crashable(1);
    for n in 0..200 {
        let options = Options::new()
            .vfs(vfs.clone())
            .tune(|tuning| tuning.manual = true);
        let db = options.open("/db").unwrap();
        assert!(db.stats().levels[0].runs <= 8, "after {n} lives");
        put_one(&db, n);
        let killed = vfs.image(ImageKind::Kill, CrashPolicy::DropAll, n);
        drop(db);
        vfs = killed;
    }
    assert!(files(&vfs).0 <= 24);
    let db = Options::new().vfs(vfs).open("/db").unwrap();
    let keys: Vec<_> = db.iter().keys().map(|key| key.unwrap()).collect();
    let want: Vec<_> = (0..200u64).map(|n| n.to_be_bytes().to_vec()).collect();
    assert_eq!(keys, want);
}

/// Lives that each write more than a close leaves in the log.
#[test]
fn lives_that_end_with_a_flush_leave_few_tables() {
    let vfs = MemVfs::new(1);
    let options = buffered(&vfs).tune(|tuning| tuning.manual = true);
    for n in 0..150 {
        let db = options.open("/db").unwrap();
        let runs = db.stats().levels[0].runs;
        assert!(runs <= 12, "{runs} runs after {n} lives");
        put_one(&db, n);
        db.flush().unwrap();
    }
    assert_eq!(options.open("/db").unwrap().iter().count(), 150);
}

/// Used by a life with a large batch, a segment of its size would be kept for ever.
#[test]
fn a_segment_for_a_large_batch_does_not_stay() {
    let options = buffered(&MemVfs::new(1)).tune(|tuning| {
        tuning.manual = true;
        tuning.segment_bytes = (16 << 10, Some(16 << 10));
        tuning.log_bytes = Some(64 << 10);
    });
    let db = options.open("/db").unwrap();
    let mut large = Batch::new();
    for n in 0..100u64 {
        large.put(n.to_be_bytes(), [7; 3000]);
    }
    db.write(large).unwrap();
    assert!(db.stats().log_bytes > 300_000);
    for n in 0..400 {
        put_one(&db, n);
    }
    db.flush().unwrap();
    let log = db.stats().log_bytes;
    assert!(log <= 7 * (16 << 10), "{log} bytes of log");
}

/// As those of a copy of the directory that is made of links.
#[test]
fn segments_with_a_second_name_are_left_to_it() {
    let vfs = MemVfs::new(1);
    let options = buffered(&vfs).tune(|tuning| {
        tuning.manual = true;
        tuning.segment_bytes = (16 << 10, Some(16 << 10));
    });
    let db = options.open("/db").unwrap();
    vfs.create_dir(Path::new("/copy")).unwrap();
    for round in 0..20 {
        for n in 0..600 {
            put_one(&db, n);
        }
        let names = vfs.read_dir(Path::new("/db")).unwrap();
        let is_segment = |name: &&OsString| name.to_string_lossy().ends_with(".wal");
        for name in names.iter().filter(is_segment) {
            let copy = format!("/copy/{round}-{}", name.display());
            vfs.hard_link(&Path::new("/db").join(name), Path::new(&copy))
                .unwrap();
        }
        db.flush().unwrap();
    }
    let log = db.stats().log_bytes;
    assert!(log <= 400 << 10, "{log} bytes of log");
    db.close().unwrap();
    assert_eq!(options.open("/db").unwrap().iter().count(), 600);
}

#[test]
fn blob_files_of_values_that_are_overwritten_all_the_time_stay_few() {
    let (values, len) = (100u64, 64 << 10);
    let live = values * len as u64;
    let file = 16 << 20; // What files are full at, with so little alive.
    let db = buffered(&MemVfs::new(1)).open("/db").unwrap();
    let mut most = 0;
    for n in 0..values * 100 {
        let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        db.put((key % values).to_be_bytes(), vec![n as u8; len])
            .unwrap();
        let stats = db.stats();
        most = most.max(stats.blob_live_bytes + stats.blob_other_bytes);
    }
    assert!(most <= 4 * live + 18 * file, "{most} bytes for {live}");
}
