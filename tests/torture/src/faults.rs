//! Every call to the file system fails: with every error, once and from then on, also halfway and late.
//!
//! One workload that opens, writes, flushes, merges, is killed, is dropped and closes is run over
//! and over, each time with a fault at the next call, until a run meets none. Whatever fails: no
//! panic, no error that calls a bad disk damage, no wrong answer, nothing acknowledged that a crash
//! then takes. A database that is read-only says why, goes on reading and writes nothing more; any
//! other goes on by itself once the fault is over.
//!
//! Lines that are reached only behind a fault meet one in runs with two.
//!
//! A failure is reproduced by `--seed S --at CASE/CALL`, with a case such as `eio-once`, or
//! `--at CASE/CALL@FILE:LINE:COLUMN:CALL` where a second fault came at that line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use terrace::vfs::{Call, CrashPolicy, Fault, FaultVfs, ImageKind, MemVfs, Op as Calls, Site};
use terrace::{Db, Error, ErrorKind};
use terrace_kit::{
    Action, Allowed, Crash, Generator, Op, Oracle, Outcome, Profile, Random, Recovery, Runner,
    Scenario, Trouble, Value, Write,
};

use crate::parallel::{all_of, caught};
use crate::{Counts, Failure, Plan};

/// What happens to calls of these kinds (all, if none is named) from the chosen one on.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    fault: Fault,
    sticky: bool,
    ops: &'static [Calls],
}

impl Case {
    /// Behind how many steps from the fault on the machine is stopped.
    fn watched(&self) -> usize {
        match self.fault {
            Fault::SyncLost => 8,
            _ => 1,
        }
    }
}

/// The crash that keeps nothing but what was promised.
const HARSHEST: Crash = Crash::cut(CrashPolicy::DropAll);

/// Errors that every call may give, by their numbers on Linux.
const ERRORS: [(&str, &str, i32); 7] = [
    ("eio-once", "eio-for-good", 5),
    ("enospc-once", "enospc-for-good", 28),
    ("eintr-once", "eintr-for-good", 4),
    ("eagain-once", "eagain-for-good", 11),
    ("emfile-once", "emfile-for-good", 24),
    ("edquot-once", "edquot-for-good", 122),
    ("eacces-once", "eacces-for-good", 13),
];

/// Faults that fit some calls only, or change what they do.
const OTHERS: [Case; 9] = [
    other("late-eio", Fault::Late(5), false, &[]),
    other("short-read-once", Fault::ShortRead, false, &[Calls::Read]),
    other("short-reads", Fault::ShortRead, true, &[Calls::Read]),
    other(
        "short-write-once",
        Fault::ShortWrite,
        false,
        &[Calls::Write],
    ),
    other("short-writes", Fault::ShortWrite, true, &[Calls::Write]),
    other("torn-write", Fault::TornWrite, false, &[Calls::Write]),
    other("torn-writes", Fault::TornWrite, true, &[Calls::Write]),
    other("lost-sync", Fault::SyncLost, false, &[Calls::SyncData]),
    other("lost-syncs", Fault::SyncLost, true, &[Calls::SyncData]),
];

const fn other(name: &'static str, fault: Fault, sticky: bool, ops: &'static [Calls]) -> Case {
    Case {
        name,
        fault,
        sticky,
        ops,
    }
}

fn cases() -> Vec<Case> {
    let errors = ERRORS.iter().flat_map(|&(once, for_good, number)| {
        let fault = Fault::Errno(number);
        [
            other(once, fault, false, &[]),
            other(for_good, fault, true, &[]),
        ]
    });
    OTHERS.into_iter().chain(errors).collect()
}

/// Runs the mode. It counts rounds: every case at every call of one workload.
pub(crate) fn run(plan: &Plan) -> crate::Outcome {
    let mut counts = Counts::new();
    if let Some(at) = &plan.at {
        one(plan.seed, at)?;
        counts.insert("runs".into(), 1);
        return Ok(counts);
    }
    let mut rounds = 0;
    while plan.goes_on(rounds) {
        let seed = plan.seed.wrapping_add(rounds);
        round(plan, seed, &mut counts)?;
        rounds += 1;
    }
    counts.insert("rounds".into(), rounds);
    Ok(counts)
}

