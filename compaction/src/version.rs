//! A [`Version`]: which tables make up the tree at one instant. It never changes; an edit makes the
//! next.
//!
//! # Invariants
//!
//! [`Version::check_order`] checks all of them. After an edit they are checked of what it changed
//! (`builder.rs`):
//!
//! 1. The tables of a run are disjoint by user key.
//! 2. A level below 0 has one run at most.
//! 3. Runs of level 0 that overlap have disjoint ranges of sequence numbers, the newer run the
//!    higher ones. So the first version of a key that a reader finds, from newest to oldest run, is
//!    the newest.
//! 4. No table is empty or of size zero, and no number appears twice.
//! 5. Every blob file that a table refers to is listed.
//!
//! A Version prints, and parses, as one line a run:
//!
//! ```text
//! L0: run 12: 000107:[a#90-z#99](size=4M)
//! L0: run 11: 000105:[c#70-k#89]
//! L6: run 0: 000100:[a#1-j#60] 000101:[k#2-z#59]
//! blob 000090 id=5f size=64M
//! range c,f seq=95
//! ```
//!
//! The last line is a range delete. Those in force belong to the tree as a whole, not to tables: a
//! delete of a million keys is one line here, a table moves without it, and no table needs bounds
//! for what is not in it. Each stays until no table holds an entry that it hides.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use terrace_base::{Error, FileNumber, PersistentMap, RangeSet, Result};

use crate::blob_file::BlobFile;
use crate::builder::VersionBuilder;
use crate::edit::{AddedTable, VersionEdit};
use crate::edit_text::RangeLine;
use crate::run::{Chunk, Run};
use crate::table_file::{TableFile, TableMeta, TableStore, damaged_table};

/// How many levels the tree has. Tables flow from level 0 to the last.
pub const LEVELS: usize = 7;

/// The runs of one level.
#[derive(Clone, Default)]
pub struct Level {
    /// The runs, newest first. Below level 0 there is one at most.
    pub runs: Vec<Arc<Run>>,
}

impl Level {
    /// Bytes of all tables.
    pub fn size(&self) -> u64 {
        self.runs.iter().map(|run| run.size()).sum()
    }

    /// True if the level has no table.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

/// The tables of the tree at one instant. The next version shares with it all that an edit does not
/// change.
#[derive(Clone, Default)]
pub struct Version {
    pub(crate) levels: [Level; LEVELS],
    /// The runs of all levels: a get goes through these, and most levels have none.
    pub(crate) newest_first: Vec<Arc<Run>>,
    /// Where each table is.
    pub(crate) places: PersistentMap<FileNumber, Place>,
    pub(crate) deleted: Arc<RangeSet>,
    pub(crate) blobs: Arc<BlobFiles>,
    /// What tables use of the blob files; a file that none refers to is not in here.
    pub(crate) blob_uses: PersistentMap<FileNumber, BlobUse>,
}

/// The blob files of a tree.
pub type BlobFiles = PersistentMap<FileNumber, Arc<BlobFile>>;

/// Where a table is.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) level: usize,
    pub(crate) run: u64,
    pub(crate) table: Arc<TableFile>,
}

/// How much of a blob file tables refer to.
#[derive(Clone, Copy, Default)]
pub(crate) struct BlobUse {
    pub(crate) tables: u64,
    pub(crate) bytes: u64,
}

static NO_LEVEL: Level = Level { runs: Vec::new() };

impl Version {
    /// A tree without tables.
    pub fn empty() -> Version {
        Version::default()
    }

    /// Level `n`; beyond the last level an empty one.
    #[inline]
    pub fn level(&self, n: usize) -> &Level {
        self.levels.get(n).unwrap_or(&NO_LEVEL)
    }

    /// All levels, from level 0 on. Their runs in this order are newest first.
    #[inline]
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The range deletes in force. What they hide may still be in tables.
    #[inline]
    pub fn deleted(&self) -> &Arc<RangeSet> {
        &self.deleted
    }

    /// Every run, newest first: the order in which a reader asks them.
    #[inline]
    pub fn runs(&self) -> &[Arc<Run>] {
        &self.newest_first
    }

    /// The blob files that its tables, and what is not in tables yet, refer to.
    #[inline]
    pub fn blobs(&self) -> &Arc<BlobFiles> {
        &self.blobs
    }

