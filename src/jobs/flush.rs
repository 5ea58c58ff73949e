//! From sealed lists to level 0: images, merged images, tables.
//!
//! Three jobs, all of the flush thread, all on sealed pieces that are wholly visible:
//!
//! - *image*: the oldest sealed list becomes a table in memory;
//! - *fold*: eight adjoining images of about one size become one, so that a read meets few of them;
//! - *flush*: every piece from the oldest up to a point is merged into one run of level-0 tables.
//!   The edit that adds the run says up to which log position and sequence number tables now hold
//!   everything; the log below is never read again. It is due by the memory that the pieces hold,
//!   or by the length of the log ([`crate::jobs::log_size`]).
//!
//! Pieces cover adjoining stretches of the commit order and leave from the old end only, so what is
//! flushed is always a prefix.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use bytes::Bytes;
use terrace_base::{
    DeletedRange, Error, InternalIterator, KeyspaceId, MergingIterator, RangeSet, Result, SeqNo,
    UserKey, mutant,
};
use terrace_compaction::{
    AddedTable, Combine, CompactionIter, Flushed, Folding, MergeOptions, MergeResult, OlderRuns,
    Rules, Stripes, TableMeta, VersionEdit,
};
use terrace_sstable::{Compression, Table, TableWriter, WriterOptions};

use crate::background::signals::Task;
use crate::engine::Engine;
use crate::jobs::log_segments::release_log;
use crate::jobs::log_size::shorten_log;
use crate::jobs::space::{find_space, with_reserve};
use crate::jobs::table_outputs::NewTables;
use crate::memtable::{Form, ListWriter, MemRun};
use crate::read::view::View;
use crate::storage::touched::touched;
use crate::sync::lock;

/// Images folded into one.
const FOLD: usize = 8;
/// Images larger than this are left for the flush.
const LARGEST_FOLDED: u64 = 4 << 20;

/// Of pieces, newest first, the oldest: at least one, and no more than `most` bytes if there are
/// others.
fn oldest(runs: &[Arc<MemRun>], most: u64) -> &[Arc<MemRun>] {
    let mut bytes = 0_u64;
    let fits = |run: &&Arc<MemRun>| {
        bytes = bytes.saturating_add(run.bytes);
        bytes <= most
    };
    let count = runs.iter().rev().take_while(fits).count().max(1);
    runs.get(runs.len().saturating_sub(count)..).unwrap_or(runs)
}

/// What a job may drop, seen at one moment. A snapshot taken later reads at or above `visible`: to
/// it, what `stripes` hides is hidden, and the keyspaces in `dropped` are gone. These are listed
/// before the snapshots, and one whose drop is not visible yet is left out, so that no snapshot
/// slips in between that still sees it.
#[derive(Debug)]
pub(crate) struct Horizon {
    pub(crate) stripes: Stripes,
    pub(crate) visible: SeqNo,
    pub(crate) oldest_snapshot: Option<SeqNo>,
    /// Keyspaces dropped, and when.
    pub(crate) dropped: Vec<(KeyspaceId, SeqNo)>,
}

impl Horizon {
    /// What decides which entries of a job go.
    pub(crate) fn rules<'a>(
        &'a self,
        deleted: &'a RangeSet,
        may_exist_below: &'a dyn Fn(UserKey<'_>) -> bool,
        combine: &'a Combine<'a>,
    ) -> Rules<'a> {
        Rules {
            stripes: &self.stripes,
            dropped_keyspaces: &self.dropped,
            deleted,
            oldest_snapshot: self.oldest_snapshot,
            may_exist_below,
            folding: Some(Folding { combine, deleted }),
            keeps: None,
            fetch: None,
        }
    }
}

/// Asks for a flush of what is in memory.
pub(crate) fn flush_soon(engine: &Engine) {
    engine.committer.seal();
    let newest = engine.views.cell.load().newest_sealed();
    if let Some(newest) = newest.filter(|_| !engine.options.tuning.manual) {
        engine.background.request_flush(newest);
    }
}