/// The run that `at` names.
fn one(seed: u64, at: &str) -> Result<(), Failure> {
    let wrong = || Failure {
        what: format!("--at {at}: not of the form CASE/CALL or CASE/CALL@LINE"),
        reproduce: String::new(),
    };
    let (name, place) = at.split_once('/').ok_or_else(wrong)?;
    let (call, line) = match place.split_once('@') {
        Some((call, line)) => (call, Some(line)),
        None => (place, None),
    };
    let all = cases();
    let case = all.iter().find(|case| case.name == name);
    let place = Place {
        case: case.ok_or_else(wrong)?,
        call: call.parse().map_err(|_| wrong())?,
        line: line.map(str::to_owned),
    };
    faulted(&place, seed, &Mutex::default())?;
    Ok(())
}

/// Where a run meets its fault.
#[derive(Clone, Debug)]
struct Place<'a> {
    case: &'a Case,
    /// At the so-many-th call that fits.
    call: u64,
    /// And once more, with `EIO`, at this line.
    line: Option<String>,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.case.name, self.call)?;
        match &self.line {
            Some(line) => write!(f, "@{line}"),
            None => Ok(()),
        }
    }
}

/// The lines that called, and those of them that met a fault.
#[derive(Debug, Default)]
struct Lines {
    /// In runs that met none.
    plain: BTreeSet<Site>,
    /// In which runs, the first ones.
    seen: BTreeMap<Site, Vec<(&'static str, u64)>>,
    hit: BTreeSet<Site>,
}

impl Lines {
    fn add(&mut self, other: Lines) {
        self.plain.extend(other.plain);
        self.hit.extend(other.hit);
        for (site, runs) in other.seen {
            runs.into_iter().for_each(|run| self.saw(site, run));
        }
    }

