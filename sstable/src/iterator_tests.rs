use terrace_base::key::ValueKind;

use super::*;
use crate::Compression;
use crate::testing::*;

fn spread() -> Model {
    (0..200u64)
        .map(|i| put(format!("key{i:04}").as_bytes(), i, &[i as u8; 30]))
        .collect()
}

#[test]
fn an_error_is_told_once_and_the_next_seek_starts_afresh() {
    let (_, mut image) = build(&spread(), &options(Compression::None, 512));
    let bad = open_image(&image).unwrap().fences().range(2).unwrap();
    image[bad.start + 100] ^= 1;
    for scan in [false, true] {
        let table = open_image(&image).unwrap();
        let mut iter = if scan { table.scan() } else { table.iter() };
        iter.first().unwrap();
        let error = loop {
            match iter.next() {
                Ok(()) => assert!(iter.valid(), "the damage was taken for the end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.file().unwrap().1, bad.start as u64, "{error}");
        assert!(!iter.valid());
        iter.next().unwrap();
        assert!(!iter.valid());
        iter.last().unwrap();
        assert!(iter.valid());
        assert!(table.verify().is_err());
    }
}

#[test]
fn plain_blocks_are_told_from_others() {
    let mut model = spread();
    let (_, image) = build(&model, &options(Compression::Lz4, 512));
    let mut iter = open_image(&image).unwrap().iter();
    assert!(!iter.plain_below(KeyspaceId(0), SeqNo::MAX));
    iter.first().unwrap();
    assert!(
        iter.plain_below(KeyspaceId(0), SeqNo::new(50))
            && !iter.plain_below(KeyspaceId(0), SeqNo::ZERO)
    );
    model[0].0.kind = ValueKind::Tombstone;
    model[0].1.clear();
    let (_, image) = build(&model, &options(Compression::Lz4, 512));
    let mut iter = open_image(&image).unwrap().iter();
    iter.first().unwrap();
    assert!(!iter.plain_below(KeyspaceId(0), SeqNo::MAX));
    iter.last().unwrap();
    assert!(iter.plain_below(KeyspaceId(0), SeqNo::MAX));
}

#[test]
fn a_key_that_goes_on_in_the_next_block_makes_no_plain_block() {
    // One version in each block: no block has two versions of a key, and still none is plain.
    let model = vec![put(b"k", 9, &[1; 9000]), put(b"k", 8, &[2; 9000])];
    let (info, image) = build(&model, &options(Compression::None, 8192));
    assert_eq!(info.blocks, 2);
    let mut iter = open_image(&image).unwrap().iter();
    iter.first().unwrap();
    assert!(!iter.plain_below(KeyspaceId(0), SeqNo::MAX));
    iter.next().unwrap();
    assert!(iter.valid() && !iter.plain_below(KeyspaceId(0), SeqNo::MAX));
}

#[test]
fn large_values_are_slices_and_outlive_the_table() {
    let model = vec![put(b"k", 9, &[1; 9000])];
    let (_, image) = build(&model, &options(Compression::None, 8192));
    for table in open_all(&image) {
        let mut iter = table.iter();
        iter.first().unwrap();
        let value = iter.value_bytes();
        let again = iter.value_bytes();
        assert_eq!(value.as_ptr(), again.as_ptr(), "no copy");
        drop((iter, table));
        assert_eq!(value, &[1; 9000][..]);
    }
}