/// Does one job of the flush thread, if one is due.
pub(crate) fn tend_memtable(engine: &Engine) -> Result<bool> {
    let upto = engine.background.lock().flush_upto;
    let view = engine.views.cell.load_full();
    let asked = view
        .sealed
        .last()
        .is_some_and(|oldest| oldest.last_seq <= upto);
    if asked || view.sealed_bytes() >= engine.options.memtable_bytes() {
        return flush_once(engine, asked);
    }
    if shorten_log(engine)? {
        return Ok(true);
    }
    Ok(image_once(engine, &view)? || fold_once(engine, &view)?)
}

/// True if the oldest piece that was not visible at `seen` is visible by now; else `waker` is
/// called once it is. `seen` was visible before the memtable was looked at: a piece that became
/// visible since may have been passed over, and nothing else would wake the thread for it.
pub(crate) fn became_visible(engine: &Engine, seen: SeqNo, waker: &Waker) -> bool {
    let view = engine.views.cell.load();
    let mut oldest_first = view.sealed.iter().rev();
    let seen = match mutant("passed-over-flush") {
        true => engine.committer.visible(),
        false => seen,
    };
    let waits = oldest_first.find(|run| run.last_seq > seen);
    let decided = waits.map(|run| engine.committer.poll_visible(run.last_seq, waker));
    matches!(decided, Some(Some(Ok(()))))
}

/// Turns the oldest list that is wholly visible into an image. One without entries, with range
/// deletes alone, stays.
fn image_once(engine: &Engine, view: &View) -> Result<bool> {
    let visible = engine.committer.visible();
    let oldest = view
        .sealed
        .iter()
        .rev()
        .find(|run| matches!(run.form, Form::List(_)) && run.entries > 0);
    let Some(run) = oldest.filter(|run| run.last_seq <= visible) else {
        return Ok(false);
    };
    replace_by_image(engine, std::slice::from_ref(run))?;
    Ok(true)
}

/// Merges eight adjoining small images into one. A list with range deletes alone counts as an
/// image.
fn fold_once(engine: &Engine, view: &View) -> Result<bool> {
    let visible = engine.committer.visible();
    let foldable = |run: &Arc<MemRun>| {
        let is_image = matches!(run.form, Form::Image(_)) || run.entries == 0;
        is_image && run.bytes <= LARGEST_FOLDED && run.last_seq <= visible
    };
    // `sealed` is newest first; the oldest window of eight is taken.
    let Some(window) = view
        .sealed
        .windows(FOLD)
        .rev()
        .find(|window| window.iter().all(foldable))
    else {
        return Ok(false);
    };
    replace_by_image(engine, window)?;
    Ok(true)
}

/// Writes `runs`, adjoining and newest first, into one image and puts it in their place.
fn replace_by_image(engine: &Engine, runs: &[Arc<MemRun>]) -> Result<()> {
    let Some(newest) = runs.first() else {
        return Ok(());
    };
    let stripes = horizon(engine, Vec::new()).stripes;
    let input = MergingIterator::new(runs.iter().map(|run| run.iter()).collect());
    let ranges = RangeSet::union(runs.iter().map(|run| &*run.ranges));
    let size = runs.iter().map(|run| run.bytes).sum();
    let (form, bytes, entries) = if runs.iter().all(|run| run.entries == 0) {
        let none = ListWriter::new(0); // A table has an entry at least.
        (Form::List(none.list().clone()), none.bytes() as u64, 0)
    } else {
        let table = write_image(engine, input, &stripes, &ranges, size)?;
        let (bytes, entries) = (table.info().size, table.info().entries);
        (Form::Image(Arc::new(table)), bytes, entries)
    };
    let ranges = ranges.without_superseded(|seq| stripes.end_of(seq));
    let image = Arc::new(MemRun {
        id: engine.committer.next_run(),
        last_seq: newest.last_seq,
        end_lsn: newest.end_lsn,
        bytes: bytes + ranges.memory(),
        entries,
        ranges: Arc::new(ranges),
        form,
    });
    let ids: Vec<u64> = runs.iter().map(|run| run.id).collect();
    engine.views.install(|view| {
        if let Some(at) = view.sealed.iter().position(|run| run.id == newest.id) {
            view.sealed.retain(|run| !ids.contains(&run.id));
            view.sealed.insert(at.min(view.sealed.len()), image);
        }
    });
    Ok(())
}

