//! Salvage: what it refuses, what it reports of each kind of loss, and that a crash on the way takes nothing.
//!
//! What every single damage leads to is the business of the torture mode `corrupt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use terrace::vfs::{Call, CrashPolicy, Fault, FaultVfs, ImageKind, MemVfs, Op, Vfs};
use terrace::{
    Compression, Db, Durability, ErrorKind, IoMode, KeyspaceOptions, LossKind, Options, Salvage,
    SeqNo,
};
use terrace_kit::{APPEND, registered};

const DIR: &str = "/data/db";

type Content = BTreeMap<(String, Vec<u8>), Vec<u8>>;

fn options(vfs: Arc<dyn Vfs>) -> Options {
    Options::new()
        .memory(4 << 20)
        .compression(Compression::Lz4)
        .io(IoMode::Pread)
        .tune(|tuning| {
            tuning.manual = true;
            tuning.segment_bytes = (4096, Some(4096));
        })
        .vfs(vfs)
}

/// Two tables, one packed and one raw, and a log; in the keyspaces `default`, `users` and `late`.
fn database() -> (Arc<MemVfs>, Content) {
    let vfs = MemVfs::crashable(3);
    let db = options(vfs.clone()).open(DIR).unwrap();
    let users = db.keyspace("users").unwrap();
    for n in 0..60 {
        db.put(format!("a{n:03}"), format!("first {n}")).unwrap();
        users.put(format!("u{n:03}"), format!("user {n}")).unwrap();
    }
    db.compact_all().unwrap();
    db.delete("a001").unwrap();
    users.put("u002", "changed").unwrap();
    db.flush().unwrap();
    db.keyspace("late").unwrap().put("l", "late").unwrap();
    for n in 0..20 {
        db.put(format!("b{n:03}"), format!("second {n}")).unwrap();
    }
    let content = content(&db);
    db.close().unwrap();
    (vfs, content)
}

fn content(db: &Db) -> Content {
    let mut content = Content::new();
    for name in db.keyspaces().unwrap() {
        for entry in db.keyspace(&name).unwrap().iter() {
            let (key, value) = entry.unwrap();
            content.insert((name.clone(), key.to_vec()), value.to_vec());
        }
    }
    content
}

fn files(vfs: &MemVfs, end: &str) -> Vec<PathBuf> {
    let named = |path: &PathBuf| path.to_string_lossy().contains(end);
    let here = |path: &PathBuf| path.parent() == Some(Path::new(DIR));
    let files = vfs.files().into_iter().map(|(path, _)| path);
    files.filter(|path| named(path) && here(path)).collect()
}

fn salvage(vfs: &Arc<MemVfs>) -> (Db, Salvage) {
    options(vfs.clone()).salvage(DIR).unwrap()
}

#[test]
fn an_undamaged_database_is_opened_as_it_is() {
    let (vfs, wanted) = database();
    let before = vfs.content_hash();
    let (db, report) = salvage(&vfs);
    assert!(report.is_clean() && !report.lost_something());
    assert_eq!(report.to_string(), "nothing is damaged");
    assert!(content(&db) == wanted);
    db.close().unwrap();
    assert!(files(&vfs, "salvaged").is_empty());
    assert_eq!(vfs.content_hash(), before, "a clean open writes nothing");
}

#[test]
fn what_is_no_database_or_in_use_is_refused() {
    let vfs = MemVfs::new(1);
    let refused = |options: Options| options.salvage(DIR).unwrap_err().kind();
    assert_eq!(refused(options(vfs.clone())), ErrorKind::NotFound);
    vfs.write_file("/data/db/notes.txt", "mine");
    assert_eq!(refused(options(vfs.clone())), ErrorKind::NotFound);
    let (vfs, _) = database();
    assert_eq!(
        refused(options(vfs.clone()).read_only(true)),
        ErrorKind::Invalid
    );
    let db = options(vfs.clone()).open(DIR).unwrap();
    assert_eq!(refused(options(vfs.clone())), ErrorKind::Locked);
    db.close().unwrap();
    let (db, _) = salvage(&vfs);
    assert_eq!(
        options(vfs).open(DIR).unwrap_err().kind(),
        ErrorKind::Locked
    );
    db.close().unwrap();
}

