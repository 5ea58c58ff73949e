//! Large values in blob files: what is read of them, wherever they lie; what is given back of them, and when; what crashes
//! and damage leave.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, OpenMode, Vfs};
use terrace::{Batch, Db, Durability, ErrorKind, Expiry, KeyspaceOptions, Options};

fn options() -> Options {
    Options::new().tune(|tuning| {
        tuning.manual = true;
        tuning.blob_bytes = 1 << 20;
        tuning.table_bytes = 16 << 10;
    })
}

fn on(vfs: &std::sync::Arc<MemVfs>) -> Options {
    options().vfs(vfs.clone())
}

/// Bytes that differ by seed and by place.
fn value(seed: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (seed.wrapping_mul(31) + n as u64 * 7 + n as u64 / 253) as u8)
        .collect()
}

fn blob_files(vfs: &MemVfs) -> Vec<String> {
    let names = vfs.read_dir(Path::new("/db")).unwrap().into_iter();
    let mut names: Vec<String> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.ends_with(".blob"))
        .collect();
    names.sort();
    names
}

/// Every way to read the whole database gives `expected`.
fn check(db: &Db, expected: &BTreeMap<String, Vec<u8>>) {
    for (key, value) in expected {
        assert_eq!(db.get(key).unwrap().as_deref(), Some(&value[..]), "{key}");
        assert_eq!(db.get_with(key, |v| v == value).unwrap(), Some(true));
        assert!(db.contains_key(key).unwrap());
        let len = value.len() as u64;
        for (from, to) in [
            (0, 10),
            (len / 2, len / 2 + 40_000),
            (len - 1, u64::MAX),
            (len, len + 9),
            (9, 3),
        ] {
            let start = from.min(len) as usize;
            let part = value.get(start..to.min(len) as usize).unwrap_or_default();
            assert_eq!(db.get_slice(key, from..to).unwrap().unwrap(), part);
        }
    }
    let all: BTreeMap<String, Vec<u8>> = db
        .iter()
        .map(|entry| entry.unwrap())
        .map(|(key, value)| (String::from_utf8(key.to_vec()).unwrap(), value.to_vec()))
        .collect();
    assert_eq!(&all, expected);
    assert!(
        db.iter()
            .rev()
            .map(|e| e.unwrap().1)
            .eq(expected.values().rev().cloned())
    );
    assert_eq!(db.iter().keys().count(), expected.len());
    let values = db.multi_get(expected.keys()).unwrap();
    assert!(values.into_iter().flatten().eq(expected.values().cloned()));
    let mut cursor = db.cursor();
    let mut on = cursor.last().unwrap();
    for (key, value) in expected.iter().rev() {
        assert!(on && cursor.key() == key.as_bytes());
        assert_eq!(cursor.value().unwrap(), value);
        assert_eq!(cursor.value().unwrap(), value);
        on = cursor.prev().unwrap();
    }
}

#[test]
fn large_values_are_read_in_every_way_wherever_they_lie() {
    let vfs = MemVfs::new(1);
    let mut expected = BTreeMap::new();
    let mut db = on(&vfs).open("/db").unwrap();
    for round in 0..4u64 {
        for n in 0..40u64 {
            let len = [10, 4095, 4096, 5000, 40_000, 100_000][(n + round) as usize % 6];
            let (key, value) = (
                format!("k{:02}", (n * 7 + round) % 60),
                value(n + round, len),
            );
            db.put(&key, &value).unwrap();
            expected.insert(key, value);
        }
        check(&db, &expected);
        match round {
            0 => {}
            1 => db.flush().unwrap(),
            2 => db.wait_idle().unwrap(),
            _ => db.compact_all().unwrap(),
        }
        check(&db, &expected);
        db.close().unwrap();
        db = on(&vfs).open("/db").unwrap();
        check(&db, &expected);
    }
    assert!(db.stats().blob_files > 0);
}

