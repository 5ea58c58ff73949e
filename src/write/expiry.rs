//! Values that hold until a time.
//!
//! An entry carries the time at which it expires. From then on it is a tombstone: no read shows it,
//! an older value of its key does not come back, and merges drop it by the rule of tombstones. What
//! a reader goes by is the database's own clock,
//! [`Context::now`](crate::read::context::Context::now): the system's, but never backwards, and not
//! across a restart as long as it is not far ahead: the manifest and the log say how far it had
//! come. A snapshot answers as of the time at which it was taken.
//!
//! Which expiry a write has is one rule, for single writes, batches, transactions and bulk loads: a
//! write without an expiry of its own gets the default of its keyspace, and a read-modify-write (an
//! update, a swap, a counter, an append, a merge) keeps the expiry of the entry that it finds, or
//! that there is none. It writes a new entry, and gets the default, where it finds nothing.
//!
//! A merge operand is written without a read, so it cannot know what it will be combined with. A
//! read could not make up for that later: the operand would have to carry the time at which it was
//! written, and operands of different times could not be combined until what lies below them is
//! known. So a merge is a read-modify-write of the whole value in a keyspace that may hold entries
//! that expire: it has a default expiry, or a table, the log or a write since the open said so.
//! Everybody notes such an entry before it is appended, and a merge looks under the commit lock.
//! Operands therefore never lie on a value that expires. Those that a database has from before this
//! rule are no part of it: they stay when it goes.
//!
//! Space comes back without further writes. Each table knows when its entries expire (how many do,
//! the first, the middle one and the last); the compactor looks once a second, and writes a table
//! again once half of them have expired, if that is worth it, and once the last has. Pieces of the
//! memtable are flushed when something in them has expired and the database is idle.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use terrace_base::clock::millis;

/// Until when a value holds.
///
/// Times count in milliseconds, by the system's clock. If that is set forward, values expire that
/// much sooner, and may be gone for good also when it is put right. If it is set back, nothing that
/// had expired comes back: the database's time moves at half the pace, until the clock has
/// caught up. A database remembers its time, and begins with it when it is opened again, as long as
/// it is not more than an hour ahead of the clock; else it begins with the clock.
///
/// A value is never returned once its time has come, by any read. Its space is given
/// back within some ten seconds of the time at which the last entry of its table expires, and once
/// half of a table's entries have expired if those are a quarter of it or more, as far as no
/// snapshot still sees them and the disk keeps up.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// use std::time::Duration;
/// use terrace::Expiry;
/// let db = terrace::Db::in_memory()?;
/// db.put_expiring("session", "ada", Expiry::In(Duration::from_millis(20)))?;
/// assert!(db.get_entry("session")?.unwrap().expires_at.is_some());
/// std::thread::sleep(Duration::from_millis(25));
/// assert!(db.get("session")?.is_none());
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// For ever.
    #[default]
    Never,
    /// For so long from the write on.
    In(Duration),
    /// Until then.
    At(SystemTime),
}

/// When something expires, as far as it is known before it is written; in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// So long after the write, by the database's clock.
    After(u64),
    /// At this time, counted from 1970.
    At(u64),
}

impl Expiry {
    pub(crate) fn deadline(self) -> Option<Deadline> {
        match self {
            Expiry::Never => None,
            Expiry::In(time) => Some(Deadline::After(millis(time))),
            Expiry::At(time) => {
                let since = time.duration_since(UNIX_EPOCH);
                Some(Deadline::At(since.map_or(0, millis)))
            }
        }
    }
}
