//! Running compactions: from a plan to an edit.
//!
//! The picker decides from a version alone and the merge knows no locks; this file marks the inputs as busy,
//! runs the one or the other kind, and installs the result. Inputs are deleted only by the edit that replaced
//! them, once it is durable and the last reader has let go.

use std::collections::HashSet;
use std::sync::Arc;

use terrace_base::{FileNumber, Result};
use terrace_compaction::{
    Compaction, CompactionKind, KeyRange, MergeOptions, MergeResult, Version, VersionEdit,
    damaged_table, pick, pick_range,
};

use crate::engine::Engine;
use crate::files::BLOCK_SIZE;
use crate::flush::NewTables;

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
    pub(crate) fn compact_range_once(&self, range: &KeyRange<'_>) -> Result<bool> {
        self.check_writable()?;
        let options = self.pick_options(true);
        let step = self.claim(|version, busy| pick_range(version, range, &options, busy));
        let Some((compaction, version, busy)) = step else {
            // While a table is busy, one in the range may be: look again when that job has ended.
            return Ok(self.background.wait_for_a_table());
        };
        self.run_compaction(&compaction, &version)?;
        drop(busy);
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
        let numbers: Vec<FileNumber> = compaction.numbers().collect();
        state.busy.extend(numbers.iter().copied());
        drop(state);
        Some((
            compaction,
            version,
            Busy {
                engine: self,
                numbers,
            },
        ))
    }

    fn run_compaction(&self, compaction: &Compaction, version: &Version) -> Result<()> {
        let result = match compaction.kind {
            CompactionKind::Move => compaction
                .edit(&MergeResult::default())
                .and_then(|edit| self.install(&edit)),
            CompactionKind::Merge => self.merge_down(compaction, version),
        };
        if let Err(error) = &result
            && let Some(number) = damaged_table(error)
            && let Some((_, table)) = compaction
                .inputs
                .iter()
                .find(|(_, table)| table.number() == number)
        {
            table.set_damaged(error.clone()); // Set aside: it is picked no more, and reads say why.
        }
        self.background.progressed();
        self.heed(result)
    }

    fn merge_down(&self, compaction: &Compaction, version: &Version) -> Result<()> {
        let mut tables = NewTables::new(self);
        match self.write_merged(compaction, version, &mut tables) {
            Ok(edit) => self.install(&edit),
            Err(error) => {
                tables.discard();
                Err(error)
            }
        }
    }

    /// The merged tables, on disk and read back, and the edit that puts them in place of the inputs.
    fn write_merged(
        &self,
        compaction: &Compaction,
        version: &Version,
        tables: &mut NewTables<'_>,
    ) -> Result<VersionEdit> {
        // Only what an edit has made durable: a crash that kept this job's edit must not lose the drop.
        let dropped = self.versions.lock().state.dropped.clone();
        let horizon = self.horizon(dropped);
        let older = compaction.older_runs(version);
        let options = MergeOptions {
            stripes: horizon.stripes,
            dropped_keyspaces: &horizon.dropped,
            oldest_snapshot: horizon.oldest_snapshot,
            may_exist_below: &|key| older.may_hold(key),
            target_size: self.options.tuning.table_bytes,
            compression: compaction.compression,
            block_size: BLOCK_SIZE,
            should_stop: &|| self.background.lock().stop,
        };
        let result = terrace_compaction::merge(compaction.entries(), &options, tables)?;
        self.complete(&result.tables)?;
        self.counters.compacted(&result);
        compaction.edit(&result)
    }

    fn install(&self, edit: &VersionEdit) -> Result<()> {
        self.versions.log_and_apply(edit, |_, version| {
            self.views.install(|view| view.version = version.clone());
        })?;
        Ok(())
    }
}
