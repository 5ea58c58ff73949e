//! The state that the manifest holds, and the one place that changes it.
//!
//! Every change is an edit. An edit is checked against the state first, then appended and synced,
//! and only then does the state become the new one. After a failed append or sync the manifest's
//! tail is unknown: no further edit is made, and the database becomes read-only. Only where the
//! file cannot grow on a full disk nothing was appended: that edit is `NoSpace`, and may be tried
//! again.

use std::collections::VecDeque;
use std::sync::Arc;

use terrace_base::{
    Error, ErrorKind, FileKind, FileNumber, KeyspaceId, PersistentMap, Result, SeqNo, mutant,
};
use terrace_compaction::{
    Flushed, KeyspaceRecord, SegmentRecord, TableStore, Version, VersionBuilder, VersionEdit,
};
use terrace_wal::SegmentMeta;

use crate::keyspace::state::DEFAULT_NAME;
use crate::read::context::remembered;
use crate::storage::files::Files;
use crate::storage::manifest::Manifest;
use crate::storage::touched::{touched, whole_keyspace};
use crate::sync::{Mutex, MutexGuard, Rank, lock};

/// File numbers lie below this: far more than can be used, and far from where sums overflow.
pub(crate) const FILE_NUMBERS: u64 = 1 << 62;
/// File numbers that one edit sets aside.
const NUMBERS_AHEAD: u64 = 256;

/// What the edits so far add up to. A copy costs next to nothing: it shares what no edit changes.
#[derive(Clone, Debug)]
pub(crate) struct ManifestState {
    pub(crate) version: Arc<Version>,
    pub(crate) segments: PersistentMap<FileNumber, SegmentRecord>,
    pub(crate) flushed: Flushed,
    pub(crate) keyspaces: PersistentMap<KeyspaceId, Arc<KeyspaceRecord>>,
    /// Keyspaces dropped at a sequence number whose entries tables may still hold.
    pub(crate) dropped: PersistentMap<KeyspaceId, SeqNo>,
    pub(crate) next_keyspace: u32,
    pub(crate) file_ceiling: u64,
    pub(crate) last_seq: SeqNo,
    /// How far the clock had come, in milliseconds since 1970.
    pub(crate) clock: u64,
}

impl ManifestState {
    pub(crate) fn new() -> ManifestState {
        ManifestState {
            version: Arc::new(Version::empty()),
            segments: PersistentMap::new(),
            flushed: Flushed {
                lsn: 0,
                seq: SeqNo::ZERO,
            },
            keyspaces: PersistentMap::new(),
            dropped: PersistentMap::new(),
            next_keyspace: 1,
            file_ceiling: 1,
            last_seq: SeqNo::ZERO,
            clock: 0,
        }
    }

    pub(crate) fn apply(&mut self, edit: &VersionEdit, store: &Arc<dyn TableStore>) -> Result<()> {
        self.version = Arc::new(self.version.apply(edit, store)?);
        self.apply_rest(edit)
    }

    /// Begins to apply edits one after another, as a manifest is read.
    pub(crate) fn replay(self) -> StateReplay {
        StateReplay {
            tree: VersionBuilder::new(&self.version),
            state: self,
        }
    }

