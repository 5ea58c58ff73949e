use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use terrace_base::vfs::MemVfs;
use terrace_compaction::{KeyRange, pick_range};

use crate::jobs::compact::{compact_if_worth, pick_options, wait_for_level0};
use crate::jobs::flush::flush;
use crate::options::keyspace::KeyspaceOptions;
use crate::{Db, Keyspace, Options};

/// A database with a table in the last level, and `runs` runs in level 0 that overlap it.
fn with_runs(runs: u32) -> Db {
    let options = Options::new().tune(|tuning| tuning.manual = true);
    let db = options.vfs(MemVfs::new(1)).open("/db").unwrap();
    for n in 0..1000_u32 {
        db.put(n.to_be_bytes(), "old").unwrap();
    }
    db.compact_all().unwrap();
    add_runs(&db, runs);
    db
}

fn add_runs(db: &Db, runs: u32) {
    for n in 0..runs {
        db.put(0_u32.to_be_bytes(), [n as u8]).unwrap();
        db.put(999_u32.to_be_bytes(), [n as u8]).unwrap();
        db.flush().unwrap();
    }
}

fn runs(db: &Db) -> usize {
    db.stats().levels[0].runs
}

/// Beside callers that compact one after the other the background claimed nothing, and level 0
/// grew to 62 runs.
#[test]
fn the_background_gives_way_to_callers_until_level_0_has_many_runs() {
    let db = with_runs(16);
    let engine = db.shared();
    let waiting = engine.claims.wait();
    assert!(!compact_if_worth(engine, false).unwrap());
    assert_eq!(runs(&db), 16);
    add_runs(&db, 1);
    assert!(compact_if_worth(engine, false).unwrap());
    assert_eq!(runs(&db), 0);
    drop(waiting);
}

/// While a merge of all of level 0 ran, which can take long, those that came meanwhile waited.
#[test]
fn new_runs_are_merged_with_each_other_beside_a_long_merge() {
    let db = with_runs(4);
    let engine = db.shared();
    let options = pick_options(engine, true);
    let (_, busy) = engine
        .claims
        .claim(false, |busy| {
            let version = engine.views.cell.load().version.clone();
            pick_range(&version, &KeyRange::ALL, &|_, _| true, &options, busy)
        })
        .unwrap();
    add_runs(&db, 4);
    assert!(!compact_if_worth(engine, false).unwrap());
    assert_eq!(runs(&db), 8);
    add_runs(&db, 1);
    assert!(compact_if_worth(engine, false).unwrap());
    assert_eq!(runs(&db), 5);
    drop(busy);
    db.wait_idle().unwrap();
    assert_eq!(db.get(0_u32.to_be_bytes()).unwrap().unwrap(), [0][..]);
    assert_eq!(db.iter().count(), 1000);
}

/// Level 0 with few and small runs that refer to much was not due, and the values that they had
/// replaced stayed.
#[test]
fn large_values_make_level_0_due_by_their_bytes() {
    let options = Options::new().tune(|tuning| {
        tuning.manual = true;
        tuning.blob_threshold = 1 << 10;
        tuning.blob_bytes = 64 << 10;
    });
    let db = options.vfs(MemVfs::new(1)).open("/db").unwrap();
    let overwrite = || {
        for n in 0..20_u32 {
            db.put(n.to_be_bytes(), [n as u8; 4 << 10]).unwrap();
        }
        db.flush().unwrap();
    };
    overwrite();
    db.compact_all().unwrap();
    let engine = db.shared();
    overwrite();
    assert!(!compact_if_worth(engine, false).unwrap());
    overwrite();
    assert!(compact_if_worth(engine, false).unwrap());
    assert_eq!(runs(&db), 0);
}

/// A database whose compactions wait until the sender is dropped, with level-0 runs of a keyspace.
fn stuck(count: usize) -> (mpsc::Sender<()>, Db, Keyspace) {
    let (release, stuck) = mpsc::channel::<()>();
    let stuck = Mutex::new(stuck);
    let options = Options::new().compaction_filter("slow", move |_, _| {
        stuck.lock().unwrap().recv().ok();
        true
    });
    let db = options.open_in_memory().unwrap();
    let slow = KeyspaceOptions::new().compaction_filter(Some("slow"));
    let slow = db.create_keyspace("slow", slow).unwrap();
    while runs(&db) < count {
        slow.put("k", "v").unwrap();
        flush(db.shared()).unwrap(); // Not that of the handle, which waits.
    }
    (release, db, slow)
}

/// They were free, and 64 threads outran compaction by far.
#[test]
fn callers_pay_for_the_runs_that_they_add() {
    let (release, db, slow) = stuck(25);
    let now = || db.shared().clock().monotonic();
    let begun = now();
    slow.put("k", "v").unwrap();
    db.flush().unwrap();
    let flushed = now() - begun;
    slow.ingest([("l", "v")]).unwrap();
    let ingested = now() - begun - flushed;
    drop(release);
    // The price is some 100 ms with 25 runs.
    let least = Duration::from_millis(80);
    assert!(flushed >= least, "flushed after {flushed:?}");
    assert!(ingested >= least, "ingested after {ingested:?}");
}

/// At the height of the price each of 64 threads still added a run a second.
#[test]
fn callers_that_add_runs_wait_while_level_0_is_crowded() {
    let (release, db, _) = stuck(33);
    let engine = db.shared();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            drop(release);
        });
        wait_for_level0(engine);
        let left = runs(&db);
        assert!(left < 32, "{left} runs");
    });
}
