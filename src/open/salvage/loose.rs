//! A salvage without a manifest to go by: every table that verifies and is not known to have left,
//! and the log, are merged into one run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use terrace_base::{
    FileKind, FileNumber, InternalIterator, KeyRef, KeyspaceId, MergingIterator, RangeSet, Result,
    SeqNo,
};
use terrace_compaction::{
    AddedTable, LEVELS, MergeOptions, Rules, Stripes, TableMeta, TableStore, VersionEdit,
};
use terrace_sstable::{Table, TableIter};
use terrace_wal::Lsn;

use super::hints::{Hints, gather};
use super::log::SegmentFile;
use super::report::LossKind;
use super::tables::Verdict;
use super::{Lost, Survey, lenient};
use crate::keyspace::catalogue::Change;
use crate::memtable::Form;
use crate::open::opening::Found;
use crate::open::rebuild::Basis;
use crate::open::replay::Replay;

impl Survey<'_> {
    /// What was in force is not known: everything that verifies is merged.
    pub(super) fn loose(&mut self, current: Option<(FileNumber, u64)>) -> Result<Found> {
        let hints = gather(self.opening, current)?;
        let file = match current {
            Some((number, _)) => FileKind::Manifest(number),
            None => FileKind::Current,
        };
        let what = "which files were in force is not known";
        self.losses
            .push(Lost::new(&self.path(file), LossKind::Manifest, what));
        let blobs_added = self.find_blobs()?;
        let sources = self.all_tables(&hints)?;
        let segments = self.all_segments(&hints)?;
        let flushed = Some(hints.state.flushed.seq).filter(|seq| *seq > SeqNo::ZERO);
        let log = self.read_log(&segments, flushed, None)?;
        let mut replay = log.replay;
        leave_out_flushed(&mut replay, &sources)?;
        self.mend_replay(&mut replay)?;
        self.copy_found(&mut replay)?;
        let mut state = hints.state;
        let max_seq = sources.iter().map(|table| table.info().max_seq).max();
        let last_seq = state
            .last_seq
            .max(log.last_seq)
            .max(max_seq.unwrap_or_default());
        let used: BTreeSet<KeyspaceId> = sources
            .iter()
            .flat_map(|table| table.keyspaces())
            .chain(replay.keyspaces())
            .collect();
        let mut changes = std::mem::take(&mut replay.changes);
        self.mend_catalogue(&state, &mut changes, used);
        self.opening.set_policies(&state, &changes, false)?;
        let mut dropped = state.dropped_keyspaces();
        dropped.extend(changes.iter().filter_map(|(seq, change)| match change {
            Change::Drop(id) => Some((*id, *seq)),
            _ => None,
        }));
        let mut ranges = hints.ranges;
        ranges.extend(replay.ranges.drain(..).map(|range| (range.seq, range)));
        let deleted = RangeSet::new(ranges.into_values().map(Arc::new).collect());
        let stripes = Stripes::new(&[], last_seq);
        let rules = Rules {
            stripes: &stripes,
            dropped_keyspaces: &dropped,
            deleted: &deleted,
            oldest_snapshot: None,
            may_exist_below: &|_| false,
            folding: None,
            keeps: None,
            fetch: None,
        };
        let mut added = self.merge_all(sources, replay, rules, Lsn(log.lsn))?;
        added.blobs_added = blobs_added;
        added.blobs_added.append(&mut self.copied);
        state.apply(&added, &self.opening.store)?;
        state.file_ceiling = state.file_ceiling.max(self.outputs.next_file);
        let basis = Basis {
            database: hints.database.unwrap_or_else(|| self.fs().random()),
            last_edit: hints.last_edit.max(log.last_edit),
            last_seq,
            lsn: log.lsn,
            dropped_frames: 0,
            tidies: false,
        };
        self.publish(state, basis, Replay::of_changes(changes))
    }

    /// Every table in the directory that was not taken out, as far as it verifies.
    fn all_tables(&mut self, hints: &Hints) -> Result<Vec<Arc<Table>>> {
        let mut tables = Vec::new();
        for name in &self.opening.names {
            let FileKind::Table(number) = *name else {
                continue;
            };
            if hints.removed.contains(&number) {
                continue;
            }
            let known = hints.tables.get(&number);
            let described = match known {
                Some(meta) => Some(meta.clone()),
                None => self.described(number)?,
            };
            let verdict = described
                .as_ref()
                .map(|meta| self.judge(meta))
                .transpose()?;
            let kept = match (verdict, &described) {
                (Some(Verdict::Whole), Some(meta)) => {
                    self.report.kept.tables += 1;
                    Some(meta.clone())
                }
                (Some(Verdict::Foreign), Some(meta)) => {
                    self.lose_listed(meta, "the file is another table");
                    None
                }
                _ => self.mend(number, described.as_ref())?,
            };
            if let Some(meta) = kept {
                tables.push(Arc::new(self.opening.files.open(&meta)?));
            }
        }
        for meta in hints.tables.values() {
            let there = self.opening.names.contains(&FileKind::Table(meta.number));
            if !there && !hints.removed.contains(&meta.number) {
                self.lose_listed(
                    meta,
                    "the table is missing, unless it was merged into others",
                );
            }
        }
        Ok(tables)
    }

    fn all_segments(&self, hints: &Hints) -> Result<Vec<SegmentFile>> {
        let mut uses = BTreeMap::new();
        for name in &self.opening.names {
            let FileKind::Segment(number) = *name else {
                continue;
            };
            let (bytes, _) = lenient::read_leniently(self.fs(), &self.path(*name), None)?;
            uses.insert(number, terrace_wal::use_in_link(&bytes));
        }
        let salts = hints.salts_of(&uses);
        let segments = uses.keys().zip(salts).map(|(number, salts)| SegmentFile {
            number: *number,
            size: None,
            salts,
        });
        Ok(segments.collect())
    }

    /// Merges tables and log into one run in the last level: every version but the newest goes, and
    /// all that ranges deleted hide.
    fn merge_all(
        &mut self,
        mut sources: Vec<Arc<Table>>,
        replay: Replay,
        rules: Rules<'_>,
        end: Lsn,
    ) -> Result<VersionEdit> {
        if let Some(image) = self.opening.image_of(replay, SeqNo::MAX, end)?
            && let Form::Image(table) = image.form
        {
            sources.push(table);
        }
        let options = MergeOptions {
            rules,
            target_size: self.opening.options.tuning.table_bytes,
            memory: self.opening.options.job_memory(),
            packings: &self.opening.policies.packings(),
            should_stop: &|| false,
        };
        let entries = sources.iter().map(Table::scan).collect();
        let entries = Distinct(MergingIterator::new(entries));
        let result = terrace_compaction::merge(entries, &options, &mut self.outputs)?;
        self.opening.files.read_back(&result.tables)?;
        let added = |meta: TableMeta| AddedTable {
            level: LEVELS - 1,
            run: 0,
            meta,
        };
        Ok(VersionEdit {
            added: result.tables.into_iter().map(added).collect(),
            ..VersionEdit::default()
        })
    }
}

