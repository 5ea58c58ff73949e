//! Operations that read, decide and write as one step: against a model, between flushes, and by many threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace::vfs::{MemVfs, Vfs};
use terrace::{Batch, Db, Durability, ErrorKind, Keyspace, SeqNo, Swap};
use terrace_kit::{Mode, Random, Scenario};

fn open(seed: u64, mode: Mode) -> Db {
    let vfs: Arc<dyn Vfs> = MemVfs::new(seed);
    Scenario::on(vfs, mode).open(seed).unwrap()
}

type Model = BTreeMap<Vec<u8>, (Vec<u8>, Option<SeqNo>)>;

fn set(model: &mut Model, key: &[u8], value: Option<Vec<u8>>, seq: Option<SeqNo>) {
    match value {
        Some(value) => model.insert(key.to_vec(), (value, seq)),
        None => model.remove(key),
    };
}

/// A batch of changes under conditions, half of which hold.
fn batch(db: &Db, r: &mut Random, model: &mut Model, keys: &[Vec<u8>]) {
    let mut batch = Batch::new();
    let mut after = model.clone();
    let mut broken = None;
    for _ in 0..1 + r.below(4) {
        let key = &keys[r.below(keys.len())];
        let held = model.get(key).and_then(|(_, seq)| *seq);
        match r.below(6) {
            0 => {
                batch.put(key, b"12345678");
                set(&mut after, key, Some(b"12345678".to_vec()), None);
            }
            1 => {
                batch.delete(key);
                after.remove(key);
            }
            2 => {
                batch.append(key, b"+");
                let old = after.get(key).map(|(value, _)| value.clone());
                let new = [old.unwrap_or_default().as_slice(), b"+"].concat();
                set(&mut after, key, Some(new), None);
            }
            3 => {
                batch.put(key, 7i64.to_le_bytes()).add_i64(key, 5);
                set(&mut after, key, Some(12i64.to_le_bytes().into()), None);
            }
            4 => {
                batch.require_absent(key);
                if model.contains_key(key) {
                    broken.get_or_insert(key);
                }
            }
            _ => {
                let version = held.unwrap_or(SeqNo::new(r.below(9) as u64));
                batch.require_version(key, version);
                if held.is_none() {
                    broken.get_or_insert(key);
                }
            }
        }
    }
    let before = db.get_entry("other").unwrap();
    let empty = batch.is_empty();
    match (db.write(batch), broken) {
        (Ok(_), None) => {
            // Versions are read back: the model does not know which operation of the batch was the
            // last.
            for (key, (value, seq)) in &mut after {
                let entry = db.get_entry(key).unwrap().unwrap();
                assert_eq!(entry.value, *value);
                *seq = Some(entry.version);
            }
            *model = after;
        }
        (Err(error), Some(key)) => {
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert_eq!(error.key(), Some(key.as_slice()), "{error}");
        }
        (result, broken) => panic!("{result:?} though {broken:?} (empty: {empty})"),
    }
    assert_eq!(db.get_entry("other").unwrap(), before);
}

