//! Figures, not checks: `cargo test --release -p terrace-sstable -- --ignored --nocapture speed`.

use std::hint::black_box;
use std::time::Duration;

use terrace_base::clock::{Clock, SystemClock};
use terrace_base::hash::key_hash;
use terrace_base::iterator::InternalIterator;
use terrace_base::key::{KeyRef, KeyspaceId, UserKey, ValueKind};

use super::*;
use crate::testing::{Random, fs};
use crate::{Compression, FileSink, TableWriter, WriterOptions};

const KEYS: u64 = 2_000_000;
const TABLES: u64 = 9;

fn key_of(i: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&(i << 40).to_be_bytes());
    key[8..].copy_from_slice(&Random(i).next().to_be_bytes());
    key
}

fn per(spent: Duration, n: u64) -> f64 {
    spent.as_nanos() as f64 / n as f64
}

struct Discard;

impl crate::Sink for Discard {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        black_box(bytes);
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

struct Bench {
    tables: Vec<Arc<Table>>,
    firsts: Vec<Vec<u8>>,
    clock: SystemClock,
}

impl Bench {
    fn table(&self, key: &[u8]) -> &Arc<Table> {
        let i = self.firsts.partition_point(|first| &first[..] <= key);
        &self.tables[i - 1]
    }

