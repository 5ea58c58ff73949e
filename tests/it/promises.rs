//! The promises of the README, and for each the line that would break it and the test that would notice
//!
//! The lines are the deliberate bugs of `tests/mutants.txt`, which names the tests:
//!
//! ```text
//! Sync survives a power cut               ack-before-sync, skip-dir-sync, ack-failed-sync, ...
//! Interval(d) does once a write is d old  interval-without-end
//! Interval and Buffered survive a kill    here: each write is in the file when it returns
//! Buffered survives a cut after sync()    sync-without-sync
//! all or nothing, in order                half-batch, visible-before-appended, seal-mid-frame, ...
//! damage is an error                      unchecked-block, bad-index, ignore-synced, read-error-ends-log
//! readers take no lock                    lock-to-read
//! a snapshot answers the same             forget-snapshot, register-late, time-after-snapshots, ...
//! after a failed write there are none     go-on-after-append, retry-failed-sync
//! ... and reads go on                     reads-end-with-log
//! a full disk: NoSpace before a write     full-takes-puts
//! ... deletes go on                       full-refuses-deletes
//! ... it ends by itself                   full-without-end
//! ... `health` says so                    full-in-silence
//! files cannot hurt                       the fuzz targets; clippy and `forbid(unsafe_code)`
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use terrace::clock::ManualClock;
use terrace::vfs::{CrashPolicy, Fault, FaultVfs, ImageKind, MemVfs, Op as Calls, Vfs};
use terrace::{Db, Durability, ErrorKind, Options};

const EIO: i32 = 5;
const LONGEST: Duration = Duration::from_secs(5);

fn manual(vfs: &Arc<MemVfs>) -> Options {
    let vfs: Arc<dyn Vfs> = vfs.clone();
    Options::new().vfs(vfs).tune(|tuning| tuning.manual = true)
}

/// What a power cut that keeps nothing unsynced leaves of `keys`.
fn after_cut(disk: &Arc<MemVfs>, keys: &[&str]) -> Vec<bool> {
    let cut = disk.image(ImageKind::Cut, CrashPolicy::DropAll, 1);
    let db = manual(&cut).open("/db").unwrap();
    let found = keys.iter().map(|key| db.contains_key(key).unwrap());
    found.collect()
}

/// Nobody syncs here but who must: a write that returns when an earlier one is older than that.
#[test]
fn under_interval_what_is_old_survives_a_power_cut_when_a_write_returns() {
    let (disk, clock) = (MemVfs::crashable(1), Arc::new(ManualClock::new(LONGEST)));
    let options = manual(&disk).clock(clock.clone());
    let db = options
        .durability(Durability::Interval(LONGEST))
        .open("/db")
        .unwrap();
    db.put("first", "1").unwrap();
    clock.advance(LONGEST);
    db.put("second", "2").unwrap();
    assert_eq!(
        after_cut(&disk, &["first", "second"]),
        [false, false],
        "synced too early"
    );
    clock.advance(Duration::from_millis(1));
    db.put("third", "3").unwrap();
    assert_eq!(after_cut(&disk, &["first", "second"]), [true, true]);
}

#[test]
fn under_buffered_all_that_returned_survives_a_power_cut_after_a_sync() {
    let disk = MemVfs::crashable(1);
    let db = manual(&disk)
        .durability(Durability::Buffered)
        .open("/db")
        .unwrap();
    db.put("before", "1").unwrap();
    assert_eq!(
        after_cut(&disk, &["before"]),
        [false],
        "nobody asked for a sync"
    );
    db.sync().unwrap();
    db.put("after", "2").unwrap();
    assert_eq!(after_cut(&disk, &["before", "after"]), [true, false]);
}

#[test]
fn whatever_the_durability_what_returned_survives_a_kill() {
    for durability in [
        Durability::Buffered,
        Durability::Interval(LONGEST),
        Durability::Sync,
    ] {
        let disk = MemVfs::crashable(1);
        let db = manual(&disk).durability(durability).open("/db").unwrap();
        for n in 0..100u32 {
            db.put(n.to_be_bytes(), "v").unwrap();
            let killed = disk.image(ImageKind::Kill, CrashPolicy::DropAll, 1);
            let found = manual(&killed).open("/db").unwrap();
            assert_eq!(found.count(..).unwrap(), u64::from(n) + 1, "{durability:?}");
        }
    }
}

