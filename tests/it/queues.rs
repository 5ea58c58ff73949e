//! Keys deleted in front of others: reads cost no more for them, and see what they should

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use terrace::clock::ManualClock;
use terrace::vfs::MemVfs;
use terrace::{Bytes, Compression, Db, Durability, Expiry, Keyspace, Options, Snapshot};

/// Without threads: nothing is flushed meanwhile.
fn by_hand() -> Db {
    Options::new()
        .vfs(MemVfs::new(1))
        .durability(Durability::Buffered)
        .tune(|tuning| tuning.manual = true)
        .open("/db")
        .unwrap()
}

fn key(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

/// The shortest of many times that `call` takes.
fn shortest(mut call: impl FnMut()) -> Duration {
    let once = |_| {
        let begun = Instant::now();
        call();
        begun.elapsed()
    };
    (0..50).map(once).min().unwrap()
}

#[test]
fn reading_behind_many_tombstones_costs_what_it_costs_without() {
    const DEAD: u64 = 30_000;
    let db = by_hand();
    db.put(key(u64::MAX / 2), "alive").unwrap();
    let calls: [(&str, &dyn Fn()); 6] = [
        ("first", &|| assert!(db.first().unwrap().is_some())),
        ("last", &|| assert!(db.last().unwrap().is_some())),
        ("iter", &|| assert!(db.iter().next().is_some())),
        ("range", &|| {
            let mut range = db.range(key(5)..=key(u64::MAX));
            assert!(range.next().is_some());
        }),
        ("seek", &|| assert!(db.cursor().seek(key(100)).unwrap())),
        ("transaction", &|| {
            let tx = db.transaction();
            tx.delete("other").unwrap();
            assert!(tx.first().unwrap().is_some());
        }),
    ];
    let before: Vec<Duration> = calls.iter().map(|(_, call)| shortest(call)).collect();
    for side in [0, u64::MAX / 2 + 1] {
        for n in side..side + DEAD {
            db.put(key(n), "dead").unwrap();
        }
        for n in side..side + DEAD {
            db.delete(key(n)).unwrap();
        }
    }
    for ((name, call), before) in calls.iter().zip(before) {
        let after = shortest(call);
        assert!(
            after < before * 60 + Duration::from_micros(100),
            "{name}: {before:?} before, {after:?} after"
        );
    }
}

#[test]
fn a_queue_by_first_and_delete_is_not_quadratic() {
    const JOBS: u64 = 40_000;
    let db = by_hand();
    for n in 0..JOBS {
        db.put(key(n), "job").unwrap();
    }
    let mut pushed = JOBS;
    let mut take = |n: u64| {
        let (first, _) = db.first().unwrap().unwrap();
        assert_eq!(first, key(n)[..]);
        db.delete(first).unwrap();
        if n.is_multiple_of(2) {
            db.put(key(pushed), "another").unwrap();
            pushed += 1;
        }
    };
    let mut hundred = |n: u64| {
        let begun = Instant::now();
        (n * 100..n * 100 + 100).for_each(&mut take);
        begun.elapsed()
    };
    let times: Vec<Duration> = (0..JOBS / 100).map(&mut hundred).collect();
    let best = |times: &[Duration]| *times.iter().min().unwrap();
    let (early, late) = (best(&times[..20]), best(&times[times.len() - 20..]));
    assert!(late < early * 30, "{early:?} at first, {late:?} in the end");
}

#[test]
fn an_empty_queue_is_asked_at_no_cost() {
    let db = by_hand();
    let before = shortest(|| assert!(db.pop_first().unwrap().is_none()));
    for n in 0..30_000 {
        db.put(key(n), "job").unwrap();
    }
    while db.pop_last().unwrap().is_some() {}
    assert!(db.pop_first().unwrap().is_none());
    let after = shortest(|| assert!(db.pop_first().unwrap().is_none()));
    assert!(
        after < before * 60 + Duration::from_micros(100),
        "{before:?} at first, {after:?} in the end"
    );
}

/// A clock that stands still until it is set.
fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Duration::from_secs(1 << 30)))
}

type Rows = BTreeMap<u64, u64>;

/// What is alive in a keyspace whose values say until when they hold.
fn alive(rows: &Rows, now: u64) -> Vec<u64> {
    let alive = rows.iter().filter(|(_, until)| **until > now);
    alive.map(|(key, _)| *key).collect()
}

