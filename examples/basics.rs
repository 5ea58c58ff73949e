//! Basic usage: put, get, delete, ranges, prefixes, batches, keyspaces, snapshots.
//!
//! ```text
//! cargo run --example basics
//! ```

use terrace::{Batch, Db, ErrorKind};

fn main() -> terrace::Result<()> {
    // A database is a folder. In memory it is gone with its last handle, which suits an example.
    let db = Db::in_memory()?;

    // Keys and values are bytes: strings, slices, vectors, arrays.
    db.put("apple", "red")?;
    db.put(b"banana", [0xff, 0xe1, 0x35])?;
    db.put(String::from("cherry"), vec![1, 2, 3])?;
    println!("apple is {:?}", db.get("apple")?);
    println!("there is no quince: {:?}", db.get("quince")?);

    // Entries lie in the order of their keys. A range is any of Rust's; an iterator goes both ways.
    for entry in db.range("b"..) {
        let (key, value) = entry?;
        println!("{key:?} = {value:?}");
    }
    let last = db.iter().keys().next_back().transpose()?;
    println!("the last key is {last:?}");
    println!("{} keys start with `ch`", db.prefix("ch").count());

    // A keyspace is a map of its own in the same database.
    let prices = db.keyspace("prices")?;
    prices.put("apple", "40")?;

    // A batch is written whole or not at all, across keyspaces.
    let mut batch = Batch::new();
    batch.delete("apple").put("quince", "yellow");
    batch.keyspace(&prices).delete("apple").put("quince", "90");
    let snapshot = db.snapshot();
    db.write(batch)?;

    // A snapshot goes on answering as of its moment, in every keyspace.
    println!(
        "apple now: {:?}, before: {:?}",
        db.get("apple")?,
        snapshot.get("apple")?
    );
    println!(
        "its price before: {:?}",
        snapshot.keyspace(&prices).get("apple")?
    );

    // A cursor lends keys and values without copying them.
    let mut cursor = db.cursor();
    let mut on = cursor.seek_for_prev("d")?;
    while on {
        println!("backwards: {:?}", String::from_utf8_lossy(cursor.key()));
        on = cursor.prev()?;
    }

    // An error says what to do about it.
    db.drop_keyspace("prices")?;
    match prices.get("quince") {
        Err(error) if error.kind() == ErrorKind::NotFound => println!("as expected: {error}"),
        other => println!("unexpected: {other:?}"),
    }
    db.close()
}
