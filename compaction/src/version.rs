//! A [`Version`]: which tables make up the tree at one instant. It never changes; an edit makes the next.
//!
//! # Invariants
//!
//! [`Version::check_order`] checks all of them after every edit:
//!
//! 1. The tables of a run are disjoint by user key.
//! 2. A level below 0 has one run at most.
//! 3. Runs of level 0 that overlap have disjoint ranges of sequence numbers, the newer run the higher
//!    ones. So the first version of a key that a reader finds, from newest to oldest run, is the newest.
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
//! The last line is a range delete. Those in force belong to the tree as a whole, not to tables: a delete of a
//! million keys is one line here, a table moves without it, and no table needs bounds for what is not in it.
//! Each stays until no table holds an entry that it hides.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use terrace_base::{DeletedRange, Error, FileNumber, RangeSet, Result};

use crate::blob_file::BlobFile;
use crate::edit::{AddedTable, VersionEdit};
use crate::edit_text::RangeLine;
use crate::run::Run;
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

/// The tables of the tree at one instant.
#[derive(Clone, Default)]
pub struct Version {
    levels: [Level; LEVELS],
    /// The runs of all levels: a get goes through these, and most levels have none.
    newest_first: Vec<Arc<Run>>,
    deleted: Arc<RangeSet>,
    blobs: Arc<BlobFiles>,
}

/// The blob files of a tree.
pub type BlobFiles = BTreeMap<FileNumber, Arc<BlobFile>>;

