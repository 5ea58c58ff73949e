//! What an idle database does so that it holds no more than its data need
//!
//! Memory and log hold what was deleted or overwritten until a flush. While a database is at work
//! the next flush comes by itself. In an idle one it is worth a flush of its own if many entries in
//! memory are tombstones, for whatever reads their keys steps over them and what they hide keeps
//! its space; and if most of the log is dead. What expires and what is large asks for its own
//! flush: see [`crate::write::expiry`] and [`crate::jobs::blob_gc`].

use terrace_base::{InternalIterator, Result, ValueKind, mutant};

use crate::engine::Engine;
use crate::memtable::{Form, MemRun};
use crate::read::view::View;

/// As many tombstones in memory are worth a flush: a walk over them takes some ten microseconds.
const TOMBSTONES: u64 = 256;
/// A log is mostly dead if it is so many times as long as what is in memory, and longer than this
/// by itself.
const LOG_SHARE: u64 = 4;
const LOG_BYTES: u64 = 1 << 20;

/// Tombstones in a sealed piece.
fn tombstones(run: &MemRun) -> Result<u64> {
    match &run.form {
        Form::Image(table) => Ok(table.info().tombstones),
        Form::List(list) => count(list.cursor()),
    }
}

fn count(mut entries: impl InternalIterator) -> Result<u64> {
    let mut count = 0;
    entries.first()?;
    while entries.valid() {
        count += u64::from(entries.key().kind == ValueKind::Tombstone);
        entries.next()?;
    }
    Ok(count)
}

impl Engine {
    /// Asks for a flush if much of what is in memory or in the log is dead; for a database that is
    /// idle.
    pub(crate) fn flush_deleted(&self) -> Result<()> {
        if !self.counters.is_new(self.committer.visible()) || mutant("idle-keeps-tombstones") {
            return Ok(()); // Nothing was written since it was looked at.
        }
        let view = self.views.cell.load_full();
        if self.is_log_dead(&view) || has_tombstones(&view)? {
            self.flush_soon();
        }
        Ok(())
    }

    fn is_log_dead(&self, view: &View) -> bool {
        let flushed = self.versions.lock().state.flushed.lsn;
        let log = self.committer.end().0.0.saturating_sub(flushed);
        let held = view.sealed_bytes() + self.committer.active_bytes();
        log > LOG_BYTES + held.saturating_mul(LOG_SHARE)
    }
}

fn has_tombstones(view: &View) -> Result<bool> {
    let mut sum = count(view.active.cursor())?;
    for run in &view.sealed {
        sum += tombstones(run)?;
    }
    Ok(sum >= TOMBSTONES)
}