/// A table in memory of what `input` holds, less the versions that nobody can see.
fn write_image<I: InternalIterator>(
    engine: &Engine,
    input: I,
    stripes: &Stripes,
    ranges: &RangeSet,
    size: u64,
) -> Result<Table> {
    let id = engine.fs().random();
    let mut options = WriterOptions::new(id, engine.fs().random());
    options.compression = Compression::None;
    let sink = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    let mut writer = TableWriter::new(sink, options);
    // A tombstone must stay: what it hides lies below, in tables and older pieces. So must the
    // entries of a dropped keyspace or range: the drop may lie in a later piece, and be lost
    // while this one is kept.
    let combine = |key: UserKey<'_>, parts: &[&[u8]]| combine_for_good(engine, key, parts);
    let rules = Rules {
        stripes,
        dropped_keyspaces: &[],
        deleted: &RangeSet::default(),
        oldest_snapshot: None,
        may_exist_below: &|_| !mutant("drop-tombstone-in-memory"),
        folding: Some(Folding {
            combine: &combine,
            deleted: ranges,
        }),
        keeps: None,
        fetch: None,
    };
    let mut entries = CompactionIter::new(input, rules);
    while let Some((key, value)) = entries.next_kept()? {
        writer.add(key, value)?;
    }
    let (_, bytes) = writer.finish()?;
    // Boxed: an image keeps no more than it has, though what it was made of was larger.
    Table::open_image(
        Bytes::from(bytes.into_boxed_slice()),
        id,
        &engine.files.cache,
    )
}

/// What a merge operator makes of parts, or nothing if it fails.
pub(crate) fn combine_for_good(
    engine: &Engine,
    key: UserKey<'_>,
    parts: &[&[u8]],
) -> Option<Vec<u8>> {
    engine.context.policies.combine_for_good(key, parts)
}

/// What a job may drop, as of now. The dropped keyspaces come first, the time second and the
/// snapshots last.
///
/// No snapshot loses an entry that expires. One that is registered by the time of the list is
/// in the list, and its own time counts for all that it sees, whether that is before or after
/// the time that was asked for here. One that is registered later has asked for the time later
/// too; the clock never runs backwards, so whatever has expired for the job had expired for it.
/// With the time asked for after the list, a snapshot from between the two would be in neither
/// case. In the same way no snapshot from before the drop of a keyspace is missed.
pub(crate) fn horizon(engine: &Engine, mut dropped: Vec<(KeyspaceId, SeqNo)>) -> Horizon {
    let early = (!mutant("time-after-snapshots")).then(|| engine.context.now());
    let (snapshots, visible) = engine
        .committer
        .snapshots
        .list(engine.committer.visible_cell());
    let now = early.unwrap_or_else(|| engine.context.now());
    dropped.retain(|&(_, at)| at <= visible);
    Horizon {
        stripes: Stripes::at(&snapshots, visible, now),
        visible,
        oldest_snapshot: snapshots.first().map(|(seq, _)| *seq),
        dropped,
    }
}

/// Makes the names of new tables durable, and reads them back.
pub(crate) fn complete(engine: &Engine, tables: &[TableMeta]) -> Result<()> {
    if tables.is_empty() || mutant("skip-dir-sync") {
        return Ok(());
    }
    let synced = engine.fs().sync_dir(&engine.files.dir);
    engine.heed(synced.map_err(|error| engine.versions.directory_failed(error)))?;
    engine.files.read_back(tables)
}

/// Flushes every wholly visible sealed piece into level 0, if it is asked for or due.
pub(crate) fn flush_once(engine: &Engine, asked: bool) -> Result<bool> {
    let result = with_reserve(engine, || try_flush(engine, asked));
    engine.heed(result)
}

