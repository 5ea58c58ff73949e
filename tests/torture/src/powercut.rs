//! `powercut`: a real ext4 and a real XFS lose power while a process writes to a database on them; they are mounted
//! again and the database is checked.
//!
//! A round is one file system with one database. The cut comes at a random time, or from the
//! writing process itself at its n-th changing call; before it, now and then, single files or the
//! whole file system are synced behind the database's back, as a kernel does that writes back what
//! it likes. Between cuts processes are killed, whose leftovers are then read, gone on from, or cut
//! away.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use terrace::ErrorKind;
use terrace_kit::Random;

use crate::child::{Ended, Writing};
use crate::disk::{self, Disk, KINDS};
use crate::hook::Place;
use crate::ledger::{Crash, Ledger};
use crate::rounds::{self, Tally};
use crate::steps::Life;
use crate::writer::{Spring, Task, scenario};
use crate::{Counts, Failure, Outcome, Plan, skip, sys};

/// Cuts of a file system.
const CUTS: usize = 40;
/// A process that meets no end of its own is ended by then.
const LONGEST: Duration = Duration::from_millis(60);
const SIGKILL: i32 = 9;
/// A page of a mapped table could not be read any more: what the documentation of `IoMode` warns
/// of.
const SIGBUS: i32 = 7;

pub(crate) fn run(plan: &Plan) -> Outcome {
    if let Some(why) = disk::missing() {
        let needed = "it needs root, loop devices, mkfs.ext4 and mkfs.xfs (package xfsprogs)";
        skip::skip("powercut", &format!("{needed}: {why}")).map_err(|what| Failure {
            what,
            reproduce: "powercut --count 1".to_owned(),
        })?;
        return Ok(Counts::from([("skipped".to_owned(), 1)]));
    }
    rounds::run_waiting(plan, |seed, tally| {
        let home = tempfile::Builder::new().prefix("torture-cut-").tempdir();
        let home = home.expect("a temporary directory");
        // The mounts are those of a thread, and go with it.
        let round = || {
            sys::own_mounts().map_err(|error| format!("mounts of its own: {error}"))?;
            let mut round = Round::new(seed, home.path(), tally)?;
            round.run().map_err(|what| round.keep(&what))
        };
        let result = thread::scope(|scope| scope.spawn(round).join());
        let result = result.unwrap_or_else(|_| Err("a panic".to_owned()));
        result.map_err(|what| Failure {
            what: format!("seed {seed}: {what}"),
            reproduce: format!("--seed {seed} --at cut --for 60s"),
        })
    })
}

struct Round<'a> {
    seed: u64,
    disk: Disk,
    random: Random,
    ledger: Ledger,
    life: u64,
    name: &'static str,
    tally: &'a Tally,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    /// The process dies and the power goes with it.
    KillAndCut,
    Cut,
    /// From within, at a changing call.
    CutAtCall,
}