    /// Bytes that the tables refer to in each blob file; those with none included.
    pub fn blob_bytes(&self) -> BTreeMap<FileNumber, u64> {
        let used = |number| self.blob_uses.get(number).map_or(0, |used| used.bytes);
        let numbers = self.blobs.keys();
        numbers.map(|number| (*number, used(number))).collect()
    }

    /// Every run with its level, newest first.
    pub fn runs_newest_first(&self) -> impl Iterator<Item = (usize, &Arc<Run>)> {
        self.levels
            .iter()
            .enumerate()
            .flat_map(|(n, level)| level.runs.iter().map(move |run| (n, run)))
    }

    /// Every table with its level and run.
    pub fn tables(&self) -> impl Iterator<Item = (usize, u64, &Arc<TableFile>)> {
        self.runs_newest_first()
            .flat_map(|(n, run)| run.tables().iter().map(move |table| (n, run.id(), table)))
    }

    /// True if there is no table.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The table `number`, for example to mark it obsolete once the edit that removed it is
    /// durable.
    pub fn table(&self, number: FileNumber) -> Option<&Arc<TableFile>> {
        self.places.get(&number).map(|place| &place.table)
    }

    /// The level of the table `number`.
    pub fn level_of(&self, number: FileNumber) -> Option<usize> {
        self.places.get(&number).map(|place| place.level)
    }

    /// Sets the table aside that `error` found damaged, if it is about one of these.
    #[cold]
    pub fn note_damage(&self, error: &Error) {
        if let Some(table) = damaged_table(error).and_then(|number| self.table(number)) {
            table.set_damaged(error.clone());
        }
    }

    /// Why tables were set aside, of each one.
    pub fn damage(&self) -> impl Iterator<Item = &Error> {
        self.tables().filter_map(|(_, _, table)| table.damage())
    }

    /// Bytes of all tables.
    pub fn size(&self) -> u64 {
        self.levels.iter().map(Level::size).sum()
    }

    /// The Version after `edit`, checked. Tables that stay are shared; new ones open through
    /// `store`. Nothing is marked obsolete: that follows when the edit is durable.
    pub fn apply(&self, edit: &VersionEdit, store: &Arc<dyn TableStore>) -> Result<Version> {
        self.apply_all([edit], store)
    }

    /// The Version after all `edits`, checked once at the end.
    pub fn apply_all<'a>(
        &self,
        edits: impl IntoIterator<Item = &'a VersionEdit>,
        store: &Arc<dyn TableStore>,
    ) -> Result<Version> {
        let mut builder = VersionBuilder::new(self);
        for edit in edits {
            builder.apply(edit, store)?;
        }
        builder.finish()
    }

    /// An error unless the invariants at the top of this file hold.
    pub fn check_order(&self) -> Result<()> {
        for (n, level) in self.levels.iter().enumerate() {
            for run in &level.runs {
                check_chunks(n, run, 0..run.chunks().len())?;
            }
            self.check_level(n, |_| true)?;
        }
        self.check_blobs(self.blob_uses.keys().copied())
    }

    /// An error unless level `n` has as many runs as it may, of which those that are `new` keep
    /// order with all.
    pub(crate) fn check_level(&self, n: usize, new: impl Fn(u64) -> bool) -> Result<()> {
        let runs = &self.level(n).runs;
        if n > 0 && runs.len() > 1 {
            let runs = runs.len();
            return Err(broken(format!(
                "level {n} has {runs} runs where one may be"
            )));
        }
        check_ages(n, runs, new)
    }

    /// An error if tables refer to one of the blob files `numbers`, and it is not listed.
    pub(crate) fn check_blobs(&self, numbers: impl IntoIterator<Item = FileNumber>) -> Result<()> {
        let unlisted =
            |n: &FileNumber| self.blob_uses.contains_key(n) && !self.blobs.contains_key(n);
        match numbers.into_iter().find(unlisted) {
            None => Ok(()),
            Some(number) => Err(broken(format!(
                "a table refers to blob file {number}, which is not listed"
            ))),
        }
    }

    /// All tables and range deletes as additions: the first edit of a new manifest.
    pub fn as_edit(&self) -> VersionEdit {
        let added = self.tables().map(|(level, run, table)| AddedTable {
            level,
            run,
            meta: table.meta().clone(),
        });
        let ranges = self.deleted.ranges();
        VersionEdit {
            added: added.collect(),
            ranges_deleted: ranges.map(|range| (**range).clone()).collect(),
            blobs_added: self.blobs.values().map(|blob| *blob.meta()).collect(),
            ..VersionEdit::default()
        }
    }

    /// Parses what [`fmt::Debug`] prints, and checks it.
    pub fn parse(text: &str, store: &Arc<dyn TableStore>) -> Result<Version> {
        let mut edit = VersionEdit::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if line.starts_with("range ") {
                edit.ranges_deleted
                    .extend(VersionEdit::parse(line)?.ranges_deleted);
                continue;
            }
            if line.starts_with("blob ") {
                edit.blobs_added
                    .extend(VersionEdit::parse(line)?.blobs_added);
                continue;
            }
            let wrong = || Error::invalid(format!("`{line}` is no line like L0: run 1: <tables>"));
            let (level, rest) = line
                .strip_prefix('L')
                .and_then(|rest| rest.split_once(": run "))
                .ok_or_else(wrong)?;
            let (run, tables) = rest.split_once(':').ok_or_else(wrong)?;
            let level = level.parse().map_err(|_| wrong())?;
            let run = run.parse().map_err(|_| wrong())?;
            for table in tables.split_whitespace() {
                let meta = TableMeta::parse(table)?;
                edit.added.push(AddedTable { level, run, meta });
            }
        }
        Version::empty().apply(&edit, store)
    }
}

