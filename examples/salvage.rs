//! Salvage of a database that was damaged on purpose.
//!
//! ```text
//! cargo run --example salvage
//! ```

// An example is no part of the engine: it may touch files.
#![allow(clippy::disallowed_methods)]

use std::error::Error;

use terrace::{Db, ErrorKind, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let db = Db::open(dir.path())?;
    for n in 0..1000 {
        db.put(format!("key{n:04}"), format!("value {n}"))?;
    }
    db.compact_all()?; // Into a table,
    for n in 0..5 {
        db.put(format!("late{n}"), "in the log")?; // and behind it some that are in the log.
    }
    db.close()?;

    // A disk forgets a bit.
    let table = std::fs::read_dir(dir.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .ok_or("there is no table")?;
    let mut bytes = std::fs::read(&table)?;
    bytes[100] ^= 1;
    std::fs::write(&table, bytes)?;

    // Only the reads that touch the damage fail, and they say where it is.
    let db = Db::open(dir.path())?;
    println!("key0999 is still {:?}", db.get("key0999")?);
    match db.get("key0000") {
        Err(error) if error.kind() == ErrorKind::Corruption => println!("but: {error}"),
        other => return Err(format!("damage was not seen: {other:?}").into()),
    }
    println!("health: {:?}", db.health());
    db.close()?;

    // There is no backup, so: what can be kept?
    let (db, report) = Options::new().salvage(dir.path())?;
    println!("\n{report}\n");
    println!("{} keys are there", db.iter().keys().count());
    for loss in &report.losses {
        let all = (0..1000).map(|n| format!("key{n:04}"));
        let gone = all.filter(|key| {
            loss.keys
                .iter()
                .any(|k| k.contains("default", key.as_bytes()))
        });
        println!(
            "{} keys may be lost with {}",
            gone.count(),
            loss.file.display()
        );
    }
    db.put("life", "goes on")?;
    db.close()?;
    Ok(())
}
