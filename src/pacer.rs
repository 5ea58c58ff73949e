//! Writers pay for what they leave behind: pacing instead of stops.
//!
//! Level-0 runs make every read dearer and unflushed memory is bounded, so writers must not outrun flush and
//! compaction for long. From 8 to 20 level-0 runs, and over the last half of the write budget, each written
//! KiB costs the writer a little sleep, in proportion to how far the debt has come. Every new view sets the
//! price; a writer's common path reads one number.
//!
//! Only memory is a wall: at the full write budget a writer sleeps until a flush has made room, and if flushes
//! fail it gets their error. On a full disk the price is [`REFUSED`]: see [`crate::space`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use terrace_base::Result;

use crate::background::Task;
use crate::engine::Engine;
use crate::view::View;
use crate::write::Write;

/// Runs of level 0 between which the price rises.
const FREE_RUNS: u64 = 8;
const FULL_RUNS: u64 = 20;
/// The price of a KiB at full debt.
const FULL_PRICE_NS: u64 = 200_000;
/// Sleeping shorter than this is not worth a system call; the debt is carried over.
const SHORTEST_SLEEP_NS: u64 = 500_000;
/// The price on a full disk: none is high enough.
const REFUSED: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Pacer {
    /// Nanoseconds per KiB; 0 while all is well.
    price: AtomicU64,
    /// The disk is full.
    refuses: AtomicBool,
    /// Nanoseconds that writers owe.
    owed: AtomicU64,
    /// Unflushed memory between which the price rises.
    free_bytes: u64,
    full_bytes: u64,
}

impl Pacer {
    /// `budget` bounds unflushed memory, of which up to `free_bytes` cost nothing.
    pub(crate) fn new(free_bytes: u64, budget: u64) -> Pacer {
        let full_bytes = budget.max(free_bytes + 1);
        Pacer {
            price: AtomicU64::new(0),
            refuses: AtomicBool::new(false),
            owed: AtomicU64::new(0),
            free_bytes,
            full_bytes,
        }
    }

    /// Sets the price by the debt of a new view.
    pub(crate) fn note(&self, view: &View) {
        let runs = view.version.level(0).runs.len() as u64;
        let by_runs = share(runs, FREE_RUNS, FULL_RUNS);
        let by_memory = share(view.sealed_bytes(), self.free_bytes, self.full_bytes);
        let price = match self.refuses.load(Ordering::Relaxed) {
            true => REFUSED,
            false => FULL_PRICE_NS * by_runs.max(by_memory) / 100,
        };
        self.price.store(price, Ordering::Relaxed);
    }

    /// Whether the disk is full, from the next [`Pacer::note`] on.
    pub(crate) fn refuse(&self, yes: bool) {
        self.refuses.store(yes, Ordering::Relaxed);
    }

    /// Sleeps as long as `write` costs now.
    #[inline]
    pub(crate) fn pace(&self, engine: &Engine, write: &Write<'_>) -> Result<()> {
        match self.price.load(Ordering::Relaxed) {
            0 => Ok(()),
            price => self.pay(engine, write, price),
        }
    }

    #[cold]
    fn pay(&self, engine: &Engine, write: &Write<'_>, mut price: u64) -> Result<()> {
        if price == REFUSED {
            engine.check_space(write)?;
            price = 0;
        }
        if engine.options.tuning.manual {
            return Ok(()); // Nobody else would work it off meanwhile.
        }
        let cost = price.saturating_mul(write.len as u64) / 1024;
        let owed = self.owed.fetch_add(cost, Ordering::Relaxed) + cost;
        if owed >= SHORTEST_SLEEP_NS {
            self.owed.fetch_sub(owed, Ordering::Relaxed);
            std::thread::sleep(Duration::from_nanos(owed));
        }
        let full = || engine.views.cell.load().sealed_bytes() >= self.full_bytes;
        if full() {
            engine.background.wait_for(Task::Flush, || {
                !full() || engine.committer.failure().is_some()
            })?;
        }
        Ok(())
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
