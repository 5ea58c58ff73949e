//! Segments of the log as files: made ahead of need, listed, used again, and dropped.
//!
//! A segment that a flush has released keeps its file for another use under a new salt, so that its
//! blocks need not be taken from the disk again. A link to it keeps its bytes: then a
//! new file is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace_base::{Error, ErrorKind, FileKind, FileNumber, Result, mutant};
use terrace_compaction::{SegmentRecord, VersionEdit};
use terrace_wal::{SegmentMeta, create_segment};

use crate::background::signals::{Background, Task};
use crate::commit::committer::CommitEnv;
use crate::engine::space::Space;
use crate::options::Options;
use crate::storage::blob_files::Blobs;
use crate::storage::files::Files;
use crate::storage::version_set::VersionSet;

/// Released segments kept for another use: as much log as may lie above the tables, and one. More
/// are deleted, and all of them once the database is idle.
pub(crate) fn most_reusable(options: &Options) -> usize {
    1 + usize::try_from(options.log_bytes() / options.largest_segment()).unwrap_or(0)
}

/// What the commit path sees of the engine.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) files: Arc<Files>,
    pub(crate) versions: Arc<VersionSet>,
    pub(crate) background: Arc<Background>,
    pub(crate) space: Arc<Space>,
    pub(crate) blobs: Arc<Blobs>,
    /// Sizes of segments: the next, and the largest.
    pub(crate) next_segment: AtomicU64,
    pub(crate) largest_segment: u64,
}

impl CommitEnv for Env {
    fn make_segment(&self, min_size: u64, ahead: bool) -> Result<(SegmentMeta, u64)> {
        let wanted = self.next_segment.load(Ordering::Relaxed);
        let least = min_size.next_multiple_of(4096);
        let found = self.find_segment(wanted.max(least), least, ahead);
        let record = self.space.note(found)?;
        let edit = VersionEdit {
            segments_added: vec![record],
            ..VersionEdit::default()
        };
        let SegmentRecord { number, salt, size } = record;
        let segment = SegmentMeta { number, salt, size };
        let listed = self
            .space
            .note(self.versions.log_and_apply(&edit, |_, _| {}));
        let edit_number = listed.inspect_err(|_| self.unlisted(&segment))?;
        self.next_segment
            .store((wanted * 2).min(self.largest_segment), Ordering::Relaxed);
        Ok((segment, edit_number))
    }

    fn return_segment(&self, segment: &SegmentMeta) {
        let reusable = (segment.number, segment.size);
        self.versions.lock().reusable.push_back(reusable);
    }

    fn sync_blobs(&self) -> Result<()> {
        self.blobs.sync()
    }

    fn list_sealed(&self) {
        self.background.wake(Task::Flush);
    }

    fn spare_used(&self) {
        self.background.wake(Task::Space);
        self.background.wake(Task::Flush); // The log may be too long, without a list that is full.
    }

    fn sync_due(&self) {
        self.background.wake(Task::Log);
    }

    fn failed(&self, cause: &Error) {
        // The version set's lock comes before the commit state's, which the caller holds: freezing
        // the files is what keeps it from making edits.
        self.files.freeze();
        self.background.fail(cause);
    }
}

impl Env {
    /// A file for the next segment: used before, or new. On a full disk one that was used before
    /// may be smaller than `size`, and a new one is made only `ahead` of need, once the rest of
    /// what is to be taken ahead has been.
    fn find_segment(&self, size: u64, least: u64, ahead: bool) -> Result<SegmentRecord> {
        let mut full = self.space.full();
        if ahead || full.is_none() {
            full = match self.space.note(self.space.take_ahead(size)) {
                Err(error) if error.kind() == ErrorKind::NoSpace => Some(error),
                taken => taken.map(|()| None)?,
            };
        }
        let smallest = if full.is_some() { least } else { size };
        match (self.reuse_segment(smallest)?, full) {
            (Some(record), _) => Ok(record),
            (None, Some(cause)) => Err(cause),
            (None, None) => self.create_segment(size),
        }
    }

    /// The edit that was to list `segment` could not be made: a new file goes, one that was used
    /// before waits for another use.
    fn unlisted(&self, segment: &SegmentMeta) {
        if self
            .versions
            .lock()
            .state
            .segments
            .contains_key(&segment.number)
        {
            self.return_segment(segment);
        } else if !self.files.frozen() {
            // What cannot be removed now, the next open removes.
            self.files.remove(FileKind::Segment(segment.number)).ok();
        }
    }

    fn reuse_segment(&self, size: u64) -> Result<Option<SegmentRecord>> {
        while let Some((number, size)) = self.take_reusable(size) {
            let path = FileKind::Segment(number).path(&self.files.dir);
            let salt = self.files.fs.random();
            match self.files.fs.metadata(&path)? {
                Some(found) if found.links == 1 && found.len == size => {
                    return Ok(Some(SegmentRecord { number, salt, size }));
                }
                _ if mutant("keep-linked-segment") => return Ok(None),
                // Another name refers to it: its bytes must stay, and this name goes.
                _ => drop_segments(&self.files, &self.versions, vec![(number, size)])?,
            }
        }
        Ok(None)
    }

    /// The smallest reusable segment of at least `size` bytes.
    fn take_reusable(&self, size: u64) -> Option<(FileNumber, u64)> {
        let reusable = &mut self.versions.lock().reusable;
        let fitting = reusable.iter().enumerate().filter(|(_, seg)| seg.1 >= size);
        let (at, _) = fitting.min_by_key(|(_, segment)| segment.1)?;
        reusable.remove(at)
    }

    fn create_segment(&self, size: u64) -> Result<SegmentRecord> {
        let number = self.versions.new_file_number()?;
        let Files { fs, dir, .. } = &*self.files;
        if let Err(error) = create_segment(fs, dir, number, size) {
            // Not listed yet; what cannot be removed now, the next open removes.
            self.files.remove(FileKind::Segment(number)).ok();
            return Err(error);
        }
        if !mutant("skip-segment-dir-sync") {
            fs.sync_dir(dir)
                .map_err(|error| self.versions.directory_failed(error))?;
        }
        Ok(SegmentRecord {
            number,
            salt: fs.random(),
            size,
        })
    }
}

/// Takes segments out of the list, and removes their names. If that cannot be listed they wait for
/// another use.
pub(crate) fn drop_segments(
    files: &Files,
    versions: &VersionSet,
    surplus: Vec<(FileNumber, u64)>,
) -> Result<()> {
    if surplus.is_empty() {
        return Ok(());
    }
    let edit = VersionEdit {
        segments_removed: surplus.iter().map(|(number, _)| *number).collect(),
        ..VersionEdit::default()
    };
    if let Err(error) = versions.log_and_apply(&edit, |_, _| {}) {
        versions.lock().reusable.extend(surplus);
        return Err(error);
    }
    let mut numbers = edit.segments_removed.into_iter();
    numbers.try_for_each(|number| files.remove(FileKind::Segment(number)))
}
