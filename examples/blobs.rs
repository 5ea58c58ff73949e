//! Large values: films in a database, partial reads, and the cost of overwriting.
//!
//! `cargo run --release --example blobs -- [VALUES [BYTES]]`
//!
//! First a worked example. Then VALUES (1,000) values of BYTES (100,000) are written and each
//! is overwritten five times, in random order. The program prints the space amplification (disk
//! space of the settled database by live bytes) and the write amplification, and fails if they
//! exceed 1.5 or 1.3.
#![allow(clippy::disallowed_methods)] // An example may ask the file system itself.

use std::error::Error;
use std::path::Path;

use terrace::{Batch, Db, Durability, KeyspaceOptions, Options};

/// A value of which LZ4 can save nothing.
fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next)
        .flatten()
        .take(len)
        .collect()
}

fn worked_case(dir: &Path) -> Result<(), Box<dyn Error>> {
    let db = Db::open(dir)?;
    // From 64 KiB on, values of this keyspace lie in blob files: merges move 24 bytes in place of a
    // film.
    let options = KeyspaceOptions::new().blob_threshold(Some(64 << 10));
    let films = db.create_keyspace("films", options)?;
    let mut batch = Batch::new();
    batch
        .keyspace(&films)
        .put("metropolis/1927", value(1, 8 << 20));
    batch.keyspace(&films).put("metropolis/title", "Metropolis");
    db.write(batch)?; // film and title, or neither
    let part = films.get_slice("metropolis/1927", 4_000_000..4_000_016)?;
    println!("16 bytes out of the middle, without reading the rest: {part:02x?}");
    // No film is read for its name.
    for key in films.iter().keys() {
        println!("there is {:?}", String::from_utf8_lossy(&key?));
    }
    db.close()?;
    Ok(())
}

fn disk(dir: &Path) -> std::io::Result<u64> {
    let sizes = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len()));
    sizes.sum()
}

fn overwrite(dir: &Path, values: u64, len: usize) -> Result<(), Box<dyn Error>> {
    let db = Options::new().durability(Durability::Buffered).open(dir)?;
    let mut most = 0;
    for round in 0..6 {
        let mut order: Vec<u64> = (0..values).collect();
        order.sort_by_key(|n| {
            (n ^ round)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(31)
        });
        for n in order {
            db.put(n.to_be_bytes(), value(n + round * values, len))?;
        }
        most = most.max(disk(dir)?);
    }
    db.wait_idle()?;
    for n in 0..values {
        let found = db.get(n.to_be_bytes())?.ok_or("a value is lost")?;
        if found != value(n + 5 * values, len) {
            return Err("a value differs".into());
        }
    }
    let stats = db.stats();
    db.close()?;
    let live = values * (len as u64 + 8);
    let (space, at_most) = (disk(dir)? as f64 / live as f64, most as f64 / live as f64);
    let amplification = stats.write_amplification();
    println!("{values} values of {len} bytes, each overwritten 5 times:");
    println!(
        "disk once settled      {space:.3} times what is alive (meanwhile up to {at_most:.2})"
    );
    println!("write amplification    {amplification:.3}");
    println!(
        "copied by collection   {} MiB of {}",
        stats.bytes_collected >> 20,
        stats.bytes_stored >> 20
    );
    if space > 1.5 || amplification > 1.3 {
        return Err("that is too much".into());
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let values = args.next().map_or(Ok(1_000), |arg| arg.parse())?;
    let len = args.next().map_or(Ok(100_000), |arg| arg.parse())?;
    let dir = tempfile::tempdir()?;
    worked_case(&dir.path().join("films"))?;
    overwrite(&dir.path().join("overwritten"), values, len)
}
