//! Bulk load: sorted or unsorted entries written directly to tables, as one atomic write.
//!
//! ```text
//! cargo run --release --example ingest -- [ENTRIES]
//! ```
//!
//! ENTRIES (300,000) of 16 + 100 bytes are loaded three ways: in batches, by `ingest` in key
//! order, and by `ingest_unsorted` in random order with 16 MiB of memory. The program prints
//! the time of each until all is durable and settled, and fails unless all three have the same
//! content.
#![allow(
    clippy::disallowed_methods,
    reason = "this program reads a real clock; the rule is for the engine"
)]

use std::path::Path;
use std::time::Instant;

use terrace::{Batch, Db, Durability, Options};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The n-th entry; the keys rise with n.
fn entry(n: u64) -> (String, Vec<u8>) {
    let mut value = n
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .to_le_bytes()
        .repeat(13);
    value.truncate(100);
    (format!("{n:016}"), value)
}

/// The numbers below `entries`, each once, out of order.
fn shuffled(entries: u64) -> impl Iterator<Item = u64> {
    let step = (entries / 2..)
        .find(|step| gcd(*step, entries) == 1)
        .unwrap_or(1);
    (0..entries)
        .map(move |n| (u128::from(n) * u128::from(step) % u128::from(entries.max(1))) as u64)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn open(dir: &Path) -> terrace::Result<Db> {
    Options::new().durability(Durability::Buffered).open(dir)
}

/// Opens a database, has it loaded, and waits until it has settled.
fn loaded(
    dir: &Path,
    how: &str,
    load: impl FnOnce(&Db) -> terrace::Result<()>,
) -> Result<Db, Failure> {
    let (db, start) = (open(dir)?, Instant::now());
    load(&db)?;
    let taken = start.elapsed();
    db.wait_idle()?;
    println!(
        "{how:<16} {taken:>8.2?}, settled after {:>8.2?}",
        start.elapsed()
    );
    Ok(db)
}

fn main() -> Result<(), Failure> {
    let entries: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(300_000), |entries| entries.parse())?;
    let home = tempfile::tempdir()?;
    let batches = loaded(&home.path().join("batches"), "batches of 100", |db| {
        let mut batch = Batch::new();
        for n in shuffled(entries) {
            let (key, value) = entry(n);
            batch.put(key, value);
            if batch.len() == 100 {
                db.write(std::mem::take(&mut batch))?;
            }
        }
        db.write(batch)?;
        db.sync()
    })?;
    let sorted = loaded(&home.path().join("sorted"), "ingest", |db| {
        db.ingest((0..entries).map(entry)).map(|_| ())
    })?;
    let unsorted = loaded(&home.path().join("unsorted"), "ingest_unsorted", |db| {
        let mut pieces = 0;
        let input = shuffled(entries).map(entry);
        db.ingest_unsorted(input, 16 << 20, |progress| pieces = progress.pieces)?;
        println!("{pieces} pieces were sorted and merged");
        Ok(())
    })?;
    let mut others = sorted.iter().zip(unsorted.iter());
    for (n, found) in batches.iter().enumerate() {
        let (key, value) = found?;
        let (one, other) = others.next().ok_or("an entry is missing")?;
        let (wanted, _) = entry(n as u64);
        if key != wanted || one? != (key.clone(), value.clone()) || other? != (key, value) {
            return Err(format!("entry {n} differs").into());
        }
    }
    if others.next().is_some() || sorted.count(..)? != entries {
        return Err("there are too many entries".into());
    }
    // It is a write like any other: over what is there, and seen as a whole.
    let before = sorted.snapshot();
    sorted.ingest([(entry(0).0, "newer")])?;
    println!(
        "over it: {:?}, before: {} bytes",
        sorted.get(entry(0).0)?,
        before.get(entry(0).0)?.map_or(0, |v| v.len())
    );
    Ok(())
}
