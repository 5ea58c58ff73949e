//! The most urgent step towards the wanted shape.
//!
//! Each level has a score: how many times over its due it is. The levels that are due are tried
//! from the highest score down, first for a table that can move as it is, then for a merge. Among
//! the tables of a level, the one goes that drags the fewest bytes of the next level along for each
//! byte of its own; so a flush of 64 MiB never rewrites a level of 1 GiB, but a tenth of it at a
//! time.
//!
//! A merge of level 0 must be worth what it rewrites: see [`super::worth`].
//!
//! When no level is due, tables full of tombstones go down, and tombstones leave the last level
//! once no snapshot needs them.

use std::collections::HashSet;
use std::sync::Arc;

use terrace_base::FileNumber;

use super::worth::referred_by;
use super::{Blocked, Compaction, CompactionKind, LAST, PickOptions, Targets, run_at, targets};
use crate::run::Run;
use crate::table_file::TableFile;
use crate::version::Version;

/// A table goes down early if one entry in this many is a tombstone.
const TOMBSTONE_SHARE_ABOVE: u64 = 2;
/// A table of the last level is rewritten if one entry in this many is a tombstone.
const TOMBSTONE_SHARE_LAST: u64 = 4;
/// Scores are in thousandths: a level is due from here.
const DUE: u128 = 1000;

/// The most urgent step, or `None` if the tree has its shape, or what is due waits for `busy`
/// tables.
pub fn pick(
    version: &Version,
    options: &PickOptions,
    busy: &HashSet<FileNumber>,
) -> Option<Compaction> {
    let picker = Picker::new(version, options, busy);
    let due = picker.due_levels();
    let moves = due.iter().find_map(|&level| picker.pick_move(level));
    moves
        .or_else(|| due.iter().find_map(|&level| picker.pick_merge(level)))
        .or_else(|| picker.tidy_beside_jobs())
        .or_else(|| picker.pick_tombstones())
}

/// Everything that a choice depends on.
#[derive(Clone, Copy)]
pub(super) struct Picker<'a> {
    pub version: &'a Version,
    pub options: &'a PickOptions,
    pub blocked: Blocked<'a>,
    pub targets: Targets,
}

