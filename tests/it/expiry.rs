//! Values that expire: on time for every reader, for good, and with their space given back.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use terrace::clock::{Clock, ManualClock};
use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Batch, Db, Expiry, KeyspaceOptions, Options};

const START: Duration = Duration::from_secs(1_790_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn manual(clock: &Arc<ManualClock>) -> Options {
    Options::new()
        .clock(clock.clone())
        .tune(|tuning| tuning.manual = true)
}

fn opened() -> (Arc<ManualClock>, Db) {
    let clock = Arc::new(ManualClock::new(START));
    let db = manual(&clock).open_in_memory().unwrap();
    (clock, db)
}

/// Every way to ask whether `key` is there; they agree.
fn is_there(db: &Db, key: &str) -> bool {
    let there = db.get(key).unwrap().is_some();
    assert_eq!(db.get_with(key, |_| ()).unwrap().is_some(), there);
    assert_eq!(db.get_entry(key).unwrap().is_some(), there);
    assert_eq!(db.contains_key(key).unwrap(), there);
    assert_eq!(db.multi_get([key]).unwrap()[0].is_some(), there);
    assert_eq!(db.range(key..=key).count(), usize::from(there));
    assert_eq!(db.range(key..=key).rev().count(), usize::from(there));
    assert_eq!(db.count(key..=key).unwrap(), u64::from(there));
    assert_eq!(
        db.cursor().seek_for_prev(key).unwrap() && db.first().unwrap().is_some(),
        there
    );
    there
}

#[test]
fn a_value_is_there_until_its_time_and_an_older_one_does_not_return() {
    type Settle = fn(&Db);
    let settle: [Settle; 4] = [
        |_| (),
        |db| db.flush().unwrap(),
        |db| db.wait_idle().unwrap(),
        |db| db.compact_all().unwrap(),
    ];
    for early in settle {
        for late in settle {
            let (clock, db) = opened();
            db.put("k", "older").unwrap();
            early(&db);
            db.put_expiring("k", "newer", Expiry::In(SECOND)).unwrap();
            late(&db);
            let entry = db.get_entry("k").unwrap().unwrap();
            assert_eq!(entry.value, "newer");
            assert_eq!(entry.expires_at, Some(UNIX_EPOCH + START + SECOND));
            assert_eq!(db.first().unwrap().unwrap().1, "newer");
            assert_eq!(db.last().unwrap().unwrap().1, "newer");
            clock.advance(SECOND - Duration::from_millis(1));
            assert!(is_there(&db, "k"));
            clock.advance(Duration::from_millis(1));
            assert!(!is_there(&db, "k"));
            early(&db);
            assert!(!is_there(&db, "k"));
            late(&db);
            assert!(!is_there(&db, "k"));
            db.put("k", "again").unwrap();
            assert!(is_there(&db, "k"));
            assert_eq!(db.get_entry("k").unwrap().unwrap().expires_at, None);
        }
    }
}

#[test]
fn never_and_past_and_absolute_times() {
    let (clock, db) = opened();
    let mut batch = Batch::new();
    batch
        .put_expiring("never", "1", Expiry::Never)
        .put_expiring("past", "2", Expiry::At(UNIX_EPOCH))
        .put_expiring("at", "3", Expiry::At(UNIX_EPOCH + START + SECOND * 5))
        .put_expiring("in", "4", Expiry::In(SECOND * 6))
        .put_expiring("far", "5", Expiry::In(Duration::MAX));
    db.write(batch).unwrap();
    let there =
        |db: &Db| ["never", "past", "at", "in", "far"].map(|key| db.contains_key(key).unwrap());
    assert_eq!(there(&db), [true, false, true, true, true]);
    clock.advance(SECOND * 5);
    assert_eq!(there(&db), [true, false, false, true, true]);
    clock.advance(SECOND);
    assert_eq!(there(&db), [true, false, false, false, true]);
    db.compact_all().unwrap();
    assert_eq!(db.count(..).unwrap(), 2);
}

#[test]
fn a_snapshot_answers_as_of_its_time() {
    let (clock, db) = opened();
    for n in 0..100u32 {
        db.put_expiring(n.to_be_bytes(), "x", Expiry::In(SECOND))
            .unwrap();
    }
    let before = db.snapshot();
    clock.advance(SECOND);
    let after = db.snapshot();
    assert_eq!(
        (before.count(..).unwrap(), after.count(..).unwrap()),
        (100, 0)
    );
    db.wait_idle().unwrap();
    db.compact_all().unwrap();
    assert_eq!(
        (before.count(..).unwrap(), after.count(..).unwrap()),
        (100, 0)
    );
    assert_eq!(before.get(5u32.to_be_bytes()).unwrap().unwrap(), "x");
    assert_eq!(db.count(..).unwrap(), 0);
    drop((before, after));
    db.wait_idle().unwrap();
    assert_eq!(db.stats().table_bytes, 0, "an expired table is kept");
}

/// What happens while a clock is asked, and how many times it is asked before that.
type Interruption = (usize, Box<dyn FnOnce() + Send>);

/// A clock that has something happen while it is asked for the n-th time.
struct Interrupting {
    clock: ManualClock,
    next: Mutex<Option<Interruption>>,
}

impl fmt::Debug for Interrupting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clock.fmt(f)
    }
}

