//! What random operations found, each in its smallest form.

use std::sync::Arc;
use std::time::Duration;

use terrace::vfs::{CrashPolicy, Fault, FaultVfs, ImageKind, MemVfs, Op, Vfs};
use terrace::{Compression, Db, Durability, ErrorKind, Options};
use terrace_kit::{Mode, Scenario};

/// Its slices were made of a null pointer when it was the first of a list.
#[test]
fn an_empty_key_with_an_empty_value_is_an_entry() {
    let db = Db::in_memory().unwrap();
    db.put("", "").unwrap();
    assert_eq!(db.get("").unwrap().unwrap(), "");
    assert_eq!(db.first().unwrap().unwrap(), Default::default());
    let mut cursor = db.cursor();
    assert!(cursor.seek("").unwrap());
    assert!(cursor.seek_for_prev("").unwrap());
    assert_eq!(cursor.value().unwrap(), b"");
    db.flush().unwrap();
    assert_eq!(db.iter().count(), 1);
}

/// Tables are opened when first read: an iterator that had not come to one when its database was
/// closed found the file gone once the next opener had compacted.
#[test]
fn an_iterator_outlives_its_database_and_its_files() {
    let vfs: Arc<dyn Vfs> = MemVfs::new(1);
    let scenario = Scenario::on(vfs, Mode::Manual);
    let db = scenario.open(0).unwrap();
    for i in 0..300 {
        db.put(format!("{i:03}"), [i as u8; 100]).unwrap();
    }
    db.compact_all().unwrap();
    db.close().unwrap();

    let db = scenario.open(1).unwrap();
    let (old_view, old_cursor) = (db.iter(), db.cursor());
    db.put("000", "new").unwrap();
    db.flush().unwrap();
    let (iter, mut cursor) = (db.iter(), db.cursor());
    db.close().unwrap();

    let db = scenario.open(2).unwrap();
    for i in 0..300 {
        db.delete(format!("{i:03}")).unwrap();
    }
    db.compact_all().unwrap();
    assert_eq!(db.stats().table_bytes, 0);
    assert_eq!(iter.map(Result::unwrap).count(), 300);
    assert_eq!(old_view.rev().map(Result::unwrap).count(), 300);
    assert!(cursor.last().unwrap() && cursor.key() == b"299");
    let mut cursor = old_cursor;
    assert!(cursor.first().unwrap() && cursor.value().unwrap() == [0; 100]);
}

/// A database dropped by a panic of its user waited for a lock that it held itself.
#[test]
fn a_panic_of_the_user_closes_the_database_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let user = std::thread::spawn(move || {
        let db = Db::open(&path).unwrap();
        db.put("k", "v").unwrap();
        panic!("the user's own");
    });
    assert!(user.join().is_err());
    let db = Db::open(dir.path()).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
}

/// A write during an unwinding that began elsewhere was taken for a panic of the commit path.
#[test]
fn a_database_can_be_used_while_a_thread_unwinds() {
    struct Last(Db);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.put("last", "words").unwrap();
            self.0.flush().unwrap();
        }
    }
    let db = Db::in_memory().unwrap();
    let last = Last(db.clone());
    let user = std::thread::spawn(move || {
        let _last = last;
        panic!("the user's own");
    });
    assert!(user.join().is_err());
    db.health().unwrap();
    assert_eq!(db.get("last").unwrap().unwrap(), "words");
    db.put("k", "v").unwrap();
}