#[test]
fn a_missing_table_is_reported_with_its_keys() {
    for at in 0..2 {
        let (vfs, wanted) = database();
        let table = files(&vfs, ".sst")[at].clone();
        vfs.remove(&table);
        let error = options(vfs.clone()).open(DIR).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption);
        let (db, report) = salvage(&vfs);
        assert_eq!(report.damaged, std::slice::from_ref(&table));
        assert_eq!((report.kept.tables, report.losses.len()), (1, 1));
        assert_eq!(
            report.kept.batches, 22,
            "a keyspace, and what was put into it and the default one"
        );
        let loss = &report.losses[0];
        assert_eq!((loss.kind, &loss.file), (LossKind::Table, &table));
        let text = report.to_string();
        assert!(
            text.contains("the table is missing") && text.contains("keys of `default`"),
            "{text}"
        );
        assert!(
            text.contains("deleted keys among those may be back"),
            "{text}"
        );
        let found = content(&db);
        if at == 0 {
            assert_eq!(found.len(), 20 + 1 + 1, "the log and the newer table");
        } else {
            // The newer table held the tombstone: the deleted key is back, and its loss says so.
            assert_eq!(found.len(), wanted.len() + 1);
            assert!(found.contains_key(&("default".into(), b"a001".to_vec())));
            assert!(loss.covers(
                "default",
                b"a001",
                loss.sequences.as_ref().map(|s| *s.start()).unwrap()
            ));
            assert!(!loss.covers("default", b"a002", SeqNo::new(121)));
        }
        db.put("new", "write").unwrap();
        db.close().unwrap();
        let again = options(vfs).open(DIR).unwrap();
        assert_eq!(again.get("new").unwrap().unwrap(), "write");
    }
}

#[test]
fn without_a_manifest_tables_and_log_are_enough() {
    for gone in [
        &["CURRENT"][..],
        &["MANIFEST"],
        &["CURRENT", "MANIFEST"],
        &["MANIFEST", ".wal"],
    ] {
        let (vfs, mut wanted) = database();
        for path in gone.iter().flat_map(|name| files(&vfs, name)) {
            vfs.remove(&path);
        }
        let (db, report) = salvage(&vfs);
        if gone == ["CURRENT"] {
            assert!(
                !report.lost_something(),
                "the only manifest is whole: {report}"
            );
        } else {
            assert_eq!(report.losses[0].kind, LossKind::Manifest);
        }
        if gone.contains(&".wal") {
            // The names of keyspaces are gone too, and with the log all that was in it alone.
            assert_eq!(report.renamed, ["salvaged-1"]);
            let tables = |(_, key): &(String, Vec<u8>)| b"au".contains(&key[0]);
            wanted.retain(|at, _| tables(at));
            let rename = |((name, key), value): ((String, Vec<u8>), _)| {
                let name = if name == "users" {
                    "salvaged-1".into()
                } else {
                    name
                };
                ((name, key), value)
            };
            wanted = wanted.into_iter().map(rename).collect();
            assert_eq!(db.keyspace("users").unwrap().iter().count(), 0, "a new one");
        }
        assert!(content(&db) == wanted, "without {gone:?}\n{report}");
        db.close().unwrap();
        let db = options(vfs).open(DIR).unwrap();
        assert!(content(&db) == wanted, "without {gone:?}, reopened");
    }
}

#[test]
fn batches_behind_a_hole_in_the_log_are_kept_and_the_hole_is_numbered() {
    let (vfs, wanted) = database();
    let segment = files(&vfs, ".wal").into_iter().next_back().unwrap();
    let mut bytes = vfs.read_file(&segment).unwrap();
    let at = bytes
        .windows(9)
        .position(|part| part == b"second 12")
        .unwrap();
    bytes[at] ^= 1;
    vfs.write_file(&segment, &bytes);
    assert_eq!(
        options(vfs.clone()).open(DIR).unwrap_err().kind(),
        ErrorKind::Corruption
    );
    let (db, report) = salvage(&vfs);
    let [loss] = &report.losses[..] else {
        panic!("{report}")
    };
    assert_eq!((loss.kind, &loss.file), (LossKind::Log, &segment));
    let bytes = loss.bytes.clone().unwrap();
    assert!(bytes.contains(&(at as u64)), "{report}");
    let range = loss.sequences.clone().unwrap();
    assert_eq!(range.start(), range.end(), "one write");
    assert!(loss.covers("default", b"b012", *range.start()));
    let mut rest = wanted;
    rest.remove(&("default".into(), b"b012".to_vec()));
    assert!(content(&db) == rest, "{report}");
}

/// The files that were there at first, wherever they are now.
fn originals(vfs: &MemVfs, before: &[(PathBuf, Vec<u8>)]) -> usize {
    let here: Vec<Vec<u8>> = vfs
        .files()
        .iter()
        .map(|(path, _)| vfs.read_file(path).unwrap())
        .collect();
    before
        .iter()
        .filter(|(_, bytes)| here.contains(bytes))
        .count()
}

