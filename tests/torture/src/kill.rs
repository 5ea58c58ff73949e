//! `kill`: processes that write die by SIGKILL, at a random time or at their n-th changing call, and the database
//! that each leaves is opened and checked.
//!
//! A round is one database and the lives that it sees one after the other. Between two of them it
//! is opened for reading only, which leaves everything as the dead process left it, so that the
//! next one recovers and is killed while it does; or it is opened as usual and goes on from there;
//! or both.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use terrace_kit::Random;

use crate::child::{Ended, Writing};
use crate::hook::Place;
use crate::ledger::{Crash, Ledger};
use crate::rounds::{self, Tally};
use crate::steps::Life;
use crate::writer::{Spring, Task, scenario};
use crate::{Failure, Outcome, Plan};

/// Lives of a database.
const LIVES: u64 = 40;
/// A process that meets no end of its own is killed by then.
const LONGEST: Duration = Duration::from_millis(100);
const SIGKILL: i32 = 9;

pub(crate) fn run(plan: &Plan) -> Outcome {
    rounds::run_waiting(plan, |seed, tally| {
        let dir = tempfile::Builder::new().prefix("torture-kill-").tempdir();
        let dir = dir.expect("a temporary directory");
        round(seed, &dir.path().join("db"), tally).map_err(|what| Failure {
            // A real process cannot be run again to the microsecond: what it left stays for a look.
            what: format!("{what}\nthe database is in {}", dir.keep().display()),
            reproduce: format!("--seed {seed} --at kill --for 60s"),
        })
    })
}

fn round(seed: u64, dir: &Path, tally: &Tally) -> Result<(), String> {
    let r = &mut Random::new(seed ^ 0x6b69_6c6c);
    let mut ledger = Ledger::new(false);
    tally.count("databases");
    for number in 1..=LIVES {
        if tally.ended() {
            break;
        }
        let life = Life::new(seed, number);
        let ended = live(seed, number, dir, r, tally);
        let told = |what: String| {
            let errors = ended.errors.trim_end();
            format!("seed {seed}, life {number}: {what}\n{errors}")
        };
        let lived = ledger.lived(&life, &ended.said).map_err(told)?;
        match ended.signal {
            Some(SIGKILL) => {
                tally.done(1);
                tally.count("kills");
                match lived.opened {
                    true => tally.count("kills while writing"),
                    false => tally.count("kills while opening"),
                }
            }
            None if lived.closed => tally.count("lives that closed the database"),
            _ => return Err(told(format!("the process ended by {}", ended.status))),
        }
        tally.add([("steps acknowledged", lived.returned)]);
        check(&mut ledger, &life, dir, r, tally).map_err(told)?;
    }
    Ok(())
}

/// One process, from its start to its end.
fn live(seed: u64, life: u64, dir: &Path, r: &mut Random, tally: &Tally) -> Ended {
    let by_call = r.one_in(2);
    let reach = [12, 60, 400, 3000][r.below(4)];
    let task = Task {
        dir: dir.into(),
        seed,
        life,
        at: if by_call {
            1 + r.below(reach) as u64
        } else {
            0
        },
        place: Place::ALL[r.below(3)],
        spring: Spring::Kill,
    };
    let range = [6_000, 20_000, 80_000][r.below(3)];
    let longest = match by_call {
        true => LONGEST,
        false => Duration::from_micros(r.below(range) as u64),
    };
    let started = Instant::now();
    let mut writing = Writing::start(&task);
    while started.elapsed() < longest && !writing.is_over() {
        let left = longest.saturating_sub(started.elapsed());
        thread::sleep(left.min(Duration::from_millis(1)));
    }
    if writing.is_over() {
        if by_call {
            tally.count("kills at the n-th changing call");
        }
    } else {
        writing.kill();
    }
    writing.wait()
}

/// Opens what is left and checks it, without a change, or for good, or both in turn.
fn check(
    ledger: &mut Ledger,
    life: &Life,
    dir: &Path,
    r: &mut Random,
    tally: &Tally,
) -> Result<(), String> {
    let options = scenario(dir).options(life.options_seed());
    let (look, open) = [(true, false), (false, true), (true, true)][r.below(3)];
    if look {
        match options.clone().read_only(true).open(dir) {
            Ok(db) => {
                ledger.check(&db, Crash::Kill)?;
                db.close().map_err(|e| format!("closing a reader: {e:?}"))?;
            }
            // A process that died young has not made one.
            Err(error) if error.kind() == terrace::ErrorKind::NotFound => ledger.check_nothing()?,
            Err(error) => return Err(format!("opening it for reading: {error:?}")),
        }
        tally.count("checks without a change");
    }
    if open {
        let db = options.open(dir).map_err(|e| format!("opening: {e:?}"))?;
        ledger.check(&db, Crash::Kill)?;
        db.health().map_err(|e| format!("health: {e:?}"))?;
        if r.one_in(2) {
            db.close().map_err(|e| format!("closing: {e:?}"))?;
        }
        tally.count("checks behind a recovery");
    }
    Ok(())
}
