//! Every call to the file system fails: once and from then on, with every error, also halfway and late.
//!
//! One workload is run over and over, each time with a fault at the next call, until a run meets none. Whatever
//! fails: no panic, no error that calls a bad disk damage, nothing acknowledged that a crash then takes, and a
//! database that is read-only says why, goes on reading and writes nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use terrace::vfs::{Call, CrashPolicy, Fault, FaultVfs, ImageKind, MemVfs, Op as Calls, Site, Vfs};
use terrace::{Db, Durability, Error, ErrorKind, Options};
use terrace_kit::{
    Allowed, Crash, Generator, Op, Oracle, Profile, Random, Recovery, Runner, Scenario,
};

const DIR: &str = "/data/db";

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Writes of a generated workload between calls that bring every kind of file work.
fn workload(seed: u64) -> Vec<Op> {
    let mut profile = Profile::crashes();
    (
        profile.maintenance,
        profile.pins,
        profile.reads,
        profile.reopens,
    ) = (0, 0, 0, 0);
    let mut writes = Generator::new(seed, profile);
    let mut some = |count: usize| writes.by_ref().take(count).collect::<Vec<_>>();
    let reopen = Op::Reopen(2 * seed);
    [
        vec![Op::CreateKeyspace(1)],
        some(6),
        vec![Op::Flush, Op::Check, Op::TakeSnapshot],
        some(5),
        vec![Op::Flush, Op::CreateKeyspace(2)],
        some(6),
        vec![Op::WaitIdle, Op::Check, reopen.clone()],
        some(4),
        vec![Op::Sync, Op::DropKeyspace(1)],
        some(3),
        vec![Op::CompactAll, reopen],
        some(3),
    ]
    .concat()
}

struct Case {
    name: &'static str,
    fault: Fault,
    sticky: bool,
    ops: &'static [Calls],
}