#[test]
fn writes_of_every_kind_take_large_values_apart() {
    let vfs = MemVfs::new(1);
    let options = on(&vfs).merge_operator("append", |_, old, new| [old, new].concat());
    let db = options.open("/db").unwrap();
    let large = |seed| value(seed, 10_000);
    let mut batch = Batch::new();
    batch
        .put("batch", large(1))
        .put("small", "s")
        .delete("nothing")
        .put_expiring("expiring", large(2), Expiry::In(Duration::from_secs(1000)))
        .put_expiring("expired", large(3), Expiry::At(std::time::UNIX_EPOCH))
        .append("appended", large(4))
        .append("appended", large(5));
    db.write(batch).unwrap();
    db.put("submitted", large(13)).unwrap(); // Dead soon, so that a third of all is.
    let mut batch = Batch::new();
    batch.put("submitted", large(6));
    db.submit(batch).unwrap().wait().unwrap();
    db.transact(|tx| tx.put("tx", large(7))).unwrap();
    assert!(db.put_if_absent("cas", large(8)).unwrap().is_done());
    assert!(
        db.compare_and_swap("cas", Some(&large(8)), Some(&large(9)))
            .unwrap()
            .is_done()
    );
    db.update("updated", |_| Some(large(10))).unwrap();
    db.put("kept", large(11)).unwrap();
    assert!(
        db.set_expiry("kept", Expiry::In(Duration::from_secs(1000)))
            .unwrap()
    );
    let mut merging = KeyspaceOptions::new();
    merging = merging.merge_operator("append");
    let lists = db.create_keyspace("lists", merging).unwrap();
    lists.put("list", large(12)).unwrap();
    lists.merge("list", "x").unwrap();
    let expected: BTreeMap<String, Vec<u8>> = [
        ("batch", large(1)),
        ("small", b"s".to_vec()),
        ("expiring", large(2)),
        ("appended", [large(4), large(5)].concat()),
        ("submitted", large(6)),
        ("tx", large(7)),
        ("cas", large(9)),
        ("updated", large(10)),
        ("kept", large(11)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), value))
    .collect();
    for step in 0..4 {
        check(&db, &expected);
        let list = [large(12), b"x".to_vec()].concat();
        assert_eq!(lists.get("list").unwrap().unwrap(), list);
        assert_eq!(lists.iter().next_back().unwrap().unwrap().1, list);
        assert!(db.get_entry("kept").unwrap().unwrap().expires_at.is_some());
        match step {
            0 => db.flush().unwrap(),
            1 => db.wait_idle().unwrap(),
            _ => db.compact_all().unwrap(),
        }
    }
    let stats = db.stats();
    let tables: u64 = stats.table_bytes;
    assert!(
        tables < 4096,
        "{tables} bytes of tables: a large value is in one"
    );
    assert_eq!(stats.blob_other_bytes / 10_000, 0, "{stats:?}");
    assert_eq!(db.take("tx").unwrap().unwrap(), large(7));
}

#[test]
fn thresholds_are_kept_changed_and_turned_off() {
    let vfs = MemVfs::new(1);
    let db = on(&vfs).open("/db").unwrap();
    let low = db
        .create_keyspace("low", KeyspaceOptions::new().blob_threshold(Some(100)))
        .unwrap();
    let never = db
        .create_keyspace(
            "never",
            KeyspaceOptions::new().blob_threshold(Some(u64::MAX)),
        )
        .unwrap();
    never.put("k", value(1, 50_000)).unwrap();
    assert_eq!(db.stats().blob_files, 0);
    low.put("k", value(2, 100)).unwrap();
    low.put("l", value(3, 99)).unwrap();
    db.flush().unwrap();
    let stored = db.stats().blob_live_bytes;
    assert!((100..150).contains(&stored), "{stored}");
    db.close().unwrap();
    let db = on(&vfs).open("/db").unwrap();
    let never = db.keyspace("never").unwrap();
    assert_eq!(never.options().blob_threshold, Some(u64::MAX));
    never.put("k", value(1, 50_000)).unwrap();
    assert_eq!(db.stats().bytes_stored, 0);
    // What is there moves as merges come across it.
    never.set_options(KeyspaceOptions::new()).unwrap();
    db.compact_all().unwrap();
    never.compact(..).unwrap();
    db.put("x", "y").unwrap();
    never.put("a", "b").unwrap();
    db.compact_all().unwrap();
    assert!(db.stats().blob_live_bytes > 50_000);
    assert_eq!(never.get("k").unwrap().unwrap(), value(1, 50_000));
}