#[test]
fn a_crash_on_the_way_takes_nothing_and_salvage_goes_again() {
    for missing in ["none", "MANIFEST"] {
        let (vfs, _) = database();
        let table = files(&vfs, ".sst").remove(0);
        let mut bytes = vfs.read_file(&table).unwrap();
        bytes[40] ^= 1;
        vfs.write_file(&table, &bytes);
        for path in files(&vfs, missing) {
            vfs.remove(&path);
        }
        let before: Vec<(PathBuf, Vec<u8>)> = vfs
            .files()
            .into_iter()
            .filter(|(path, _)| !path.ends_with("LOCK"))
            .map(|(path, _)| (path.clone(), vfs.read_file(&path).unwrap()))
            .collect();
        let images: Arc<Mutex<Vec<Arc<MemVfs>>>> = Arc::default();
        let taken = images.clone();
        vfs.set_hook(Some(Arc::new(move |vfs, number| {
            let mut images = taken.lock().unwrap();
            images.push(vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, number));
            for policy in [CrashPolicy::DropAll, CrashPolicy::KeepAll] {
                images.push(vfs.image(ImageKind::Cut, policy, number));
            }
        })));
        let (db, _) = salvage(&vfs);
        let wanted = content(&db);
        vfs.set_hook(None);
        db.close().unwrap();
        let images = std::mem::take(&mut *images.lock().unwrap());
        assert!(images.len() > 60, "{}", images.len());
        for (n, image) in images.iter().enumerate() {
            assert_eq!(
                originals(image, &before),
                before.len(),
                "image {n}, {missing}"
            );
            let (db, report) = salvage(image);
            let found = content(&db);
            assert_eq!(found, wanted, "image {n}, {missing}\n{report}");
            db.close().unwrap();
            assert_eq!(originals(image, &before), before.len(), "image {n} again");
            let db = options(image.clone()).open(DIR).unwrap();
            assert!(content(&db) == wanted);
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_damage_but_a_failed_write_is_not() {
    let (vfs, wanted) = database();
    let table = files(&vfs, ".sst").remove(1);
    let faulty = FaultVfs::new(vfs.clone());
    let unreadable = table.clone();
    let unread = move |call: &Call| call.op == Op::Read && call.path == unreadable;
    faulty.arm_when(unread, Fault::Errno(5), true);
    let (db, report) = options(faulty.clone()).salvage(DIR).unwrap();
    assert_eq!(
        (&report.damaged[..], report.losses.len()),
        (&[table][..], 1)
    );
    let lost = |(name, key): &&(String, Vec<u8>)| {
        !report.losses[0].covers(
            name,
            key,
            *report.losses[0].sequences.as_ref().unwrap().start(),
        )
    };
    assert!(
        wanted
            .keys()
            .filter(lost)
            .all(|at| content(&db).get(at) == wanted.get(at))
    );
    db.close().unwrap();

    let (vfs, wanted) = database();
    let table = files(&vfs, ".sst").remove(1);
    let mut bytes = vfs.read_file(&table).unwrap();
    let len = bytes.len();
    bytes[len - 1] ^= 1;
    vfs.write_file(&table, &bytes);
    let faulty = FaultVfs::new(vfs.clone());
    for fault in [Fault::Errno(28), Fault::Errno(5)] {
        for op in [
            Op::Write,
            Op::SyncData,
            Op::SyncDir,
            Op::Create,
            Op::Rename,
            Op::CreateDir,
        ] {
            faulty.disarm();
            faulty.arm_when(move |call| call.op == op, fault, false);
            let error = options(faulty.clone()).salvage(DIR).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Io | ErrorKind::NoSpace),
                "{op:?}: {error}"
            );
        }
    }
    faulty.disarm();
    let (db, report) = options(faulty).salvage(DIR).unwrap();
    assert!(
        !report.lost_something() && report.kept.mended == 1,
        "{report}"
    );
    assert!(content(&db) == wanted);
}

#[test]
fn a_damaged_block_is_one_loss_and_no_more() {
    let (vfs, _) = database();
    let table = files(&vfs, ".sst").remove(0);
    let mut bytes = vfs.read_file(&table).unwrap();
    bytes[40] ^= 1;
    vfs.write_file(&table, &bytes);
    let (_, report) = salvage(&vfs);
    assert_eq!(
        (report.losses.len(), report.kept.mended),
        (1, 1),
        "{report}"
    );
    assert_eq!(
        report.losses[0].bytes.as_ref().map(|bytes| bytes.start),
        Some(0)
    );
}

