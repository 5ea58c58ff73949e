//! What a stored entry needs, beside itself, to become the value that a caller sees.
//!
//! A plain put is its value. An entry of another kind says how to get one: a value that holds until a time needs
//! the clock. Point reads ([`crate::get`]) and walks ([`crate::walk`]) meet such entries on a cold path of
//! their own, and come here.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use terrace_base::{Clock, SeqNo};

/// What the entries of an open database need to become values. Iterators share it, and outlive the database.
#[derive(Debug)]
pub(crate) struct Context {
    clock: Arc<dyn Clock>,
}

/// What a reader sees: everything up to a sequence number, as of a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadPoint {
    pub(crate) seq: SeqNo,
    /// Milliseconds since 1970; that of the read itself where it is not fixed.
    pub(crate) now: Option<u64>,
}

impl Context {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Context {
        Context { clock }
    }

    /// The time by which entries expire, in milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        millis(self.clock.wall())
    }

    /// True if what expires at `time` is gone for a reader at `at`.
    pub(crate) fn is_expired(&self, time: u64, at: ReadPoint) -> bool {
        time <= at.now.unwrap_or_else(|| self.now())
    }
}

/// The moment `time` milliseconds after 1970, or as late as can be said.
pub(crate) fn time_of(time: u64) -> SystemTime {
    let since = Duration::from_millis(time);
    let latest = Duration::from_secs(1 << 38); // In the year 10,680: every system can say that.
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH + latest)
}

/// Whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
