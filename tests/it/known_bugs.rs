//! Bugs that other engines had and that no other test here would notice; and the list of all of them,
//! `tests/REGRESSIONS.md`, whose tests must exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use terrace::vfs::{CrashPolicy, Fault, FaultVfs, ImageKind, MemVfs, Op as Calls, Vfs};
use terrace::{Compression, Db, Durability, ErrorKind, IoMode, Options};
use terrace_kit::{
    Allowed, Crash, Generator, Oracle, Profile, Random, Recovery, Runner, Scenario, Watch,
};

const DIR: &str = "/data/db";

const EIO: i32 = 5;

fn small(vfs: Arc<dyn Vfs>) -> Options {
    Options::new().memory(4 << 20).vfs(vfs).tune(|t| {
        t.manual = true;
        t.list_entries = 8;
        t.segment_bytes = (4096, Some(8192));
        t.table_bytes = 8192;
    })
}

/// What one process leaves in memory that is killed after a workload: tables, several segments, an
/// open log.
fn killed(seed: u64) -> (Arc<MemVfs>, Runner) {
    let vfs = MemVfs::crashable(seed);
    let mut runner = Runner::new(Scenario::by_hand(vfs.clone()), seed).unwrap();
    for op in Generator::new(seed, Profile::crashes()).take(30) {
        runner.apply(&op).unwrap();
    }
    let image = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, seed);
    (image, runner)
}

fn bytes_of(disk: &MemVfs) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let files = disk.files().into_iter();
    files
        .map(|(path, _)| (path.clone(), disk.read_file(path)))
        .collect()
}

/// Opens what a kill left with each call failing in turn, of one kind if `only` names it; how many
/// failed. What is opened is whole, and as long as `CURRENT` is the same a failed open has changed
/// no file.
fn failing_opens(only: Option<Calls>, seed: u64, sticky: bool) -> u64 {
    let (image, runner) = killed(seed);
    let whole = |disk: Arc<dyn Vfs>, disarm: &dyn Fn()| -> terrace::Result<()> {
        let db = runner.scenario().elsewhere(disk).open(seed)?;
        disarm();
        let allowed = runner.progress().after(ImageKind::Kill);
        let found = Oracle::check(&db, runner.model(), allowed);
        found.unwrap_or_else(|trouble| panic!("seed {seed}: {trouble}"));
        Ok(())
    };
    for at in 1.. {
        let disk = image.image(ImageKind::Kill, CrashPolicy::KeepAll, at);
        let before = bytes_of(&disk);
        let faulty = FaultVfs::new(disk.clone());
        let count = AtomicU64::new(0);
        let when = move |op| {
            only.is_none_or(|only| only == op) && {
                let n = count.fetch_add(1, Ordering::Relaxed) + 1;
                n == at || (sticky && n > at)
            }
        };
        faulty.arm_when(move |call| when(call.op), Fault::Errno(EIO), sticky);
        if let Err(error) = whole(faulty.clone(), &|| faulty.disarm()) {
            let what = format!("seed {seed}, call {at}: {error}");
            let fits = matches!(error.kind(), ErrorKind::Io | ErrorKind::ReadOnly);
            assert!(fits && faulty.injected() > 0, "{what}");
            let current = |(path, _): &&(PathBuf, _)| path.ends_with("CURRENT");
            let after = bytes_of(&disk);
            if after.iter().find(current) == before.iter().find(current) {
                assert!(
                    before.iter().all(|file| after.contains(file)),
                    "changed by {what}"
                );
            }
            whole(disk, &|| ()).unwrap_or_else(|e| panic!("{what}, then {e}"));
        }
        if faulty.injected() == 0 {
            return at - 1;
        }
    }
    0
}

/// Elsewhere an error while the log was read back was taken for its end.
#[test]
fn a_read_error_while_opening_is_never_a_shorter_database() {
    let reads = |seed, sticky| failing_opens(Some(Calls::Read), seed, sticky);
    assert!(reads(1, false) + reads(2, true) + reads(3, false) > 20);
}

/// Elsewhere an open that failed had cut a file to nothing by then.
#[test]
fn a_failed_open_leaves_the_files_as_they_were() {
    assert!(failing_opens(None, 4, false) + failing_opens(None, 5, true) > 60);
}