/// Images of sealed lists left out the entries of a dropped keyspace although a snapshot still saw
/// them.
#[test]
fn a_snapshot_keeps_a_dropped_keyspace_in_memory_too() {
    let options = Options::new().tune(|tuning| tuning.list_entries = 4);
    let db = options.open_in_memory().unwrap();
    let users = db.keyspace("users").unwrap();
    for i in 0..10 {
        users.put([i], "v").unwrap();
    }
    let before = users.snapshot();
    db.drop_keyspace("users").unwrap();
    for i in 0..100 {
        db.put([i], "v").unwrap(); // Images and folds.
        assert_eq!(before.iter().count(), 10, "after {i}");
        std::thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..2 {
        assert_eq!(before.get([9]).unwrap().unwrap(), "v");
        db.compact_all().unwrap();
    }
    drop(before);
    assert_eq!(db.iter().count(), 100);
}

/// An image of nothing but a dropped keyspace's entries was empty, which no table may be: `flush`
/// failed with that.
#[test]
fn a_keyspace_dropped_while_it_is_in_memory_is_no_trouble() {
    let options = Options::new().tune(|tuning| tuning.list_entries = 4);
    let db = options.open_in_memory().unwrap();
    for _ in 0..20 {
        let users = db.keyspace("users").unwrap();
        for i in 0..40 {
            users.put([i], "v").unwrap();
        }
        db.drop_keyspace("users").unwrap();
        std::thread::sleep(Duration::from_millis(2));
        db.health().unwrap();
        db.flush().unwrap();
    }
    assert_eq!(db.stats().table_bytes, 0);
}

/// `flush` gave up with the error of a compaction, though its own table could be written.
#[test]
fn a_compaction_that_fails_does_not_fail_a_flush() {
    let mem = MemVfs::new(1);
    let scenario = Scenario::on(mem.clone(), Mode::Manual);
    let db = scenario.open(0).unwrap();
    for i in 0..6 {
        db.put(format!("{i}"), "v").unwrap();
        db.flush().unwrap();
    }
    db.close().unwrap();
    let old: Vec<_> = mem.files().into_iter().map(|(path, _)| path).collect();
    let vfs = FaultVfs::new(mem);
    let is_old = move |path: &std::path::Path| {
        path.extension().is_some_and(|e| e == "sst") && old.iter().any(|old| old == path)
    };
    vfs.arm_when(
        move |call| call.op == Op::Open && is_old(&call.path),
        Fault::Errno(5),
        true,
    );
    let scenario = Scenario::on(vfs.clone(), Mode::Threads);
    let db = scenario
        .options(0)
        .durability(Durability::Sync)
        .open("/db")
        .unwrap();
    for i in 0..20 {
        db.put(format!("x{i}"), "v").unwrap();
        db.flush().unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let start = std::time::Instant::now();
    while db.health().is_ok() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the compaction's failure is not shown"
        );
    }
    assert!(vfs.injected() > 0);
    db.put("last", "v").unwrap();
    db.flush().unwrap();
    assert_eq!(db.health().unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(db.wait_idle().unwrap_err().kind(), ErrorKind::Io);
    vfs.disarm();
    let start = std::time::Instant::now();
    while db.health().is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it is not tried again"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    db.wait_idle().unwrap();
    assert_eq!(db.count(..).unwrap(), 27);
}

/// A close that wrote no frame left its mark in the manifest; after the one edit of a manifest
/// that had just been rewritten that told nothing, and the next open took the end for a crash.
#[test]
fn a_close_behind_a_rewritten_manifest_is_a_clean_end() {
    let vfs = MemVfs::new(1);
    let options = |table_bytes| {
        let options = Options::new().compression(Compression::None);
        options.vfs(vfs.clone()).tune(|tuning| {
            tuning.manual = true;
            tuning.manifest_bytes = 1;
            tuning.table_bytes = table_bytes;
        })
    };
    let db = options(1 << 20).open("/db").unwrap();
    for round in 0..2 {
        for i in 0..256u32 {
            db.put(i.to_be_bytes(), [round; 4000]).unwrap();
        }
        db.flush().unwrap();
    }
    db.close().unwrap();

    // One compaction, whose edit names so many tables that the manifest is written anew.
    let manifest = || {
        let names = vfs.files().into_iter().map(|(path, _)| path);
        let mut manifests = names.filter(|path| path.to_string_lossy().contains("MANIFEST"));
        manifests.next()
    };
    let db = options(4096).open("/db").unwrap();
    let old = manifest();
    db.compact_all().unwrap();
    db.close().unwrap();
    assert_ne!(manifest(), old);

    let calls = vfs.mutations();
    let db = options(4096).open("/db").unwrap();
    assert_eq!(vfs.mutations(), calls, "a clean open has written");
    assert_eq!(db.count(..).unwrap(), 256);
}

/// Two jobs that found the same range delete to hide nothing any more both made an edit that forgot
/// it; the second one was taken for damage.
#[test]
fn a_range_delete_is_forgotten_once() {
    let scenario = Scenario::on(MemVfs::new(1), Mode::Manual);
    let db = scenario.open(1).unwrap();
    for round in 0..100 {
        for i in 0..20 {
            db.put(format!("{i:02}"), [round]).unwrap();
            db.delete_range(format!("{i:02}")..format!("{:02}", i + 9))
                .unwrap();
        }
        db.flush().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let compacted = || db.compact_all().unwrap();
                scope.spawn(compacted);
            }
        });
    }
    db.health().unwrap();
}

