//! The block cache under chosen schedules: tables are dropped while others make room
//!
//! ```text
//! export RUSTFLAGS="--cfg terrace_shuttle"
//! cargo test --target-dir target/shuttle -p terrace-sstable --lib schedule_tests
//! ```
//!
//! `TERRACE_SCHEDULES` and `TERRACE_SCHEDULE_SEED` do what they do for the engine's: see
//! `src/schedule_tests.rs`.

use std::sync::Arc;

use bytes::Bytes;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};

use crate::BlockCache;
use crate::block_cache::TableCache;

/// Runs `body` under `schedules` schedules of either scheduler, unless the environment names
/// another number.
fn check(schedules: usize, body: fn()) {
    fn run(scheduler: impl Scheduler + 'static, body: fn()) {
        Runner::new(scheduler, Config::new()).run(body);
    }
    let number = |name: &str| -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().expect(name))
    };
    let schedules = number("TERRACE_SCHEDULES").map_or(schedules, |n| n as usize);
    let seed = number("TERRACE_SCHEDULE_SEED").unwrap_or(1);
    run(RandomScheduler::new_from_seed(seed, schedules), body);
    run(PctScheduler::new_from_seed(seed, 3, schedules), body);
    println!("schedules: {}", 2 * schedules);
}

/// What a block costs: its bytes and the cache's overhead.
const BLOCK: u64 = 1000 + 128;

fn block() -> Bytes {
    Bytes::from_static(&[1; 1000])
}

/// What holds whenever no thread changes the cache: `used` is what the slots hold, and no more than
/// the budget.
fn settled(cache: &Arc<BlockCache>, blocks: u64) {
    assert_eq!(cache.used(), blocks * BLOCK, "used is not what is resident");
    assert!(cache.used() <= cache.capacity());
}

fn resident(table: &TableCache, blocks: usize) -> u64 {
    (0..blocks).filter(|n| table.get(*n).is_some()).count() as u64
}

/// It still takes blocks, gives way, and forgets them with their table: nothing is stuck.
fn works_on(cache: &Arc<BlockCache>) {
    cache.set_capacity(16 * BLOCK);
    let next = TableCache::new(cache, 4);
    (0..4).for_each(|n| next.insert(n, block()));
    assert_eq!(resident(&next, 4), 4, "a cache with room takes no blocks");
    drop(next);
}

fn drop_races_shrink() {
    let cache = BlockCache::new(8 * BLOCK);
    let kept = Arc::new(TableCache::new(&cache, 4));
    let dropped = TableCache::new(&cache, 3);
    (0..3).for_each(|n| dropped.insert(n, block()));
    (0..2).for_each(|n| kept.insert(n, block()));
    let mut threads = vec![thread::spawn(move || drop(dropped))];
    let shrinking = cache.clone();
    threads.push(thread::spawn(move || {
        shrinking.set_capacity(BLOCK); // Also what is left when the table is gone exceeds it.
        assert!(shrinking.used() <= 8 * BLOCK, "less than nothing is used");
        shrinking.set_capacity(8 * BLOCK);
    }));
    let (reader, used) = (kept.clone(), cache.clone());
    threads.push(thread::spawn(move || {
        for n in 0..4 {
            drop(reader.get(n));
            reader.insert(n, block());
            assert!(used.used() <= 8 * BLOCK, "less than nothing is used");
        }
    }));
    for thread in threads {
        thread.join().unwrap();
    }
    settled(&cache, resident(&kept, 4));
    works_on(&cache);
    settled(&cache, resident(&kept, 4));
    drop(kept);
    settled(&cache, 0);
}

#[test]
fn a_table_dropped_beside_those_who_make_room_gives_back_what_it_held() {
    check(4000, drop_races_shrink);
}

fn two_readers() {
    let cache = BlockCache::new(8 * BLOCK);
    let table = Arc::new(TableCache::new(&cache, 2));
    let readers = (0..3).map(|_| {
        let (table, cache) = (table.clone(), cache.clone());
        thread::spawn(move || {
            for n in 0..2 {
                if table.get(n).is_none() {
                    table.insert(n, block());
                }
                assert!(cache.used() <= 2 * BLOCK, "a block is counted twice");
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.join().unwrap();
    }
    settled(&cache, 2);
    drop(table);
    settled(&cache, 0);
}

#[test]
fn a_block_that_several_read_at_once_is_counted_once() {
    check(2000, two_readers);
}

fn charges() {
    let cache = BlockCache::new(8 * BLOCK);
    let table = Arc::new(TableCache::new(&cache, 4));
    let opener = cache.clone();
    let mut threads = vec![thread::spawn(move || {
        for _ in 0..2 {
            let charge = opener.charge(6 * BLOCK);
            thread::yield_now();
            drop(charge);
        }
    })];
    let reader = table.clone();
    threads.push(thread::spawn(move || {
        for n in 0..4 {
            reader.insert(n, block());
            drop(reader.get(n));
        }
    }));
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(cache.charged(), 0);
    settled(&cache, resident(&table, 4));
    let charge = cache.charge(7 * BLOCK);
    assert!(cache.used() <= BLOCK, "blocks do not give way");
    drop(charge);
    drop(table);
    settled(&cache, 0);
    works_on(&cache);
}

#[test]
fn blocks_give_way_to_tables_that_open_and_come_back_behind_them() {
    check(2000, charges);
}
