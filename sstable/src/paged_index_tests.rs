#![allow(clippy::indexing_slicing)] // A test may panic.

use std::sync::Arc;

use terrace_base::hash::key_hash;
use terrace_base::key::KeyspaceId;
use terrace_base::vfs::{Fs, MemVfs, OpenMode};
use terrace_base::{ErrorKind, FileKind, FileNumber};

use super::*;
use crate::format::{MAX_FOOTER_LEN, POINT_INDEX, decode_footer};
use crate::testing::*;
use crate::{BlockCache, Compression, IoMode};

fn table(vfs: &Arc<MemVfs>, image: &[u8]) -> Table {
    let path = FileKind::Table(FileNumber(1)).path(std::path::Path::new("/"));
    vfs.write_file(&path, image);
    let file = Fs::new(vfs.clone()).open(&path, OpenMode::Read).unwrap();
    let cache = BlockCache::new(1 << 20);
    Table::open_lean(file, ID, image.len() as u64, IoMode::Pread, &cache).unwrap()
}

fn user(text: &str) -> UserKey<'_> {
    UserKey::new(KeyspaceId(0), text.as_bytes())
}

#[test]
fn a_lean_table_finds_what_is_there_and_takes_little_memory() {
    let name = |i: u64| format!("key{i:06}");
    let model: Model = (0..20_000)
        .map(|i| put(name(i).as_bytes(), i + 1, &i.to_le_bytes()))
        .collect();
    let (info, image) = build(&model, &options(Compression::None, 8192));
    let table = table(&MemVfs::new(1), &image);
    for i in 0..20_000 {
        let text = name(i);
        let key = user(&text);
        let found = table.get(&key, key_hash(key), SeqNo::MAX).unwrap().unwrap();
        assert_eq!(found.value[..], i.to_le_bytes());
        assert!(table.may_contain(key, key_hash(key)));
    }
    let absent = (0..5000).filter(|i| {
        let text = format!("key{i:06}x");
        let key = user(&text);
        let found = table.get(&key, key_hash(key), SeqNo::MAX).unwrap();
        assert!(found.is_none());
        table.may_contain(key, key_hash(key))
    });
    let wrong = absent.count();
    assert!(wrong < 100, "{wrong} of 5,000");
    // A whole index takes 5 bytes a key.
    let (lean, whole) = (table.memory(), Table::memory_of(&info, IoMode::Pread));
    assert!(whole > 20_000 * 5 && lean < whole / 6, "{lean}, {whole}");
}

#[test]
fn a_damaged_page_is_told_and_others_are_read() {
    let model: Model = (0..20_000u64)
        .map(|i| put(format!("key{i:06}").as_bytes(), i + 1, b"v"))
        .collect();
    let (_, image) = build(&model, &options(Compression::None, 8192));
    let vfs = MemVfs::new(1);
    let table = table(&vfs, &image);
    let tail = image.len().saturating_sub(MAX_FOOTER_LEN);
    let footer = decode_footer(&image[tail..], ID, image.len() as u64).unwrap();
    let section = footer.section(POINT_INDEX).unwrap();
    let mut damaged = image.clone();
    damaged[section.offset as usize + 3 * PAGE + 100] ^= 1;
    vfs.write_file("/000001.sst", &damaged);
    let (mut told, mut found) = (0, 0);
    for (key, _) in &model {
        let key = key.user.as_ref();
        match table.get(&key, key_hash(key), SeqNo::MAX) {
            Ok(entry) => found += usize::from(entry.is_some()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corruption);
                told += 1;
                assert!(table.may_contain(key, key_hash(key)), "it may be there");
            }
        }
    }
    assert_eq!(told + found, model.len());
    assert!(told > 500 && told < 1100, "{told}");
}