    fn saw(&mut self, site: Site, run: (&'static str, u64)) {
        let runs = self.seen.entry(site).or_default();
        if runs.len() < 16 {
            runs.push(run);
        }
    }
}

fn round(plan: &Plan, seed: u64, counts: &mut Counts) -> Result<(), Failure> {
    let whole = Mutex::new(Lines::default());
    let runs = AtomicU64::new(0);
    let cases = cases();
    all_of(&cases, |case| {
        let lines = Mutex::new(Lines::default());
        let mut place = Place {
            case,
            call: 1,
            line: None,
        };
        while faulted(&place, seed, &lines)? {
            place.call += 1;
            let n = runs.fetch_add(1, Ordering::Relaxed);
            plan.show(|| format!("seed {seed}: {n} faults, now {}", case.name));
        }
        let lines = into(lines);
        let fits = |site: &&Site| case.ops.is_empty() || case.ops.contains(&site.op);
        let missed = lines.plain.difference(&lines.hit).filter(fits);
        all_met(seed, case.name, missed.copied())?;
        lock(&whole).add(lines);
        Ok(())
    })?;
    let mut whole = into(whole);
    let pairs = second_faults(seed, &cases, &mut whole)?;
    let missed = whole.seen.keys().filter(|site| !whole.hit.contains(site));
    all_met(seed, "any fault", missed.copied())?;
    *counts.entry("faults".into()).or_default() += runs.into_inner();
    *counts.entry("pairs of faults".into()).or_default() += pairs;
    let lines = counts.entry("call sites".into()).or_default();
    *lines = (*lines).max(whole.hit.len() as u64);
    Ok(())
}

/// Runs with a second fault at each line that only came after a first, until none is left.
fn second_faults(seed: u64, cases: &[Case], whole: &mut Lines) -> Result<u64, Failure> {
    let mut tried = BTreeSet::new();
    loop {
        let open = |(site, _): &(&Site, _)| !whole.hit.contains(*site);
        let left = whole.seen.iter().filter(open).find_map(|(site, runs)| {
            let run = runs.iter().find(|run| !tried.contains(&(*site, **run)));
            run.map(|run| (*site, *run))
        });
        let Some((site, run)) = left else {
            return Ok(tried.len() as u64);
        };
        tried.insert((site, run));
        let (name, call) = run;
        let line = Some(shown(&site));
        if let Some(case) = cases.iter().find(|case| case.name == name) {
            let lines = Mutex::default();
            faulted(&Place { case, call, line }, seed, &lines)?;
            whole.add(into(lines));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn all_met(seed: u64, what: &str, missed: impl Iterator<Item = Site>) -> Result<(), Failure> {
    let missed: Vec<String> = missed.map(|site| site.to_string()).collect();
    match missed.is_empty() {
        true => Ok(()),
        false => Err(Failure {
            what: format!("lines that did not meet {what}: {}", missed.join(", ")),
            reproduce: format!("--seed {seed}"),
        }),
    }
}

/// A line and what it calls, as `--at` has it: one line may make files and open them.
fn shown(site: &Site) -> String {
    format!("{}:{}:{}:{:?}", site.file, site.line, site.column, site.op)
}

/// Runs the workload with the fault; false if there was no such call.
fn faulted(place: &Place<'_>, seed: u64, lines: &Mutex<Lines>) -> Result<bool, Failure> {
    let met = caught(|| Run::new(place, seed).whole(lines));
    met.map_err(|what| Failure {
        what: format!("{place}: {what}"),
        reproduce: format!("--seed {seed} --at {place}"),
    })
}

/// What is done to the database, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Open,
    Do(Op),
    /// The process dies and another opens the database.
    Kill,
    /// The last handle is dropped.
    Drop,
    Close,
}

/// Puts, deletes and batches of them, without end.
pub(crate) fn writes_from(seed: u64) -> Generator {
    let mut profile = Profile::crashes();
    (profile.maintenance, profile.pins) = (0, 0);
    (profile.reads, profile.reopens) = (0, 0);
    Generator::new(seed, profile)
}

/// Writes of a generated workload between calls that bring every kind of file work.
fn steps(seed: u64) -> Vec<Step> {
    let mut writes = writes_from(seed);
    let mut some = |count: usize| {
        writes
            .by_ref()
            .take(count)
            .map(Step::Do)
            .collect::<Vec<_>>()
    };
    let all = |ops: &[Op]| ops.iter().cloned().map(Step::Do).collect::<Vec<_>>();
    let large = |count: u64| {
        let value = |n| {
            Action::Put(Value {
                len: 9000,
                seed: seed ^ n,
            })
        };
        let one = |n| {
            Op::One(Write {
                keyspace: 0,
                key: format!("{n}").into(),
                action: value(n),
            })
        };
        (0..count).map(one).map(Step::Do).collect()
    };
    [
        vec![Step::Open],
        all(&[Op::CreateKeyspace(1)]),
        some(6),
        all(&[Op::Flush, Op::Check, Op::TakeSnapshot]),
        some(5),
        all(&[Op::Flush, Op::CreateKeyspace(2)]),
        some(6),
        all(&[
            Op::WaitIdle,
            Op::Check,
            Op::DropSnapshot(0),
            Op::Reopen(2 * seed),
        ]),
        large(3),
        all(&[Op::Flush]),
        large(3), // Into segments that were used before.
        all(&[Op::Sync, Op::DropKeyspace(1)]),
        some(3),
        all(&[Op::CompactAll]),
        some(4),
        vec![Step::Kill],
        some(3),
        all(&[Op::Flush]),
        some(2),
        vec![Step::Drop, Step::Open],
        some(3),
        vec![Step::Close],
    ]
    .concat()
}

/// One run.
struct Run<'a> {
    place: &'a Place<'a>,
    seed: u64,
    disk: Arc<MemVfs>,
    faulty: Arc<FaultVfs>,
    runner: Runner,
    /// What processes that were killed had open.
    dead: Vec<Db>,
}

impl Run<'_> {
    fn new<'a>(place: &'a Place<'a>, seed: u64) -> Run<'a> {
        let disk = MemVfs::crashable(seed);
        let faulty = FaultVfs::new(disk.clone());
        let Case {
            ops, sticky, fault, ..
        } = *place.case;
        let (count, at) = (AtomicU64::new(0), place.call);
        let when = move |call: &Call| {
            (ops.is_empty() || ops.contains(&call.op)) && {
                let n = count.fetch_add(1, Ordering::Relaxed) + 1;
                n == at || (sticky && n > at)
            }
        };
        faulty.arm_when(when, fault, sticky);
        let runner = Runner::closed(Scenario::by_hand(faulty.clone()));
        let run = Run {
            place,
            seed,
            disk,
            faulty,
            runner,
            dead: Vec::new(),
        };
        run.arm_line();
        run
    }

    /// Has the next call from the place's line fail, unless one did.
    fn arm_line(&self) {
        let Some(line) = self.place.line.clone() else {
            return;
        };
        let is = |site: &Site| shown(site) == line;
        if self.faulty.injected_sites().iter().any(is) {
            return;
        }
        let there = move |call: &Call| {
            let at = call.site;
            at.is_some_and(|at| {
                let (file, number, column) = (at.file(), at.line(), at.column());
                shown(&Site {
                    file,
                    line: number,
                    column,
                    op: call.op,
                }) == line
            })
        };
        self.faulty.arm_when(there, Fault::Errno(5), false);
    }

    /// True if a fault was met.
    fn whole(mut self, lines: &Mutex<Lines>) -> Outcome<bool> {
        let (mut ended, mut behind) = (None, 0);
        for (n, step) in steps(self.seed).iter().enumerate() {
            let place = |trouble: Trouble| trouble.within(format_args!("step {n}, {step:?}"));
            if let Err(trouble) = self.step(step) {
                let error = self.judged(trouble).map_err(place)?;
                // An ingest may have made it read-only, with success: its entries are in.
                let error = match self.runner.db().map(Db::health) {
                    Ok(Err(health)) if health.kind() == ErrorKind::ReadOnly => health,
                    _ => error,
                };
                if self.place.case.sticky || error.kind() == ErrorKind::ReadOnly {
                    ended = Some(error);
                    break;
                }
                self.twice(&Step::Open).map_err(place)?;
            }
            // What a failed sync has lost is seen until a flush has written it elsewhere.
            if self.faulty.injected() > 0 && behind < self.place.case.watched() {
                behind += 1;
                self.crashed(HARSHEST).map_err(place)?;
            }
        }
        self.faulty.disarm();
        self.arm_line();
        let met = self.faulty.injected() > 0;
        match &ended {
            Some(error) if error.kind() == ErrorKind::ReadOnly && self.runner.db().is_ok() => {
                self.stays_read_only(error)?;
            }
            _ => self.goes_on()?,
        }
        self.faulty.disarm();
        self.crashes()?;
        let run = (self.place.case.name, self.place.call);
        let mut lines = lock(lines);
        lines.hit.extend(self.faulty.injected_sites());
        for site in self.faulty.sites() {
            lines.saw(site, run);
        }
        if !met {
            lines.plain.extend(self.faulty.sites());
        }
        Ok(met)
    }

    fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Open => self.open_again(),
            Step::Do(op) => self.runner.apply(op),
            Step::Kill => {
                self.dead.extend(self.runner.leave());
                self.disk.remove("/data/db/LOCK");
                self.open_again()
            }
            Step::Drop => {
                // It tells nobody whether it could sync: nothing more counts as durable.
                drop(self.runner.leave());
                Ok(())
            }
            Step::Close => self.runner.close(true),
        }
    }

