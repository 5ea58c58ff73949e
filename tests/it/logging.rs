//! What is said to the crate `log`, with feature `log`: the right things at the right levels, no key, no value, and nothing
//! while a lock is held.

use std::cell::RefCell;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use terrace::vfs::{Call, CrashPolicy, Fault, FaultVfs, ImageKind, MemVfs, Op};
use terrace::{Db, Durability, ErrorKind, Options};

const SECRET: &str = "TOPSECRET";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Keeps what is logged by the whole process; other tests run beside, so each here has a directory
/// of its own name.
struct Kept(Mutex<Vec<(Level, String)>>);

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

thread_local! {
    /// What the logger does on this thread.
    static THEN: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

impl Log for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        assert_eq!(record.target(), "terrace");
        let text = record.args().to_string();
        self.0.lock().unwrap().push((record.level(), text));
        if let Some(then) = THEN.take() {
            then();
        }
    }

    fn flush(&self) {}
}

fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&KEPT).unwrap();
        log::set_max_level(LevelFilter::Trace);
    });
}

/// How often something was said at `level` that has all of `words` in it; nothing that was ever
/// said has a secret.
fn said(level: Level, words: &[&str]) -> usize {
    let kept = KEPT.0.lock().unwrap();
    assert!(
        !kept.iter().any(|(_, text)| text.contains(SECRET)),
        "{kept:?}"
    );
    let fits = |(l, text): &&(Level, String)| *l == level && words.iter().all(|w| text.contains(w));
    kept.iter().filter(fits).count()
}

fn secret(i: u32) -> (String, Vec<u8>) {
    (format!("{SECRET}{i}"), SECRET.repeat(20).into_bytes())
}

fn fill(db: &Db, count: u32) {
    for (key, value) in (0..count).map(secret) {
        db.put(key, value).unwrap();
    }
}

fn log_sync(call: &Call) -> bool {
    call.op == Op::SyncData && call.path.extension().is_some_and(|e| e == "wal")
}

#[test]
fn recovery_says_what_it_found() {
    listen();
    let vfs = MemVfs::crashable(1);
    let options = Options::new().durability(Durability::Buffered);
    let db = options
        .clone()
        .vfs(vfs.clone())
        .open("/said-recovery")
        .unwrap();
    fill(&db, 17);
    let image = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1);
    let again = options.vfs(image).open("/said-recovery").unwrap();
    assert_eq!(said(Level::Info, &["/said-recovery", "17 log entries"]), 1);
    again.close().unwrap();
    drop(db);
}

#[test]
fn the_end_of_writes_is_said_once_and_under_no_lock() {
    listen();
    let vfs = FaultVfs::new(MemVfs::new(1));
    let db = Options::new().vfs(vfs.clone()).open("/said-end").unwrap();
    fill(&db, 3);
    vfs.arm_when(log_sync, Fault::Errno(EIO), true);
    let (again, (key, value)) = (db.clone(), secret(1));
    THEN.set(Some(Box::new(move || {
        assert_eq!(
            again.put(&key, &value).unwrap_err().kind(),
            ErrorKind::ReadOnly
        );
        assert_eq!(again.get(&key).unwrap().unwrap(), value);
        again.health().unwrap_err();
        panic!("a logger that panics");
    })));
    let (key, value) = secret(9);
    assert_eq!(
        db.put(&key, &value).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    assert_eq!(
        db.put(&key, &value).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    assert!(THEN.take().is_none(), "it was not said on this thread");
    let words = ["no writes from now on", "sync", "/said-end/", ".wal"];
    assert_eq!(said(Level::Error, &words), 1);
    assert_eq!(db.get(secret(1).0).unwrap().unwrap(), secret(1).1);
}

#[test]
fn a_last_handle_that_cannot_sync_says_so() {
    listen();
    let vfs = FaultVfs::new(MemVfs::new(1));
    let options = Options::new().durability(Durability::Buffered);
    let db = options.vfs(vfs.clone()).open("/said-drop").unwrap();
    fill(&db, 3);
    vfs.arm_when(log_sync, Fault::Errno(EIO), true);
    drop(db);
    assert_eq!(
        said(Level::Error, &["last handle of /said-drop", "sync"]),
        1
    );
}

#[test]
fn a_damaged_table_is_said_with_its_place() {
    listen();
    let vfs = MemVfs::new(1);
    let options = Options::new().vfs(vfs.clone()).tune(|t| t.manual = true);
    let db = options.open("/said-damage").unwrap();
    for _ in 0..2 {
        fill(&db, 500);
        db.flush().unwrap();
    }
    db.close().unwrap();
    for (path, _) in vfs.files() {
        if path.extension().is_some_and(|e| e == "sst") {
            let mut bytes = vfs.read_file(&path).unwrap();
            bytes[100] ^= 1;
            vfs.write_file(&path, bytes);
        }
    }
    let db = options.open("/said-damage").unwrap();
    let words = [
        "a read fails",
        "Corruption in /said-damage/",
        ".sst at byte 0",
    ];
    assert_eq!(
        db.get(secret(0).0).unwrap_err().kind(),
        ErrorKind::Corruption
    );
    assert_eq!(said(Level::Error, &words), 1);
    assert!(db.iter().any(|entry| entry.is_err()));
    assert_eq!(said(Level::Error, &words), 2);
    db.cursor().first().unwrap_err();
    assert_eq!(said(Level::Error, &words), 3);
    db.compact_all().unwrap_err();
    assert_eq!(said(Level::Error, &["set aside", "/said-damage/"]), 1);
}

#[test]
fn a_job_that_fails_and_works_again_is_said_once_each() {
    listen();
    let vfs = FaultVfs::new(MemVfs::new(1));
    let db = Options::new().vfs(vfs.clone()).open("/said-job").unwrap();
    fill(&db, 3);
    let table =
        |call: &Call| call.op == Op::Create && call.path.extension().is_some_and(|e| e == "sst");
    let again = || said(Level::Info, &["Flush", "work again"]);
    let before = again();
    vfs.arm_when(table, Fault::Errno(ENOSPC), true);
    db.flush().unwrap_err();
    let start = Instant::now();
    while vfs.injected() < 3 && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(said(Level::Warn, &["Flush", "NoSpace", "/said-job/"]), 1);
    vfs.disarm();
    while again() == before {
        assert!(start.elapsed() < Duration::from_secs(20), "it is not said");
        std::thread::sleep(Duration::from_millis(5));
    }
    db.close().unwrap();
}