/// The log had failed after writes that had returned and were not on disk, and `close` answered
/// `Ok`.
#[test]
fn a_close_says_that_writes_which_returned_may_be_lost() {
    let vfs = FaultVfs::new(MemVfs::new(1));
    let options = Options::new()
        .durability(Durability::Buffered)
        .vfs(vfs.clone())
        .tune(|tuning| tuning.manual = true);
    let db = options.open("/db").unwrap();
    db.put("k", "v").unwrap();
    vfs.arm_when(|call| call.op == Op::SyncData, Fault::Errno(5), true);
    assert!(db.sync().is_err() && vfs.injected() > 0);
    vfs.disarm();
    assert_eq!(db.close().unwrap_err().kind(), ErrorKind::ReadOnly);
}

/// The tables of two databases were as long as each other, so the manifest of one opened beside the
/// files of the other. Reads of tables failed, but what only the log had was missing without a
/// word: its segments were taken for ones not written yet.
#[test]
fn a_manifest_of_another_database_is_told_by_its_tables() {
    let home = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| home.path().join(name));
    let options = || Options::new().tune(|tuning| tuning.manual = true);
    for dir in [&ours, &theirs] {
        let db = options().open(dir).unwrap();
        db.put("k", "v").unwrap();
        db.flush().unwrap();
        db.put("late", "v").unwrap();
    }
    let names = std::fs::read_dir(&theirs).unwrap();
    for name in names.map(|entry| entry.unwrap().file_name()) {
        if name == "CURRENT" || name.to_string_lossy().contains("MANIFEST") {
            std::fs::copy(theirs.join(&name), ours.join(&name)).unwrap();
        }
    }
    let error = options().open(&ours).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    assert!(error.to_string().contains("another database"), "{error}");
}

/// Writes went on after an ingest had met a failed sync of the directory, until the next flush was
/// told so.
#[test]
fn a_failed_directory_sync_of_an_ingest_ends_the_writes() {
    for sorted in [true, false] {
        ingest_without_directory(sorted);
    }
}