    /// Applies all that an edit says beside the tree.
    fn apply_rest(&mut self, edit: &VersionEdit) -> Result<()> {
        for segment in &edit.segments_added {
            self.segments.insert(segment.number, *segment);
        }
        for number in &edit.segments_removed {
            if self.segments.remove(number).is_none() {
                return Err(Error::corruption(format!(
                    "segment {number} is removed, but not listed"
                )));
            }
        }
        if let Some(flushed) = &edit.flushed {
            if flushed.lsn < self.flushed.lsn || flushed.seq < self.flushed.seq {
                return Err(Error::corruption("the flushed position runs backwards"));
            }
            self.flushed = *flushed;
            self.last_seq = self.last_seq.max(flushed.seq);
        }
        self.file_ceiling = self.file_ceiling.max(edit.file_ceiling.unwrap_or(0));
        if self.file_ceiling > FILE_NUMBERS {
            return Err(Error::corruption("the file numbers are used up"));
        }
        for record in &edit.keyspaces_created {
            self.next_keyspace = self.next_keyspace.max(record.id.0.saturating_add(1));
            let record = Arc::new(record.clone());
            if self.keyspaces.insert(record.id, record.clone()).is_some() {
                return Err(Error::corruption(format!(
                    "keyspace {} is created twice",
                    record.id.0
                )));
            }
        }
        for (id, options) in &edit.keyspaces_changed {
            self.keyspace(*id)?.options.clone_from(options);
        }
        for (id, name) in &edit.keyspaces_renamed {
            self.keyspace(*id)?.name.clone_from(name);
        }
        for &(id, seq) in &edit.keyspaces_dropped {
            // A new manifest lists those dropped before without creating them first.
            self.keyspaces.remove(&id);
            self.dropped.insert(id, seq);
        }
        for id in &edit.keyspaces_forgotten {
            self.dropped.remove(id);
        }
        self.next_keyspace = self.next_keyspace.max(edit.next_keyspace.unwrap_or(0));
        self.last_seq = self.last_seq.max(edit.last_seq.unwrap_or(SeqNo::ZERO));
        let clock = edit.clock.map(|time| remembered(self.clock, time));
        self.clock = clock.unwrap_or(self.clock);
        Ok(())
    }

    /// The dropped keyspaces whose entries tables may still hold, and when each was dropped.
    pub(crate) fn dropped_keyspaces(&self) -> Vec<(KeyspaceId, SeqNo)> {
        self.dropped.iter().map(|(id, seq)| (*id, *seq)).collect()
    }

    /// The listed segments, as the log knows them.
    pub(crate) fn segment_metas(&self) -> Vec<SegmentMeta> {
        let listed = self.segments.values();
        let metas =
            listed.map(|&SegmentRecord { number, salt, size }| SegmentMeta { number, salt, size });
        metas.collect()
    }

    /// What is known of a keyspace that is to change. No call created the default one: it is listed
    /// once it has options.
    pub(crate) fn keyspace(&mut self, id: KeyspaceId) -> Result<&mut KeyspaceRecord> {
        if id == KeyspaceId(0) && !self.keyspaces.contains_key(&id) {
            let record = KeyspaceRecord {
                id,
                name: DEFAULT_NAME.into(),
                created: SeqNo::ZERO,
                options: Vec::new(),
            };
            self.keyspaces.insert(id, Arc::new(record));
        }
        self.keyspaces
            .get_mut(&id)
            .map(Arc::make_mut)
            .ok_or_else(|| {
                Error::corruption(format!("keyspace {} is changed, but not listed", id.0))
            })
    }

    /// One edit that makes this state out of nothing. Dropped keyspaces that no table can hold an
    /// entry of are left out.
    pub(crate) fn as_edit(&self) -> VersionEdit {
        let in_a_table = |id, at| {
            let all = whole_keyspace(id, at);
            touched(&self.version, &all).next().is_some()
        };
        VersionEdit {
            segments_added: self.segments.values().copied().collect(),
            flushed: Some(self.flushed),
            file_ceiling: Some(self.file_ceiling),
            keyspaces_created: self.keyspaces.values().map(|r| (**r).clone()).collect(),
            keyspaces_dropped: self
                .dropped
                .iter()
                .map(|(id, seq)| (*id, *seq))
                .filter(|&(id, seq)| seq > self.flushed.seq || in_a_table(id, seq))
                .collect(),
            next_keyspace: Some(self.next_keyspace),
            last_seq: Some(self.last_seq),
            clock: Some(self.clock),
            ..self.version.as_edit()
        }
    }
}

/// A [`ManifestState`] while edits are applied to it. The tree is put together once, at the end.
#[derive(Debug)]
pub(crate) struct StateReplay {
    /// All but the tree.
    state: ManifestState,
    tree: VersionBuilder,
}

impl StateReplay {
    pub(crate) fn apply(&mut self, edit: &VersionEdit, store: &Arc<dyn TableStore>) -> Result<()> {
        self.tree.apply(edit, store)?;
        self.state.apply_rest(edit)
    }

