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

use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::task::Waker;
use terrace_base::{
    DeletedRange, Error, InternalIterator, KeyRef, KeyspaceId, MergingIterator, RangeSet, Result,
    SeqNo, UserKey, mutant,
};
use terrace_compaction::{
    AddedTable, Combine, CompactionIter, Flushed, Folding, MergeOptions, MergeResult, OlderRuns,
    Rules, Stripes, TableMeta, VersionEdit,
};
use terrace_sstable::{Compression, Table, TableIter, TableWriter, WriterOptions};

use crate::background::signals::Task;
use crate::engine::Engine;
use crate::jobs::reclaim::touched;
use crate::jobs::table_outputs::NewTables;
use crate::memtable::{Form, ListCursor, ListWriter, MemRun};
use crate::read::view::View;
use crate::sync::lock;
use crate::transaction::write_set::OwnIter;

/// Images folded into one.
const FOLD: usize = 8;
/// Images larger than this are left for the flush.
const LARGEST_FOLDED: u64 = 4 << 20;

/// Entries of a piece in order.
#[derive(Debug)]
pub(crate) enum MemIter {
    List(ListCursor),
    Image(TableIter),
    /// What a transaction has written: here, so that walks without one have no more sources to tell
    /// apart.
    Own(OwnIter),
}

impl MemRun {
    pub(crate) fn iter(&self) -> MemIter {
        match &self.form {
            Form::List(list) => MemIter::List(list.cursor()),
            Form::Image(table) => MemIter::Image(table.iter()),
        }
    }

    /// False if it has no entry from `smallest` to `largest`.
    pub(crate) fn may_touch(&self, smallest: UserKey<'_>, largest: UserKey<'_>) -> bool {
        match &self.form {
            Form::List(_) => true,
            Form::Image(table) => {
                let info = table.info();
                info.smallest.as_ref() <= largest && smallest <= info.largest.as_ref()
            }
        }
    }
}

macro_rules! each {
    ($self:ident, $it:ident => $call:expr) => {
        match $self {
            MemIter::List($it) => $call,
            MemIter::Image($it) => $call,
            MemIter::Own($it) => $call,
        }
    };
}

impl InternalIterator for MemIter {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        each!(self, it => it.seek(target))
    }
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        each!(self, it => it.seek_for_prev(target))
    }
    fn first(&mut self) -> Result<()> {
        each!(self, it => it.first())
    }
    fn last(&mut self) -> Result<()> {
        each!(self, it => it.last())
    }
    fn next(&mut self) -> Result<()> {
        each!(self, it => it.next())
    }
    fn prev(&mut self) -> Result<()> {
        each!(self, it => it.prev())
    }
    fn valid(&self) -> bool {
        each!(self, it => it.valid())
    }
    fn key(&self) -> KeyRef<'_> {
        each!(self, it => it.key())
    }
    fn value(&self) -> &[u8] {
        each!(self, it => it.value())
    }
    fn key_bytes(&self) -> Bytes {
        each!(self, it => it.key_bytes())
    }
    fn value_bytes(&self) -> Bytes {
        each!(self, it => it.value_bytes())
    }
}

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

impl Engine {
    /// Does one job of the flush thread, if one is due.
    pub(crate) fn tend_memtable(&self) -> Result<bool> {
        let upto = self.background.lock().flush_upto;
        let view = self.views.cell.load_full();
        let asked = view
            .sealed
            .last()
            .is_some_and(|oldest| oldest.last_seq <= upto);
        if asked || view.sealed_bytes() >= self.options.memtable_bytes() {
            return self.flush_once(asked);
        }
        if self.shorten_log()? {
            return Ok(true);
        }
        Ok(self.image_once(&view)? || self.fold_once(&view)?)
    }

    /// True if the oldest piece that was not visible at `seen` is visible by now; else `waker` is
    /// called once it is. `seen` was visible before the memtable was looked at: a piece that became
    /// visible since may have been passed over, and nothing else would wake the thread for it.
    pub(crate) fn became_visible(&self, seen: SeqNo, waker: &Waker) -> bool {
        let view = self.views.cell.load();
        let mut oldest_first = view.sealed.iter().rev();
        let seen = match mutant("passed-over-flush") {
            true => self.committer.visible(),
            false => seen,
        };
        let waits = oldest_first.find(|run| run.last_seq > seen);
        let decided = waits.map(|run| self.committer.poll_visible(run.last_seq, waker));
        matches!(decided, Some(Some(Ok(()))))
    }

    /// Turns the oldest list that is wholly visible into an image. One without entries, with range
    /// deletes alone, stays.
    fn image_once(&self, view: &View) -> Result<bool> {
        let visible = self.committer.visible();
        let oldest = view
            .sealed
            .iter()
            .rev()
            .find(|run| matches!(run.form, Form::List(_)) && run.entries > 0);
        let Some(run) = oldest.filter(|run| run.last_seq <= visible) else {
            return Ok(false);
        };
        self.replace_by_image(std::slice::from_ref(run))?;
        Ok(true)
    }