pub(crate) fn broken(message: String) -> Error {
    Error::corruption(message)
}

/// An error unless the tables of the chunks `places` are in order, among each other and with their
/// neighbours.
pub(crate) fn check_chunks(
    n: usize,
    run: &Run,
    places: impl IntoIterator<Item = usize>,
) -> Result<()> {
    let chunks = run.chunks();
    let last = |chunk: &Arc<Chunk>| chunk.tables.last().cloned();
    for i in places {
        let mut before = i.checked_sub(1).and_then(|i| chunks.get(i)).and_then(last);
        for table in chunks.get(i).into_iter().flat_map(|chunk| &chunk.tables) {
            check_table(n, table)?;
            check_neighbours(n, run, before.as_ref(), table)?;
            before = Some(Arc::clone(table));
        }
        if let Some(after) = chunks.get(i + 1).and_then(|chunk| chunk.tables.first()) {
            check_neighbours(n, run, before.as_ref(), after)?;
        }
    }
    Ok(())
}

fn check_table(n: usize, table: &TableFile) -> Result<()> {
    let info = table.info();
    if info.size == 0 || info.entries == 0 {
        return Err(broken(format!("table {table:?} of level {n} is empty")));
    }
    if info.smallest > info.largest || info.min_seq > info.max_seq {
        return Err(broken(format!(
            "table {table:?} of level {n} is inside out"
        )));
    }
    Ok(())
}

fn check_neighbours(
    n: usize,
    run: &Run,
    before: Option<&Arc<TableFile>>,
    table: &TableFile,
) -> Result<()> {
    match before.filter(|before| before.info().largest >= table.info().smallest) {
        None => Ok(()),
        Some(before) => Err(broken(format!(
            "tables {before:?} and {table:?} of level {n}, run {} overlap",
            run.id()
        ))),
    }
}

/// Overlapping runs must not interleave in time. Pairs without a run that `is_new` are not looked
/// at.
fn check_ages(n: usize, runs: &[Arc<Run>], is_new: impl Fn(u64) -> bool) -> Result<()> {
    let places = || runs.iter().enumerate();
    for (i, new) in places().filter(|(_, run)| is_new(run.id())) {
        for (j, other) in places().filter(|(j, _)| *j != i) {
            let (newer, older) = if i < j { (new, other) } else { (other, new) };
            if newer.min_seq() <= older.max_seq() && overlap(newer, older) {
                return Err(broken(format!(
                    "runs {} and {} of level {n} overlap, and the first is not wholly newer: \
                     {newer:?}, {older:?}",
                    newer.id(),
                    older.id(),
                )));
            }
        }
    }
    Ok(())
}

fn overlap(a: &Run, b: &Run) -> bool {
    match (a.bounds(), b.bounds()) {
        (Some((a_first, a_last)), Some((b_first, b_last))) => {
            a_first <= b_last && b_first <= a_last
        }
        _ => false,
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.runs).finish()
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (n, run)) in self.runs_newest_first().enumerate() {
            let line = if i == 0 { "" } else { "\n" };
            write!(f, "{line}L{n}: {run:?}")?;
        }
        for blob in self.blobs.values() {
            write!(f, "\n{blob:?}")?;
        }
        for range in self.deleted.ranges() {
            write!(f, "\n{}", RangeLine(range))?;
        }
        Ok(())
    }
}
