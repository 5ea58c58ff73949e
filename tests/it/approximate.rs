//! Estimates of counts and sizes: never too low, and too high by no more than they say.

use std::sync::Arc;

use terrace::vfs::{MemVfs, Vfs};
use terrace::{Compression, ErrorKind, Keyspace, Options};

/// The size of a block, and the least that an entry here takes of it.
const BLOCK: u64 = 8 << 10;
const ENTRY: u64 = 100;
/// Less than this is counted too much in one run of a settled database: two blocks.
const SLACK: u64 = 2 * BLOCK / ENTRY;
const KEYS: u64 = 12_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (n ^ (n >> 31)) % end
    }
}

fn key(n: u64) -> Vec<u8> {
    format!("key {n:08}").into_bytes()
}

fn value(n: u64) -> Vec<u8> {
    vec![n as u8; 100]
}

fn manual() -> Options {
    Options::new()
        .compression(Compression::None)
        .tune(|tuning| {
            tuning.table_bytes = 128 << 10;
            tuning.list_entries = 700; // Some pieces in memory are tables, some are lists.
            tuning.manual = true;
        })
}

fn fill(keyspace: &Keyspace, keys: impl Iterator<Item = u64>) {
    for n in keys {
        keyspace.put(key(n), value(n)).unwrap();
    }
}

fn unfill(keyspace: &Keyspace, keys: impl Iterator<Item = u64>) {
    for n in keys {
        keyspace.delete(key(n)).unwrap();
    }
}

/// Asks for random ranges; how far an estimate was too high at most.
fn worst(keyspace: &Keyspace, seed: u64) -> u64 {
    let (mut random, mut worst) = (Random(seed), 0);
    for i in 0..200 {
        let lower = random.below(KEYS + 100);
        let upper = match i % 4 {
            0 => lower + random.below(5),
            1 => lower + random.below(200),
            _ => random.below(KEYS + 100),
        };
        let (lower, upper) = (key(lower), key(upper));
        let pairs = match i % 3 {
            0 => [
                keyspace.count(&lower..&upper),
                keyspace.approximate_count(&lower..&upper),
            ],
            1 => [
                keyspace.count(&lower..=&upper),
                keyspace.approximate_count(&lower..=&upper),
            ],
            _ => [
                keyspace.count(&lower..),
                keyspace.approximate_count(&lower..),
            ],
        };
        let [exact, about] = pairs.map(Result::unwrap);
        assert!(about >= exact, "seed {seed}, {i}: {about} for {exact}");
        worst = worst.max(about - exact);
    }
    worst
}

#[test]
fn a_settled_database_is_counted_up_to_two_blocks() {
    for compression in [Compression::None, Compression::Lz4] {
        let db = manual().compression(compression).open_in_memory().unwrap();
        for other in ["before", "behind"] {
            fill(&db.keyspace(other).unwrap(), 0..50);
        }
        fill(&db, 0..KEYS);
        fill(&db, (0..KEYS).step_by(3));
        unfill(&db, (0..KEYS).step_by(10));
        db.compact_all().unwrap();
        assert!(
            db.stats()
                .levels
                .iter()
                .map(|level| level.runs)
                .sum::<usize>()
                == 1
        );
        let worst = worst(&db, 1);
        println!("at most {worst} too many of {SLACK} allowed, {compression:?}");
        assert!((1..SLACK).contains(&worst), "{worst}");
        assert_eq!(db.approximate_count(..).unwrap(), db.count(..).unwrap());
    }
}

#[test]
fn an_unsettled_database_is_never_counted_too_low() {
    let db = manual().open_in_memory().unwrap();
    let keyspaces: Vec<Keyspace> = ["a", "b", "c"]
        .map(|name| db.keyspace(name).unwrap())
        .into();
    let mut random = Random(2);
    for step in 0..24 {
        let keyspace = &keyspaces[random.below(3) as usize];
        let start = random.below(KEYS);
        match random.below(5) {
            0 => {
                keyspace
                    .delete_range(key(start)..key(start + random.below(2000)))
                    .unwrap();
            }
            1 => unfill(keyspace, start..start + 300),
            _ => fill(keyspace, start..start + random.below(1500)),
        }
        match random.below(6) {
            0 => db.flush().unwrap(),
            1 => db.wait_idle().unwrap(),
            2 => keyspace.compact(key(0)..key(KEYS / 2)).unwrap(),
            _ => {}
        }
        for keyspace in &keyspaces {
            let worst = worst(keyspace, step);
            assert!(worst < KEYS * 2, "{step}: {worst}");
        }
    }
}

#[test]
fn what_is_in_lists_in_memory_is_counted_exactly() {
    let db = manual().open_in_memory().unwrap();
    let other = db.keyspace("other").unwrap();
    fill(&other, 0..100);
    fill(&db, 0..100);
    fill(&db, 0..100);
    unfill(&db, 0..10);
    db.delete_range(key(50)..key(60)).unwrap();
    fill(&db, 55..57);
    assert_eq!(db.approximate_count(..).unwrap(), 82);
    assert_eq!(db.approximate_count(key(50)..key(60)).unwrap(), 2);
    assert_eq!(db.approximate_size(key(50)..key(60)).unwrap(), 2 * 112);
    assert_eq!(worst(&db, 3), 0);
    assert_eq!(other.approximate_count(..).unwrap(), 100);
}

