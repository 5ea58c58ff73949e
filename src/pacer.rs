//! Writers pay for what they leave behind: pacing instead of stops.
//!
//! Level-0 runs make every read dearer and unflushed memory is bounded, so writers must not outrun flush and
//! compaction for long. From 8 to 20 level-0 runs, and over the last half of the write budget, each written
//! KiB costs the writer a little sleep, in proportion to how far the debt has come. The jobs set the price
//! when they install something; a writer's common path reads one number.
//!
//! Only memory is a wall: at the full write budget a writer sleeps until a flush has made room, and if flushes
//! fail it gets their error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use terrace_base::Result;

use crate::engine::Engine;

/// Runs of level 0 between which the price rises.
const FREE_RUNS: u64 = 8;
const FULL_RUNS: u64 = 20;
/// The price of a KiB at full debt.
const FULL_PRICE_NS: u64 = 200_000;
/// Sleeping shorter than this is not worth a system call; the debt is carried over.
const SHORTEST_SLEEP_NS: u64 = 500_000;

#[derive(Debug, Default)]
pub(crate) struct Pacer {
    /// Nanoseconds per KiB; 0 while all is well.
    price: AtomicU64,
    /// Nanoseconds that writers owe.
    owed: AtomicU64,
}

impl Pacer {
    /// Sleeps as long as writing `bytes` costs now.
    #[inline]
    pub(crate) fn pace(&self, engine: &Engine, bytes: usize) -> Result<()> {
        match self.price.load(Ordering::Relaxed) {
            0 => Ok(()),
            price => self.pay(engine, bytes, price),
        }
    }

    #[cold]
    fn pay(&self, engine: &Engine, bytes: usize, price: u64) -> Result<()> {
        let cost = price.saturating_mul(bytes as u64) / 1024;
        let owed = self.owed.fetch_add(cost, Ordering::Relaxed) + cost;
        if owed >= SHORTEST_SLEEP_NS {
            self.owed.fetch_sub(owed, Ordering::Relaxed);
            std::thread::sleep(Duration::from_nanos(owed));
            self.refresh(engine);
        }
        let budget = engine.options.write_budget();
        let full = || engine.views.cell.load().sealed_bytes() >= budget;
        if full() {
            engine.background.wait_for(engine, || !full() || engine.committer.failure().is_some())?;
        }
        Ok(())
    }

    /// Sets the price by the present debt.
    pub(crate) fn refresh(&self, engine: &Engine) {
        if engine.options.tuning.manual {
            return;
        }
        let view = engine.views.cell.load();
        let runs = view.version.level(0).runs.len() as u64;
        let by_runs = share(runs, FREE_RUNS, FULL_RUNS);
        let budget = engine.options.write_budget();
        let free = (budget / 2).max(engine.options.memtable_bytes() * 5 / 4);
        let by_memory = share(view.sealed_bytes(), free, budget.max(free + 1));
        let percent = by_runs.max(by_memory);
        self.price.store(FULL_PRICE_NS * percent / 100, Ordering::Relaxed);
    }
}

/// How far `now` has come from `free` to `full`, in percent, squared so that it starts gently.
fn share(now: u64, free: u64, full: u64) -> u64 {
    let percent = now.saturating_sub(free).saturating_mul(100) / (full - free).max(1);
    let percent = percent.min(100);
    percent * percent / 100
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn the_price_rises_from_nothing_to_full() {
        assert_eq!(share(8, 8, 20), 0);
        assert_eq!(share(14, 8, 20), 25);
        assert_eq!(share(20, 8, 20), 100);
        assert_eq!(share(1000, 8, 20), 100);
    }
}
