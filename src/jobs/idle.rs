//! What an idle database does so that it holds no more than its data need
//!
//! Memory and log hold what was deleted or overwritten until a flush. While a database is at work
//! the next flush comes by itself. In an idle one it is worth a flush of its own if many entries in
//! memory are tombstones, for whatever reads their keys steps over them and what they hide keeps
//! its space; and if most of the log is dead. What expires and what is large asks for its own
//! flush: see [`crate::write::expiry`] and [`crate::jobs::blob_gc`].

use std::collections::HashSet;

use terrace_base::{InternalIterator, Result, ValueKind, mutant};
use terrace_compaction::KeyRange;

use crate::engine::Engine;
use crate::jobs::blob_gc::tend_blobs;
use crate::jobs::compact::{compact_once, pick_options, push_down};
use crate::jobs::expire::expire_once;
use crate::jobs::flush::{flush, flush_soon};
use crate::jobs::log_segments::trim_log;
use crate::jobs::reclaim::reclaim_once;
use crate::memtable::{Form, MemRun};
use crate::read::view::View;

/// As many tombstones in memory are worth a flush: a walk over them takes some ten microseconds.
const TOMBSTONES: u64 = 256;
/// Ratio of log length to bytes in memory above which a log counts as mostly dead, and the least
/// length for that.
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

/// Asks for a flush if much of what is in memory or in the log is dead; for a database that is
/// idle.
pub(crate) fn flush_deleted(engine: &Engine) -> Result<()> {
    if !engine.counters.is_new(engine.committer.visible()) || mutant("idle-keeps-tombstones") {
        return Ok(()); // Nothing was written since it was looked at.
    }
    let view = engine.views.cell.load_full();
    if is_log_dead(engine, &view) || has_tombstones(&view)? {
        flush_soon(engine);
    }
    Ok(())
}

fn is_log_dead(engine: &Engine, view: &View) -> bool {
    let flushed = engine.versions.lock().state.flushed.lsn;
    let log = engine.committer.end().0.0.saturating_sub(flushed);
    let held = view.sealed_bytes() + engine.committer.active_bytes();
    log > LOG_BYTES + held.saturating_mul(LOG_SHARE)
}

/// Flushes and merges as an idle database would, until nothing is due.
pub(crate) fn wait_idle(engine: &Engine) -> Result<()> {
    flush(engine)?;
    if engine.options.tuning.manual {
        while compact_once(engine, true)? {}
    } else {
        engine.background.hurry_while(|| {
            let version = engine.views.cell.load().version.clone();
            let idle =
                terrace_compaction::pick(&version, &pick_options(engine, true), &HashSet::new());
            idle.is_none()
        })?;
    }
    work_off(engine)?;
    become_idle(engine)?;
    engine.files.remove_obsolete()
}

/// Takes dropped keyspaces, range deletes, expired entries and dead large values out of the
/// tables. It takes as many steps as what is there now may need, and no more: other threads may
/// make work faster than this one does it.
fn work_off(engine: &Engine) -> Result<()> {
    let steps = {
        let view = engine.views.cell.load();
        let version = &view.version;
        let tables = version.tables().count() + version.blobs().len();
        2 * tables + version.deleted().len() + 1
    };
    for _ in 0..=steps {
        if !(reclaim_once(engine)? || expire_once(engine)? || tend_blobs(engine, true)?) {
            break;
        }
    }
    Ok(())
}

/// Flushes, and pushes every table that overlaps `range` down into the last level.
pub(crate) fn compact_range(engine: &Engine, range: &KeyRange<'_>) -> Result<()> {
    flush(engine)?;
    push_down(engine, range)?;
    work_off(engine)?;
    engine.files.remove_obsolete()
}

/// Gives back the space that only a database at work needs. On a full disk deletes need what
/// there is of the log.
pub(crate) fn become_idle(engine: &Engine) -> Result<()> {
    if engine.space.full().is_some() {
        return Ok(());
    }
    trim_log(engine, 0)?;
    match engine.views.cell.load().sealed.is_empty() {
        true => engine.space.give_up().map(|_| ()),
        false => Ok(()),
    }
}

fn has_tombstones(view: &View) -> Result<bool> {
    let mut sum = count(view.active.cursor())?;
    for run in &view.sealed {
        sum += tombstones(run)?;
    }
    Ok(sum >= TOMBSTONES)
}