/// A door that calls wait at while it is shut.
#[derive(Default)]
struct Door {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Door {
    fn set(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let shut = self.shut.lock().unwrap();
        drop(self.opened.wait_while(shut, |shut| *shut).unwrap());
    }
}

/// Everything that reads, from memory and from tables.
fn read_all(db: &Db) {
    assert_eq!(db.get("table").unwrap().unwrap(), "1");
    assert_eq!(db.get("memory").unwrap().unwrap(), "2");
    assert_eq!(db.get("absent").unwrap(), None);
    assert_eq!(db.multi_get(["table", "memory"]).unwrap().len(), 2);
    assert_eq!(db.iter().count(), 2);
    assert_eq!(db.iter().rev().count(), 2);
    assert_eq!(db.count(..).unwrap(), 2);
    assert!(db.cursor().seek("t").unwrap());
    assert_eq!(db.snapshot().get("memory").unwrap().unwrap(), "2");
}

/// A writer stands in the middle of its commit, in the write to the log or in its sync, for as long
/// as the disk takes.
#[test]
fn readers_go_on_while_a_write_stands_still() {
    for stuck in [Calls::Write, Calls::SyncData] {
        let faulty = FaultVfs::new(MemVfs::new(1));
        let vfs: Arc<dyn Vfs> = faulty.clone();
        let db = Options::new().vfs(vfs).open("/db").unwrap();
        db.put("table", "1").unwrap();
        db.flush().unwrap();
        db.put("memory", "2").unwrap();
        read_all(&db); // The table is open.
        let (door, armed) = (Arc::new(Door::default()), Arc::new(AtomicBool::new(false)));
        let (arrived, at_the_door) = mpsc::channel();
        door.set(true);
        {
            let (door, armed, arrived) = (door.clone(), armed.clone(), Mutex::new(arrived));
            let when = move |call: &terrace::vfs::Call| {
                let log = call.path.extension().is_some_and(|e| e == "wal");
                if log && call.op == stuck && armed.load(Ordering::Relaxed) {
                    arrived.lock().unwrap().send(()).unwrap();
                    door.pass();
                }
                false
            };
            faulty.arm_when(when, Fault::Errno(EIO), true);
        }
        armed.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| db.put("new", "3"));
            let long = Duration::from_secs(120);
            let came = at_the_door.recv_timeout(long);
            let (done, reads) = mpsc::channel();
            let db = db.clone();
            scope.spawn(move || {
                read_all(&db);
                done.send(()).unwrap();
            });
            let read = reads.recv_timeout(Duration::from_secs(30));
            armed.store(false, Ordering::Relaxed);
            door.set(false);
            came.expect("nothing was written to the log");
            read.expect("readers wait for a writer");
            writer.join().unwrap().unwrap();
        });
        assert_eq!(db.get("new").unwrap().unwrap(), "3");
    }
}

#[test]
fn after_a_failed_write_of_the_log_nothing_is_written_and_everything_read() {
    let faulty = FaultVfs::new(MemVfs::new(1));
    let vfs: Arc<dyn Vfs> = faulty.clone();
    let db = Options::new().vfs(vfs).open("/db").unwrap();
    db.put("table", "1").unwrap();
    db.flush().unwrap();
    db.put("memory", "2").unwrap();
    let log = |call: &terrace::vfs::Call| {
        call.op == Calls::Write && call.path.extension().is_some_and(|e| e == "wal")
    };
    faulty.arm_when(log, Fault::Errno(EIO), false);
    assert_eq!(db.put("new", "3").unwrap_err().kind(), ErrorKind::ReadOnly);
    faulty.disarm();
    for _ in 0..3 {
        assert_eq!(db.put("new", "3").unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(db.delete("memory").unwrap_err().kind(), ErrorKind::ReadOnly);
        read_all(&db);
    }
    assert_eq!(db.health().unwrap_err().kind(), ErrorKind::ReadOnly);
}

#[test]
fn a_full_disk_refuses_puts_takes_deletes_says_so_and_goes_away_by_itself() {
    let disk = MemVfs::new(1);
    let options = manual(&disk).memory(4 << 20);
    let options = options.tune(|tuning| tuning.segment_bytes = (64 << 10, Some(64 << 10)));
    let db = options.clone().open("/db").unwrap();
    let value = [7; 1000];
    for n in 0..50u32 {
        db.put(n.to_be_bytes(), value).unwrap();
    }
    disk.set_capacity(Some(disk.used()));
    let mut taken = 50u32;
    let error = loop {
        match db.put(taken.to_be_bytes(), value) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 10_000, "the disk is not full");
    };
    for _ in 0..3 {
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        // There is room for this one, but that is for deletes.
        assert_eq!(db.put("small", "v").unwrap_err().kind(), ErrorKind::NoSpace);
        assert_eq!(db.health().unwrap_err().kind(), ErrorKind::NoSpace);
        assert_eq!(
            db.count(..).unwrap(),
            u64::from(taken),
            "something was begun"
        );
    }
    for n in 0..10u32 {
        db.delete(n.to_be_bytes()).unwrap();
        assert_eq!(db.get(n.to_be_bytes()).unwrap(), None);
    }
    assert_eq!(db.get(10u32.to_be_bytes()).unwrap().unwrap()[..], value);
    disk.set_capacity(None);
    db.put("small", "v").unwrap();
    db.health().unwrap();
    assert_eq!(db.count(..).unwrap(), u64::from(taken) - 9);
    db.close().unwrap();
    assert_eq!(
        options.open("/db").unwrap().count(..).unwrap(),
        u64::from(taken) - 9
    );
}
