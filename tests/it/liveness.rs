//! Liveness: every call returns, and every background job ends, under any load
//!
//! Each test runs under a watchdog.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use terrace::vfs::{Call, Fault, FaultVfs, MemVfs, Op, Vfs};
use terrace::{Batch, Db, Durability, ErrorKind, KeyspaceOptions, Options};

/// Runs `body`, and fails if it takes longer than any machine needs for it.
fn watched(body: impl FnOnce() + Send + 'static) {
    const LONGEST: Duration = Duration::from_secs(120);
    let (done, ended) = mpsc::channel();
    let runner = thread::spawn(move || {
        body();
        done.send(()).unwrap();
    });
    match ended.recv_timeout(LONGEST) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still running after {LONGEST:?}"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            if let Err(panic) = runner.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn in_memory(seed: u64) -> Options {
    let vfs: Arc<dyn Vfs> = MemVfs::new(seed);
    Options::new().vfs(vfs).durability(Durability::Buffered)
}

/// Waits until `done`, for at most 60 s.
fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "not yet: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn writers_pass_the_memory_wall() {
    watched(|| {
        let db = in_memory(1).memory(4 << 20).open("/db").unwrap();
        thread::scope(|scope| {
            for writer in 0..16u32 {
                let db = &db;
                scope.spawn(move || {
                    for i in 0..10_000u32 {
                        let key = [writer.to_be_bytes(), i.to_be_bytes()].concat();
                        db.put(key, [7; 300]).unwrap();
                    }
                });
            }
        });
        assert_eq!(db.count(..).unwrap(), 160_000);
        db.close().unwrap();
    });
}

/// The delay of a write does not depend on how many others are delayed.
#[test]
fn pacing_binds_all_writers_together() {
    const WRITERS: u32 = 64;
    const PUTS: u32 = 60;
    watched(|| {
        let options = in_memory(2).tune(|tuning| tuning.level0_runs = 1000);
        let db = options.open("/db").unwrap();
        for run in 0..22u32 {
            db.put(run.to_be_bytes(), "a").unwrap();
            db.flush().unwrap();
        }
        assert_eq!(db.stats().levels[0].runs, 22);
        let start = Instant::now();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let db = &db;
                scope.spawn(move || {
                    for i in 0..PUTS {
                        db.put([writer, i].map(u32::to_be_bytes).concat(), [0; 100])
                            .unwrap();
                    }
                });
            }
        });
        // More than the full price for each KiB, less what is never slept.
        let least = Duration::from_micros(200) * (WRITERS * PUTS * 100 / 1024);
        assert!(
            start.elapsed() >= least - Duration::from_millis(2),
            "written in {:?}, paced to {least:?}",
            start.elapsed()
        );
    });
}

#[test]
fn without_threads_a_write_is_an_error_until_they_start() {
    for spare in 0..4 {
        watched(move || {
            let threads: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(spare)));
            let options = in_memory(3).memory(8 << 20);
            let db = options
                .tune(|tuning| tuning.spare_threads = Some(threads))
                .open("/db")
                .unwrap();
            let error = db.put("a", "1").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            for call in [Db::flush, Db::wait_idle, Db::compact_all] {
                assert_eq!(call(&db).unwrap_err().kind(), ErrorKind::Io);
            }
            let mut batch = Batch::new();
            batch.put("a", "1");
            assert_eq!(db.submit(batch).unwrap_err().kind(), ErrorKind::Io);
            assert_eq!(db.health().unwrap_err().kind(), ErrorKind::Io);
            assert_eq!(db.get("a").unwrap(), None, "refused, and written");

            threads.store(1000, Ordering::SeqCst);
            eventually("threads start", || db.put("a", "2").is_ok());
            db.health().unwrap();
            db.wait_idle().unwrap();
            assert_eq!(db.get("a").unwrap().unwrap(), "2");
            db.close().unwrap();
        });
    }
}

