//! Running compactions: from a plan to an edit.
//!
//! The picker decides from a version alone and the merge knows no locks; this file marks the inputs as busy,
//! runs the one or the other kind, and installs the result. Inputs are deleted only by the edit that replaced
//! them, once it is durable and the last reader has let go.
//!
//! An input that turns out damaged fails its job, once: the read that found it has set the table aside, so it is
//! picked no more, nor is any step that would need it, and the others go on. `Db::health` names it.

use std::collections::HashSet;
use std::sync::Arc;

use terrace_base::{
    DeletedRange, FileNumber, InternalIterator, KeyRef, KeyspaceId, RangeSet, Result, SeqNo,
    UserKey, mutant,
};
use terrace_compaction::{
    BlobFiles, Compaction, CompactionKind, Keeps, KeyRange, LEVELS, MergeOptions, MergeResult,
    OlderRuns, Rules, RunIter, Version, VersionEdit, damaged_table, pick, pick_range,
    rewrite_in_place,
};
use terrace_sstable::Table;

use crate::background::Task;
use crate::blob::{self, Want};
use crate::engine::Engine;
use crate::events::{Plain, event};
use crate::flush::NewTables;
use crate::sync::lock;

/// What a merge needs of the version that it was picked from, beside its inputs. It does not keep the version itself:
/// the tables that other jobs replace meanwhile can go.
#[derive(Debug)]
struct MergeBase {
    older: OlderRuns,
    deleted: Arc<RangeSet>,
    blobs: Arc<BlobFiles>,
}

impl MergeBase {
    fn of(compaction: &Compaction, version: &Version) -> MergeBase {
        MergeBase {
            older: compaction.older_runs(version),
            deleted: version.deleted().clone(),
            blobs: version.blobs().clone(),
        }
    }
}

impl Engine {
    /// Picks one compaction and runs it; false if none is due.
    pub(crate) fn compact_once(&self, idle: bool) -> Result<bool> {
        let options = self.pick_options(idle);
        self.run_claimed(true, |version, busy| pick(version, &options, busy))
    }

    /// Takes the tables that hold keys of `range` now down to the last level, level by level. Those that others add
    /// later are left alone, so that this ends beside any load.
    pub(crate) fn push_down(&self, range: &KeyRange<'_>) -> Result<()> {
        for level in 0..LEVELS {
            let version = self.views.cell.load().version.clone();
            let mut left = wanted_at(&version, level, range);
            let mut waiting = None;
            while !left.is_empty() {
                self.check_writable()?;
                let options = self.pick_options(true);
                let among = |n: usize, table: FileNumber| n == level && left.contains(&table);
                let pick = |version: &Version, busy: &HashSet<FileNumber>| {
                    pick_range(version, range, &among, &options, busy)
                };
                if self.run_claimed(false, pick)? {
                    waiting = None;
                } else {
                    let version = self.views.cell.load().version.clone();
                    // What a running job keeps from being picked waits until that has ended.
                    if pick(&version, &HashSet::new()).is_none() {
                        break;
                    }
                    waiting.get_or_insert_with(|| self.claims.wait());
                    self.claims.wait_for_release();
                }
                let now = wanted_at(&self.views.cell.load().version, level, range);
                left.retain(|table| now.contains(table));
            }
        }
        Ok(())
    }

    /// Claims the tables of what `choose` picks, and runs it; false if it picked nothing, or if a job of the
    /// `background` gives way to a caller.
    fn run_claimed(
        &self,
        background: bool,
        choose: impl FnOnce(&Version, &HashSet<FileNumber>) -> Option<Compaction>,
    ) -> Result<bool> {
        let mut base = None;
        let claimed = self.claims.claim(background, |busy| {
            // Loaded under the lock: the inputs of a job that has ended must not be in it any more.
            let version = self.views.cell.load().version.clone();
            let compaction = choose(&version, busy)?;
            base = Some(MergeBase::of(&compaction, &version));
            Some(compaction)
        });
        let (Some((compaction, busy)), Some(base)) = (claimed, base) else {
            return Ok(false);
        };
        let result = self.run_compaction(&compaction, &base);
        drop((busy, base, compaction));
        self.background.wake(Task::Compaction); // Steps may be possible that the claims ruled out.
        result.map(|()| true)
    }

