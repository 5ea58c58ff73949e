//! What an operation costs after a long history, beside a fresh database with the same live data
//!
//! ```text
//! cargo bench --features testing --bench history                        # every history at full length
//! cargo bench --features testing --bench history -- --scale 0.01        # a hundredth of each
//! cargo bench --features testing --bench history -- ingests --seconds 30
//! ```
//!
//! Each history is one function of [`HISTORIES`]: it does its work on one of two databases that
//! hold the same rows. Then every operation runs on both in turn, and the least of several times
//! each is compared: on a busy machine the least time of a short piece of work repeats well, and
//! both databases meet the same machine. With `--check` a ratio over 2 is a failure. A history that
//! is not built after `--seconds` ends early and says how far it came; what follows is then
//! measured after so much of it. The databases lie in memory ([`MemVfs`]), so that no disk is
//! measured.
#![allow(clippy::unwrap_used)] // A bench that fails has nobody to answer to.

mod common;

use std::hint::black_box;
use std::time::Duration;

use common::time;
use terrace::clock::{Clock, SystemClock};
use terrace::vfs::MemVfs;
use terrace::{Batch, Db, Durability, KeyspaceOptions, Options};

/// Rows that both databases hold.
const ROWS: u64 = 10_000;
/// Times that each operation is measured on each database.
const TIMES: usize = 9;
/// Time for one operation after which it is not measured again.
const ENOUGH: Duration = Duration::from_secs(5);
/// A ratio that is too high, and a time per operation below which no ratio is.
const MOST: f64 = 2.0;
const TOO_SHORT: Duration = Duration::from_nanos(300);

/// A database in memory that can be opened again.
struct Subject {
    options: Options,
    db: Option<Db>,
    queue: (u64, u64),
}

impl Subject {
    fn new(table_bytes: Option<u64>) -> Subject {
        let options = Options::new()
            .durability(Durability::Buffered)
            .memory(64 << 20)
            .vfs(MemVfs::new(7))
            .tune(|tuning| {
                tuning.reserve_bytes = Some(0);
                tuning.table_bytes = table_bytes.unwrap_or(tuning.table_bytes);
            });
        let mut subject = Subject {
            options,
            db: None,
            queue: (0, 0),
        };
        subject.open();
        subject
    }

    fn open(&mut self) {
        self.db = None; // Closes it.
        self.db = Some(self.options.open("/db").unwrap());
    }

    fn db(&self) -> &Db {
        self.db.as_ref().unwrap()
    }

    /// Writes the live rows.
    fn fill(&self, rows: u64) {
        for n in 0..rows {
            self.db().put(row(n), [n as u8; 100]).unwrap();
        }
    }

    fn push(&mut self) {
        let queue = self.db().keyspace("queue").unwrap();
        queue.put(self.queue.1.to_be_bytes(), [7; 50]).unwrap();
        self.queue.1 += 1;
    }

    fn pop(&mut self) {
        let queue = self.db().keyspace("queue").unwrap();
        let (key, _) = queue.pop_first().unwrap().unwrap();
        assert_eq!(key[..], self.queue.0.to_be_bytes());
        self.queue.0 += 1;
    }
}

fn row(n: u64) -> [u8; 16] {
    let mut key = [b'r'; 16];
    key[8..].copy_from_slice(&(n * 7919 % ROWS).to_be_bytes());
    key
}

/// A history: its name, its full length, the size of tables if it has one of its own, and one step
/// of it.
struct History {
    name: &'static str,
    steps: u64,
    table_bytes: Option<u64>,
    step: fn(&mut Subject, u64),
}

const HISTORIES: [History; 7] = [
    History {
        name: "range_deletes",
        steps: 1_000_000,
        table_bytes: None,
        step: range_delete,
    },
    History {
        name: "dropped_keyspaces",
        steps: 100_000,
        table_bytes: None,
        step: dropped_keyspace,
    },
    History {
        name: "popped_heads",
        steps: 10_000_000,
        table_bytes: None,
        step: popped_head,
    },
    History {
        name: "ingests",
        steps: 100_000,
        table_bytes: None,
        step: ingest,
    },
    History {
        name: "tables",
        steps: 10_000,
        table_bytes: Some(4 << 10),
        step: table,
    },
    History {
        name: "manifest_edits",
        steps: 100_000,
        table_bytes: None,
        step: manifest_edit,
    },
    History {
        name: "short_opens",
        steps: 10_000,
        table_bytes: None,
        step: short_open,
    },
];

/// A key and the range delete that takes it away, each a batch of its own.
fn range_delete(subject: &mut Subject, n: u64) {
    let key = |n: u64| format!("gone/{n:08}");
    let mut batch = Batch::new();
    batch.put(key(n), "x");
    subject.db().write(batch).unwrap();
    let mut batch = Batch::new();
    batch.delete_range(key(n)..key(n + 1));
    subject.db().write(batch).unwrap();
}

fn dropped_keyspace(subject: &mut Subject, n: u64) {
    let name = format!("gone-{n}");
    let options = KeyspaceOptions::new().blob_threshold(Some(1 << 20));
    let space = subject.db().create_keyspace(&name, options).unwrap();
    space.put("k", "v").unwrap();
    subject.db().drop_keyspace(&name).unwrap();
}

