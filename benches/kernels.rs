//! Single kernels, each alone on one thread: what a search, an insert, an append costs.
//!
//! ```text
//! cargo bench --features testing --bench kernels              # all
//! cargo bench --features testing --bench kernels -- table     # those whose names contain `table`
//! ```
//!
//! Tables hold 200 K keys (24 MB) and fit no cache of the processor, so that a random access costs
//! what it costs in a database. Other load on the machine shows: compare only runs of a quiet one,
//! or count instructions with `benches/callgrind.sh`.
#![allow(clippy::unwrap_used)] // A bench that fails has nobody to answer to.

mod common;

use std::hint::black_box;
use std::time::Duration;

use common::{Key, Values};
use criterion::{Criterion, criterion_group, criterion_main};
use terrace::Compression;
use terrace::internals::MemList;
use terrace_base::hash::key_hash;
use terrace_base::{InternalIterator, SeqNo};
use terrace_sstable::{Table, TableIter};

fn each<'a>(keys: &'a [Key]) -> impl FnMut() -> &'a Key {
    let mut i = 0;
    move || {
        i = if i + 1 < keys.len() { i + 1 } else { 0 };
        &keys[i]
    }
}

fn get(table: &Table, key: &Key) -> usize {
    let user = common::user(key);
    let found = table.get(&user, key_hash(user), SeqNo::MAX).unwrap();
    found.map_or(0, |found| found.value[0] as usize + 1)
}

/// A step; at the end, back to the start.
fn step(iter: &mut impl InternalIterator) -> usize {
    iter.next().unwrap();
    if !iter.valid() {
        iter.first().unwrap();
    }
    iter.key().user.bytes.len() + iter.value().len()
}

fn step_back(iter: &mut TableIter) -> usize {
    iter.prev().unwrap();
    if !iter.valid() {
        iter.last().unwrap();
    }
    iter.key().user.bytes.len() + iter.value().len()
}

fn tables(c: &mut Criterion) {
    let values = Values::new();
    let keys = common::random_keys(common::KEYS);
    let (hits, misses) = (common::shuffled(&keys), common::absent_keys(common::KEYS));
    let keys = common::sorted(keys);
    let bytes = common::write_table(&keys, &values, Compression::None);
    let dir = tempfile::tempdir().unwrap();
    let forms = [
        ("mapped", common::mapped(&bytes, dir.path())),
        ("image", common::image(bytes)),
    ];
    for (form, table) in &forms {
        table.verify().unwrap();
        let (mut hit, mut miss, mut to) = (each(&hits), each(&misses), each(&hits));
        c.bench_function(&format!("table/{form}/get_hit"), |b| {
            b.iter(|| get(table, hit()))
        });
        c.bench_function(&format!("table/{form}/get_miss"), |b| {
            b.iter(|| get(table, miss()))
        });
        let mut iter = table.iter();
        c.bench_function(&format!("table/{form}/seek"), |b| {
            b.iter(|| {
                iter.seek(common::lookup(to())).unwrap();
                iter.value().len()
            });
        });
        iter.first().unwrap();
        c.bench_function(&format!("table/{form}/next"), |b| {
            b.iter(|| step(&mut iter))
        });
        c.bench_function(&format!("table/{form}/prev"), |b| {
            b.iter(|| step_back(&mut iter))
        });
    }
    let packed = common::image(common::write_table(&keys, &values, Compression::Lz4));
    let mut iter = packed.iter();
    iter.first().unwrap();
    c.bench_function("table/lz4/decode_an_entry", |b| b.iter(|| step(&mut iter)));
    for compression in [Compression::None, Compression::Lz4] {
        c.bench_function(&format!("table/write_an_entry/{compression:?}"), |b| {
            b.iter_custom(|iters| {
                let tables = iters.div_ceil(50_000);
                let spent = common::time(|| {
                    for _ in 0..tables {
                        black_box(common::write_table(&keys[..50_000], &values, compression));
                    }
                });
                spent.mul_f64(iters as f64 / (tables * 50_000) as f64)
            });
        });
    }
}

fn merges(c: &mut Criterion) {
    let values = Values::new();
    let keys = common::sorted(common::random_keys(common::KEYS));
    for ways in [4, 16] {
        let mut merged = common::merged(&keys, &values, ways);
        merged.first().unwrap();
        c.bench_function(&format!("merge/{ways}/next"), |b| {
            b.iter(|| step(&mut merged))
        });
    }
}

fn lists(c: &mut Criterion) {
    let values = Values::new();
    for (name, n) in [("16K", 16 << 10), ("1M", 1 << 20)] {
        let keys = common::random_keys(n);
        let fill = |n: usize| {
            let mut list = MemList::default();
            for (i, key) in keys[..n].iter().enumerate() {
                list.insert(key, i as u64 + 1, values.get(i));
            }
            list
        };
        // A list is filled from empty: the mean over its life.
        c.bench_function(&format!("list/{name}/insert"), |b| {
            b.iter_custom(|iters| {
                let (mut left, mut spent) = (iters as usize, Duration::ZERO);
                while left > 0 {
                    let part = left.min(n);
                    // What is left over of a large list would be a small one: fill it, and take its
                    // share.
                    let filled = if iters as usize >= n { n } else { part };
                    spent += common::time(|| drop(black_box(fill(filled))))
                        .mul_f64(part as f64 / filled as f64);
                    left -= part;
                }
                spent
            });
        });
        let list = fill(n);
        let probes = common::shuffled(&keys);
        let mut next = each(&probes);
        c.bench_function(&format!("list/{name}/get_hit"), |b| {
            b.iter(|| list.get(next()).unwrap().unwrap())
        });
    }
}

fn logs(c: &mut Criterion) {
    let payload = [0x5A; 130];
    let dir = tempfile::tempdir().unwrap();
    let segment = 64 << 20;
    let in_one = segment / 256;
    for (name, sync) in [("log/append", false), ("log/append_and_sync", true)] {
        c.bench_function(name, |b| {
            b.iter_custom(|iters| {
                let (mut left, mut spent) = (iters, Duration::ZERO);
                while left > 0 {
                    let part = left.min(in_one);
                    let here = tempfile::tempdir_in(dir.path()).unwrap();
                    let mut log = common::log(here.path(), segment);
                    spent += common::time(|| {
                        for seq in 1..=part {
                            log.append(1, SeqNo::new(seq), &[&payload]).unwrap();
                            if sync {
                                let point = log.sync_point();
                                point.run().unwrap();
                                log.note_synced(point.upto);
                            }
                        }
                    });
                    left -= part;
                }
                spent
            });
        });
    }
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = tables, merges, lists, logs
}
criterion_main!(kernels);
