//! Keyspace options: what they do, and how to change them.
//!
//! ```text
//! cargo run --release --example keyspaces
//! ```
#![allow(
    clippy::disallowed_methods,
    reason = "this program reads a real clock; the rule is for the engine"
)]

use std::time::{Duration, SystemTime};

use terrace::{Batch, Compression, Db, Durability, KeyspaceOptions, Options};

fn main() -> terrace::Result<()> {
    let dir = std::env::temp_dir().join(format!("terrace-keyspaces-{}", std::process::id()));
    let result = run(&dir);
    drop(std::fs::remove_dir_all(&dir));
    result
}

fn options() -> Options {
    // Code has no place in a file: the database gets it by name each time that it is opened.
    Options::new()
        .durability(Durability::Interval(Duration::from_millis(100)))
        .merge_operator("append", |_key, older, newer| [older, newer].concat())
}

fn run(dir: &std::path::Path) -> terrace::Result<()> {
    let db = options().open(dir)?;

    // What is put here is gone in an hour, unless the put says otherwise.
    let hour = Duration::from_secs(3600);
    let sessions = db.create_keyspace("sessions", KeyspaceOptions::new().expiry(Some(hour)))?;
    // Writers add to a log without reading it.
    let journal = KeyspaceOptions::new().merge_operator("append");
    let journal = db.create_keyspace("journal", journal)?;
    // Pictures are compressed already; from 16 KiB on each lies apart, so that merges do not copy
    // it.
    let pictures = KeyspaceOptions::new()
        .compression(Some(Compression::None))
        .blob_threshold(Some(16 << 10));
    let pictures = db.create_keyspace("pictures", pictures)?;
    // Single rows are read: a small block is less to unpack for one.
    let rows = KeyspaceOptions::new().block_size(Some(2 << 10));
    let rows = db.create_keyspace("rows", rows)?;

    let mut batch = Batch::new();
    batch.keyspace(&sessions).put("ada", "token");
    batch.keyspace(&journal).merge("today", "Ada came. ");
    batch.keyspace(&journal).merge("today", "Ada saw. ");
    db.write(batch)?; // All of it or nothing: keyspaces share one log.
    for n in 0..200u32 {
        pictures.put(n.to_be_bytes(), noise(n, 4_000))?; // A thumbnail,
        pictures.put((1000 + n).to_be_bytes(), noise(n, 40_000))?; // and the picture.
    }
    for n in 0..20_000u32 {
        let row = format!(
            "row {n} of the table, with the words that each row has: colour, size, weight, price"
        );
        rows.put(n.to_be_bytes(), row)?;
    }
    let expires = sessions
        .get_entry("ada")?
        .and_then(|entry| entry.expires_at);
    let left = expires.and_then(|at| at.duration_since(SystemTime::now()).ok());
    println!(
        "the session holds for {:.0?} more",
        left.unwrap_or_default()
    );
    let today = journal.get("today")?.unwrap_or_default();
    println!("the journal says: {}", String::from_utf8_lossy(&today));

    db.compact_all()?;
    print_sizes(&db, "compressed, but for the pictures")?;

    // Options change while the database is open. New tables follow; `compact` brings the old ones
    // along.
    rows.set_options(rows.options().compression(Some(Compression::None)))?;
    rows.compact(..)?;
    print_sizes(&db, "the rows are not compressed any more")?;
    rows.set_options(rows.options().compression(None))?;
    rows.compact(..)?;
    print_sizes(&db, "the rows are as the database says, again")?;

    // A name is a name: handles, entries and options stay.
    db.rename_keyspace("pictures", "gallery")?;
    println!("`{}` has {} entries", pictures.name(), pictures.count(..)?);

    // They are stored with the keyspaces: whoever opens the database next finds them.
    db.close()?;
    let db = options().open(dir)?;
    for name in db.keyspaces()? {
        println!("{name}: {:?}", db.keyspace(&name)?.options());
    }
    Ok(())
}

fn print_sizes(db: &Db, what: &str) -> terrace::Result<()> {
    let stats = db.stats();
    let (tables, blobs) = (stats.table_bytes >> 10, stats.blob_live_bytes >> 10);
    println!("{what}: {tables} KiB of tables, {blobs} KiB in blob files");
    for name in ["pictures", "rows"] {
        let bytes = db.keyspace(name)?.approximate_size(..)?;
        println!("    {name}: {} KiB", bytes >> 10);
    }
    Ok(())
}

/// Bytes that do not shrink.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}
