//! A compaction filter: entries that compaction drops.
//!
//! ```text
//! cargo run --release --example filter
//! ```
//!
//! A filter receives keys and values during compaction and decides which to keep. It needs no
//! reads or writes of its own, and gives no guarantee of time: an entry stays readable until a
//! compaction drops it. Here, messages carry the version of the program that wrote them, and
//! compaction drops those of old versions. The program fails if an entry to keep is missing, or
//! if an entry to drop is still there after a full compaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use terrace::{Db, Durability, ErrorKind, KeyspaceOptions, Options};

const MESSAGES: u32 = 20_000;

/// A filter may look at what the program knows. Tables that no merge comes across stay as they are,
/// so what it says should hold before there is much to say it of.
fn open(dir: &std::path::Path, oldest: &Arc<AtomicU8>) -> terrace::Result<Db> {
    let oldest = oldest.clone();
    Options::new()
        .durability(Durability::Buffered)
        .compaction_filter("old versions", move |_key, value| {
            value
                .first()
                .is_none_or(|version| *version >= oldest.load(Ordering::Relaxed))
        })
        .open(dir)
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let dir = tempfile::tempdir()?;
    let oldest = Arc::new(AtomicU8::new(0));
    let db = open(dir.path(), &oldest)?;
    let options = KeyspaceOptions::new().compaction_filter(Some("old versions"));
    let messages = db.create_keyspace("messages", options)?;
    let others = db.keyspace("others")?; // No filter of a keyspace sees another.
    for n in 0..MESSAGES {
        let version = (n % 3) as u8 + 1;
        let message = [&[version][..], b"hello"].concat();
        messages.put(n.to_be_bytes(), &message)?;
        others.put(n.to_be_bytes(), &message)?;
    }
    db.flush()?;
    let all = messages.count(..)?;

    oldest.store(3, Ordering::Relaxed); // From now on nobody reads versions 1 and 2.
    db.compact_all()?;
    let left = messages.count(..)?;
    let versions: Vec<u8> = messages
        .iter()
        .map(|entry| Ok(entry?.1.first().copied().unwrap_or(0)))
        .collect::<terrace::Result<_>>()?;
    println!("{all} messages, and {left} after a compaction that keeps version 3");
    println!("{} in the keyspace without a filter", others.count(..)?);
    let wrong = versions.iter().filter(|version| **version != 3).count();
    db.close()?;

    // The keyspace knows its filter by name: whoever opens the database has to bring it along.
    let plain = Options::new()
        .open(dir.path())
        .map_err(|error| error.kind());
    println!("without it: {:?}", plain.as_ref().err());
    if plain.err() != Some(ErrorKind::Unsupported) {
        return Err("the database opened without the filter".into());
    }
    let db = open(dir.path(), &oldest)?;
    let reopened = (
        db.keyspace("messages")?.count(..)?,
        db.keyspace("others")?.count(..)?,
    );
    db.close()?;
    let kept = u64::from(MESSAGES / 3);
    if (all, left, wrong) != (u64::from(MESSAGES), kept, 0) || reopened != (kept, all) {
        return Err(
            format!("{all}, then {left} messages, {wrong} of them old; {reopened:?}").into(),
        );
    }
    Ok(())
}