/// Each step of the compaction finds that another table has been added.
#[test]
fn compacting_everything_ends_beside_a_writer() {
    watched(|| {
        let (entered, steps) = mpsc::channel::<()>();
        let (added, go_on) = mpsc::channel::<()>();
        let gates = Arc::new(Mutex::new(Some((entered, go_on))));
        let passed = gates.clone();
        let options = in_memory(4)
            .tune(|tuning| tuning.level0_runs = 1000)
            .compaction_filter("step", move |_, _| {
                if let Some((entered, go_on)) = &*passed.lock().unwrap() {
                    entered.send(()).unwrap();
                    go_on.recv().unwrap();
                }
                true
            });
        let db = options.open("/db").unwrap();
        let filtered = KeyspaceOptions::new().compaction_filter(Some("step"));
        let rows = db.create_keyspace("rows", filtered).unwrap();
        rows.put("k", "0").unwrap();
        let writer = thread::spawn({
            let (db, rows) = (db.clone(), rows.clone());
            move || {
                for step in steps {
                    rows.put("k", "1").unwrap();
                    db.flush().unwrap();
                    added.send(step).unwrap();
                }
            }
        });
        db.compact_all().unwrap();
        rows.compact(..).unwrap();
        gates.lock().unwrap().take();
        writer.join().unwrap();
    });
}