/// Opens what each crash during `open` leaves, and goes on with it; how many images that were.
fn crash_an_open(image: &Arc<MemVfs>, runner: &Runner, seed: u64) -> usize {
    let recovery = Recovery {
        scenario: runner.scenario(),
        seed,
        model: runner.model(),
    };
    let first = Allowed::by(&runner.progress(), ImageKind::Kill);
    let all = |_| Crash::all().collect();
    let watch = Watch::new(image, seed, all, move |kind| first.then(kind));
    let opened = recovery.open(image);
    let moments = watch.take();
    drop(watch);
    drop(opened.unwrap());
    let last_seq = runner.progress().last_seq();
    for moment in &moments {
        let random = &mut Random::new(moment.call);
        let checked = recovery.check(&moment.image, &moment.allowed);
        let gone_on = checked.and_then(|(db, found)| {
            recovery.go_on(&moment.image, &db, found, last_seq, random, &mut |_| ())
        });
        gone_on.unwrap_or_else(|e| panic!("seed {seed}, {moment}: {e}"));
    }
    moments.len()
}

/// Elsewhere a second crash, while the first was recovered from, made a torn commit the truth, or
/// had a file number given out twice.
#[test]
fn a_recovery_that_crashes_at_any_call_is_begun_again() {
    let recovered = |seed| {
        let (image, runner) = killed(seed);
        crash_an_open(&image, &runner, seed)
    };
    let images: usize = (0..4).map(recovered).sum();
    assert!(images > 300, "{images} images");
}

#[test]
fn a_creation_that_crashes_at_any_call_is_begun_again() {
    let vfs = MemVfs::crashable(1);
    let runner = Runner::closed(Scenario::by_hand(vfs.clone()));
    assert!(crash_an_open(&vfs, &runner, 1) > 50);
}

/// Elsewhere the followers of a group commit were told that all is well when their leader's write
/// had failed.
#[test]
fn of_several_writers_none_is_acknowledged_behind_an_append_that_failed() {
    let mut appends = 0;
    for (at, fault) in (1..24).zip([Fault::Errno(EIO), Fault::TornWrite].into_iter().cycle()) {
        let disk = MemVfs::crashable(at);
        let faulty = FaultVfs::new(disk.clone());
        let options = Options::new().memory(4 << 20).vfs(faulty.clone());
        let db = options.open(Path::new(DIR)).unwrap();
        db.put("first", "0").unwrap();
        let count = AtomicU64::new(0);
        let log = |path: &Path| path.extension().is_some_and(|e| e == "wal");
        let nth = move |op, path: &Path| {
            op == Calls::Write && log(path) && count.fetch_add(1, Ordering::Relaxed) + 1 == at
        };
        faulty.arm_when(move |call| nth(call.op, &call.path), fault, false);
        let acknowledged = Mutex::new(vec!["first".to_string()]);
        let write = |db: &Db, writer: u8| {
            for n in 0..60 {
                let key = format!("{writer}-{n}");
                match db.put(&key, [n; 50]) {
                    Ok(_) => acknowledged.lock().unwrap().push(key),
                    // The segment could not be made: that write can be tried again.
                    Err(error) if error.kind() == ErrorKind::Io => continue,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::ReadOnly, "write {at}: {error}");
                        return true;
                    }
                }
            }
            false
        };
        let ended = std::thread::scope(|scope| {
            let (db, write) = (&db, &write);
            let writers: Vec<_> = (0..4).map(|w| scope.spawn(move || write(db, w))).collect();
            let ended: Vec<bool> = writers.into_iter().map(|w| w.join().unwrap()).collect();
            ended.contains(&true)
        });
        appends += usize::from(ended);
        assert!(!ended || db.put("more", "1").is_err());
        for (kind, policy) in [
            (ImageKind::Cut, CrashPolicy::DropAll),
            (ImageKind::Kill, CrashPolicy::KeepAll),
        ] {
            let image = disk.image(kind, policy, at);
            let db = options.clone().vfs(image).open(Path::new(DIR)).unwrap();
            for key in acknowledged.lock().unwrap().iter() {
                assert!(
                    db.contains_key(key).unwrap(),
                    "write {at}, {kind:?}: {key} is lost"
                );
            }
        }
    }
    assert!(appends > 5, "{appends} appends failed");
}

