//! The database's own threads: memory wall, pacer, syncs for tickets, their start and end
//!
//! No time passes here: a thread that sleeps for a time sleeps until it is woken. A signal that is
//! missing, which elsewhere costs a wait of milliseconds, leaves threads asleep for ever, and the
//! checker reports them.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::background::pacer::TimeLine;
use crate::background::signals::Task;
use crate::jobs::flush::tend_memtable;

/// Memory for what is written and not flushed: one list is more.
const BUDGET: u64 = 4 << 10;
/// More than a list of 4 of the entries below takes: a chunk of 32 KiB, a filter of 8 KiB, the
/// nodes.
const LIST: u64 = 42 << 10;
/// Longer than threads that could not be started are left alone.
const RESTART: Duration = Duration::from_millis(200);

/// Threads of its own, and little memory.
fn working(mut options: Options) -> Options {
    options.tuning.write_budget = Some(BUDGET);
    options.tuning.memtable_bytes = Some(BUDGET / 4);
    options.tuning.reserve_bytes = Some(0);
    options.tuning.manual = false;
    options
}

fn one(key: [u8; 2], durability: Durability) -> Batch {
    let mut batch = Batch::new();
    let value = value(u64::from(key[0]), u64::from(key[1]), 30);
    batch.put(key, value).durability(durability);
    batch
}

fn wall() {
    const WRITES: u8 = 16;
    let mut world = World::new(working, 64 << 10);
    for writer in 0..2u8 {
        world.writer(move |hands| {
            let durability = [Durability::Sync, Durability::Buffered][usize::from(writer)];
            for n in 0..WRITES {
                hands.wrote(hands.db.write(one([writer, n], durability)).unwrap());
                let sealed = hands.db.shared().views.cell.load().sealed_bytes();
                // Both may have passed the wall before the last list that made it full was sealed.
                assert!(sealed < BUDGET + 2 * LIST, "{sealed} bytes are not flushed");
            }
        });
    }
    world.thread(|hands| hands.db.flush().unwrap());
    world.join();
    for (writer, n) in (0..2).flat_map(|writer| (0..WRITES).map(move |n| (writer, n))) {
        assert!(
            world.db.contains_key([writer, n]).unwrap(),
            "a write is missing"
        );
    }
    world.db.close().unwrap();
}

#[test]
fn writers_at_the_memory_wall_go_on_when_a_flush_has_made_room() {
    check(1000, wall);
}

fn waiting() {
    const WRITES: u64 = 8;
    let mut world = World::new(|options| options, 256 << 10);
    let before = world.db.shared().committer.end().1.get();
    for writer in 0..2u8 {
        // Every fourth entry seals a list, which wakes the flush thread with the commit lock held.
        world.writer(move |hands| {
            for n in 0..WRITES as u8 / 2 {
                hands.wrote(
                    hands
                        .db
                        .write(one([writer, n], Durability::Buffered))
                        .unwrap(),
                );
            }
        });
    }
    for task in [Task::Flush, Task::Compaction] {
        world.thread(move |hands| {
            let engine = hands.db.shared();
            let written = || engine.committer.end().1.get() >= before + WRITES;
            engine.background.wait_for(task, written).unwrap();
            assert!(written());
        });
    }
    world.thread(|hands| {
        let engine = hands.db.shared();
        while hands.writers.load(Ordering::SeqCst) > 0 {
            tend_memtable(engine).unwrap();
            engine.background.progressed();
            thread::yield_now();
        }
        engine.background.progressed();
    });
    world.join();
}

#[test]
fn what_a_call_waits_for_may_take_any_lock_and_no_signal_is_missed() {
    check(3000, waiting);
}

fn turns() {
    const SECOND: u64 = 1_000_000_000;
    let line = Arc::new(TimeLine::default());
    // The ends of the stretches that were taken, and their length.
    let taken = Arc::new(StdMutex::new(Vec::new()));
    let payers = (0..3u64).map(|payer| {
        let (line, taken) = (line.clone(), taken.clone());
        thread::spawn(move || {
            for n in 0..2 {
                let now = SECOND + shuttle::rand::thread_rng().gen_range(0..500);
                let cost = 100 * (payer + 1) + n;
                let delay = line.take_turn(now, cost);
                assert!(delay >= cost, "a write of {cost} ns was delayed by {delay}");
                assert!(delay <= SECOND, "a write is delayed by {delay} ns");
                taken.lock().unwrap().push((now + delay, cost));
            }
        })
    });
    for payer in payers.collect::<Vec<_>>() {
        payer.join().unwrap();
    }
    let mut taken = taken.lock().unwrap();
    taken.sort_unstable();
    for pair in taken.windows(2) {
        let [(before, _), (end, cost)] = pair else {
            unreachable!()
        };
        assert!(
            before + cost <= *end,
            "two writers took the same time: {taken:?}"
        );
    }
    // However much is owed: by those who are late, too.
    let payers = [SECOND, SECOND + 7, SECOND - 900].map(|now| {
        let line = line.clone();
        thread::spawn(move || {
            for cost in [u64::MAX, 5, SECOND, u64::MAX - 3] {
                let delay = line.take_turn(now, cost);
                assert!(
                    delay >= cost.min(SECOND) && delay <= SECOND,
                    "{cost} became {delay}"
                );
            }
        })
    });
    for payer in payers {
        payer.join().unwrap();
    }
    assert_eq!(
        line.take_turn(3 * SECOND, 5),
        5,
        "a debt is never worked off"
    );
}