    pub(crate) fn finish(mut self) -> Result<ManifestState> {
        self.state.version = Arc::new(self.tree.finish()?);
        Ok(self.state)
    }
}

#[derive(Debug)]
pub(crate) struct Inner {
    /// `None` while the database is read-only by choice.
    manifest: Option<Manifest>,
    pub(crate) state: ManifestState,
    next_file: u64,
    rotate_at: u64,
    failed: Option<Error>,
    /// Segments whose log is no longer needed, ready for another use under a new salt.
    pub(crate) reusable: VecDeque<(FileNumber, u64)>,
}

/// The state that the manifest holds.
#[derive(Debug)]
pub(crate) struct VersionSet {
    inner: Mutex<Inner>,
    files: Arc<Files>,
    store: Arc<dyn TableStore>,
    database: u64,
    /// A manifest is rewritten when it is larger than this and than four times its first edit.
    least_rotated: u64,
}

impl VersionSet {
    pub(crate) fn new(
        state: ManifestState,
        manifest: Option<Manifest>,
        files: Arc<Files>,
        database: u64,
        least_rotated: u64,
    ) -> VersionSet {
        let rotate_at = manifest
            .as_ref()
            .map_or(0, Manifest::size)
            .saturating_mul(4)
            .max(least_rotated);
        let next_file = state.file_ceiling;
        let inner = Inner {
            manifest,
            state,
            next_file,
            rotate_at,
            failed: None,
            reusable: VecDeque::new(),
        };
        let store: Arc<dyn TableStore> = files.clone();
        VersionSet {
            inner: Mutex::new(Rank::Versions, inner),
            files,
            store,
            database,
            least_rotated,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// No edit is made from now on; the number of the last.
    pub(crate) fn end(&self) -> u64 {
        let inner = self.lock();
        self.files.freeze();
        inner
            .manifest
            .as_ref()
            .map_or(0, |manifest| manifest.last_edit)
    }

    /// Says in the manifest that the database was closed.
    pub(crate) fn mark_closed(&self) -> Result<()> {
        let mut inner = self.lock();
        let manifest = inner.manifest.as_mut();
        match manifest.map_or(Ok(()), Manifest::mark_closed) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(&mut inner, error)),
        }
    }

    /// A file number that was never used, set aside durably.
    pub(crate) fn new_file_number(&self) -> Result<FileNumber> {
        let mut inner = self.lock();
        self.allocate(&mut inner)
    }

    pub(crate) fn allocate(&self, inner: &mut Inner) -> Result<FileNumber> {
        if inner.next_file >= inner.state.file_ceiling {
            let file_ceiling = Some(inner.next_file + NUMBERS_AHEAD);
            self.apply_locked(
                inner,
                &VersionEdit {
                    file_ceiling,
                    ..VersionEdit::default()
                },
            )?;
        }
        inner.next_file += 1;
        Ok(FileNumber(inner.next_file - 1))
    }

    /// Makes `edit` durable and in force, then runs `install` with the new version, still under the
    /// lock so that versions are installed in the order of their edits. Tables that it removes
    /// become obsolete.
    pub(crate) fn log_and_apply(
        &self,
        edit: &VersionEdit,
        install: impl FnOnce(&mut Inner, &Arc<Version>),
    ) -> Result<u64> {
        let mut inner = self.lock();
        let before = inner.state.version.clone();
        for early in edit
            .removed
            .iter()
            .filter(|_| mutant("delete-inputs-early"))
        {
            self.files.remove(FileKind::Table(early.number))?;
        }
        let number = self.apply_locked(&mut inner, edit)?;
        let after = inner.state.version.clone();
        install(&mut inner, &after);
        for removed in &edit.removed {
            if let Some(table) = before.table(removed.number) {
                table.mark_obsolete();
            }
        }
        for removed in &edit.blobs_removed {
            if let Some(blob) = before.blobs().get(removed) {
                blob.mark_obsolete();
            }
        }
        self.rotate_if_large(&mut inner)?;
        Ok(number)
    }

