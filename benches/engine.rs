//! The whole engine under the names of `db_bench`, one operation a time.
//!
//! ```text
//! cargo bench --features testing --bench engine                           # 200 K keys
//! TERRACE_BENCH_KEYS=2000000 cargo bench --features testing --bench engine -- readrandom
//! ```
//!
//! 16-byte keys, 100-byte values, no compression, defaults else. Keys are made ahead and time is
//! taken for blocks of operations, because a clock read, a random number and a formatted key
//! together cost half a get. Writes are Buffered except in `fillsync`, and include what the
//! background takes from the same cores; reads are of a database that has settled.
#![allow(clippy::unwrap_used)] // A bench that fails has nobody to answer to.

mod common;

use std::time::Duration;

use common::{Key, Values};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use terrace::{Db, Durability};

type Group<'a> = BenchmarkGroup<'a, WallTime>;

struct Data {
    values: Values,
    rising: Vec<Key>,
    random: Vec<Key>,
    probes: Vec<Key>,
    absent: Vec<Key>,
}

impl Data {
    fn new() -> Data {
        let n = common::keys_from_env();
        let random = common::random_keys(n);
        Data {
            values: Values::new(),
            rising: common::rising_keys(n),
            probes: common::shuffled(&random),
            absent: common::absent_keys(n),
            random,
        }
    }
}

/// Puts `keys` one by one, from the start again when they are used up.
fn put(db: &Db, keys: &[Key], values: &Values, count: u64) -> Duration {
    common::time(|| {
        for (i, key) in keys.iter().cycle().take(count as usize).enumerate() {
            db.put(key, values.get(i)).unwrap();
        }
    })
}

fn fill(group: &mut Group<'_>, name: &str, keys: &[Key], values: &Values) {
    group.bench_function(name, |b| {
        b.iter_custom(|iters| {
            let dir = tempfile::tempdir().unwrap();
            let db = common::open(dir.path(), Durability::Buffered);
            put(&db, keys, values, iters)
        });
    });
}

fn fillsync(group: &mut Group<'_>, data: &Data, threads: usize) {
    group.bench_function(format!("fillsync/{threads}"), |b| {
        b.iter_custom(|iters| {
            let dir = tempfile::tempdir().unwrap();
            let db = common::open(dir.path(), Durability::Sync);
            db.put("first", "the log has its segment").unwrap();
            let share = iters.div_ceil(threads as u64);
            let spent = common::time(|| {
                std::thread::scope(|scope| {
                    for keys in data
                        .random
                        .chunks(data.random.len() / threads)
                        .take(threads)
                    {
                        let db = &db;
                        scope.spawn(move || put(db, keys, &data.values, share));
                    }
                });
            });
            spent.mul_f64(iters as f64 / (share * threads as u64) as f64)
        });
    });
}

fn reads(group: &mut Group<'_>, data: &Data, db: &Db) {
    let get = |keys: &[Key], count: u64, expected: bool| {
        common::time(|| {
            for key in keys.iter().cycle().take(count as usize) {
                let found = db.get_with(key, |value| value.len()).unwrap();
                assert_eq!(found.is_some(), expected);
            }
        })
    };
    group.bench_function("readrandom", |b| {
        b.iter_custom(|iters| get(&data.probes, iters, true))
    });
    group.bench_function("readmissing", |b| {
        b.iter_custom(|iters| get(&data.absent, iters, false))
    });
    let mut cursor = db.cursor();
    for (name, back) in [("readseq", false), ("readreverse", true)] {
        group.bench_function(name, |b| {
            b.iter_custom(|iters| {
                let mut bytes = 0;
                common::time(|| {
                    for _ in 0..iters {
                        let on = if back { cursor.prev() } else { cursor.next() };
                        if !on.unwrap() {
                            let placed = if back { cursor.last() } else { cursor.first() };
                            assert!(placed.unwrap());
                        }
                        bytes += cursor.key().len() + cursor.value().unwrap().len();
                    }
                    std::hint::black_box(bytes);
                })
            });
        });
    }
    for steps in [0, 10] {
        group.bench_function(format!("seekrandom/{steps}"), |b| {
            b.iter_custom(|iters| {
                common::time(|| {
                    for key in data.probes.iter().cycle().take(iters as usize) {
                        assert!(cursor.seek(key).unwrap());
                        for _ in 0..steps {
                            cursor.next().unwrap();
                            std::hint::black_box(cursor.value().unwrap().len());
                        }
                    }
                })
            });
        });
    }
}

fn engine(c: &mut Criterion) {
    let data = Data::new();
    let mut group = c.benchmark_group("engine");
    fill(&mut group, "fillseq", &data.rising, &data.values);
    fill(&mut group, "fillrandom", &data.random, &data.values);
    let dir = tempfile::tempdir().unwrap();
    let db = common::settled(dir.path(), &data.random, &data.values);
    reads(&mut group, &data, &db);
    group.bench_function("overwrite", |b| {
        b.iter_custom(|iters| put(&db, &data.probes, &data.values, iters));
    });
    db.close().unwrap();
    for threads in [1, 8] {
        fillsync(&mut group, &data, threads);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = engine
}
criterion_main!(benches);
