//! Values that expire: on time for every reader, for good, and with their space given back.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use terrace::clock::{Clock, ManualClock};
use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Batch, Db, Expiry, Options};

pub(crate) const START: Duration = Duration::from_secs(1_790_000_000);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn manual(clock: &Arc<ManualClock>) -> Options {
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
pub(crate) fn is_there(db: &Db, key: &str) -> bool {
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

const HOUR: Duration = Duration::from_secs(3600);

fn has(db: &Db, key: &str) -> bool {
    db.contains_key(key).unwrap()
}

/// While the system's clock is behind, time goes on at half the pace, and at the clock's again once
/// that has caught up.
#[test]
fn time_goes_on_while_the_clock_is_behind() {
    let (clock, db) = opened();
    db.put_expiring("before", "1", Expiry::In(HOUR * 3))
        .unwrap();
    clock.set_wall(START + HOUR * 2);
    assert!(has(&db, "before"));
    clock.set_wall(START);
    db.put_expiring("minute", "1", Expiry::In(SECOND * 60))
        .unwrap();
    clock.advance(SECOND * 60);
    assert!(has(&db, "minute"));
    clock.advance(SECOND * 59);
    assert!(has(&db, "minute"));
    clock.advance(SECOND);
    assert!(!has(&db, "minute"), "time stands still");
    clock.advance(HOUR * 2 - SECOND * 121); // Just not caught up.
    assert!(has(&db, "before"));
    clock.advance(HOUR * 2); // By far.
    assert!(!has(&db, "before"));
    db.put_expiring("minute", "1", Expiry::In(SECOND * 60))
        .unwrap();
    clock.advance(SECOND * 60);
    assert!(!has(&db, "minute"));
}

/// A clock that was wrong by years, for a moment, expires what is there at that moment; opened
/// again, the database goes by the clock as it is now. Wherever the wrong time had been noted, and
/// whatever the end was.
#[test]
fn a_clock_that_jumped_forward_counts_until_the_database_is_opened_again() {
    let years = HOUR * 24 * 3650;
    for (flushes, kill) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut vfs = MemVfs::crashable(3);
        let clock = Arc::new(ManualClock::new(START));
        let open = |vfs: &Arc<MemVfs>| {
            let vfs: Arc<dyn Vfs> = vfs.clone();
            manual(&clock).vfs(vfs).open("/db").unwrap()
        };
        let db = open(&vfs);
        db.put_expiring("dropped", "1", Expiry::In(HOUR)).unwrap();
        clock.set_wall(START + years);
        assert!(!has(&db, "dropped"));
        db.compact_all().unwrap();
        db.put_expiring("wrong", "1", Expiry::In(HOUR)).unwrap();
        if flushes {
            db.flush().unwrap();
        }
        clock.set_wall(START + SECOND);
        assert!(!has(&db, "dropped"));
        let end = |db: Db, vfs: &Arc<MemVfs>| match kill {
            true => vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1),
            false => {
                db.close().unwrap();
                vfs.clone()
            }
        };
        vfs = end(db, &vfs);
        // Twice: the wrong time must not come back out of an old note.
        for round in 0..2 {
            let db = open(&vfs);
            assert!(!has(&db, "dropped"), "what was dropped is gone");
            db.put_expiring("short", "1", Expiry::In(SECOND)).unwrap();
            let end_of_short = db.get_entry("short").unwrap().unwrap().expires_at;
            let now = UNIX_EPOCH + START + SECOND * (1 + 2 * round);
            assert_eq!(end_of_short, Some(now + SECOND), "{flushes} {kill} {round}");
            clock.advance(SECOND * 2);
            assert!(!has(&db, "short"));
            // The log learns the time with a value that expires.
            db.put_expiring("note", "1", Expiry::In(HOUR)).unwrap();
            if flushes {
                db.flush().unwrap();
            }
            vfs = end(db, &vfs);
        }
        // And what was believed since is remembered: within the hour nothing comes back.
        clock.set_wall(START);
        let db = open(&vfs);
        assert!(!has(&db, "short"), "{flushes} {kill}");
    }
}

/// A machine that has no clock yet says that it is 1970: then what is remembered is the better
/// guess.
#[test]
fn a_clock_that_says_1970_is_not_believed() {
    let vfs = MemVfs::crashable(4);
    let clock = Arc::new(ManualClock::new(START));
    let open = || {
        let vfs: Arc<dyn Vfs> = vfs.clone();
        manual(&clock).vfs(vfs).open("/db").unwrap()
    };
    let db = open();
    db.put_expiring("expired", "1", Expiry::In(SECOND)).unwrap();
    db.put_expiring("alive", "1", Expiry::In(HOUR)).unwrap();
    clock.advance(SECOND);
    db.flush().unwrap();
    db.close().unwrap();
    clock.set_wall(SECOND);
    let db = open();
    assert!(!has(&db, "expired"));
    db.put_expiring("new", "1", Expiry::In(HOUR)).unwrap();
    clock.set_wall(START + SECOND * 60);
    for key in ["alive", "new"] {
        assert!(has(&db, key), "{key}");
    }
}

/// Half of a table that expires is given back before the rest does, and each table goes soon after
/// its last entry.
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

/// With threads and the system's clock: what expires in memory leaves memory, log and tables by
/// itself.
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
