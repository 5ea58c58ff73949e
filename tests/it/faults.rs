//! Faults that come while threads are at work. That every call may fail is what `torture faults` tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use terrace::vfs::{Call, CrashPolicy, Fault, FaultVfs, ImageKind, MemVfs, Op as Calls, Vfs};
use terrace::{Db, Durability, Error, ErrorKind, Options};
use terrace_kit::{Oracle, Scenario};

const DIR: &str = "/data/db";

const EIO: i32 = 5;

/// After a failed sync of the directory names made by others may be gone: nothing relies on a
/// second one.
#[test]
fn a_failed_directory_sync_ends_writes() {
    for at in 1.. {
        let disk = MemVfs::crashable(1);
        let faulty = FaultVfs::new(disk.clone());
        let options = Scenario::by_hand(faulty.clone()).options(1);
        let db = options.durability(Durability::Sync).open(DIR).unwrap();
        let count = AtomicU64::new(0);
        faulty.arm_when(
            move |call| {
                call.op == Calls::SyncDir && count.fetch_add(1, Ordering::Relaxed) + 1 == at
            },
            Fault::Errno(EIO),
            false,
        );
        let mut failed = None;
        for n in 0..40u32 {
            let result = db.put(format!("{n}"), vec![1; 1000]).map(|_| ());
            let result = result.and_then(|()| if n % 9 == 8 { db.wait_idle() } else { Ok(()) });
            if let Err(error) = result {
                failed = Some(error);
                break;
            }
        }
        let Some(error) = failed else {
            assert!(at > 8);
            return;
        };
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "sync {at}: {error}");
        assert_eq!(
            db.put("k", "v").unwrap_err().kind(),
            ErrorKind::ReadOnly,
            "sync {at}"
        );
        assert_eq!(
            db.health().unwrap_err().kind(),
            ErrorKind::ReadOnly,
            "sync {at}"
        );
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within 10 s");
}

#[test]
fn a_table_that_cannot_be_written_is_shown_and_tried_again_under_a_new_number() {
    for op in [Calls::Create, Calls::Write, Calls::SyncData] {
        let disk = MemVfs::crashable(4);
        let faulty = FaultVfs::new(disk.clone());
        let shared: Arc<dyn Vfs> = faulty.clone();
        let options = Options::new()
            .memory(4 << 20)
            .durability(Durability::Buffered)
            .vfs(shared);
        let options = options.tune(|t| {
            t.list_entries = 64;
            t.memtable_bytes = Some(8 << 10);
        });
        let db = options.open(DIR).unwrap();
        let met: Arc<Mutex<Vec<PathBuf>>> = Arc::default();
        let seen = met.clone();
        let table = move |call: &Call| {
            let hit = call.op == op && call.path.extension().is_some_and(|e| e == "sst");
            if hit {
                seen.lock()
                    .unwrap_or_else(|p| p.into_inner())
                    .push(call.path.clone());
            }
            hit
        };
        faulty.arm_when(table, Fault::Errno(EIO), true);
        for n in 0..400u32 {
            db.put(format!("{n:04}"), [7; 100]).unwrap();
        }
        wait_until("trouble", || db.health().is_err());
        assert_eq!(db.health().unwrap_err().kind(), ErrorKind::Io);
        wait_until("a second try", || met.lock().unwrap().len() > 2);
        db.put("meanwhile", "1").unwrap();
        faulty.disarm();
        wait_until("healed", || db.health().is_ok());
        db.flush().unwrap();
        let tried: Vec<PathBuf> = met.lock().unwrap().clone();
        let distinct: BTreeSet<&PathBuf> = tried.iter().collect();
        assert_eq!(distinct.len(), tried.len(), "a number was used twice");
        let found = Oracle::read(&db).unwrap();
        assert_eq!(found["default"].len(), 401);
        let image = disk.image(ImageKind::Cut, CrashPolicy::DropAll, 1);
        let db = options.clone().vfs(image).open(DIR).unwrap();
        assert!(Oracle::read(&db).unwrap() == found);
    }
}