    fn open_again(&mut self) -> Outcome {
        match self.runner.db() {
            Ok(_) => Ok(()),
            Err(_) => self.runner.open(2 * self.seed),
        }
    }

    /// The error that a fault may cause; anything else is a failure.
    fn judged(&self, trouble: Trouble) -> Outcome<Error> {
        let Some(error) = trouble.error().cloned() else {
            return Err(trouble);
        };
        let fits = matches!(
            error.kind(),
            ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::ReadOnly
        );
        match fits && self.faulty.injected() > 0 {
            true => Ok(error),
            false => Err(trouble),
        }
    }

    /// A step that must succeed; after a second fault at the second try. False if that one was
    /// final.
    fn twice(&mut self, step: &Step) -> Outcome<bool> {
        let Err(trouble) = self.step(step) else {
            return Ok(true);
        };
        if self.place.line.is_none() {
            return Err(trouble);
        }
        if self.judged(trouble)?.kind() == ErrorKind::ReadOnly {
            return Ok(false);
        }
        self.step(&Step::Open)?;
        self.step(step).map(|()| true)
    }

    /// The fault is over: the database goes on, also one that could not be opened or closed.
    fn goes_on(&mut self) -> Outcome {
        let place = |trouble: Trouble| trouble.within("the fault is over");
        let writes = writes_from(!self.seed).take(2).map(Step::Do);
        let last = [Step::Do(Op::Flush), Step::Do(Op::Check)];
        for step in [Step::Open].into_iter().chain(writes).chain(last) {
            if !self.twice(&step).map_err(place)? {
                break;
            }
        }
        Ok(())
    }