/// By every compression that this build has.
#[test]
fn a_packed_table_is_mended_block_by_block() {
    let all = [Compression::Lz4, Compression::Zstd];
    for compression in all.into_iter().filter(|one| one.check().is_ok()) {
        let vfs = MemVfs::crashable(5);
        let packing = options(vfs.clone()).compression(compression);
        let db = packing.clone().open(DIR).unwrap();
        for n in 0..4000u64 {
            let value = format!("{:x} and {n}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            db.put(format!("{n:05}"), value).unwrap();
        }
        db.compact_all().unwrap();
        let wanted = content(&db);
        db.close().unwrap();
        let table = files(&vfs, ".sst").remove(0);
        let mut bytes = vfs.read_file(&table).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        vfs.write_file(&table, &bytes);
        let (db, report) = packing.clone().salvage(DIR).unwrap();
        assert_eq!(
            (report.losses.len(), report.kept.mended),
            (1, 1),
            "{report}"
        );
        let lost = report.losses[0].bytes.clone().unwrap();
        assert!(lost.contains(&(middle as u64)), "{report}");
        let found = content(&db);
        assert!(found.iter().all(|(key, value)| wanted[key] == *value));
        let gone: Vec<_> = wanted
            .keys()
            .filter(|key| !found.contains_key(*key))
            .collect();
        assert!((10..1000).contains(&gone.len()), "{} are gone", gone.len());
        let number = |key: &Vec<u8>| String::from_utf8_lossy(key).parse::<usize>().unwrap();
        let (first, last) = (number(&gone[0].1), number(&gone[gone.len() - 1].1));
        assert_eq!(last - first + 1, gone.len(), "one stretch");
        db.close().unwrap();
        assert!(content(&packing.open(DIR).unwrap()) == found);
    }
}

/// The files of a database with this ending, by path.
fn files_of(vfs: &MemVfs, ending: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = vfs.files();
    found.retain(|(path, _)| path.to_string_lossy().ends_with(ending));
    let read = |(path, _): (PathBuf, u64)| {
        let bytes = vfs.read_file(&path).unwrap();
        (path, bytes)
    };
    found.into_iter().map(read).collect()
}

fn salvaged(vfs: &Arc<MemVfs>) -> (Db, Salvage) {
    registered(options(vfs.clone()))
        .salvage(Path::new(DIR))
        .unwrap()
}

/// From 100 bytes on values are large.
fn separating() -> KeyspaceOptions {
    KeyspaceOptions::new().blob_threshold(Some(100))
}

/// It kept the file, listed with the length that it no longer had, so that what it made did not
/// open.
#[test]
fn a_blob_file_of_another_length_is_listed_as_it_is() {
    let vfs = MemVfs::crashable(1);
    let db = registered(options(vfs.clone())).open(DIR).unwrap();
    db.put("large", [7; 200]).unwrap();
    db.flush().unwrap();
    // What a merge takes apart is listed with its length.
    db.set_options(separating()).unwrap();
    db.put("more", "").unwrap();
    db.compact_all().unwrap();
    db.close().unwrap();
    for (path, mut bytes) in files_of(&vfs, ".blob") {
        bytes.push(0);
        vfs.write_file(&path, &bytes);
    }
    let (db, report) = salvaged(&vfs);
    assert!(
        !report.damaged.is_empty() && report.losses.is_empty(),
        "{report}"
    );
    db.close().unwrap();
    let db = registered(options(vfs)).open(DIR).unwrap();
    assert_eq!(db.get("large").unwrap().unwrap()[..], [7; 200]);
}

/// It took tables and log for whole, and left reads that failed.
#[test]
fn a_large_value_that_only_the_log_refers_to_is_lost_aloud() {
    let vfs = MemVfs::crashable(1);
    let db = registered(options(vfs.clone())).open(DIR).unwrap();
    db.set_options(separating()).unwrap();
    db.put("large", [7; 200]).unwrap();
    db.close().unwrap();
    for (path, mut bytes) in files_of(&vfs, ".blob") {
        *bytes.last_mut().unwrap() ^= 1;
        vfs.write_file(&path, &bytes);
    }
    let (db, report) = salvaged(&vfs);
    assert_eq!(db.get("large").unwrap(), None);
    assert_eq!(report.losses.len(), 1, "{report}");
}

/// It failed: that the file is gone was taken for a disk that cannot be read.
#[test]
fn a_missing_blob_file_that_an_unsynced_log_refers_to_is_told() {
    let vfs = MemVfs::crashable(1);
    let db = registered(options(vfs.clone()))
        .durability(Durability::Buffered)
        .open(DIR)
        .unwrap();
    db.set_options(separating()).unwrap();
    db.put("small", "kept").unwrap();
    db.put("large", [7; 200]).unwrap();
    let killed = MemVfs::crashable(2);
    for dir in ["/data", DIR] {
        killed.create_dir(Path::new(dir)).unwrap();
    }
    for (path, bytes) in files_of(&vfs, "") {
        if path.extension().is_none_or(|ending| ending != "blob") {
            killed.write_file(&path, &bytes);
        }
    }
    db.close().unwrap();
    let (db, report) = salvaged(&killed);
    assert_eq!(db.get("large").unwrap(), None);
    assert_eq!(db.get("small").unwrap().unwrap(), "kept");
    assert_eq!(report.damaged.len(), 1, "{report}"); // Nothing that was promised is lost.
}

/// Where the manifest could not be believed, only what keyspaces were created with was kept.
#[test]
fn options_and_names_that_changed_are_kept_without_the_manifest() {
    let vfs = MemVfs::crashable(1);
    let db = registered(options(vfs.clone())).open(DIR).unwrap();
    let append = KeyspaceOptions::new().merge_operator(APPEND);
    db.set_options(append.clone()).unwrap();
    let other = db.keyspace("before").unwrap();
    other.set_options(append).unwrap();
    db.rename_keyspace("before", "after").unwrap();
    for n in 0..2 {
        db.put(format!("{n}"), "v").unwrap();
        other.put(format!("{n}"), "v").unwrap();
        db.flush().unwrap();
    }
    db.close().unwrap();
    // Each table holds what the other should: the manifest is taken for an old one.
    let tables = files_of(&vfs, ".sst");
    let contents = tables.iter().map(|(_, bytes)| bytes).rev();
    for ((path, _), bytes) in tables.iter().zip(contents) {
        vfs.write_file(path, bytes);
    }
    let (db, report) = salvaged(&vfs);
    assert!(
        report
            .losses
            .iter()
            .any(|loss| loss.kind == LossKind::Manifest),
        "{report}"
    );
    assert_eq!(db.keyspaces().unwrap(), ["after", "default"]);
    for name in ["after", "default"] {
        let options = db.keyspace(name).unwrap().options();
        assert_eq!(options.merge_operator.as_deref(), Some(APPEND));
    }
}

/// A table had both operands in one, and the log had the older one as well.
#[test]
fn an_operand_that_was_flushed_counts_once() {
    let vfs = MemVfs::crashable(1);
    let append = || KeyspaceOptions::new().merge_operator(APPEND);
    let db = registered(options(vfs.clone())).open(DIR).unwrap();
    db.set_options(append()).unwrap();
    db.put("k", "base").unwrap();
    db.flush().unwrap();
    db.merge("k", "+a").unwrap();
    db.merge("k", "+b").unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    for (path, _) in vfs.files() {
        let name = path.to_string_lossy().into_owned();
        if name.ends_with("CURRENT") || name.contains("MANIFEST-") {
            vfs.remove(path);
        }
    }
    let (db, _) = salvaged(&vfs);
    db.set_options(append()).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "base+a+b");
}

