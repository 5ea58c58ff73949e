//! Checkpoints: whole or none, of all that had returned, and independent of where they came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use terrace::vfs::{CrashPolicy, Fault, FaultVfs, ImageKind, MemVfs, Op, OsVfs, Vfs};
use terrace::{Batch, Db, Durability, ErrorKind, Expiry, KeyspaceOptions, Options};
use terrace_kit::{Contents, Oracle};

const DIR: &str = "/data/db";
const COPY: &str = "/copies/first";

fn options() -> Options {
    Options::new()
        .durability(Durability::Buffered)
        .merge_operator("append", |_, a, b| [a, b].concat())
        .tune(|tuning| {
            tuning.table_bytes = 16 << 10;
            tuning.list_entries = 50;
        })
}

fn on(vfs: &Arc<impl Vfs + 'static>) -> Options {
    let vfs: Arc<dyn Vfs> = vfs.clone();
    options().vfs(vfs).tune(|tuning| tuning.manual = true)
}

/// Something of every kind, in tables and in memory.
fn fill(db: &Db) {
    let merged = KeyspaceOptions::new().merge_operator("append");
    let merged = db.create_keyspace("to be renamed", merged).unwrap();
    let dropped = db.keyspace("dropped").unwrap();
    for n in 0..300u32 {
        db.put(n.to_be_bytes(), format!("{n} {}", "x".repeat(60)))
            .unwrap();
        dropped.put(n.to_be_bytes(), "gone").unwrap();
        merged.merge([n as u8 % 7], n.to_string()).unwrap();
        if n % 40 == 3 {
            db.put(format!("large {n}"), vec![n as u8; 10_000]).unwrap();
        }
        if n == 150 {
            db.flush().unwrap();
            db.delete_range(20u32.to_be_bytes()..90u32.to_be_bytes())
                .unwrap();
        }
    }
    db.put_expiring("expired", "x", Expiry::At(std::time::UNIX_EPOCH))
        .unwrap();
    db.ingest((1000..1100u32).map(|n| (n.to_be_bytes(), "ingested")))
        .unwrap();
    db.drop_keyspace("dropped").unwrap();
    db.rename_keyspace("to be renamed", "renamed").unwrap();
    db.put("last", "in memory").unwrap();
}

/// All of a database that must be there.
fn read(options: Options, dir: impl AsRef<Path>) -> Contents {
    let db = options.create(false).open(dir).unwrap();
    Oracle::read(&db).unwrap()
}

#[test]
fn a_copy_is_whole_and_lives_on_its_own() {
    let home = tempfile::tempdir().unwrap();
    let (dir, copy) = (home.path().join("db"), home.path().join("copies/first"));
    let db = options().open(&dir).unwrap();
    fill(&db);
    let wanted = Oracle::read(&db).unwrap();
    assert_eq!(wanted.keys().collect::<Vec<_>>(), ["default", "renamed"]);
    db.checkpoint(&copy).unwrap();
    assert_eq!(
        Oracle::read(&db).unwrap(),
        wanted,
        "the database is as it was"
    );

    db.clear().unwrap();
    db.drop_keyspace("renamed").unwrap();
    db.put("later", vec![1; 20_000]).unwrap();
    db.compact_all().unwrap();
    db.wait_idle().unwrap();
    assert_eq!(
        read(options(), &copy),
        wanted,
        "what came later is not in the copy"
    );

    let second = options().open(&copy).unwrap();
    second.put("of the copy", vec![2; 20_000]).unwrap();
    second.clear().unwrap();
    second.compact_all().unwrap();
    assert!(
        second.keyspace("renamed").unwrap().merge([0], "!").is_ok(),
        "options came along"
    );
    second.close().unwrap();
    assert_eq!(db.iter().count(), 1, "nor the other way round");

    let third = home.path().join("copies/third");
    db.put("a", "b").unwrap();
    db.checkpoint(&third).unwrap();
    let wanted = Oracle::read(&db).unwrap();
    db.close().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::remove_dir_all(&copy).unwrap();
    assert_eq!(read(options(), &third), wanted);
}

/// Does something at the end of a scope, also of one that panics.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Batches over two keyspaces, with and without values in blob files, while checkpoints are made.
#[test]
fn a_checkpoint_amid_writes_is_a_prefix_with_all_that_had_returned() {
    let home = tempfile::tempdir().unwrap();
    let db = options()
        .memory(4 << 20)
        .open(home.path().join("db"))
        .unwrap();
    let other = db.keyspace("other").unwrap();
    let (stop, returned) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1u64.. {
                let value = match n % 50 {
                    0 => vec![n as u8; 9000],
                    _ => n.to_le_bytes().to_vec(),
                };
                let mut batch = Batch::new();
                batch.put(n.to_be_bytes(), &value);
                batch.keyspace(&other).put(n.to_be_bytes(), &value);
                db.write(batch).unwrap();
                returned.store(n, Ordering::SeqCst);
                if n % 1000 == 0 {
                    db.delete_range(..(n - 900).to_be_bytes()).unwrap();
                }
                if stop.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        let _stops = OnDrop(|| stop.store(true, Ordering::SeqCst));
        for round in 0..12 {
            let copy = home.path().join(format!("copy {round}"));
            let before = returned.load(Ordering::SeqCst);
            db.checkpoint(&copy).unwrap();
            let copied = options().create(false).open(&copy).unwrap();
            let last =
                |(key, _): (terrace::Bytes, _)| u64::from_be_bytes(key[..].try_into().unwrap());
            let one = copied.last().unwrap().map_or(0, last);
            let two = copied.keyspace("other").unwrap();
            assert_eq!(one, two.last().unwrap().map_or(0, last), "half a batch");
            assert!(one >= before, "{one} where {before} had returned");
            let first = two.first().unwrap().map_or(1, last);
            assert_eq!(first, 1);
            assert_eq!(two.iter().map(Result::unwrap).count() as u64, one, "holes");
            let least = copied.first().unwrap().map_or(1, last);
            assert_eq!(
                copied.iter().map(Result::unwrap).count() as u64,
                one + 1 - least
            );
        }
    });
}