struct Reads<'a> {
    want: Vec<u64>,
    seed: &'a mut u64,
}

fn below(seed: &mut u64, n: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    (*seed >> 33) % n
}

impl Reads<'_> {
    /// Compares everything that `reader` can be asked for with what it should see.
    fn check(&mut self, reader: &impl terrace::Readable, what: &str) {
        let keys = |found: Vec<Bytes>| -> Vec<u64> {
            let number = |key: &Bytes| u64::from_be_bytes(key[..].try_into().unwrap());
            found.iter().map(number).collect()
        };
        let want = &self.want;
        let first = reader.first().unwrap().map(|(key, _)| key);
        assert_eq!(
            keys(first.into_iter().collect()),
            want.iter().take(1).copied().collect::<Vec<_>>(),
            "{what}: first"
        );
        let last = reader.last().unwrap().map(|(key, _)| key);
        assert_eq!(
            keys(last.into_iter().collect()),
            want.last().copied().into_iter().collect::<Vec<_>>(),
            "{what}: last"
        );
        let (a, b) = (below(self.seed, 600), below(self.seed, 600));
        let (low, high) = (a.min(b), a.max(b));
        let bounds = match below(self.seed, 4) {
            0 => (Bound::Included(key(low)), Bound::Excluded(key(high))),
            1 => (Bound::Excluded(key(low)), Bound::Included(key(high))),
            2 => (Bound::Unbounded, Bound::Included(key(high))),
            _ => (Bound::Included(key(low)), Bound::Unbounded),
        };
        let numbers = (
            bounds.0.map(u64::from_be_bytes),
            bounds.1.map(u64::from_be_bytes),
        );
        let mut within: Vec<u64> = want.clone();
        within.retain(|n| std::ops::RangeBounds::contains(&numbers, n));
        let ahead = reader.range(bounds).keys().collect::<terrace::Result<_>>();
        assert_eq!(keys(ahead.unwrap()), within, "{what}: {numbers:?}");
        let back = reader
            .range(bounds)
            .keys()
            .rev()
            .collect::<terrace::Result<_>>();
        within.reverse();
        assert_eq!(keys(back.unwrap()), within, "{what}: {numbers:?} backwards");
        let mut cursor = reader.cursor();
        let found = cursor
            .seek(key(low))
            .unwrap()
            .then(|| cursor.key().to_vec());
        let next = want.iter().find(|n| **n >= low).map(|n| key(*n).to_vec());
        assert_eq!(found, next, "{what}: seek {low}");
        let found = cursor
            .seek_for_prev(key(high))
            .unwrap()
            .then(|| cursor.key().to_vec());
        let before = want
            .iter()
            .rev()
            .find(|n| **n <= high)
            .map(|n| key(*n).to_vec());
        assert_eq!(found, before, "{what}: seek back from {high}");
    }
}

