//! Running compactions: from a plan to an edit.
//!
//! The picker decides from a version alone and the merge knows no locks; this file marks the inputs
//! as busy, runs the one or the other kind, and installs the result. Inputs are deleted only by the
//! edit that replaced them, once it is durable and the last reader has let go.
//!
//! A damaged input fails its job once: the read that found the damage quarantined the table, so
//! that no later compaction picks it, and the other compactions continue. `Db::health` names it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use terrace_base::{FileNumber, RangeSet, Result, SeqNo, UserKey, mutant};
use terrace_compaction::{
    BlobFiles, Compaction, CompactionKind, Keeps, KeyRange, LEVELS, MergeOptions, MergeResult,
    OlderRuns, PickOptions, Rules, Version, VersionEdit, damaged_table, pick, pick_newest,
    pick_range, rewrite_in_place,
};

use crate::background::signals::Task;
use crate::engine::Engine;
use crate::engine::forgetting::MANY_DELETES;
use crate::jobs::blob_gc::{blobs_due, blobs_pile_up, tend_blobs};
use crate::jobs::flush::{combine_for_good, complete, horizon};
use crate::jobs::space::with_reserve;
use crate::jobs::table_outputs::NewTables;
use crate::logging::{Plain, event};
use crate::read::blob::Want;

/// Maximum bytes of the next level that an unrequested merge of level 0 rewrites per byte of its
/// own.
const WORTH: u64 = 16;
/// Number of level-0 runs from which callers that add one wait, and the longest wait.
const CROWDED: usize = 32;
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What a merge needs of the version that it was picked from, beside its inputs. It does not keep
/// the version itself: the tables that other jobs replace meanwhile can go.
#[derive(Debug)]
pub(crate) struct MergeBase {
    older: OlderRuns,
    deleted: Arc<RangeSet>,
    blobs: Arc<BlobFiles>,
}

impl MergeBase {
    pub(crate) fn of(compaction: &Compaction, version: &Version) -> MergeBase {
        MergeBase {
            older: compaction.older_runs(version),
            deleted: version.deleted().clone(),
            blobs: version.blobs().clone(),
        }
    }
}

/// Picks one compaction and runs it; false if none is due.
pub(crate) fn compact_once(engine: &Engine, idle: bool) -> Result<bool> {
    let options = pick_options(engine, idle);
    run_claimed(engine, true, |version, busy| pick(version, &options, busy))
}

/// What the background does: a compaction that is worth it, or, where large values that are
/// dead pile up, a step towards giving them back; false if nothing is due.
pub(crate) fn compact_if_worth(engine: &Engine, idle: bool) -> Result<bool> {
    let runs = engine.views.cell.load().version.level(0).runs.len();
    let due = engine.options.tuning.level0_runs;
    if runs <= 2 * due && blobs_pile_up(engine) && tend_blobs(engine, idle)? {
        return Ok(true);
    }
    let gives_way = runs <= 4 * due || mutant("always-gives-way");
    run_claimed(engine, gives_way, |version, busy| {
        // Under the lock: a caller that pushes down follows the tables that it has found.
        let options = match engine.pushing.load(Ordering::SeqCst) {
            0 => pick_worthy(engine, idle),
            _ => pick_options(engine, idle),
        };
        pick(version, &options, busy)
    })
}

/// Waits while level 0 is crowded and compaction can do something about it, at most two seconds:
/// a merge may be very long. For callers that are about to add a run.
pub(crate) fn wait_for_level0(engine: &Engine) {
    if engine.options.tuning.manual || mutant("crowded-level") {
        return;
    }
    let until = engine.clock().monotonic() + LONGEST_WAIT;
    let done = || {
        let version = engine.views.cell.load().version.clone();
        let is_stuck = || {
            engine.background.running.load(Ordering::Acquire) == 0
                && pick(&version, &pick_options(engine, false), &HashSet::new()).is_none()
        };
        version.level(0).runs.len() < CROWDED || engine.clock().monotonic() >= until || is_stuck()
    };
    // Where compaction fails, its error is no reason not to add a run.
    drop(engine.background.wait_for(Task::Compaction, done));
}