/// What stops a copy that is no database from being taken for one.
fn is_none(options: Options) -> bool {
    match options.create(false).open(COPY) {
        Ok(_) => false,
        Err(error) => {
            let kinds = [ErrorKind::NotFound, ErrorKind::Corruption];
            assert!(kinds.contains(&error.kind()), "{error}");
            true
        }
    }
}

#[test]
fn a_crash_leaves_a_whole_copy_or_none_and_the_database_as_it_was() {
    let vfs = MemVfs::crashable(5);
    let db = on(&vfs).open(DIR).unwrap();
    fill(&db);
    db.sync().unwrap();
    let wanted = Oracle::read(&db).unwrap();
    let images = Arc::new(Mutex::new(Vec::new()));
    let kept = images.clone();
    vfs.set_hook(Some(Arc::new(move |vfs, call| {
        let mut kept = kept.lock().unwrap();
        for policy in CrashPolicy::ALL {
            kept.push(vfs.image(ImageKind::Cut, *policy, call));
        }
        kept.push(vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, call));
    })));
    db.checkpoint(COPY).unwrap();
    vfs.set_hook(None);
    let images = std::mem::take(&mut *images.lock().unwrap());
    let (mut whole, mut none) = (0, 0);
    for image in &images {
        assert_eq!(read(on(image), DIR), wanted);
        if is_none(on(image)) {
            none += 1;
        } else {
            assert_eq!(read(on(image), COPY), wanted);
            whole += 1;
        }
    }
    assert!(
        none > 200 && whole > 10,
        "{none} without a copy, {whole} with one"
    );

    // Once it has returned nothing that becomes of the database touches it, at whatever moment the
    // power fails.
    let images = Arc::new(Mutex::new(Vec::new()));
    let kept = images.clone();
    vfs.set_hook(Some(Arc::new(move |vfs, call| {
        let policy = CrashPolicy::ALL[call as usize % CrashPolicy::ALL.len()];
        kept.lock()
            .unwrap()
            .push(vfs.image(ImageKind::Cut, policy, call));
    })));
    db.put("later", vec![3; 9000]).unwrap();
    db.clear().unwrap();
    db.compact_all().unwrap();
    db.close().unwrap();
    vfs.set_hook(None);
    let images = std::mem::take(&mut *images.lock().unwrap());
    assert!(images.len() > 20);
    for image in &images {
        assert_eq!(read(on(image), COPY), wanted);
    }
}

#[test]
fn whatever_call_fails_the_error_is_told_and_leaves_no_copy() {
    let faults = [
        Fault::Errno(5),
        Fault::Errno(28),
        Fault::Late(5),
        Fault::TornWrite,
    ];
    for fault in faults {
        let mut failed = 0;
        for at in 1.. {
            let disk = MemVfs::crashable(6);
            let faulty = FaultVfs::new(disk.clone());
            let db = on(&faulty).open(DIR).unwrap();
            fill(&db);
            db.flush().unwrap();
            let wanted = Oracle::read(&db).unwrap();
            let count = AtomicU64::new(0);
            let is_due = move |_: &_| count.fetch_add(1, Ordering::Relaxed) + 1 == at;
            faulty.arm_when(is_due, fault, false);
            let before = faulty.injected();
            let made = db.checkpoint(COPY);
            let met = faulty.injected() > before;
            faulty.disarm();
            assert_eq!(Oracle::read(&db).unwrap(), wanted);
            match made {
                Ok(()) => assert_eq!(read(on(&disk), COPY), wanted, "{fault:?} at {at}"),
                Err(error) => {
                    assert!(met, "{error}");
                    failed += 1;
                    assert!(is_none(on(&disk)), "{fault:?} at {at}: {error}");
                    let is_left = |(path, _): &(PathBuf, u64)| {
                        path.starts_with(COPY) && !path.ends_with("LOCK")
                    };
                    let left: Vec<_> = disk.files().into_iter().filter(is_left).collect();
                    assert!(left.is_empty(), "{fault:?} at {at}: {left:?}");
                    if db.health().is_ok() {
                        db.checkpoint(COPY).unwrap();
                        assert_eq!(read(on(&disk), COPY), wanted);
                    }
                }
            }
            if !met {
                break;
            }
        }
        assert!(failed >= 4, "{fault:?}: {failed} failures");
    }
}