#[test]
fn what_is_dead_is_given_back_and_pinned_readers_read_on() {
    let vfs = MemVfs::new(1);
    let db = on(&vfs).open("/db").unwrap();
    let mut expected = BTreeMap::new();
    for n in 0..100u64 {
        expected.insert(format!("k{n:02}"), value(n, 50_000));
    }
    for (key, value) in &expected {
        db.put(key, value).unwrap();
    }
    db.wait_idle().unwrap();
    let before = expected.clone();
    let (snapshot, iter) = (db.snapshot(), db.iter());
    let kept = blob_files(&vfs);
    for n in 0..100u64 {
        if n % 3 != 0 {
            let key = format!("k{n:02}");
            let new = value(n + 1000, 50_000);
            db.put(&key, &new).unwrap();
            expected.insert(key, new);
        }
    }
    db.wait_idle().unwrap();
    for name in &kept {
        assert!(blob_files(&vfs).contains(name), "a snapshot reads {name}");
    }
    for (key, value) in &before {
        assert_eq!(snapshot.get(key).unwrap().as_deref(), Some(&value[..]));
    }
    drop(snapshot);
    // The merge that this leads to takes the versions along that only the snapshot saw.
    let new = value(7777, 50_000);
    db.put("k50", &new).unwrap();
    expected.insert("k50".into(), new);
    db.compact_all().unwrap();
    db.wait_idle().unwrap();
    assert!(iter.map(|e| e.unwrap().1).eq(before.values().cloned()));
    db.wait_idle().unwrap();
    check(&db, &expected);
    let stats = db.stats();
    let live: u64 = expected.values().map(|value| value.len() as u64).sum();
    assert!(
        stats.blob_live_bytes + stats.blob_other_bytes < live * 3 / 2,
        "{stats:?}"
    );
    for name in &kept {
        assert!(!blob_files(&vfs).contains(name), "{name} is mostly dead");
    }
    db.close().unwrap();
    let db = on(&vfs).open("/db").unwrap();
    check(&db, &expected);
    db.clear().unwrap();
    db.compact_all().unwrap();
    db.wait_idle().unwrap();
    assert_eq!(blob_files(&vfs), Vec::<String>::new());
    assert!(db.is_empty().unwrap());
}

/// A collection that runs while a key is deleted must not bring it back: the rewritten entry keeps
/// its place.
#[test]
fn collection_brings_no_deleted_key_back() {
    for tombstone_first in [false, true] {
        let vfs = MemVfs::new(1);
        let db = on(&vfs).open("/db").unwrap();
        for n in 0..40u64 {
            db.put(format!("k{n:02}"), value(n, 50_000)).unwrap();
        }
        db.wait_idle().unwrap();
        for n in 0..36u64 {
            db.delete(format!("k{n:02}")).unwrap();
        }
        if tombstone_first {
            db.compact_all().unwrap();
        } else {
            db.flush().unwrap();
            db.wait_idle().unwrap();
        }
        assert_eq!(db.count(..).unwrap(), 4);
        db.compact_all().unwrap();
        db.close().unwrap();
        let db = on(&vfs).open("/db").unwrap();
        db.compact_all().unwrap();
        assert_eq!(db.count(..).unwrap(), 4);
        assert_eq!(db.get("k39").unwrap().unwrap(), value(39, 50_000));
        assert_eq!(db.get("k00").unwrap(), None);
    }
}

