//! Time. Nothing else in terrace asks the operating system for it, so that a test can set it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Time since some fixed moment; never runs backwards.
    fn monotonic(&self) -> Duration;
    /// Time since 1970-01-01 UTC; may jump either way.
    fn wall(&self) -> Duration;
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    #[allow(clippy::disallowed_methods)] // This is the replacement that the ban names.
    fn default() -> SystemClock {
        SystemClock {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[allow(clippy::disallowed_methods)] // This is the replacement that the ban names.
    fn wall(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Debug, Default)]
pub struct ManualClock {
    monotonic_us: AtomicU64,
    wall_us: AtomicU64,
}

impl ManualClock {
    /// A clock at zero, with the wall clock at `wall`.
    pub fn new(wall: Duration) -> ManualClock {
        ManualClock {
            monotonic_us: AtomicU64::new(0),
            wall_us: AtomicU64::new(wall.as_micros() as u64),
        }
    }

    /// Both clocks move on by `step`.
    pub fn advance(&self, step: Duration) {
        self.monotonic_us
            .fetch_add(step.as_micros() as u64, Ordering::SeqCst);
        self.wall_us
            .fetch_add(step.as_micros() as u64, Ordering::SeqCst);
    }

    /// The wall clock jumps to `wall`, forwards or backwards.
    pub fn set_wall(&self, wall: Duration) {
        self.wall_us
            .store(wall.as_micros() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.monotonic_us.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Duration {
        Duration::from_micros(self.wall_us.load(Ordering::SeqCst))
    }
}

/// Whole milliseconds of `time`.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(Duration::from_secs(100));
        clock.advance(Duration::from_millis(5));
        assert_eq!(clock.monotonic(), Duration::from_millis(5));
        clock.set_wall(Duration::from_secs(1));
        assert_eq!(
            (clock.wall(), clock.monotonic()),
            (Duration::from_secs(1), Duration::from_millis(5))
        );
        assert!(SystemClock::default().wall() > Duration::from_secs(1));
    }
}
