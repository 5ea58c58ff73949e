//! Write throttling: writers are delayed in proportion to compaction debt
//!
//! Level-0 runs make every read dearer, and unflushed memory is bounded. From 8 level-0 runs on,
//! and over the last half of the write budget, each written KiB has a price in time, which grows
//! with the square of the debt: the full price, 0.2 ms, is reached at 20 runs or at the full
//! budget, and 16 times that at 56 runs. Every new view sets the price; the common path of a writer
//! reads one number.
//!
//! An ingest and a flush on request write little to the log, and add a run each: that costs as much
//! as 256 KiB. With 32 runs they also wait for compaction: see `jobs/compact.rs`.
//!
//! A range delete stays in memory until compaction has removed what it hides, and so does a dropped
//! keyspace. Each has a price of its own from the number on that takes a fixed share of the write
//! budget, one for each 4 KiB: 4 ms at four times as many, and up to 16 times that.
//!
//! A price binds all writers together. Each takes the next free stretch of one common time line,
//! as long as its write costs, and sleeps until that has passed: n threads write no faster than
//! one. No write is delayed by more than a second.
//!
//! Only memory is a wall: at the full write budget a writer sleeps until a flush has made room, and
//! if flushes fail it gets their error. On a full disk the price is [`REFUSED`]. The writers' side
//! is `jobs/pacing.rs`.

use std::sync::atomic::AtomicBool;

use terrace_base::mutant;

use crate::sync::{AtomicU64, Ordering};

/// Runs of level 0 between which the price rises.
const FREE_RUNS: u64 = 8;
const FULL_RUNS: u64 = 20;
/// The price of a KiB at full debt.
const FULL_PRICE_NS: u64 = 200_000;
/// How many times the full price level-0 runs can cost at most: the price at 56 of them.
const MOST_SHARE: u64 = 1600;
/// Sleeping shorter than this is not worth a system call; the delay is left to later writes.
pub(crate) const SHORTEST_SLEEP_NS: u64 = 500_000;
/// The longest delay of one write.
const LONGEST_SLEEP_NS: u64 = 1_000_000_000;
/// The price of a level-0 run that a caller adds, in bytes.
pub(crate) const RUN: u64 = 256 << 10;
/// The price of a range delete, or the drop of a keyspace, at full debt.
const DELETE_NS: u64 = 4_000_000;
/// Bytes of the write budget for each that costs nothing.
const DELETE_BYTES: u64 = 4 << 10;
/// As many cost nothing however little memory there is.
const LEAST_DELETES: u64 = 256;
/// The price on a full disk: none is high enough.
pub(crate) const REFUSED: u64 = u64::MAX;

/// What is left to do, as far as prices depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Debt {
    pub(crate) level0_runs: u64,
    /// Bytes that are sealed and not flushed.
    pub(crate) sealed_bytes: u64,
    /// Range deletes that are kept.
    pub(crate) range_deletes: usize,
}

#[derive(Debug)]
pub(crate) struct Pacer {
    /// Nanoseconds per KiB; 0 while all is well.
    pub(crate) price: AtomicU64,
    /// The disk is full.
    refuses: AtomicBool,
    /// What all that is written takes of time.
    pub(crate) line: TimeLine,
    /// Nanoseconds per range delete; 0 while there are few.
    pub(crate) range_price: AtomicU64,
    /// What deletes of ranges and keyspaces take of time: nothing else waits for them.
    pub(crate) delete_line: TimeLine,
    /// Unflushed memory between which the price rises.
    free_bytes: u64,
    pub(crate) full_bytes: u64,
}

/// Time that writers take in turn.
#[derive(Debug, Default)]
pub(crate) struct TimeLine {
    /// The end of what is taken, in nanoseconds of the monotonic clock.
    taken_to: AtomicU64,
}

