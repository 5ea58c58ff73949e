//! Merge operators: counters and sets that many writers change without reading them.
//!
//! ```text
//! cargo run --release --example merge
//! ```
//!
//! A merge operand describes a change of a value. Writing one costs as much as a put, writes do
//! not conflict, and the value is computed when it is read.

use std::collections::BTreeSet;
use std::thread;

use terrace::{Db, Durability, KeyspaceOptions, Options};

/// Adds two numbers; what is no number counts as zero.
fn add(_key: &[u8], older: &[u8], newer: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    number(older)
        .wrapping_add(number(newer))
        .to_le_bytes()
        .into()
}

/// Unites two sets of words, which are lists with a space between them.
fn unite(_key: &[u8], older: &[u8], newer: &[u8]) -> Vec<u8> {
    let words = |bytes| <[u8]>::split(bytes, |byte| *byte == b' ').filter(|word| !word.is_empty());
    let all: BTreeSet<&[u8]> = words(older).chain(words(newer)).collect();
    all.into_iter().collect::<Vec<_>>().join(&b' ')
}

/// Both operators are associative, so that operands can be combined before the value below them is
/// known.
fn open(dir: &std::path::Path) -> terrace::Result<Db> {
    let options = Options::new().durability(Durability::Buffered);
    options
        .merge_operator("add", add)
        .merge_operator("unite", unite)
        .open(dir)
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let dir = tempfile::tempdir()?;
    let db = open(dir.path())?;
    let counters = db.create_keyspace("counters", KeyspaceOptions::new().merge_operator("add"))?;
    let tags = db.create_keyspace("tags", KeyspaceOptions::new().merge_operator("unite"))?;

    // Four threads, one counter.
    let counts: Vec<terrace::Result<()>> = thread::scope(|scope| {
        let count = || {
            for _ in 0..25_000 {
                counters.merge("visits", 1u64.to_le_bytes())?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, terrace::Result<()>>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(terrace::Error::other("a thread panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    counts.into_iter().collect::<terrace::Result<()>>()?;

    for tag in ["database", "rust", "database", "tree"] {
        tags.merge("terrace", tag)?;
    }
    db.close()?;

    // Keyspaces know their operators by name: whoever opens the database has to bring them along.
    let plain = Options::new().open(dir.path());
    println!(
        "without them: {}",
        plain.map_or_else(|error| error.to_string(), |_| "opened".into())
    );

    let db = open(dir.path())?;
    let visits = db.keyspace("counters")?.get("visits")?.unwrap_or_default();
    let visits = u64::from_le_bytes(visits.as_ref().try_into()?);
    let tags = db.keyspace("tags")?.get("terrace")?.unwrap_or_default();
    println!("visits: {visits}");
    println!("tags:   {}", String::from_utf8_lossy(&tags));
    if visits != 100_000 || tags != "database rust tree" {
        return Err("that is not what was written".into());
    }
    Ok(())
}