#[test]
fn of_several_writers_whose_sync_fails_none_is_acknowledged_and_lost() {
    for at in 1..40 {
        let disk = MemVfs::crashable(at);
        let faulty = FaultVfs::new(disk.clone());
        let shared: Arc<dyn Vfs> = faulty.clone();
        let options = Options::new().memory(4 << 20).vfs(shared);
        let options = options.tune(|t| t.segment_bytes = (16 << 10, Some(16 << 10)));
        let db = options.open(DIR).unwrap();
        db.put("first", "0").unwrap();
        let count = AtomicU64::new(0);
        faulty.arm_when(
            move |call| {
                call.op == Calls::SyncData
                    && call.path.extension().is_some_and(|e| e == "wal")
                    && count.fetch_add(1, Ordering::Relaxed) + 1 == at
            },
            Fault::SyncLost,
            false,
        );
        let acknowledged: Mutex<BTreeMap<Vec<u8>, Vec<u8>>> = Mutex::default();
        let write = |db: &Db, writer: usize| {
            for n in 0.. {
                let (key, value) = (format!("{writer}-{n}"), vec![n as u8; 300]);
                match db.put(&key, &value) {
                    Ok(_) => acknowledged.lock().unwrap().insert(key.into_bytes(), value),
                    // The sync of a new segment may be the one that failed: that write can be tried
                    // again.
                    Err(error) if error.kind() == ErrorKind::Io => continue,
                    Err(error) => return error,
                };
                if n == 200 {
                    return Error::invalid("no fault was met");
                }
            }
            unreachable!()
        };
        std::thread::scope(|scope| {
            let db = &db;
            let write = &write;
            let writers: Vec<_> = (0..4).map(|w| scope.spawn(move || write(db, w))).collect();
            for writer in writers {
                let error = writer.join().unwrap();
                let fits = matches!(error.kind(), ErrorKind::ReadOnly | ErrorKind::Invalid);
                assert!(fits, "sync {at}: {error}");
            }
        });
        let kept = acknowledged.into_inner().unwrap();
        for (kind, policy) in [
            (ImageKind::Cut, CrashPolicy::DropAll),
            (ImageKind::Cut, CrashPolicy::TornSectors { garbage: true }),
            (ImageKind::Kill, CrashPolicy::KeepAll),
        ] {
            let image = disk.image(kind, policy, at);
            let db = options.clone().vfs(image).open(DIR).unwrap();
            for (key, value) in &kept {
                let found = db.get(key).unwrap();
                assert_eq!(
                    found.as_deref(),
                    Some(&value[..]),
                    "sync {at}, {kind:?} {policy:?}"
                );
            }
        }
    }
}

/// A log thread that waits before it tries again to make a spare segment must not sleep over syncs
/// that are due.
#[test]
fn writes_at_intervals_are_synced_though_no_spare_can_be_made() {
    let disk = MemVfs::crashable(1);
    let faulty = FaultVfs::new(disk.clone());
    let segments = AtomicU64::new(0);
    let second = move |call: &Call| {
        let new = call.op == Calls::Create && call.path.extension().is_some_and(|e| e == "wal");
        new && segments.fetch_add(1, Ordering::Relaxed) > 0
    };
    faulty.arm_when(second, Fault::Errno(EIO), true);
    let shared: Arc<dyn Vfs> = faulty.clone();
    let options = Options::new().memory(4 << 20).vfs(shared);
    let options = options.durability(Durability::Interval(Duration::from_millis(100)));
    let db = options.open(DIR).unwrap();
    db.put("first", "1").unwrap();
    wait_until("trouble", || db.health().is_err());
    std::thread::sleep(Duration::from_secs(2)); // By now the thread waits for seconds.
    db.put("second", "2").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let image = disk.image(ImageKind::Cut, CrashPolicy::DropAll, 1);
    let again = options.clone().vfs(image).open(DIR).unwrap();
    assert_eq!(again.get("second").unwrap().as_deref(), Some(&b"2"[..]));
    faulty.disarm();
    wait_until("healed", || db.health().is_ok());
}