#[test]
fn bulk_loads_put_large_values_into_files_of_their_own() {
    let vfs = MemVfs::new(1);
    let db = on(&vfs).open("/db").unwrap();
    let expected: BTreeMap<String, Vec<u8>> = (0..50u64)
        .map(|n| (format!("k{n:02}"), value(n, [50, 60_000][n as usize % 2])))
        .collect();
    db.ingest(expected.iter()).unwrap();
    check(&db, &expected);
    let stats = db.stats();
    assert!(stats.table_bytes < 16 << 10 && stats.blob_live_bytes > 25 * 60_000);
    let mut other = expected.clone();
    other.insert("zz".into(), value(99, 70_000));
    let reversed = other.iter().rev();
    db.ingest_unsorted(reversed, 100_000, |_| ()).unwrap();
    check(&db, &other);
    db.compact_all().unwrap();
    check(&db, &other);
    assert!(db.stats().blob_other_bytes < 10_000, "{:?}", db.stats());
}

#[test]
fn filters_and_operators_see_large_values() {
    let options = options()
        .merge_operator("append", |_, old, new| [old, new].concat())
        .compaction_filter("odd", |_, value| value.first() != Some(&b'x'));
    let db = options.open_in_memory().unwrap();
    let keyspace = db
        .create_keyspace(
            "k",
            KeyspaceOptions::new()
                .merge_operator("append")
                .compaction_filter(Some("odd")),
        )
        .unwrap();
    keyspace.put("gone", vec![b'x'; 9000]).unwrap();
    keyspace.put("stays", vec![b'y'; 9000]).unwrap();
    db.compact_all().unwrap();
    keyspace.merge("stays", "tail").unwrap();
    db.compact_all().unwrap();
    assert_eq!(keyspace.get("gone").unwrap(), None);
    let expected = [&[b'y'; 9000][..], b"tail"].concat();
    assert_eq!(keyspace.get("stays").unwrap().unwrap(), expected);
    let stats = db.stats();
    assert_eq!(
        stats.levels.iter().map(|level| level.entries).sum::<u64>(),
        1
    );
    assert!(stats.blob_live_bytes > 9000, "{stats:?}");
}

/// What was acknowledged under Sync is there after a cut, whatever the disk had of the rest; and no
/// frame counts whose value is torn.
#[test]
fn a_cut_loses_no_synced_value_and_shows_no_torn_one() {
    for seed in 0..60u64 {
        let vfs = MemVfs::crashable(seed);
        let db = on(&vfs).open("/db").unwrap();
        let mut synced = 0;
        for n in 0..12u64 {
            let mut batch = Batch::new();
            batch.put(format!("k{n:02}"), value(n, 5000 + 9000 * (n as usize % 3)));
            let sync = (seed + n) % 5 == 0;
            batch.durability(if sync {
                Durability::Sync
            } else {
                Durability::Buffered
            });
            db.write(batch).unwrap();
            if sync {
                synced = n + 1;
            }
            if seed % 7 == 3 && n == 6 {
                db.flush().unwrap();
                synced = n + 1;
            }
        }
        for policy in CrashPolicy::ALL {
            let image = vfs.image(ImageKind::Cut, *policy, seed);
            for _ in 0..2 {
                let db = on(&image).open("/db").unwrap();
                let found = db.count(..).unwrap();
                assert!(
                    found >= synced,
                    "seed {seed} {policy:?}: {found} of {synced}"
                );
                for n in 0..found {
                    let key = format!("k{n:02}");
                    let expected = value(n, 5000 + 9000 * (n as usize % 3));
                    assert_eq!(
                        db.get(&key).unwrap().unwrap(),
                        expected,
                        "seed {seed} {policy:?}"
                    );
                }
            }
        }
    }
}