fn step(db: &Db, r: &mut Random, model: &mut Model, keys: &[Vec<u8>]) {
    let key = &keys[r.below(keys.len())];
    let held = model.get(key).map(|(value, _)| value.clone());
    let new = vec![b'a' + r.below(26) as u8; r.below(40)];
    let version = |key: &[u8]| db.get_entry(key).unwrap().map(|entry| entry.version);
    match r.below(12) {
        0 => {
            db.put(key, &new).unwrap();
            set(model, key, Some(new), version(key));
        }
        1 => {
            let swap = db.put_if_absent(key, &new).unwrap();
            match held {
                Some(held) => assert_eq!(swap, Swap::Found(Some(held.into()))),
                None => {
                    assert_eq!(swap, Swap::Done(version(key).unwrap()));
                    set(model, key, Some(new), version(key));
                }
            }
        }
        2 => {
            let expected = if r.one_in(2) {
                held.clone()
            } else {
                Some(new.clone())
            };
            let replacement = (!r.one_in(4)).then_some(new);
            let swap = db
                .compare_and_swap(key, expected.as_deref(), replacement.as_deref())
                .unwrap();
            assert_eq!(swap.is_done(), expected == held);
            match swap {
                Swap::Done(_) => set(model, key, replacement, version(key)),
                Swap::Found(found) => assert_eq!(found.map(|f| f.to_vec()), held),
                _ => unreachable!(),
            }
        }
        3 => {
            let made = (!r.one_in(3)).then_some(new);
            let now = db.update(key, |old| {
                assert_eq!(old, held.as_deref());
                made.clone()
            });
            assert_eq!(now.unwrap().map(|now| now.to_vec()), made);
            set(model, key, made, version(key));
        }
        4 => match db.add_i64(key, 3) {
            Ok(sum) => {
                let before = held.map_or(0, |h| i64::from_le_bytes(h.try_into().unwrap()));
                assert_eq!(sum, before.wrapping_add(3));
                set(model, key, Some(sum.to_le_bytes().into()), version(key));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid);
                assert_ne!(held.unwrap().len(), 8);
            }
        },
        5 => {
            db.append(key, &new).unwrap();
            let whole = [held.unwrap_or_default(), new].concat();
            set(model, key, Some(whole), version(key));
        }
        6 => {
            let taken = db.take(key).unwrap().map(|taken| taken.to_vec());
            assert_eq!(taken, held);
            model.remove(key);
        }
        7 | 8 => {
            let (popped, expected) = match r.one_in(2) {
                true => (db.pop_first().unwrap(), model.pop_first()),
                false => (db.pop_last().unwrap(), model.pop_last()),
            };
            let popped = popped.map(|(key, value)| (key.to_vec(), value.to_vec()));
            assert_eq!(popped, expected.map(|(key, (value, _))| (key, value)));
        }
        9 | 10 => batch(db, r, model, keys),
        _ => match r.below(20) {
            0 => db.flush().unwrap(),
            1 => db.wait_idle().unwrap(),
            2 => db.compact_all().unwrap(),
            3 => {
                db.delete_range(key..).unwrap();
                model.split_off(key);
            }
            _ => {}
        },
    }
}

#[test]
fn every_operation_does_what_the_model_does() {
    for seed in 0..60 {
        println!("seed {seed}");
        let db = open(seed, Mode::Manual);
        let r = &mut Random::new(seed);
        let mut model = Model::new();
        let keys: Vec<Vec<u8>> = (0..12u8).map(|n| vec![b'k', n]).collect();
        for _ in 0..400 {
            step(&db, r, &mut model, &keys);
        }
        let all: Vec<_> = db.iter().map(|e| e.unwrap()).collect();
        assert_eq!(all.len(), model.len());
        for ((key, value), (k, (v, _))) in all.iter().zip(&model) {
            assert_eq!((key, value), (&k.clone().into(), &v.clone().into()));
        }
    }
}

/// What comes between the look and the write is seen, wherever it lies by then.
#[test]
fn a_write_in_between_is_seen_in_the_list_in_sealed_pieces_and_in_tables() {
    let between: [fn(&Db); 4] = [
        |_| {},
        |db| {
            drop(
                (0..300)
                    .map(|n: u32| db.put(n.to_be_bytes(), "x"))
                    .collect::<Vec<_>>(),
            )
        },
        |db| db.flush().unwrap(),
        |db| db.compact_all().unwrap(),
    ];
    for (n, between) in between.into_iter().enumerate() {
        let db = open(n as u64, Mode::Manual);
        db.put("k", "old").unwrap();
        let mut runs = 0;
        let now = db.update("k", |old| {
            runs += 1;
            if runs == 1 {
                assert_eq!(old.unwrap(), b"old");
                db.put("k", "in between").unwrap();
                between(&db);
            }
            Some([old.unwrap(), b"!"].concat())
        });
        assert_eq!((now.unwrap().unwrap(), runs), ("in between!".into(), 2));
        // The same of a key that was deleted in between.
        let mut runs = 0;
        let now = db.update("k", |old| {
            runs += 1;
            if runs == 1 {
                db.delete("k").unwrap();
                between(&db);
            }
            Some(old.map_or_else(|| b"none".to_vec(), <[u8]>::to_vec))
        });
        assert_eq!((now.unwrap().unwrap(), runs), ("none".into(), 2));
        // And of one that was deleted with its whole range.
        let mut runs = 0;
        let now = db.update("k", |old| {
            runs += 1;
            if runs == 1 {
                assert_eq!(old.unwrap(), b"none");
                db.delete_range("a".."z").unwrap();
                between(&db);
            }
            old.map(<[u8]>::to_vec)
        });
        assert_eq!((now.unwrap(), runs), (None, 2));
    }
}