impl Clock for Interrupting {
    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn wall(&self) -> Duration {
        let mut next = self.next.lock().unwrap();
        let due = match next.take() {
            Some((0, run)) => Some(run),
            later => {
                *next = later.map(|(n, run)| (n - 1, run));
                None
            }
        };
        drop(next);
        if let Some(run) = due {
            run();
        }
        self.clock.wall()
    }
}

/// A snapshot is taken at the very moment at which a job asks for the time, and then the time of an
/// entry comes. Whichever question it is, the snapshot keeps the entry.
#[test]
fn a_snapshot_taken_while_a_job_asks_for_the_time_keeps_what_it_sees() {
    let jobs: [fn(&Db); 3] = [
        |db| db.compact_all().unwrap(),
        |db| db.wait_idle().unwrap(),
        |db| db.flush().unwrap(),
    ];
    let mut interrupted = 0;
    for (job, nth) in jobs
        .into_iter()
        .flat_map(|job| (0..40).map(move |n| (job, n)))
    {
        let clock = Arc::new(Interrupting {
            clock: ManualClock::new(START),
            next: Mutex::new(None),
        });
        let options = Options::new().tune(|tuning| tuning.manual = true);
        let db = options.clock(clock.clone()).open_in_memory().unwrap();
        db.put_expiring("in a table", "1", Expiry::In(SECOND))
            .unwrap();
        db.flush().unwrap();
        db.put_expiring("in memory", "2", Expiry::In(SECOND))
            .unwrap();
        let taken = Arc::new(Mutex::new(None));
        let interruption = {
            let (db, clock, taken) = (db.clone(), clock.clone(), taken.clone());
            move || {
                *taken.lock().unwrap() = Some(db.snapshot());
                clock.clock.advance(SECOND);
            }
        };
        *clock.next.lock().unwrap() = Some((nth, Box::new(interruption)));
        job(&db);
        clock.next.lock().unwrap().take();
        let Some(snapshot) = taken.lock().unwrap().take() else {
            continue;
        };
        interrupted += 1;
        for (key, value) in [("in a table", "1"), ("in memory", "2")] {
            let found = snapshot.get(key).unwrap();
            assert_eq!(found.as_deref(), Some(value.as_bytes()), "question {nth}");
        }
        assert_eq!(db.count(..).unwrap(), 0);
    }
    assert!(interrupted >= 10, "{interrupted}");
}