/// A killed process may leave in the page cache what never reaches the disk.
#[test]
fn what_recovery_found_unsynced_survives_a_cut_right_after() {
    let vfs = MemVfs::crashable(5);
    let options = on(&vfs).durability(Durability::Buffered);
    let db = options.open("/db").unwrap();
    for n in 0..5u64 {
        db.put(format!("k{n}"), value(n, 20_000)).unwrap();
    }
    let killed = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1);
    let reopened = on(&killed).open("/db").unwrap();
    assert_eq!(reopened.count(..).unwrap(), 5);
    let cut = killed.image(ImageKind::Cut, CrashPolicy::DropAll, 1);
    let db = on(&cut).open("/db").unwrap();
    for n in 0..5u64 {
        assert_eq!(db.get(format!("k{n}")).unwrap().unwrap(), value(n, 20_000));
    }
}

#[test]
fn damage_is_named_and_concerns_only_the_values_it_hit() {
    let vfs = MemVfs::new(1);
    let db = on(&vfs).open("/db").unwrap();
    for n in 0..3u64 {
        db.put(format!("k{n}"), value(n, 100_000)).unwrap();
    }
    db.compact_all().unwrap();
    db.close().unwrap();
    let name = blob_files(&vfs).pop().unwrap();
    let path = Path::new("/db").join(&name);
    let file = vfs.open(&path, OpenMode::ReadWrite).unwrap();
    file.write_at(&[0xee], 150_000).unwrap();
    let db = on(&vfs).open("/db").unwrap();
    assert_eq!(db.get("k0").unwrap().unwrap(), value(0, 100_000));
    assert_eq!(db.get("k2").unwrap().unwrap(), value(2, 100_000));
    let error = db.get("k1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(error.file().unwrap().0.ends_with(&name));
    // A part that is whole can be had.
    assert_eq!(
        db.get_slice("k1", 90_000..90_100).unwrap().unwrap(),
        value(1, 100_000)[90_000..90_100]
    );
    assert!(db.get_slice("k1", 45_000..60_000).is_err());
    assert_eq!(db.iter().keys().count(), 3);
    let mut cursor = db.cursor();
    assert!(cursor.first().unwrap() && cursor.next().unwrap());
    assert!(cursor.value().is_err());
    assert!(cursor.next().unwrap());
    assert_eq!(cursor.value().unwrap(), value(2, 100_000));
    // Collection does not stumble over it.
    db.put("k0", value(7, 100_000)).unwrap();
    db.delete("k2").unwrap();
    db.wait_idle().unwrap();
    db.compact_all().unwrap();
    assert_eq!(db.health().unwrap_err().kind(), ErrorKind::Corruption);
    assert_eq!(db.get("k1").unwrap_err().kind(), ErrorKind::Corruption);
    assert_eq!(db.get("k0").unwrap().unwrap(), value(7, 100_000));
    db.close().unwrap();
    vfs.remove_file(&path).unwrap();
    let error = on(&vfs).open("/db").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
}

/// Where the entry that lists a blob file was cut off, the value was once taken for one that never
/// was acknowledged; and if it had been promised, the error named no file.
#[test]
fn a_cut_manifest_is_refused_by_name_or_harmless() {
    let vfs = MemVfs::new(1);
    let db = on(&vfs).open("/db").unwrap();
    db.put("small", "1").unwrap();
    db.put("large", value(1, 100_000)).unwrap();
    let vfs = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1);
    drop(db);
    let name = |path: &Path| path.to_string_lossy().contains("MANIFEST-");
    let (path, _) = vfs.files().into_iter().find(|(p, _)| name(p)).unwrap();
    let whole = vfs.read_file(&path).unwrap();
    let mut unlisted = 0;
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for len in (0..used).step_by(8) {
        let vfs = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1);
        let mut cut = whole.clone();
        cut.iter_mut().skip(len).for_each(|byte| *byte = 0);
        vfs.write_file(&path, &cut);
        match on(&vfs).open("/db") {
            Ok(db) => assert_eq!(db.get("large").unwrap().unwrap(), value(1, 100_000)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corruption, "{len}: {error}");
                let file = error.file().unwrap_or_else(|| panic!("{len}: {error}")).0;
                unlisted += usize::from(file == path && error.to_string().contains("blob"));
            }
        }
    }
    assert!(unlisted > 0);
}

