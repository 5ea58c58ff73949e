//! From one [`Version`] to the next: edits are applied to a copy that is opened only where they
//! touch it.
//!
//! An edit costs the tables that it names, for each of them a chunk of its run, and the logarithm
//! of the number of tables: neither other chunks nor other tables are looked at. The invariants of
//! `version.rs` held before, so they are checked of new chunks and their neighbours, of changed
//! runs of level 0, and of blob files that changed. Debug builds check small versions whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use terrace_base::{FileNumber, PersistentMap, RangeSet, Result};

use crate::blob_file::BlobFile;
use crate::edit::{AddedTable, VersionEdit};
use crate::run::Run;
use crate::run_edit::RunEdit;
use crate::table_file::{TableFile, TableStore};
use crate::version::{BlobFiles, BlobUse, LEVELS, Place, Version, broken, check_chunks};

/// Debug builds check versions of up to this many tables whole after each edit.
const CHECKED_WHOLE: usize = 64;

/// The runs of a level, some of them opened.
type OpenLevel = BTreeMap<u64, OpenRun>;

enum OpenRun {
    Kept(Arc<Run>),
    Open(RunEdit),
}

/// A [`Version`] taken apart where edits touch it.
pub struct VersionBuilder {
    base: Version,
    open: [Option<OpenLevel>; LEVELS],
    places: PersistentMap<FileNumber, Place>,
    blob_uses: PersistentMap<FileNumber, BlobUse>,
    /// Blob files that were removed, or that a new table refers to.
    touched_blobs: BTreeSet<FileNumber>,
    deleted: RangeSet,
    blobs: BlobFiles,
}

impl VersionBuilder {
    /// Begins with `base`.
    pub fn new(base: &Version) -> VersionBuilder {
        VersionBuilder {
            open: Default::default(),
            places: base.places.clone(),
            blob_uses: base.blob_uses.clone(),
            touched_blobs: BTreeSet::new(),
            deleted: (*base.deleted).clone(),
            blobs: (*base.blobs).clone(),
            base: base.clone(),
        }
    }

    fn level(&mut self, n: usize) -> Result<&mut OpenLevel> {
        let level = self.base.level(n);
        let open = self
            .open
            .get_mut(n)
            .ok_or_else(|| broken(format!("an edit names level {n} of {LEVELS}")))?;
        Ok(open.get_or_insert_with(|| {
            let runs = level.runs.iter();
            runs.map(|run| (run.id(), OpenRun::Kept(Arc::clone(run))))
                .collect()
        }))
    }

    /// The run `id` of level `n`, which need not be there yet.
    fn run(&mut self, n: usize, id: u64) -> Result<&mut RunEdit> {
        let run = self.level(n)?.entry(id);
        let run = run.or_insert_with(|| OpenRun::Open(RunEdit::empty()));
        if let OpenRun::Kept(kept) = run {
            *run = OpenRun::Open(RunEdit::of(kept));
        }
        match run {
            OpenRun::Open(edit) => Ok(edit),
            OpenRun::Kept(_) => Err(broken(format!("run {id} of level {n} was not opened"))),
        }
    }

    /// Takes the table `number` out of level `n`, where it must be.
    fn take(&mut self, n: usize, number: FileNumber) -> Result<Arc<TableFile>> {
        let missing = || {
            broken(format!(
                "an edit takes table {number} out of level {n}, where it is not"
            ))
        };
        self.level(n)?;
        let place = self.places.get(&number).filter(|place| place.level == n);
        let (run, table) = place
            .map(|place| (place.run, Arc::clone(&place.table)))
            .ok_or_else(missing)?;
        let smallest = table.info().smallest.as_ref();
        let taken = self.run(n, run)?.remove(number, smallest);
        self.places.remove(&number);
        for (file, bytes) in &table.info().blobs {
            self.forget_use(*file, *bytes);
        }
        taken.ok_or_else(missing)
    }

