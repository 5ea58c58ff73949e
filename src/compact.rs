//! Running compactions: from a plan to an edit.
//!
//! The picker decides from a version alone and the merge knows no locks; this file marks the inputs as busy,
//! runs the one or the other kind, and installs the result. Inputs are deleted only by the edit that replaced
//! them, once it is durable and the last reader has let go.

use std::collections::HashSet;
use std::sync::Arc;

use terrace_base::{
    Error, ErrorKind, FileNumber, MergingIterator, OwnedUserKey, Result, UserKey,
};
use terrace_compaction::{
    AddedTable, Compaction, CompactionKind, LEVELS, MergeOptions, MovedTable, RemovedTable, RunIter,
    TableFile, TableMeta, Version, VersionEdit, damaged_table, pick, pick_range,
};
use terrace_sstable::WriterOptions;

use crate::engine::Engine;
use crate::flush::{NewTables, is_damage, may_hold};

/// Tables that a compaction works on; free again when this is dropped.
#[derive(Debug)]
struct Busy<'a> {
    engine: &'a Engine,
    numbers: Vec<FileNumber>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.engine.background.lock();
        for number in &self.numbers {
            state.busy.remove(number);
        }
    }
}

impl Engine {
    /// Picks one compaction and runs it; false if none is due.
    pub(crate) fn compact_once(&self, idle: bool) -> Result<bool> {
        let options = self.pick_options(idle);
        let Some((compaction, version, busy)) =
            self.claim(|version, busy| pick(version, &options, busy))
        else {
            return Ok(false);
        };
        self.run_compaction(&compaction, &version)?;
        drop(busy);
        Ok(true)
    }

    /// One step of pushing a range down; false when it is in the last level.
    pub(crate) fn compact_range_once(
        &self,
        lower: Option<&OwnedUserKey>,
        upper: Option<&OwnedUserKey>,
        done: &mut HashSet<FileNumber>,
    ) -> Result<bool> {
        self.check_writable()?;
        let options = self.pick_options(true);
        let (lower, upper) = (lower.map(OwnedUserKey::as_ref), upper.map(OwnedUserKey::as_ref));
        let step = self.claim(|version, busy| {
            pick_range(version, lower, upper, &options, busy, done)
        });
        let Some((compaction, version, busy)) = step else {
            if self.background.lock().busy.is_empty() {
                return Ok(false);
            }
            // A table in the range is being compacted: look again when that has ended.
            std::thread::sleep(std::time::Duration::from_millis(1));
            return Ok(true);
        };
        let made = self.run_compaction(&compaction, &version)?;
        drop(busy);
        // What lies in the last level now need not be rewritten again by this call.
        if compaction.output_level == LEVELS - 1 {
            done.extend(made);
        }
        Ok(true)
    }

    /// Picks under the lock of the busy set, so that no two compactions share a table.
    fn claim(
        &self,
        choose: impl FnOnce(&Version, &HashSet<FileNumber>) -> Option<Compaction>,
    ) -> Option<(Compaction, Arc<Version>, Busy<'_>)> {
        let mut state = self.background.lock();
        let version = self.views.cell.load().version.clone();
        let compaction = choose(&version, &state.busy)?;
        let numbers: Vec<FileNumber> =
            compaction.inputs.iter().map(|(_, table)| table.meta().number).collect();
        state.busy.extend(numbers.iter().copied());
        drop(state);
        Some((compaction, version, Busy { engine: self, numbers }))
    }

    fn run_compaction(
        &self,
        compaction: &Compaction,
        version: &Version,
    ) -> Result<Vec<FileNumber>> {
        let result = match compaction.kind {
            CompactionKind::Move => self.move_down(compaction),
            CompactionKind::Merge => self.merge_down(compaction, version),
        };
        if let Err(error) = &result
            && is_damage(error)
            && let Some(number) = damaged_table(error)
            && let Some((_, table)) =
                compaction.inputs.iter().find(|(_, table)| table.meta().number == number)
        {
            table.set_damaged(error.clone()); // Set aside: it is picked no more, and reads say why.
        }
        self.pacer.refresh(self);
        self.background.progressed();
        result
    }

