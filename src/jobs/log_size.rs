//! How long the log may become, and the flushes that keep it so short.
//!
//! Memory alone does not bound the log: a key that is overwritten again and again takes its place
//! in memory once, and its place in the log each time. So a flush is also due when the log above
//! the tables is longer than `Tuning::log_bytes`, twice a memtable. It costs little where it is due
//! for this reason alone, because what it writes is small.
//!
//! ```text
//!   flushed                     limit
//!      |---- log above tables ----|
//!      [ sealed ][ sealed ][ sealed ][ active ]      the sealed pieces go; the active list too if they are not enough
//! ```
//!
//! A change of the catalogue takes more memory than log. So a flush is also due when those that the
//! manifest has not are many.
//!
//! While a flush runs, or cannot be written, writers go on until the pieces that wait fill the
//! write budget. So the log above the tables never exceeds the limit by more than that budget and
//! one write; on disk come the rest of the segment in use, and the spare one.
//!
//! A database that is closed keeps a log of [`KEPT`] at most, by every measure: what entries hold
//! in memory, what they take in the log, and the segments that a flush would free. Each life begins
//! a segment of its own, so without the last one a program that writes a little and ends would
//! leave a segment each time.

use terrace_base::{Result, mutant};
use terrace_wal::Lsn;

use crate::engine::Engine;

/// A closed database keeps no more log than this, and no more entries in memory at its next open.
const KEPT: u64 = 1 << 20;
/// Memory for a change of the catalogue.
const CHANGE_BYTES: u64 = 256;

impl Engine {
    /// Flushes if the log above the tables is too long; false if it is not, or what could be
    /// flushed is not visible yet.
    pub(crate) fn shorten_log(&self) -> Result<bool> {
        if mutant("log-outgrows-tables") {
            return Ok(false);
        }
        let flushed = self.versions.lock().state.flushed.lsn;
        let changes = self.catalogue.unflushed() as u64;
        let many = changes * CHANGE_BYTES >= self.options.memtable_bytes();
        let limit = match many && !mutant("catalogue-without-flush") {
            true => 1,
            false => self.options.log_bytes(),
        };
        let is_long = |end: Lsn| end.0.saturating_sub(flushed) >= limit;
        let newest_sealed = || self.views.cell.load().sealed.first().map(|run| run.end_lsn);
        if newest_sealed().is_some_and(is_long) {
            return self.flush_once(true);
        }
        if !is_long(self.committer.end().0) {
            return Ok(false);
        }
        self.committer.seal();
        match newest_sealed() {
            Some(_) => self.flush_once(true),
            None => self.flush_position(), // Nothing but changes of the catalogue, and the like.
        }
    }

    /// Leaves little for the next open: flushes if there is much log, removes segments that wait
    /// for another use, and merges small tables if there are many. REQUIRES: no job runs.
    pub(crate) fn keep_little_log(&self) -> Result<()> {
        if self.has_much_log() {
            self.committer.seal();
            while self.flush_once(true)? {}
            self.flush_position()?;
        }
        if !self.counters.has_written() {
            return Ok(());
        }
        let reusable: u64 = self
            .versions
            .lock()
            .reusable
            .iter()
            .map(|(_, size)| size)
            .sum();
        if reusable > KEPT {
            self.trim_log(0)?;
        }
        let tidied = self.heed(self.tidy_level0());
        match self.committer.failure() {
            Some(_) => tidied,
            None => Ok(()), // Nothing is lost, and the next close tries again.
        }
    }

    fn has_much_log(&self) -> bool {
        let flushed = self.versions.lock().state.flushed.lsn;
        let entries = self.views.cell.load().sealed_bytes() + self.committer.active_bytes();
        let log = self.committer.end().0.0.saturating_sub(flushed);
        let freeable = self.committer.with_log(|log| log.freeable());
        if mutant("close-counts-memory-alone") {
            return entries > KEPT;
        }
        entries > KEPT || log > KEPT || freeable > KEPT
    }
}
