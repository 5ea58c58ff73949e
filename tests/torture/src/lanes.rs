//! Rounds on several threads at once, for modes whose rounds wait for processes and disks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::{Counts, Failure, Outcome, Plan};

/// What the lanes share: whether to go on, and how much is done.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    done: AtomicU64,
}

impl Gate {
    /// True while more is to be done.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// One more of what the mode counts is done.
    pub(crate) fn done_one(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs `round` for seed after seed on twice as many threads as there are processors, for they wait a lot, until the plan's budget is
/// done or one fails. A plan with a place repeats its one seed: what real processes do depends on time, and a
/// failure may take a few runs to come back.
pub(crate) fn run(
    plan: &Plan,
    unit: &str,
    round: impl Fn(u64, &Gate, &mut Counts) -> Result<(), Failure> + Sync,
) -> Outcome {
    let gate = Gate::default();
    let next = AtomicU64::new(0);
    let total = Mutex::new(Counts::new());
    let failed = Mutex::new(None);
    let (seed, repeat) = (plan.seed, plan.at.is_some());
    let lanes = thread::available_parallelism().map_or(4, |processors| 2 * processors.get());
    let lane = || {
        let mut counts = Counts::new();
        while gate.is_open() {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let seed = seed.wrapping_add(if repeat { 0 } else { at });
            if let Err(failure) = round(seed, &gate, &mut counts) {
                failed.lock().unwrap().get_or_insert(failure);
                gate.closed.store(true, Ordering::Relaxed);
            }
        }
        let mut total = total.lock().unwrap();
        for (name, count) in counts {
            *total.entry(name).or_default() += count;
        }
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        while lanes.iter().any(|lane| !lane.is_finished()) {
            thread::sleep(Duration::from_millis(10));
            let done = gate.done.load(Ordering::Relaxed);
            if !plan.goes_on(done) {
                gate.closed.store(true, Ordering::Relaxed);
            }
            plan.show(|| format!("{done} {unit}"));
        }
    });
    match failed.into_inner().unwrap() {
        Some(failure) => Err(failure),
        None => Ok(total.into_inner().unwrap()),
    }
}

/// Adds one to a count.
pub(crate) fn count(counts: &mut Counts, name: &str) {
    add(counts, name, 1);
}

/// Adds to a count.
pub(crate) fn add(counts: &mut Counts, name: &str, more: u64) {
    *counts.entry(name.to_owned()).or_default() += more;
}
