//! The engine under chosen schedules: which thread goes on is decided at each lock, each atomic and
//! each call on the log's files, at random and by PCT (Burckhardt et al., "A randomized scheduler
//! with probabilistic guarantees of finding bugs", 2010).
//!
//! ```text
//! RUSTFLAGS="--cfg terrace_shuttle" cargo test --target-dir target/shuttle --lib schedule_tests
//! ```
//!
//! Each test runs a number of schedules under either scheduler: `TERRACE_SCHEDULES=n` changes it,
//! and `TERRACE_SCHEDULE_SEED=s` the seed from which they are drawn. `torture schedules` sets both,
//! and reads the line that each test prints. A failure prints its schedule; `shuttle::replay(body,
//! schedule)` in place of [`check`] repeats it.
//!
//! Databases have no threads of their own but in `background.rs`: a thread of the test does what
//! the log's, the flush and the compaction thread would do, with the same functions.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests as well as tests.

mod background;
mod disk;
mod jobs;

use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use disk::Disk;
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};
use terrace_base::vfs::Vfs;
use terrace_base::{Clock, ErrorKind, SeqNo};

use crate::jobs::compact::compact_once;
use crate::jobs::flush::{flush_once, tend_memtable};
use crate::jobs::space::tend_space;
use crate::sync::{AtomicU64, Ordering};
use crate::{Batch, Db, Durability, Options};

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect(name))
}

/// Runs `body` under `schedules` schedules, unless the environment names another number, and says
/// so.
fn check(schedules: usize, body: fn()) {
    fn run(scheduler: impl Scheduler + 'static, body: fn()) {
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        Runner::new(scheduler, config).run(body);
    }
    let schedules = number("TERRACE_SCHEDULES").map_or(schedules, |n| n as usize);
    let seed = number("TERRACE_SCHEDULE_SEED").unwrap_or(1);
    run(RandomScheduler::new_from_seed(seed, schedules), body);
    run(PctScheduler::new_from_seed(seed, 3, schedules), body);
    println!("schedules: {}", 2 * schedules);
}

/// A clock that moves by 5 us whenever it is asked, so that waiting for a moment comes to an end.
#[derive(Debug, Default)]
struct StepClock(std::sync::atomic::AtomicU64);

