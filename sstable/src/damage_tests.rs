//! Damaged tables: an error or the right answer, and never a panic.
#![allow(clippy::let_underscore_must_use)] // Any answer is good where only panics count.

use terrace_base::ErrorKind;
use terrace_base::checksum::checksum;
use terrace_base::coding::Decoder;
use terrace_base::hash::key_hash;
use terrace_base::iterator::InternalIterator;
use terrace_base::key::{KeyRef, ValueKind};
use terrace_base::vfs::{Fault, FaultVfs, Fs, MemVfs, OpenMode};

use super::*;
use crate::format::{POINT_INDEX, Section, decode_footer, encode_footer, seal_section};
use crate::testing::*;
use crate::{Compression, FileSink, TableWriter, WriterOptions};

fn small_model() -> Model {
    let mut model: Model = (0..14u64)
        .map(|i| put(format!("key{i:02}").as_bytes(), 100 + i, &[b'v'; 25]))
        .collect();
    model.push(put(b"long", 9, &[b'z'; 700]));
    model.push(put(b"many", 7, b"7"));
    model.push((key(0, b"many", 6, ValueKind::Tombstone), vec![]));
    model.push(put(b"many", 5, b"5"));
    model.push((key(3, b"other", 6, ValueKind::Tombstone), vec![]));
    model
}

fn images() -> Vec<Vec<u8>> {
    let image = |compression| build(&small_model(), &options(compression, 512)).1;
    compressions().into_iter().map(image).collect()
}

/// An error that damage may lead to.
fn told(error: Error) -> Error {
    let kinds = [ErrorKind::Corruption, ErrorKind::Unsupported, ErrorKind::Io];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    error
}

fn ask(image: &[u8], model: &Model) -> Result<()> {
    ask_table(&open_image(image).map_err(told)?, model)
}

/// Asks everything of a table; answers must be right or errors.
fn ask_table(table: &Arc<Table>, model: &Model) -> Result<()> {
    let mut failed = None;
    for (key, value) in model {
        let user = key.user.as_ref();
        match table.get(&user, key_hash(user), key.seq) {
            Ok(Some(found)) => assert_eq!((&found.value[..], found.kind), (&value[..], key.kind)),
            Ok(None) => panic!("{key:?} is gone"),
            Err(error) => failed = Some(told(error)),
        }
    }
    for mut iter in [table.iter(), table.scan()] {
        let walk = |iter: &mut TableIter, model: &mut dyn Iterator<Item = &(_, Vec<u8>)>, back| {
            if back {
                iter.last()?
            } else {
                iter.first()?
            }
            for (key, value) in model {
                let key: &terrace_base::OwnedKey = key;
                assert_eq!((iter.key(), iter.value()), (key.as_ref(), &value[..]));
                if back { iter.prev()? } else { iter.next()? }
            }
            assert!(!iter.valid());
            Ok(())
        };
        if let Err(error) = walk(&mut iter, &mut model.iter(), false) {
            failed = Some(told(error));
        }
        if let Err(error) = walk(&mut iter, &mut model.iter().rev(), true) {
            failed = Some(told(error));
        }
    }
    table.verify().map_err(told)?;
    failed.map_or(Ok(()), Err)
}

