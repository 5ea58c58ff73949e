//! Segments of the log as files: made ahead of need, listed, used again, and dropped.
//!
//! A segment that a flush has released keeps its file for another use under a new salt, so that its blocks need not be
//! taken from the disk again. Whoever has linked to it keeps its bytes: then a new file is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace_base::{Error, ErrorKind, FileKind, FileNumber, Result, mutant};
use terrace_compaction::{SegmentRecord, VersionEdit};
use terrace_wal::{Lsn, SegmentMeta, create_segment};

use crate::background::{Background, Task};
use crate::blob::Blobs;
use crate::commit::CommitEnv;
use crate::engine::Engine;
use crate::files::Files;
use crate::options::Options;
use crate::space::Space;
use crate::version_set::VersionSet;

/// Released segments kept for another use: as much log as a memtable needs, and one. More are deleted, and all
/// of them once the database is idle.
fn most_reusable(options: &Options) -> usize {
    1 + usize::try_from(options.memtable_bytes() / options.largest_segment()).unwrap_or(0)
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
    }

    fn sync_due(&self) {
        self.background.wake(Task::Log);
    }

    fn failed(&self, cause: &Error) {
        // The version set's lock comes before the commit state's, which the caller holds: freezing the files
        // is what keeps it from making edits.
        self.files.freeze();
        self.background.fail(cause);
    }
}

impl Env {
    /// A file for the next segment: used before, or new. On a full disk one that was used before may be smaller than
    /// `size`, and a new one is made only `ahead` of need, once the rest of what is to be taken ahead has been.
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

    /// The edit that was to list `segment` could not be made: a new file goes, one that was used before waits for
    /// another use.
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
        let mut versions = self.versions.lock();
        let Some(at) = versions.reusable.iter().position(|&(_, have)| have >= size) else {
            return Ok(None);
        };
        let Some((number, size)) = versions.reusable.remove(at) else {
            return Ok(None);
        };
        let path = FileKind::Segment(number).path(&self.files.dir);
        let salt = self.files.fs.random();
        match self.files.fs.metadata(&path)? {
            Some(found) if found.links == 1 && found.len == size => {
                Ok(Some(SegmentRecord { number, salt, size }))
            }
            _ => Ok(None), // Somebody links to it: its bytes must stay.
        }
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

impl Engine {
    /// After a flush: segments below `flushed` become reusable, and more of them than wanted are deleted.
    pub(crate) fn release_log(&self, flushed: Lsn) -> Result<()> {
        let released = self.committer.with_log(|log| log.release(flushed));
        let reusable = released
            .iter()
            .map(|segment| (segment.number, segment.size));
        self.versions.lock().reusable.extend(reusable);
        self.trim_log(most_reusable(&self.options))
    }

    /// Deletes reusable segments down to `kept` of them, the smallest first: segments grow until they have
    /// their final size.
    pub(crate) fn trim_log(&self, kept: usize) -> Result<()> {
        let surplus: Vec<(FileNumber, u64)> = {
            let mut versions = self.versions.lock();
            let count = versions.reusable.len().saturating_sub(kept);
            if count > 0 {
                versions
                    .reusable
                    .make_contiguous()
                    .sort_by_key(|(_, size)| *size);
            }
            versions.reusable.drain(..count).collect()
        };
        self.drop_segments(surplus)
    }

    fn drop_segments(&self, surplus: Vec<(FileNumber, u64)>) -> Result<()> {
        if surplus.is_empty() {
            return Ok(());
        }
        let edit = VersionEdit {
            segments_removed: surplus.iter().map(|(number, _)| *number).collect(),
            ..VersionEdit::default()
        };
        if let Err(error) = self.heed(self.versions.log_and_apply(&edit, |_, _| {})) {
            self.versions.lock().reusable.extend(surplus);
            return Err(error);
        }
        for number in edit.segments_removed {
            self.files.remove(FileKind::Segment(number))?;
        }
        Ok(())
    }
}