fn try_flush(engine: &Engine, asked: bool) -> Result<bool> {
    let mut horizon = horizon(engine, engine.catalogue.dropped());
    let view = engine.views.cell.load_full();
    let ready = view
        .sealed
        .iter()
        .position(|run| run.last_seq <= horizon.visible);
    let Some(runs) = ready.and_then(|at| view.sealed.get(at..)) else {
        return Ok(false);
    };
    let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
    if !asked && bytes < engine.options.memtable_bytes() {
        return Ok(false);
    }
    let runs = oldest(runs, engine.space.largest_flush());
    let Some(newest) = runs.first() else {
        return Ok(false);
    };
    let whole = engine.committer.boundary(Some(newest.id));
    let claimed = mutant("flush-claims-too-much").then(|| engine.committer.end());
    let (lsn, seq) = claimed
        .or(whole)
        .unwrap_or((newest.end_lsn, newest.last_seq));
    let flushed = Flushed { lsn: lsn.0, seq };
    // A drop may be acted on only if this edit, or an earlier one, carries it.
    horizon
        .dropped
        .retain(|(_, at)| *at <= seq || mutant("act-on-unflushed-drop"));
    let ranges = RangeSet::union(runs.iter().map(|run| &*run.ranges));
    let stripes = horizon.stripes.clone();
    let mut tables = NewTables::new(engine);
    let unflushed = engine.blobs.unflushed.swap(0, Ordering::Relaxed);
    let written = match write_level0(engine, &view, runs, &ranges, horizon, &mut tables) {
        Ok(written) => written,
        Err(error) => {
            engine
                .blobs
                .unflushed
                .fetch_add(unflushed, Ordering::Relaxed);
            tables.discard();
            return Err(error);
        }
    };
    // Taken only now: a merge operator has run meanwhile, which is the caller's code.
    let flushing = lock(&engine.flushing);
    if !are_oldest(engine, runs) {
        tables.discard();
        return Ok(true); // Somebody else flushed them. There may be more.
    }
    let ranges = ranges.without_superseded(|seq| stripes.end_of(seq));
    tables.written();
    if let Err(error) = install_flush(engine, runs, &ranges, stripes.settled(), flushed, written) {
        tables.discard();
        return Err(error);
    }
    // Still under the lock: the position must not run backwards.
    release_log(engine, lsn)?;
    drop(flushing);
    engine.background.wake(Task::Compaction);
    Ok(true)
}

/// True if `runs` are the oldest pieces of the memtable still.
fn are_oldest(engine: &Engine, runs: &[Arc<MemRun>]) -> bool {
    let view = engine.views.cell.load();
    let oldest = view.sealed.iter().rev().map(|run| run.id);
    view.sealed.len() >= runs.len()
        && runs
            .iter()
            .rev()
            .map(|run| run.id)
            .eq(oldest.take(runs.len()))
}

/// Puts changes of the catalogue that no entry follows into the manifest.
pub(crate) fn flush_catalogue(engine: &Engine) -> Result<()> {
    match engine.catalogue.unflushed() {
        0 => Ok(()),
        _ => flush_position(engine).map(|_| ()),
    }
}

/// Notes in the manifest that tables hold the whole log, changes of the catalogue included;
/// false if it says so already, or if there are entries in memory: then the flush that takes
/// them does it.
pub(crate) fn flush_position(engine: &Engine) -> Result<bool> {
    let _flushing = lock(&engine.flushing);
    let Some((lsn, seq)) = engine.committer.boundary(None) else {
        return Ok(false);
    };
    if lsn.0 <= engine.versions.lock().state.flushed.lsn {
        return Ok(false);
    }
    let flushed = Flushed { lsn: lsn.0, seq };
    let (ranges, nothing) = (RangeSet::default(), MergeResult::default());
    let result = install_flush(engine, &[], &ranges, SeqNo::ZERO, flushed, nothing);
    engine.heed(result)?;
    release_log(engine, lsn)?;
    Ok(true)
}