impl<'a> Picker<'a> {
    pub fn new(
        version: &'a Version,
        options: &'a PickOptions,
        busy: &'a HashSet<FileNumber>,
    ) -> Picker<'a> {
        Picker {
            version,
            options,
            blocked: Blocked { busy },
            targets: targets(version, options),
        }
    }

    /// The levels that are due, most urgent first.
    fn due_levels(&self) -> Vec<usize> {
        let mut due: Vec<(u128, usize)> = (0..LAST)
            .map(|level| (self.score(level), level))
            .filter(|&(score, _)| score >= DUE)
            .collect();
        due.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        due.into_iter().map(|(_, level)| level).collect()
    }

    fn score(&self, level: usize) -> u128 {
        if level == 0 {
            let runs = self.oldest_free_runs();
            let by_runs = runs.len() as u128 * DUE / self.options.due_runs() as u128;
            let by_blobs = u128::from(referred_by(runs)) * DUE;
            return by_runs.max(by_blobs / u128::from(self.options.blob_bytes.max(1)));
        }
        let Some(run) = run_at(self.version, level) else {
            return 0;
        };
        let free = run
            .tables()
            .iter()
            .filter(|table| !self.blocked.table(table));
        let size: u64 = free.map(|table| table.info().size).sum();
        // Due beyond its target, not at it.
        u128::from(size) * DUE / (u128::from(self.targets.of(level)) + 1)
    }

    /// The oldest runs of level 0, newest first, up to the first with a table that is blocked.
    pub fn oldest_free_runs(&self) -> &'a [Arc<Run>] {
        let runs = &self.version.level(0).runs;
        let blocked = runs
            .iter()
            .rposition(|run| self.blocked.any(run.tables().iter()));
        runs.get(blocked.map_or(0, |i| i + 1)..).unwrap_or(&[])
    }

    /// A step of `level` that writes nothing.
    fn pick_move(&self, level: usize) -> Option<Compaction> {
        if level == 0 {
            return self.move_oldest_run();
        }
        let output = level + 1;
        let tables = run_at(self.version, level)?.tables();
        let mut tables = tables.iter();
        let movable = tables.find(|table| self.can_move(level, table, output))?;
        let runs = vec![(level, vec![Arc::clone(movable)])];
        Some(self.plan(runs, output, CompactionKind::Move))
    }

    /// The oldest run of level 0 moves if none of its tables meets one below.
    fn move_oldest_run(&self) -> Option<Compaction> {
        let output = self.targets.base;
        let run = self.oldest_free_runs().last()?;
        let mut tables = run.tables().iter();
        let movable = tables.all(|table| self.can_move(0, table, output));
        let runs = vec![(0, run.tables().to_vec())];
        movable.then(|| self.plan(runs, output, CompactionKind::Move))
    }

    /// The last level takes only what is compressed as it is to be there, and nothing that it
    /// should drop.
    pub fn fits_as_it_is(&self, table: &TableFile, output: usize) -> bool {
        let info = table.info();
        output < LAST || (self.options.well_packed(info) && info.tombstones == 0)
    }

    fn pick_merge(&self, level: usize) -> Option<Compaction> {
        if level == 0 {
            return self.merge_level0_if_worth();
        }
        self.merge_least_overlap(level, |_| true)
    }

    /// Merges as many of `runs` (the oldest of level 0, newest first) as what lies below allows.
    pub fn merge_level0(&self, runs: &[Arc<Run>]) -> Option<Compaction> {
        let output = self.targets.base;
        (0..runs.len()).find_map(|skipped| {
            let runs = runs.get(skipped..)?;
            let tables = runs.iter().flat_map(|run| run.tables().iter());
            let below = self.partners(0, tables, output)?;
            let mut inputs: Vec<_> = runs.iter().map(|run| (0, run.tables().to_vec())).collect();
            inputs.push((output, below.to_vec()));
            Some(self.plan(inputs, output, CompactionKind::Merge))
        })
    }

    /// The table of `level` among those `wanted` that drags least along; with its neighbours, where
    /// they come for free.
    fn merge_least_overlap(
        &self,
        level: usize,
        wanted: impl Fn(&TableFile) -> bool,
    ) -> Option<Compaction> {
        let tables = run_at(self.version, level)?.tables();
        let mut best: Option<(u128, usize)> = None;
        for (i, table) in tables.iter().enumerate() {
            if !wanted(table) {
                continue;
            }
            let Some(below) = self.partners(level, [table].into_iter(), level + 1) else {
                continue;
            };
            let cost = u128::from(below.bytes()) * 1024 / worth(table);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, i));
            }
        }
        let (_, i) = best?;
        self.merge_around(level, level + 1, i, |_| false)
    }

    /// Merges table `i` of `level` into `output`, and its neighbours with it: those that need no
    /// further table of `output`, or are `wanted`, up to the limit of a job.
    pub fn merge_around(
        &self,
        level: usize,
        output: usize,
        i: usize,
        wanted: impl Fn(&TableFile) -> bool,
    ) -> Option<Compaction> {
        let tables = run_at(self.version, level)?.tables();
        let mut chosen = i..i + 1;
        let mut below = self.partners(level, tables.part(chosen.clone())?.iter(), output)?;
        loop {
            let right = (chosen.start..chosen.end + 1, chosen.end);
            let left = chosen.start.wrapping_sub(1);
            let left = (left..chosen.end, left);
            let wider = [right, left].into_iter().find_map(|(range, added)| {
                let inputs = tables.part(range.clone())?;
                let needed = self.partners(level, inputs.iter(), output)?;
                let free = needed.len() == below.len() || wanted(tables.get(added)?);
                let bytes = inputs.bytes().saturating_add(needed.bytes());
                (free && bytes <= self.options.max_job_bytes).then_some((range, needed))
            });
            match wider {
                Some(wider) => (chosen, below) = wider,
                None => break,
            }
        }
        let runs = vec![
            (level, tables.part(chosen)?.to_vec()),
            (output, below.to_vec()),
        ];
        Some(self.plan(runs, output, CompactionKind::Merge))
    }

    /// Tables rich in tombstones: above the last level one goes down, in the last one is rewritten.
    fn pick_tombstones(&self) -> Option<Compaction> {
        let rich = |table: &TableFile| {
            let info = table.info();
            info.tombstones >= (info.entries / TOMBSTONE_SHARE_ABOVE).max(1)
        };
        let down = (1..LAST).find_map(|level| self.merge_least_overlap(level, rich));
        down.or_else(|| {
            let mut tables = run_at(self.version, LAST)?.tables().iter();
            let table = tables.find(|table| {
                let info = table.info();
                let rich = info.tombstones >= info.entries / TOMBSTONE_SHARE_LAST;
                let alone = [*table].into_iter();
                rich && self.tombstones_can_go(table) && self.partners(LAST, alone, LAST).is_some()
            })?;
            Some(self.rewrite(vec![Arc::clone(table)]))
        })
    }

    /// True if a table of the last level has tombstones, and a rewrite takes out all of them.
    pub fn tombstones_can_go(&self, table: &TableFile) -> bool {
        table.info().tombstones > 0 && table.info().max_seq <= self.options.settled
    }

    /// Merges adjacent tables of the last level into tables of the last level.
    pub fn rewrite(&self, tables: Vec<Arc<TableFile>>) -> Compaction {
        self.plan(vec![(LAST, tables)], LAST, CompactionKind::Merge)
    }

    pub fn plan(
        &self,
        mut runs: Vec<(usize, Vec<Arc<TableFile>>)>,
        output: usize,
        kind: CompactionKind,
    ) -> Compaction {
        runs.retain(|(_, tables)| !tables.is_empty());
        Compaction::new(self.version, self.options, runs, output, kind)
    }
}

/// The size of a table, and more for tombstones: each may free an entry below.
fn worth(table: &TableFile) -> u128 {
    let info = table.info();
    let (entries, tombstones) = (info.entries.max(1), info.tombstones.min(info.entries));
    let size = u128::from(info.size.max(1));
    size + size * u128::from(tombstones) / u128::from(entries)
}
