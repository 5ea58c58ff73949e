use std::sync::Arc;

use terrace_base::key::ValueKind;

use super::*;
use crate::Compression;
use crate::testing::*;

/// Keyspaces 1, 3 and 7 with even keys; key 40 of each has so many versions that they fill blocks.
fn table(compression: Compression) -> Arc<Table> {
    let mut model = Model::new();
    for keyspace in [1, 3, 7] {
        for n in (0..120u8).step_by(2) {
            for seq in (0..if n == 40 { 60 } else { 1 }).rev() {
                let kind = match n % 10 {
                    0 if n != 40 => ValueKind::Tombstone,
                    _ => ValueKind::Put,
                };
                let value = vec![n; if kind == ValueKind::Put { 40 } else { 0 }];
                model.push((key(keyspace, &[n], seq + 1, kind), value));
            }
        }
    }
    let (_, image) = build(&model, &options(compression, 512));
    open_all(&image).into_iter().next().unwrap()
}

#[test]
fn a_stretch_holds_what_lies_between_two_keys_and_less_than_two_blocks_more() {
    for compression in compressions() {
        let table = table(compression);
        let largest = table.fences().metas().map(|meta| meta.entries);
        let (largest, mut exact) = (u64::from(largest.max().unwrap()), 0);
        for keyspace in 0..9 {
            for lower in 0..122u8 {
                for upper in (lower..122).map(Some).chain([None]) {
                    let found = table.stretch(
                        KeyspaceId(keyspace),
                        &[lower],
                        upper.as_ref().map(std::slice::from_ref),
                    );
                    let here = |n: u8| n >= lower && upper.is_none_or(|upper| n < upper);
                    let keys = match keyspace {
                        1 | 3 | 7 => (0..120).step_by(2).filter(|n| here(*n)).collect(),
                        _ => Vec::new(),
                    };
                    let wanted = keys
                        .iter()
                        .map(|n| if *n == 40 { 60 } else { 1 })
                        .sum::<u64>();
                    let dead = keys.iter().filter(|n| **n % 10 == 0 && **n != 40).count() as u64;
                    let what = format!("{lower} to {upper:?} of {keyspace}: {found:?}");
                    assert!(
                        found.entries >= wanted && found.tombstones >= dead,
                        "{what}"
                    );
                    assert!(found.entries < wanted + 2 * largest, "{what} {wanted}");
                    assert!((found.bytes == 0) == (found.blocks == 0), "{what}");
                    assert!(found.bytes <= table.info().size, "{what}");
                    exact += u64::from(found.entries == wanted);
                }
            }
        }
        assert!(exact > 100, "{exact}");
    }
}

#[test]
fn keyspaces_share_no_block_and_their_stretches_make_up_the_table() {
    let table = table(Compression::None);
    let whole = |keyspace| table.stretch(KeyspaceId(keyspace), &[], None);
    let sum = [1, 3, 7].map(whole).iter().fold((0, 0, 0), |sum, part| {
        (
            sum.0 + part.blocks,
            sum.1 + part.entries,
            sum.2 + part.tombstones,
        )
    });
    let info = table.info();
    assert_eq!(sum, (info.blocks, info.entries, info.tombstones));
    for keyspace in [0, 2, 4, 8, u32::MAX] {
        assert_eq!(whole(keyspace), Stretch::default());
    }
}
