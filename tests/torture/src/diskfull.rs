//! The disk is full: at every point where a workload takes space, in memory, and on a small tmpfs.
//!
//! A run without a limit says how many bytes the files had in all before each call. Then each of
//! these numbers is the size of a disk, and so is the one below it, where the call that would have
//! fitted does not. On each of them: every error is `NoSpace`, also of an open; reads go on and are
//! right; `Db::health` names the cause; deletes go on while the log has room; a crash loses nothing
//! that counts, and what it left opens once there is room. After a few refusals the disk grows:
//! then writes go on without a reopening, and all is well. Then it is full again.
//!
//! The same with threads, where only waiting heals, and on a real file system if one can be
//! mounted.
//!
//! A failure is reproduced by `--seed S --at BYTES`, `--at threads` or `--at tmpfs`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs};
use terrace::{Db, Durability, Error, ErrorKind, Options};
use terrace_kit::{
    Action, Allowed, Crash, Op, Oracle, Outcome, Random, Recovery, Runner, Scenario, Trouble, Write,
};

use crate::faults::writes_from;
use crate::parallel::{all_of, caught};
use crate::tmpfs::Tmpfs;
use crate::{Counts, Failure, Plan, skip};

/// How long a database with threads may take to notice that there is room again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the mode. It counts rounds: one workload on disks of every size that matters.
pub(crate) fn run(plan: &Plan) -> crate::Outcome {
    let mut counts = Counts::new();
    if let Some(at) = &plan.at {
        one(plan.seed, at, &mut counts)?;
        return Ok(counts);
    }
    let mut rounds = 0;
    while plan.goes_on(rounds) {
        let seed = plan.seed.wrapping_add(rounds);
        let sizes = failing(seed, "0", || sizes(seed))?;
        let sums = Mutex::new(&mut counts);
        all_of(&sizes, |size| {
            let mut own = Counts::new();
            on_disk_of(seed, *size, &mut own)?;
            plan.show(|| format!("seed {seed}: a disk of {size} bytes"));
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, count) in own {
                *sums.entry(name).or_default() += count;
            }
            Ok(())
        })?;
        one(seed, "threads", &mut counts)?;
        one(seed, "tmpfs", &mut counts)?;
        rounds += 1;
    }
    counts.insert("rounds".into(), rounds);
    Ok(counts)
}

fn one(seed: u64, at: &str, counts: &mut Counts) -> Result<(), Failure> {
    match at {
        "threads" => failing(seed, at, || {
            let disk = MemVfs::new(seed);
            let quota = (3 << 20) + Random::new(seed).below(4 << 20) as u64;
            disk.set_capacity(Some(quota));
            let options = Options::new().vfs(disk.clone());
            let grow = || disk.set_capacity(None);
            with_threads(options, Path::new("/db"), grow, counts)
        }),
        "tmpfs" => failing(seed, at, || {
            let Some(tmpfs) = Tmpfs::mount(8 << 20) else {
                let why = "no tmpfs can be mounted here, which needs root";
                return skip::skip("diskfull on a tmpfs", why).map_err(Into::into);
            };
            let ballast = tmpfs.path().join("ballast");
            let bytes = vec![1; (1 << 20) + Random::new(seed).below(3 << 20)];
            std::fs::write(&ballast, bytes).map_err(|e| e.to_string())?;
            let shrink = || std::fs::remove_file(&ballast).expect("the ballast is there");
            with_threads(Options::new(), &tmpfs.path().join("db"), shrink, counts)?;
            add(counts, "on a tmpfs");
            Ok(())
        }),
        size => {
            let wrong = |_| Failure {
                what: format!("--at {at}: neither a number of bytes, nor `threads`, nor `tmpfs`"),
                reproduce: String::new(),
            };
            on_disk_of(seed, size.parse().map_err(wrong)?, counts)
        }
    }
}

fn failing<T>(seed: u64, at: &str, work: impl FnOnce() -> Outcome<T>) -> Result<T, Failure> {
    caught(work).map_err(|what| Failure {
        what,
        reproduce: format!("--seed {seed} --at {at}"),
    })
}

fn add(counts: &mut Counts, name: &str) {
    *counts.entry(name.into()).or_default() += 1;
}

fn workload(seed: u64) -> Vec<Op> {
    let mut writes = writes_from(seed);
    let mut some = |count: usize| writes.by_ref().take(count).collect::<Vec<_>>();
    [
        some(10),
        vec![Op::Flush],
        some(10),
        vec![Op::Flush, Op::CreateKeyspace(1)],
        some(12),
        vec![Op::WaitIdle, Op::Reopen(2 * seed)],
        some(10),
        vec![Op::DropKeyspace(1), Op::CompactAll],
        some(10),
    ]
    .concat()
}

