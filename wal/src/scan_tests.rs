use std::path::Path;

use terrace_base::vfs::OpenMode;
use terrace_base::{ErrorKind, SeqNo};

use super::*;
use crate::format::{Fields, FrameKind, encode};
use crate::testing::TestVfs;

const SALT: u64 = 0x0123_4567_89ab_cdef;

fn file_of(bytes: &[u8]) -> File {
    let file = TestVfs::new()
        .fs()
        .open(Path::new("/f"), OpenMode::CreateNew)
        .unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn put(bytes: &mut [u8], offset: usize, payload: &[u8]) -> usize {
    let fields = Fields {
        kind: FrameKind::Data,
        count: 1,
        first_seq: SeqNo::new(offset as u64),
        synced: 0,
    };
    let mut frame = Vec::new();
    encode(&mut frame, fields, &[payload], SALT, offset as u64).unwrap();
    bytes[offset..offset + frame.len()].copy_from_slice(&frame);
    offset + frame.len()
}

fn found(bytes: &[u8], from: u64) -> Vec<u64> {
    let mut at = Vec::new();
    Scanner::new(file_of(bytes), SALT, bytes.len() as u64)
        .search(from, &mut |offset, frame| {
            assert_eq!(frame.fields.first_seq.get(), offset);
            at.push(offset);
            Ok(())
        })
        .unwrap();
    at
}

#[test]
fn frames_are_found_wherever_they_lie_and_across_windows() {
    let mut bytes = vec![0xee; 3 << 20];
    let mut expected = Vec::new();
    let mut offset = 8;
    let mut step = 1;
    while offset + 90_000 < bytes.len() {
        expected.push(offset as u64);
        offset = put(&mut bytes, offset, &vec![0x11; step * 37 % 80_000]) + step * 8 % 4096;
        step += 7;
    }
    let last = bytes.len() - 32;
    put(&mut bytes, last, b"");
    expected.push(last as u64);
    assert_eq!(found(&bytes, 0), expected);
    assert_eq!(found(&bytes, 1), expected);
    assert_eq!(found(&bytes, 9), expected[1..]);
    let mut scanner = Scanner::new(file_of(&bytes), SALT, bytes.len() as u64);
    for offset in expected {
        assert!(scanner.frame_at(offset).unwrap().is_some());
        assert!(scanner.frame_at(offset + 8).unwrap().is_none());
    }
    assert!(scanner.frame_at(4).unwrap().is_none());
    assert!(scanner.frame_at(u64::MAX - 7).unwrap().is_none());
}

#[test]
fn a_frame_within_a_broken_one_is_found() {
    let mut bytes = vec![0; 8192];
    put(&mut bytes, 0, &[7; 4000]);
    put(&mut bytes, 1024, b"later use of the same bytes");
    assert_eq!(found(&bytes, 0), [1024]);
}

#[test]
fn bytes_made_to_look_like_frames_end_the_search_in_linear_time() {
    let mut bytes = vec![0; 4 << 20];
    for (i, word) in bytes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let rest = (4 << 20) - i as u32 * 16;
        word[..4].copy_from_slice(&rest.to_le_bytes());
        word[8..12].copy_from_slice(&(SALT as u32).to_le_bytes());
    }
    let mut scanner = Scanner::new(file_of(&bytes), SALT, bytes.len() as u64);
    let error = scanner.search(0, &mut |_, _| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
}

#[test]
fn a_salt_of_zeroes_finds_nothing_in_zeroes() {
    let bytes = vec![0; 100_000];
    let mut scanner = Scanner::new(file_of(&bytes), 0, bytes.len() as u64);
    scanner.search(0, &mut |_, _| panic!("a frame")).unwrap();
    assert!(!scanner.is_dirty_from(0).unwrap());
}

#[test]
fn sizes_that_are_no_multiples_of_eight_are_read_to_their_end() {
    for len in 0..80 {
        let mut bytes = vec![0; 80];
        put(&mut bytes, 0, b"abc");
        let bytes = &bytes[..len];
        let mut scanner = Scanner::new(file_of(bytes), SALT, len as u64);
        assert_eq!(scanner.frame_at(0).unwrap().is_some(), len >= 40);
        assert_eq!(
            scanner.overruns(0).unwrap(),
            (16..40).contains(&len),
            "{len}"
        );
        scanner.search(8, &mut |_, _| panic!("a frame")).unwrap();
        let mut tail = bytes.to_vec();
        if let Some(byte) = tail.last_mut() {
            *byte = 1;
            let mut scanner = Scanner::new(file_of(&tail), SALT, len as u64);
            assert!(scanner.is_dirty_from(0).unwrap());
        }
    }
}