/// Takes the tables that hold keys of `range` now down to the last level, level by level. Those
/// that others add later are left alone, so that this ends beside any load.
pub(crate) fn push_down(engine: &Engine, range: &KeyRange<'_>) -> Result<()> {
    let _pushing = Pushing::new(engine);
    let upto = newest_at(&engine.views.cell.load().version, 0);
    for level in 0..LEVELS {
        let version = engine.views.cell.load().version.clone();
        let mut left = wanted_at(&version, level, range);
        let mut waiting = None;
        while !left.is_empty() {
            engine.check_writable()?;
            let options = pick_options(engine, true);
            let among = |n: usize, table: FileNumber| n == level && left.contains(&table);
            let pick = |version: &Version, busy: &HashSet<FileNumber>| {
                pick_range(version, range, &among, &options, busy)
            };
            if run_claimed(engine, false, pick)? {
                waiting = None;
            } else {
                let version = engine.views.cell.load().version.clone();
                // What a running job keeps from being picked waits until that has ended.
                if pick(&version, &HashSet::new()).is_none() {
                    break;
                }
                waiting.get_or_insert_with(|| engine.claims.wait());
                engine.claims.wait_for_release();
            }
            let version = engine.views.cell.load().version.clone();
            let now = wanted_at(&version, level, range);
            left.retain(|table| now.contains(table));
            if level == 0 {
                // A merge within level 0 that ran at the call has left its output there.
                left.extend(
                    now.into_iter()
                        .filter(|table| is_upto(&version, *table, upto)),
                );
            }
        }
    }
    Ok(())
}

/// Claims the tables of what `choose` picks, and runs it; false if it picked nothing, or if it
/// `gives_way` to a caller that waits.
fn run_claimed(
    engine: &Engine,
    gives_way: bool,
    choose: impl FnOnce(&Version, &HashSet<FileNumber>) -> Option<Compaction>,
) -> Result<bool> {
    let mut base = None;
    let claimed = engine.claims.claim(gives_way, |busy| {
        // Loaded under the lock: the inputs of a job that has ended must not be in it any more.
        let version = engine.views.cell.load().version.clone();
        let compaction = choose(&version, busy)?;
        base = Some(MergeBase::of(&compaction, &version));
        Some(compaction)
    });
    let (Some((compaction, busy)), Some(base)) = (claimed, base) else {
        return Ok(false);
    };
    let result = run_compaction(engine, &compaction, &base);
    drop((busy, base, compaction));
    engine.background.wake(Task::Compaction); // Steps may be possible that the claims ruled out.
    result.map(|()| true)
}

/// Removes the table `number`, if it goes as a `whole`, or writes it again; false if it is
/// being merged: then the result is to be looked at.
pub(crate) fn rewrite(engine: &Engine, number: FileNumber, whole: bool) -> Result<bool> {
    let options = pick_options(engine, true);
    run_claimed(engine, true, |version, busy| {
        rewrite_in_place(version, &options, busy, number, whole)
    })
}

fn run_compaction(engine: &Engine, compaction: &Compaction, base: &MergeBase) -> Result<()> {
    let result = match compaction.kind {
        CompactionKind::Move | CompactionKind::Remove => compaction
            .edit(&MergeResult::default())
            .and_then(|edit| engine.install(&edit)),
        CompactionKind::Merge => with_reserve(engine, || {
            let stop = || engine.background.lock().stop;
            merge_down(engine, compaction, base, &stop)
        }),
    };
    if let Err(error) = &result
        && damaged_table(error).is_some()
    {
        // The read that found it has set it aside: it is picked no more, and reads say why.
        event!(
            error,
            "a table is damaged, and is set aside: {}",
            Plain(error)
        );
    }
    engine.background.progressed();
    engine.heed(result)
}

/// Merges what `compaction` says, unless `should_stop` meanwhile, and installs the result.
pub(crate) fn merge_down(
    engine: &Engine,
    compaction: &Compaction,
    base: &MergeBase,
    should_stop: &dyn Fn() -> bool,
) -> Result<()> {
    let mut tables = NewTables::new(engine);
    tables.blobs.separates = true;
    let written = write_merged(engine, compaction, base, &mut tables, should_stop);
    tables.written();
    let installed = written.and_then(|edit| engine.install(&edit));
    if installed.is_err() {
        tables.discard();
    }
    installed
}

