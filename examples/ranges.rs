//! Range deletion: one write deletes a day of a log, and scans skip the deleted entries.
//!
//! ```text
//! cargo run --release --example ranges -- [KEYS]
//! ```
//!
//! First a worked example. Then KEYS (200,000) entries are written and deleted by one range
//! deletion. A scan over the deleted range is compared with one over an always empty range,
//! before and after compaction. The program fails if it costs over ten times as much.
#![allow(
    clippy::disallowed_methods,
    reason = "this program reads a real clock; the rule is for the engine"
)]

use std::time::{Duration, Instant};

use terrace::{Batch, Db, Durability, Options};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn worked_case() -> Result<(), Failure> {
    let db = Db::in_memory()?;
    for (key, value) in [
        ("2026-01-01/a", "1"),
        ("2026-01-01/b", "2"),
        ("2026-01-02/a", "3"),
    ] {
        db.put(key, value)?;
    }
    let before = db.snapshot();
    // In a batch the place counts: what comes behind the delete stays.
    let mut batch = Batch::new();
    batch.delete_range("2026-01-01/".."2026-01-02/");
    batch.put("2026-01-01/total", "2");
    db.write(batch)?;
    let keys: Vec<_> = db.iter().keys().collect::<terrace::Result<_>>()?;
    println!(
        "left: {keys:?}; a snapshot of before has {}",
        before.count(..)?
    );
    db.clear()?;
    println!("cleared: {}", db.is_empty()?);
    Ok(())
}

/// What a scan of the first entry in a range costs, forwards and backwards.
fn scan(db: &Db, from: &str, to: &str) -> Result<Duration, Failure> {
    let mut best = Duration::MAX;
    for _ in 0..7 {
        let start = Instant::now();
        for _ in 0..50 {
            let mut iter = db.range(from..to);
            if iter.next().is_some() || db.range(from..to).next_back().is_some() {
                return Err("something came back".into());
            }
        }
        best = best.min(start.elapsed() / 50);
    }
    Ok(best)
}

fn main() -> Result<(), Failure> {
    let keys: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(200_000), |keys| keys.parse())?;
    worked_case()?;
    let home = tempfile::tempdir()?;
    let options = Options::new().durability(Durability::Buffered);
    let db = options.open(home.path().join("db"))?;
    for n in 0..keys {
        db.put(format!("log/{n:012}"), [b'v'; 100])?;
    }
    db.put("zoo", "the last key")?;
    db.delete_range("log/".."log0")?;
    for compacted in [false, true] {
        if compacted {
            db.compact_all()?;
        }
        let deleted = scan(&db, "log/", "log0")?;
        let empty = scan(&db, "mog/", "mog0")?;
        let ratio = deleted.as_secs_f64() / empty.as_secs_f64();
        let when = if compacted { "after" } else { "before" };
        println!(
            "{when} compaction: {deleted:.2?} over {keys} deleted entries, {empty:.2?} over none: {ratio:.1} times"
        );
        if ratio > 10.0 {
            return Err("a scan walks over what was deleted".into());
        }
    }
    if db.count(..)? != 1 {
        return Err("not one entry is left".into());
    }
    db.close()?;
    Ok(())
}