    /// Merges eight adjoining small images into one. A list with range deletes alone counts as an
    /// image.
    fn fold_once(&self, view: &View) -> Result<bool> {
        let visible = self.committer.visible();
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
        self.replace_by_image(window)?;
        Ok(true)
    }

    /// Writes `runs`, adjoining and newest first, into one image and puts it in their place.
    fn replace_by_image(&self, runs: &[Arc<MemRun>]) -> Result<()> {
        let Some(newest) = runs.first() else {
            return Ok(());
        };
        let stripes = self.horizon(Vec::new()).stripes;
        let input = MergingIterator::new(runs.iter().map(|run| run.iter()).collect());
        let ranges = RangeSet::union(runs.iter().map(|run| &*run.ranges));
        let size = runs.iter().map(|run| run.bytes).sum();
        let (form, bytes, entries) = if runs.iter().all(|run| run.entries == 0) {
            let none = ListWriter::new(0); // A table has an entry at least.
            (Form::List(none.list().clone()), none.bytes() as u64, 0)
        } else {
            let table = self.write_image(input, &stripes, &ranges, size)?;
            let (bytes, entries) = (table.info().size, table.info().entries);
            (Form::Image(Arc::new(table)), bytes, entries)
        };
        let ranges = ranges.without_superseded(|seq| stripes.end_of(seq));
        let image = Arc::new(MemRun {
            id: self.committer.next_run(),
            last_seq: newest.last_seq,
            end_lsn: newest.end_lsn,
            bytes: bytes + ranges.memory(),
            entries,
            ranges: Arc::new(ranges),
            form,
        });
        let ids: Vec<u64> = runs.iter().map(|run| run.id).collect();
        self.views.install(|view| {
            if let Some(at) = view.sealed.iter().position(|run| run.id == newest.id) {
                view.sealed.retain(|run| !ids.contains(&run.id));
                view.sealed.insert(at.min(view.sealed.len()), image);
            }
        });
        Ok(())
    }

    /// A table in memory of what `input` holds, less the versions that nobody can see.
    fn write_image<I: InternalIterator>(
        &self,
        input: I,
        stripes: &Stripes,
        ranges: &RangeSet,
        size: u64,
    ) -> Result<Table> {
        let id = self.fs().random();
        let mut options = WriterOptions::new(id, self.fs().random());
        options.compression = Compression::None;
        let sink = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let mut writer = TableWriter::new(sink, options);
        // A tombstone must stay: what it hides lies below, in tables and older pieces. So must the
        // entries of a dropped keyspace or range: the drop may lie in a later piece, and be lost
        // while this one is kept.
        let combine = |key: UserKey<'_>, parts: &[&[u8]]| self.combine_for_good(key, parts);
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
        Table::open_image(Bytes::from(bytes.into_boxed_slice()), id, &self.files.cache)
    }