/// The end of a run whose fault was the `at`-th call that fits; false if there was none.
fn run_with_fault(
    case: &Case,
    seed: u64,
    at: u64,
    sites: &mut (BTreeSet<Site>, BTreeSet<Site>),
) -> bool {
    let what = format!(
        "{}, sticky {}, seed {seed}, call {at}",
        case.name, case.sticky
    );
    let disk = MemVfs::crashable(seed);
    let faulty = FaultVfs::new(disk.clone());
    let (count, ops, sticky) = (AtomicU64::new(0), case.ops, case.sticky);
    let when = move |call: &Call| {
        (ops.is_empty() || ops.contains(&call.op)) && {
            let n = count.fetch_add(1, Ordering::Relaxed) + 1;
            n == at || (sticky && n > at)
        }
    };
    faulty.arm_when(when, case.fault, case.sticky);
    let mut runner = Runner::closed(Scenario::by_hand(faulty.clone()));
    let mut ended = None;
    let ops: Vec<Op> = workload(seed);
    for n in 0..=ops.len() {
        let done = match n.checked_sub(1).and_then(|n| ops.get(n)) {
            None => runner.open(2 * seed),
            Some(op) => runner.apply(op),
        };
        let Err(trouble) = done else { continue };
        let Some(error) = trouble.error().cloned() else {
            panic!("{what}: step {n}: {trouble}");
        };
        let fits = matches!(
            error.kind(),
            ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::ReadOnly
        );
        assert!(fits, "{what}: step {n}: {error}");
        assert!(faulty.injected() > 0, "{what}: step {n}: {error}");
        if runner.db().is_err() || case.sticky || error.kind() == ErrorKind::ReadOnly {
            ended = Some(error);
            break;
        }
    }
    faulty.disarm();
    if let Some(error) = &ended {
        check_ended(&runner, &disk, error, &what);
    } else {
        runner.check().unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    check_images(&runner, &disk, seed, &what);
    sites.1.extend(faulty.injected_sites());
    if faulty.injected() == 0 {
        sites.0.extend(faulty.sites());
    }
    faulty.injected() > 0
}

/// A database that met an error it cannot go on from.
fn check_ended(runner: &Runner, disk: &MemVfs, error: &Error, what: &str) {
    let Ok(db) = runner.db() else { return };
    let allowed = runner.progress().after(ImageKind::Kill);
    Oracle::check(db, runner.model(), allowed)
        .unwrap_or_else(|e| panic!("{what}: reads end with {error}: {e}"));
    if error.kind() != ErrorKind::ReadOnly {
        return;
    }
    let before = disk.mutations();
    for (call, result) in [
        ("put", db.put("more", "x").map(|_| ())),
        ("flush", db.flush()),
        ("sync", db.sync()),
        ("compact_all", db.compact_all()),
        ("keyspace", db.keyspace("another").map(|_| ())),
        ("health", db.health()),
    ] {
        let Err(error) = result else {
            panic!("{what}: {call} goes on after: {error}");
        };
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{what}: {error}");
        assert!(
            error.to_string().len() > 30,
            "{what}: {error} names no cause"
        );
    }
    db.close().unwrap_or_else(|e| panic!("{what}: close: {e}"));
    assert_eq!(
        disk.mutations(),
        before,
        "{what}: something was written after the failure"
    );
}

/// What a crash at the end leaves is what was acknowledged, and goes on from there.
fn check_images(runner: &Runner, disk: &MemVfs, seed: u64, what: &str) {
    let progress = runner.progress();
    let scenario = Scenario::by_hand(MemVfs::new(seed));
    let recovery = Recovery {
        scenario: &scenario,
        seed: 2 * seed,
        model: runner.model(),
    };
    for crash in [
        Crash::KILL,
        Crash::cut(CrashPolicy::DropAll),
        Crash::cut(CrashPolicy::KeepAll),
        Crash::cut(CrashPolicy::RandomBlocks),
    ] {
        let image = crash.image(disk, seed);
        let (db, found) = recovery
            .check(&image, &Allowed::by(&progress, crash.kind))
            .unwrap_or_else(|e| panic!("{what}, then {crash}: {e}"));
        // What was read is on the disk now, also if a sync had failed before.
        let random = &mut Random::new(seed);
        recovery
            .go_on(&image, &db, found, progress.last_seq(), random, &mut |_| ())
            .unwrap_or_else(|e| panic!("{what}, then {crash}: {e}"));
    }
}

fn all_faults(case: &Case, seeds: std::ops::Range<u64>) -> u64 {
    let mut sites = (BTreeSet::new(), BTreeSet::new());
    let mut runs = 0;
    for seed in seeds {
        let mut at = 1;
        while run_with_fault(case, seed, at, &mut sites) {
            at += 1;
            runs += 1;
        }
    }
    if case.ops.is_empty() {
        let missed: Vec<String> = sites.0.difference(&sites.1).map(Site::to_string).collect();
        assert!(
            missed.is_empty(),
            "{}: lines that met no fault: {missed:?}",
            case.name
        );
    }
    println!("{}, sticky {}: {runs} runs", case.name, case.sticky);
    runs
}

const WRITES: &[Calls] = &[
    Calls::Create,
    Calls::CreateDir,
    Calls::Write,
    Calls::SyncData,
    Calls::SyncDir,
];

#[test]
fn any_call_may_fail_once() {
    let case = Case {
        name: "EIO",
        fault: Fault::Errno(EIO),
        sticky: false,
        ops: &[],
    };
    assert!(all_faults(&case, 0..2) > 300);
}

#[test]
fn any_call_may_fail_for_good() {
    let case = Case {
        name: "EIO",
        fault: Fault::Errno(EIO),
        sticky: true,
        ops: &[],
    };
    assert!(all_faults(&case, 2..3) > 150);
}

#[test]
fn a_call_may_fail_after_its_work_is_done() {
    let case = Case {
        name: "late EIO",
        fault: Fault::Late(EIO),
        sticky: false,
        ops: &[],
    };
    all_faults(&case, 3..4);
}

#[test]
fn a_sync_that_fails_may_drop_what_it_should_have_written() {
    let case = Case {
        name: "lost sync",
        fault: Fault::SyncLost,
        sticky: false,
        ops: &[Calls::SyncData],
    };
    assert!(
        (0..4)
            .map(|seed| all_faults(&case, seed..seed + 1))
            .sum::<u64>()
            > 100
    );
}

#[test]
fn the_disk_may_be_full() {
    for (sticky, seed) in [(false, 5), (true, 6)] {
        let case = Case {
            name: "ENOSPC",
            fault: Fault::Errno(ENOSPC),
            sticky,
            ops: WRITES,
        };
        all_faults(&case, seed..seed + 1);
    }
}

#[test]
fn interruptions_and_short_transfers_are_gone_on_from() {
    for (name, fault, ops) in [
        (
            "EINTR",
            Fault::Error(std::io::ErrorKind::Interrupted),
            &[][..],
        ),
        ("short read", Fault::ShortRead, &[Calls::Read]),
        ("short write", Fault::ShortWrite, &[Calls::Write]),
        ("torn write", Fault::TornWrite, &[Calls::Write]),
    ] {
        let case = Case {
            name,
            fault,
            sticky: false,
            ops,
        };
        all_faults(&case, 7..8);
    }
}

/// After a failed sync of the directory names made by others may be gone: nothing relies on a second one.
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
                    // The sync of a new segment may be the one that failed: that write can be tried again.
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