impl Round<'_> {
    fn new<'a>(seed: u64, home: &Path, tally: &'a Tally) -> Result<Round<'a>, String> {
        let mut random = Random::new(seed ^ 0x6375_7473);
        let kind = KINDS[(seed % KINDS.len() as u64) as usize];
        random.number();
        tally.count(&format!("file systems, {}", kind.name));
        Ok(Round {
            seed,
            disk: Disk::new(kind, home)?,
            random,
            ledger: Ledger::new(true),
            life: 0,
            name: kind.name,
            tally,
        })
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..CUTS {
            if self.tally.ended() {
                break;
            }
            while self.random.one_in(3) {
                self.live(End::Kill)?;
            }
            let end = [End::KillAndCut, End::Cut, End::CutAtCall, End::CutAtCall];
            let end = end[self.random.below(end.len())];
            self.live(end)?;
            self.tally.done(1);
            self.tally.count("cuts");
            self.tally.count(&format!("cuts of {}", self.name));
        }
        Ok(())
    }

    fn live(&mut self, end: End) -> Result<(), String> {
        self.life += 1;
        let life = Life::new(self.seed, self.life);
        let (ended, cut, task) = self.process(end)?;
        let errors = ended.errors.trim_end().to_owned();
        let number = self.life;
        let told =
            move |what: String| format!("life {number}, {end:?}: {what}\n{task:?}\n{errors}");
        let lived = self.ledger.lived(&life, &ended.said).map_err(&told)?;
        self.tally.add([("steps acknowledged", lived.returned)]);
        if !lived.opened {
            self.tally.count("ends while opening");
        }
        match ended.signal {
            Some(SIGKILL) => self.tally.count("kills"),
            Some(SIGBUS) if cut => self.tally.count("SIGBUS after the cut"),
            None if lived.closed => self.tally.count("lives that closed the database"),
            None if lived.failed && cut => self.tally.count("lives that met the cut"),
            _ => return Err(told(format!("the process ended by {}", ended.status))),
        }
        if lived.closed && !cut {
            self.ledger.closed_well();
        }
        if cut {
            self.disk.again().map_err(&told)?;
        }
        let crash = if cut { Crash::Cut } else { Crash::Kill };
        self.check(&life, crash).map_err(&told)
    }

    /// One process, from its start to its end; true if the power was cut, and what it was told.
    fn process(&mut self, end: End) -> Result<(Ended, bool, Task), String> {
        let r = &mut self.random;
        let flags = if r.one_in(3) { 1 } else { 2 };
        let reach = [12, 60, 400, 2000][r.below(4)];
        let task = Task {
            dir: self.disk.path().join("db"),
            seed: self.seed,
            life: self.life,
            at: match end {
                End::CutAtCall => 1 + r.below(reach) as u64,
                _ => 0,
            },
            place: Place::ALL[r.below(3)],
            spring: Spring::Cut(self.disk.path().into(), flags),
        };
        let range = [6_000, 20_000, 60_000][r.below(3)];
        let longest = match end {
            End::CutAtCall => LONGEST,
            _ => Duration::from_micros(r.below(range) as u64),
        };
        let meddles = r.one_in(2);
        let started = Instant::now();
        let mut writing = Writing::start(&task);
        while started.elapsed() < longest && !writing.is_over() {
            let left = longest.saturating_sub(started.elapsed());
            thread::sleep(left.min(Duration::from_millis(1)));
        }
        if meddles {
            meddle(&task.dir, &mut self.random);
        }
        match end {
            End::Kill => writing.kill(),
            End::KillAndCut => {
                writing.kill();
                self.disk.cut(flags)?;
            }
            // The process may have done it, or have ended well before it came to that call.
            End::Cut | End::CutAtCall => self.disk.cut(flags)?,
        }
        let patience = Instant::now();
        while !writing.is_over() {
            if patience.elapsed() > Duration::from_secs(20) {
                writing.kill();
                return Err(format!(
                    "it goes on without a disk: {}",
                    writing.wait().errors
                ));
            }
            thread::sleep(Duration::from_micros(500));
        }
        Ok((writing.wait(), end != End::Kill, task))
    }

    fn check(&mut self, life: &Life, crash: Crash) -> Result<(), String> {
        let dir = self.disk.path().join("db");
        let options = scenario(&dir).options(life.options_seed());
        let (look, open) = [(true, false), (false, true), (true, true)][self.random.below(3)];
        if look {
            match options.clone().read_only(true).open(&dir) {
                Ok(db) => {
                    self.ledger.check(&db, crash)?;
                    db.close().map_err(|e| format!("closing a reader: {e:?}"))?;
                }
                // The process ended before it had made one for good.
                Err(error) if error.kind() == ErrorKind::NotFound => self.ledger.check_nothing()?,
                Err(error) => return Err(format!("opening it for reading: {error:?}")),
            }
        }
        if open {
            let db = options.open(&dir).map_err(|e| format!("opening: {e:?}"))?;
            self.ledger.check(&db, crash)?;
            db.health().map_err(|e| format!("health: {e:?}"))?;
            db.close().map_err(|e| format!("closing: {e:?}"))?;
            self.ledger.closed();
        }
        self.tally.count("checks");
        Ok(())
    }

    /// Copies what the database left to where it stays for a look.
    fn keep(&self, what: &str) -> String {
        let copied = tempfile::Builder::new()
            .prefix("torture-kept-")
            .tempdir_in("/var/tmp");
        let Ok(kept) = copied else {
            return what.to_owned();
        };
        let from = self.disk.path().join("db");
        for entry in std::fs::read_dir(&from).into_iter().flatten().flatten() {
            std::fs::copy(entry.path(), kept.path().join(entry.file_name())).ok();
        }
        format!(
            "{} {what}\nits files are in {}",
            self.name,
            kept.keep().display()
        )
    }
}

/// Writes back something of the database: what a kernel does by itself, when it likes.
fn meddle(dir: &Path, r: &mut Random) {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = names.map(|entry| entry.path()).collect();
    names.sort();
    for _ in 0..1 + r.below(3) {
        if names.is_empty() {
            return;
        }
        let path = names.swap_remove(r.below(names.len()));
        let Ok(file) = std::fs::File::open(&path) else {
            continue; // It is gone.
        };
        if file.metadata().is_ok_and(|found| found.size() > 0) {
            file.sync_data().ok();
        }
    }
}
