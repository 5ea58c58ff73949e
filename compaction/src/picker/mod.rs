//! Which tables to merge next. Everything here is a pure function of a [`Version`].
//!
//! - [`shape`](self::targets): how large each level should be, and how far the tree is from that
//! - [`pick`]: the most urgent step towards that shape
//! - [`pick_range`]: the next step that takes a range down to the last level
//!
//! # What keeps versions in order
//!
//! A reader takes the first version of a key that it meets, from level 0 down. So no step may carry
//! a version past an older one, and the jobs that run at the same time must not write across each
//! other:
//!
//! 1. Level 0 gives up its oldest runs only, without a gap, and together with every table of the
//!    output level that overlaps the *hull* of what it gives up (a new table may span the gaps
//!    between inputs).
//! 2. A lower level gives up adjacent tables, together with every table of the output level that
//!    overlaps them. Levels between the two are empty.
//! 3. A table that is busy (in a running job) or damaged is never an input, and a step that would
//!    need it is not taken; nor is one that may cross what a running job writes (see `guard.rs`).

mod guard;
mod leveled;
mod older;
mod range;
mod shape;
mod tidy;
mod worth;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

pub use leveled::pick;
pub use older::OlderRuns;
pub use range::{Among, KeyRange, pick_range};
pub use shape::{Targets, debt, targets};
use terrace_base::{Error, FileNumber, MergingIterator, Result, SeqNo, UserKey, mutant};
use terrace_sstable::TableInfo;
pub use tidy::pick_newest;

use crate::edit::{AddedTable, MovedTable, RemovedTable, VersionEdit};
use crate::job::MergeResult;
use crate::packing::Packings;
use crate::run::Run;
use crate::run_iter::RunIter;
use crate::table_file::TableFile;
use crate::text::compression_name;
use crate::version::{LEVELS, Version};

/// The last level: whatever lies below it is nothing.
pub(crate) const LAST: usize = LEVELS - 1;

/// What a picker needs to know beside the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickOptions {
    /// Level 0 is due at this many runs; at one when idle.
    pub level0_runs: usize,
    /// The first level below level 0 holds at most this.
    pub base_bytes: u64,
    /// How much larger each level is than the one above it.
    pub fan_out: u64,
    /// Of tables in the last level; above it nothing is compressed.
    pub packings: Packings,
    /// Nobody writes: one run in level 0 is due.
    pub idle: bool,
    /// The oldest snapshot, else what is visible: every reader sees older writes alike. Tombstones
    /// that old can go from the last level. Zero if unknown.
    pub settled: SeqNo,
    /// Maximum cost of a merge of level 0: bytes of the next level that it rewrites per byte of its
    /// own, or entries per tombstone. Otherwise the newest runs are merged with each other.
    pub worth: u64,
    /// Bytes in blob files, referred to by tables of level 0, from which level 0 is also due, if
    /// its merge writes fewer.
    pub blob_bytes: u64,
    /// A job takes further inputs along only up to this many bytes in all.
    pub max_job_bytes: u64,
}

impl Default for PickOptions {
    fn default() -> PickOptions {
        PickOptions {
            level0_runs: 4,
            base_bytes: 256 << 20,
            fan_out: 10,
            packings: Packings::default(),
            idle: false,
            settled: SeqNo::ZERO,
            worth: u64::MAX,
            blob_bytes: u64::MAX,
            max_job_bytes: 512 << 20,
        }
    }
}

impl PickOptions {
    /// How many runs make level 0 due.
    pub(crate) fn due_runs(&self) -> usize {
        if self.idle {
            1
        } else {
            self.level0_runs.max(1)
        }
    }

    /// How tables of `level` are packed.
    pub(crate) fn packings_at(&self, level: usize) -> Packings {
        match level {
            LAST => self.packings.clone(),
            _ => self.packings.plain(),
        }
    }