    /// What a merge operator makes of parts, or nothing if it fails.
    pub(crate) fn combine_for_good(&self, key: UserKey<'_>, parts: &[&[u8]]) -> Option<Vec<u8>> {
        self.context.policies.combine_for_good(key, parts)
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
    pub(crate) fn horizon(&self, mut dropped: Vec<(KeyspaceId, SeqNo)>) -> Horizon {
        let early = (!mutant("time-after-snapshots")).then(|| self.context.now());
        let (snapshots, visible) = self.committer.snapshots.list(self.committer.visible_cell());
        let now = early.unwrap_or_else(|| self.context.now());
        dropped.retain(|&(_, at)| at <= visible);
        Horizon {
            stripes: Stripes::at(&snapshots, visible, now),
            visible,
            oldest_snapshot: snapshots.first().map(|(seq, _)| *seq),
            dropped,
        }
    }

    /// Makes the names of new tables durable, and reads them back.
    pub(crate) fn complete(&self, tables: &[TableMeta]) -> Result<()> {
        if tables.is_empty() || mutant("skip-dir-sync") {
            return Ok(());
        }
        let synced = self.fs().sync_dir(&self.files.dir);
        self.heed(synced.map_err(|error| self.versions.directory_failed(error)))?;
        self.files.read_back(tables)
    }

    /// Flushes every wholly visible sealed piece into level 0, if it is asked for or due.
    pub(crate) fn flush_once(&self, asked: bool) -> Result<bool> {
        let result = self.with_reserve(|| self.try_flush(asked));
        self.heed(result)
    }

    fn try_flush(&self, asked: bool) -> Result<bool> {
        let mut horizon = self.horizon(self.catalogue.dropped());
        let view = self.views.cell.load_full();
        let ready = view
            .sealed
            .iter()
            .position(|run| run.last_seq <= horizon.visible);
        let Some(runs) = ready.and_then(|at| view.sealed.get(at..)) else {
            return Ok(false);
        };
        let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
        if !asked && bytes < self.options.memtable_bytes() {
            return Ok(false);
        }
        let runs = oldest(runs, self.space.largest_flush());
        let Some(newest) = runs.first() else {
            return Ok(false);
        };
        let whole = self.committer.boundary(Some(newest.id));
        let claimed = mutant("flush-claims-too-much").then(|| self.committer.end());
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
        let mut tables = NewTables::new(self);
        let unflushed = self.blobs.unflushed.swap(0, Ordering::Relaxed);
        let written = match self.write_level0(&view, runs, &ranges, horizon, &mut tables) {
            Ok(written) => written,
            Err(error) => {
                self.blobs.unflushed.fetch_add(unflushed, Ordering::Relaxed);
                tables.discard();
                return Err(error);
            }
        };
        // Taken only now: a merge operator has run meanwhile, which is the caller's code.
        let flushing = lock(&self.flushing);
        if !self.are_oldest(runs) {
            tables.discard();
            return Ok(true); // Somebody else flushed them. There may be more.
        }
        let ranges = ranges.without_superseded(|seq| stripes.end_of(seq));
        tables.written();
        if let Err(error) = self.install_flush(runs, &ranges, stripes.settled(), flushed, written) {
            tables.discard();
            return Err(error);
        }
        // Still under the lock: the position must not run backwards.
        self.release_log(lsn)?;
        drop(flushing);
        self.background.wake(Task::Compaction);
        Ok(true)
    }

    /// True if `runs` are the oldest pieces of the memtable still.
    fn are_oldest(&self, runs: &[Arc<MemRun>]) -> bool {
        let view = self.views.cell.load();
        let oldest = view.sealed.iter().rev().map(|run| run.id);
        view.sealed.len() >= runs.len()
            && runs
                .iter()
                .rev()
                .map(|run| run.id)
                .eq(oldest.take(runs.len()))
    }

    /// Puts changes of the catalogue that no entry follows into the manifest.
    pub(crate) fn flush_catalogue(&self) -> Result<()> {
        match self.catalogue.unflushed() {
            0 => Ok(()),
            _ => self.flush_position().map(|_| ()),
        }
    }

    /// Notes in the manifest that tables hold the whole log, changes of the catalogue included;
    /// false if it says so already, or if there are entries in memory: then the flush that takes
    /// them does it.
    pub(crate) fn flush_position(&self) -> Result<bool> {
        let _flushing = lock(&self.flushing);
        let Some((lsn, seq)) = self.committer.boundary(None) else {
            return Ok(false);
        };
        if lsn.0 <= self.versions.lock().state.flushed.lsn {
            return Ok(false);
        }
        let flushed = Flushed { lsn: lsn.0, seq };
        let (ranges, nothing) = (RangeSet::default(), MergeResult::default());
        let result = self.install_flush(&[], &ranges, SeqNo::ZERO, flushed, nothing);
        self.heed(result)?;
        self.release_log(lsn)?;
        Ok(true)
    }

    fn write_level0(
        &self,
        view: &View,
        runs: &[Arc<MemRun>],
        ranges: &RangeSet,
        horizon: Horizon,
        tables: &mut NewTables<'_>,
    ) -> Result<MergeResult> {
        let older = OlderRuns::all(&view.version);
        let deleted = RangeSet::union([&**view.version.deleted(), ranges]);
        let may_hold = |key: UserKey<'_>| older.may_hold(key);
        let combine = |key: UserKey<'_>, parts: &[&[u8]]| self.combine_for_good(key, parts);
        let options = MergeOptions {
            rules: horizon.rules(&deleted, &may_hold, &combine),
            target_size: self.options.tuning.table_bytes,
            memory: self.options.job_memory(),
            packings: &self.context.policies.packings().plain(),
            should_stop: &|| false,
        };
        let input = MergingIterator::new(runs.iter().map(|run| run.iter()).collect());
        let result = terrace_compaction::merge(input, &options, tables)?;
        let held: u64 = runs.iter().map(|run| run.entries).sum();
        if result.read != held {
            return Err(Error::corruption(format!(
                "a flush read {} entries of pieces that hold {held}",
                result.read
            )));
        }
        self.complete(&result.tables)?;
        self.counters.flushed(&result);
        if result
            .tables
            .iter()
            .any(|table| !table.info.blobs.is_empty())
        {
            // What tables refer to must be on disk before they count.
            self.blobs
                .sync()
                .inspect_err(|error| self.committer.poison(error.clone()))?;
        }
        Ok(result)
    }

    fn install_flush(
        &self,
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
        let before = self.views.cell.load().version.clone();
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
            clock: Some(self.context.now()),
            ranges_deleted,
            ..VersionEdit::default()
        };
        self.catalogue.add_to_edit(flushed.seq, &mut edit);
        let ids: Vec<u64> = runs.iter().map(|run| run.id).collect();
        self.versions.log_and_apply(&edit, |_, version| {
            self.views.install(|view| {
                view.sealed.retain(|run| !ids.contains(&run.id));
                view.version = version.clone();
                view.tables_upto = flushed.seq;
            });
        })?;
        self.catalogue.forget_upto(flushed.seq);
        Ok(())
    }
}