/// The merged tables, on disk and read back, and the edit that puts them in place of the
/// inputs.
fn write_merged(
    engine: &Engine,
    compaction: &Compaction,
    base: &MergeBase,
    tables: &mut NewTables<'_>,
    should_stop: &dyn Fn() -> bool,
) -> Result<VersionEdit> {
    // Only what an edit has made durable: a crash that kept this job's edit must not lose the
    // drop.
    let dropped = engine.versions.lock().state.dropped_keyspaces();
    let horizon = horizon(engine, dropped);
    let may_hold = |key: UserKey<'_>| base.older.may_hold(key);
    let policies = &engine.context.policies;
    let combine = |key: UserKey<'_>, parts: &[&[u8]]| combine_for_good(engine, key, parts);
    let keeps = |key: UserKey<'_>, value: &[u8]| policies.keeps(key, value);
    let keeps: &Keeps<'_> = &keeps;
    let fetch = |key: UserKey<'_>, stored: &[u8]| {
        let value = crate::read::blob::read(&base.blobs, key, stored, Want::Whole);
        value.ok().map(|value| value.to_vec())
    };
    let options = MergeOptions {
        // The same holds for the ranges: the version has those of edits alone.
        rules: Rules {
            keeps: policies.has_filters().then_some(keeps),
            fetch: Some(&fetch),
            ..horizon.rules(&base.deleted, &may_hold, &combine)
        },
        target_size: engine.options.tuning.table_bytes,
        memory: engine.options.job_memory(),
        packings: &compaction.packings,
        should_stop,
    };
    let result = terrace_compaction::merge(compaction.entries(), &options, tables)?;
    complete(engine, &result.tables)?;
    engine.counters.compacted(&result);
    compaction.edit(&result)
}

/// How compactions are picked now.
pub(crate) fn pick_options(engine: &Engine, idle: bool) -> PickOptions {
    let tuning = &engine.options.tuning;
    PickOptions {
        level0_runs: if idle { 1 } else { tuning.level0_runs },
        base_bytes: tuning.base_level_bytes,
        packings: (*engine.context.policies.packings()).clone(),
        settled: horizon(engine, Vec::new()).stripes.settled(),
        idle,
        ..PickOptions::default()
    }
}

/// Options of compactions that the background picks: each must be worth what it rewrites.
pub(crate) fn pick_worthy(engine: &Engine, idle: bool) -> PickOptions {
    PickOptions {
        worth: WORTH,
        blob_bytes: blobs_due(engine),
        ..pick_options(engine, idle)
    }
}

/// True if range deletes or dropped keyspaces are numerous enough to be reclaimed before the
/// database is idle.
pub(crate) fn has_many_deletes(engine: &Engine) -> bool {
    let dropped = || engine.versions.lock().state.dropped.len();
    engine.views.cell.load().version.deleted().len() > MANY_DELETES || dropped() > MANY_DELETES
}

/// A caller takes tables down: no merge within level 0 begins.
struct Pushing<'a>(&'a Engine);

impl Pushing<'_> {
    fn new(engine: &Engine) -> Pushing<'_> {
        engine.pushing.fetch_add(1, Ordering::SeqCst);
        drop(engine.claims.wait()); // A picker that runs now has not seen it.
        Pushing(engine)
    }
}

impl Drop for Pushing<'_> {
    fn drop(&mut self) {
        self.0.pushing.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The last sequence number in the tables of `level`.
fn newest_at(version: &Version, level: usize) -> SeqNo {
    let runs = version.level(level).runs.iter();
    runs.map(|run| run.max_seq()).max().unwrap_or(SeqNo::ZERO)
}

/// True if all entries of a table are as old as `upto`.
fn is_upto(version: &Version, table: FileNumber, upto: SeqNo) -> bool {
    version
        .table(table)
        .is_some_and(|table| table.info().max_seq <= upto)
}

/// The tables of `level` that hold keys of `range`.
fn wanted_at(version: &Version, level: usize, range: &KeyRange<'_>) -> HashSet<FileNumber> {
    let runs = version.level(level).runs.iter();
    let tables = runs.flat_map(|run| run.tables().iter());
    let wanted = tables.filter(|table| range.touches(table));
    wanted.map(|table| table.number()).collect()
}

/// Merges the newest runs of level 0 if there are many. REQUIRES: no job runs, nor begins.
pub(crate) fn tidy_level0(engine: &Engine) -> Result<()> {
    let version = engine.views.cell.load().version.clone();
    let options = pick_options(engine, false);
    match pick_newest(&version, &options) {
        Some(compaction) => {
            let base = MergeBase::of(&compaction, &version);
            merge_down(engine, &compaction, &base, &|| false)
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "compact_tests.rs"]
mod tests;