    /// True if a table of the last level is compressed as its keyspaces are to be.
    pub(crate) fn well_packed(&self, info: &TableInfo) -> bool {
        let (first, last) = (info.smallest.keyspace, info.largest.keyspace);
        self.packings.common(first, last) == Some(info.compression)
    }
}

/// What a [`Compaction`] does with its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompactionKind {
    /// The tables change their level as they are: one edit, no bytes.
    Move,
    /// The entries are merged into new tables.
    Merge,
    /// The tables go with all that they hold: one edit, no bytes.
    Remove,
}

/// A plan: which tables become tables of which level.
#[derive(Clone)]
pub struct Compaction {
    /// Where the newer inputs are.
    pub level: usize,
    /// Where the output goes.
    pub output_level: usize,
    /// The run that the output joins.
    pub output_run: u64,
    /// All inputs with their levels, newest run first.
    pub inputs: Vec<(usize, Arc<TableFile>)>,
    /// What is done with them.
    pub kind: CompactionKind,
    /// True if no older table outside the job overlaps it.
    pub bottommost: bool,
    /// Of the output.
    pub packings: Packings,
    /// The inputs by run.
    runs: Vec<Vec<Arc<TableFile>>>,
}

impl Compaction {
    /// A plan for `runs`, newest first, each with its level.
    fn new(
        version: &Version,
        options: &PickOptions,
        runs: Vec<(usize, Vec<Arc<TableFile>>)>,
        output_level: usize,
        kind: CompactionKind,
    ) -> Compaction {
        let level = runs.first().map_or(0, |(level, _)| *level);
        let inputs = runs.iter().flat_map(|(level, tables)| {
            let level = *level;
            tables.iter().map(move |table| (level, Arc::clone(table)))
        });
        let inputs: Vec<_> = inputs.collect();
        let output = version.level(output_level).runs.first();
        let hull = hull(inputs.iter().map(|(_, table)| table));
        Compaction {
            level,
            output_level,
            output_run: output.map_or(0, |run| run.id()),
            kind,
            bottommost: hull.is_none_or(|hull| nothing_below(version, output_level, hull)),
            packings: options.packings_at(output_level),
            inputs,
            runs: runs.into_iter().map(|(_, tables)| tables).collect(),
        }
    }

    /// The numbers of all inputs: busy until the job has ended.
    pub fn numbers(&self) -> impl Iterator<Item = FileNumber> {
        self.inputs.iter().map(|(_, table)| table.number())
    }

    /// Bytes of all inputs.
    pub fn input_bytes(&self) -> u64 {
        self.inputs.iter().map(|(_, table)| table.info().size).sum()
    }

    /// Entries of all inputs, as the manifest counts them.
    pub fn input_entries(&self) -> u64 {
        let entries = self.inputs.iter().map(|(_, table)| table.info().entries);
        entries.sum()
    }

    /// All entries of the inputs in one order, read as a compaction reads: every block is checked.
    pub fn entries(&self) -> MergingIterator<RunIter> {
        let runs = self.runs.iter();
        MergingIterator::new(runs.map(|run| RunIter::over(run.clone(), true)).collect())
    }

    /// The runs that may hold older versions of keys of this job, as of `version`.
    pub fn older_runs(&self, version: &Version) -> OlderRuns {
        match (self.output_level, self.runs.last()) {
            (0, Some(oldest)) => OlderRuns::than(version, oldest),
            _ => OlderRuns::below(version, self.output_level),
        }
    }