/// The sizes of disks on which something else may happen than on the next smaller.
fn sizes(seed: u64) -> Outcome<Vec<u64>> {
    let disk = MemVfs::crashable(seed);
    let used: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    let sink = used.clone();
    disk.set_hook(Some(Arc::new(move |disk, _| {
        let mut used = sink.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(disk.used());
    })));
    let mut runner = Runner::closed(Scenario::by_hand(disk.clone()));
    runner.open(2 * seed)?;
    runner.run(workload(seed))?;
    disk.set_hook(None);
    let used = used.lock().unwrap_or_else(PoisonError::into_inner);
    let both = used.iter().flat_map(|&size| [size.saturating_sub(1), size]);
    Ok(both.collect::<BTreeSet<u64>>().into_iter().collect())
}

fn on_disk_of(seed: u64, size: u64, counts: &mut Counts) -> Result<(), Failure> {
    failing(seed, &size.to_string(), || {
        let disk = MemVfs::crashable(seed);
        let run = Full {
            seed,
            random: Random::new(seed ^ size),
            runner: Runner::closed(Scenario::by_hand(disk.clone())),
            disk,
            counts,
            refused: 0,
        };
        run.whole(size)
    })
}

/// A run on a disk that is full at times.
struct Full<'a> {
    seed: u64,
    random: Random,
    disk: Arc<MemVfs>,
    runner: Runner,
    counts: &'a mut Counts,
    /// How often, since there was room.
    refused: usize,
}

impl Full<'_> {
    fn whole(mut self, size: u64) -> Outcome {
        self.disk.set_capacity(Some(size));
        let opened = self.runner.open(2 * self.seed);
        self.judged(opened, None)?;
        for (n, op) in workload(self.seed).iter().enumerate() {
            let place = |trouble: Trouble| trouble.within(format_args!("operation {n}, {op:?}"));
            let done = match self.runner.db() {
                Ok(_) => self.runner.apply(op),
                Err(_) => self.runner.open(2 * self.seed),
            };
            self.judged(done, Some(op)).map_err(place)?;
            if self.refused > 1 + self.random.below(5) {
                self.room().map_err(place)?;
                let more = self.random.below(96 << 10) as u64;
                self.disk.set_capacity(Some(self.disk.used() + more));
            }
        }
        self.crashes()?;
        self.room()?;
        add(self.counts, "disks");
        self.crashes()
    }

    /// Every error is that there is no room. `op` is what gave it; `None`: an open.
    fn judged(&mut self, done: Outcome, op: Option<&Op>) -> Outcome {
        let Err(trouble) = done else { return Ok(()) };
        if trouble.kind() != Some(ErrorKind::NoSpace) {
            return Err(trouble);
        }
        self.refused += 1;
        add(self.counts, "refusals");
        let Ok(db) = self.runner.db() else {
            return Ok(());
        };
        let all = self.runner.model().len();
        Oracle::check(db, self.runner.model(), all..=all)
            .map_err(|trouble| trouble.within("full"))?;
        if matches!(op, Some(Op::One(_) | Op::Batch(..) | Op::Flush)) {
            match db.health() {
                Err(error) if error.kind() == ErrorKind::NoSpace => {}
                other => return Err(format!("full, and health is {other:?}").into()),
            }
        }
        self.delete()?;
        match self.random.one_in(3) {
            true => self.crashes(),
            false => Ok(()),
        }
    }

    fn delete(&mut self) -> Outcome {
        let key = format!("{}", self.random.below(1000)).into();
        let (keyspace, action) = (0, Action::Delete);
        let delete = Op::One(Write {
            keyspace,
            key,
            action,
        });
        match self.runner.apply(&delete) {
            Err(trouble) if trouble.kind() == Some(ErrorKind::NoSpace) => {
                add(self.counts, "deletes refused");
                Ok(())
            }
            done => {
                add(self.counts, "deletes while full");
                done
            }
        }
    }

    /// There is room again: everything goes on, without a reopening unless it could not be opened.
    fn room(&mut self) -> Outcome {
        let place = |trouble: Trouble| trouble.within("there is room again");
        self.disk.set_capacity(None);
        if self.runner.db().is_err() {
            self.runner.open(2 * self.seed).map_err(place)?;
        }
        let more = self.random.number();
        for op in writes_from(more).take(2).chain([Op::Flush]) {
            self.runner.apply(&op).map_err(place)?;
        }
        self.refused = 0;
        add(self.counts, "recoveries");
        self.runner.check().map_err(place)
    }

    /// What a crash leaves on the full disk: it opens, or needs room for that, and then opens.
    fn crashes(&mut self) -> Outcome {
        let progress = self.runner.progress();
        let scenario = Scenario::by_hand(self.disk.clone());
        let recovery = Recovery {
            scenario: &scenario,
            seed: 2 * self.seed,
            model: self.runner.model(),
        };
        let cut = Crash::cut(CrashPolicy::DropAll);
        for crash in [Crash::KILL, cut, Crash::some_cut(&mut self.random)] {
            let place = |trouble: Trouble| trouble.within(format_args!("full, then {crash}"));
            let image = crash.image(&self.disk, self.random.number());
            let allowed = match crash.kind {
                ImageKind::Kill => Allowed::by(&progress, ImageKind::Kill),
                ImageKind::Cut => Allowed::by(&progress, ImageKind::Cut),
            };
            match recovery.check(&image, &allowed) {
                Err(trouble) if trouble.kind() == Some(ErrorKind::NoSpace) => {
                    add(self.counts, "crash images that needed room");
                    image.set_capacity(None);
                    recovery.check(&image, &allowed).map_err(place)?;
                }
                found => {
                    add(self.counts, "crash images opened");
                    found.map_err(place)?;
                }
            }
        }
        Ok(())
    }
}

