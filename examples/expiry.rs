//! Values with a TTL: sessions, and many keys that expire on time and whose space is reclaimed.
//!
//! ```text
//! cargo run --release --example expiry -- [KEYS]
//! ```
//!
//! First a worked example. Then KEYS (50,000) values with a TTL of one second are written,
//! while two threads get them and one scans and counts: none may be found after it expires, and
//! none may be missing before. After the last has expired nothing is written, and the program
//! waits until the space is reclaimed, for at most ten seconds. It exits non-zero if anything
//! is late.
#![allow(
    clippy::disallowed_methods,
    reason = "this program reads a real clock and the file system; the rule is for the engine"
)]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use terrace::{Db, Durability, Expiry, KeyspaceOptions, Options};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const HOLDS: Duration = Duration::from_secs(1);
/// An empty database keeps two segments of its log, which are written over.
const KEPT: u64 = 33 << 20;
/// Within this after the last expiry the space is back, with what a busy machine takes on top.
const BOUND: Duration = Duration::from_secs(15);

fn worked_case() -> Result<(), Failure> {
    let db = Db::in_memory()?;
    // Every put of this keyspace holds for half an hour, unless it says otherwise.
    let half_an_hour = KeyspaceOptions::new().expiry(Some(Duration::from_secs(1800)));
    let sessions = db.create_keyspace("sessions", half_an_hour)?;
    sessions.put("ada", "token")?;
    sessions.put_expiring("eve", "token", Expiry::In(Duration::from_millis(20)))?;
    sessions.put_expiring("root", "token", Expiry::Never)?;
    thread::sleep(Duration::from_millis(25));
    let left = sessions
        .get_entry("ada")?
        .and_then(|entry| entry.expires_at);
    let left = left.and_then(|at| at.duration_since(SystemTime::now()).ok());
    println!(
        "ada's session holds for {} s more",
        left.unwrap_or_default().as_secs()
    );
    println!(
        "eve's is {:?}, and there are {}",
        sessions.get("eve")?,
        sessions.count(..)?
    );
    // Seen again, it holds for another hour.
    sessions.set_expiry("ada", Expiry::In(Duration::from_secs(3600)))?;
    // Calls within a minute of the first one: what changes a value keeps its time.
    let minute = KeyspaceOptions::new().expiry(Some(Duration::from_secs(60)));
    let calls = db.create_keyspace("calls", minute)?;
    while calls.add_i64("ada", 1)? < 100 {}
    println!("ada has made 100 calls, which is as many as a minute allows");
    Ok(())
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn disk(dir: &Path) -> std::io::Result<u64> {
    let sizes = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len()));
    sizes.sum()
}

/// When each key expires, in milliseconds since 1970; 0 before it is written.
type Times = Vec<AtomicU64>;

/// Reads keys at random until the last has expired for a while; how many reads there were, and how
/// many found a value.
fn read(db: &Db, times: &Times, done: &AtomicU64, seed: u64) -> Result<(u64, u64), Failure> {
    let (mut reads, mut found, mut random) = (0, 0, seed);
    loop {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let n = (random >> 20) % times.len() as u64;
        let Some(time) = times.get(n as usize) else {
            continue;
        };
        let end = time.load(Ordering::Acquire);
        let before = millis(SystemTime::now());
        let there = db.get(n.to_be_bytes())?.is_some();
        let after = millis(SystemTime::now());
        reads += 1;
        found += u64::from(there);
        if end > 0 && there && before >= end {
            return Err(format!("key {n} was there {} ms late", before - end).into());
        }
        if end > 0 && !there && after < end {
            return Err(format!("key {n} was gone {} ms early", end - after).into());
        }
        let last = done.load(Ordering::Acquire);
        if last > 0 && before > last + 100 {
            return Ok((reads, found));
        }
    }
}

/// How many keys had expired by `now`: the first ones, for they are written in order.
fn expired(times: &Times, now: u64) -> usize {
    times.partition_point(|time| (1..=now).contains(&time.load(Ordering::Acquire)))
}

/// Scans and counts until the last key has expired for a while; how often.
fn scan(db: &Db, times: &Times, done: &AtomicU64) -> Result<u64, Failure> {
    let key = |n: usize| (n as u64).to_be_bytes();
    let mut scans = 0;
    loop {
        let before = millis(SystemTime::now());
        let gone = expired(times, before);
        let written = times.partition_point(|time| time.load(Ordering::Acquire) > 0);
        if let Some(late) = db.range(..key(gone)).next().transpose()? {
            return Err(format!("a scan found {:?} late", late.0).into());
        }
        let first = db.iter().keys().next().transpose()?;
        if first.is_some_and(|first| first < key(gone)[..]) || db.count(..key(gone))? > 0 {
            return Err(format!("one of the first {gone} keys is there late").into());
        }
        let held = db.count(key(gone)..key(written))?;
        let hold = written.saturating_sub(expired(times, millis(SystemTime::now())));
        if held < hold as u64 {
            return Err(format!("{held} keys are counted where {hold} hold").into());
        }
        scans += 1;
        let last = done.load(Ordering::Acquire);
        if last > 0 && before > last + 100 {
            return Ok(scans);
        }
    }
}

fn many(dir: &Path, keys: u64) -> Result<(), Failure> {
    let db = Options::new().durability(Durability::Buffered).open(dir)?;
    let times: Times = (0..keys).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicU64::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        let readers = [1, 2].map(|seed| {
            let (db, times, done) = (&db, &times, &done);
            scope.spawn(move || read(db, times, done, seed))
        });
        let scanner = scope.spawn(|| scan(&db, &times, &done));
        for (n, time) in times.iter().enumerate() {
            let end = SystemTime::now() + HOLDS;
            db.put_expiring((n as u64).to_be_bytes(), [b'v'; 100], Expiry::At(end))?;
            time.store(millis(end), Ordering::Release);
        }
        let last = times.last().map_or(1, |time| time.load(Ordering::Acquire));
        done.store(last, Ordering::Release);
        println!(
            "{keys} keys written in {:.2?}; {} bytes on disk",
            began.elapsed(),
            disk(dir)?
        );
        let (mut reads, mut found) = (0, 0);
        for reader in readers {
            let (more, there) = reader.join().map_err(|_| "a reader panicked")??;
            (reads, found) = (reads + more, found + there);
        }
        let scans = scanner.join().map_err(|_| "the scanner panicked")??;
        println!(
            "{reads} gets meanwhile, {found} of a value, and {scans} scans and counts: none late, none early"
        );
        Ok::<(), Failure>(())
    })?;
    let left = db.count(..)?;
    if left > 0 || !db.is_empty()? || db.iter().next_back().is_some() {
        return Err(format!("{left} keys are left").into());
    }
    // Nothing is written from here on.
    let waiting = Instant::now();
    let is_back = || -> std::io::Result<bool> {
        let stats = db.stats();
        let held = stats.table_bytes + stats.memtable_entries;
        Ok(held == 0 && disk(dir)? <= KEPT)
    };
    while !is_back()? {
        if waiting.elapsed() > BOUND {
            return Err(format!("{} bytes are on disk after {BOUND:?}", disk(dir)?).into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    println!(
        "{:.1?} after the last key {} bytes are on disk, {} of them in tables",
        waiting.elapsed(),
        disk(dir)?,
        db.stats().table_bytes
    );
    db.close()?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let keys = std::env::args()
        .nth(1)
        .map_or(Ok(50_000), |keys| keys.parse())?;
    worked_case()?;
    let home = tempfile::tempdir()?;
    many(&home.path().join("db"), keys)
}
