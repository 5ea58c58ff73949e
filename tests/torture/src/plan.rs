//! What a mode is asked to do.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When a mode has done enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// After so many of what the mode counts.
    Count(u64),
    /// After a time.
    For(Duration),
}

/// What a mode is asked to do.
#[derive(Debug)]
pub struct Plan {
    /// Round `i` works with seed `seed + i`.
    pub seed: u64,
    /// When it has done enough.
    pub budget: Budget,
    /// Reproduces one failure instead: what the line of the failure says behind `--at`.
    pub at: Option<String>,
    /// Whether to print a line now and then.
    pub progress: bool,
    started: Instant,
    shown: Mutex<Instant>,
}

impl Plan {
    /// A plan that begins now.
    pub fn new(seed: u64, budget: Budget) -> Plan {
        let now = Instant::now();
        Plan {
            seed,
            budget,
            at: None,
            progress: false,
            started: now,
            shown: Mutex::new(now),
        }
    }

    /// True while less than the budget is done. `done` is what the mode counts.
    pub fn goes_on(&self, done: u64) -> bool {
        match self.budget {
            Budget::Count(count) => done < count,
            Budget::For(time) => self.started.elapsed() < time,
        }
    }

    /// Since the plan began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints `line` if a line is due: once a second at most.
    pub fn show(&self, line: impl FnOnce() -> String) {
        if !self.progress {
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.elapsed() >= Duration::from_secs(1) {
            eprintln!("{:>6.0} s  {}", self.elapsed().as_secs_f64(), line());
            *shown = Instant::now();
        }
    }
}
