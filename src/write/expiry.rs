//! Values that hold until a time.
//!
//! An entry carries the time at which it expires. From then on it is a tombstone: no read shows it,
//! an older value of its key does not come back, and merges drop it by the rule of tombstones. What
//! a reader goes by is the database's own clock, [`Context::now`](crate::read::context::Context::now):
//! the system's, but never backwards, and not across a restart as long as it is not far ahead: the
//! manifest and the log say how far it had come. A snapshot answers as of the time at which it was
//! taken.
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

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use terrace_base::{KeyspaceId, Result};
use terrace_compaction::{LEVELS, TableFile, Version};

use crate::engine::Engine;
use crate::keyspace::catalogue::KeyspaceState;
use crate::read::context::millis;
use crate::write::batch::Batch;
use crate::write::payload::encode_clock;

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

impl Engine {
    /// Fixes the times in a batch; the operation that says in the log what time it was, if one is
    /// due.
    pub(crate) fn date(&self, batch: &mut Batch) -> Option<Vec<u8>> {
        if batch.deadlines.is_empty() {
            return None;
        }
        for id in &batch.expiring {
            self.state_of(*id, &batch.keyspaces).note_expiring();
        }
        let now = self.context.now();
        let first = batch.date(now);
        self.stamp(now, first)
    }

    /// Notes that entries are written of which the first expires at `first`; the operation that
    /// says in the log that it is `now`, if one is due.
    pub(crate) fn stamp(&self, now: u64, first: u64) -> Option<Vec<u8>> {
        self.context.note_expiry(first);
        self.context.stamp_is_due(now).then(|| encode_clock(now))
    }

    /// The keyspace `id` of a batch that names `keyspaces`.
    pub(crate) fn state_of<'a>(
        &'a self,
        id: KeyspaceId,
        keyspaces: &'a [Arc<KeyspaceState>],
    ) -> &'a KeyspaceState {
        let found = keyspaces.iter().find(|state| state.id == id);
        found.unwrap_or(&self.default_keyspace) // Batches do not name it.
    }

    /// Asks for a flush if something in memory has expired; for a database that is idle.
    pub(crate) fn flush_expired(&self) {
        if self.context.has_expired_in_memory() {
            self.flush_soon();
        }
    }

    /// True if time alone may make work: something in memory or in a table expires.
    pub(crate) fn awaits_expiry(&self) -> bool {
        let view = self.views.cell.load();
        let mut tables = view.version.tables();
        self.context.expires_in_memory()
            || tables.any(|(_, _, table)| table.info().expiries.is_some())
    }

    /// Writes one table again, or removes it, of which enough has expired; false if there is none.
    /// Tables of level 0 are left to the merge that they wait for anyway.
    pub(crate) fn expire_once(&self) -> Result<bool> {
        let version = self.views.cell.load().version.clone();
        if version
            .tables()
            .all(|(_, _, table)| table.info().expiries.is_none())
        {
            return Ok(false);
        }
        let stripes = self.horizon(Vec::new()).stripes;
        let time = stripes.time_of(0); // All readers have come so far.
        for (level, _, file) in version.tables() {
            if level == 0 || file.damaged() || !is_due(file, time) {
                continue;
            }
            let settled = file.info().max_seq <= stripes.settled();
            let whole = settled && goes_whole(&version, level, file, time);
            if self.rewrite(file.number(), whole)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// True if by `time` enough of a table has expired.
fn is_due(file: &TableFile, time: u64) -> bool {
    let info = file.info();
    info.expiries.is_some_and(|expiries| {
        let many = expiries.entries.saturating_mul(4) >= info.entries;
        time >= if many { expiries.median } else { expiries.last }
    })
}

/// True if by `time` all of a table has expired, and nothing that it hides can return.
fn goes_whole(version: &Version, level: usize, file: &TableFile, time: u64) -> bool {
    let info = file.info();
    let all = |expiries: terrace_sstable::Expiries| {
        expiries.entries == info.entries && expiries.last <= time
    };
    let mut older = (level + 1..LEVELS).flat_map(|n| &version.level(n).runs);
    info.expiries.is_some_and(all)
        && older.all(|run| {
            run.overlapping(info.smallest.as_ref(), info.largest.as_ref())
                .is_empty()
        })
}
