//! One round of `endure`, in a process of its own: it loads databases, samples them, and looks at them idle

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use terrace::vfs::{FaultVfs, OsVfs};
use terrace::{Db, Options, internals};
use terrace_kit::Random;

use super::bounds::{Checked, KIB, MIB, Measured, Share, Sizes, THREAD, Unit};
use super::sample::{self, Load, Sampler};
use super::scenario::{Scenario, Speed};
use super::side::{APPENDS, LONGEST_LIST, SUM, sum};
use super::watch::{Reach, Slot, Watch};
use super::worker::{LARGE, Shared, Site, Worker, durability, keys_of};
use super::{disk, idle};
use crate::rounds::locked;

/// The panic of a load that means it.
pub(crate) const MEANT: &str = "meant";

/// Ends the process: a round that hangs cannot end otherwise.
pub(crate) fn fail(what: &str) -> ! {
    eprintln!("{what}");
    std::process::exit(1)
}

/// The whole process of a round: scenario, seed, an empty directory.
pub(crate) fn child_main(arguments: &[String]) -> ExitCode {
    let [scenario, seed, dir] = arguments else {
        panic!("the arguments of a round: {arguments:?}");
    };
    let scenario: Scenario = scenario.parse().unwrap();
    let seed: u64 = seed.parse().unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&MEANT) {
            hook(panic);
            fail("a panic, shown above");
        }
    }));
    if scenario.nofile > 0 {
        limit(Resource::Nofile, Some(scenario.nofile));
    }
    let mut round = Round::new(scenario, seed, Path::new(dir));
    round.load();
    round.idle(Path::new(dir));
    round.end();
    ExitCode::SUCCESS
}

/// Sets the limit that can be raised again; none if `to` is `None`.
fn limit(resource: Resource, to: Option<u64>) {
    let maximum = getrlimit(resource).maximum;
    let limit = Rlimit {
        current: to.or(maximum),
        maximum,
    };
    setrlimit(resource, limit).unwrap_or_else(|error| fail(&format!("setrlimit: {error}")));
}

struct Round {
    shared: Arc<Shared>,
    options: Options,
    seed: u64,
    random: Random,
    slot: Arc<Slot>,
    samplers: Vec<Sampler>,
    checked: Checked,
    own: [u64; 4],
    disk: Duration,
    samples: u64,
    reopens: u64,
    /// Wake-ups of idle databases: the most of its limit that was seen.
    wakeups: Measured,
}

impl Round {
    fn new(scenario: Scenario, seed: u64, dir: &Path) -> Round {
        let watch = Arc::new(Watch::default());
        watch.start(|what| fail(&what));
        let mut own = sample::process();
        let threads = scenario.threads as u64;
        // What the load needs: its models, what its calls hold, and files in its hands.
        own[0] += threads * (THREAD + models(&scenario));
        own[1] += 16 + 2 * threads;
        own[2] += 64 + 6 * threads;
        own[3] += threads;
        let slot = watch.slot("the main thread".into());
        let options = options(&scenario, seed, &watch);
        let open = |n: usize| {
            let dir = dir.join(format!("db{n}"));
            let open = || options.open(&dir);
            let db = watch.call(&slot, "open", Reach::Database, open);
            let db = db.unwrap_or_else(|error| fail(&format!("open: {error:?}")));
            Site {
                dir,
                db: RwLock::new(db),
                opened: AtomicU64::new(1),
                live: AtomicU64::new(0),
                large: AtomicU64::new(0),
                pins: vec![None; scenario.threads].into(),
            }
        };
        let sites: Vec<Site> = (0..scenario.databases).map(open).collect();
        let sizes = Sizes {
            memory: scenario.memory * MIB,
            table: scenario.table * KIB,
            write: LARGEST_WRITE,
        };
        let samplers = sites.iter().map(|site| Sampler::new(&site.dir, sizes));
        Round {
            samplers: samplers.collect(),
            shared: Arc::new(Shared {
                tolerant: AtomicBool::new(scenario.few_threads()),
                scenario,
                watch,
                sites,
                stop: AtomicBool::new(false),
                refused: AtomicU64::new(0),
            }),
            options,
            seed,
            random: Random::new(seed ^ 0x72_6f75_6e64),
            slot,
            checked: Checked::default(),
            own,
            disk: Duration::ZERO,
            samples: 0,
            reopens: 0,
            wakeups: Measured::default(),
        }
    }