/// Elsewhere the position up to which the log is on disk was noted under one set of options only,
/// so that under the others damage passed for the log's end.
#[test]
fn damage_below_a_promise_is_seen_under_every_option() {
    for n in 0..24usize {
        let vfs = MemVfs::crashable(n as u64);
        let durability = [
            Durability::Sync,
            Durability::Buffered,
            Durability::Interval(std::time::Duration::from_micros(1)),
        ][n % 3];
        let io = [IoMode::Mmap, IoMode::Pread][n / 3 % 2];
        let compression = [Compression::None, Compression::Lz4][n / 6 % 2];
        let options = small(vfs.clone())
            .durability(durability)
            .io(io)
            .compression(compression);
        let options = options.tune(|t| t.manual = n < 12);
        let db = options.open(Path::new(DIR)).unwrap();
        for i in 0..4 {
            db.put("key", format!("{i}")).unwrap();
            db.sync().unwrap();
        }
        let image = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1);
        let segment = |(path, _): (PathBuf, u64)| {
            let bytes = image.read_file(&path).unwrap();
            let used = path.extension().is_some_and(|e| e == "wal") && bytes[0] != 0;
            used.then_some((path, bytes))
        };
        let (path, mut bytes) = image.files().into_iter().find_map(segment).unwrap();
        let link = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        bytes[link + 40] ^= 1; // In the first write.
        image.write_file(&path, &bytes);
        let opened = options.clone().vfs(image).open(Path::new(DIR));
        let error = opened.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "options {n}: {error}");
    }
}

/// Elsewhere `close` left the log unsynced.
#[test]
fn what_was_closed_survives_a_power_cut() {
    for durability in [Durability::Buffered, Durability::Sync] {
        for count in [1, 7, 100] {
            let vfs = MemVfs::crashable(count);
            let options = small(vfs.clone()).durability(durability);
            let db = options.open(Path::new(DIR)).unwrap();
            for n in 0..count {
                db.put(format!("{n}"), [7; 90]).unwrap();
            }
            db.keyspace("last").unwrap();
            db.close().unwrap();
            for policy in CrashPolicy::ALL {
                let image = vfs.image(ImageKind::Cut, *policy, count);
                let db = options.clone().vfs(image).open(Path::new(DIR)).unwrap();
                assert_eq!(
                    db.iter().map(Result::unwrap).count() as u64,
                    count,
                    "{policy:?}"
                );
                assert_eq!(db.keyspaces().unwrap(), ["default", "last"]);
            }
        }
    }
}

/// Elsewhere a handle that was dropped after a failed commit wrote on.
#[test]
fn a_database_that_failed_writes_nothing_more_when_it_is_dropped() {
    for op in [Calls::Write, Calls::SyncData] {
        for n in 0..6 {
            let disk = MemVfs::crashable(n);
            let faulty = FaultVfs::new(disk.clone());
            let db = small(faulty.clone()).open(Path::new(DIR)).unwrap();
            db.put("before", "1").unwrap();
            if n % 2 == 0 {
                db.flush().unwrap();
            }
            let log = |path: &Path| path.extension().is_some_and(|e| e == "wal");
            let when = move |at, path: &Path| at == op && log(path);
            faulty.arm_when(
                move |call| when(call.op, &call.path),
                Fault::Errno(EIO),
                false,
            );
            assert_eq!(db.put("k", "v").unwrap_err().kind(), ErrorKind::ReadOnly);
            faulty.disarm();
            let (calls, hash) = (disk.mutations(), disk.content_hash());
            for _ in 0..3 {
                assert_eq!(db.put("k", "v").unwrap_err().kind(), ErrorKind::ReadOnly);
            }
            if n < 3 {
                db.close().unwrap();
            }
            drop(db);
            assert_eq!(
                (disk.mutations(), disk.content_hash()),
                (calls, hash),
                "{op:?} {n}"
            );
        }
    }
}

