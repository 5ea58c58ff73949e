use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use terrace_base::FileKind;
use terrace_base::vfs::{Call, CrashPolicy, Fault, FaultVfs, Fs, ImageKind, MemVfs, Op, Vfs};

use crate::open::opening::{Found, Opening};
use crate::options::{Durability, Options};
use crate::{Batch, Db, KeyspaceOptions};

const DIR: &str = "/db";

fn options(vfs: Arc<dyn Vfs>) -> Options {
    let mut options = Options {
        vfs,
        durability: Durability::Buffered,
        ..Options::default()
    };
    options.tuning.manual = true;
    options.tuning.segment_bytes = (64 << 10, Some(64 << 10));
    options.tuning.replay_bytes = Some(32 << 10);
    options.tuning.blob_bytes = 64 << 10;
    options
}

/// A log of some 400 KB in which later parts overwrite, delete, drop and refer to blob files.
fn write(db: &Db) {
    let old = db
        .create_keyspace("old", KeyspaceOptions::default())
        .unwrap();
    let users = db
        .create_keyspace("users", KeyspaceOptions::default())
        .unwrap();
    for round in 0..40u32 {
        let mut batch = Batch::new();
        for n in 0..50u32 {
            let key = (round * 17 + n).to_be_bytes();
            batch.put(key, [round as u8; 100]);
            batch
                .keyspace(&users)
                .put(n.to_be_bytes(), [round as u8; 30]);
            batch.keyspace(&old).put(n.to_be_bytes(), "old");
        }
        batch.put(
            [b"large ".as_slice(), &[round as u8 % 5]].concat(),
            [round as u8; 5000],
        );
        db.write(batch).unwrap();
        if round % 10 == 9 {
            db.delete_range(100u32.to_be_bytes()..200u32.to_be_bytes())
                .unwrap();
            users.delete((round / 2).to_be_bytes()).unwrap();
        }
    }
    db.drop_keyspace("old").unwrap();
    db.rename_keyspace("users", "people").unwrap();
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn rows(db: &Db) -> (Rows, Rows, Vec<String>) {
    let all = |iter: crate::Iter| {
        let row = |row: crate::Result<(bytes::Bytes, bytes::Bytes)>| {
            row.map(|(key, value)| (key.to_vec(), value.to_vec()))
        };
        iter.map(row).collect::<crate::Result<Rows>>().unwrap()
    };
    let people = db.keyspace("people").unwrap();
    (all(db.iter()), all(people.iter()), db.keyspaces().unwrap())
}

fn found(options: &Options) -> crate::Result<Found> {
    let options = options.clone().resolved();
    let fs = Fs::new(options.vfs.clone());
    Opening::new(&options, &fs, Path::new(DIR))?.existing()
}

/// What a kill leaves of a database with that log, and what it held.
fn killed() -> (Arc<MemVfs>, (Rows, Rows, Vec<String>)) {
    let vfs = MemVfs::crashable(1);
    let db = options(vfs.clone()).open(DIR).unwrap();
    write(&db);
    let rows = rows(&db);
    let killed = vfs.image(ImageKind::Kill, CrashPolicy::DropAll, 1);
    (killed, rows)
}

#[test]
fn a_long_log_is_recovered_in_pieces_and_none_of_it_is_lost() {
    let (vfs, want) = killed();
    let options = options(vfs.clone());
    let copy = vfs.image(ImageKind::Kill, CrashPolicy::DropAll, 2);
    let copied = Options {
        vfs: copy,
        ..options.clone()
    };
    let found = found(&copied).unwrap();
    assert!((8..40).contains(&found.log_had.pieces));
    assert!(found.log_had.entries > 5000);

    // Read-only it is held in memory.
    let reading = options.clone().read_only(true).open(DIR).unwrap();
    assert_eq!(rows(&reading), want);
    drop(reading);
    for life in 0..2 {
        let db = options.open(DIR).unwrap();
        assert_eq!(rows(&db), want, "life {life}");
        db.compact_all().unwrap();
        assert_eq!(rows(&db), want, "life {life}, merged");
    }
}

#[test]
fn a_clean_log_that_is_too_long_for_memory_goes_into_tables_too() {
    let vfs = MemVfs::new(1);
    let mut options = options(vfs.clone());
    let db = options.open(DIR).unwrap();
    write(&db);
    let want = rows(&db);
    db.close().unwrap();
    options.tuning.replay_bytes = Some(2 << 10);
    let db = options.open(DIR).unwrap();
    assert_eq!(rows(&db), want);
    assert_eq!(db.stats().memtable_entries, 0);
}

#[test]
fn a_recovery_that_fails_half_way_leaves_no_tables() {
    let (vfs, want) = killed();
    let fault = FaultVfs::new(vfs.clone());
    let fs = Fs::new(vfs.clone());
    let tables = || {
        let names = fs.read_dir(Path::new(DIR)).unwrap();
        let is_table = |name: &&String| matches!(FileKind::parse(name), Some(FileKind::Table(_)));
        names.iter().filter(is_table).count()
    };
    let faulty = Options {
        vfs: fault.clone(),
        ..options(vfs.clone())
    };
    let syncs = AtomicU32::new(0);
    let fifth = move |call: &Call| {
        let of_table = call.path.extension().is_some_and(|end| end == "sst");
        of_table && call.op == Op::SyncData && syncs.fetch_add(1, Ordering::Relaxed) == 4
    };
    fault.arm_when(fifth, Fault::Errno(5), false);
    assert!(faulty.open(DIR).is_err());
    assert_eq!(tables(), 0);
    assert_eq!(rows(&options(vfs).open(DIR).unwrap()), want);
}