#[test]
fn counters_of_many_threads_lose_nothing() {
    for seed in 0..4 {
        let db = open(seed, Mode::Threads);
        let other = db.keyspace("other").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8i64 {
                let (db, other) = (&db, &other);
                scope.spawn(move || {
                    for n in 0..300 {
                        db.add_i64("hot", thread).unwrap();
                        let mut batch = Batch::new();
                        batch.keyspace(other).add_i64("hot", 1).append("log", "x");
                        match n % 2 {
                            0 => db.write(batch).unwrap(),
                            _ => db.submit(batch).unwrap().wait().unwrap(),
                        };
                        if n % 100 == 0 {
                            db.flush().unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(db.add_i64("hot", 0).unwrap(), 28 * 300, "seed {seed}");
        assert_eq!(other.add_i64("hot", 0).unwrap(), 8 * 300, "seed {seed}");
        assert_eq!(other.get("log").unwrap().unwrap().len(), 8 * 300);
    }
}

fn push(queue: &Keyspace, n: u64, value: u64) {
    queue.put(n.to_be_bytes(), value.to_be_bytes()).unwrap();
}

/// Everything pushed is popped once, whoever pops, at whichever end, and wherever it was pushed.
#[test]
fn a_queue_gives_each_entry_to_one_thread() {
    for seed in 0..4 {
        let db = open(seed, Mode::Threads);
        let queue = db.keyspace("queue").unwrap();
        let (pushed, popped, sum) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        const EACH: u64 = 1500;
        std::thread::scope(|scope| {
            for thread in 0..3u64 {
                let (queue, pushed) = (&queue, &pushed);
                scope.spawn(move || {
                    for i in 0..EACH {
                        // In the middle, at the back, and in front of everything.
                        let at = match i % 10 {
                            0 => (1 << 40) - i * 3 - thread,
                            _ => (1 << 40) + i * 3 + thread,
                        };
                        push(queue, at, 1 + i * 3 + thread);
                        pushed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for thread in 0..4 {
                let (queue, popped, sum) = (&queue, &popped, &sum);
                scope.spawn(move || {
                    while popped.load(Ordering::SeqCst) < 3 * EACH {
                        let got = match thread % 4 {
                            3 => queue.pop_last(),
                            _ => queue.pop_first(),
                        };
                        if let Some((_, value)) = got.unwrap() {
                            let value = u64::from_be_bytes(value[..].try_into().unwrap());
                            sum.fetch_add(value, Ordering::SeqCst);
                            popped.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(popped.into_inner(), 3 * EACH, "seed {seed}");
        let all = 3 * EACH;
        assert_eq!(sum.into_inner(), all * (all + 1) / 2, "seed {seed}");
        assert_eq!(queue.pop_first().unwrap(), None);
        assert!(queue.is_empty().unwrap());
    }
}

#[test]
fn what_is_refused_is_an_error_that_says_so() {
    let db = open(1, Mode::Manual);
    db.put("text", "abc").unwrap();
    db.put("full", i64::MAX.to_le_bytes()).unwrap();
    for key in ["text", "full"] {
        let error = db.add_i64(key, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let mut batch = Batch::new();
        batch.put("other", "1").add_i64(key, 1);
        assert_eq!(db.write(batch).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(db.get("other").unwrap(), None);
    let long = vec![0; terrace::MAX_KEY_LEN + 1];
    assert_eq!(db.take(&long).unwrap_err().kind(), ErrorKind::Invalid);
    let mut batch = Batch::new();
    batch.require_absent(&long);
    assert_eq!(db.write(batch).unwrap_err().kind(), ErrorKind::Invalid);
    let gone = db.keyspace("gone").unwrap();
    gone.put("k", "v").unwrap();
    db.drop_keyspace("gone").unwrap();
    assert_eq!(gone.take("k").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(gone.pop_first().unwrap_err().kind(), ErrorKind::NotFound);
    let mut batch = Batch::new();
    batch.keyspace(&gone).require_absent("x");
    assert_eq!(db.write(batch).unwrap_err().kind(), ErrorKind::NotFound);
    let elsewhere = open(2, Mode::Manual);
    let foreign = elsewhere.keyspace("k").unwrap();
    let mut batch = Batch::new();
    batch.keyspace(&foreign).require_absent("x");
    assert_eq!(db.write(batch).unwrap_err().kind(), ErrorKind::Invalid);
    db.close().unwrap();
    assert_eq!(db.take("text").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(db.pop_last().unwrap_err().kind(), ErrorKind::Closed);
}

/// A condition alone is answered, and a panic of the closure leaves all as it was.
#[test]
fn conditions_alone_and_panics_change_nothing() {
    let db = open(3, Mode::Manual);
    let version = db.put("k", "v").unwrap();
    let mut batch = Batch::new();
    batch
        .require_version("k", version)
        .durability(Durability::Sync);
    assert!(batch.is_empty());
    assert_eq!(db.write(batch.clone()).unwrap(), version);
    assert_eq!(db.submit(batch.clone()).unwrap().wait().unwrap(), version);
    batch.require_absent("k");
    let error = db.submit(batch).unwrap_err();
    assert_eq!(error.key(), Some(&b"k"[..]));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        db.update("k", |_| panic!("of the user"))
    }));
    assert!(panicked.is_err());
    assert_eq!(db.get_entry("k").unwrap().unwrap().version, version);
    db.put("k", "w").unwrap();
}

/// Commits per second of 8 threads under `Sync`: on keys of their own, and all on one.
#[test]
#[ignore = "a measurement"]
fn a_hot_counter_shares_syncs() {
    let time = std::time::Duration::from_secs(3);
    let measure = |key: fn(usize) -> String| {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let started = std::time::Instant::now();
        let done = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (db, done) = (&db, &done);
                scope.spawn(move || {
                    while started.elapsed() < time {
                        db.add_i64(key(thread), 1).unwrap();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let done = done.into_inner();
        let sum: i64 = db
            .iter()
            .map(|entry| i64::from_le_bytes(entry.unwrap().1[..].try_into().unwrap()))
            .sum();
        assert_eq!(sum, done as i64);
        done as f64 / started.elapsed().as_secs_f64()
    };
    for _ in 0..3 {
        let (own, hot) = (
            measure(|thread| format!("n{thread}")),
            measure(|_| "n".into()),
        );
        println!("own keys {own:.0}/s, one key {hot:.0}/s: {:.2}", hot / own);
    }
}

/// What a pop costs as the queue gets longer.
#[test]
#[ignore = "a measurement"]
fn a_pop_costs_the_same_however_many_were_popped() {
    for n in [10_000u64, 100_000, 1_000_000] {
        let dir = tempfile::tempdir().unwrap();
        let options = terrace::Options::new().durability(Durability::Buffered);
        let db = options.open(dir.path()).unwrap();
        let started = std::time::Instant::now();
        for i in 0..n {
            push(&db, i, i);
        }
        let pushed = started.elapsed();
        let tenth = n / 10;
        let mut times = Vec::new();
        for part in 0..10 {
            let started = std::time::Instant::now();
            for i in part * tenth..(part + 1) * tenth {
                let (key, _) = db.pop_first().unwrap().unwrap();
                assert_eq!(key[..], i.to_be_bytes());
            }
            times.push(started.elapsed().as_nanos() as u64 / tenth);
        }
        assert_eq!(db.pop_first().unwrap(), None);
        let push = pushed.as_nanos() as u64 / n;
        println!("{n}: push {push} ns, pops by tenths {times:?} ns");
    }
}

/// Each append wrote the whole value so far: 2,000 of them took a thousand times their bytes in the
/// log.
#[test]
fn appends_to_one_key_of_a_batch_write_its_value_once() {
    const TIMES: usize = 20_000;
    let db = Db::in_memory().unwrap();
    db.append("log", "begin ").unwrap();
    let before = db.stats().log_bytes;
    let mut batch = Batch::new();
    for n in 0..TIMES {
        batch.append("log", [b'x'; 50]);
        batch.add_i64("count", 1);
        if n == 10 {
            batch.put("between", "1");
        }
    }
    let len = batch.len() as u64;
    let seq = db.write(batch).unwrap();
    let log = db.stats().log_bytes - before;
    assert!(log < 4 << 20, "{log} bytes of log for 1 MB");
    let value = db.get("log").unwrap().unwrap();
    assert_eq!(value.len(), 6 + 50 * TIMES);
    assert!(value.starts_with(b"begin x") && value.ends_with(b"x"));
    assert_eq!(
        db.get("count").unwrap().unwrap()[..],
        (TIMES as i64).to_le_bytes()
    );
    // Each operation has its number, and a key's version is that of its last one.
    assert_eq!(len, 2 * TIMES as u64 + 1);
    for (key, back) in [("log", 1), ("count", 0), ("between", len - 23)] {
        let mut batch = Batch::new();
        batch.require_version(key, SeqNo::new(seq.get() - back));
        db.write(batch).unwrap();
    }
}
