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
//!      [ sealed ][ sealed ][ sealed ][ active ]      the sealed pieces go, then the active list
//! ```
//!
//! A change of the catalogue takes more memory than log. So a flush is also due when those that the
//! manifest has not are many.
//!
//! While a flush runs, or cannot be written, writers continue until the pieces that wait fill the
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
use crate::jobs::compact::tidy_level0;
use crate::jobs::flush::{flush_once, flush_position};
use crate::jobs::log_segments::trim_log;

/// A closed database keeps no more log than this, and no more entries in memory at its next open.
const KEPT: u64 = 1 << 20;
/// Memory for a change of the catalogue.
const CHANGE_BYTES: u64 = 256;

/// Flushes if the log above the tables is too long; false if it is not, or what could be
/// flushed is not visible yet.
pub(crate) fn shorten_log(engine: &Engine) -> Result<bool> {
    if mutant("log-outgrows-tables") {
        return Ok(false);
    }
    let flushed = engine.versions.lock().state.flushed.lsn;
    let changes = engine.catalogue.unflushed() as u64;
    let many = changes * CHANGE_BYTES >= engine.options.memtable_bytes();
    let limit = match many && !mutant("catalogue-without-flush") {
        true => 1,
        false => engine.options.log_bytes(),
    };
    let is_long = |end: Lsn| end.0.saturating_sub(flushed) >= limit;
    let newest_sealed = || {
        engine
            .views
            .cell
            .load()
            .sealed
            .first()
            .map(|run| run.end_lsn)
    };
    if newest_sealed().is_some_and(is_long) {
        return flush_once(engine, true);
    }
    if !is_long(engine.committer.end().0) {
        return Ok(false);
    }
    engine.committer.seal();
    match newest_sealed() {
        Some(_) => flush_once(engine, true),
        None => flush_position(engine), // Nothing but changes of the catalogue, and the like.
    }
}

/// Leaves little for the next open: flushes if there is much log, removes segments that wait
/// for another use, and merges small tables if there are many. REQUIRES: no job runs.
pub(crate) fn keep_little_log(engine: &Engine) -> Result<()> {
    if has_much_log(engine) {
        engine.committer.seal();
        while flush_once(engine, true)? {}
        flush_position(engine)?;
    }
    if !engine.counters.has_written() {
        return Ok(());
    }
    let reusable: u64 = engine
        .versions
        .lock()
        .reusable
        .iter()
        .map(|(_, size)| size)
        .sum();
    if reusable > KEPT {
        trim_log(engine, 0)?;
    }
    let tidied = engine.heed(tidy_level0(engine));
    match engine.committer.failure() {
        Some(_) => tidied,
        None => Ok(()), // Nothing is lost, and the next close tries again.
    }
}

fn has_much_log(engine: &Engine) -> bool {
    let flushed = engine.versions.lock().state.flushed.lsn;
    let entries = engine.views.cell.load().sealed_bytes() + engine.committer.active_bytes();
    let log = engine.committer.end().0.0.saturating_sub(flushed);
    let freeable = engine.committer.with_log(|log| log.freeable());
    if mutant("close-counts-memory-alone") {
        return entries > KEPT;
    }
    entries > KEPT || log > KEPT || freeable > KEPT
}
