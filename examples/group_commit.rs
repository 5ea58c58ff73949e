//! Group commit: durable commits per second of one thread and of eight, which share syncs.
//!
//! ```text
//! cargo run --release --example group_commit -- [FOLDER]
//! ```
//!
//! Every `put` here returns only once it survives a power failure. FOLDER holds the temporary
//! database: on a file system in memory a sync costs nothing, and the figures mean little.
#![allow(
    clippy::disallowed_methods,
    reason = "this program reads a real clock; the rule is for the engine"
)]

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use terrace::Db;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const TIME: Duration = Duration::from_secs(2);

/// Commits per second.
fn measure(folder: &Path, threads: usize) -> Result<f64, Failure> {
    let db = Db::open(folder.join(format!("{threads}-threads")))?;
    let started = Instant::now();
    let counts: Vec<terrace::Result<u64>> = thread::scope(|scope| {
        let work = |id: usize| {
            let db = &db;
            move || {
                let mut count = 0;
                while started.elapsed() < TIME {
                    db.put(format!("{id} {count:08}"), [b'v'; 100])?;
                    count += 1;
                }
                Ok(count)
            }
        };
        let writers: Vec<_> = (0..threads).map(|id| scope.spawn(work(id))).collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap_or(Ok(0)))
            .collect()
    });
    let time = started.elapsed().as_secs_f64();
    let total: u64 = counts.into_iter().sum::<terrace::Result<u64>>()?;
    let stored = db.count(..)?;
    if stored != total {
        return Err(format!("{stored} entries where {total} were acknowledged").into());
    }
    db.close()?;
    Ok(total as f64 / time)
}

fn main() -> Result<(), Failure> {
    let folder = match std::env::args_os().nth(1) {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    let one = measure(folder.path(), 1)?;
    println!("1 thread:  {one:>8.0} commits/s");
    let eight = measure(folder.path(), 8)?;
    println!(
        "8 threads: {eight:>8.0} commits/s, {:.1} times as many",
        eight / one
    );
    Ok(())
}
