//! Few runs in level 0, also for processes that live for a moment
//!
//! A recovery adds a run to level 0, and a close may. Where that is all that happens, over and
//! over, no merge would ever come to its end. So both merge the newest runs with each other if
//! there are many; which ones, and why that is cheap, says `terrace_compaction::pick_newest`.
//!
//! It is a help and no duty: if an input is damaged, or the disk is full, the runs stay as they
//! are.

use terrace_base::{FileKind, FileNumber, RangeSet, Result, SeqNo, UserKey};
use terrace_compaction::{
    Folding, MergeOptions, PickOptions, Rules, Stripes, VersionEdit, pick_newest,
};

use crate::open::opening::Opening;
use crate::open::rebuild::RecoveredTables;
use crate::storage::version_set::ManifestState;

impl Opening<'_> {
    /// Merges the newest runs of `state`, which no manifest lists yet, if there are many. Nothing
    /// is above `last_seq`.
    pub(crate) fn tidy(&self, state: &mut ManifestState, last_seq: SeqNo) -> Result<()> {
        let options = PickOptions {
            level0_runs: self.options.tuning.level0_runs,
            packings: (*self.policies.packings()).clone(),
            ..PickOptions::default()
        };
        let version = state.version.clone();
        let Some(compaction) = pick_newest(&version, &options) else {
            return Ok(());
        };
        let older = compaction.older_runs(&version);
        let combine =
            |key: UserKey<'_>, parts: &[&[u8]]| self.policies.combine_for_good(key, parts);
        let deleted: &RangeSet = version.deleted();
        let options = MergeOptions {
            rules: Rules {
                stripes: &Stripes::new(&[], last_seq),
                dropped_keyspaces: &state.dropped_keyspaces(),
                deleted,
                oldest_snapshot: None,
                may_exist_below: &|key| older.may_hold(key),
                folding: Some(Folding {
                    combine: &combine,
                    deleted,
                }),
                keeps: None,
                fetch: None,
            },
            target_size: self.options.tuning.table_bytes,
            memory: self.options.job_memory(),
            packings: &compaction.packings,
            should_stop: &|| false,
        };
        let first = self.free_number(state.file_ceiling);
        let mut outputs = RecoveredTables {
            files: &self.files,
            next_file: first,
        };
        let merged = terrace_compaction::merge(compaction.entries(), &options, &mut outputs);
        let merged = merged.and_then(|result| {
            self.files.read_back(&result.tables)?;
            compaction.edit(&result)
        });
        if merged.is_err() {
            // They may take the space that the manifest needs.
            for number in first..outputs.next_file {
                self.files.remove(FileKind::Table(FileNumber(number)))?;
            }
        }
        let edit = VersionEdit {
            file_ceiling: Some(outputs.next_file),
            ..merged.unwrap_or_default()
        };
        state.apply(&edit, &self.store)
    }
}
