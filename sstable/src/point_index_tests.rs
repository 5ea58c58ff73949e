#![allow(clippy::indexing_slicing)]

use std::collections::HashSet;

use super::*;
use crate::testing::Random;

fn decode(section: Vec<u8>, blocks: usize) -> PointIndex {
    let section = Bytes::from(section);
    let mapped = PointIndex::decode(&section, blocks, true).unwrap();
    let owned = PointIndex::decode(&section, blocks, false).unwrap();
    assert_eq!(mapped.memory(), 0);
    assert_eq!(owned.memory() as usize, section.len() - HEADER_LEN);
    owned
}

#[test]
fn every_key_is_found_and_few_others() {
    for count in [1usize, 12, 13, 100, 10_000, 300_000] {
        let mut random = Random(count as u64);
        let mut builder = IndexBuilder::new(7);
        let blocks = count.div_ceil(60);
        let keys: Vec<(u64, usize, usize)> = (0..count)
            .map(|i| (random.next(), i / 60, 200 + i % 60 * 130 / 8 * 8))
            .collect();
        for (hash, block, pos) in &keys {
            builder.push(*hash, *block, *pos);
        }
        let index = decode(builder.encode(blocks).unwrap(), blocks);
        for (hash, block, pos) in &keys {
            assert!(index.probe(*hash).any(|found| found == (*block, *pos)));
        }
        let wrong = (0..10_000).filter(|_| index.probe(random.next()).next().is_some());
        let wrong = wrong.count();
        assert!(wrong < 400, "{wrong} of 10,000 among {count}");
    }
}

#[test]
fn colliding_keys_spill_over_and_too_many_make_no_index() {
    let build = |alike: usize, others: usize| {
        let mut random = Random(1);
        let mut builder = IndexBuilder::new(7);
        for i in 0..alike {
            builder.push(99, i, 8 * i);
        }
        for _ in 0..others {
            builder.push(random.next(), 0, 0);
        }
        builder.encode(1024)
    };
    let index = decode(build(60, 1000).unwrap(), 1024);
    let found: HashSet<_> = index.probe(99).collect();
    for i in 0..60 {
        assert!(found.contains(&(i, 8 * i)), "{i}");
    }
    assert!(build(600, 1000).is_none());
    assert!(build(10, 3).is_some());
    let mut builder = IndexBuilder::new(7);
    builder.push(1, 0, 0);
    assert!(builder.encode(MAX_BLOCKS + 1).is_none());
    assert!(builder.encode(MAX_BLOCKS).is_some());
}

#[test]
fn the_worked_example_holds() {
    let hash = 0xCDDC_9E8E_F76E_D303;
    let mut builder = IndexBuilder::new(0);
    builder.push(hash, 0, 40);
    let section = builder.encode(1).unwrap();
    let slot = u32::from_le_bytes(*section[64..].first_chunk().unwrap());
    assert_eq!(slot, (seeded(hash, 0) as u32 & 0x3f_ffff) << 10 | 5);
    assert_eq!(section.len(), 128);
}

/// Found by fuzzing: with no blocks any number of bits named enough of them, and a probe shifted by
/// it.
#[test]
fn bits_that_no_location_has_are_refused() {
    for (bits, blocks, fits) in [
        (RECORD_BITS, 0, true),
        (RECORD_BITS, 1, true),
        (RECORD_BITS, 2, false),
        (MAX_LOCATION_BITS, MAX_BLOCKS, true),
        (RECORD_BITS - 1, 0, false),
        (MAX_LOCATION_BITS + 1, 0, false),
        (32, 0, false),
        (u32::MAX, 0, false),
    ] {
        let mut section = vec![0; HEADER_LEN + BUCKET_LEN];
        section[8] = 1;
        section[12..16].copy_from_slice(&bits.to_le_bytes());
        let index = PointIndex::decode(&Bytes::from(section), blocks, false);
        assert_eq!(index.is_ok(), fits, "{bits} bits for {blocks} blocks");
        if let Ok(index) = index {
            assert_eq!(index.probe(u64::MAX).next(), None);
        }
    }
}

#[test]
fn a_crowd_that_finds_no_place_gets_more_buckets() {
    // 12,500 keys take 1,000 buckets at first. 16 of them in each of 40 neighbours are one too many
    // everywhere, and those of the first of these come last.
    let hash = |bucket: usize, i: usize| {
        let bucket_len = u64::MAX / 1000;
        bucket as u64 * bucket_len + (i as u64 + 1) * (bucket_len / 20)
    };
    let crowd = (0..40)
        .rev()
        .flat_map(|bucket| (0..16).map(move |i| (bucket, i)));
    let rest = (0..12_500 - 640).map(|n| (100 + n % 900, n / 900));
    let mut builder = IndexBuilder::new(7);
    builder.keys = crowd
        .chain(rest)
        .map(|(bucket, i)| (hash(bucket, i), 1))
        .collect();
    assert!(builder.place_all(1000, RECORD_BITS).is_none());
    let buckets = (builder.encode(1).unwrap().len() - HEADER_LEN) / BUCKET_LEN;
    assert_eq!(buckets, 1125);
}