fn ingest_without_directory(sorted: bool) {
    let vfs = FaultVfs::new(MemVfs::new(1));
    let options = Options::new().vfs(vfs.clone());
    let options = options.tune(|tuning| tuning.manual = true);
    let db = options.open("/db").unwrap();
    db.put("before", "v").unwrap();
    vfs.arm_when(|call| call.op == Op::SyncDir, Fault::Errno(5), false);
    let entries = [("k", "v")];
    let ingested = match sorted {
        true => db.ingest(entries),
        false => db.ingest_unsorted(entries, 0, |_| {}),
    };
    let kind = ingested.unwrap_err().kind();
    assert_eq!((kind, vfs.injected()), (ErrorKind::ReadOnly, 1));
    let after = db.put("after", "v").unwrap_err();
    assert_eq!(after.kind(), ErrorKind::ReadOnly);
    assert_eq!(db.health().unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(db.get("before").unwrap().unwrap(), "v");
    assert_eq!(db.get("k").unwrap(), None);
}

/// The entries were in, and the error was that of removing what was not needed any more.
#[test]
fn an_ingest_that_is_in_does_not_fail() {
    for sorted in [true, false] {
        let vfs = FaultVfs::new(MemVfs::new(1));
        let options = Options::new().vfs(vfs.clone()).tune(|tuning| {
            tuning.manual = true;
            tuning.segment_bytes = (4096, Some(4096));
        });
        let db = options.open("/db").unwrap();
        for n in 0..60 {
            db.put(format!("{n}"), [7; 500]).unwrap();
        }
        vfs.arm_when(|call| call.op == Op::Remove, Fault::Errno(5), true);
        let entries = [("b", "2"), ("k", "v")];
        let ingested = match sorted {
            true => db.ingest(entries),
            false => db.ingest_unsorted(entries, 0, |_| {}),
        };
        let version = db.get_entry("k").unwrap().unwrap().version;
        assert_eq!(ingested.unwrap(), version);
        assert!(sorted || vfs.injected() > 0);
        vfs.disarm();
        db.flush().unwrap();
        db.close().unwrap();
        let db = options.open("/db").unwrap();
        assert_eq!(
            (db.count(..).unwrap(), db.get("b").unwrap().unwrap()),
            (62, "2".into())
        );
    }
}

/// An ingest left nothing in the log, so nothing said that a manifest of before it was an old one:
/// its entries were gone without an error.
#[test]
fn a_manifest_of_before_an_ingest_is_told() {
    for (put, closed) in [(false, true), (true, true), (true, false)] {
        let vfs = MemVfs::crashable(1);
        let options = Options::new().vfs(vfs.clone());
        let options = options.tune(|tuning| tuning.manual = true);
        options.open("/db").unwrap().put("before", "v").unwrap();
        let db = options.open("/db").unwrap();
        let of_manifest = |path: &std::path::Path| {
            let name = path.to_string_lossy();
            name.ends_with("CURRENT") || name.contains("MANIFEST-")
        };
        let mut old = vfs.files();
        old.retain(|(path, _)| of_manifest(path));
        let old = old.into_iter().map(|(path, _)| {
            let bytes = vfs.read_file(&path).unwrap();
            (path, bytes)
        });
        let old: Vec<_> = old.collect();
        db.ingest([("k", "v")]).unwrap();
        if put {
            db.put("after", "v").unwrap();
        }
        let image = match closed {
            true => {
                db.close().unwrap();
                vfs.clone()
            }
            false => vfs.image(ImageKind::Cut, CrashPolicy::DropAll, 1),
        };
        for (path, bytes) in old {
            image.write_file(&path, &bytes);
        }
        let error = options.vfs(image).open("/db").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    }
}

/// A compaction drops a key together with its delete, and with it the trace that the key was
/// deleted. A step that had been overtaken by flushes several times looked for that trace, and wrote
/// as if the key were still there: one entry of a queue went to two threads.
#[test]
fn a_step_notices_a_delete_that_a_compaction_dropped() {
    let options = Options::new().tune(|tuning| tuning.manual = true);
    let db = options.vfs(MemVfs::new(1)).open("/db").unwrap();
    let delete_one = |db: &Db| db.delete("k").unwrap();
    let delete_all = |db: &Db| db.clear().unwrap();
    for delete in [delete_one, delete_all] {
        // More keys than a delete of a range takes one by one.
        for n in 0..20_u8 {
            db.put([n], "other").unwrap();
        }
        db.put("k", "old").unwrap();
        let mut seen = Vec::new();
        let step = |value: Option<&[u8]>| {
            seen.push(value.map(<[u8]>::to_vec));
            assert!(seen.len() < 10, "it never ends");
            match seen.len() {
                5 => delete(&db),
                _ => db.put("unrelated", "x").unwrap(),
            };
            db.compact_all().unwrap();
            Some(b"new".to_vec())
        };
        db.update("k", step).unwrap();
        // Four attempts are given up without a look, the fifth meets the delete.
        let old = Some(b"old".to_vec());
        assert_eq!(seen[..5], vec![old; 5][..]);
        assert_eq!(seen[5..], [None]);
        assert_eq!(db.get("k").unwrap().unwrap(), "new");
        db.clear().unwrap();
        db.compact_all().unwrap();
    }
    // Nothing stays registered.
    let stats = db.stats();
    let entries = stats.levels.iter().map(|level| level.entries);
    assert_eq!(entries.sum::<u64>(), 0);
}
