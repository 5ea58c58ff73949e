//! A thread of the load: it owns keys that no other thread writes, and knows what each must hold
//!
//! Before a write its keys are marked as unknown, and get their new value when the call has
//! returned. So a call that ended in an error, or met a `close`, leaves its keys unknown until they
//! are written again; all other keys must hold what they held, whatever happened around them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use terrace::{Batch, Db, Durability, ErrorKind, Iter, Keyspace, Snapshot, Ticket};
use terrace_kit::Random;

use super::scenario::{Focus, INTERVAL, Kind, Scenario};
use super::watch::{Reach, Slot, Watch};
use crate::rounds::locked;

/// The stamp of a key that is absent, and of one that nothing is known of.
const ABSENT: u32 = 0;
const UNKNOWN: u32 = u32::MAX;

/// How long an iterator or a snapshot is kept.
const PINNED: Duration = Duration::from_secs(1);

/// One database under load.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    pub(crate) db: RwLock<Db>,
    /// How often it was opened.
    pub(crate) opened: AtomicU64,
    /// Bytes that the threads keep alive.
    pub(crate) live: AtomicU64,
    pub(crate) large: AtomicU64,
    /// When the oldest iterator or snapshot of each thread was made.
    pub(crate) pins: Mutex<Vec<Option<Instant>>>,
}

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) scenario: Scenario,
    pub(crate) watch: Arc<Watch>,
    pub(crate) sites: Vec<Site>,
    /// The load ends.
    pub(crate) stop: AtomicBool,
    /// Calls may fail for want of threads or descriptors.
    pub(crate) tolerant: AtomicBool,
    /// Calls that did.
    pub(crate) refused: AtomicU64,
}

/// Why a step ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The database was closed.
    Closed,
    /// A limit of the process was met.
    Limit,
    /// A failure.
    Wrong(String),
}

pub(crate) type Step<T = ()> = Result<T, Stop>;

pub(crate) fn wrong<T>(what: String) -> Step<T> {
    Err(Stop::Wrong(what))
}

/// What a thread keeps open for a while.
#[derive(Debug)]
pub(crate) enum Kept {
    Iter(Box<Iter>),
    /// With stamps of keys when it was taken, and what it first said of a key that expires.
    Snapshot(Snapshot, Vec<(usize, u32)>, Option<Vec<u8>>),
}

/// Values of the side models, unknown as `None`.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) counter: Option<i64>,
    pub(crate) sum: Option<i64>,
    pub(crate) appended: Option<usize>,
    /// Numbers at the front of the queue and behind its end.
    pub(crate) queue: Option<(u64, u64)>,
    /// Stamps of large values.
    pub(crate) large: Vec<u32>,
    /// When the key that expires was written.
    pub(crate) expiring: Option<Instant>,
    /// The stamp of what was ingested.
    pub(crate) ingested: Option<u32>,
}

/// A thread of the load.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) site: usize,
    pub(crate) focus: Focus,
    pub(crate) slot: Arc<Slot>,
    pub(crate) db: Db,
    pub(crate) r: Random,
    /// The stamp of each of its keys.
    pub(crate) map: Vec<u32>,
    pub(crate) stamp: u32,
    pub(crate) side: Side,
    pub(crate) kept: Vec<(Instant, Kept)>,
    pub(crate) tickets: Vec<(Instant, Ticket)>,
    opened: u64,
    counted: (u64, u64),
}

impl Worker {
    pub(crate) fn new(id: usize, shared: &Arc<Shared>, focus: Focus, seed: u64) -> Worker {
        let site = id % shared.sites.len();
        let keys = keys_of(&shared.scenario);
        let db = shared.sites[site].db.read();
        let db = db.unwrap_or_else(PoisonError::into_inner).clone();
        Worker {
            id,
            shared: shared.clone(),
            site,
            focus,
            slot: shared.watch.slot(format!("worker {id} of database {site}")),
            db,
            r: Random::new(seed ^ (id as u64) << 40),
            map: vec![ABSENT; keys],
            stamp: 0,
            side: Side {
                large: vec![ABSENT; 8],
                ..Side::default()
            },
            kept: Vec::new(),
            tickets: Vec::new(),
            opened: 1,
            counted: (0, 0),
        }
    }

    pub(crate) fn site(&self) -> &Site {
        &self.shared.sites[self.site]
    }