    /// Starts the threads, samples until the time is over, and has them check what they know.
    fn load(&mut self) {
        let workers = self.start();
        let scenario = self.shared.scenario.clone();
        let started = Instant::now();
        let time = Duration::from_secs(scenario.seconds);
        let mut reopen = started + self.pause();
        let mut raised = !scenario.few_threads();
        while started.elapsed() < time {
            thread::sleep(Duration::from_secs(1));
            self.sample();
            if !raised && started.elapsed() >= time / 2 {
                limit(Resource::Nproc, None);
                raised = true;
            }
            // A database that could not start its threads is not closed before it can.
            let may = raised && scenario.reopens > 0;
            if may && Instant::now() >= reopen {
                let site = self.random.below(self.shared.sites.len());
                self.reopen(site);
                reopen = Instant::now() + self.pause();
            }
        }
        // A job that failed is tried again with a delay of at most five seconds.
        if scenario.few_threads() {
            thread::sleep(Duration::from_secs(6));
        }
        self.shared.tolerant.store(false, Ordering::Relaxed);
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in workers {
            if worker.join().is_err() {
                fail("a thread of the load panicked");
            }
        }
        self.sample();
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(2000 + self.random.below(6000) as u64)
    }

    /// Starts the threads of the load, then sets the limit on threads.
    fn start(&mut self) -> Vec<JoinHandle<()>> {
        let scenario = &self.shared.scenario;
        let begin = Arc::new(Barrier::new(scenario.threads + 1));
        let mut workers = Vec::new();
        for id in 0..scenario.threads {
            let worker = Worker::new(id, &self.shared, scenario.focus, self.seed);
            let begin = begin.clone();
            let run = move || {
                begin.wait();
                if let Err(what) = worker.run() {
                    fail(&what);
                }
            };
            let named = thread::Builder::new().name(format!("endure-{id}"));
            workers.push(named.spawn(run).expect("a thread of the load"));
        }
        if scenario.few_threads() {
            limit(Resource::Nproc, Some(sample::process()[3] + scenario.spare));
        }
        begin.wait();
        workers
    }