/// What was there before the call is in the last level afterwards.
#[test]
fn compacting_everything_takes_what_was_there_to_the_last_level() {
    let options = in_memory(5).memory(8 << 20).tune(|tuning| {
        tuning.memtable_bytes = Some(16 << 10);
        tuning.table_bytes = 16 << 10;
        tuning.base_level_bytes = 32 << 10;
    });
    let db = options.open("/db").unwrap();
    for i in 0..6000u32 {
        let key = (i % 3000).wrapping_mul(2_654_435_761).to_be_bytes();
        db.put(key, [1; 100]).unwrap();
    }
    db.compact_all().unwrap();
    let levels = db.stats().levels;
    let (last, above) = levels.split_last().unwrap();
    assert!(above.iter().all(|level| level.tables == 0), "{levels:?}");
    assert_eq!(last.entries, 3000);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Awaits a future with nothing but its waker; how long that took.
fn awaited<T>(future: impl Future<Output = T>) -> Duration {
    let start = Instant::now();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    while future
        .as_mut()
        .poll(&mut Context::from_waker(&waker))
        .is_pending()
    {
        thread::park();
    }
    start.elapsed()
}

fn is_segment(call: &Call) -> bool {
    call.path.extension().is_some_and(|name| name == "wal")
}

fn is_log_sync(call: &Call) -> bool {
    call.op == Op::SyncData && is_segment(call)
}

/// A sync in flight does not cover a ticket that is submitted after it began: the log's thread
/// leads another.
#[test]
fn a_ticket_submitted_during_a_sync_is_synced_soon() {
    watched(|| {
        let vfs = FaultVfs::new(MemVfs::new(6));
        let db = Options::new().vfs(vfs.clone()).open("/db").unwrap();
        db.put("a", "0").unwrap();
        let (began, begun) = mpsc::channel();
        let began = Mutex::new(began);
        let sync = move |call: &Call| {
            let sync = is_log_sync(call);
            if sync {
                began.lock().unwrap().send(()).ok();
            }
            sync
        };
        vfs.arm_when(sync, Fault::Delay(Duration::from_millis(30)), true);
        let mut times = Vec::new();
        for _ in 0..5 {
            thread::scope(|scope| {
                scope.spawn(|| db.put("a", "1").unwrap());
                begun.recv().unwrap();
                let mut batch = Batch::new();
                batch.put("b", "1");
                times.push(awaited(db.submit(batch).unwrap()));
            });
            while begun.try_recv().is_ok() {}
        }
        times.sort();
        assert!(times[2] < Duration::from_millis(800), "took {times:?}");
    });
}

/// Making log segments, which may take long, is not the job of the thread that syncs.
#[test]
fn an_interval_is_kept_while_a_segment_is_made() {
    watched(|| {
        let vfs = FaultVfs::new(MemVfs::new(7));
        let options = Options::new().vfs(vfs.clone());
        let interval = Durability::Interval(Duration::from_millis(20));
        let options = options.durability(interval).tune(|tuning| {
            tuning.segment_bytes = (16 << 10, Some(16 << 10));
        });
        let db = options.open("/db").unwrap();
        let blocked = Arc::new(AtomicBool::new(false));
        let (stuck, release) = mpsc::channel::<()>();
        let release = Mutex::new(release);
        let begun = blocked.clone();
        let makes_segment = move |call: &Call| {
            let made = call.op == Op::Create && is_segment(call);
            if made
                && thread::current()
                    .name()
                    .is_some_and(|name| name.starts_with("terrace-"))
            {
                begun.store(true, Ordering::SeqCst);
                release.lock().unwrap().recv().ok();
            }
            false
        };
        vfs.arm_when(makes_segment, Fault::Delay(Duration::ZERO), true);
        eventually("a background thread makes a segment", || {
            blocked.load(Ordering::SeqCst) || {
                db.put("k", [1; 200]).unwrap();
                false
            }
        });
        let synced = Arc::new(AtomicUsize::new(0));
        let count = synced.clone();
        let counts = move |call: &Call| {
            count.fetch_add(usize::from(is_log_sync(call)), Ordering::SeqCst);
            false
        };
        vfs.arm_when(counts, Fault::Delay(Duration::ZERO), true);
        db.put("last", "1").unwrap();
        eventually("the interval's sync", || synced.load(Ordering::SeqCst) > 0);
        drop(stuck);
        db.close().unwrap();
    });
}

fn tables_in(vfs: &Arc<dyn Vfs>) -> usize {
    let names = vfs.read_dir("/db".as_ref()).unwrap();
    let tables = names
        .iter()
        .filter(|name| name.to_string_lossy().ends_with(".sst"));
    tables.count()
}

/// A table that nothing needs any more goes even while a compaction runs.
#[test]
fn obsolete_tables_go_while_compactions_run() {
    watched(|| {
        let vfs: Arc<dyn Vfs> = MemVfs::new(8);
        let (entered, inside) = mpsc::channel::<()>();
        let (stuck, release) = mpsc::channel::<()>();
        let gates = Mutex::new((entered, release));
        let options = Options::new()
            .vfs(vfs.clone())
            .durability(Durability::Buffered)
            .compaction_filter("slow", move |_, _| {
                let gates = gates.lock().unwrap();
                gates.0.send(()).ok();
                gates.1.recv().ok();
                true
            });
        let db = options.open("/db").unwrap();
        let gone = db.keyspace("gone").unwrap();
        gone.put("a", "1").unwrap();
        db.compact_all().unwrap();
        let mut scan = gone.iter();
        scan.next().unwrap().unwrap();
        let slow = KeyspaceOptions::new().compaction_filter(Some("slow"));
        let slow = db.create_keyspace("slow", slow).unwrap();
        for _ in 0..2 {
            slow.put("block", "1").unwrap();
            db.flush().unwrap();
        }
        thread::scope(|scope| {
            let idle = scope.spawn(|| db.wait_idle());
            inside.recv().unwrap(); // A background compaction is stuck in the filter from here on.
            db.drop_keyspace("gone").unwrap();
            db.compact(..).unwrap();
            assert_eq!(db.stats().levels[6].tables, 0);
            let before = tables_in(&vfs);
            drop(scan);
            eventually("the table is gone", || tables_in(&vfs) < before);
            drop(stuck);
            idle.join().unwrap().unwrap();
        });
    });
}

/// A table that only an iterator still needs goes with that, in an idle database too.
#[test]
fn a_table_that_an_iterator_pinned_goes_with_it() {
    watched(|| {
        let vfs: Arc<dyn Vfs> = MemVfs::new(9);
        let db = Options::new().vfs(vfs.clone()).open("/db").unwrap();
        for i in 0..100u32 {
            db.put(i.to_be_bytes(), "1").unwrap();
        }
        db.flush().unwrap();
        let mut scan = db.iter();
        scan.next().unwrap().unwrap();
        db.delete_range(..).unwrap();
        db.wait_idle().unwrap();
        db.compact_all().unwrap();
        assert_eq!(
            db.stats()
                .levels
                .iter()
                .map(|level| level.tables)
                .sum::<usize>(),
            0
        );
        assert_eq!(tables_in(&vfs), 1, "the iterator needs its table");
        drop(scan);
        eventually("the table is gone", || tables_in(&vfs) == 0);
    });
}

/// Each look at a large read set was overtaken by a flush, so the commit looked at all of it again,
/// without end.
#[test]
fn a_large_transaction_is_not_overtaken_by_flushes() {
    const KEYS: u32 = 200_000;
    watched(|| {
        let db = in_memory(7).memory(4 << 20).open("/db").unwrap();
        let mut batch = Batch::new();
        for i in 0..KEYS {
            batch.put(i.to_be_bytes(), "1");
        }
        db.write(batch).unwrap();
        let done = AtomicBool::new(false);
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0u64.. {
                    assert!(begun.elapsed() < Duration::from_secs(40), "{i} flushes");
                    if done.load(Ordering::Acquire) {
                        return;
                    }
                    // Around all that is read: each table may hold some of it.
                    let mut batch = Batch::new();
                    batch
                        .put([0], i.to_be_bytes())
                        .put([u8::MAX], i.to_be_bytes());
                    db.write(batch).unwrap();
                    db.flush().unwrap();
                }
            });
            let tx = db.transaction();
            for i in 0..KEYS {
                assert_eq!(tx.get(i.to_be_bytes()).unwrap().unwrap(), "1");
            }
            for i in 0..KEYS / 50 {
                let from = (i * 50).to_be_bytes();
                assert_eq!(tx.range(from..).take(2).count(), 2);
            }
            tx.put("sum", KEYS.to_string()).unwrap();
            let committed = tx.commit();
            done.store(true, Ordering::Release);
            committed.unwrap();
        });
    });
}