/// One entry pushed and one popped, with a hundred between.
fn popped_head(subject: &mut Subject, n: u64) {
    subject.push();
    if n >= 100 {
        subject.pop();
    }
}

/// Ten rows, of a hundred that are ingested over and over.
fn ingest(subject: &mut Subject, n: u64) {
    let rows = (0..10).map(|i| (format!("bulk/{:02}/{i}", n % 10), n.to_be_bytes()));
    subject.db().ingest(rows).unwrap();
}

/// Rows for one more table: the other database holds the same in few tables.
fn table(subject: &mut Subject, n: u64) {
    table_rows(subject, n);
}

fn table_rows(subject: &Subject, n: u64) {
    for i in 0..34 {
        let key = format!("table/{n:06}/{i:02}");
        subject.db().put(key, common_value(n, i)).unwrap();
    }
}

/// A hundred bytes that do not compress.
fn common_value(n: u64, i: u64) -> Vec<u8> {
    let word = |j: u64| terrace_base::hash::seeded(n * 100 + i, j).to_le_bytes();
    (0..13).flat_map(word).collect()
}

fn manifest_edit(subject: &mut Subject, n: u64) {
    subject.db().put(row(n % ROWS), [1; 100]).unwrap();
    subject.db().flush().unwrap();
}

fn short_open(subject: &mut Subject, n: u64) {
    subject.open();
    subject.db().put(row(n % 100), [1; 100]).unwrap();
}

/// An operation: its name, how often it is done at a time, and the doing.
type Operation = (&'static str, u32, fn(&mut Subject, u32));

const OPERATIONS: [Operation; 8] = [
    ("get", 2000, |subject, times| {
        for n in 0..times {
            black_box(subject.db().get(row(u64::from(n) * 5)).unwrap());
        }
    }),
    ("put", 1000, |subject, times| {
        for n in 0..times {
            subject.db().put(row(u64::from(n) * 7), [3; 100]).unwrap();
        }
    }),
    ("scan of 3", 200, |subject, times| {
        for n in 0..times {
            let from = row(u64::from(n) * 11);
            assert!(subject.db().range(&from[..]..).take(3).count() > 0);
        }
    }),
    ("pop", 200, |subject, times| {
        for _ in 0..times {
            subject.push();
            subject.pop();
        }
    }),
    ("edit", 3, |subject, times| {
        for n in 0..times {
            manifest_edit(subject, u64::from(n));
        }
    }),
    ("health", 200, |subject, times| {
        for _ in 0..times {
            subject.db().health().unwrap();
        }
    }),
    ("wait_idle", 1, |subject, _| {
        subject.db().wait_idle().unwrap()
    }),
    ("open", 1, |subject, _| subject.open()),
];

/// The least time of each operation on both databases, one after the other.
fn measure(fresh: &mut Subject, aged: &mut Subject, check: bool) -> bool {
    let mut fine = true;
    for (name, times, operation) in OPERATIONS {
        let mut least = [Duration::MAX; 2];
        let clock = SystemClock::default();
        for n in 0..TIMES {
            if n > 0 && clock.monotonic() > ENOUGH {
                break; // It is far from the other one.
            }
            for (subject, least) in [&mut *fresh, &mut *aged].into_iter().zip(&mut least) {
                *least = (*least).min(time(|| operation(subject, times)));
            }
        }
        let [fresh, aged] = least.map(|time| time / times);
        let ratio = aged.as_secs_f64() / fresh.as_secs_f64();
        let over = ratio > MOST && aged > TOO_SHORT;
        fine &= !over;
        let mark = if over { "  over 2" } else { "" };
        println!("  {name:<10} {fresh:>12.1?} {aged:>12.1?} {ratio:>8.2}{mark}");
    }
    fine || !check
}

fn history(history: &History, scale: f64, longest: Duration, check: bool) -> bool {
    let steps = ((history.steps as f64 * scale) as u64).max(1);
    let mut fresh = Subject::new(None);
    let mut aged = Subject::new(history.table_bytes);
    let (clock, mut done) = (SystemClock::default(), 0);
    aged.fill(ROWS);
    while done < steps && clock.monotonic() < longest {
        (history.step)(&mut aged, done);
        done += 1;
    }
    let took = clock.monotonic();
    fresh.fill(ROWS);
    if history.name == "tables" {
        (0..done).for_each(|n| table_rows(&fresh, n));
    }
    for subject in [&mut fresh, &mut aged] {
        for _ in subject.queue.1 - subject.queue.0..100 {
            subject.push();
        }
    }
    println!(
        "{}: {done} of {steps} steps in {:.1} s; an operation fresh, after it, and the ratio",
        history.name,
        took.as_secs_f64()
    );
    measure(&mut fresh, &mut aged, check)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<f64>().ok()
    };
    let scale = value("--scale").unwrap_or(1.0);
    let longest = Duration::from_secs_f64(value("--seconds").unwrap_or(600.0));
    let check = arguments.iter().any(|argument| argument == "--check");
    let named = |name: &str| arguments.iter().any(|argument| argument == name);
    let all = !HISTORIES.iter().any(|history| named(history.name));
    let mut fine = true;
    for one in HISTORIES.iter().filter(|one| all || named(one.name)) {
        fine &= history(one, scale, longest, check);
    }
    if !fine {
        std::process::exit(1);
    }
}