/// Fills the disk, deletes on, makes room and waits until writes go on by themselves.
fn with_threads(
    options: Options,
    dir: &Path,
    make_room: impl FnOnce(),
    counts: &mut Counts,
) -> Outcome {
    let options = options.memory(8 << 20).durability(Durability::Buffered);
    let db = options.open(dir).map_err(failed("open"))?;
    let filled = Filled::fill(&db)?;
    filled.check(&db)?;
    make_room();
    patiently("a put", || db.put("more", "x").map(|_| ()))?;
    db.flush().map_err(failed("a flush"))?;
    patiently("health", || db.health())?;
    filled.check(&db)?;
    db.close().map_err(failed("close"))?;
    filled.check(&options.open(dir).map_err(failed("open"))?)?;
    *counts
        .entry("puts until full, with threads".into())
        .or_default() += filled.written;
    *counts.entry("deletes while full".into()).or_default() += filled.deleted;
    add(counts, "recoveries by waiting");
    Ok(())
}

fn failed(what: &str) -> impl Fn(Error) -> Trouble {
    move |error| Trouble::failed(what, error)
}

/// Repeats `call` while it says that there is no room.
fn patiently(what: &str, mut call: impl FnMut() -> terrace::Result<()>) -> Outcome {
    let since = Instant::now();
    while let Err(error) = call() {
        if error.kind() != ErrorKind::NoSpace || since.elapsed() > PATIENCE {
            return Err(Trouble::failed(what, error));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What a full disk holds: so many keys, the first of them deleted again.
struct Filled {
    written: u64,
    deleted: u64,
}

impl Filled {
    fn key(n: u64) -> String {
        format!("{n:08}")
    }

    fn value(n: u64) -> Vec<u8> {
        n.to_le_bytes().repeat(64 + (n % 128) as usize)
    }

    /// Puts until the disk is full, and then deletes half of it, or as much as it may.
    fn fill(db: &Db) -> Outcome<Filled> {
        let (mut written, mut deleted) = (0, 0);
        let full = loop {
            match db.put(Filled::key(written), Filled::value(written)) {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
        };
        if full.kind() != ErrorKind::NoSpace {
            return Err(Trouble::failed("a put", full));
        }
        while deleted < written / 2 {
            // A flush may have to free a part of the log for them.
            patiently("a delete", || db.delete(Filled::key(deleted)).map(|_| ()))?;
            deleted += 1;
        }
        Ok(Filled { written, deleted })
    }

    fn check(&self, db: &Db) -> Outcome {
        for n in 0..self.written {
            let got = db.get(Filled::key(n)).map_err(failed("a get"))?;
            let want = (n >= self.deleted).then(|| Filled::value(n));
            if got.as_deref() != want.as_deref() {
                return Err(format!(
                    "key {n} of {}, of which {} were deleted, is wrong",
                    self.written, self.deleted
                )
                .into());
            }
        }
        Ok(())
    }
}
