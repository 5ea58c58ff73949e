//! Mode `endure`: databases under load for as long as wanted, watched for calls that hang and resources that grow
//!
//! A round is a process of its own. It opens one to three databases with little memory, loads them
//! with up to 64 threads over the whole API, closes and opens them in between, and looks at them
//! idle at the end. The disk may be slow or stall, and descriptors and threads may be few. What a
//! round does is drawn from its seed (`scenario.rs`); the half of its threads with even numbers has
//! a focus, such as range deletes or large values.
//!
//! It checks that
//! - no call takes longer than its bound apart from what the simulated disk adds (`watch.rs`), and
//!   every job ends;
//! - nothing grows over its bound, in samples taken each second (`bounds.rs`, stated for users in
//!   `docs/limits.md`);
//! - an idle database rests (`idle.rs`);
//! - every answer is right: each thread owns keys and knows what they hold (`worker.rs`).
//!
//! What is counted: `rounds` (the budget is a number of these), `calls`, `samples`, `reopens`,
//! `calls refused` for want of threads. `--at` fixes parts of the scenario of every round, such as
//! `memory=4,threads=32,focus=fill`; a failure prints all of them. Threads depend on time: a
//! failure may take a few rounds to come back. With `TERRACE_GDB` set and `gdb` installed, a call
//! that hangs is printed with the stacks of all threads.

use std::io::Read;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Budget, Counts, Failure, Outcome, Plan, skip};

mod bounds;
mod disk;
mod idle;
mod keys;
mod round;
mod sample;
mod scenario;
mod side;
mod watch;
mod worker;

use bounds::Share;
pub(crate) use round::child_main;
use scenario::Scenario;

/// The argument that makes this program the process of a round.
pub(crate) const ARGUMENT: &str = "@endure";

/// What the system's allocator keeps of memory that was given back is not the databases'. It can be
/// asked to return it (`sample::process`), but of its arenas it does so for the first alone.
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

/// How long a round may take beside its load: opening, the last checks, idling, and a hanging call.
const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) fn run(plan: &Plan) -> Outcome {
    let mut counts = Counts::new();
    let mut shares = Vec::new();
    let mut rounds = 0;
    let seconds = match plan.budget {
        Budget::Count(_) => 8,
        Budget::For(time) => (time.as_secs() / 6).clamp(10, 300),
    };
    while plan.goes_on(rounds) {
        let seed = plan.seed.wrapping_add(rounds);
        let drawn = Scenario::of(seed, seconds);
        let scenario = drawn.with(plan.at.as_deref().unwrap_or_default());
        let scenario = scenario.map_err(|what| failure(seed, "", what))?;
        if plan.progress {
            eprintln!(
                "{:>6.0} s  seed {seed}: {scenario}",
                plan.elapsed().as_secs_f64()
            );
        }
        let said =
            round(&scenario, seed).map_err(|what| failure(seed, &scenario.to_string(), what))?;
        add(&mut counts, &mut shares, &said, plan.progress);
        rounds += 1;
    }
    counts.insert("rounds".into(), rounds);
    for share in &shares {
        println!("  {share}");
    }
    Ok(counts)
}

fn failure(seed: u64, at: &str, what: String) -> Failure {
    Failure {
        what,
        reproduce: format!("endure --seed {seed} --at {at} --count 3"),
    }
}

/// Adds what a round counted, and its shares of the bounds where they are the highest; shows the
/// rest of what it says.
fn add(counts: &mut Counts, shares: &mut Vec<Share>, said: &str, show: bool) {
    for line in said.lines() {
        if let Some(share) = Share::parse(line) {
            match shares.iter_mut().find(|known| known.name == share.name) {
                Some(known) if known.of_one() >= share.of_one() => {}
                Some(known) => *known = share,
                None => shares.push(share),
            }
            continue;
        }
        let Some((count, name)) = line.strip_prefix("count ").and_then(|l| l.split_once(' '))
        else {
            if show {
                eprintln!("          {line}");
            }
            continue;
        };
        *counts.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap_or(0);
    }
}

/// Runs one round; what it says.
fn round(scenario: &Scenario, seed: u64) -> Result<String, String> {
    let home = tempfile::Builder::new().prefix("torture-endure-").tempdir();
    let home = home.map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = match scenario.few_threads() {
        true => match nobody(home.path())? {
            Some(wrap) => wrap,
            None => return Ok(String::new()),
        },
        false => Command::new("env"),
    };
    command.env(ARENAS.0, ARENAS.1);
    command.arg(program).arg(ARGUMENT).arg(scenario.to_string());
    command.arg(seed.to_string()).arg(home.path());
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| format!("starting a round: {error}"))?;
    let out = child.stdout.take().map(listen);
    let errors = child.stderr.take().map(listen);
    let started = Instant::now();
    let longest = PATIENCE + Duration::from_secs(scenario.seconds);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if started.elapsed() < longest => thread::sleep(Duration::from_millis(20)),
            _ => {
                child.kill().ok();
                child.wait().ok();
                break None;
            }
        }
    };
    let text = |heard: Option<thread::JoinHandle<String>>| heard.and_then(|h| h.join().ok());
    let (said, errors) = (
        text(out).unwrap_or_default(),
        text(errors).unwrap_or_default(),
    );
    match status {
        Some(status) if status.success() => Ok(said),
        Some(status) => Err(format!("{errors}{said}({status})")),
        None => Err(format!(
            "{errors}{said}the round did not end in {longest:?}"
        )),
    }
}

fn listen(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).ok();
        text
    })
}

/// A command that runs another as a user of its own, whose threads can be limited; gives it `home`.
fn nobody(home: &Path) -> Result<Option<Command>, String> {
    let user = 50_000 + std::process::id() % 10_000;
    let ids = [format!("--reuid={user}"), format!("--regid={user}")];
    let wrapped = || {
        let mut command = Command::new("setpriv");
        command.args(&ids).arg("--clear-groups");
        command
    };
    let can = wrapped().arg("true").output();
    if !can.is_ok_and(|run| run.status.success()) {
        skip::skip(
            "endure with few threads",
            "it needs root and setpriv (package util-linux)",
        )?;
        return Ok(None);
    }
    chown(home, Some(user), Some(user)).map_err(|error| error.to_string())?;
    Ok(Some(wrapped()))
}