#[test]
fn a_clock_that_is_set_back_brings_nothing_back() {
    let vfs = MemVfs::crashable(1);
    let clock = Arc::new(ManualClock::new(START));
    let open = |clock: &Arc<ManualClock>, vfs: &Arc<MemVfs>| {
        let vfs: Arc<dyn Vfs> = vfs.clone();
        manual(clock).vfs(vfs).open("/db").unwrap()
    };
    let db = open(&clock, &vfs);
    db.put_expiring("a", "1", Expiry::In(SECOND)).unwrap();
    clock.advance(SECOND * 2);
    assert!(!is_there(&db, "a"));
    clock.set_wall(START);
    assert!(
        !is_there(&db, "a"),
        "the clock of an open database ran backwards"
    );
    // The log learns how late it is from the next value that expires; the manifest from a flush.
    clock.set_wall(START + SECOND * 3);
    db.put_expiring("b", "2", Expiry::In(SECOND * 10)).unwrap();
    clock.set_wall(START);
    let killed = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1);
    let db_of_killed = open(&clock, &killed);
    assert!(
        !is_there(&db_of_killed, "a"),
        "replaying the log set the clock back"
    );
    assert!(is_there(&db_of_killed, "b"));
    db.flush().unwrap();
    db.close().unwrap();
    let db = open(&clock, &vfs);
    assert!(!is_there(&db, "a"), "opening set the clock back");
    assert!(is_there(&db, "b"));
}

/// Half of a table that expires is given back before the rest does, and each table goes soon after its last entry.
#[test]
fn space_comes_back_without_writes() {
    let (clock, db) = opened();
    for n in 0..20_000u32 {
        let time = if n % 2 == 0 { SECOND } else { SECOND * 100 };
        db.put_expiring(n.to_be_bytes(), [7; 100], Expiry::In(time))
            .unwrap();
    }
    db.compact_all().unwrap();
    let full = db.stats().table_bytes;
    clock.advance(SECOND);
    db.wait_idle().unwrap();
    let half = db.stats().table_bytes;
    assert!(half * 10 < full * 6, "{half} of {full} bytes are left");
    assert_eq!(db.count(..).unwrap(), 10_000);
    clock.advance(SECOND * 100);
    db.wait_idle().unwrap();
    assert_eq!(db.stats().table_bytes, 0);
}

