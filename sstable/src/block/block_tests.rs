#![allow(clippy::indexing_slicing)]

use super::*;
use crate::testing::Random;

fn build(keys: &[(Vec<u8>, u64)]) -> Vec<u8> {
    let mut builder = BlockBuilder::default();
    for (i, (key, seq)) in keys.iter().enumerate() {
        let user = UserKey::new(KeyspaceId(1), key);
        let first = i == 0 || keys[i - 1].0 != *key;
        let key = KeyRef::new(user, SeqNo::new(*seq), ValueKind::Put);
        builder.push(key, b"value", 0, first);
    }
    let mut out = Vec::new();
    builder.cut(keys.len(), false, &mut out).unwrap();
    out
}

#[test]
fn search_finds_what_a_linear_search_finds() {
    let mut random = Random(4);
    for _ in 0..400 {
        let prefix = vec![b'p'; random.below(6) as usize];
        let mut keys: Vec<(Vec<u8>, u64)> = (0..1 + random.below(40))
            .map(|_| {
                let mut key = prefix.clone();
                key.extend((0..random.below(7)).map(|_| [0, b'a', 255][random.below(3) as usize]));
                (key, random.below(5))
            })
            .collect();
        keys.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        keys.dedup();
        let bytes = build(&keys);
        let block = RawBlock::new(&bytes).unwrap();
        assert_eq!(block.validate().unwrap(), 0);
        for (key, seq) in &keys {
            for target in [
                &key[..],
                &key[..key.len() / 2],
                &[&key[..], &[0]].concat(),
                b"q",
            ] {
                for seq in [*seq, 0, 9] {
                    let expected = keys
                        .iter()
                        .position(|(k, s)| {
                            (&k[..], std::cmp::Reverse(*s)) >= (target, std::cmp::Reverse(seq))
                        })
                        .unwrap_or(keys.len());
                    assert_eq!(block.lower_bound(target, SeqNo::new(seq)), expected);
                }
            }
        }
    }
}

#[test]
fn the_worked_example_holds() {
    let mut builder = BlockBuilder::default();
    let user = UserKey::new(KeyspaceId(0), b"ab");
    builder.push(
        KeyRef::new(user, SeqNo::new(7), ValueKind::Put),
        b"x",
        0,
        true,
    );
    let mut out = Vec::new();
    builder.cut(1, false, &mut out).unwrap();
    let expected = concat!(
        "00000000",
        "0100",
        "0200",
        "00000000",
        "00",
        "00",
        "0000",
        "0700000000000000",
        "40000000",
        "00000000",
        "00000000",
        "0500",
        "0000",
        "0107000000000000",
        "01000000",
        "0200",
        "6162",
        "7800000000000000",
    );
    let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, expected);
}
