use terrace_base::key::{KeyRef, KeyspaceId, UserKey};

use super::*;
use crate::block::BlockBuilder;
use crate::testing::Random;

/// A raw block of up to `count` entries.
fn raw(
    random: &mut Random,
    count: u64,
    value: impl Fn(&mut Random) -> Vec<u8>,
) -> (Vec<u8>, Header) {
    let mut builder = BlockBuilder::default();
    for i in 0..count {
        let key = format!("user{:012}", i * 7919);
        let value = value(random);
        let dead = random.below(40) == 0;
        let kind = if dead {
            ValueKind::Tombstone
        } else {
            ValueKind::Put
        };
        let value = if dead { vec![] } else { value };
        if !builder.is_empty() && !builder.fits(key.len(), value.len(), 8192) {
            break;
        }
        let seq = SeqNo::new(random.below(2_000_000));
        let user = UserKey::new(KeyspaceId(5), key.as_bytes());
        builder.push(KeyRef::new(user, seq, kind), &value, 0, true);
    }
    let mut out = Vec::new();
    let cut = builder.cut(builder.len(), false, &mut out).unwrap();
    (out, cut.header)
}

#[test]
fn unpacking_rebuilds_the_raw_block_byte_by_byte() {
    let mut random = Random(9);
    let mut packer = Packer::new();
    for round in 0..300 {
        let (count, longest) = (1 + random.below(100), 1 + random.below(300));
        let (raw, header) = raw(&mut random, count, |random| {
            (0..random.below(longest))
                .map(|_| b'a' + random.below(3) as u8)
                .collect()
        });
        RawBlock::with_header(&raw, header).validate().unwrap();
        let Some((stored, stored_header)) = packer.pack(&raw, &header) else {
            continue;
        };
        assert_eq!(Header::decode(stored).unwrap(), stored_header);
        let again = unpack(stored, &stored_header, &mut Vec::new()).unwrap();
        assert_eq!(again, raw, "round {round}");
    }
}

#[test]
fn packing_costs_little_over_plain_keys_and_values() {
    let mut random = Random(10);
    let (raw, header) = raw(&mut random, 100, |random| {
        let half: Vec<u8> = (0..50).map(|_| random.next() as u8).collect();
        half.repeat(2)
    });
    let block = RawBlock::with_header(&raw, header);
    let mut plain = Vec::new();
    for i in 0..block.len() {
        let record = block.record(i).unwrap();
        plain.extend_from_slice(record.key);
        plain.extend_from_slice(record.value);
    }
    let alone = lz4_flex::block::compress(&plain).len();
    let mut packer = Packer::new();
    let (stored, _) = packer.pack(&raw, &header).unwrap();
    let over = (stored.len() as f64 - alone as f64) / block.len() as f64;
    assert!(
        over < 4.5,
        "{over} bytes an entry over LZ4 of keys and values"
    );
}

#[test]
fn what_does_not_shrink_is_left_raw() {
    let mut random = Random(11);
    let (raw, header) = raw(&mut random, 3, |random| {
        (0..2500).map(|_| random.next() as u8).collect()
    });
    assert!(Packer::new().pack(&raw, &header).is_none());
}
