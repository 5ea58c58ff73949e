//! A bank: transfers between accounts by many threads, repeatedly killed with SIGKILL.
//!
//! ```text
//! cargo run --release --example transactions
//! ```
//!
//! A child process moves money in transactions and reports over a pipe how many transfers were
//! acknowledged. The parent kills it, opens the database and counts: the total must be
//! unchanged, and no acknowledged transfer may be missing. It exits non-zero if anything
//! differs.
#![allow(
    clippy::disallowed_methods,
    reason = "this program runs threads and a real clock; the rule is for the engine"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use terrace::{Bytes, Db, Error, Isolation};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const ACCOUNTS: u64 = 100;
const BALANCE: i64 = 1_000;
const THREADS: u64 = 4;
const ROUNDS: u32 = 3;
const TIME: Duration = Duration::from_millis(700);

fn number(value: Option<Bytes>) -> i64 {
    let bytes = value.and_then(|value| <[u8; 8]>::try_from(&value[..]).ok());
    i64::from_le_bytes(bytes.unwrap_or_default())
}

/// Moves an amount if it is there; counts the transfer in the same transaction, in another
/// keyspace.
fn transfer(db: &Db, from: u64, to: u64, amount: i64) -> terrace::Result<()> {
    let counts = db.keyspace("transfers")?;
    db.transact(|tx| {
        let left = number(tx.get(from.to_be_bytes())?) - amount;
        if left < 0 {
            return Err(Error::other("not covered")); // Nothing is written.
        }
        tx.put(from.to_be_bytes(), left.to_le_bytes())?;
        let sum = number(tx.get(to.to_be_bytes())?) + amount;
        tx.put(to.to_be_bytes(), sum.to_le_bytes())?;
        // One counter an account: one for all would make every two transfers conflict.
        let counts = tx.keyspace(&counts);
        let count = number(counts.get(from.to_be_bytes())?) + 1;
        counts.put(from.to_be_bytes(), count.to_le_bytes())
    })
}

/// The child: transfers until it is killed.
fn work(dir: &Path) -> Result<(), Failure> {
    let db = Db::open(dir)?;
    thread::scope(|scope| {
        for id in 0..THREADS {
            let db = &db;
            scope.spawn(move || {
                let mut random = id + 1;
                loop {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(99);
                    let (from, to) = ((random >> 20) % ACCOUNTS, (random >> 40) % ACCOUNTS);
                    let amount = (random >> 55) as i64;
                    match transfer(db, from, to, amount) {
                        Ok(()) if writeln!(std::io::stdout(), "done").is_err() => return,
                        Ok(()) => {}
                        Err(error) if error.kind() == terrace::ErrorKind::Other => {}
                        Err(error) => return eprintln!("transfer failed: {error}"),
                    }
                }
            });
        }
    });
    Ok(())
}

/// All balances and all counts, read as one state.
fn totals(db: &Db) -> terrace::Result<(i64, i64)> {
    let tx = db.transaction().isolation(Isolation::Snapshot);
    let mut totals = (0, 0);
    for entry in tx.iter() {
        totals.0 += number(Some(entry?.1));
    }
    for entry in tx.keyspace(&db.keyspace("transfers")?).iter() {
        totals.1 += number(Some(entry?.1));
    }
    Ok(totals)
}

/// Lets a child work for a while and kills it; how many transfers it was promised.
fn killed(dir: &Path) -> Result<i64, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--child")
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let pipe = child.stdout.take().ok_or("the child has no output")?;
    let reader = thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).count());
    let started = Instant::now();
    while started.elapsed() < TIME {
        thread::sleep(Duration::from_millis(10));
        if child.try_wait()?.is_some() {
            return Err("the child ended by itself".into());
        }
    }
    child.kill()?; // SIGKILL
    child.wait()?;
    Ok(reader.join().map_err(|_| "the reader panicked")? as i64)
}

fn main() -> Result<(), Failure> {
    let args: Vec<_> = std::env::args_os().collect();
    if let [_, flag, dir] = &args[..]
        && flag == "--child"
    {
        return work(Path::new(dir));
    }
    let folder = tempfile::tempdir()?;
    let db = Db::open(folder.path())?;
    db.transact(|tx| {
        for account in 0..ACCOUNTS {
            tx.put(account.to_be_bytes(), BALANCE.to_le_bytes())?;
        }
        Ok(())
    })?;
    db.close()?;
    let mut promised = 0;
    for round in 1..=ROUNDS {
        promised += killed(folder.path())?;
        let db = Db::open(folder.path())?;
        let (money, transfers) = totals(&db)?;
        db.close()?;
        println!(
            "killed {round} times: {promised} transfers promised, {transfers} found, {money} in all"
        );
        if money != ACCOUNTS as i64 * BALANCE {
            return Err(format!("the accounts hold {money}").into());
        }
        // Of those that were under way when it was killed, any may be there.
        let more = transfers - promised;
        if more < 0 || more > i64::from(round) * THREADS as i64 {
            return Err(format!("{promised} transfers were promised and {transfers} found").into());
        }
    }
    Ok(())
}