    fn db(&self, site: usize) -> Db {
        let db = self.shared.sites[site].db.read();
        db.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A call of the main thread on a whole database.
    fn call(&self, name: &'static str, call: impl FnOnce() -> terrace::Result<()>) {
        let watch = &self.shared.watch;
        if let Err(error) = watch.call(&self.slot, name, Reach::Database, call) {
            fail(&format!("{name}: {error:?}"));
        }
    }

    /// Takes one sample and checks every bound.
    fn sample(&mut self) {
        let disk = self.shared.watch.disk_added();
        let added = disk - std::mem::replace(&mut self.disk, disk);
        let mut databases = Vec::new();
        for n in 0..self.samplers.len() {
            let (db, site) = (self.db(n), &self.shared.sites[n]);
            let watch = &self.shared.watch;
            let stats = watch.call(&self.slot, "stats", Reach::Keys, || db.stats());
            let load = Load {
                live: site.live.load(Ordering::Relaxed),
                large: site.large.load(Ordering::Relaxed),
                pinned_since: locked(&site.pins).iter().flatten().min().copied(),
                disk: added,
            };
            databases.push(self.samplers[n].sample(&db, stats, load));
        }
        let process = sample::process_with(self.own);
        for (n, database) in databases.iter_mut().enumerate() {
            // What was pinned while the process was looked at, before or after.
            let db = self.db(n);
            database.pinned = database.pinned.max(internals::pinned_bytes(&db));
        }
        self.samples += 1;
        if let Err(what) = self.checked.check(&process, &databases)
            && self.shared.scenario.bounds > 0
        {
            fail(&format!("{what}\n{databases:#?}\n{process:?}"));
        }
    }

    /// Closes a database beside its threads, and opens it again.
    fn reopen(&mut self, n: usize) {
        let db = self.db(n);
        self.call("close", || db.close());
        drop(db);
        let site = &self.shared.sites[n];
        let open = || self.options.open(&site.dir);
        let opened = self
            .shared
            .watch
            .call(&self.slot, "open", Reach::Database, open);
        let opened = opened.unwrap_or_else(|error| fail(&format!("open again: {error:?}")));
        *site.db.write().unwrap_or_else(PoisonError::into_inner) = opened;
        site.opened.fetch_add(1, Ordering::Release);
        self.samplers[n].reopened();
        self.reopens += 1;
    }

    /// The load is over: every job ends, and the databases rest.
    fn idle(&mut self, dir: &Path) {
        let sites = self.shared.sites.len();
        for n in 0..sites {
            let db = self.db(n);
            self.call("wait_idle", || db.wait_idle());
            self.call("health", || db.health());
        }
        if self.shared.scenario.idle == 0 {
            return;
        }
        let checks = |round: &mut Round| {
            round.wakeups = idle::rests(sites)?;
            let dbs: Vec<Db> = (0..sites).map(|n| round.db(n)).collect();
            idle::does_nothing(&dbs)?;
            for db in &dbs {
                idle::leaves_some_in_memory(db)?;
            }
            let more = idle::rests(sites)?;
            round.wakeups.value = round.wakeups.value.max(more.value);
            if round.shared.scenario.disk == Speed::Plain {
                idle::tickets_are_prompt(&dbs[0])?;
            }
            Ok::<(), String>(())
        };
        if let Err(what) = checks(self) {
            fail(&what);
        }
        self.sample();
        for n in 0..sites {
            let db = self.db(n);
            self.call("close", || db.close());
        }
        let short: PathBuf = dir.join("short");
        if let Err(what) = idle::short_lives(&self.options, &short, 150) {
            fail(&what);
        }
    }

    fn end(&self) {
        let watch = &self.shared.watch;
        let counts = [
            ("calls", watch.calls()),
            ("samples", self.samples),
            ("reopens", self.reopens),
            ("calls refused", self.shared.refused.load(Ordering::Relaxed)),
        ];
        for (name, count) in counts {
            println!("count {count} {name}");
        }
        for share in self.checked.shares().into_iter().chain(self.others()) {
            println!("{}", share.line());
        }
        for (name, _, took) in watch.slowest().iter().take(5) {
            println!("slow {:>9.3} s  {name}", *took as f64 / 1e6);
        }
    }

    /// The longest calls, and the wake-ups.
    fn others(&self) -> Vec<Share> {
        let slowest = self.shared.watch.slowest();
        let longest = |name: &str, reach: Reach| {
            let calls = slowest.iter().filter(|(_, of, _)| *of == reach);
            let most = Measured {
                value: calls.map(|(_, _, took)| *took).max().unwrap_or(0),
                limit: reach.bound().as_micros() as u64,
            };
            (name.to_owned(), Unit::Time, most)
        };
        let all = [
            longest("a call on keys", Reach::Keys),
            longest("a call on the database", Reach::Database),
            ("wake-ups when idle".to_owned(), Unit::Count, self.wakeups),
        ];
        let share = |(name, unit, most)| Share { name, unit, most };
        // A round that does not look at them idle says nothing of it.
        let seen = all.into_iter().filter(|(_, _, most)| most.limit > 0);
        seen.map(share).collect()
    }
}

/// The longest frame of the log that a call of the load writes: a large value, or the list that
/// [`super::side`] appends to, whose new value is written once however many appends a batch has.
/// Keys and heads come on top.
const LARGEST_WRITE: u64 = KIB + max(LARGE as u64, (LONGEST_LIST + 10 * APPENDS) as u64);

const fn max(a: u64, b: u64) -> u64 {
    if a > b { a } else { b }
}

/// Bytes that each thread of the load remembers its keys with.
fn models(scenario: &Scenario) -> u64 {
    4 * keys_of(scenario) as u64
}

fn options(scenario: &Scenario, seed: u64, watch: &Arc<Watch>) -> Options {
    let table = scenario.table * KIB;
    let options = Options::new()
        .memory(scenario.memory * MIB)
        .durability(durability(scenario.durability))
        .merge_operator(SUM, sum)
        .tune(|tuning| {
            tuning.table_bytes = table;
            tuning.base_level_bytes = 8 * table;
        });
    match scenario.disk {
        Speed::Plain => options,
        speed => {
            let faulty = FaultVfs::new(Arc::new(OsVfs));
            disk::slow_down(&faulty, speed, seed, watch);
            options.vfs(faulty)
        }
    }
}