/// Long rows of keys come to life, die and expire, under snapshots and transactions.
#[test]
fn what_is_learned_of_dead_keys_hides_none_that_lives() {
    for seed in 0..12u64 {
        let mut random = seed;
        let r = &mut random;
        let clock = clock();
        let db = Options::new()
            .vfs(MemVfs::new(seed))
            .clock(clock.clone())
            .durability(Durability::Buffered)
            .tune(|tuning| {
                tuning.manual = true;
                tuning.list_entries = 256;
            })
            .open("/db")
            .unwrap();
        let spaces: [Keyspace; 2] = [db.keyspace("a").unwrap(), db.keyspace("b").unwrap()];
        let mut models: [Rows; 2] = Default::default();
        let mut snapshots: Vec<(Snapshot, [Rows; 2], u64)> = Vec::new();
        let mut now = 1u64 << 30;
        for step in 0..400 {
            let n = below(r, 2) as usize;
            let (space, model) = (&spaces[n], &mut models[n]);
            let from = below(r, 600);
            let longest = [3, 300][below(r, 2) as usize];
            let to = (from + 1 + below(r, longest)).min(600);
            match below(r, 12) {
                0 | 1 => (from..to).for_each(|n| {
                    space.put(key(n), "v").unwrap();
                    model.insert(n, u64::MAX);
                }),
                2..=4 => (from..to).for_each(|n| {
                    space.delete(key(n)).unwrap();
                    model.remove(&n);
                }),
                5 => {
                    let until = now + 1 + below(r, 20);
                    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(until);
                    for n in from..to {
                        space.put_expiring(key(n), "v", Expiry::At(time)).unwrap();
                        model.insert(n, until);
                    }
                }
                6 => {
                    clock.advance(Duration::from_secs(5));
                    now += 5;
                }
                7 => {
                    let popped = match below(r, 2) {
                        0 => space.pop_first().unwrap(),
                        _ => space.pop_last().unwrap(),
                    };
                    if let Some((popped, _)) = popped {
                        model.remove(&u64::from_be_bytes(popped[..].try_into().unwrap()));
                    }
                }
                8 if snapshots.len() < 4 => {
                    let snapshot = db.snapshot();
                    snapshots.push((snapshot, models.clone(), now));
                }
                9 if !snapshots.is_empty() => {
                    let n = below(r, snapshots.len() as u64) as usize;
                    snapshots.swap_remove(n);
                }
                10 if step % 5 == 0 => db.flush().unwrap(),
                11 => {
                    let tx = db.transaction();
                    let within = tx.keyspace(space);
                    let mut own = model.clone();
                    for n in from..to.min(from + 40) {
                        match below(r, 2) {
                            0 => {
                                within.put(key(n), "own").unwrap();
                                own.insert(n, u64::MAX);
                            }
                            _ => {
                                within.delete(key(n)).unwrap();
                                own.remove(&n);
                            }
                        }
                    }
                    let want = alive(&own, now);
                    Reads { want, seed: r }.check(&within, &format!("seed {seed}, {step}, own"));
                    if below(r, 2) == 0 {
                        tx.commit().unwrap();
                        *model = own;
                    }
                }
                _ => {}
            }
            for (space, model) in spaces.iter().zip(&models) {
                let want = alive(model, now);
                Reads { want, seed: r }.check(space, &format!("seed {seed}, step {step}"));
            }
            for (snapshot, models, then) in &snapshots {
                let want = alive(&models[n], *then);
                let seen = snapshot.keyspace(&spaces[n]);
                Reads { want, seed: r }.check(&seen, &format!("seed {seed}, {step}, snapshot"));
            }
        }
    }
}

#[test]
fn an_idle_database_gives_back_what_was_deleted() {
    let vfs = MemVfs::new(1);
    let options = Options::new()
        .vfs(vfs.clone())
        .durability(Durability::Buffered);
    let db = options.open("/db").unwrap();
    for n in 0..100_000u64 {
        db.put(key(n), [7; 100]).unwrap();
    }
    for n in 0..100_000u64 {
        db.delete(key(n)).unwrap();
    }
    let begun = Instant::now();
    let settled = |stats: terrace::Stats| {
        let tables: u64 = stats.levels.iter().map(|level| level.entries).sum();
        stats.memtable_entries == 0 && tables == 0 && stats.log_bytes <= 40 << 20
    };
    while !settled(db.stats()) {
        let stats = db.stats();
        assert!(begun.elapsed() < Duration::from_secs(40), "{stats:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Each second something in memory expires, and is flushed.
#[test]
fn a_trickle_does_not_make_the_background_rewrite_all() {
    let vfs = MemVfs::new(1);
    let options = Options::new()
        .vfs(vfs)
        .durability(Durability::Buffered)
        .compression(Compression::None);
    let db = options.open("/db").unwrap();
    for n in 0..20_000u64 {
        db.put(key(n), [n as u8; 500]).unwrap();
    }
    db.wait_idle().unwrap();
    let before = db.stats();
    assert!(before.table_bytes > 8 << 20);
    for n in 0..3u64 {
        let soon = Expiry::In(Duration::from_millis(5));
        db.put_expiring(key(n * 7000), "soon", soon).unwrap();
        let begun = Instant::now();
        while db.stats().memtable_entries > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(50));
        }
        // For whatever the compactor makes of it.
        std::thread::sleep(Duration::from_millis(1500));
    }
    let compacted = db.stats().bytes_compacted - before.bytes_compacted;
    assert!(compacted < 1 << 20, "{compacted} bytes rewritten");
    assert_eq!(db.iter().count(), 19_997);
    db.wait_idle().unwrap();
    assert_eq!(db.stats().levels[0].runs, 0, "asked to settle");
}
