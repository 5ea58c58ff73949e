//! Memory: what is written, and what jobs hold, keep to their shares of `Options::memory`

use std::time::{Duration, Instant};

use terrace::{Batch, Db, Durability, Options};

/// The least that a database can have: 1 MiB for writes, half as much for jobs.
fn least() -> Options {
    Options::new()
        .memory(4 << 20)
        .durability(Durability::Buffered)
        .tune(|tuning| tuning.manual = true)
}

fn open(options: &Options) -> Db {
    options.open_in_memory().unwrap()
}

/// A list took 2 MiB before it was sealed, twice what there is for all that is not flushed.
#[test]
fn a_list_takes_a_small_part_of_the_write_budget() {
    let db = open(&least());
    for n in 0..600_u32 {
        db.put(n.to_be_bytes(), [1; 1000]).unwrap();
    }
    let stats = db.stats();
    assert!(
        stats.memtable_pieces >= 3,
        "{} pieces",
        stats.memtable_pieces
    );
    let active = 600 * 1100 - stats.memtable_bytes;
    assert!(active <= 256 << 10, "{active} bytes of the active list");
    assert_eq!(db.iter().count(), 600);
}

/// A table of 32 MiB had an index of several MiB in memory until it was finished, whatever there
/// was for jobs.
#[test]
fn a_table_ends_where_its_index_would_take_more_than_a_job_has() {
    let db = open(&least());
    let key = |n: u32| n.to_be_bytes();
    db.ingest((0..50_000).map(|n| (key(n), "x"))).unwrap();
    let tables = |db: &Db| db.stats().levels.iter().map(|l| l.tables).sum::<usize>();
    assert!(tables(&db) >= 6, "{} tables", tables(&db));
    // Merges keep to it too.
    let mut batch = Batch::new();
    for n in (0..50_000).step_by(50) {
        batch.put(key(n), "y");
    }
    db.write(batch).unwrap();
    db.compact_all().unwrap();
    assert!(tables(&db) >= 6, "{} tables", tables(&db));
    assert_eq!(db.iter().count(), 50_000);
    // With more memory it is one table.
    let db = open(&least().memory(1 << 30));
    db.ingest((0..50_000).map(|n| (key(n), "x"))).unwrap();
    assert_eq!(tables(&db), 1);
}

/// Range deletes that a snapshot kept from being worked off took what memory they liked: 27,000 of
/// them 52 MiB of a database of 4 MiB.
#[test]
fn range_deletes_that_cannot_be_worked_off_get_slower() {
    let db = Options::new()
        .memory(4 << 20)
        .durability(Durability::Buffered)
        .open_in_memory()
        .unwrap();
    for n in 0..4000_u32 {
        db.put(n.to_be_bytes(), "x").unwrap();
    }
    db.flush().unwrap();
    let snapshot = db.snapshot();
    let begin = Instant::now();
    let delete = |n: u32| {
        let mut batch = Batch::new();
        batch.delete_range((n % 3900).to_be_bytes()..(n % 3900 + 100).to_be_bytes());
        db.write(batch).unwrap();
    };
    let mut written = 0_u32;
    while begin.elapsed() < Duration::from_secs(2) {
        delete(written);
        written += 1;
    }
    let kept = db.stats().range_deletes;
    assert!(kept <= 2000, "{kept} of {written}");
    // Writes of other kinds are as fast as before.
    let begin = Instant::now();
    for n in 0..1000_u32 {
        db.put(n.to_be_bytes(), "y").unwrap();
    }
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    // They are worked off once they may be, and cost nothing then.
    drop(snapshot);
    db.wait_idle().unwrap();
    assert_eq!(db.stats().range_deletes, 0);
    (0..200).for_each(delete);
}

/// So did dropped keyspaces, beside a reader that may still need them: 260,000 in a minute.
#[test]
fn dropped_keyspaces_that_cannot_be_forgotten_get_slower() {
    let db = Options::new()
        .memory(4 << 20)
        .durability(Durability::Buffered)
        .open_in_memory()
        .unwrap();
    let reader = db.snapshot();
    let begin = Instant::now();
    let mut dropped = 0_u32;
    while begin.elapsed() < Duration::from_secs(2) {
        let name = format!("short-lived {dropped}");
        let keyspace = db.keyspace(&name).unwrap();
        keyspace.put("k", "v").unwrap();
        db.drop_keyspace(&name).unwrap();
        dropped += 1;
    }
    assert!(dropped <= 2500, "{dropped}");
    drop(reader);
    db.wait_idle().unwrap();
    for n in 0..200 {
        let name = format!("later {n}");
        db.keyspace(&name).unwrap();
        db.drop_keyspace(&name).unwrap();
    }
}
