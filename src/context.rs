//! What a stored entry needs, beside itself, to become the value that a caller sees.
//!
//! A plain put is its value. An entry of another kind says how to get one: a value that holds until a time needs
//! the clock, and operands the merge operator of their keyspace. Point reads ([`crate::get`]) and walks ([`crate::walk`]) meet such entries on a cold path of
//! their own, and come here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use terrace_base::{Clock, SeqNo, mutant};

use crate::policy::Policies;
use crate::stretches::Stretches;

/// What the entries of an open database need to become values. Iterators share it, and outlive the database.
#[derive(Debug)]
pub(crate) struct Context {
    clock: Arc<dyn Clock>,
    pub(crate) policies: Arc<Policies>,
    /// What [`Context::now`] said last: entries that were seen to expire stay expired when the clock is set back.
    latest: AtomicU64,
    /// The time that the log knows.
    stamped: AtomicU64,
    /// When the first entry of the memtable expires that nobody has taken notice of.
    next_expiry: AtomicU64,
    /// What walks have found dead.
    pub(crate) stretches: Arc<Stretches>,
}

/// The log learns the time at most once in so many milliseconds.
const STAMPS: u64 = 1000;

/// What a reader sees: everything up to a sequence number, as of a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadPoint {
    pub(crate) seq: SeqNo,
    /// Milliseconds since 1970; that of the read itself where it is not fixed.
    pub(crate) now: Option<u64>,
}

impl ReadPoint {
    /// Everything up to `seq`, as of whenever it is read.
    pub(crate) fn newest(seq: SeqNo) -> ReadPoint {
        ReadPoint { seq, now: None }
    }
}

impl Context {
    /// `latest` is the latest time that the database is known to have seen before.
    pub(crate) fn new(clock: Arc<dyn Clock>, policies: Arc<Policies>, latest: u64) -> Context {
        Context {
            clock,
            policies,
            latest: AtomicU64::new(latest),
            stamped: AtomicU64::new(latest),
            next_expiry: AtomicU64::new(u64::MAX),
            stretches: Arc::default(),
        }
    }

    /// True if the log is to be told that it is `now`.
    pub(crate) fn stamp_is_due(&self, now: u64) -> bool {
        let due = now >= self.stamped.load(Ordering::Relaxed).saturating_add(STAMPS);
        if due {
            self.stamped.store(now, Ordering::Relaxed);
        }
        due
    }

    /// An entry was written that expires at `time`.
    pub(crate) fn note_expiry(&self, time: u64) {
        self.next_expiry.fetch_min(time, Ordering::AcqRel);
    }

    /// True if an entry of the memtable expires.
    pub(crate) fn expires_in_memory(&self) -> bool {
        self.next_expiry.load(Ordering::Acquire) < u64::MAX
    }

    /// True, once, if an entry of the memtable has expired.
    pub(crate) fn has_expired_in_memory(&self) -> bool {
        let next = self.next_expiry.load(Ordering::Acquire);
        let expired = next < u64::MAX && next <= self.now();
        if expired {
            self.next_expiry.store(u64::MAX, Ordering::Release);
        }
        expired
    }

    /// The time by which entries expire, in milliseconds since 1970. It never runs backwards.
    pub(crate) fn now(&self) -> u64 {
        let wall = millis(self.clock.wall());
        if wall <= self.latest.load(Ordering::Acquire) {
            return self.latest.load(Ordering::Acquire);
        }
        self.latest.fetch_max(wall, Ordering::AcqRel).max(wall)
    }

    /// When a value that is written now expires, of a keyspace whose values do `after` so many
    /// milliseconds.
    pub(crate) fn deadline(&self, after: Option<u64>) -> Option<u64> {
        after.map(|after| self.now().saturating_add(after))
    }

    /// True if what expires at `time` is gone for a reader at `at`.
    pub(crate) fn is_expired(&self, time: u64, at: ReadPoint) -> bool {
        time <= at.now.unwrap_or_else(|| self.now()) && !mutant("read-expired")
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