/// Many threads write, overwrite and read large values while files are collected and removed.
#[test]
fn threads_write_and_read_while_files_go() {
    let vfs = MemVfs::new(1);
    let options = Options::new().vfs(vfs.clone()).tune(|tuning| {
        tuning.blob_bytes = 256 << 10;
        tuning.memtable_bytes = Some(16 << 10);
        tuning.table_bytes = 16 << 10;
        tuning.list_entries = 64;
    });
    let db = options
        .durability(Durability::Buffered)
        .open("/db")
        .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let db = db.clone();
            scope.spawn(move || {
                for round in 0..60u64 {
                    for n in 0..10u64 {
                        let key = format!("{thread}-{n}");
                        db.put(&key, value(round * 10 + n, 6000)).unwrap();
                        let back = db.get(&key).unwrap().unwrap();
                        assert_eq!(back, value(round * 10 + n, 6000));
                    }
                    if round % 8 == thread {
                        db.flush().unwrap();
                    }
                    for entry in db.iter() {
                        assert_eq!(entry.unwrap().1.len(), 6000);
                    }
                }
            });
        }
    });
    db.wait_idle().unwrap();
    db.health().unwrap();
    let stats = db.stats();
    assert!(
        stats.blob_live_bytes + stats.blob_other_bytes < 600_000,
        "{stats:?}"
    );
    assert_eq!(db.count(..).unwrap(), 40);
    db.close().unwrap();
}

#[test]
fn a_salvage_loses_only_values_that_cannot_be_read() {
    for case in 0..3 {
        let vfs = MemVfs::new(1);
        let db = on(&vfs).open("/db").unwrap();
        for n in 0..30u64 {
            db.put(format!("k{n:02}"), value(n, 100_000)).unwrap();
        }
        if case != 1 {
            db.compact_all().unwrap(); // Else the log has them.
        }
        db.put("small", "s").unwrap();
        db.close().unwrap();
        let names = blob_files(&vfs);
        let path = Path::new("/db").join(&names[1]);
        match case {
            0 | 1 => vfs.remove_file(&path).unwrap(),
            _ => {
                let file = vfs.open(&path, OpenMode::ReadWrite).unwrap();
                file.write_at(&[0xee], 150_000).unwrap();
            }
        }
        let (db, report) = on(&vfs).salvage("/db").unwrap();
        let found: Vec<String> = db
            .iter()
            .map(|entry| String::from_utf8(entry.unwrap().0.to_vec()).unwrap())
            .collect();
        let lost = 31 - found.len();
        assert_eq!(report.losses.len(), lost, "{report}");
        assert_eq!(lost, if case == 2 { 1 } else { 10 }, "{report}");
        for n in 0..30u64 {
            let key = format!("k{n:02}");
            let covered = report
                .losses
                .iter()
                .any(|loss| loss.covers("default", key.as_bytes(), terrace::SeqNo::new(n + 1)));
            match db.get(&key).unwrap() {
                Some(found) => assert_eq!(found, value(n, 100_000)),
                None => assert!(covered, "{key}: {report}"),
            }
        }
        assert_eq!(db.get("small").unwrap().unwrap(), "s");
        db.close().unwrap();
        let db = on(&vfs).open("/db").unwrap();
        db.compact_all().unwrap();
        assert_eq!(db.count(..).unwrap() as usize, found.len());
        drop(db);
        // Without a manifest everything is looked for.
        vfs.remove_file(Path::new("/db/CURRENT")).unwrap();
        let (db, _) = on(&vfs).salvage("/db").unwrap();
        for key in &found {
            assert!(db.get(key).unwrap().is_some(), "{key}");
        }
    }
}