    fn move_down(&self, compaction: &Compaction) -> Result<Vec<FileNumber>> {
        let to_level = compaction.output_level;
        let moved = compaction.inputs.iter().map(|(from_level, table)| MovedTable {
            from_level: *from_level,
            to_level,
            run: 0,
            number: table.meta().number,
        });
        let edit = VersionEdit { moved: moved.collect(), ..VersionEdit::default() };
        self.install_compaction(&edit)?;
        Ok(edit.moved.iter().map(|moved| moved.number).collect())
    }

    fn merge_down(&self, compaction: &Compaction, version: &Version) -> Result<Vec<FileNumber>> {
        let mut tables = NewTables::new(self);
        match self.write_merged(compaction, version, &mut tables) {
            Ok(metas) => {
                let made = metas.iter().map(|meta| meta.number).collect();
                let added = metas.into_iter().map(|meta| AddedTable {
                    level: compaction.output_level,
                    run: 0,
                    meta,
                });
                let removed = compaction.inputs.iter().map(|(level, table)| RemovedTable {
                    level: *level,
                    number: table.meta().number,
                });
                let edit = VersionEdit {
                    added: added.collect(),
                    removed: removed.collect(),
                    ..VersionEdit::default()
                };
                self.install_compaction(&edit)?;
                Ok(made)
            }
            Err(error) => {
                tables.discard();
                Err(error)
            }
        }
    }

    fn write_merged(
        &self,
        compaction: &Compaction,
        version: &Version,
        tables: &mut NewTables<'_>,
    ) -> Result<Vec<TableMeta>> {
        let (snapshots, visible) = self.committer.snapshots.list(self.committer.visible_cell());
        let dropped = self.catalogue.dropped();
        let below = compaction.output_level + 1;
        let may_exist_below = |key: UserKey<'_>| {
            may_hold((below..LEVELS).flat_map(|level| version.level(level).runs.iter()), key)
        };
        let stopped = || self.background.lock().stop;
        let options = MergeOptions {
            stripes: terrace_compaction::Stripes::new(&snapshots, visible),
            dropped_keyspaces: &dropped,
            oldest_snapshot: snapshots.first().copied(),
            may_exist_below: &may_exist_below,
            target_size: self.options.tuning.table_bytes,
            compression: compaction.compression,
            block_size: WriterOptions::default().block_size,
            should_stop: &stopped,
        };
        let input = MergingIterator::new(sources(compaction));
        let result = terrace_compaction::merge(input, &options, tables)?;
        if stopped() {
            return Err(Error::new(ErrorKind::Closed, "the database is being closed"));
        }
        if !result.tables.is_empty() {
            self.fs().sync_dir(&self.files.dir)?;
        }
        self.counters.compacted(&result);
        Ok(result.tables)
    }

    fn install_compaction(&self, edit: &VersionEdit) -> Result<()> {
        self.versions.log_and_apply(edit, |_, version| {
            self.views.install(|view| view.version = version.clone());
        })?;
        Ok(())
    }
}

/// The inputs as sorted sources: level 0 a table each, below it a level each.
fn sources(compaction: &Compaction) -> Vec<RunIter> {
    let mut sources = Vec::new();
    for level in 0..LEVELS {
        let tables: Vec<Arc<TableFile>> = compaction
            .inputs
            .iter()
            .filter(|(from, _)| *from == level)
            .map(|(_, table)| table.clone())
            .collect();
        match level {
            _ if tables.is_empty() => {}
            0 => sources.extend(tables.into_iter().map(|table| RunIter::over(vec![table], true))),
            _ => sources.push(RunIter::over(tables, true)),
        }
    }
    sources
}