    /// The edit that puts `result` in place of the inputs; for a move or a removal, pass the
    /// default. An error if the merge did not read every entry that the manifest says its inputs
    /// hold.
    pub fn edit(&self, result: &MergeResult) -> Result<VersionEdit> {
        let mut edit = VersionEdit::default();
        if self.kind == CompactionKind::Move {
            edit.moved = self
                .inputs
                .iter()
                .map(|(level, table)| self.moved(*level, table))
                .collect();
            return Ok(edit);
        }
        if self.kind == CompactionKind::Remove {
            let inputs = self.inputs.iter();
            edit.removed = inputs
                .map(|(level, table)| removed(*level, table))
                .collect();
            return Ok(edit);
        }
        if result.read != self.input_entries() && !mutant("merge-ends-at-error") {
            return Err(Error::corruption(format!(
                "a merge read {} entries of inputs that hold {}: {self:?}",
                result.read,
                self.input_entries()
            )));
        }
        edit.removed = self
            .inputs
            .iter()
            .map(|(level, table)| removed(*level, table))
            .collect();
        let added = result.tables.iter().map(|meta| AddedTable {
            level: self.output_level,
            run: self.output_run,
            meta: meta.clone(),
        });
        edit.added = added.collect();
        edit.blobs_added.clone_from(&result.blobs);
        Ok(edit)
    }

    fn moved(&self, from_level: usize, table: &TableFile) -> MovedTable {
        MovedTable {
            from_level,
            to_level: self.output_level,
            run: self.output_run,
            number: table.number(),
        }
    }
}

fn removed(level: usize, table: &TableFile) -> RemovedTable {
    RemovedTable {
        level,
        number: table.number(),
    }
}

impl fmt::Debug for Compaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            CompactionKind::Move => "move",
            CompactionKind::Merge => "merge",
            CompactionKind::Remove => "remove",
        };
        write!(f, "{kind} L{} -> L{}", self.level, self.output_level)?;
        if self.bottommost {
            f.write_str(", bottommost")?;
        }
        if let Some(name) = compression_name(self.packings.default_compression()) {
            write!(f, ", {name}")?;
        }
        let mut level = None;
        for (n, table) in &self.inputs {
            if level != Some(n) {
                write!(f, "; L{n}:")?;
                level = Some(n);
            }
            write!(f, " {}", table.number())?;
        }
        Ok(())
    }
}

/// A step that writes one table below level 0 again where it is, without what can go; or, if
/// `whole`, removes it: the caller knows that each of its entries may go. `None` if it is busy,
/// damaged or there no more.
pub fn rewrite_in_place(
    version: &Version,
    options: &PickOptions,
    busy: &HashSet<FileNumber>,
    number: FileNumber,
    whole: bool,
) -> Option<Compaction> {
    let (level, table) = (version.level_of(number)?, version.table(number)?);
    if level == 0 || (Blocked { busy }).table(table) {
        return None;
    }
    let kind = match whole {
        true => CompactionKind::Remove,
        false => CompactionKind::Merge,
    };
    let runs = vec![(level, vec![Arc::clone(table)])];
    Some(Compaction::new(version, options, runs, level, kind))
}

/// The closed range from the least to the greatest key of some tables.
type Hull<'a> = (UserKey<'a>, UserKey<'a>);

fn hull<'a>(tables: impl IntoIterator<Item = &'a Arc<TableFile>>) -> Option<Hull<'a>> {
    tables.into_iter().fold(None, |hull, table| {
        let info = table.info();
        let (smallest, largest) = (info.smallest.as_ref(), info.largest.as_ref());
        Some(match hull {
            None => (smallest, largest),
            Some((first, last)) => (smallest.min(first), largest.max(last)),
        })
    })
}

/// True if no level below `level` overlaps `hull`.
fn nothing_below(version: &Version, level: usize, (first, last): Hull<'_>) -> bool {
    let below = (level + 1..LEVELS).flat_map(|n| &version.level(n).runs);
    below.into_iter().all(|run| !run.touches(first, last))
}

/// The tables that no new job may touch.
#[derive(Clone, Copy)]
struct Blocked<'a> {
    busy: &'a HashSet<FileNumber>,
}

impl Blocked<'_> {
    fn table(self, table: &TableFile) -> bool {
        table.damaged() || self.busy.contains(&table.number())
    }

    fn any<'t>(self, mut tables: impl Iterator<Item = &'t Arc<TableFile>>) -> bool {
        tables.any(|table| self.table(table))
    }
}

/// The one run of a level below level 0.
fn run_at(version: &Version, level: usize) -> Option<&Arc<Run>> {
    version.level(level).runs.first()
}
