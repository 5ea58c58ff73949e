//! Rounds of a mode side by side: round `i` of a plan works with seed `seed + i`, counts what it did, and the first
//! that fails ends them all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Counts, Failure, Outcome, Plan};

/// What the rounds under way share.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: Mutex<Counts>,
    done: AtomicU64,
    ended: AtomicBool,
}

impl Tally {
    /// Counts `n` more of what the plan's budget is of.
    pub(crate) fn done(&self, n: u64) {
        self.done.fetch_add(n, Ordering::Relaxed);
    }

    /// True when the plan is done, or a round has failed.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// What was counted.
    pub(crate) fn into_counts(self) -> Counts {
        self.counts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the counts.
    pub(crate) fn add(&self, counts: impl IntoIterator<Item = (&'static str, u64)>) {
        let mut all = locked(&self.counts);
        for (name, count) in counts {
            *all.entry(name.to_owned()).or_default() += count;
        }
    }

    /// Adds one to a count.
    pub(crate) fn count(&self, name: &str) {
        *locked(&self.counts).entry(name.to_owned()).or_default() += 1;
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs rounds on every core until the budget of `plan` is spent. A panic in one is a failure of
/// its seed.
pub(crate) fn run(
    plan: &Plan,
    round: impl Fn(u64, &Tally) -> Result<(), Failure> + Sync,
) -> Outcome {
    on(1, plan, round)
}

/// Runs rounds that wait for processes and disks: on twice as many threads as there are cores. A
/// plan with a place repeats its one seed: what real processes do depends on time, and a failure
/// may take a few runs to come back.
pub(crate) fn run_waiting(
    plan: &Plan,
    round: impl Fn(u64, &Tally) -> Result<(), Failure> + Sync,
) -> Outcome {
    on(2, plan, round)
}

fn on(
    threads_a_core: usize,
    plan: &Plan,
    round: impl Fn(u64, &Tally) -> Result<(), Failure> + Sync,
) -> Outcome {
    let tally = Tally::default();
    let next = AtomicU64::new(0);
    let failure = Mutex::new(None);
    let work = || {
        while !tally.ended() {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let seed = match plan.at {
                None => plan.seed.wrapping_add(at),
                Some(_) => plan.seed,
            };
            let done =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| round(seed, &tally)));
            let failed = match done {
                Ok(done) => done.err(),
                Err(_) => Some(Failure {
                    what: "a panic, shown above".into(),
                    reproduce: format!("--seed {seed} --count 1"),
                }),
            };
            if let Some(failed) = failed {
                locked(&failure).get_or_insert(failed);
                tally.ended.store(true, Ordering::Relaxed);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores * threads_a_core)
            .map(|_| scope.spawn(work))
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            if !plan.goes_on(tally.done.load(Ordering::Relaxed)) {
                tally.ended.store(true, Ordering::Relaxed);
            }
            plan.show(|| shown(&locked(&tally.counts)));
        }
    });
    match locked(&failure).take() {
        Some(failure) => Err(failure),
        None => Ok(std::mem::take(&mut *locked(&tally.counts))),
    }
}

fn shown(counts: &BTreeMap<String, u64>) -> String {
    let each = counts.iter().map(|(name, count)| format!("{count} {name}"));
    each.collect::<Vec<_>>().join(", ")
}
