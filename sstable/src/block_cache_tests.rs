use terrace_base::hash::key_hash;
use terrace_base::key::{KeyspaceId, SeqNo, UserKey};

use super::*;
use crate::testing::*;
use crate::{Compression, IoMode, Table};

fn model(n: u64) -> Model {
    (0..n)
        .map(|i| put(format!("key{i:06}").as_bytes(), i + 1, &[b'v'; 90]))
        .collect()
}

fn open(image: &[u8], cache: &Arc<BlockCache>) -> Table {
    Table::open_image(Bytes::copy_from_slice(image), ID, cache).unwrap()
}

fn read(table: &Table, i: u64) {
    let text = format!("key{i:06}");
    let user = UserKey::new(KeyspaceId(0), text.as_bytes());
    let found = table
        .get(&user, key_hash(user), SeqNo::MAX)
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.seq.get(), &found.value[..]),
        (i + 1, &[b'v'; 90][..])
    );
}

/// The resident blocks of the ring, and that they agree with what the cache says.
fn resident(cache: &BlockCache) -> usize {
    let ring = cache.lock();
    let (mut bytes, mut count) = (0, 0);
    for entry in &ring.entries {
        if let Some(table) = entry.table.upgrade() {
            let cached = table.blocks[entry.block as usize].load_full().unwrap();
            assert_eq!(cached.size(), entry.size);
            bytes += entry.size;
            count += 1;
        }
    }
    assert_eq!(bytes, cache.used());
    count
}

#[test]
fn blocks_stay_within_the_budget_and_what_is_used_stays() {
    let (info, image) = build(&model(3000), &options(Compression::Lz4, 8192));
    let cache = BlockCache::new(80 << 10);
    let table = open(&image, &cache);
    for i in 0..3000 {
        read(&table, i);
        read(&table, 7); // Its block is always in use.
        assert!(cache.used() <= 80 << 10);
    }
    let count = resident(&cache);
    assert!(count >= 5 && count < info.blocks as usize, "{count}");
    let hot = table
        .fences()
        .locate(UserKey::new(KeyspaceId(0), b"key000007"));
    assert!(matches!(
        table.block(hot.start).unwrap(),
        crate::value::BlockRef::Cached(_)
    ));
    cache.set_capacity(0);
    assert_eq!((cache.used(), resident(&cache)), (0, 0));
    read(&table, 5);
    assert_eq!(cache.used(), 0);
}

#[test]
fn blocks_of_dropped_tables_go() {
    let (_, image) = build(&model(1000), &options(Compression::Lz4, 8192));
    let cache = BlockCache::new(1 << 20);
    let kept = open(&image, &cache);
    read(&kept, 1);
    let alone = cache.used();
    for _ in 0..50 {
        let table = open(&image, &cache);
        for i in 0..1000 {
            read(&table, i);
        }
        assert!(cache.used() > alone);
        drop(table);
        assert_eq!(cache.used(), alone);
        assert_eq!(resident(&cache), 1);
    }
    assert!(cache.lock().entries.len() < 100, "dead entries pile up");
    // A value outlives block, table and cache.
    let table = open(
        &build(
            &vec![put(b"k", 1, &[7; 3000])],
            &options(Compression::Lz4, 8192),
        )
        .1,
        &cache,
    );
    let user = UserKey::new(KeyspaceId(0), b"k");
    let value = table
        .get(&user, key_hash(user), SeqNo::MAX)
        .unwrap()
        .unwrap();
    let value = value.value.into_bytes();
    drop((table, kept, cache));
    assert_eq!(value, &[7; 3000][..]);
}

/// Another thread that makes room may hold the slots of a table that is being dropped.
#[test]
fn a_table_dropped_while_room_is_made_gives_its_bytes_back_once() {
    let cache = BlockCache::new(1 << 20);
    let block = || Bytes::from(vec![1; 1000]);
    for limit in [0, 1000, 3000] {
        let (table, kept) = (TableCache::new(&cache, 8), TableCache::new(&cache, 8));
        for i in 0..8 {
            table.insert(i, block());
            kept.insert(i, block());
        }
        let held = table.slots.clone(); // As `shrink` holds them.
        drop(table);
        assert_eq!(cache.used(), 8 * (1000 + OVERHEAD));
        cache.set_capacity(limit);
        assert!(cache.used() <= limit, "{}", cache.used());
        drop(held);
        cache.set_capacity(1 << 20);
        drop(kept);
        assert_eq!(cache.used(), 0);
        // And it still takes blocks.
        let next = TableCache::new(&cache, 8);
        (0..8).for_each(|i| next.insert(i, block()));
        assert_eq!(cache.used(), 8 * (1000 + OVERHEAD));
        assert!((0..8).all(|i| next.get(i).is_some()));
        drop(next);
        assert_eq!(cache.used(), 0);
    }
    let ring = cache.lock();
    assert!(ring.dead <= ring.entries.len());
}

#[test]
fn tables_come_and_go_while_others_make_room() {
    let cache = BlockCache::new(20 << 10);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                let mut random = Random(thread);
                for _ in 0..2000 {
                    let table = TableCache::new(cache, 8);
                    for i in 0..8 {
                        table.insert(i, Bytes::from(vec![1; 500 + random.below(500) as usize]));
                    }
                    assert!(cache.used() <= 21 << 10);
                }
            });
        }
    });
    assert_eq!(cache.used(), 0);
}

#[test]
fn two_threads_share_a_tiny_cache() {
    let (_, image) = build(&model(2000), &options(Compression::Lz4, 1024));
    let cache = BlockCache::new(12 << 10);
    let table = open(&image, &cache);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (table, cache, image) = (&table, &cache, &image);
            scope.spawn(move || {
                let mut random = Random(thread);
                for n in 0..4000 {
                    read(table, random.below(2000));
                    if n % 500 == 0 {
                        let other = open(image, cache);
                        read(&other, random.below(2000));
                        cache.set_capacity((8 + random.below(8)) << 10);
                    }
                }
            });
        }
    });
    resident(&cache);
    assert!(cache.used() <= 16 << 10);
}

/// Checking a new table made each of its blocks resident that a fingerprint led to by chance: a
/// merge drove out what readers use.
#[test]
fn checking_a_table_makes_nothing_resident() {
    let (_, image) = build(&model(20_000), &options(Compression::Lz4, 8192));
    let cache = BlockCache::new(80 << 20);
    let dir = tempfile::tempdir().unwrap();
    let file = write_file(&dir.path().join("t.sst"), &image);
    let size = image.len() as u64;
    for io in [IoMode::Mmap, IoMode::Pread] {
        let table = Table::open(file.clone(), ID, size, io, &cache).unwrap();
        table.verify().unwrap();
        assert_eq!(resident(&cache), 0);
    }
}