    /// Takes a table that holds entries of a dropped keyspace or a deleted range, and removes it or writes it again
    /// without them; false if there is none. Tables of level 0 are left to the merge that they wait for anyway.
    pub(crate) fn reclaim_once(&self) -> Result<bool> {
        Ok(self.reclaim_keyspace()? || self.reclaim_range()?)
    }

    fn reclaim_keyspace(&self) -> Result<bool> {
        let dropped = self.versions.lock().state.dropped.clone();
        if dropped.is_empty() {
            return Ok(false);
        }
        let horizon = self.horizon(dropped);
        let seen = |at: SeqNo| {
            horizon
                .oldest_snapshot
                .is_some_and(|snapshot| snapshot < at)
        };
        let gone = horizon.dropped.iter().copied().filter(|&(_, at)| !seen(at));
        let version = self.views.cell.load().version.clone();
        for (id, at) in gone {
            let Some((number, whole)) = holder(&version, id, at)? else {
                continue;
            };
            if self.rewrite(number, whole)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the table `number`, if it goes as a `whole`, or writes it again; false if it is being merged: then the
    /// result is to be looked at.
    pub(crate) fn rewrite(&self, number: FileNumber, whole: bool) -> Result<bool> {
        let options = self.pick_options(true);
        self.run_claimed(true, |version, busy| {
            rewrite_in_place(version, &options, busy, number, whole)
        })
    }

    /// Takes a table that holds entries which a range delete hides from everybody, or forgets a delete that hides
    /// nothing any more.
    fn reclaim_range(&self) -> Result<bool> {
        let settled = self.horizon(Vec::new()).stripes.settled();
        let version = self.views.cell.load().version.clone();
        let ranges = version.deleted().ranges();
        let alike = || ranges.iter().filter(|range| range.seq <= settled);
        for range in alike() {
            // All that it hides a later one hides too.
            let superseded = alike().any(|later| later.seq > range.seq && later.covers(range));
            match hidden_in(&version, range)? {
                _ if superseded || mutant("forget-range-early") => {
                    return self.forget(range.seq);
                }
                None => return self.forget(range.seq),
                Some((0, _, _)) => {}
                Some((_, number, whole)) => {
                    if self.rewrite(number, whole)? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// No entry that the range delete at `seq` hides is left, nor can one come back: whatever a running job writes, it
    /// read from the tables that were looked at.
    fn forget(&self, seq: SeqNo) -> Result<bool> {
        let _forgetting = lock(&self.forgetting);
        let version = self.views.cell.load().version.clone();
        if !version
            .deleted()
            .ranges()
            .iter()
            .any(|range| range.seq == seq)
        {
            return Ok(true); // Another job came to the same conclusion, and was first.
        }
        let edit = VersionEdit {
            ranges_forgotten: vec![seq],
            ..VersionEdit::default()
        };
        self.heed(self.install(&edit))?;
        Ok(true)
    }

    fn run_compaction(&self, compaction: &Compaction, base: &MergeBase) -> Result<()> {
        let result = match compaction.kind {
            CompactionKind::Move | CompactionKind::Remove => compaction
                .edit(&MergeResult::default())
                .and_then(|edit| self.install(&edit)),
            CompactionKind::Merge => self.with_reserve(|| self.merge_down(compaction, base)),
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
        self.background.progressed();
        self.heed(result)
    }

    fn merge_down(&self, compaction: &Compaction, base: &MergeBase) -> Result<()> {
        let mut tables = NewTables::new(self);
        tables.blobs.separates = true;
        let written = self.write_merged(compaction, base, &mut tables);
        let installed = written.and_then(|edit| self.install(&edit));
        if installed.is_err() {
            tables.discard();
        }
        installed
    }

    /// The merged tables, on disk and read back, and the edit that puts them in place of the inputs.
    fn write_merged(
        &self,
        compaction: &Compaction,
        base: &MergeBase,
        tables: &mut NewTables<'_>,
    ) -> Result<VersionEdit> {
        // Only what an edit has made durable: a crash that kept this job's edit must not lose the drop.
        let dropped = self.versions.lock().state.dropped.clone();
        let horizon = self.horizon(dropped);
        let may_hold = |key: UserKey<'_>| base.older.may_hold(key);
        let policies = &self.context.policies;
        let combine = |key: UserKey<'_>, parts: &[&[u8]]| self.combine_for_good(key, parts);
        let keeps = |key: UserKey<'_>, value: &[u8]| policies.keeps(key, value);
        let keeps: &Keeps<'_> = &keeps;
        let fetch = |key: UserKey<'_>, stored: &[u8]| {
            let value = blob::read(&base.blobs, key, stored, Want::Whole);
            value.ok().map(|value| value.to_vec())
        };
        let options = MergeOptions {
            // The same holds for the ranges: the version has those of edits alone.
            rules: Rules {
                keeps: policies.has_filters().then_some(keeps),
                fetch: Some(&fetch),
                ..horizon.rules(&base.deleted, &may_hold, &combine)
            },
            target_size: self.options.tuning.table_bytes,
            packings: &compaction.packings,
            should_stop: &|| self.background.lock().stop,
        };
        let result = terrace_compaction::merge(compaction.entries(), &options, tables)?;
        self.complete(&result.tables)?;
        self.counters.compacted(&result);
        compaction.edit(&result)
    }

    pub(crate) fn install(&self, edit: &VersionEdit) -> Result<()> {
        self.versions.log_and_apply(edit, |_, version| {
            self.views.install(|view| view.version = version.clone());
        })?;
        Ok(())
    }
}

/// The tables of `level` that hold keys of `range`.
fn wanted_at(version: &Version, level: usize, range: &KeyRange<'_>) -> HashSet<FileNumber> {
    let runs = version.level(level).runs.iter();
    let tables = runs.flat_map(|run| run.tables());
    let wanted = tables.filter(|table| range.touches(table));
    wanted.map(|table| table.number()).collect()
}

/// A table that holds an entry which `range` hides, with its level and whether all its entries are hidden; one below
/// level 0 if there is one.
fn hidden_in(version: &Version, range: &DeletedRange) -> Result<Option<(usize, FileNumber, bool)>> {
    let mut in_level0 = None;
    for (level, _, file) in version.tables() {
        let info = file.info();
        let (first, last) = (info.smallest.as_ref(), info.largest.as_ref());
        if info.min_seq > range.seq || !range.touches(first, last) {
            continue;
        }
        let whole = info.max_seq < range.seq && range.covers_keys(first, last);
        if !whole && !file.damaged() && !holds_hidden(&*file.table()?, range)? {
            continue;
        }
        if level > 0 && !file.damaged() {
            return Ok(Some((level, file.number(), whole)));
        }
        in_level0 = Some((0, file.number(), whole)); // Or set aside: it waits too.
    }
    Ok(in_level0)
}

/// True if `table` holds an entry that `range` hides.
fn holds_hidden(table: &Arc<Table>, range: &DeletedRange) -> Result<bool> {
    let mut entries = table.iter();
    let lower = UserKey::new(range.keyspace, &range.lower);
    entries.seek(KeyRef::lookup(lower, SeqNo::MAX))?;
    while entries.valid() {
        let key = entries.key();
        if !range.covers_keys(key.user, key.user) {
            return Ok(false);
        }
        if key.seq < range.seq {
            return Ok(true);
        }
        entries.next()?;
    }
    Ok(false)
}

/// A table below level 0 that holds an entry of the keyspace `id`, and whether all its entries go with the keyspace,
/// which was dropped at `at`.
fn holder(version: &Version, id: KeyspaceId, at: SeqNo) -> Result<Option<(FileNumber, bool)>> {
    for (level, _, file) in version.tables() {
        let info = file.info();
        let (first, last) = (info.smallest.keyspace, info.largest.keyspace);
        if level == 0 || id < first || last < id || file.damaged() {
            continue;
        }
        let mut entries = RunIter::over(vec![file.clone()], false);
        entries.seek(KeyRef::lookup(UserKey::new(id, &[]), SeqNo::MAX))?;
        if entries.valid() && entries.key().user.keyspace == id {
            let whole = first == id && last == id && info.max_seq <= at;
            return Ok(Some((file.number(), whole)));
        }
    }
    Ok(None)
}