#[test]
fn nothing_is_nothing() {
    let db = manual().open_in_memory().unwrap();
    let empty = db.keyspace("empty").unwrap();
    fill(&db, 0..1000);
    let ask = |keyspace: &Keyspace, lower: u64, upper: u64| {
        let (lower, upper) = (key(lower), key(upper));
        (
            keyspace.approximate_count(&lower..&upper).unwrap(),
            keyspace.approximate_size(&lower..&upper).unwrap(),
        )
    };
    for _ in 0..2 {
        assert_eq!(ask(&db, 5, 5), (0, 0));
        assert_eq!(ask(&db, 7, 5), (0, 0));
        assert_eq!(ask(&empty, 0, 1000), (0, 0));
        assert_eq!(db.approximate_count(b"a"..b"b").unwrap(), 0);
        assert_eq!(empty.approximate_size(..).unwrap(), 0);
        db.compact_all().unwrap();
    }
    db.drop_keyspace("empty").unwrap();
    let dropped = empty.approximate_count(..).unwrap_err();
    assert_eq!(dropped.kind(), ErrorKind::NotFound);
    db.close().unwrap();
    let closed = db.approximate_size(..).unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
}

#[test]
fn sizes_add_up_to_the_files() {
    let db = manual().open_in_memory().unwrap();
    let other = db.keyspace("other").unwrap();
    fill(&db, 0..KEYS);
    fill(&other, 0..500);
    db.compact_all().unwrap();
    let files = db.stats().table_bytes;
    let sum = db.approximate_size(..).unwrap() + other.approximate_size(..).unwrap();
    assert!((files..files + 8).contains(&sum), "{sum} for {files}");
    // Every part counts two blocks too much at most, with their share of fences and index.
    let fair = files * 1000 / (KEYS + 500);
    let parts = (0..KEYS).step_by(1000).map(|n| {
        let part = db.approximate_size(key(n)..key(n + 1000)).unwrap();
        assert!(
            part >= fair * 9 / 10 && part < fair * 11 / 10 + 5 * BLOCK / 2,
            "{part}, {fair}"
        );
        part
    });
    let sum = parts.sum::<u64>() + other.approximate_size(..).unwrap();
    assert!(sum >= files && sum < files + 12 * 3 * BLOCK, "{sum}");
}

#[test]
fn a_range_delete_takes_effect_where_it_leaves_nothing() {
    let db = manual().open_in_memory().unwrap();
    fill(&db, 0..KEYS);
    db.compact_all().unwrap();
    let all = db.approximate_count(..).unwrap();
    db.delete_range(key(3000)..key(6000)).unwrap();
    assert_eq!(db.approximate_count(key(3000)..key(6000)).unwrap(), 0);
    assert_eq!(db.approximate_count(key(4000)..key(5000)).unwrap(), 0);
    // The tables at its ends still count what it covers of them.
    let (exact, about) = (db.count(..).unwrap(), db.approximate_count(..).unwrap());
    assert!((exact..all - 1000).contains(&about), "{about} of {exact}");
    // Also where it was flushed, and written over.
    fill(&db, 4000..4010);
    db.flush().unwrap();
    assert_eq!(db.approximate_count(key(3000)..key(6000)).unwrap(), 10);
    db.compact_all().unwrap();
    assert_eq!(db.approximate_count(..).unwrap(), exact + 10);
    db.clear().unwrap();
    assert_eq!(db.approximate_count(..).unwrap(), 0);
    assert_eq!(db.approximate_size(..).unwrap(), 0);
}

#[test]
fn no_data_block_is_read() {
    let vfs = MemVfs::new(4);
    let options = || {
        let shared: Arc<dyn Vfs> = vfs.clone();
        manual().vfs(shared)
    };
    let db = options().open("/db").unwrap();
    fill(&db, 0..KEYS);
    db.compact_all().unwrap();
    let whole = db.approximate_size(..).unwrap();
    db.close().unwrap();
    drop(db);
    // Whoever reads a block of the first half of a table notices.
    for (path, _) in vfs.files() {
        if path.to_string_lossy().ends_with(".sst") {
            let mut bytes = vfs.read_file(&path).unwrap();
            let half = bytes.len() / 2;
            bytes[..half].fill(0);
            vfs.write_file(&path, &bytes);
        }
    }
    let db = options().open("/db").unwrap();
    let about = db.approximate_count(key(100)..key(9000)).unwrap();
    assert!((8900..8900 + SLACK).contains(&about), "{about}");
    assert_eq!(db.approximate_size(..).unwrap(), whole);
    let read = db.get(key(0)).unwrap_err();
    assert_eq!(read.kind(), ErrorKind::Corruption);
}
