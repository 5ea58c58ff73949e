//! A hot counter: threads that add to one key, compared with threads that each have their own
//! key.
//!
//! ```text
//! cargo run --release --example counters -- [SECONDS [ROUNDS [FOLDER]]]
//! ```
//!
//! `add_i64` reads, adds and writes atomically, and returns once the sum survives a power
//! failure. It reads the newest write, durable or not, so threads on one key share syncs as
//! others do. ROUNDS (9) of SECONDS (0.1) alternate between the two cases. The program prints
//! the medians, and fails if the sums differ from the amounts added, or if threads on one key
//! make less than half as many commits. FOLDER holds the temporary database: on a file system
//! in memory a sync costs nothing, and the figures mean little.
#![allow(
    clippy::disallowed_methods,
    reason = "this program reads a real clock; the rule is for the engine"
)]

use std::thread;
use std::time::{Duration, Instant};

use terrace::Db;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const THREADS: usize = 8;

/// Adds one over and over, each thread at the key that `key` gives it; how often.
fn round(db: &Db, time: Duration, key: impl Fn(usize) -> String + Sync) -> Result<u64, Failure> {
    let start = Instant::now();
    let add = |thread: usize| {
        let (key, mut count) = (key(thread), 0);
        while start.elapsed() < time {
            db.add_i64(&key, 1)?;
            count += 1;
        }
        Ok::<u64, terrace::Error>(count)
    };
    thread::scope(|scope| {
        let add = &add;
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || add(n))).collect();
        let mut sum = 0;
        for thread in threads {
            sum += thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(sum)
    })
}

fn total(db: &Db) -> Result<u64, Failure> {
    let mut sum = 0;
    for entry in db.iter() {
        sum += u64::from_le_bytes(entry?.1[..].try_into()?);
    }
    Ok(sum)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let seconds: f64 = arguments
        .next()
        .map_or(Ok(0.1), |seconds| seconds.parse())?;
    let time = Duration::from_secs_f64(seconds);
    let rounds: usize = arguments.next().map_or(Ok(9), |rounds| rounds.parse())?;
    let home = match arguments.next() {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    let db = Db::open(home.path().join("db"))?;
    let (mut one, mut own, mut added) = (Vec::new(), Vec::new(), 0);
    for n in 0..rounds.max(1) * 2 {
        // One key, own keys, own keys, one key: what drifts with time meets both alike.
        let count = if n % 4 == 0 || n % 4 == 3 {
            let count = round(&db, time, |_| "hot".into())?;
            one.push(count as f64 / seconds);
            count
        } else {
            let count = round(&db, time, |thread| format!("own {thread}"))?;
            own.push(count as f64 / seconds);
            count
        };
        added += count;
    }
    let sum = total(&db)?;
    if sum != added {
        return Err(format!("the counters say {sum}, and {added} was added").into());
    }
    let (one, own) = (median(one), median(own));
    let ratio = one / own;
    println!("{THREADS} threads, each with a key of its own: {own:>8.0} commits/s");
    println!(
        "{THREADS} threads on one key:                  {one:>8.0} commits/s, {ratio:.2} times"
    );
    db.close()?;
    match ratio >= 0.5 {
        true => Ok(()),
        false => Err("one key is less than half as fast".into()),
    }
}
