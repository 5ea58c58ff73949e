//! Many files through few descriptors and maps, and much data through little memory.

use std::process::Command;
use std::sync::Arc;

use terrace::vfs::{Fault, FaultVfs, MemVfs, Op};
use terrace::{Db, Durability, IoMode, Options};

/// The directory and the way of reading that another process is to use.
const CHILD: &str = "TERRACE_FEW_DESCRIPTORS";

const KEYS: u32 = 3000;

fn key(i: u32) -> String {
    format!("key {i:06}")
}

fn value(i: u32, round: u8) -> Vec<u8> {
    let mut value = vec![round; 400];
    value[..4].copy_from_slice(&i.to_le_bytes());
    value
}

/// Tables of a few KiB and blob files of 64 KiB.
fn options() -> Options {
    Options::new()
        .memory(4 << 20)
        .durability(Durability::Buffered)
        .tune(|tuning| {
            tuning.table_bytes = 8 << 10;
            tuning.blob_bytes = 64 << 10;
        })
}

fn tables(db: &Db) -> usize {
    db.stats().levels.iter().map(|level| level.tables).sum()
}

/// Every key has its value of this round, whichever way it is read.
#[track_caller]
fn holds(db: &Db, round: u8) {
    for i in 0..KEYS {
        assert_eq!(db.get(key(i)).unwrap().unwrap(), value(i, round), "{i}");
    }
    let all: Vec<_> = db.range("key"..).map(Result::unwrap).collect();
    assert_eq!(all.len(), KEYS as usize);
    assert!((0..KEYS).all(|i| all[i as usize].1 == value(i, round)));
    let last = db.range("key"..).next_back().unwrap().unwrap();
    assert_eq!(last.0, key(KEYS - 1));
}

/// The other process: it has 64 descriptors.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let (io, dir) = task.split_once(' ').unwrap();
    let io = match io {
        "pread" => IoMode::Pread,
        _ => IoMode::Mmap,
    };
    let db = options().io(io).open(dir).unwrap();
    for round in 0..3 {
        for i in 0..KEYS {
            db.put(key(i), value(i, round)).unwrap();
        }
        db.flush().unwrap();
        holds(&db, round);
    }
    for i in 0..120 {
        db.put(format!("blob {i:03}"), vec![i as u8; 60 << 10])
            .unwrap();
    }
    db.compact_all().unwrap();
    db.health().unwrap();
    let (tables, blobs) = (tables(&db), db.stats().blob_files);
    assert!(
        tables >= 80 && blobs >= 80,
        "{tables} tables, {blobs} blob files"
    );
    holds(&db, 2);
    let before = db.snapshot();
    // Iterators in many places at once, while tables go.
    let mut iters: Vec<_> = (0..20).map(|i| db.range(key(i * 100)..)).collect();
    for round in 3..5 {
        for i in 0..KEYS {
            db.put(key(i), value(i, round)).unwrap();
        }
        for iter in &mut iters {
            iter.nth(40).unwrap().unwrap();
        }
        db.compact_all().unwrap();
    }
    assert_eq!(before.get(key(7)).unwrap().unwrap(), value(7, 2));
    drop((before, iters));
    for i in 0..120 {
        let found = db.get(format!("blob {i:03}")).unwrap().unwrap();
        assert_eq!(found, vec![i as u8; 60 << 10]);
    }
    db.health().unwrap();
    db.close().unwrap();
    let db = options().io(io).open(dir).unwrap();
    holds(&db, 4);
    db.health().unwrap();
    db.close().unwrap();
}