    /// A database that met an error it cannot go on from.
    fn stays_read_only(&self, error: &Error) -> Outcome {
        let db = self.runner.db()?;
        let allowed = self.runner.progress().after(ImageKind::Kill);
        Oracle::check(db, self.runner.model(), allowed)
            .map_err(|trouble| trouble.within(format_args!("reads end with {error}")))?;
        let before = self.disk.mutations();
        let calls: [(&str, terrace::Result<()>); 6] = [
            ("put", db.put("more", "x").map(|_| ())),
            ("flush", db.flush()),
            ("sync", db.sync()),
            ("compact_all", db.compact_all()),
            ("keyspace", db.keyspace("another").map(|_| ())),
            ("health", db.health()),
        ];
        for (call, result) in calls {
            match result {
                Err(error) if error.kind() == ErrorKind::ReadOnly => {
                    if error.to_string().len() <= 30 {
                        return Err(format!("{call}: {error} names no cause").into());
                    }
                }
                other => return Err(format!("{call} gives {other:?} after {error}").into()),
            }
        }
        // It says so if writes that returned may not be on disk.
        match db.close() {
            Err(error) if error.kind() != ErrorKind::ReadOnly => {
                return Err(Trouble::failed("close", error));
            }
            _ => {}
        }
        match self.disk.mutations() == before {
            true => Ok(()),
            false => Err(format!("something was written after {error}").into()),
        }
    }

    /// What a crash at the end leaves is what was acknowledged, and goes on from there.
    fn crashes(&self) -> Outcome {
        let others = [
            Crash::KILL,
            Crash::cut(CrashPolicy::KeepAll),
            Crash::cut(CrashPolicy::RandomBlocks),
            Crash::cut(CrashPolicy::RandomEntries),
        ];
        let call = self.place.call as usize;
        self.crashed(HARSHEST)?;
        match others.get(call % others.len()) {
            Some(&crash) => self.crashed(crash),
            None => Ok(()),
        }
    }

    fn crashed(&self, crash: Crash) -> Outcome {
        let place = |trouble: Trouble| trouble.within(format_args!("then {crash}"));
        let progress = self.runner.progress();
        let scenario = Scenario::by_hand(MemVfs::new(self.seed));
        let recovery = Recovery {
            scenario: &scenario,
            seed: 2 * self.seed,
            model: self.runner.model(),
        };
        let image = crash.image(&self.disk, self.seed ^ self.place.call);
        let allowed = Allowed::by(&progress, crash.kind);
        let (db, found) = recovery.check(&image, &allowed).map_err(place)?;
        if crash == HARSHEST || !self.place.call.is_multiple_of(3) {
            return Ok(());
        }
        // What was read is on the disk now, also if a sync had failed before.
        let random = &mut Random::new(self.seed ^ self.place.call);
        recovery
            .go_on(&image, &db, found, progress.last_seq(), random, &mut |_| ())
            .map_err(place)
    }
}
