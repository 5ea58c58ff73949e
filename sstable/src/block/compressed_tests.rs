// Tests: a wrong index fails one, and one needs a thread.
#![allow(clippy::indexing_slicing, clippy::disallowed_methods)]
use terrace_base::ErrorKind;
use terrace_base::key::{KeyRef, KeyspaceId, UserKey};

use super::*;
use crate::block::{BlockBuilder, LZ4, ZSTD};
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

/// A packer of each kind that this build has.
fn packers() -> Vec<Packer> {
    [Compression::Lz4, Compression::Zstd]
        .into_iter()
        .filter_map(Packer::new)
        .collect()
}

#[test]
fn what_is_not_packed_or_not_known_has_no_packer() {
    assert!(Packer::new(Compression::None).is_none());
    let kinds: Vec<u8> = packers().iter().map(|packer| packer.codec.kind()).collect();
    match Compression::Zstd.check() {
        Ok(()) => assert_eq!(kinds, [LZ4, ZSTD]),
        Err(_) => assert_eq!(kinds, [LZ4]),
    }
}

#[test]
fn unpacking_rebuilds_the_raw_block_byte_by_byte() {
    for packer in packers() {
        round_trips(packer);
    }
}

fn round_trips(mut packer: Packer) {
    let mut random = Random(9);
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
        // The cache counts its length. The last record had asked for room that it did not fill, and
        // doubled it.
        assert_eq!(again.capacity(), again.len(), "round {round}");
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
    for mut packer in packers() {
        let (stored, _) = packer.pack(&raw, &header).unwrap();
        let over = (stored.len() as f64 - alone as f64) / block.len() as f64;
        assert!(
            over < 4.5,
            "{over} bytes an entry over LZ4 of keys and values"
        );
    }
}

#[test]
fn what_does_not_shrink_is_left_raw() {
    let mut random = Random(11);
    let (raw, header) = raw(&mut random, 3, |random| {
        (0..2500).map(|_| random.next() as u8).collect()
    });
    for mut packer in packers() {
        assert!(packer.pack(&raw, &header).is_none());
    }
}

/// Packs one entry with this value.
fn packed(packer: &mut Packer, value: &[u8]) -> (Vec<u8>, Vec<u8>, Header) {
    let (raw, header) = raw(&mut Random(1), 1, |_| value.to_vec());
    let (stored, header) = packer.pack(&raw, &header).unwrap();
    (raw, stored.clone(), header)
}

#[test]
fn a_value_that_shrinks_to_next_to_nothing_comes_back() {
    for mut packer in packers() {
        for len in [1 << 10, 100_000, 1 << 20, 40 << 20] {
            let (raw, stored, header) = packed(&mut packer, &vec![0; len]);
            let again = unpack(&stored, &header, &mut Vec::new()).unwrap();
            assert!(again == raw, "{len} zeroes, kind {}", header.kind);
        }
    }
}

#[test]
fn a_length_that_is_a_lie_is_corruption_before_memory_is_taken() {
    for mut packer in packers() {
        let (_, stored, header) = packed(&mut packer, &[b'v'; 3000]);
        for (plain_len, raw_len, told) in [
            (u32::MAX, u32::MAX, "impossible"),
            (1 << 30, 1 << 30, "impossible"),
            (header.raw_len + 1, header.raw_len, "impossible"),
            (header.plain_len, u32::MAX, "impossible"),
            (header.plain_len - 1, header.raw_len, "unpack"),
            (header.plain_len + 1, header.raw_len, "unpack"),
        ] {
            let lie = Header {
                plain_len,
                raw_len,
                ..header
            };
            let mut scratch = Vec::new();
            let error = unpack(&stored, &lie, &mut scratch).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption);
            assert!(error.to_string().contains(told), "{error}");
            assert!(scratch.capacity() <= 8 * stored.len().max(3000), "{error}");
        }
    }
}

#[test]
fn whatever_is_in_the_packed_part_is_an_answer_or_corruption() {
    let mut random = Random(23);
    for mut packer in packers() {
        let (raw, stored, header) = packed(&mut packer, &b"some value, ".repeat(90));
        let mut scratch = Vec::new();
        for round in 0..20_000 {
            let mut damaged = stored.clone();
            for _ in 0..=random.below(3) {
                let at = HEADER_LEN + random.below((stored.len() - HEADER_LEN) as u64) as usize;
                damaged[at] = random.next() as u8;
            }
            match unpack(&damaged, &header, &mut scratch) {
                Ok(again) => assert_eq!(again.len(), raw.len(), "round {round}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corruption, "round {round}"),
            }
        }
        // The memory that the attempts have left behind does no harm to the next.
        assert_eq!(unpack(&stored, &header, &mut scratch).unwrap(), raw);
    }
}

/// Several frames, and frames to be skipped, are legal zstd; they fill the stated length or are
/// corruption.
#[cfg(feature = "zstd")]
#[test]
fn frames_of_any_number_stay_within_the_stated_length() {
    let frame = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    let skip = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
    let two = [frame(b"ab"), skip.to_vec(), frame(b"cd")].concat();
    let mut plain = [0; 4];
    codec::unpack(ZSTD, &two, &mut plain).unwrap();
    assert_eq!(&plain, b"abcd");
    for wrong in [
        &two[..two.len() - 1],
        &frame(b"abcde"),
        &frame(b"abc"),
        &skip,
        &[],
    ] {
        let error = codec::unpack(ZSTD, wrong, &mut plain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    }
}

#[cfg(feature = "zstd")]
#[test]
fn a_thread_that_ends_can_still_unpack() {
    use std::cell::Cell;
    struct AtTheEnd(Vec<u8>, Header);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            unpack(&self.0, &self.1, &mut Vec::new()).unwrap();
        }
    }
    thread_local!(static LAST: Cell<Option<AtTheEnd>> = const { Cell::new(None) });
    let mut packer = Packer::new(Compression::Zstd).unwrap();
    let (_, stored, header) = packed(&mut packer, &[b'v'; 3000]);
    let work = move || {
        LAST.set(Some(AtTheEnd(stored.clone(), header)));
        unpack(&stored, &header, &mut Vec::new()).unwrap();
    };
    std::thread::spawn(work).join().unwrap();
}