/// Leaves out what a table has as well, or something newer of the same key: a flush has taken it
/// in. Of operands it may be a part by now, and would count twice.
fn leave_out_flushed(replay: &mut Replay, tables: &[Arc<Table>]) -> Result<()> {
    let mut tables: Vec<TableIter> = tables.iter().map(Table::scan).collect();
    let mut flushed = Vec::new();
    for n in 0..replay.entries() {
        let Some((key, _)) = replay.entry(n) else {
            continue;
        };
        for table in &mut tables {
            table.seek(KeyRef::lookup(key.user, SeqNo::MAX))?;
            if table.valid() && table.key().user == key.user && table.key().seq >= key.seq {
                flushed.push(n);
                break;
            }
        }
    }
    replay.leave_out(&flushed);
    Ok(())
}

/// The entries of several sources of which some may hold the same: each once. It goes forward only.
#[derive(Debug)]
struct Distinct(MergingIterator<TableIter>);

impl InternalIterator for Distinct {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.0.seek(target)
    }
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.0.seek_for_prev(target)
    }
    fn first(&mut self) -> Result<()> {
        self.0.first()
    }
    fn last(&mut self) -> Result<()> {
        self.0.last()
    }
    fn next(&mut self) -> Result<()> {
        let before = self.0.key().to_owned();
        self.0.next()?;
        while self.0.valid() {
            let key = self.0.key();
            if key.user != before.user.as_ref() || key.seq != before.seq {
                break;
            }
            self.0.next()?;
        }
        Ok(())
    }
    fn prev(&mut self) -> Result<()> {
        self.0.prev()
    }
    fn valid(&self) -> bool {
        self.0.valid()
    }
    fn key(&self) -> KeyRef<'_> {
        self.0.key()
    }
    fn value(&self) -> &[u8] {
        self.0.value()
    }
}