/// A level taken apart for a change: run ids with their tables.
type OpenLevel = BTreeMap<u64, Vec<Arc<TableFile>>>;

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
        let mut bytes: BTreeMap<_, _> = self.blobs.keys().map(|number| (*number, 0)).collect();
        for (_, _, table) in self.tables() {
            for (file, used) in &table.info().blobs {
                *bytes.entry(*file).or_default() += used;
            }
        }
        bytes
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

    /// The table `number`, for example to mark it obsolete once the edit that removed it is durable.
    pub fn table(&self, number: FileNumber) -> Option<&Arc<TableFile>> {
        self.tables()
            .map(|(_, _, table)| table)
            .find(|table| table.number() == number)
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

    /// The Version after `edit`, checked. Tables that stay are shared; new ones open through `store`.
    /// Nothing is marked obsolete: that follows when the edit is durable.
    pub fn apply(&self, edit: &VersionEdit, store: &Arc<dyn TableStore>) -> Result<Version> {
        let next = self.apply_unchecked([edit], store)?;
        next.check_order()?;
        Ok(next)
    }

    /// The Version after all `edits`, checked once at the end: how a manifest is replayed.
    pub fn apply_all<'a>(
        &self,
        edits: impl IntoIterator<Item = &'a VersionEdit>,
        store: &Arc<dyn TableStore>,
    ) -> Result<Version> {
        let next = self.apply_unchecked(edits, store)?;
        next.check_order()?;
        Ok(next)
    }

    fn apply_unchecked<'a>(
        &self,
        edits: impl IntoIterator<Item = &'a VersionEdit>,
        store: &Arc<dyn TableStore>,
    ) -> Result<Version> {
        let mut builder = Builder::new(self);
        for edit in edits {
            builder.apply(edit, store)?;
        }
        Ok(builder.finish())
    }

    /// An error unless the invariants at the top of this file hold.
    pub fn check_order(&self) -> Result<()> {
        let mut numbers = HashSet::new();
        for (n, level) in self.levels.iter().enumerate() {
            if n > 0 && level.runs.len() > 1 {
                let runs = level.runs.len();
                return Err(broken(format!(
                    "level {n} has {runs} runs where one may be"
                )));
            }
            for run in &level.runs {
                check_run(n, run, &mut numbers)?;
                self.check_blobs(run)?;
            }
            check_ages(n, &level.runs)?;
        }
        Ok(())
    }

    fn check_blobs(&self, run: &Run) -> Result<()> {
        let mut used = run.tables().iter().flat_map(|table| &table.info().blobs);
        match used.find(|(number, _)| !self.blobs.contains_key(number)) {
            None => Ok(()),
            Some((number, _)) => Err(broken(format!(
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
        let ranges = self.deleted.ranges().iter();
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

/// A Version taken apart where edits touch it.
struct Builder<'a> {
    base: &'a Version,
    open: [Option<OpenLevel>; LEVELS],
    /// The range deletes, if they change.
    ranges: Option<Vec<Arc<DeletedRange>>>,
    /// The blob files, if they change.
    blobs: Option<BlobFiles>,
}

impl<'a> Builder<'a> {
    fn new(base: &'a Version) -> Builder<'a> {
        Builder {
            base,
            open: Default::default(),
            ranges: None,
            blobs: None,
        }
    }

    fn level(&mut self, n: usize) -> Result<&mut OpenLevel> {
        let level = self.base.level(n);
        let open = self
            .open
            .get_mut(n)
            .ok_or_else(|| broken(format!("an edit names level {n} of {LEVELS}")))?;
        Ok(open.get_or_insert_with(|| {
            let tables = |run: &Arc<Run>| (run.id(), run.tables().to_vec());
            level.runs.iter().map(tables).collect()
        }))
    }

    /// Takes a set of tables out of level `n`; all must be there.
    fn take(&mut self, n: usize, numbers: &[FileNumber]) -> Result<Vec<Arc<TableFile>>> {
        let mut wanted: HashSet<FileNumber> = numbers.iter().copied().collect();
        let mut taken = Vec::with_capacity(wanted.len());
        for tables in self.level(n)?.values_mut() {
            tables.retain(|table| {
                let found = wanted.remove(&table.number());
                if found {
                    taken.push(Arc::clone(table));
                }
                !found
            });
        }
        match wanted.iter().min() {
            None => Ok(taken),
            Some(number) => Err(broken(format!(
                "an edit takes table {number} out of level {n}, where it is not"
            ))),
        }
    }

    /// First what goes, then what moves, then what comes.
    fn apply(&mut self, edit: &VersionEdit, store: &Arc<dyn TableStore>) -> Result<()> {
        for level in 0..LEVELS {
            let of_level = edit.removed.iter().filter(|removed| removed.level == level);
            let numbers: Vec<FileNumber> = of_level.map(|removed| removed.number).collect();
            if !numbers.is_empty() {
                self.take(level, &numbers)?;
            }
        }
        if let Some(removed) = edit.removed.iter().find(|removed| removed.level >= LEVELS) {
            self.level(removed.level)?;
        }
        for moved in &edit.moved {
            let tables = self.take(moved.from_level, &[moved.number])?;
            let level = self.level(moved.to_level)?;
            level.entry(moved.run).or_default().extend(tables);
        }
        for added in &edit.added {
            let table = TableFile::new(added.meta.clone(), Arc::clone(store));
            let level = self.level(added.level)?;
            level.entry(added.run).or_default().push(table);
        }
        self.apply_blobs(edit, store)?;
        self.apply_ranges(edit)
    }

    fn apply_blobs(&mut self, edit: &VersionEdit, store: &Arc<dyn TableStore>) -> Result<()> {
        if edit.blobs_added.is_empty() && edit.blobs_removed.is_empty() {
            return Ok(());
        }
        let base = self.base;
        let blobs = self.blobs.get_or_insert_with(|| (*base.blobs).clone());
        for number in &edit.blobs_removed {
            if blobs.remove(number).is_none() {
                return Err(broken(format!(
                    "blob file {number} is removed, but not listed"
                )));
            }
        }
        for meta in &edit.blobs_added {
            let file = BlobFile::new(*meta, Arc::clone(store));
            if blobs.insert(meta.number, file).is_some() {
                return Err(broken(format!("blob file {} is listed twice", meta.number)));
            }
        }
        Ok(())
    }

    fn apply_ranges(&mut self, edit: &VersionEdit) -> Result<()> {
        if edit.ranges_deleted.is_empty() && edit.ranges_forgotten.is_empty() {
            return Ok(());
        }
        let base = self.base;
        let ranges = self
            .ranges
            .get_or_insert_with(|| base.deleted.ranges().to_vec());
        for seq in &edit.ranges_forgotten {
            let at = ranges.iter().position(|range| range.seq == *seq);
            let at = at.ok_or_else(|| {
                broken(format!(
                    "an edit forgets a range delete at {seq}; there is none"
                ))
            })?;
            ranges.remove(at);
        }
        ranges.extend(edit.ranges_deleted.iter().cloned().map(Arc::new));
        Ok(())
    }

    fn finish(self) -> Version {
        let mut next = self.base.clone();
        if let Some(ranges) = self.ranges {
            next.deleted = Arc::new(RangeSet::new(ranges));
        }
        if let Some(blobs) = self.blobs {
            next.blobs = Arc::new(blobs);
        }
        for (open, level) in self.open.into_iter().zip(&mut next.levels) {
            let Some(open) = open else { continue };
            // Newest first: the ids of level 0 rise with time.
            let runs = open.into_iter().rev();
            let full = runs.filter(|(_, tables)| !tables.is_empty());
            level.runs = full
                .map(|(id, tables)| Arc::new(Run::new(id, tables)))
                .collect();
        }
        let levels = next.levels.iter();
        next.newest_first = levels.flat_map(|level| &level.runs).cloned().collect();
        next
    }
}

fn broken(message: String) -> Error {
    Error::corruption(message)
}

fn check_run(n: usize, run: &Run, numbers: &mut HashSet<FileNumber>) -> Result<()> {
    let mut before: Option<&TableFile> = None;
    for table in run.tables() {
        let info = table.info();
        if info.size == 0 || info.entries == 0 {
            return Err(broken(format!("table {table:?} of level {n} is empty")));
        }
        if info.smallest > info.largest || info.min_seq > info.max_seq {
            return Err(broken(format!(
                "table {table:?} of level {n} is inside out"
            )));
        }
        if !numbers.insert(table.number()) {
            let number = table.number();
            return Err(broken(format!("table {number} is in the tree twice")));
        }
        if let Some(before) = before.filter(|before| before.info().largest >= info.smallest) {
            return Err(broken(format!(
                "tables {before:?} and {table:?} of level {n}, run {} overlap",
                run.id()
            )));
        }
        before = Some(table);
    }
    Ok(())
}

/// Overlapping runs must not interleave in time.
fn check_ages(n: usize, runs: &[Arc<Run>]) -> Result<()> {
    for (i, newer) in runs.iter().enumerate() {
        for older in runs.iter().skip(i + 1) {
            if overlap(newer, older) && newer.min_seq() <= older.max_seq() {
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