#[test]
fn every_flipped_bit_is_noticed() {
    for mut image in images() {
        ask(&image, &small_model()).unwrap();
        for i in 0..image.len() {
            for bit in 0..8 {
                image[i] ^= 1 << bit;
                assert!(
                    ask(&image, &small_model()).is_err(),
                    "bit {bit} of byte {i}"
                );
                image[i] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn every_call_may_fail_and_no_answer_is_wrong() {
    let path = Path::new("/t.sst");
    for (image, io) in images()
        .iter()
        .flat_map(|i| [(i, IoMode::Mmap), (i, IoMode::Pread)])
    {
        for fault in [Fault::Errno(5), Fault::ShortRead] {
            let mut failures = 0;
            for n in 0.. {
                let memory = MemVfs::new(1);
                memory.write_file(path, image);
                let faulty = FaultVfs::new(memory);
                let fs = Fs::new(faulty.clone());
                faulty.arm(n, fault, false);
                let run = || {
                    let file = fs.open(path, OpenMode::Read)?;
                    let cache = BlockCache::new(1 << 20);
                    let table = Table::open(file, ID, image.len() as u64, io, &cache)?;
                    ask_table(&Arc::new(table), &small_model())
                };
                let result = run();
                if faulty.injected() == 0 {
                    result.unwrap();
                    break;
                }
                failures += u64::from(result.is_err());
                if fault == Fault::ShortRead {
                    result.unwrap();
                }
            }
            assert!(
                (fault == Fault::ShortRead) == (failures == 0),
                "{io:?} {failures}"
            );
        }
    }
}

#[test]
fn a_failed_write_fails_the_table() {
    for n in 0.. {
        let faulty = FaultVfs::new(MemVfs::new(1));
        let fs = Fs::new(faulty.clone());
        faulty.arm(n, Fault::TornWrite, false);
        let run = || {
            let file = fs.open(Path::new("/t.sst"), OpenMode::CreateNew)?;
            let options = WriterOptions::new(ID, SEED);
            let mut writer = TableWriter::new(FileSink::new(file), options);
            for (key, value) in &small_model() {
                writer.add(key.as_ref(), value)?;
            }
            writer.finish().map(|(info, _)| info)
        };
        let result = run();
        if faulty.injected() == 0 {
            assert!(n > 0 && result.is_ok());
            break;
        }
        result.unwrap_err();
    }
}

#[test]
fn every_truncation_is_noticed() {
    for image in images() {
        for len in 0..image.len() {
            let error = open_image(&image[..len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{len} bytes: {error}");
        }
    }
}

/// Where the blocks and sections of an image are.
struct Layout {
    blocks: Vec<Range<usize>>,
    sections: Vec<Section>,
    footer_at: usize,
}

fn layout(image: &[u8]) -> Layout {
    let footer = decode_footer(image, ID, image.len() as u64).unwrap();
    let table = open_image(image).unwrap();
    let last = footer.sections.last().unwrap();
    Layout {
        blocks: (0..table.fences().len())
            .map(|i| table.fences().range(i).unwrap())
            .collect(),
        footer_at: (last.offset + last.len) as usize,
        sections: footer.sections,
    }
}

/// Makes all checksums fit the bytes.
fn repair(image: &mut [u8], layout: &Layout) {
    for range in &layout.blocks {
        block::seal(&mut image[range.clone()], ID, range.start as u64);
    }
    for (i, section) in layout.sections.iter().enumerate() {
        let range = section.offset as usize..(section.offset + section.len) as usize;
        let crc = checksum(&image[range], ID, section.offset);
        let at = layout.footer_at + 28 * i + 24;
        image[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
    let end = image.len() - 12;
    let crc = checksum(&image[layout.footer_at..end], ID, layout.footer_at as u64);
    image[end..end + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Asks everything of a table; any answer is good.
fn poke(image: &[u8], model: &Model) {
    let Ok(table) = open_image(image) else { return };
    let _ = table.verify();
    let steps = 4 * model.len();
    for mut iter in [table.iter(), table.scan()] {
        for (key, _) in model {
            for seq in [0, key.seq.get(), u64::MAX] {
                let (user, at) = (key.user.as_ref(), SeqNo::new(seq));
                if let Ok(Some(found)) = table.get(&user, key_hash(user), at) {
                    let _ = found.value.into_bytes();
                }
                let _ = table.may_contain(user, key_hash(user));
                let _ = iter.seek(KeyRef::lookup(user, at));
                let _ = (iter.key(), iter.value_bytes(), iter.key_bytes());
                let _ = iter.seek_for_prev(KeyRef::lookup(user, at));
            }
        }
        let _ = iter.first();
        for _ in 0..steps {
            let _ = iter.next();
        }
        let _ = iter.last();
        for _ in 0..steps {
            let _ = iter.prev();
        }
    }
}

#[test]
fn no_content_under_right_checksums_causes_a_panic() {
    let mut random = Random(17);
    for image in images() {
        let (layout, model) = (layout(&image), small_model());
        for i in 0..image.len() {
            for change in [1u8, 0x80, 0xff, random.next() as u8] {
                let mut damaged = image.clone();
                damaged[i] ^= change;
                repair(&mut damaged, &layout);
                poke(&damaged, &model);
                for _ in 0..2 {
                    let other = random.below(image.len() as u64) as usize;
                    damaged[other] = random.next() as u8;
                }
                repair(&mut damaged, &layout);
                poke(&damaged, &model);
            }
        }
    }
}

#[test]
fn a_block_in_another_place_or_file_is_noticed() {
    let model: Model = (0..40u64)
        .map(|i| put(format!("key{i:02}").as_bytes(), 100, &[b'v'; 26]))
        .collect();
    let (_, image) = build(&model, &options(Compression::None, 512));
    let blocks = layout(&image).blocks;
    assert_eq!(blocks[0].len(), blocks[1].len());
    let mut swapped = image.clone();
    swapped.copy_within(blocks[0].clone(), blocks[1].start);
    assert!(ask(&swapped, &model).is_err());
    let mut foreign = options(Compression::None, 512);
    foreign.id += 1;
    let (_, other) = build(&model, &foreign);
    let mut mixed = image;
    mixed[blocks[1].clone()].copy_from_slice(&other[blocks[1].clone()]);
    assert!(ask(&mixed, &model).is_err());
}

#[test]
fn entries_out_of_order_are_noticed_under_right_checksums() {
    let model = ["kaaaa", "kbbbb", "kcccc"].map(|key| put(key.as_bytes(), 1, b"v"));
    let (_, image) = build(&model.to_vec(), &options(Compression::None, 8192));
    let mut bytes = image[layout(&image).blocks[0].clone()].to_vec();
    let raw = RawBlock::new(&bytes).unwrap();
    raw.validate().unwrap();
    let (second, third) = (raw.position(1), raw.position(2));
    for i in 0..third - second {
        bytes.swap(second + i, third + i);
    }
    for i in 36..40 {
        bytes.swap(i, i + 4); // The heads.
    }
    let error = RawBlock::new(&bytes).unwrap().validate().unwrap_err();
    assert!(error.to_string().contains("out of order"), "{error}");
}

/// The right place comes second: a look-up would answer with the older version, and not look
/// further.
#[test]
fn an_index_that_leads_to_an_older_version_first_is_noticed() {
    let model = vec![put(b"k", 2, b"new"), put(b"k", 1, b"old")];
    let (_, mut image) = build(&model, &options(Compression::None, 8192));
    let layout = layout(&image);
    let raw = RawBlock::new(&image[layout.blocks[0].clone()]).unwrap();
    let (newest, older) = (raw.position(0) as u32 / 8, raw.position(1) as u32 / 8);
    let index = layout.sections.iter().find(|s| s.tag == POINT_INDEX);
    let slot = index.unwrap().offset as usize + 64;
    let right = u32::from_le_bytes(image[slot..slot + 4].try_into().unwrap());
    assert_eq!(right & 0x3ff, newest);
    let wrong = right & !0x3ff | older;
    image[slot..slot + 4].copy_from_slice(&wrong.to_le_bytes());
    image[slot + 4..slot + 8].copy_from_slice(&right.to_le_bytes());
    repair(&mut image, &layout);
    let error = open_image(&image).unwrap().verify().unwrap_err();
    assert!(error.to_string().contains("point index"), "{error}");
}

#[test]
fn sections_of_later_versions_are_skipped_or_refused() {
    let image = images().remove(0);
    let layout = layout(&image);
    let with = |tag, required| {
        let mut image = image[..layout.footer_at].to_vec();
        let mut payload = b"something new".to_vec();
        let at = image.len() as u64;
        let mut sections = layout.sections.clone();
        sections.push(seal_section(tag, required, ID, at, &mut payload));
        image.extend(payload);
        let footer = encode_footer(&sections, ID, image.len() as u64);
        image.extend(footer);
        ask(&image, &small_model())
    };
    with(99, false).unwrap();
    assert_eq!(with(99, true).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(with(5, true).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(with(1, true).unwrap_err().kind(), ErrorKind::Corruption);
}

/// A block is raw or packed as its table says, and not otherwise.
#[test]
fn a_block_packed_otherwise_than_its_table_is_noticed() {
    let (_, mut image) = build(&packable(), &options(Compression::Lz4, 8192));
    let layout = layout(&image);
    let properties = layout.sections.last().unwrap().offset as usize;
    let tag = image[properties..].windows(3).position(|w| w == [7, 1, 1]);
    image[properties + tag.unwrap() + 2] = Compression::None as u8;
    repair(&mut image, &layout);
    let error = open_image(&image).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
}

/// Hex of `bytes`, 32 to a line, runs of lines of zeroes left out.
fn dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (i, line) in bytes.chunks(32).enumerate() {
        if line.iter().all(|b| *b == 0) {
            continue;
        }
        let hex: String = line.iter().map(|b| format!("{b:02x}")).collect();
        out.push_str(&format!("{:03x} {hex}\n", i * 32));
    }
    out
}

/// What [`dump`] printed.
fn undump(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.lines() {
        let (at, hex) = line.split_once(' ').unwrap();
        out.resize(usize::from_str_radix(at, 16).unwrap(), 0);
        let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        out.extend((0..hex.len()).step_by(2).map(byte));
    }
    out
}

fn packable() -> Model {
    let entries = ["aa", "ab", "ac"].iter().zip([5, 6, 9]);
    entries
        .map(|(key, seq)| put(key.as_bytes(), seq, &[b'x'; 40]))
        .collect()
}

const TINY_ZSTD: &str = include_str!("../testdata/tiny_zstd.hex");

/// Another version of the library may pack otherwise; what this one made has to be read for ever.
#[cfg(feature = "zstd")]
#[test]
fn a_tiny_table_packed_with_zstd_is_written_and_read() {
    let (_, image) = build(&packable(), &options(Compression::Zstd, 8192));
    assert_eq!(image[12], block::ZSTD);
    assert_eq!(dump(&image), TINY_ZSTD);
    ask(&undump(TINY_ZSTD), &packable()).unwrap();
}

#[cfg(not(feature = "zstd"))]
#[test]
fn without_the_feature_whatever_is_packed_with_zstd_is_unsupported() {
    let refused = |result: Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(
            error.to_string().contains("enable the feature `zstd`"),
            "{error}"
        );
    };
    let image = undump(TINY_ZSTD);
    refused(open_image(&image).map(|_| ()));
    refused(block::Header::decode(&image).map(|_| ()));
    refused(Compression::from_byte(2).map(|_| ()));
    let mut writer = TableWriter::new(Vec::new(), options(Compression::Zstd, 8192));
    writer.add(packable()[0].0.as_ref(), b"v").unwrap();
    refused(writer.finish().map(|_| ()));
}

#[test]
fn the_bytes_of_a_tiny_table_never_change() {
    let model = vec![
        put(b"ab", 7, b"x"),
        (key(0, b"ac", 6, ValueKind::Tombstone), vec![]),
    ];
    let (_, image) = build(&model, &options(Compression::None, 8192));
    assert_eq!(dump(&image), include_str!("../testdata/tiny_raw.hex"));
    let (_, image) = build(&packable(), &options(Compression::Lz4, 8192));
    assert_eq!(dump(&image), include_str!("../testdata/tiny_lz4.hex"));
    let mut decoder = Decoder::new(&image[12..]);
    assert_eq!(decoder.u8().unwrap(), block::LZ4);
}