    fn put(&mut self, level: usize, run: u64, table: Arc<TableFile>) -> Result<()> {
        let number = table.number();
        for (file, bytes) in &table.info().blobs {
            let mut used = self.blob_uses.get(file).copied().unwrap_or_default();
            used.tables += 1;
            used.bytes = used.bytes.saturating_add(*bytes);
            self.blob_uses.insert(*file, used);
            self.touched_blobs.insert(*file);
        }
        self.run(level, run)?.insert(Arc::clone(&table));
        match self.places.insert(number, Place { level, run, table }) {
            None => Ok(()),
            Some(_) => Err(broken(format!("table {number} is in the tree twice"))),
        }
    }

    fn forget_use(&mut self, file: FileNumber, bytes: u64) {
        let Some(used) = self.blob_uses.get_mut(&file) else {
            return;
        };
        used.tables -= 1;
        used.bytes = used.bytes.saturating_sub(bytes);
        if used.tables == 0 {
            self.blob_uses.remove(&file);
        }
    }

    /// First what goes, then what moves, then what comes. After an error the builder is of no use.
    pub fn apply(&mut self, edit: &VersionEdit, store: &Arc<dyn TableStore>) -> Result<()> {
        for removed in &edit.removed {
            self.take(removed.level, removed.number)?;
        }
        for moved in &edit.moved {
            let table = self.take(moved.from_level, moved.number)?;
            self.put(moved.to_level, moved.run, table)?;
        }
        for AddedTable { level, run, meta } in &edit.added {
            let table = TableFile::new(meta.clone(), Arc::clone(store));
            self.put(*level, *run, table)?;
        }
        self.apply_blobs(edit, store)?;
        self.apply_ranges(edit)
    }

    fn apply_blobs(&mut self, edit: &VersionEdit, store: &Arc<dyn TableStore>) -> Result<()> {
        for number in &edit.blobs_removed {
            if self.blobs.remove(number).is_none() {
                return Err(broken(format!(
                    "blob file {number} is removed, but not listed"
                )));
            }
            self.touched_blobs.insert(*number);
        }
        for meta in &edit.blobs_added {
            let file = BlobFile::new(*meta, Arc::clone(store));
            if self.blobs.insert(meta.number, file).is_some() {
                return Err(broken(format!("blob file {} is listed twice", meta.number)));
            }
        }
        Ok(())
    }

    fn apply_ranges(&mut self, edit: &VersionEdit) -> Result<()> {
        for seq in &edit.ranges_forgotten {
            if !self.deleted.remove(*seq) {
                return Err(broken(format!(
                    "an edit forgets a range delete at {seq}; there is none"
                )));
            }
        }
        for range in &edit.ranges_deleted {
            self.deleted.insert(Arc::new(range.clone()));
        }
        Ok(())
    }

    /// The Version after the edits, checked.
    pub fn finish(self) -> Result<Version> {
        let mut next = self.base;
        next.places = self.places;
        next.blob_uses = self.blob_uses;
        next.deleted = Arc::new(self.deleted);
        next.blobs = Arc::new(self.blobs);
        for (n, open) in self.open.into_iter().enumerate() {
            let Some(open) = open else { continue };
            let (mut runs, mut changed) = (Vec::with_capacity(open.len()), BTreeSet::new());
            // Newest first: the ids of level 0 rise with time.
            for (id, run) in open.into_iter().rev() {
                match run {
                    OpenRun::Kept(run) => runs.push(run),
                    OpenRun::Open(edit) => {
                        let Some((run, new)) = edit.finish(id) else {
                            continue;
                        };
                        check_chunks(n, &run, new)?;
                        changed.insert(id);
                        runs.push(Arc::new(run));
                    }
                }
            }
            if let Some(level) = next.levels.get_mut(n) {
                level.runs = runs;
            }
            next.check_level(n, |id| changed.contains(&id))?;
        }
        let levels = next.levels.iter();
        next.newest_first = levels.flat_map(|level| &level.runs).cloned().collect();
        next.check_blobs(self.touched_blobs)?;
        if cfg!(debug_assertions) && next.places.len() <= CHECKED_WHOLE {
            next.check_order()?;
        }
        Ok(next)
    }
}

impl std::fmt::Debug for VersionBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VersionBuilder").finish_non_exhaustive()
    }
}