/// With threads and the system's clock: what expires in memory leaves memory, log and tables by itself.
#[test]
fn an_idle_database_gives_expired_entries_back() {
    let db = Options::new().open_in_memory().unwrap();
    for n in 0..1000u32 {
        db.put_expiring(
            n.to_be_bytes(),
            [7; 1000],
            Expiry::In(Duration::from_millis(50)),
        )
        .unwrap();
    }
    let gone = |db: &Db| {
        let stats = db.stats();
        stats.table_bytes == 0 && stats.memtable_entries == 0
    };
    let start = std::time::Instant::now();
    while !gone(&db) {
        assert!(start.elapsed() < SECOND * 60, "{:?}", db.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(db.count(..).unwrap(), 0);
}

#[test]
fn the_expiry_of_a_value_can_be_changed() {
    let (clock, db) = opened();
    db.put("k", "v").unwrap();
    assert!(!db.set_expiry("other", Expiry::In(SECOND)).unwrap());
    assert!(db.set_expiry("k", Expiry::In(SECOND)).unwrap());
    db.flush().unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
    assert!(db.set_expiry("k", Expiry::In(SECOND * 2)).unwrap());
    clock.advance(SECOND);
    assert!(is_there(&db, "k"));
    assert!(db.set_expiry("k", Expiry::Never).unwrap());
    clock.advance(SECOND * 5);
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
    assert!(db.set_expiry("k", Expiry::At(UNIX_EPOCH)).unwrap());
    assert!(!is_there(&db, "k"));
    assert!(
        !db.set_expiry("k", Expiry::Never).unwrap(),
        "an expired value came back"
    );
}

const LATER: Duration = Duration::from_secs(50);
const DEFAULT: Duration = Duration::from_secs(100);

/// A database that merges by appending, whose default keyspace has this default expiry.
fn with_default(default: Option<Duration>) -> (Arc<ManualClock>, Db) {
    let clock = Arc::new(ManualClock::new(START));
    let append = |_: &[u8], older: &[u8], newer: &[u8]| [older, newer].concat();
    let options = manual(&clock).merge_operator("append", append);
    let db = options.open_in_memory().unwrap();
    let options = KeyspaceOptions::new().merge_operator("append");
    db.set_options(options.expiry(default)).unwrap();
    (clock, db)
}

/// What a write does to a key, and whether it keeps the expiry that the key's entry has.
type Kind = (&'static str, bool, fn(&Db));

fn batch(fill: impl FnOnce(&mut Batch) -> &mut Batch) -> Batch {
    let mut batch = Batch::new();
    fill(&mut batch);
    batch
}

const NEW: [u8; 8] = *b"newvalue";

const KINDS: [Kind; 15] = [
    ("put", false, |db| {
        db.put("k", NEW).unwrap();
    }),
    ("a put of a batch", false, |db| {
        db.write(batch(|batch| batch.put("k", NEW))).unwrap();
    }),
    ("a put of a transaction", false, |db| {
        let tx = db.transaction();
        tx.put("k", NEW).unwrap();
        let seen = tx.get_entry("k").unwrap().unwrap().expires_at;
        tx.commit().unwrap();
        assert_eq!(db.get_entry("k").unwrap().unwrap().expires_at, seen);
    }),
    ("ingest", false, |db| {
        db.ingest([("k", NEW)]).unwrap();
    }),
    ("ingest_unsorted", false, |db| {
        db.ingest_unsorted([("k", NEW)], 0, |_| ()).unwrap();
    }),
    ("put_if_absent", true, |db| {
        let _ = db.put_if_absent("k", NEW).unwrap();
    }),
    ("compare_and_swap", true, |db| {
        let now = db.get("k").unwrap();
        let swap = db.compare_and_swap("k", now.as_deref(), Some(&NEW));
        assert!(swap.unwrap().is_done());
    }),
    ("update", true, |db| {
        db.update("k", |_| Some(NEW.to_vec())).unwrap();
    }),
    ("add_i64", true, |db| {
        db.add_i64("k", 1).unwrap();
    }),
    ("append", true, |db| {
        db.append("k", NEW).unwrap();
    }),
    ("merge", true, |db| {
        db.merge("k", NEW).unwrap();
    }),
    ("add_i64 of a batch", true, |db| {
        let batch = batch(|batch| batch.add_i64("k", 1).add_i64("k", 2));
        db.write(batch).unwrap();
    }),
    ("append of a batch", true, |db| {
        let batch = batch(|batch| batch.append("k", NEW).put("other", NEW));
        db.submit(batch).unwrap().wait().unwrap();
    }),
    ("merge of a batch", true, |db| {
        let batch = batch(|batch| batch.merge("k", NEW).merge("k", NEW));
        db.write(batch).unwrap();
    }),
    ("merge of a batch with another change", true, |db| {
        let batch = batch(|batch| batch.merge("k", NEW).append("k", NEW).add_i64("n", 1));
        db.submit(batch).unwrap().wait().unwrap();
    }),
];

/// A write without an expiry of its own gets the keyspace's default; a read-modify-write keeps the
/// expiry that the entry has. Wherever the entries lie, and whether or not a merge has been over
/// them.
#[test]
fn one_rule_says_when_what_is_written_expires() {
    let settle: [fn(&Db); 3] = [
        |_| (),
        |db| db.flush().unwrap(),
        |db| db.compact_all().unwrap(),
    ];
    let before = [
        None,
        Some(Expiry::Never),
        Some(Expiry::In(LATER)),
        Some(Expiry::In(SECOND)),
    ];
    for (name, keeps, write) in KINDS {
        for default in [None, Some(DEFAULT)] {
            for (before, settle) in before
                .iter()
                .flat_map(|b| settle.map(|settle| (*b, settle)))
            {
                let (clock, db) = with_default(default);
                if let Some(expiry) = before {
                    db.put_expiring("k", 7i64.to_le_bytes(), expiry).unwrap();
                    settle(&db);
                }
                clock.advance(SECOND); // The shortest has expired.
                write(&db);
                let fresh = default.map(|after| UNIX_EPOCH + START + SECOND + after);
                let due = match before {
                    Some(Expiry::Never) if keeps => None,
                    Some(Expiry::In(LATER)) if keeps => Some(UNIX_EPOCH + START + LATER),
                    _ => fresh,
                };
                for _ in 0..2 {
                    let found = db.get_entry("k").unwrap().unwrap();
                    assert_eq!(found.expires_at, due, "{name} on {before:?}, {default:?}");
                    settle(&db);
                }
                clock.advance(DEFAULT);
                assert_eq!(is_there(&db, "k"), due.is_none(), "{name} on {before:?}");
            }
        }
    }
}

/// A counter of what happened within a second, however it counts.
#[test]
fn a_rate_limit_begins_anew_when_its_time_is_over() {
    let count: [fn(&Db) -> usize; 4] = [
        |db| db.add_i64("k", 1).unwrap() as usize,
        |db| {
            db.merge("k", "x").unwrap();
            db.get("k").unwrap().unwrap().len()
        },
        |db| {
            db.append("k", "x").unwrap();
            db.get("k").unwrap().unwrap().len()
        },
        |db| {
            let longer = |old: Option<&[u8]>| Some(vec![b'x'; old.unwrap_or(&[]).len() + 1]);
            db.update("k", longer).unwrap().unwrap().len()
        },
    ];
    for count in count {
        let (clock, db) = with_default(Some(SECOND));
        for round in 0..3 {
            for n in 1..=5 {
                assert_eq!(count(&db), n, "round {round}");
                clock.advance(SECOND / 5);
                if n == 3 {
                    db.wait_idle().unwrap();
                }
            }
            assert!(!is_there(&db, "k"));
        }
    }
}

/// A batch that sets a key itself, and then changes it: the expiry is the one that it set.
#[test]
fn a_batch_keeps_the_expiry_that_it_sets_itself() {
    let (_, db) = with_default(Some(DEFAULT));
    let later = Expiry::In(LATER);
    let batch = batch(|batch| {
        batch
            .put("default", 5i64.to_le_bytes())
            .add_i64("default", 2);
        batch
            .put_expiring("later", "a", later)
            .append("later", "b")
            .merge("later", "c");
        batch
            .put_expiring("never", "a", Expiry::Never)
            .merge("never", "b");
        batch
            .put_expiring("past", "a", Expiry::At(UNIX_EPOCH))
            .append("past", "b");
        batch
            .put_expiring("deleted", "a", Expiry::Never)
            .delete("deleted")
            .merge("deleted", "b")
    });
    assert_eq!(batch.len(), 12);
    db.write(batch).unwrap();
    let found = |key: &str| {
        let entry = db.get_entry(key).unwrap().unwrap();
        (entry.value, entry.expires_at)
    };
    let after = |time: Duration| Some(UNIX_EPOCH + START + time);
    assert_eq!(
        found("default"),
        (7i64.to_le_bytes().to_vec().into(), after(DEFAULT))
    );
    assert_eq!(found("later"), ("abc".into(), after(LATER)));
    assert_eq!(found("never"), ("ab".into(), None));
    assert_eq!(found("past"), ("b".into(), after(DEFAULT)));
    assert_eq!(found("deleted"), ("b".into(), after(DEFAULT)));
}

/// What may expire is known again after each kind of end.
#[test]
fn merges_keep_the_expiry_of_values_from_before_the_open() {
    let vfs = MemVfs::crashable(7);
    let clock = Arc::new(ManualClock::new(START));
    let append = |_: &[u8], older: &[u8], newer: &[u8]| [older, newer].concat();
    let open = |vfs: &Arc<MemVfs>| {
        let vfs: Arc<dyn Vfs> = vfs.clone();
        let options = manual(&clock).vfs(vfs).merge_operator("append", append);
        options.open("/db").unwrap()
    };
    let db = open(&vfs);
    db.set_options(KeyspaceOptions::new().merge_operator("append"))
        .unwrap();
    db.put_expiring("table", "1", Expiry::In(LATER)).unwrap();
    db.flush().unwrap();
    db.put_expiring("log", "1", Expiry::In(LATER)).unwrap();
    db.sync().unwrap();
    let check = |db: &Db| {
        for key in ["table", "log"] {
            db.merge(key, "2").unwrap();
            let entry = db.get_entry(key).unwrap().unwrap();
            assert_eq!(entry.value, "12");
            assert_eq!(entry.expires_at, Some(UNIX_EPOCH + START + LATER), "{key}");
        }
    };
    check(&open(&vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1)));
    db.close().unwrap();
    check(&open(&vfs));
}
