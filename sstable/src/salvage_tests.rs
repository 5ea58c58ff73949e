#![allow(clippy::indexing_slicing)]

use terrace_base::key::{OwnedKey, ValueKind};

use super::*;
use crate::Compression;
use crate::testing::*;

fn model() -> Model {
    let mut model: Model = (0..24u64)
        .map(|i| put(format!("key{i:02}").as_bytes(), 100 + i, &[b'v'; 45]))
        .collect();
    for seq in (10..40).rev() {
        model.push(put(b"many", seq, &[seq as u8; 40]));
    }
    model.push((key(3, b"other", 6, ValueKind::Tombstone), vec![]));
    model
}

/// Salvages `bytes` and checks that nothing is invented and that what is missing is said to be.
fn check(bytes: &[u8], blocks: Option<u64>, model: &Model, what: &str) -> Salvaged {
    let mut kept: Vec<(OwnedKey, Vec<u8>)> = Vec::new();
    let bytes = Bytes::copy_from_slice(bytes);
    let found = salvage(&bytes, ID, blocks, &mut |key, value| {
        kept.push((key.to_owned(), value.to_vec()));
        Ok(())
    })
    .unwrap();
    assert_eq!(kept.len() as u64, found.entries, "{what}");
    assert!(
        kept.is_sorted_by(|a, b| a.0.as_ref() < b.0.as_ref()),
        "{what}"
    );
    for entry in &kept {
        assert!(model.contains(entry), "{what}: {entry:?} was never written");
    }
    for entry in model.iter().filter(|entry| !kept.contains(entry)) {
        let user = &entry.0.user;
        let covered = found.lost.iter().any(|lost| {
            lost.after.as_ref().is_none_or(|after| after <= user)
                && lost.before.as_ref().is_none_or(|before| user <= before)
        });
        assert!(covered, "{what}: {entry:?} is missing from {found:?}");
    }
    found
}

#[test]
fn whatever_is_damaged_the_other_blocks_are_kept() {
    for compression in [Compression::None, Compression::Lz4] {
        let model = model();
        let (info, image) = build(&model, &options(compression, 512));
        let identity = identify(&image).unwrap().unwrap();
        assert_eq!(identity.info.as_ref(), Some(&info));
        let data = &image[..identity.data_end as usize];
        let whole = check(data, None, &model, "undamaged");
        assert!(whole.lost.is_empty() && whole.blocks == info.blocks && whole.blocks > 3);
        for at in 0..data.len() {
            for change in [1, 1 << (at % 8), 0xff] {
                let mut bad = data.to_vec();
                bad[at] ^= change;
                let found = check(&bad, None, &model, &format!("byte {at} ^ {change}"));
                assert_eq!(found.blocks, whole.blocks - 1, "byte {at}");
                assert_eq!(found.lost.len(), 1);
            }
        }
        for len in 0..image.len() {
            let found = check(
                &image[..len],
                Some(info.blocks),
                &model,
                &format!("cut to {len}"),
            );
            let all = found.blocks == info.blocks;
            assert_eq!(all, len >= data.len(), "cut to {len}");
            assert_eq!(found.lost.is_empty(), all, "cut to {len}");
        }
    }
}

#[test]
fn blocks_in_another_place_or_of_another_table_are_not_taken() {
    let model = model();
    let (_, image) = build(&model, &options(Compression::None, 512));
    let data = identify(&image).unwrap().unwrap().data_end as usize;
    let header = Header::decode(&image).unwrap();
    let first = block::stored_len(&image, &header).unwrap();
    let mut moved = image[..data].to_vec();
    moved.copy_within(first..2 * first, 0);
    let found = check(&moved, None, &model, "copied");
    assert!(found.lost.iter().any(|lost| lost.bytes.start == 0));
    let mut other = options(Compression::None, 512);
    other.id = ID + 1;
    let (_, foreign) = build(&model, &other);
    let found = check(&foreign, None, &model, "foreign");
    assert_eq!(found.blocks, 0);
}

#[test]
fn a_footer_is_found_in_front_of_garbage() {
    let (info, mut image) = build(&model(), &options(Compression::Lz4, 512));
    let plain = identify(&image).unwrap().unwrap();
    image.extend_from_slice(&[7; 100]);
    image.extend_from_slice(&MAGIC);
    image.extend_from_slice(&[9; 3]);
    assert_eq!(identify(&image).unwrap().unwrap(), plain);
    for at in image.len() - 111 - 36..image.len() - 111 {
        let mut bad = image.clone();
        bad[at] ^= 4;
        assert_eq!(identify(&bad).unwrap(), None, "byte {at}");
    }
    assert_eq!(plain.size, info.size);
    assert_eq!(identify(&[]).unwrap(), None);
}

#[test]
fn many_broken_candidates_end_the_search() {
    let (_, mut image) = build(&model(), &options(Compression::None, 512));
    // Headers that claim to reach to the end, one behind the other.
    let header = image[..32].to_vec();
    image.clear();
    while image.len() < 1 << 20 {
        image.extend_from_slice(&header);
        let at = image.len() - 8;
        image[at..at + 4].copy_from_slice(&(600_000u32).to_le_bytes());
    }
    let found = salvage(&Bytes::from(image), ID, None, &mut |_, _| Ok(())).unwrap();
    assert_eq!((found.blocks, found.lost.len()), (0, 1));
}