#[cfg(unix)]
#[test]
fn more_tables_and_blob_files_than_descriptors() {
    for io in ["mmap", "pread"] {
        let home = tempfile::tempdir().unwrap();
        let output = Command::new("sh")
            .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["limits::child", "--exact", "--nocapture"])
            .env(CHILD, format!("{io} {}", home.path().join("db").display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{io}: {said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }
}

/// A process that can have no further map reads tables by system calls.
#[test]
fn without_room_for_a_map_tables_are_read_all_the_same() {
    const ENOMEM: i32 = 12;
    let vfs = FaultVfs::new(MemVfs::new(1));
    vfs.arm_when(|call| call.op == Op::Map, Fault::Errno(ENOMEM), true);
    let dyn_vfs: Arc<FaultVfs> = vfs.clone();
    let db = options().vfs(dyn_vfs).open("/db").unwrap();
    for i in 0..KEYS {
        db.put(key(i), value(i, 1)).unwrap();
    }
    db.compact_all().unwrap();
    holds(&db, 1);
    assert!(vfs.injected() > 10, "{}", vfs.injected());
    db.health().unwrap();
    db.close().unwrap();
}

/// What open tables and cached blocks may take together, of 4 MiB.
const SHARED: u64 = (4 << 20) - (1 << 20) * 3 / 2;

/// With tables whose indexes alone are larger than that memory, what is held of them stays within
/// its share.
#[test]
fn open_tables_stay_within_memory() {
    const MANY: u64 = 400_000;
    let name = |i: u64| format!("{i:012}");
    for io in [IoMode::Pread, IoMode::Mmap] {
        let options = Options::new()
            .memory(4 << 20)
            .io(io)
            .vfs(MemVfs::new(1))
            .tune(|tuning| tuning.table_bytes = 128 << 10);
        let db = options.open("/db").unwrap();
        db.ingest((0..MANY).map(|i| (name(i), name(i * 7))))
            .unwrap();
        db.compact_all().unwrap();
        let within = |what: &str| {
            let stats = db.stats();
            let (tables, blocks) = (stats.open_table_bytes, stats.cache_bytes);
            let text = format!("{io:?}, {what}: {tables} of tables, {blocks} of blocks");
            assert!(tables <= SHARED / 2 + (256 << 10), "{text}");
            assert!(tables + blocks <= SHARED, "{text}");
        };
        assert!(tables(&db) > 20);
        for i in (0..MANY).step_by(97) {
            let i = i * 31 % MANY;
            assert_eq!(db.get(name(i)).unwrap().unwrap(), name(i * 7));
            assert!(db.get(format!("{i:012}x")).unwrap().is_none());
            if i.is_multiple_of(50) {
                within("gets");
            }
        }
        assert_eq!(db.iter().map(Result::unwrap).count() as u64, MANY);
        within("a scan");
        let found = db.iter().rev().nth(300_000).unwrap().unwrap();
        assert_eq!(found.0, name(MANY - 1 - 300_000));
        assert!(db.approximate_count(name(5)..name(100_005)).unwrap() >= 100_000);
        // A value outlives the table that it was read of.
        let kept: Vec<_> = (0..MANY)
            .step_by(9973)
            .map(|i| db.get(name(i)).unwrap())
            .collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let db = &db;
                scope.spawn(move || {
                    for i in 0..500 {
                        let i = (i * 7919 + thread * 1013) % MANY;
                        assert_eq!(db.get(name(i)).unwrap().unwrap(), name(i * 7));
                    }
                });
            }
        });
        within("threads");
        for (n, value) in kept.into_iter().enumerate() {
            assert_eq!(value.unwrap(), name(n as u64 * 9973 * 7));
        }
        db.close().unwrap();
    }
}

/// What an iterator pins it reads, also when the database is closed and its files are removed.
#[cfg(unix)]
#[test]
fn an_iterator_outlives_the_files_of_a_closed_database() {
    for io in [IoMode::Mmap, IoMode::Pread] {
        let home = tempfile::tempdir().unwrap();
        let db = options().io(io).open(home.path().join("db")).unwrap();
        for i in 0..KEYS {
            db.put(key(i), value(i, 1)).unwrap();
        }
        db.put("blob", vec![9; 50_000]).unwrap();
        db.compact_all().unwrap();
        let iter = db.iter();
        db.close().unwrap();
        std::fs::remove_dir_all(home.path().join("db")).unwrap();
        assert_eq!(
            iter.map(Result::unwrap).count(),
            KEYS as usize + 1,
            "{io:?}"
        );
    }
}
