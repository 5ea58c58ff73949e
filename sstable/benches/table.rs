//! The kernels of a table: adding an entry, finding a key, missing one, seeking, stepping.
//!
//! One table of 240,000 entries with keys of 16 and values of 100 bytes, raw and LZ4, read through
//! a map.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use terrace_base::hash::key_hash;
use terrace_base::iterator::InternalIterator;
use terrace_base::key::{KeyRef, KeyspaceId, SeqNo, UserKey, ValueKind};
use terrace_base::vfs::{Fs, OpenMode, OsVfs};
use terrace_sstable::{
    BlockCache, Compression, FileSink, IoMode, Sink, Table, TableWriter, WriterOptions,
};

const ENTRIES: u64 = 240_000;

fn mix(n: u64) -> u64 {
    let n = (n ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    n ^ (n >> 31)
}

fn key(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&(n << 20).to_be_bytes());
    key[8..].copy_from_slice(&mix(n).to_be_bytes());
    key
}

fn user(key: &[u8]) -> UserKey<'_> {
    UserKey::new(KeyspaceId(0), key)
}

/// Half of it repeats.
fn value(n: u64) -> [u8; 100] {
    let mut value = [0; 100];
    for (i, chunk) in value[..48].chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(n + i as u64).to_le_bytes());
    }
    value.copy_within(..50, 50);
    value
}

fn fill<S: Sink>(writer: &mut TableWriter<S>, entries: u64) {
    for n in 0..entries {
        let (key, seq) = (key(n), SeqNo::new(mix(n) >> 43));
        let key = KeyRef::new(user(&key), seq, ValueKind::Put);
        writer.add(key, &value(n)).unwrap();
    }
}

fn options(compression: Compression) -> WriterOptions {
    WriterOptions {
        compression,
        ..WriterOptions::new(1, 7)
    }
}

fn open(dir: &Path, compression: Compression) -> Arc<Table> {
    let fs = Fs::new(Arc::new(OsVfs));
    let path = dir.join(format!("{compression:?}.sst"));
    let file = fs.open(&path, OpenMode::CreateNew).unwrap();
    let mut writer = TableWriter::new(FileSink::new(file), options(compression));
    fill(&mut writer, ENTRIES);
    let (info, sink) = writer.finish().unwrap();
    let cache = BlockCache::new(100 << 20);
    let file = sink.file().clone();
    Arc::new(Table::open(file, info.id, info.size, IoMode::Mmap, &cache).unwrap())
}

fn table(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    for compression in [Compression::None, Compression::Lz4] {
        let table = open(dir.path(), compression);
        let mut group = c.benchmark_group(format!("{compression:?}"));
        group.throughput(Throughput::Elements(1));
        let mut n = 0;
        let mut next = || {
            n = mix(n + 1);
            n % ENTRIES
        };
        group.bench_function("get hit", |b| {
            b.iter(|| {
                let key = key(next());
                let hash = key_hash(user(&key));
                let found = table.get(&user(&key), hash, SeqNo::MAX).unwrap();
                black_box(found.unwrap().value.into_bytes())
            });
        });
        group.bench_function("get miss", |b| {
            b.iter(|| {
                let mut key = key(next());
                key[15] ^= 1;
                let hash = key_hash(user(&key));
                black_box(table.get(&user(&key), hash, SeqNo::MAX).unwrap().is_some())
            });
        });
        group.bench_function("seek", |b| {
            let mut iter = table.iter();
            b.iter(|| {
                let key = key(next());
                iter.seek(KeyRef::lookup(user(&key), SeqNo::MAX)).unwrap();
                black_box(iter.value().len())
            });
        });
        group.bench_function("next", |b| {
            let mut iter = table.iter();
            b.iter(|| {
                iter.next().unwrap();
                if !iter.valid() {
                    iter.first().unwrap();
                }
                black_box((iter.key().user.bytes.len(), iter.value().len()))
            });
        });
        group.throughput(Throughput::Elements(10_000));
        group.bench_function("write 10,000", |b| {
            b.iter_batched(
                || Vec::with_capacity(2 << 20),
                |sink| {
                    let mut writer = TableWriter::new(sink, options(compression));
                    fill(&mut writer, 10_000);
                    writer.finish().unwrap()
                },
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, table);
criterion_main!(benches);