#[test]
fn payers_share_one_time_line_and_owe_a_second_at_most() {
    check(4000, turns);
}

fn synced_tickets() {
    let mut world = World::new(working, 64 << 10);
    for writer in 0..3u64 {
        world.writer(move |hands| {
            for n in 0..2 {
                let stored = value(writer, n, 1);
                let batch = hands.pair(&stored, Durability::Sync);
                if writer == 0 {
                    // Leads syncs itself: tickets come after the points of these.
                    hands.wrote(hands.db.write(batch).unwrap());
                    continue;
                }
                let ticket = hands.db.submit(batch).unwrap();
                // A sync is due for it also where one is in flight that began before.
                let seq = shuttle::future::block_on(ticket).unwrap();
                hands.wrote(seq);
                assert!(
                    hands.disk.is_durable(&stored),
                    "acknowledged and not on disk"
                );
            }
        });
    }
    world.join();
    world.db.close().unwrap();
}

#[test]
fn tickets_that_come_behind_a_sync_get_the_next() {
    check(2000, synced_tickets);
}

fn spare(threads: usize) -> &'static AtomicUsize {
    Box::leak(Box::new(AtomicUsize::new(threads)))
}

/// Of a database that has 4 threads.
fn random_spare(most: usize) -> &'static AtomicUsize {
    spare(shuttle::rand::thread_rng().gen_range(0..=most))
}

fn starting() {
    let (threads, clock) = (random_spare(7), Arc::new(StepClock::default()));
    let (spare, time) = (threads, clock.clone());
    let mut world = World::new(
        |options| {
            let mut options = working(options);
            options.clock = time;
            options.tuning.spare_threads = Some(spare);
            options
        },
        64 << 10,
    );
    let background = world.db.shared().background.clone();
    let before = Arc::strong_count(&background);
    let acknowledged = Arc::new(StdMutex::new(Vec::new()));
    for writer in 0..2u8 {
        let (acknowledged, clock) = (acknowledged.clone(), clock.clone());
        world.writer(move |hands| {
            loop {
                match hands.db.write(one([writer, 0], Durability::Sync)) {
                    Ok(_) => return acknowledged.lock().unwrap().push(writer),
                    Err(error) if error.kind() == ErrorKind::Closed => return,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{error}"),
                }
                // The system lets threads start again, and time passes.
                threads.store(8, Ordering::SeqCst);
                clock
                    .0
                    .fetch_add(RESTART.as_micros() as u64, Ordering::SeqCst);
            }
        });
    }
    if shuttle::rand::thread_rng().gen_bool(0.5) {
        world.thread(|hands| hands.db.close().unwrap());
    } else {
        world.join();
        assert_eq!(acknowledged.lock().unwrap().len(), 2);
        assert_eq!(background.lock().threads.len(), 4, "all of them or none");
        world.db.health().unwrap();
    }
    world.join();
    world.db.close().unwrap();
    assert!(
        background.lock().threads.is_empty(),
        "started behind the end"
    );
    assert_eq!(
        Arc::strong_count(&background),
        before,
        "a thread has not ended"
    );
    let disk = world.disk.clone();
    drop(world);
    let db = options(disk, 64 << 10).open("/db").unwrap();
    for writer in acknowledged.lock().unwrap().iter() {
        assert!(
            db.contains_key([*writer, 0]).unwrap(),
            "an acknowledged write is missing"
        );
    }
}

#[test]
fn threads_start_all_or_none_and_end_with_close() {
    check(1500, starting);
}

fn waiting_for_nobody() {
    let threads = random_spare(3);
    let mut world = World::new(
        |options| {
            let mut options = working(options);
            options.tuning.spare_threads = Some(threads);
            options
        },
        64 << 10,
    );
    let background = world.db.shared().background.clone();
    let before = Arc::strong_count(&background);
    world.thread(|hands| {
        // A call that waits for a job waits for threads that cannot be started.
        let waited = hands.db.shared().background.wait_for(Task::Flush, || false);
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::Io);
    });
    for writer in 0..2u8 {
        world.writer(move |hands| {
            let refused = hands
                .db
                .write(one([writer, 0], Durability::Sync))
                .unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Io, "{refused}");
            assert_eq!(hands.db.health().unwrap_err().kind(), ErrorKind::Io);
        });
    }
    world.join();
    assert_eq!(
        Arc::strong_count(&background),
        before,
        "a thread has not ended"
    );
    world.db.close().unwrap();
}

#[test]
fn who_waits_for_threads_that_cannot_start_gets_their_error() {
    check(1500, waiting_for_nobody);
}
