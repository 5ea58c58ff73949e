//! What the parent process asks of a child, and what the child answers: JSON on one line each.

use crate::engines::{Compression, Config, Durability, Settle};
use crate::stats::Latency;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Every row, in the order of the tables.
pub const ROWS: &[(&str, Unit)] = &[
    ("fillseq", Unit::PerSecond),
    ("fillbatch", Unit::PerSecond),
    ("fillrandom", Unit::PerSecond),
    ("overwrite", Unit::PerSecond),
    ("overwrite cpu", Unit::Seconds),
    ("settle", Unit::Seconds),
    ("settle cpu", Unit::Seconds),
    ("compact", Unit::Seconds),
    ("written bytes", Unit::Bytes),
    ("disk bytes", Unit::Bytes),
    ("readseq", Unit::PerSecond),
    ("readreverse", Unit::PerSecond),
    ("readrandom", Unit::PerSecond),
    ("readmissing", Unit::PerSecond),
    ("readhot", Unit::PerSecond),
    ("seekrandom", Unit::PerSecond),
    ("readwhilewriting", Unit::PerSecond),
    ("writewhilereading", Unit::PerSecond),
    ("peak rss anon", Unit::Bytes),
    ("close", Unit::Seconds),
    ("reopen clean", Unit::Seconds),
    ("reopen killed", Unit::Seconds),
    ("rmw", Unit::PerSecond),
    ("fillsync 1", Unit::PerSecond),
    ("fillsync 8", Unit::PerSecond),
    ("fillsync 64", Unit::PerSecond),
];

/// What a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Operations per second: more is better.
    PerSecond,
    /// Less is better, here and below.
    Seconds,
    Bytes,
}

/// The work of one child process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub engine: String,
    pub role: Role,
    /// Of this job alone; created by the parent and removed by it.
    pub dir: PathBuf,
    pub rows: Vec<String>,
    pub keys: usize,
    pub value: usize,
    pub memory: u64,
    pub compression: Compression,
    pub settle: Settle,
    /// Of the round: all engines of a round do the same in the same order.
    pub seed: u64,
    pub pause_ms: u64,
    pub mixed_ms: u64,
    pub sync_ms: u64,
}

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Lives through all rows.
    Measure,
    /// Writes a quarter of the keys and kills itself.
    Die,
}

impl Job {
    pub fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|wanted| row_matches(wanted, row))
    }

    pub fn config(&self, durability: Durability) -> Config {
        Config {
            durability,
            compression: self.compression,
            memory: self.memory,
            keys: self.keys,
            value: self.value,
        }
    }

    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms)
    }
}

/// `fillsync` asks for all rows that begin so; underscores stand for spaces.
pub fn row_matches(wanted: &str, row: &str) -> bool {
    let wanted = wanted.replace('_', " ");
    row == wanted
        || row
            .strip_prefix(&wanted)
            .is_some_and(|rest| rest.starts_with(' '))
}

/// One measured row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub row: String,
    pub value: f64,
    pub latency: Option<Latency>,
    /// The percentage of the machine that others used meanwhile.
    pub foreign: f64,
}
