//! A checkpoint of a database in use: made of hard links, opened and read during further
//! writes.
//!
//! ```text
//! cargo run --release --example checkpoint -- [KEYS]
//! ```
//!
//! KEYS (1,000,000) entries are written, and a thread continues to write while a checkpoint is
//! made. The program prints the duration and the disk space of the checkpoint, at first and
//! after the database has rewritten all entries. It fails if the copy lacks an acknowledged
//! write, or if its content changes.
#![allow(
    clippy::disallowed_methods,
    reason = "this program reads a real clock; the rule is for the engine"
)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use terrace::{Db, Durability, Options};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn options() -> Options {
    Options::new().durability(Durability::Buffered)
}

/// Entry `n` after it was written `round` times.
fn put(db: &Db, n: u64, round: u8) -> terrace::Result<()> {
    db.put(n.to_be_bytes(), [round; 100])?;
    Ok(())
}

/// Bytes of the files below `dir` that have no other name, and of those that have.
fn sizes(dir: &Path) -> std::io::Result<(u64, u64)> {
    let (mut own, mut shared) = (0, 0);
    for file in std::fs::read_dir(dir)? {
        let file = file?.metadata()?;
        #[cfg(unix)]
        let links = std::os::unix::fs::MetadataExt::nlink(&file);
        #[cfg(not(unix))]
        let links = 1;
        *(if links == 1 { &mut own } else { &mut shared }) += file.len();
    }
    Ok((own, shared))
}

fn tell(what: &str, dir: &Path) -> std::io::Result<()> {
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    let (own, shared) = sizes(dir)?;
    println!(
        "{what}: {:.1} MiB of its own, {:.1} MiB that the database has too",
        mib(own),
        mib(shared)
    );
    Ok(())
}

fn main() -> Result<(), Failure> {
    let keys: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(1_000_000), |keys| keys.parse())?;
    let home = tempfile::tempdir()?;
    let (dir, copy) = (home.path().join("db"), home.path().join("copy"));
    let db = options().open(&dir)?;
    (0..keys).try_for_each(|n| put(&db, n, 1))?;

    let (stop, returned) = (AtomicBool::new(false), AtomicU64::new(keys));
    let (before, took) = thread::scope(|scope| -> Result<_, Failure> {
        let writer = scope.spawn(|| -> terrace::Result<()> {
            for n in keys.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                put(&db, n, 1)?;
                returned.store(n + 1, Ordering::Release);
            }
            Ok(())
        });
        let before = returned.load(Ordering::Acquire);
        let start = Instant::now();
        let made = db.checkpoint(&copy);
        let took = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        writer.join().map_err(|_| "the writer panicked")??;
        made?;
        Ok((before, took))
    })?;
    let written = returned.load(Ordering::Relaxed) - before;
    println!(
        "a checkpoint of {before} entries in {took:.1?}; {written} more were written meanwhile"
    );
    tell("the copy", &copy)?;

    let copied = options().open(&copy)?;
    let found = copied.count(..)?;
    if found < before {
        return Err(format!("{found} entries where {before} had returned").into());
    }
    (0..keys).try_for_each(|n| put(&db, n, 2))?;
    db.compact_all()?;
    for entry in copied.iter() {
        if entry?.1 != [1; 100][..] {
            return Err("what was written later is in the copy".into());
        }
    }
    println!("its {found} entries are as they were, and the database has others by now");
    copied.close()?;
    db.close()?;
    tell("the copy", &copy)?;
    Ok(())
}