/// Elsewhere an iterator told of a damaged page and then went on behind it.
#[test]
fn an_iterator_ends_with_its_first_error() {
    for io in [IoMode::Mmap, IoMode::Pread] {
        let vfs = MemVfs::new(1);
        let options = small(vfs.clone()).io(io).compression(Compression::None);
        let options = options.tune(|t| t.table_bytes = 1 << 20);
        let db = options.open(Path::new(DIR)).unwrap();
        for n in 0..600 {
            db.put(format!("{n:04}"), [7; 100]).unwrap();
        }
        db.compact_all().unwrap();
        db.close().unwrap();
        let table = |(path, _): &(PathBuf, u64)| path.extension().is_some_and(|e| e == "sst");
        let (path, _) = vfs.files().into_iter().find(table).unwrap();
        let mut bytes = vfs.read_file(&path).unwrap();
        bytes[30_000] ^= 1; // In a block in the middle.
        vfs.write_file(&path, &bytes);
        let db = options.open(Path::new(DIR)).unwrap();
        let ends = |forward: bool| {
            let mut iter = db.iter();
            let mut next = || {
                if forward {
                    iter.next()
                } else {
                    iter.next_back()
                }
            };
            let good = std::iter::from_fn(&mut next)
                .take_while(Result::is_ok)
                .count();
            assert!(good > 0 && good < 600, "{io:?}: {good} before the damage");
            assert!(
                (0..700).all(|_| next().is_none()),
                "{io:?}: it goes on behind an error"
            );
            good
        };
        assert!(ends(true) + ends(false) < 600);
        let mut cursor = db.cursor();
        let mut on = cursor.first();
        while let Ok(true) = on {
            on = cursor.next();
        }
        assert_eq!(on.unwrap_err().kind(), ErrorKind::Corruption);
        assert_eq!(cursor.next().unwrap_err().kind(), ErrorKind::Corruption);
        assert!(db.count(..).is_err(), "a count passes over damage");
    }
}

/// Elsewhere the cleaning-up after a merge that kept nothing took an input for its output.
#[test]
fn a_merge_that_keeps_nothing_takes_no_other_table_along() {
    let vfs = MemVfs::new(1);
    let options = small(vfs.clone());
    let db = options.open(Path::new(DIR)).unwrap();
    let (stays, goes) = (db.keyspace("stays").unwrap(), db.keyspace("goes").unwrap());
    for n in 0..200 {
        stays.put(format!("{n}"), [7; 100]).unwrap();
        goes.put(format!("{n}"), [7; 100]).unwrap();
    }
    db.compact_all().unwrap();
    for n in 0..200 {
        goes.delete(format!("{n}")).unwrap();
    }
    goes.compact(..).unwrap();
    db.compact_all().unwrap();
    db.close().unwrap();
    let db = options.open(Path::new(DIR)).unwrap();
    assert_eq!(
        db.keyspace("stays")
            .unwrap()
            .iter()
            .map(Result::unwrap)
            .count(),
        200
    );
    assert!(db.keyspace("goes").unwrap().is_empty().unwrap());
}

/// One row of the list: its number and the rest.
fn rows(list: &str) -> impl Iterator<Item = (u32, &str)> {
    list.lines().filter_map(|line| {
        let (number, rest) = line.strip_prefix("| ")?.split_once(" | ")?;
        Some((number.parse().ok()?, rest))
    })
}

/// What is wrong with the list: rows that are missing, doubled or without a reason, and tests that
/// do not exist.
fn wrong_with(list: &str, root: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let numbers: Vec<u32> = rows(list).map(|(number, _)| number).collect();
    if numbers != (1..=53).collect::<Vec<_>>() {
        wrong.push(format!("the rows are {numbers:?}"));
    }
    for (number, row) in rows(list) {
        let tests: BTreeSet<&str> = row
            .split('`')
            .filter(|word| word.contains(".rs::"))
            .collect();
        if tests.is_empty() && !row.contains("| Cannot be") && !row.contains("| Not yet") {
            wrong.push(format!("{number} names neither a test nor a reason"));
        }
        for test in tests {
            let (file, name) = test.split_once("::").unwrap_or((test, ""));
            let source = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            let test = format!("#[test]\nfn {name}() {{");
            let flat: String = source
                .lines()
                .map(|line| line.trim_start().to_string() + "\n")
                .collect();
            if !flat.contains(&test) {
                wrong.push(format!("{number} names {file}::{name}, which is not there"));
            }
        }
    }
    wrong
}

#[test]
fn every_test_that_the_list_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(root.join("tests/REGRESSIONS.md")).unwrap();
    assert_eq!(wrong_with(&list, root), Vec::<String>::new());
    assert!(list.matches(".rs::").count() > 60);
    // And it would be noticed if not.
    for (from, to) in [
        ("::a_damaged_log", "::a_damaged_dog"),
        ("tests/it/crash.rs::", "tests/it/crashes.rs::"),
        ("| 17 |", "| 18 |"),
        ("| Not yet", "| Perhaps"),
    ] {
        assert!(list.contains(from));
        assert_ne!(
            wrong_with(&list.replacen(from, to, 1), root).len(),
            0,
            "{from}"
        );
    }
}