    pub(crate) fn apply_locked(&self, inner: &mut Inner, edit: &VersionEdit) -> Result<u64> {
        if let Some(cause) = &inner.failed {
            return Err(cause.clone());
        }
        if self.files.frozen() {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "the log failed: no edit is made any more",
            ));
        }
        let mut state = inner.state.clone();
        state.apply(edit, &self.store)?;
        let Some(manifest) = &mut inner.manifest else {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "the database was opened read-only",
            ));
        };
        match manifest.append(edit) {
            Ok(number) => {
                inner.state = state;
                Ok(number)
            }
            Err(error) if error.kind() == ErrorKind::NoSpace && manifest.is_alive() => Err(error),
            Err(error) => Err(self.fail(inner, error)),
        }
    }

    /// Zeroes the manifest's next blocks, so that edits of `bytes` bytes in all do not meet a full
    /// disk.
    pub(crate) fn take_ahead(&self, bytes: u64) -> Result<()> {
        let mut inner = self.lock();
        let Some(manifest) = inner.manifest.as_mut().filter(|_| !self.files.frozen()) else {
            return Ok(());
        };
        match manifest.take_ahead(bytes) {
            Err(error) if error.kind() != ErrorKind::NoSpace || !manifest.is_alive() => {
                Err(self.fail(&mut inner, error))
            }
            result => result,
        }
    }

    /// Bytes of the log's segments that hold something, or will do next.
    pub(crate) fn log_in_use(&self) -> u64 {
        let inner = self.lock();
        let listed: u64 = inner.state.segments.values().map(|s| s.size).sum();
        let reusable: u64 = inner.reusable.iter().map(|(_, size)| size).sum();
        listed.saturating_sub(reusable)
    }

    fn fail(&self, inner: &mut Inner, error: Error) -> Error {
        self.files.freeze();
        let cause = error.wrap(ErrorKind::ReadOnly, "the manifest could not be written");
        inner.failed.get_or_insert(cause).clone()
    }

    /// No edit is made after a failed sync of the directory: names made by others may be lost with
    /// it, and a second sync would not say so.
    pub(crate) fn directory_failed(&self, error: Error) -> Error {
        self.files.freeze();
        let cause = error.wrap(ErrorKind::ReadOnly, "the directory could not be synced");
        self.lock().failed.get_or_insert(cause).clone()
    }

    /// Why no edit can be made, if so.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().failed.clone()
    }

    /// Writes the state into a new manifest once the old one has grown by mere history. An error is
    /// final; what only lacks room is left for later, because the edit before it is in force.
    fn rotate_if_large(&self, inner: &mut Inner) -> Result<()> {
        let Some(old) = inner.manifest.as_ref() else {
            return Ok(());
        };
        if old.size() < inner.rotate_at {
            return Ok(());
        }
        let old_number = old.number;
        let number = match self.allocate(inner) {
            Err(error) if error.kind() == ErrorKind::NoSpace => return Ok(()),
            number => number?,
        };
        let last_edit = inner.manifest.as_ref().map_or(0, |m| m.last_edit);
        let (fs, dir) = (&self.files.fs, self.files.dir.as_path());
        let edit = inner.state.as_edit();
        let staged = Manifest::create(fs, dir, number, self.database, last_edit + 1, &edit)
            .and_then(|manifest| manifest.stage(fs, dir).map(|()| manifest));
        let Ok(mut manifest) = staged else {
            // CURRENT still names the old one, which is whole: go on with it, and try again later.
            inner.rotate_at = inner.rotate_at.saturating_mul(2);
            let files = [FileKind::Manifest(number), FileKind::CurrentTemporary];
            return files
                .into_iter()
                .try_for_each(|file| self.files.remove(file))
                .or(Ok(()));
        };
        if let Err(error) = manifest.publish(fs, dir) {
            // Which manifest CURRENT names is not known: neither may be appended to.
            return Err(self.fail(inner, error));
        }
        inner.rotate_at = manifest.size().saturating_mul(4).max(self.least_rotated);
        inner.manifest = Some(manifest);
        // If this fails, the next open removes it: CURRENT does not name it.
        self.files.remove(FileKind::Manifest(old_number)).or(Ok(()))
    }
}
