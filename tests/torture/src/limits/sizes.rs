//! Keys, values and batches of great size, across a reopening that replays them from the log.

use std::path::Path;

use terrace::{Batch, Durability, ErrorKind, MAX_KEY_LEN, MAX_VALUE_LEN, Options};

use super::{Checked, check, text};

fn same(found: Option<&[u8]>, len: usize, byte: u8) -> Checked {
    let right = found.is_some_and(|value| value.len() == len && value.iter().all(|b| *b == byte));
    check(right, || {
        format!("{:?} bytes where {len} belong", found.map(<[u8]>::len))
    })
}

/// The longest keys and values of 16 MiB, together more than the memory given, from the log and
/// from tables.
pub(super) fn large_values(dir: &Path) -> Checked {
    const LEN: usize = 16 << 20;
    let options = Options::new()
        .memory(32 << 20)
        .durability(Durability::Buffered);
    let longest = vec![b'k'; MAX_KEY_LEN];
    let db = options.open(dir.join("db")).map_err(text)?;
    for i in 0..3u8 {
        db.put([i], vec![i; LEN]).map_err(text)?;
        db.put([&longest[1..], &[i]].concat(), [i]).map_err(text)?;
    }
    drop(db);
    for phase in ["the log", "tables", "tables, opened again"] {
        let db = options.open(dir.join("db")).map_err(text)?;
        for i in 0..3u8 {
            same(db.get([i]).map_err(text)?.as_deref(), LEN, i)
                .map_err(|e| format!("{phase}: {e}"))?;
            let short = db.get([&longest[1..], &[i]].concat()).map_err(text)?;
            same(short.as_deref(), 1, i).map_err(|e| format!("{phase}: {e}"))?;
        }
        let count = db.count(..).map_err(text)?;
        check(count == 6, || format!("{phase}: {count} entries"))?;
        db.compact_all().map_err(text)?;
    }
    let db = options.open(dir.join("db")).map_err(text)?;
    let kind = db
        .put([&longest[..], b"k"].concat(), "")
        .err()
        .map(|error| error.kind());
    check(kind == Some(ErrorKind::Invalid), || {
        format!("a key too long: {kind:?}")
    })
}

/// One batch of a million entries, over two keyspaces.
pub(super) fn million_entries(dir: &Path) -> Checked {
    const N: u32 = 1_000_000;
    let options = Options::new().memory(64 << 20);
    let db = options.open(dir.join("db")).map_err(text)?;
    let spaces = ["a", "b"].map(|name| db.keyspace(name).unwrap());
    let mut batch = Batch::new();
    for i in 0..N {
        let space = &spaces[(i % 2) as usize];
        batch
            .keyspace(space)
            .put(i.reverse_bits().to_be_bytes(), i.to_le_bytes());
    }
    db.write(batch).map_err(text)?;
    drop((db, spaces));
    let db = options.open(dir.join("db")).map_err(text)?;
    for (odd, name) in ["a", "b"].into_iter().enumerate() {
        let mut there = 0;
        for entry in db.keyspace(name).map_err(text)?.iter() {
            let (key, value) = entry.map_err(text)?;
            let number = |bytes: &[u8]| bytes.try_into().map_or([0; 4], |four: [u8; 4]| four);
            let i = u32::from_le_bytes(number(&value));
            let right = u32::from_be_bytes(number(&key)).reverse_bits() == i && i % 2 == odd as u32;
            check(right, || format!("{key:?} has {value:?}"))?;
            there += 1;
        }
        check(there == N / 2, || format!("{there} of {} entries", N / 2))?;
    }
    Ok(())
}

/// A value of the greatest length, 1 GiB, and one byte more.
pub(super) fn greatest_value(dir: &Path) -> Checked {
    let options = Options::new().durability(Durability::Buffered);
    let len = MAX_VALUE_LEN as usize;
    {
        let db = options.open(dir.join("db")).map_err(text)?;
        let kind = db
            .put("k", vec![1; len + 1])
            .err()
            .map(|error| error.kind());
        check(kind == Some(ErrorKind::Invalid), || {
            format!("a value too long: {kind:?}")
        })?;
        db.put("k", vec![7; len]).map_err(text)?;
        db.put("l", "after").map_err(text)?;
    }
    for _ in 0..2 {
        let db = options.open(dir.join("db")).map_err(text)?;
        same(db.get("k").map_err(text)?.as_deref(), len, 7)?;
        check(db.count(..).map_err(text)? == 2, || {
            "not two entries".to_owned()
        })?;
        db.flush().map_err(text)?;
    }
    Ok(())
}