fn write_level0(
    engine: &Engine,
    view: &View,
    runs: &[Arc<MemRun>],
    ranges: &RangeSet,
    horizon: Horizon,
    tables: &mut NewTables<'_>,
) -> Result<MergeResult> {
    let older = OlderRuns::all(&view.version);
    let deleted = RangeSet::union([&**view.version.deleted(), ranges]);
    let may_hold = |key: UserKey<'_>| older.may_hold(key);
    let combine = |key: UserKey<'_>, parts: &[&[u8]]| combine_for_good(engine, key, parts);
    let options = MergeOptions {
        rules: horizon.rules(&deleted, &may_hold, &combine),
        target_size: engine.options.tuning.table_bytes,
        memory: engine.options.job_memory(),
        packings: &engine.context.policies.packings().plain(),
        should_stop: &|| false,
    };
    let input = MergingIterator::new(runs.iter().map(|run| run.iter()).collect());
    let result = terrace_compaction::merge(input, &options, tables)?;
    let held: u64 = runs.iter().map(|run| run.entries).sum();
    if result.read != held {
        return Err(Error::bug(format!(
            "a flush read {} entries of pieces that hold {held}",
            result.read
        )));
    }
    complete(engine, &result.tables)?;
    engine.counters.flushed(&result);
    if result
        .tables
        .iter()
        .any(|table| !table.info.blobs.is_empty())
    {
        // What tables refer to must be on disk before they count.
        engine
            .blobs
            .sync()
            .inspect_err(|error| engine.committer.poison(error.clone()))?;
    }
    Ok(result)
}

fn install_flush(
    engine: &Engine,
    runs: &[Arc<MemRun>],
    ranges: &RangeSet,
    settled: SeqNo,
    flushed: Flushed,
    written: MergeResult,
) -> Result<()> {
    let MergeResult { tables, blobs, .. } = written;
    // One that touches no table hides nothing: what was in memory before it is in these tables,
    // or gone. But a transaction that began before it still has to find that its reads were
    // written over.
    let before = engine.views.cell.load().version.clone();
    let is_needed = |range: &DeletedRange| {
        let touches = |meta: &TableMeta| {
            let info = &meta.info;
            range.touches(info.smallest.as_ref(), info.largest.as_ref())
        };
        range.seq > settled
            || tables.iter().any(touches)
            || touched(&before, range).next().is_some()
    };
    let needed = ranges.ranges().filter(|range| is_needed(range));
    let ranges_deleted = needed
        .filter(|_| !mutant("flush-loses-range"))
        .map(|range| (**range).clone())
        .collect();
    let run = tables.first().map_or(0, |meta| meta.number.0);
    let mut edit = VersionEdit {
        blobs_added: blobs,
        added: tables
            .into_iter()
            .map(|meta| AddedTable {
                level: 0,
                run,
                meta,
            })
            .collect(),
        flushed: Some(flushed),
        clock: Some(engine.context.now()),
        ranges_deleted,
        ..VersionEdit::default()
    };
    engine.catalogue.add_to_edit(flushed.seq, &mut edit);
    let ids: Vec<u64> = runs.iter().map(|run| run.id).collect();
    engine.versions.log_and_apply(&edit, |_, version| {
        engine.views.install(|view| {
            view.sealed.retain(|run| !ids.contains(&run.id));
            view.version = version.clone();
            view.tables_upto = flushed.seq;
        });
    })?;
    engine.catalogue.forget_upto(flushed.seq);
    Ok(())
}

/// Everything acknowledged becomes durable and goes into tables.
pub(crate) fn flush(engine: &Engine) -> Result<()> {
    engine.check_writable()?;
    engine.committer.sync()?;
    engine.committer.seal();
    flush_sealed(engine)?;
    flush_catalogue(engine)?;
    match engine.options.tuning.manual {
        true => find_space(engine).or(Ok(())), // What it lacks, `health` says.
        false => Ok(()),
    }
}

/// Flushes what is sealed now, by the flush thread or, without one, here.
pub(crate) fn flush_sealed(engine: &Engine) -> Result<()> {
    let newest = engine.views.cell.load().newest_sealed();
    let Some(newest) = newest else { return Ok(()) };
    if engine.options.tuning.manual {
        while flush_once(engine, true)? {}
        return Ok(());
    }
    engine.background.request_flush(newest);
    let flushed = || {
        let view = engine.views.cell.load();
        view.sealed
            .last()
            .is_none_or(|oldest| oldest.last_seq > newest)
    };
    engine.background.wait_for(Task::Flush, flushed)
}