#[test]
fn keyspaces_are_packed_as_they_say_without_the_manifest() {
    let values = 200 * 100;
    let salvaged_bytes = |compression| {
        let vfs = MemVfs::crashable(1);
        let db = options(vfs.clone()).open(DIR).unwrap();
        let policy = KeyspaceOptions::new().compression(Some(compression));
        let part = db.create_keyspace("part", policy).unwrap();
        for key in 0..200 {
            part.put([key], [key; 100]).unwrap();
        }
        db.flush().unwrap();
        db.close().unwrap();
        let (path, mut bytes) = files_of(&vfs, "MANIFEST-000001").remove(0);
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[used - 40] ^= 1;
        vfs.write_file(&path, &bytes);
        let (db, report) = salvage(&vfs);
        assert_eq!(report.losses[0].kind, LossKind::Manifest, "{report}");
        assert_eq!(db.keyspace("part").unwrap().count(..).unwrap(), 200);
        let table = |path: &PathBuf| vfs.read_file(path).unwrap().len();
        files(&vfs, ".sst").iter().map(table).sum::<usize>()
    };
    let (raw, packed) = (
        salvaged_bytes(Compression::None),
        salvaged_bytes(Compression::Lz4),
    );
    assert!(raw > values && packed < values / 2, "{raw} and {packed}");
}