impl Clock for StepClock {
    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.fetch_add(5, Ordering::Relaxed))
    }
    fn wall(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// A database on a disk that says what is durable, and the threads that use it.
struct World {
    db: Db,
    disk: Arc<Disk>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Threads that write and have not ended.
    writers: Arc<AtomicU64>,
    /// The highest sequence number that a write has returned.
    floor: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Hands {
    db: Db,
    disk: Arc<Disk>,
    writers: Arc<AtomicU64>,
    floor: Arc<AtomicU64>,
}

/// A value that says where it is found: 16 bytes, repeated `times`.
fn value(writer: u64, n: u64, times: usize) -> Vec<u8> {
    let mut unit = [0xA5; 16];
    unit[..8].copy_from_slice(&writer.to_be_bytes());
    unit[8..].copy_from_slice(&(n | 0x5A00_0000_0000_0000).to_be_bytes());
    unit.repeat(times)
}

fn options(disk: Arc<dyn Vfs>, segment: u64) -> Options {
    let mut options = Options::new().memory(4 << 20);
    options.vfs = disk;
    options.clock = Arc::new(StepClock::default());
    options.tuning.manual = true;
    options.tuning.list_entries = 4;
    options.tuning.segment_bytes = (segment, Some(segment));
    options
}

impl World {
    fn new(change: impl FnOnce(Options) -> Options, segment: u64) -> World {
        let disk = Disk::new();
        let db = change(options(disk.clone(), segment)).open("/db").unwrap();
        World {
            db,
            disk,
            threads: Vec::new(),
            writers: Arc::new(AtomicU64::new(0)),
            floor: Arc::new(AtomicU64::new(0)),
        }
    }

    fn hands(&self) -> Hands {
        Hands {
            db: self.db.clone(),
            disk: self.disk.clone(),
            writers: self.writers.clone(),
            floor: self.floor.clone(),
        }
    }

    fn writer(&mut self, run: impl FnOnce(&Hands) + Send + 'static) {
        self.writers.fetch_add(1, Ordering::SeqCst);
        let hands = self.hands();
        self.threads.push(thread::spawn(move || {
            run(&hands);
            hands.writers.fetch_sub(1, Ordering::SeqCst);
        }));
    }

    fn thread(&mut self, run: impl FnOnce(&Hands) + Send + 'static) {
        let hands = self.hands();
        self.threads.push(thread::spawn(move || run(&hands)));
    }

    /// What the log's thread does.
    fn log_thread(&mut self) {
        self.thread(|hands| {
            while hands.writers.load(Ordering::SeqCst) > 0 {
                let engine = hands.db.shared();
                engine.committer.sync_if_due();
                if tend_space(engine).is_err() {
                    return;
                }
                thread::yield_now();
            }
        });
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Hands {
    /// Both keys get `value` in one write.
    fn pair(&self, value: &[u8], durability: Durability) -> Batch {
        let mut batch = Batch::new();
        batch.put("a", value).put("b", value).durability(durability);
        batch
    }

    fn wrote(&self, seq: SeqNo) {
        assert!(
            self.db.shared().committer.visible() >= seq,
            "returned before it is visible"
        );
        self.floor.fetch_max(seq.get(), Ordering::SeqCst);
    }

    /// What a reader may rely on, whatever happens meanwhile. The pair must have been written
    /// before.
    fn look(&self, seen: &mut SeqNo) {
        let floor = self.floor.load(Ordering::SeqCst);
        let pair = self.db.multi_get(["a", "b"]).unwrap();
        assert!(
            pair[0].is_some() && pair[0] == pair[1],
            "half a batch: {pair:?}"
        );
        let entry = self
            .db
            .get_entry("b")
            .unwrap()
            .expect("a visible key is missing");
        assert!(
            entry.version.get() >= floor,
            "a write that returned is missing"
        );
        assert!(entry.version >= *seen, "time runs backwards");
        *seen = entry.version;
        let all: Vec<_> = self.db.iter().map(|entry| entry.unwrap().1).collect();
        assert!(all.len() == 2 && all[0] == all[1], "half a batch: {all:?}");
    }
}

fn readers_and_jobs() {
    let mut world = World::new(|options| options, 256 << 10);
    world
        .db
        .write(world.hands().pair(b"first", Durability::Buffered))
        .unwrap();
    for (writer, durability) in [(0, Durability::Sync), (1, Durability::Buffered)] {
        world.writer(move |hands| {
            for n in 0..3 {
                let batch = hands.pair(&value(writer, n, 1), durability);
                hands.wrote(hands.db.write(batch).unwrap());
            }
        });
    }
    world.writer(|hands| {
        let batch = hands.pair(&value(2, 0, 1), Durability::Sync);
        let ticket = hands.db.submit(batch).unwrap();
        hands.wrote(ticket.wait().unwrap());
    });
    world.thread(|hands| {
        let engine = hands.db.shared();
        for _ in 0..2 {
            engine.committer.seal();
            tend_memtable(engine).unwrap();
            engine.committer.seal();
            flush_once(engine, true).unwrap();
            compact_once(engine, true).unwrap();
        }
    });
    world.thread(|hands| {
        let mut seen = SeqNo::ZERO;
        (0..4).for_each(|_| hands.look(&mut seen));
    });
    world.thread(|hands| {
        let floor = hands.floor.load(Ordering::SeqCst);
        let snapshot = hands.db.snapshot();
        assert!(snapshot.seq().get() >= floor);
        let first = snapshot.multi_get(["a", "b"]).unwrap();
        assert!(
            first[0].is_some() && first[0] == first[1],
            "half a batch: {first:?}"
        );
        for _ in 0..3 {
            thread::yield_now();
            assert_eq!(
                snapshot.multi_get(["b", "a"]).unwrap(),
                first,
                "a snapshot has changed"
            );
            assert_eq!(snapshot.iter().count(), 2);
        }
    });
    world.join();
    let mut seen = SeqNo::ZERO;
    world.hands().look(&mut seen);
}

#[test]
fn readers_see_whole_visible_writes_while_jobs_replace_what_they_read() {
    check(4000, readers_and_jobs);
}

fn durable_acknowledgements() {
    // Segments of 4 KiB: each write of 2 KiB nearly fills one, and syncs span several.
    let mut world = World::new(|options| options, 4096);
    for writer in 0..2 {
        world.writer(move |hands| {
            for n in 0..3 {
                let value = value(writer, n, 60);
                hands.wrote(
                    hands
                        .db
                        .write(hands.pair(&value, Durability::Sync))
                        .unwrap(),
                );
                assert!(
                    hands.disk.is_durable(&value[..16]),
                    "acknowledged and not on disk"
                );
            }
        });
    }
    world.writer(|hands| {
        let small = value(2, 0, 1);
        hands
            .db
            .write(hands.pair(&small, Durability::Buffered))
            .unwrap();
        let large = value(2, 1, 60);
        hands
            .db
            .write(hands.pair(&large, Durability::Buffered))
            .unwrap();
        hands.db.sync().unwrap();
        assert!(hands.disk.is_durable(&small) && hands.disk.is_durable(&large[..16]));
    });
    world.writer(|hands| {
        let value = value(3, 0, 1);
        let ticket = hands
            .db
            .submit(hands.pair(&value, Durability::Sync))
            .unwrap();
        if ticket.is_durable() {
            assert!(hands.disk.is_durable(&value));
        }
        let seq = shuttle::future::block_on(ticket).unwrap();
        hands.wrote(seq);
        assert!(hands.disk.is_durable(&value));
    });
    world.log_thread();
    world.join();
}

#[test]
fn what_is_acknowledged_is_on_disk() {
    check(4000, durable_acknowledgements);
}

fn interval() {
    const LONGEST: Duration = Duration::from_micros(40);
    let mut world = World::new(
        |options| options.durability(Durability::Interval(LONGEST)),
        256 << 10,
    );
    let returned = Arc::new(StdMutex::new(Vec::<(Duration, Vec<u8>)>::new()));
    for writer in 0..3 {
        let returned = returned.clone();
        world.writer(move |hands| {
            let clock = hands.db.shared().options.clock.clone();
            for n in 0..4 {
                let called = clock.monotonic();
                let value = value(writer, n, 1);
                hands.wrote(hands.db.put("k", &value).unwrap());
                let mut returned = returned.lock().unwrap();
                for (then, value) in returned.iter() {
                    let old = called.saturating_sub(*then) > LONGEST;
                    assert!(!old || hands.disk.is_durable(value), "old and not on disk");
                }
                returned.push((clock.monotonic(), value));
            }
        });
    }
    world.log_thread();
    world.join();
}

#[test]
fn under_interval_writers_wait_while_something_older_is_not_on_disk() {
    check(4000, interval);
}

fn failing_sync() {
    let mut world = World::new(|options| options, 256 << 10);
    world.db.put("before", "1").unwrap();
    let nth = shuttle::rand::thread_rng().gen_range(1..4);
    world.disk.fail_sync(nth);
    let failures = Arc::new(StdMutex::new(0));
    for writer in 0..3 {
        let failures = failures.clone();
        world.writer(move |hands| {
            for n in 0..2 {
                let value = value(writer, n, 1);
                match hands.db.write(hands.pair(&value, Durability::Sync)) {
                    Ok(_) => assert!(
                        hands.disk.is_durable(&value),
                        "acknowledged and not on disk"
                    ),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
                        *failures.lock().unwrap() += 1;
                    }
                }
            }
        });
    }
    world.writer(|hands| {
        let value = value(7, 0, 1);
        let Ok(ticket) = hands.db.submit(hands.pair(&value, Durability::Sync)) else {
            return;
        };
        if shuttle::future::block_on(ticket).is_ok() {
            assert!(
                hands.disk.is_durable(&value),
                "acknowledged and not on disk"
            );
        }
    });
    world.thread(|hands| {
        for _ in 0..4 {
            let visible = hands.db.shared().committer.visible();
            let pair = hands.db.multi_get(["a", "b"]).unwrap();
            assert_eq!(pair[0], pair[1], "half a batch");
            assert!(hands.db.shared().committer.visible() >= visible);
        }
    });
    world.log_thread();
    world.join();
    world.disk.fail_sync(usize::MAX);
    let failed = world.disk.has_failed();
    assert_eq!(world.db.put("after", "1").is_err(), failed);
    assert_eq!(world.db.health().is_err(), failed);
    assert!(
        failed || *failures.lock().unwrap() == 0,
        "failed without a cause"
    );
    assert!(world.db.get("before").unwrap().is_some());
    drop(world.db);
    assert!(
        !failed || world.disk.syncs_after_failure() == 0,
        "a failed sync was tried again"
    );
}

#[test]
fn a_failed_sync_acknowledges_nobody_and_wakes_everybody() {
    check(4000, failing_sync);
}

fn closing() {
    let mut world = World::new(|options| options, 4096);
    let acknowledged = Arc::new(StdMutex::new(Vec::new()));
    for writer in 0..3u64 {
        let acknowledged = acknowledged.clone();
        let durability = [Durability::Sync, Durability::Buffered][writer as usize % 2];
        world.writer(move |hands| {
            for n in 0..3u64 {
                let key = [writer as u8, n as u8];
                let mut batch = Batch::new();
                batch.put(key, value(writer, n, 30)).durability(durability);
                match hands.db.write(batch) {
                    Ok(_) => acknowledged.lock().unwrap().push(key),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{error}"),
                }
            }
        });
    }
    world.thread(|hands| hands.db.close().unwrap());
    world.join();
    let db = options(world.disk.clone(), 4096).open("/db").unwrap();
    let acknowledged = acknowledged.lock().unwrap();
    for key in acknowledged.iter() {
        assert!(
            db.contains_key(key).unwrap(),
            "an acknowledged write is missing"
        );
    }
    assert_eq!(
        db.iter().count(),
        acknowledged.len(),
        "a refused write is there"
    );
}

#[test]
fn close_keeps_what_it_acknowledged_and_nothing_else() {
    check(2000, closing);
}

/// A counter's value.
fn count_of(value: Option<crate::Bytes>) -> i64 {
    value.map_or(0, |value| i64::from_le_bytes(value[..].try_into().unwrap()))
}

fn conditions() {
    let mut world = World::new(|options| options, 256 << 10);
    for key in ["q1", "q2", "q3"] {
        world.db.put(key, key).unwrap();
    }
    let queue = ["q1", "q2", "q3"];
    let taken = Arc::new(StdMutex::new(Vec::new()));
    for writer in 0..2 {
        let taken = taken.clone();
        world.writer(move |hands| {
            for _ in 0..2 {
                let sum = hands.db.add_i64("n", 1).unwrap();
                assert!(count_of(hands.db.get("n").unwrap()) >= sum, "not visible");
            }
            let durability = [Durability::Sync, Durability::Buffered][writer];
            let mut batch = Batch::new();
            batch.add_i64("n", 10).durability(durability);
            hands.db.write(batch).unwrap();
            let next = hands.db.take(queue[writer]).unwrap();
            taken.lock().unwrap().extend(next);
        });
    }
    world.writer(|hands| {
        // A condition that does not hold rests on what a crash can no longer undo.
        let found = hands
            .db
            .compare_and_swap("n", Some(b"other"), None)
            .unwrap();
        if let crate::Swap::Found(found) = found {
            let seen = count_of(hands.db.get("n").unwrap());
            assert!(count_of(found) <= seen, "an answer from the future");
        }
        let sum = hands.db.transact(|tx| {
            let sum = count_of(tx.get("n")?);
            tx.put("copy", sum.to_le_bytes())?;
            tx.put("n", (sum + 100).to_le_bytes())?;
            Ok(sum)
        });
        assert!(count_of(hands.db.get("n").unwrap()) >= sum.unwrap() + 100);
    });
    let popped = taken.clone();
    world.writer(move |hands| {
        let last = hands.db.pop_last().unwrap(); // At least one of the queue is left.
        popped.lock().unwrap().extend(last.map(|(_, value)| value));
    });
    world.thread(|hands| {
        let engine = hands.db.shared();
        for _ in 0..2 {
            engine.committer.seal();
            tend_memtable(engine).unwrap();
            flush_once(engine, true).unwrap();
            compact_once(engine, true).unwrap();
        }
    });
    world.join();
    let db = &world.db;
    let (n, copy) = (db.get("n").unwrap(), db.get("copy").unwrap());
    let mut taken = taken.lock().unwrap().clone();
    taken.retain(|value| value.starts_with(b"q"));
    taken.sort();
    let before = taken.len();
    taken.dedup();
    assert_eq!(taken.len(), before, "taken twice");
    for key in queue {
        let there = db.get(key).unwrap().is_some();
        assert!(
            there != taken.iter().any(|taken| taken == key),
            "{key} is lost"
        );
    }
    assert_eq!(count_of(n), 124, "an addition is lost");
    assert!(count_of(copy) <= 24);
}

#[test]
fn conditions_hold_when_what_depends_on_them_is_appended() {
    check(4000, conditions);
}

fn ranges() {
    let mut world = World::new(|options| options, 256 << 10);
    let queue = world.db.keyspace("queue").unwrap();
    for key in ["b", "c"] {
        queue.put(key, key).unwrap();
    }
    let second = Arc::new(StdMutex::new(None));
    let key_of = |popped: Option<(crate::Bytes, _)>| popped.map(|(key, _): (_, crate::Bytes)| key);
    let (of_first, of_second) = (queue.clone(), queue.clone());
    let popped = second.clone();
    world.writer(move |_| {
        *popped.lock().unwrap() = key_of(of_second.pop_first().unwrap());
    });
    let first = Arc::new(StdMutex::new(None));
    let popped = first.clone();
    world.writer(move |_| {
        of_first.put("a", "a").unwrap();
        *popped.lock().unwrap() = key_of(of_first.pop_first().unwrap());
    });
    // Whoever finds the range empty fills it: one of them.
    for key in ["r1", "r2"] {
        world.writer(move |hands| {
            let filled = hands.db.transact(|tx| {
                let empty = tx.range("r".."s").next().transpose()?.is_none();
                if empty {
                    tx.put(key, "mine")?;
                }
                Ok(empty)
            });
            filled.unwrap();
        });
    }
    world.thread(|hands| {
        let engine = hands.db.shared();
        engine.committer.seal();
        tend_memtable(engine).unwrap();
        flush_once(engine, true).unwrap();
    });
    world.join();
    let (first, second) = (
        first.lock().unwrap().clone(),
        second.lock().unwrap().clone(),
    );
    let expected = match second.as_deref() {
        Some(b"a") => "b",
        Some(b"b") => "a",
        other => panic!("{other:?} was popped second"),
    };
    assert_eq!(first.unwrap(), expected, "not the first");
    assert_eq!(queue.iter().count(), 1);
    assert_eq!(world.db.count("r".."s").unwrap(), 1, "both found it empty");
}

#[test]
fn nobody_slips_into_a_range_that_was_found_empty() {
    check(3000, ranges);
}
