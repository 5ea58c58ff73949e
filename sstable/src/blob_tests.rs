#![allow(clippy::indexing_slicing)]

use std::path::Path;

use terrace_base::ErrorKind;
use terrace_base::key::KeyspaceId;
use terrace_base::vfs::{Fs, MemVfs, OpenMode};

use super::*;

const ID: u64 = 0x1234_5678_9abc_def0;
const NUMBER: FileNumber = FileNumber(7);

fn user(key: &[u8]) -> UserKey<'_> {
    UserKey::new(KeyspaceId(7), key)
}

fn written(values: &[(&[u8], Vec<u8>)]) -> (Fs, Vec<BlobRef>) {
    let fs = Fs::new(MemVfs::new(1));
    let file = fs
        .open(Path::new("/000007.blob"), OpenMode::CreateNew)
        .unwrap();
    let mut writer = BlobWriter::new(file, NUMBER, ID);
    let add = |(key, value): &(&[u8], Vec<u8>)| writer.add(user(key), value).unwrap();
    let places = values.iter().map(add).collect();
    let size = writer.size();
    assert_eq!(writer.finish().unwrap(), (NUMBER, ID, size));
    (fs, places)
}

fn reader(fs: &Fs) -> Result<BlobReader> {
    let file = fs
        .open(Path::new("/000007.blob"), OpenMode::ReadWrite)
        .unwrap();
    BlobReader::open(file, ID)
}

fn value(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// A job with 128 KiB had a buffer of 1 MiB for large values.
#[test]
fn the_buffer_of_a_writer_keeps_to_what_it_is_given() {
    for most in [64 << 10, 200_000, STRIDE as usize] {
        let fs = Fs::new(MemVfs::new(1));
        let path = Path::new("/000007.blob");
        let file = fs.open(path, OpenMode::CreateNew).unwrap();
        let mut writer = BlobWriter::with_buffer(file, NUMBER, ID, most);
        let lens = [40_000, 30_000, 70_000, 10, 190_000, 500, 65_536, 300_000];
        let values: Vec<_> = lens.iter().cycle().take(100).map(|n| value(*n)).collect();
        let places: Vec<_> = values
            .iter()
            .map(|value| {
                let place = writer.add(user(b"k"), value).unwrap();
                let room = writer.buffer.capacity();
                assert!(room <= most + 100, "{room} of {most} bytes");
                place
            })
            .collect();
        writer.finish().unwrap();
        let reader = reader(&fs).unwrap();
        for (place, value) in places.iter().zip(&values) {
            assert_eq!(reader.read(user(b"k"), place).unwrap(), value[..]);
        }
    }
}

#[test]
fn the_worked_example_is_what_is_written() {
    let head = BlobHead::new(user(b"k"), b"xy");
    let mut expected = vec![1, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, b'k'];
    expected.extend_from_slice(&crc32(b"xy").to_le_bytes());
    assert_eq!(head.bytes, expected);
    assert_eq!(head.record_len(), 19);
    let at = head.at(NUMBER, ID, 32);
    assert_eq!(BlobRef::decode(&at.encode()).unwrap(), at);
    assert_eq!(at.record_len(1), 19);
    assert_eq!(blob_header(ID).len() as u64, BLOB_HEADER_LEN);
}

#[test]
fn values_and_parts_of_them_are_read_back() {
    let lens = [0, 1, 100, 32_767, 32_768, 32_769, 100_000, 3 << 20];
    let keys: Vec<Vec<u8>> = lens.iter().map(|len| len.to_string().into()).collect();
    let values: Vec<(&[u8], Vec<u8>)> = keys
        .iter()
        .zip(lens)
        .map(|(key, len)| (key.as_slice(), value(len)))
        .collect();
    let (fs, places) = written(&values);
    let reader = reader(&fs).unwrap();
    for ((key, value), at) in values.iter().zip(&places) {
        let user = user(key);
        assert_eq!(reader.read(user, at).unwrap(), value);
        reader.verify(user, at).unwrap();
        let len = value.len() as u64;
        let cuts = [0, 1, 32_767, 32_768, 32_769, 65_536, len / 2, len, len + 5];
        for from in cuts {
            for to in cuts.into_iter().chain([u64::MAX]) {
                let start = from.min(len) as usize;
                let expected = value.get(start..to.min(len) as usize).unwrap_or_default();
                assert_eq!(reader.read_part(user, at, from..to).unwrap(), expected);
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (fs, places) = written(&[(b"key", value(300))]);
    let (file, at) = (reader(&fs).unwrap().file, places[0]);
    for offset in 0..file.len().unwrap() {
        for bit in 0..8 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << bit)], offset).unwrap();
            match reader(&fs) {
                Ok(reader) => {
                    let whole = reader.read(user(b"key"), &at).unwrap_err();
                    assert_eq!(whole.kind(), ErrorKind::Corruption, "{offset} {bit}");
                    assert!(whole.file().is_some());
                    assert!(reader.read_part(user(b"key"), &at, 0..10).is_err());
                    assert!(reader.verify(user(b"key"), &at).is_err());
                }
                Err(error) => {
                    assert!(offset < BLOB_HEADER_LEN, "{error}");
                    // A flipped version was once taken for a newer format.
                    assert_eq!(error.kind(), ErrorKind::Corruption, "{offset} {bit}");
                }
            }
            file.write_all_at(&byte, offset).unwrap();
        }
    }
}

#[test]
fn a_newer_format_is_named() {
    let (fs, _) = written(&[]);
    let file = reader(&fs).unwrap().file;
    let mut header = blob_header(ID).to_vec();
    header[MAGIC.len()..][..4].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let front = header.len() - 8;
    let sum = checksum(&header[..front], ID, 0);
    header[front..][..4].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
    assert_eq!(reader(&fs).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn references_to_elsewhere_are_damage_and_nothing_is_allocated_for_them() {
    let (fs, places) = written(&[(b"a", value(50)), (b"b", value(50))]);
    let reader = reader(&fs).unwrap();
    let (a, b) = (places[0], places[1]);
    let wrong = [
        (&b"b"[..], a),
        (
            b"a",
            BlobRef {
                offset: b.offset,
                ..a
            },
        ),
        (b"a", BlobRef { len: u32::MAX, ..a }),
        (
            b"a",
            BlobRef {
                offset: u64::MAX,
                ..a
            },
        ),
        (
            b"a",
            BlobRef {
                crc: a.crc ^ 1,
                ..a
            },
        ),
        (b"aa", a),
    ];
    for (key, at) in wrong {
        let error = reader.read(user(key), &at).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{at:?}");
        assert!(reader.read_part(user(key), &at, 0..1).is_err());
    }
    assert!(BlobRef::decode(&[0; BLOB_REF_LEN - 1]).is_err());
}