impl Pacer {
    /// `budget` bounds unflushed memory, of which up to `free_bytes` cost nothing.
    pub(crate) fn new(free_bytes: u64, budget: u64) -> Pacer {
        let full_bytes = budget.max(free_bytes + 1);
        Pacer {
            price: AtomicU64::new(0),
            refuses: AtomicBool::new(false),
            line: TimeLine::default(),
            range_price: AtomicU64::new(0),
            delete_line: TimeLine::default(),
            free_bytes,
            full_bytes,
        }
    }

    /// Sets the prices by the debt of a new view.
    pub(crate) fn note(&self, debt: Debt) {
        let by_runs = share(debt.level0_runs, FREE_RUNS, FULL_RUNS).min(MOST_SHARE);
        let by_memory = share(debt.sealed_bytes, self.free_bytes, self.full_bytes).min(100);
        let price = match self.refuses.load(Ordering::Relaxed) {
            true => REFUSED,
            false => FULL_PRICE_NS * by_runs.max(by_memory) / 100,
        };
        self.price.store(price, Ordering::Relaxed);
        let range_price = self.price_of_delete(debt.range_deletes);
        self.range_price.store(range_price, Ordering::Relaxed);
    }

    /// What a range delete or the drop of a keyspace costs, in nanoseconds, while `kept` are kept.
    pub(crate) fn price_of_delete(&self, kept: usize) -> u64 {
        if mutant("deletes-without-price") {
            return 0;
        }
        let free = (self.full_bytes / DELETE_BYTES).max(LEAST_DELETES);
        DELETE_NS * share(kept as u64, free, 4 * free).min(MOST_SHARE) / 100
    }

    /// Whether the disk is full, from the next [`Pacer::note`] on.
    pub(crate) fn refuse(&self, yes: bool) {
        self.refuses.store(yes, Ordering::Relaxed);
    }
}

impl TimeLine {
    /// Takes `cost`; how long it is until that has passed, in nanoseconds.
    pub(crate) fn take_turn(&self, now: u64, cost: u64) -> u64 {
        let end = |taken: u64| {
            let end = taken.max(now).saturating_add(cost);
            end.min(now.saturating_add(LONGEST_SLEEP_NS))
        };
        if mutant("turns-in-two-steps") {
            let end = end(self.taken_to.load(Ordering::Relaxed));
            self.taken_to.store(end, Ordering::Relaxed);
            return end - now;
        }
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let before = self
            .taken_to
            .fetch_update(set, fetch, |taken| Some(end(taken)));
        end(before.unwrap_or(now)) - now
    }
}

/// How far `now` has come from `free` to `full`, in percent, squared so that it starts gently.
fn share(now: u64, free: u64, full: u64) -> u64 {
    let percent = now.saturating_sub(free).saturating_mul(100) / (full - free).max(1);
    percent.saturating_mul(percent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_price_rises_with_the_debt_and_does_not_stop_rising() {
        assert_eq!(share(8, 8, 20), 0);
        assert_eq!(share(14, 8, 20), 25);
        assert_eq!(share(20, 8, 20), 100);
        assert_eq!(share(32, 8, 20), 400);
        assert_eq!(share(56, 8, 20), MOST_SHARE);
    }

    #[test]
    fn writers_take_turns_on_one_time_line() {
        let line = TimeLine::default();
        let delays: Vec<u64> = (0..4).map(|_| line.take_turn(1000, 300)).collect();
        assert_eq!(delays, [300, 600, 900, 1200]);
        assert_eq!(
            line.take_turn(5000, 300),
            300,
            "time that nobody took is gone"
        );
    }

    #[test]
    fn no_delay_is_longer_than_a_second() {
        let line = TimeLine::default();
        let (now, second) = (77, LONGEST_SLEEP_NS);
        assert_eq!(line.take_turn(now, u64::MAX), second);
        assert_eq!(line.take_turn(now, u64::MAX), second);
        assert_eq!(line.take_turn(now + second, 5), 5);
    }
}
