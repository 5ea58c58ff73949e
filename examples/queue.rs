//! A queue: tasks are pushed at one end and popped from the other, at constant cost.
//!
//! ```text
//! cargo run --release --example queue -- [PAIRS]
//! ```
//!
//! Keys are ascending numbers, so the first key is the oldest task. `pop_first` finds, removes
//! and returns it atomically: two workers never get the same task. The keys before the head are
//! tombstones; a queue that has to scan them gets slower with every pop. PAIRS (100,000) times
//! a task is pushed and one is popped, with a thousand waiting. The program prints the cost of
//! each tenth, and fails if a task is lost or popped twice, or if the last tenth costs over
//! twice as much as the first.
#![allow(
    clippy::disallowed_methods,
    reason = "this program reads a real clock; the rule is for the engine"
)]

use std::thread;
use std::time::{Duration, Instant};

use terrace::{Db, Durability, Keyspace, Options};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const WAITING: u64 = 1_000;
const TENTHS: u64 = 10;

fn push(queue: &Keyspace, number: u64) -> terrace::Result<()> {
    queue.put(number.to_be_bytes(), format!("task {number}"))?;
    Ok(())
}

/// Four workers take what there is: each task once.
fn worked_case() -> Result<(), Failure> {
    let db = Db::in_memory()?;
    let queue = db.keyspace("tasks")?;
    (0..1_000).try_for_each(|number| push(&queue, number))?;
    let work = || {
        let mut taken = Vec::new();
        while let Some((key, _task)) = queue.pop_first()? {
            taken.push(key);
        }
        Ok::<_, terrace::Error>(taken)
    };
    let mut taken = thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().map_err(|_| "a worker panicked")??);
        }
        Ok::<_, Failure>(all)
    })?;
    taken.sort();
    taken.dedup();
    if taken.len() != 1_000 {
        return Err(format!("{} tasks of 1000", taken.len()).into());
    }
    println!("four workers took 1000 tasks, each once");
    Ok(())
}

fn main() -> Result<(), Failure> {
    let pairs: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(100_000), |pairs| pairs.parse())?;
    worked_case()?;
    let home = tempfile::tempdir()?;
    let options = Options::new().durability(Durability::Buffered);
    let db = options.open(home.path().join("db"))?;
    let queue = db.keyspace("tasks")?;
    (0..WAITING).try_for_each(|number| push(&queue, number))?;
    let (mut head, mut costs) = (0, Vec::new());
    for tenth in 0..TENTHS {
        let (mut pushing, mut popping) = (Duration::ZERO, Duration::ZERO);
        let count = (pairs / TENTHS).max(1);
        for _ in 0..count {
            let start = Instant::now();
            push(&queue, head + WAITING)?;
            let between = Instant::now();
            let popped = queue.pop_first()?;
            popping += between.elapsed();
            pushing += between - start;
            let expected = format!("task {head}");
            if popped.is_none_or(|(key, task)| key[..] != head.to_be_bytes() || task != expected) {
                return Err(format!("not {expected}").into());
            }
            head += 1;
        }
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        println!(
            "tenth {:>2}: {:.2} us a push, {:.2} us a pop",
            tenth + 1,
            each(pushing),
            each(popping)
        );
        costs.push(each(popping));
    }
    if queue.count(..)? != WAITING {
        return Err("tasks are missing, or came back".into());
    }
    let (first, last) = (costs.first().copied(), costs.last().copied());
    let growth = last.unwrap_or(0.0) / first.unwrap_or(1.0);
    println!("the last tenth of the pops cost {growth:.2} times the first");
    db.close()?;
    match growth < 2.0 {
        true => Ok(()),
        false => Err("a pop costs more as the queue goes on".into()),
    }
}
