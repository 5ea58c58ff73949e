//! What a stored entry needs, beside itself, to become the value that a caller sees.
//!
//! A plain put is its value. An entry of another kind says how to get one: a value that holds until
//! a time needs the clock, and operands the merge operator of their keyspace. Point reads
//! ([`crate::read::get`]) and walks ([`crate::read::db_iter`]) meet such entries on a cold path of
//! their own, and come here.
//!
//! Entries expire by the database's own time. It is the system's as long as that moves on; where
//! the system's clock jumps forward it follows, for an old clock may have been put right. Then
//! entries expire early, and those that a merge has dropped by then are gone for good. It never
//! runs backwards while the database is open, so that no snapshot and no reader sees an entry again
//! that was gone. Where the system's clock is set back, it moves at half the pace of the
//! monotonic clock until the system's has caught up: what is written to hold for a minute holds for
//! two at most, and not until then.
//!
//! The manifest and the log remember how far it had come, so that a restart brings nothing back
//! either. But a clock that was wrong for a moment must not count for years. So what is remembered
//! may lead the system's clock by [`LEAD`] at an open. If it leads by more, it is not believed, and
//! the database begins with the system's clock: entries that had not been dropped come back. A
//! system that says that it is before [`PLAUSIBLE`] has no clock yet, and what is remembered is
//! believed.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use terrace_base::clock::millis;
use terrace_base::{Clock, SeqNo, mutant};

use crate::keyspace::policies::Policies;
use crate::read::dead_ranges::Stretches;
use crate::sync::{Mutex, Rank, lock};

/// What the entries of an open database need to become values. Iterators share it, and outlive the
/// database.
#[derive(Debug)]
pub(crate) struct Context {
    clock: Arc<dyn Clock>,
    pub(crate) policies: Arc<Policies>,
    /// What [`Context::now`] said last: entries that were seen to expire stay expired when the
    /// clock is set back.
    latest: AtomicU64,
    /// The time that the log knows.
    stamped: AtomicU64,
    /// Expiry time of the first entry of the memtable that no job has handled yet.
    next_expiry: AtomicU64,
    /// What walks have found dead.
    pub(crate) stretches: Arc<Stretches>,
    /// Since when the system's clock has been behind.
    behind: Mutex<Option<Behind>>,
}

/// A stretch of time in which the system's clock is behind.
#[derive(Debug)]
struct Behind {
    /// The time at its beginning, by the database's clock and by the monotonic one.
    from: u64,
    at: Duration,
    /// What was said last.
    last: u64,
}

/// Maximum lead of the stored time over the system clock at an open, in milliseconds: an hour.
pub(crate) const LEAD: u64 = 60 * 60 * 1000;
/// In milliseconds since 1970: the beginning of 2024. It was later when this was written.
const PLAUSIBLE: u64 = 1_704_067_200_000;

/// The time after `before` and then `later` were remembered. Small steps back are those of threads
/// that remember at the same moment; a large one is a database that has not believed the time
/// before.
pub(crate) fn remembered(before: u64, later: u64) -> u64 {
    match later < before.saturating_sub(LEAD) {
        true => later,
        false => before.max(later),
    }
}

/// The time with which a database begins that remembers `time`.
pub(crate) fn believed(time: u64, clock: &dyn Clock) -> u64 {
    let wall = millis(clock.wall());
    match wall >= PLAUSIBLE && time > wall.saturating_add(LEAD) {
        true => wall,
        false => time,
    }
}

/// Minimum interval between clock records in the log, in milliseconds.
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
        let latest = believed(latest, &*clock);
        Context {
            clock,
            policies,
            latest: AtomicU64::new(latest),
            stamped: AtomicU64::new(latest),
            next_expiry: AtomicU64::new(u64::MAX),
            stretches: Arc::default(),
            behind: Mutex::new(Rank::Leaf, None),
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
        match wall.cmp(&self.latest.load(Ordering::Acquire)) {
            Less => self.while_behind(),
            Equal => wall,
            Greater => self.latest.fetch_max(wall, Ordering::AcqRel).max(wall),
        }
    }

    /// The time while the system's clock is behind: half as fast.
    #[cold]
    fn while_behind(&self) -> u64 {
        let at = self.clock.monotonic();
        let mut behind = lock(&self.behind);
        let latest = self.latest.load(Ordering::Acquire);
        let known = behind.as_ref().filter(|behind| behind.last == latest);
        let (from, since) = known.map_or((latest, at), |behind| (behind.from, behind.at));
        let passed = millis(at.saturating_sub(since)) / 2;
        let now = from.saturating_add(passed).max(latest);
        let last = self.latest.fetch_max(now, Ordering::AcqRel).max(now);
        *behind = Some(Behind {
            from,
            at: since,
            last,
        });
        last
    }

    /// Expiry time of a value that is written now to a keyspace with a TTL of `after` milliseconds.
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
