//! A database without load: it wakes up at most once a second, does no work for nothing, and answers at once

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use terrace::{Batch, Db, Durability, Options};

use super::bounds::{MIB, Measured};
use super::watch::{tasks, threads};

/// How long wake-ups are counted, and how often that is tried: a merge may be under way yet.
pub(crate) const WINDOW: Duration = Duration::from_secs(3);
const WINDOWS: usize = 8;
/// How often a database may wake up in a window.
pub(crate) const RESTING: u64 = WINDOW.as_secs() + 1;

/// How often all threads but those of the load have gone to sleep so far.
fn wakeups() -> u64 {
    let mut sum = 0;
    for task in tasks() {
        let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        let name = read("comm");
        if name.starts_with("endure") || name.starts_with("torture") {
            continue;
        }
        let status = read("status");
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += count
            .and_then(|n| n.trim().parse::<u64>().ok())
            .unwrap_or(0);
    }
    sum
}

/// `databases` without load wake up once a second each at most: how often all their threads
/// together went to sleep in a window, by the kernel's count of voluntary context switches. What
/// happens each second happens four times in three seconds if they begin with it. It is the first
/// window in which they did no more: work may be under way before.
pub(crate) fn rests(databases: usize) -> Result<Measured, String> {
    let mut seen = Vec::new();
    let limit = databases as u64 * RESTING;
    for _ in 0..WINDOWS {
        let before = wakeups();
        thread::sleep(WINDOW);
        let woke = wakeups().saturating_sub(before);
        if woke <= limit {
            return Ok(Measured { value: woke, limit });
        }
        seen.push(woke);
    }
    Err(format!(
        "idle: {databases} databases without load woke up {seen:?} times in {} s each\n{}",
        WINDOW.as_secs(),
        threads()
    ))
}

/// Idle databases write nothing.
pub(crate) fn does_nothing(dbs: &[Db]) -> Result<(), String> {
    let written = || -> u64 {
        let stats = dbs.iter().map(Db::stats);
        stats
            .map(|s| s.bytes_flushed + s.bytes_compacted + s.bytes_collected)
            .sum()
    };
    let before = written();
    thread::sleep(WINDOW);
    match written() - before {
        0 => Ok(()),
        bytes => Err(format!(
            "idle: {bytes} bytes were written by databases without load"
        )),
    }
}

/// Leaves lists in memory that are sealed, and too small to be flushed.
pub(crate) fn leaves_some_in_memory(db: &Db) -> Result<(), String> {
    for n in 0..18_000_u32 {
        let mut batch = Batch::new();
        batch.durability(Durability::Buffered);
        batch.put(format!("rest/{n:06}"), "x");
        db.write(batch)
            .map_err(|error| format!("write: {error:?}"))?;
    }
    Ok(())
}

/// A ticket is done soon, with no other write to lead its sync: in the best of five tries.
pub(crate) fn tickets_are_prompt(db: &Db) -> Result<(), String> {
    const PROMPT: Duration = Duration::from_millis(300);
    let text = |error: terrace::Error| format!("a ticket: {error:?}");
    let mut best = Duration::MAX;
    for n in 0..5_u32 {
        let mut batch = Batch::new();
        batch.durability(Durability::Sync).put(n.to_be_bytes(), "x");
        db.sync().map_err(text)?;
        let started = Instant::now();
        db.submit(batch).map_err(text)?.wait().map_err(text)?;
        best = best.min(started.elapsed());
    }
    match best <= PROMPT {
        true => Ok(()),
        false => Err(format!(
            "tickets of an idle database took {best:?} and more"
        )),
    }
}

/// A database that is opened, written to and dropped again and again stays small.
pub(crate) fn short_lives(options: &Options, dir: &Path, lives: u32) -> Result<(), String> {
    const FILES: usize = 40;
    const BYTES: u64 = 32 * MIB;
    for n in 0..lives {
        let db = options
            .open(dir)
            .map_err(|error| format!("open {n}: {error:?}"))?;
        db.put(n.to_be_bytes(), [1; 100])
            .map_err(|error| format!("put: {error:?}"))?;
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes: Vec<u64> = entries
        .map(|e| e.metadata().map_or(0, |m| m.len()))
        .collect();
    let bytes: u64 = sizes.iter().sum();
    match sizes.len() <= FILES && bytes <= BYTES {
        true => Ok(()),
        false => Err(format!(
            "short lives: {} files of {bytes} bytes after {lives} openings with one put of 100 bytes each; \
             {FILES} files and {BYTES} bytes are allowed",
            sizes.len()
        )),
    }
}