    /// Works until the load ends, then checks all that it knows.
    pub(crate) fn run(mut self) -> Result<(), String> {
        let mut steps = 0_u64;
        while !self.shared.stop.load(Ordering::Relaxed) {
            steps += 1;
            let step = self.step();
            match step {
                Ok(()) => {}
                Err(Stop::Closed) => self.adopt(),
                Err(Stop::Limit) => {
                    self.shared.refused.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
                Err(Stop::Wrong(what)) => return Err(self.named(&what)),
            }
            if steps.is_multiple_of(64) {
                self.publish();
            }
        }
        self.tickets.clear();
        self.kept.clear();
        self.pinned();
        self.verify()
    }

    fn named(&self, what: &str) -> String {
        format!("worker {} of database {}: {what}", self.id, self.site)
    }

    /// Takes the handle of the database that was opened again.
    fn adopt(&mut self) {
        self.kept.clear();
        self.tickets.clear();
        self.pinned();
        loop {
            let opened = self.site().opened.load(Ordering::Acquire);
            if opened != self.opened {
                self.opened = opened;
                let db = self.site().db.read();
                let db = db.unwrap_or_else(PoisonError::into_inner).clone();
                self.db = db;
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes a call that the watchdog sees.
    pub(crate) fn call<T>(
        &self,
        name: &'static str,
        reach: Reach,
        call: impl FnOnce(&Db) -> terrace::Result<T>,
    ) -> Step<T> {
        let result = self
            .shared
            .watch
            .call(&self.slot, name, reach, || call(&self.db));
        result.map_err(|error| match error.kind() {
            ErrorKind::Closed => Stop::Closed,
            ErrorKind::Io if self.shared.tolerant.load(Ordering::Relaxed) => Stop::Limit,
            _ => Stop::Wrong(format!("{name}: {error:?}")),
        })
    }

    /// A call on a few keys.
    pub(crate) fn keys<T>(
        &self,
        name: &'static str,
        call: impl FnOnce(&Db) -> terrace::Result<T>,
    ) -> Step<T> {
        self.call(name, Reach::Keys, call)
    }

    /// A call on the whole database, with nothing pinned meanwhile.
    pub(crate) fn whole<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&Db) -> terrace::Result<T>,
    ) -> Step<T> {
        self.kept.clear();
        self.pinned();
        self.call(name, Reach::Database, call)
    }

    /// A keyspace of this thread's own.
    pub(crate) fn space(&self, name: &str) -> Step<Keyspace> {
        let name = format!("{name}-{}", self.id);
        self.keys("keyspace", |db| db.keyspace(&name))
    }

    pub(crate) fn next_stamp(&mut self) -> u32 {
        self.stamp += 1;
        self.stamp
    }

    pub(crate) fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.durability(durability(self.shared.scenario.durability));
        batch
    }

    /// Notes keys as unknown until a write of them has returned.
    pub(crate) fn unknown(&mut self, keys: &[usize]) {
        for &key in keys {
            self.map[key] = UNKNOWN;
        }
    }

    /// Notes what a write that returned has made of a key.
    pub(crate) fn wrote(&mut self, key: usize, stamp: u32) {
        self.map[key] = stamp;
    }

    pub(crate) fn deleted(&mut self, key: usize) {
        self.map[key] = ABSENT;
    }

    /// Compares what was found of a key with what must be there.
    pub(crate) fn check(&self, how: &str, key: usize, stamp: u32, found: Option<&[u8]>) -> Step {
        let right = match stamp {
            UNKNOWN => true,
            ABSENT => found.is_none(),
            stamp => found == Some(&value(key, stamp)),
        };
        match right {
            true => Ok(()),
            false => wrong(format!(
                "{how}: key {} has {found:?} where stamp {stamp} belongs",
                self.key(key)
            )),
        }
    }

    /// The name of key `n`.
    pub(crate) fn key(&self, n: usize) -> String {
        format!("w{:02}/{n:06}", self.id)
    }

    /// Drops what was kept for long enough, as of `now`.
    pub(crate) fn release(&mut self, now: Instant) {
        self.kept.retain(|(made, _)| now - *made < PINNED);
        self.pinned();
    }

    /// Says how old the oldest of what is kept is.
    pub(crate) fn pinned(&self) {
        let oldest = self.kept.iter().map(|(made, _)| *made).min();
        locked(&self.site().pins)[self.id] = oldest;
    }

    /// Says how many bytes it keeps alive.
    fn publish(&mut self) {
        const ENTRY: u64 = 150;
        let keys = self.map.iter().filter(|stamp| **stamp != ABSENT).count() as u64;
        let queued = self.side.queue.map_or(0, |(front, end)| end - front);
        let large = self.side.large.iter().filter(|stamp| **stamp != ABSENT);
        let now = ((keys + queued) * ENTRY, large.count() as u64 * LARGE as u64);
        let (before, site) = (self.counted, self.site());
        // Wrapping: the difference may be negative, the sum never is.
        let (live, large) = (now.0.wrapping_sub(before.0), now.1.wrapping_sub(before.1));
        site.live.fetch_add(live, Ordering::Relaxed);
        site.large.fetch_add(large, Ordering::Relaxed);
        self.counted = now;
    }

    /// Reads everything that it knows something about.
    pub(crate) fn verify(&mut self) -> Result<(), String> {
        for key in 0..self.map.len() {
            let name = self.key(key);
            let step = self.keys("get", |db| db.get(&name)).and_then(|found| {
                let found = found.as_deref();
                self.check("at the end", key, self.map[key], found)
            });
            match step {
                Err(Stop::Wrong(what)) => return Err(self.named(&what)),
                // The database was closed just before the end.
                Err(Stop::Closed) => self.adopt(),
                _ => {}
            }
        }
        Ok(())
    }
}

/// How many keys a thread owns.
pub(crate) fn keys_of(scenario: &Scenario) -> usize {
    match scenario.focus {
        Focus::Fill | Focus::Compact => 400_000 / scenario.threads.max(4),
        _ => 2000,
    }
}

/// Bytes of a large value.
pub(crate) const LARGE: usize = 64 << 10;

/// The value of a key under a stamp.
pub(crate) fn value(key: usize, stamp: u32) -> Vec<u8> {
    let mut out = vec![key as u8; 20 + (stamp as usize * 7919 + key) % 200];
    out[..4].copy_from_slice(&stamp.to_le_bytes());
    out[4..12].copy_from_slice(&(key as u64).to_le_bytes());
    out
}

/// The durability of a scenario.
pub(crate) fn durability(kind: Kind) -> Durability {
    match kind {
        Kind::Sync => Durability::Sync,
        Kind::Interval => Durability::Interval(INTERVAL),
        Kind::Buffered => Durability::Buffered,
    }
}