/// Each adds a run to level 0 and writes little to the log: they were free, and 64 threads outran
/// compaction by far.
#[test]
fn ingests_and_flushes_pay_for_the_runs_they_add() {
    watched(|| {
        let (stuck, release) = mpsc::channel::<()>();
        let release = Mutex::new(release);
        let options = in_memory(9).compaction_filter("slow", move |_, _| {
            release.lock().unwrap().recv().ok();
            true
        });
        let db = options.open("/db").unwrap();
        let slow = KeyspaceOptions::new().compaction_filter(Some("slow"));
        let slow = db.create_keyspace("slow", slow).unwrap();
        let (begun, added) = (Instant::now(), AtomicUsize::new(0));
        thread::scope(|scope| {
            for n in 0..4u8 {
                let (db, slow, added) = (&db, &slow, &added);
                scope.spawn(move || {
                    while begun.elapsed() < Duration::from_secs(4) {
                        if n % 2 == 0 {
                            slow.ingest([([n], "1")]).unwrap();
                        } else {
                            slow.put([n], "1").unwrap();
                            db.flush().unwrap();
                        }
                        added.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        // In 4 s some 30 runs may be added before the price is at its height, and then two a
        // second.
        let runs = db.stats().levels[0].runs;
        assert!((5..80).contains(&runs), "{runs} runs, {added:?} calls");
        drop(stuck);
        db.wait_idle().unwrap();
        assert!(db.stats().levels[0].runs < 8);
    });
}
