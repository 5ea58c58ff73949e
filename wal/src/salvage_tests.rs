#![allow(clippy::indexing_slicing)]

use super::*;
use crate::format::Fields;

const SALT: u64 = 0x9e37_79b9_7f4a_7c15;

/// A file of data frames of `count` 1 to 3, with where each begins and ends.
fn file() -> (Vec<u8>, Vec<(u64, u64)>) {
    let (mut bytes, mut places, mut frame) = (vec![0; 64], Vec::new(), Vec::new());
    let mut seq = 1;
    for n in 0..12u32 {
        let fields = Fields {
            kind: FrameKind::Data,
            count: n % 3 + 1,
            first_seq: SeqNo::new(seq),
            synced: 0,
        };
        seq += u64::from(fields.count);
        let at = bytes.len() as u64;
        let payload = vec![n as u8; (n * 7) as usize];
        format::encode(&mut frame, fields, &[&payload], SALT, at).unwrap();
        bytes.extend_from_slice(&frame);
        places.push((at, bytes.len() as u64));
    }
    bytes.resize(bytes.len() + 100, 0);
    (bytes, places)
}

fn found(bytes: &[u8]) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    frames_in(bytes, SALT, 64, &mut |frame| {
        let n = frame.payload.first().copied().unwrap_or(0);
        assert_eq!(
            frame.last_seq.get() - frame.first_seq.get(),
            u64::from(n % 3)
        );
        found.push((frame.start, frame.end));
        Ok(())
    })
    .unwrap();
    found
}

#[test]
fn each_frame_stands_alone() {
    let (good, places) = file();
    assert_eq!(found(&good), places);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let at = (bit / 8) as u64;
        let mut expected = places.clone();
        expected.retain(|(start, end)| !(*start..*end).contains(&at));
        assert_eq!(found(&bad), expected, "bit {bit}");
    }
    for len in 0..good.len() {
        let mut expected = places.clone();
        expected.retain(|(_, end)| *end <= len as u64);
        assert_eq!(found(&good[..len]), expected, "cut to {len}");
    }
    let (start, end) = (places[2].0 as usize, places[2].1 as usize);
    let mut moved = good.clone();
    moved.copy_within(start..end, good.len() - 96);
    assert_eq!(found(&moved), places, "a frame in another place");
}

#[test]
fn a_link_names_its_salt_only_while_it_verifies() {
    let link = Link {
        salt: SALT,
        predecessor: None,
        from: Lsn(8),
        first: Lsn(8),
        last_seq: SeqNo::new(3),
        manifest_edit: 4,
    };
    let fields = Fields {
        kind: FrameKind::Link,
        count: 0,
        first_seq: SeqNo::new(3),
        synced: 0,
    };
    let mut bytes = Vec::new();
    format::encode(&mut bytes, fields, &[&link.encode()], SALT, 0).unwrap();
    let expected = LinkedUse {
        salt: SALT,
        predecessor: None,
    };
    assert_eq!(use_in_link(&bytes), Some(expected));
    frames_in(&bytes, SALT, 0, &mut |frame| {
        let told = (frame.last_seq.get(), frame.manifest_edit, frame.first_lsn);
        assert_eq!(told, (3, Some(4), Some(Lsn(8))));
        Ok(())
    })
    .unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(use_in_link(&bad), None, "bit {bit}");
    }
    assert_eq!(use_in_link(&bytes[..50]), None);
}
