//! Ten million random puts, and their cost: speed, memory, disk.
//!
//! `cargo run --release --example scale -- [KEYS]`
//!
//! Writes KEYS (10,000,000) entries of 16 + 100 bytes in random order under `Buffered`, waits until
//! the database has settled, reads a tenth of them back at random, and fails if one is not found or
//! differs, if anonymous memory ever exceeded `Options::memory` by more than 20 %, or if the
//! directory is larger than 1.15 times what LZ4 makes of the same sorted entries in blocks of 8 KiB
//! plus 6 bytes a key.
#![allow(clippy::disallowed_methods)] // An example may ask the clock and the file system itself.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use terrace::{Durability, Options};

const VALUE_LEN: usize = 100;
const MEMORY: u64 = 1 << 30;

/// The i-th key: a bijection of the numbers, so that no key comes twice.
fn key(i: u64) -> [u8; 16] {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    let mut key = [0; 16];
    let (front, back) = key.split_at_mut(8);
    front.copy_from_slice(&mix(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes());
    back.copy_from_slice(&mix(i).to_be_bytes());
    key
}

/// A value of which LZ4 can save about half: 50 random bytes, twice.
fn value(i: u64) -> [u8; VALUE_LEN] {
    let mut value = [0; VALUE_LEN];
    let mut state = i.wrapping_mul(0xD6E8_FEB8_6659_FD93) | 1;
    let (front, back) = value.split_at_mut(VALUE_LEN / 2);
    for byte in front.iter_mut() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 32) as u8;
    }
    back.copy_from_slice(front);
    value
}

/// Anonymous memory of this process in bytes.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// What LZ4 makes of the sorted entries in blocks of 8 KiB.
fn reference_size(n: u64) -> u64 {
    let mut order: Vec<u64> = (0..n).collect();
    order.sort_unstable_by_key(|&i| key(i));
    let (mut total, mut block) = (0, Vec::new());
    for i in order {
        block.extend_from_slice(&key(i));
        block.extend_from_slice(&value(i));
        if block.len() >= 8192 {
            total += lz4_flex::block::compress(&block).len() as u64;
            block.clear();
        }
    }
    total + lz4_flex::block::compress(&block).len() as u64
}

fn directory_size(dir: &Path, extension: &str) -> std::io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|e| e == extension) {
            total += entry.metadata()?.len();
        }
    }
    Ok(total)
}

fn main() -> Result<(), Box<dyn Error>> {
    let n: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(10_000_000), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let (peak, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let before = anonymous();
    let watcher = std::thread::spawn({
        let (peak, stop) = (peak.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });

    let options = Options::new()
        .durability(Durability::Buffered)
        .memory(MEMORY);
    let db = options.open(dir.path())?;
    let start = Instant::now();
    for i in 0..n {
        db.put(key(i), value(i))?;
    }
    let wrote = start.elapsed();
    println!(
        "{n} random puts       {:>10.0} puts/s",
        n as f64 / wrote.as_secs_f64()
    );
    let start = Instant::now();
    db.wait_idle()?;
    println!(
        "settled in            {:>10.2} s",
        start.elapsed().as_secs_f64()
    );

    let reads = (n / 10).max(1);
    let start = Instant::now();
    for r in 0..reads {
        let i = r.wrapping_mul(0x9E37_79B9_7F4A_7C15) % n;
        let same = db.get_with(key(i), |found| found == value(i))?;
        if same != Some(true) {
            return Err(format!("key {i} is missing or has another value").into());
        }
    }
    let read = start.elapsed();
    println!(
        "{reads} random gets, all found {:>6.0} gets/s",
        reads as f64 / read.as_secs_f64()
    );

    let peak = peak.load(Ordering::Relaxed).saturating_sub(before);
    stop.store(true, Ordering::Relaxed);
    watcher.join().map_err(|_| "the watcher panicked")?;
    let stats = db.stats();
    let disk = directory_size(dir.path(), "sst")?;
    let log = directory_size(dir.path(), "wal")?;
    let allowed_memory = MEMORY + MEMORY / 5;
    let allowed_disk = (reference_size(n) as f64 * 1.15) as u64 + 6 * n;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "peak anonymous memory {:>10.1} MiB of {:.1} allowed",
        mib(peak),
        mib(allowed_memory)
    );
    println!(
        "tables on disk        {:>10.1} MiB of {:.1} allowed",
        mib(disk),
        mib(allowed_disk)
    );
    println!("log segments          {:>10.1} MiB", mib(log));
    println!(
        "write amplification   {:>10.2}",
        stats.write_amplification()
    );
    for (n, level) in stats
        .levels
        .iter()
        .enumerate()
        .filter(|(_, level)| level.tables > 0)
    {
        println!(
            "level {n}: {} runs, {} tables, {:.1} MiB",
            level.runs,
            level.tables,
            mib(level.bytes)
        );
    }
    if peak > allowed_memory || disk > allowed_disk {
        return Err("memory or disk exceeds what is allowed".into());
    }
    Ok(())
}