    fn time(&self, what: &str, n: u64, mut run: impl FnMut()) {
        // The least of three: others use the machine too. What can happen once says so.
        let rounds = if what.contains("first") { 1 } else { 3 };
        let spent = (0..rounds)
            .map(|_| {
                let start = self.clock.monotonic();
                run();
                self.clock.monotonic() - start
            })
            .min()
            .unwrap();
        println!("  {what:28} {:8.1} ns", per(spent, n));
    }
}

fn build(compression: Compression, io: IoMode, dir: &std::path::Path) -> Bench {
    let clock = SystemClock::default();
    let mut keys: Vec<[u8; 16]> = (0..KEYS).map(|i| key_of(Random(i).next() >> 40)).collect();
    keys.sort();
    keys.dedup();
    let mut random = Random(1);
    let noise: Vec<u8> = (0..1 << 20).map(|_| random.next() as u8).collect();
    let cache = BlockCache::new(600 << 20);
    let (mut tables, mut firsts, mut spent) = (Vec::new(), Vec::new(), Duration::ZERO);
    let discard = {
        let options = WriterOptions {
            compression,
            ..WriterOptions::new(0, 7)
        };
        let mut writer = TableWriter::new(Discard, options);
        let start = clock.monotonic();
        for (i, key) in keys.iter().take(200_000).enumerate() {
            let at = (i * 37) % (noise.len() - 100);
            let user = UserKey::new(KeyspaceId(0), key);
            let key = KeyRef::new(user, SeqNo::new(i as u64), ValueKind::Put);
            writer.add(key, &noise[at..at + 100]).unwrap();
        }
        writer.finish().unwrap();
        clock.monotonic() - start
    };
    let (mut size, mut memory) = (0, 0);
    let mut value = [0; 100];
    for (n, part) in keys
        .chunks(keys.len().div_ceil(TABLES as usize))
        .enumerate()
    {
        let path = dir.join(format!("{n}.sst"));
        let file = fs()
            .open(&path, terrace_base::vfs::OpenMode::CreateNew)
            .unwrap();
        let options = WriterOptions {
            compression,
            ..WriterOptions::new(n as u64, 7)
        };
        let start = clock.monotonic();
        let mut writer = TableWriter::new(FileSink::new(file), options);
        for (i, key) in part.iter().enumerate() {
            let at = (i * 37) % (noise.len() - 100);
            value[..50].copy_from_slice(&noise[at..at + 50]);
            value[50..].copy_from_slice(&noise[at..at + 50]);
            let user = UserKey::new(KeyspaceId(0), key);
            let seq = SeqNo::new(random.below(KEYS));
            writer
                .add(KeyRef::new(user, seq, ValueKind::Put), &value)
                .unwrap();
        }
        let (info, sink) = writer.finish().unwrap();
        spent += clock.monotonic() - start;
        size += info.size;
        let table = Table::open(sink.file().clone(), info.id, info.size, io, &cache).unwrap();
        memory += table.memory();
        firsts.push(part[0].to_vec());
        tables.push(Arc::new(table));
    }
    println!(
        "{compression:?} {io:?}: {} keys, {} tables, {:.1} bytes an entry, {:.2} anonymous",
        keys.len(),
        tables.len(),
        size as f64 / keys.len() as f64,
        memory as f64 / keys.len() as f64
    );
    println!("  {:28} {:8.1} ns", "write, no file", per(discard, 200_000));
    println!("  {:28} {:8.1} ns", "write", per(spent, keys.len() as u64));
    Bench {
        tables,
        firsts,
        clock,
    }
}

fn unpacking() {
    use crate::block::{BlockBuilder, Packer, RAW, unpack};
    let mut builder = BlockBuilder::default();
    let (mut random, mut value) = (Random(3), [0u8; 100]);
    for i in 0.. {
        let key = key_of(i);
        if !builder.fits(16, 100, 8192) {
            break;
        }
        value[..50].fill_with(|| random.next() as u8);
        value.copy_within(..50, 50);
        let user = UserKey::new(KeyspaceId(0), &key);
        let seq = SeqNo::new(random.below(KEYS));
        builder.push(KeyRef::new(user, seq, ValueKind::Put), &value, 0, true);
    }
    let mut raw = Vec::new();
    let cut = builder.cut(builder.len(), false, &mut raw).unwrap();
    assert_eq!(cut.header.kind, RAW);
    let mut packer = Packer::new(Compression::Lz4).unwrap();
    let clock = SystemClock::default();
    let (mut pack, mut plain, mut check) = (Duration::MAX, Duration::MAX, Duration::MAX);
    let mut scratch = Vec::new();
    for _ in 0..2000 {
        let start = clock.monotonic();
        let (stored, header) = packer.pack(&raw, &cut.header).unwrap();
        pack = pack.min(clock.monotonic() - start);
        let start = clock.monotonic();
        black_box(unpack(stored, &header, &mut scratch).unwrap());
        plain = plain.min(clock.monotonic() - start);
        let start = clock.monotonic();
        RawBlock::new(&raw).unwrap().validate().unwrap();
        check = check.min(clock.monotonic() - start);
    }
    let n = builder.len() as u64;
    println!("  {:28} {:8.1} ns", "pack, LZ4", per(pack, n));
    println!("  {:28} {:8.1} ns", "unpack, LZ4", per(plain, n));
    println!("  {:28} {:8.1} ns", "validate", per(check, n));
}

fn run(compression: Compression, io: IoMode) {
    let dir = tempfile::tempdir().unwrap();
    let bench = build(compression, io, dir.path());
    let open = |i: usize| {
        let table = &bench.tables[i];
        let (file, info) = (table.file().unwrap().clone(), table.info().clone());
        Table::open(file, info.id, info.size, io, &BlockCache::new(0)).unwrap()
    };
    bench.time("open a table", TABLES, || {
        (0..TABLES as usize).for_each(|i| drop(open(i)))
    });
    let scan = |scan: bool| {
        let mut n = 0u64;
        for table in &bench.tables {
            let mut iter = if scan { table.scan() } else { table.iter() };
            iter.first().unwrap();
            while iter.valid() {
                black_box((iter.key().user.bytes.len(), iter.value().len()));
                n += 1;
                iter.next().unwrap();
            }
        }
        n
    };
    let n: u64 = bench.tables.iter().map(|table| table.info().entries).sum();
    bench.time("next, first use of blocks", n, || {
        scan(false);
    });
    bench.time("next, key, value", n, || {
        scan(false);
    });
    bench.time("scan by pread", n, || {
        scan(true);
    });
    bench.time("prev, key, value", n, || {
        for table in &bench.tables {
            let mut iter = table.iter();
            iter.last().unwrap();
            while iter.valid() {
                black_box((iter.key().user.bytes.len(), iter.value().len()));
                iter.prev().unwrap();
            }
        }
    });
    let mut random = Random(99);
    let probes: Vec<[u8; 16]> = (0..1_000_000)
        .map(|_| key_of(Random(random.below(KEYS)).next() >> 40))
        .collect();
    let n = probes.len() as u64;
    for round in 0..2 {
        bench.time(["get hit, first", "get hit"][round], n, || {
            for key in &probes {
                let user = UserKey::new(KeyspaceId(0), key);
                let found = bench
                    .table(key)
                    .get(&user, key_hash(user), SeqNo::MAX)
                    .unwrap();
                black_box(found.unwrap().value[0]);
            }
        });
    }
    bench.time("get hit, to Bytes", n, || {
        for key in &probes {
            let user = UserKey::new(KeyspaceId(0), key);
            let found = bench
                .table(key)
                .get(&user, key_hash(user), SeqNo::MAX)
                .unwrap();
            black_box(found.unwrap().value.into_bytes());
        }
    });
    bench.time("get through fences", n, || {
        for key in &probes {
            let user = UserKey::new(KeyspaceId(0), key);
            let found = bench.table(key).get_by_fences(user, SeqNo::MAX).unwrap();
            black_box(found.unwrap().value[0]);
        }
    });
    bench.time("get miss", n, || {
        for key in &probes {
            let mut other = *key;
            other[15] ^= 1;
            let user = UserKey::new(KeyspaceId(0), &other);
            let found = bench
                .table(&other)
                .get(&user, key_hash(user), SeqNo::MAX)
                .unwrap();
            assert!(black_box(found).is_none());
        }
    });
    let mut iters: Vec<_> = bench.tables.iter().map(|table| table.iter()).collect();
    bench.time("seek", n, || {
        for key in &probes {
            let user = UserKey::new(KeyspaceId(0), key);
            let i = bench.firsts.partition_point(|first| first[..] <= key[..]) - 1;
            iters[i].seek(KeyRef::lookup(user, SeqNo::MAX)).unwrap();
            black_box(iters[i].value().len());
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    unpacking();
    run(Compression::None, IoMode::Mmap);
    run(Compression::Lz4, IoMode::Mmap);
    run(Compression::None, IoMode::Pread);
}