/// As on another file system.
#[test]
fn where_files_cannot_be_linked_they_are_copied() {
    let home = tempfile::tempdir().unwrap();
    let (dir, copy) = (home.path().join("db"), home.path().join("copy"));
    let faulty = FaultVfs::new(Arc::new(OsVfs));
    let shared: Arc<dyn Vfs> = faulty.clone();
    let db = options().vfs(shared).open(&dir).unwrap();
    fill(&db);
    let exdev = 18;
    faulty.arm_when(|call| call.op == Op::HardLink, Fault::Errno(exdev), true);
    db.checkpoint(&copy).unwrap();
    assert!(faulty.injected() > 3);
    let wanted = Oracle::read(&db).unwrap();
    db.close().unwrap();
    #[cfg(unix)]
    for file in std::fs::read_dir(&copy).unwrap() {
        let links = std::os::unix::fs::MetadataExt::nlink(&file.unwrap().metadata().unwrap());
        assert_eq!(links, 1);
    }
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(read(options(), &copy), wanted);
}

/// What a checkpoint returns for survives a power cut: also in a folder whose name nobody has made
/// durable yet, and where files had to be copied.
#[test]
fn a_checkpoint_that_returned_is_durable() {
    for links in [true, false] {
        let disk = MemVfs::crashable(11);
        let faulty = FaultVfs::new(disk.clone());
        let db = on(&faulty).open(DIR).unwrap();
        fill(&db);
        let wanted = Oracle::read(&db).unwrap();
        let copy = Path::new(COPY);
        disk.create_dir(copy.parent().unwrap()).unwrap();
        disk.create_dir(copy).unwrap();
        faulty.arm_when(
            move |call| call.op == Op::HardLink && !links,
            Fault::Errno(18),
            true,
        );
        db.checkpoint(COPY).unwrap();
        assert_eq!(faulty.injected() == 0, links);
        for policy in CrashPolicy::ALL {
            let image = disk.image(ImageKind::Cut, *policy, 1);
            assert_eq!(read(on(&image), COPY), wanted, "{policy:?}");
        }
    }
}

/// Nothing may take files of one for those of the other.
#[test]
fn a_copy_is_another_database() {
    let vfs = MemVfs::new(12);
    let db = on(&vfs).open(DIR).unwrap();
    db.checkpoint(COPY).unwrap();
    let files = vfs.files().into_iter().map(|(path, _)| path);
    let manifests = files.filter(|path| path.to_string_lossy().contains("MANIFEST-"));
    let ids = manifests.map(|path| vfs.read_file(path).unwrap()[24..32].to_vec());
    let ids: Vec<_> = ids.collect();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
}

#[test]
fn what_is_in_the_way_stays_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let db = options().open(at("db")).unwrap();
    db.put("a", "b").unwrap();
    let kind_of = |dir: PathBuf| db.checkpoint(dir).unwrap_err().kind();

    assert_eq!(kind_of(at("db")), ErrorKind::AlreadyExists);
    std::fs::create_dir(at("photos")).unwrap();
    std::fs::write(at("photos/me.png"), "me").unwrap();
    assert_eq!(kind_of(at("photos")), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_dir(at("photos")).unwrap().count(), 1);
    assert_eq!(kind_of(at("photos/me.png")), ErrorKind::Invalid);
    db.checkpoint(at("copy")).unwrap();
    assert_eq!(kind_of(at("copy")), ErrorKind::AlreadyExists);
    let copy = options().open(at("copy")).unwrap();
    copy.checkpoint(at("copy of the copy")).unwrap();
    copy.close().unwrap();
    assert_eq!(
        copy.checkpoint(at("x")).unwrap_err().kind(),
        ErrorKind::Closed
    );
    let reader = options().read_only(true).open(at("copy")).unwrap();
    assert_eq!(
        reader.checkpoint(at("x")).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    assert!(!at("x").exists());
    drop(reader);

    std::fs::create_dir(at("empty")).unwrap();
    std::fs::write(at("empty/LOCK"), "").unwrap(); // As one that failed leaves it.
    db.checkpoint(at("empty")).unwrap();
    let all = ["db", "copy", "copy of the copy", "empty"];
    db.close().unwrap();
    let contents: BTreeMap<_, _> = all
        .iter()
        .map(|name| (*name, read(options(), at(name))))
        .collect();
    assert!(
        contents.values().all(|one| *one == contents["db"]),
        "{contents:?}"
    );
}

#[test]
fn a_copy_of_an_empty_database_is_one() {
    let vfs = MemVfs::crashable(9);
    let db = on(&vfs).open(DIR).unwrap();
    db.checkpoint(COPY).unwrap();
    let copy = on(&vfs).create(false).open(COPY).unwrap();
    assert_eq!(copy.iter().count(), 0);
    copy.put("a", "b").unwrap();
    copy.close().unwrap();
    assert_eq!(read(on(&vfs), COPY)["default"].len(), 1);
    assert_eq!(db.iter().count(), 0);
}
