//! The writing side of the log.
//!
//! A [`Log`] lives under the engine's append lock. It appends whole frames with one store each,
//! switches to the spare segment when the current one is full, and says which files must be synced
//! for what was appended to be durable; the syncs run outside of the lock.
//!
//! ```text
//!   sealed segments            current            spare
//!   [link ......... end)  ->  [link ...... end   [listed, salted, not in use]
//!                                          ^ end() = the position of the next frame
//! ```
//!
//! Invariants:
//!
//! - positions and sequence numbers rise from frame to frame; no place in a file is written twice
//!   under one salt; nothing is appended to a segment that recovery found
//! - what a frame promises to be durable was noted as synced before it was written
//! - each segment in use keeps room for a close frame
//! - after a store failed nothing is appended any more: what lies after a broken frame would be
//!   lost
//!
//! A log that continues after a clean end names in its first link the place where the close frame
//! *began*, so that the chain holds whether or not the close frame itself reached the disk before
//! the process died.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use terrace_base::vfs::{Fs, OpenMode};
use terrace_base::{Error, ErrorKind, FileKind, FileNumber, Result, SeqNo, mutant};

use crate::file::{LogFile, PwriteFile};
use crate::format::{
    self, CLOSE_LEN, Close, Fields, FrameKind, LINK_LEN, Link, Lsn, MARK_LEN, Use, frame_len,
};
use crate::segment::{SIZE_UNIT, SegmentMeta};

/// A larger buffer is given back after the frame that needed it.
const KEPT_BUFFER: usize = 4 << 20;

/// A segment that is written no more, with the positions that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The segment as the manifest lists it.
    pub meta: SegmentMeta,
    /// The position of its link.
    pub first: Lsn,
    /// The position behind its last frame.
    pub end: Lsn,
}

/// Where a log that was closed ended, for the first link of its next life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Names the segment.
    pub number: FileNumber,
    /// The salt of its use.
    pub salt: u64,
    /// Offset of the close frame in it.
    pub end: u64,
    /// Position of the close frame: everything below it is durable.
    pub lsn: Lsn,
    /// The manifest's last edit as the close frame names it.
    pub manifest_edit: u64,
}

/// Where a log begins to write.
#[derive(Clone, Debug)]
pub struct Start {
    /// The position of its first frame: [`Recovered::highest_seen`](crate::Recovered::highest_seen)
    /// or above. Without a predecessor the manifest must name just this as the flushed position by
    /// the time the first frame is synced, because the log does not reach below it.
    pub next: Lsn,
    /// The last sequence number in use or skipped: frames must have higher ones.
    pub last_seq: SeqNo,
    /// Where the log before this one was closed, if it stays.
    pub predecessor: Option<Predecessor>,
    /// Segments from recovery that the manifest still lists, oldest first.
    pub sealed: Vec<Sealed>,
}

/// Whether a frame can be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// In the current segment, or in the spare after a switch.
    Fits,
    /// Only after [`Log::put_spare`] with a segment of at least this size.
    NeedsSegment {
        /// In bytes, a multiple of 4096.
        min_size: u64,
    },
}

/// What must be synced so that everything appended up to `upto` is durable.
#[derive(Clone, Debug)]
pub struct SyncPoint {
    /// The files, the oldest first.
    pub files: Vec<Arc<dyn LogFile>>,
    /// Everything below this position is then durable.
    pub upto: Lsn,
}

impl SyncPoint {
    /// Syncs the files in order. After an error the log must not be used any more: see
    /// [`Log::fail`].
    pub fn run(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| match file.sync() {
            Err(_) if mutant("retry-failed-sync") => file.sync(),
            result => result,
        })
    }
}

#[derive(Debug)]
struct Spare {
    meta: SegmentMeta,
    manifest_edit: u64,
    file: Arc<dyn LogFile>,
}

#[derive(Debug)]
struct Current {
    meta: SegmentMeta,
    file: Arc<dyn LogFile>,
    first: Lsn,
    offset: u64,
}

/// The writing side of the log.
#[derive(Debug)]
pub struct Log {
    fs: Fs,
    dir: PathBuf,
    predecessor: Option<Predecessor>,
    sealed: VecDeque<Sealed>,
    /// Files of sealed segments that are not known to be durable, with their ends.
    unsynced: VecDeque<(Lsn, Arc<dyn LogFile>)>,
    current: Option<Current>,
    spares: Vec<Spare>,
    next: Lsn,
    /// The position of this log's first frame.
    begin: Lsn,
    /// Everything below this was durable when this log began. The close frame of a process that was
    /// killed lies between the two, and may never have reached the disk.
    below: Lsn,
    last_seq: SeqNo,
    synced: Lsn,
    /// What was synced when the last frame was written.
    promised: Lsn,
    buffer: Vec<u8>,
    failed: Option<Error>,
}

impl Log {
    /// A log that will write from `start` on. No segment is in use yet.
    pub fn new(fs: Fs, dir: PathBuf, start: Start) -> Log {
        let below = start.predecessor.as_ref().map_or(start.next, |p| p.lsn);
        let next = start.next.max(below);
        Log {
            fs,
            dir,
            next,
            begin: next,
            below,
            predecessor: start.predecessor,
            sealed: start.sealed.into(),
            unsynced: VecDeque::new(),
            current: None,
            spares: Vec::new(),
            last_seq: start.last_seq,
            synced: next,
            promised: next,
            buffer: Vec::new(),
            failed: None,
        }
    }

    /// Hands in a segment that the synced manifest lists under a fresh salt; `manifest_edit` is the
    /// number of the manifest's last edit by then, for the link.
    ///
    /// One spare is kept, and a second only if it is larger, for a frame that the first cannot
    /// hold. After a clean reopening a spare must have been listed anew: a close frame that names
    /// the last edit is how recovery knows, without reading the spares, that nothing was written
    /// behind it.
    pub fn put_spare(&mut self, spare: SegmentMeta, manifest_edit: u64) -> Result<()> {
        self.check()?;
        if self
            .spares
            .iter()
            .any(|other| other.meta.size >= spare.size)
        {
            return Err(Error::invalid("the log has a spare segment already"));
        }
        let stale = |p: &Predecessor| manifest_edit <= p.manifest_edit;
        if self.current.is_none() && self.predecessor.as_ref().is_some_and(stale) {
            return Err(Error::invalid(format!(
                "segment {} was listed before the log was closed: it needs a fresh salt",
                spare.number
            )));
        }
        let path = FileKind::Segment(spare.number).path(&self.dir);
        let file = self.fs.open(&path, OpenMode::ReadWrite)?;
        let len = file.len()?;
        if len != spare.size {
            let text = format!("a segment of {} bytes has {len}", spare.size);
            return Err(Error::corruption(text).in_file(&path, len.min(spare.size)));
        }
        self.spares.push(Spare {
            meta: spare,
            manifest_edit,
            file: Arc::new(PwriteFile::new(file)),
        });
        Ok(())
    }

    /// True while a segment waits to be used.
    pub fn has_spare(&self) -> bool {
        !self.spares.is_empty()
    }

    /// Whether a frame with a payload of `payload_len` bytes can be appended now.
    pub fn room_for(&self, payload_len: usize) -> Room {
        let wanted = frame_len(payload_len).saturating_add(CLOSE_LEN);
        if self.free() >= wanted || self.fitting_spare(wanted).is_some() {
            return Room::Fits;
        }
        let min_size = wanted.saturating_add(LINK_LEN + SIZE_UNIT - 1) / SIZE_UNIT * SIZE_UNIT;
        Room::NeedsSegment { min_size }
    }

    fn free(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| {
            current.meta.size.saturating_sub(current.offset)
        })
    }

    /// The smallest spare that holds `wanted` bytes after its link. Spares are kept in order of
    /// size.
    fn fitting_spare(&self, wanted: u64) -> Option<usize> {
        let wanted = wanted.saturating_add(LINK_LEN);
        self.spares
            .iter()
            .position(|spare| spare.meta.size >= wanted)
    }

    /// Appends one frame that takes `count` sequence numbers from `first_seq` on; the parts of the
    /// payload are laid end to end. Needs [`Room::Fits`]. Returns the position after the frame.
    ///
    /// After an error the log is dead, and every later call gives the same error.
    pub fn append(&mut self, count: u32, first_seq: SeqNo, payload: &[&[u8]]) -> Result<Lsn> {
        self.check()?;
        let result = self.try_append(count, first_seq, payload);
        self.noting_failure(result)
    }

    fn try_append(&mut self, count: u32, first_seq: SeqNo, payload: &[&[u8]]) -> Result<Lsn> {
        let last = last_of(first_seq, count)
            .filter(|_| first_seq > self.last_seq && count > 0)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "{count} sequence numbers from {first_seq} on, after {}",
                    self.last_seq
                ))
            })?;
        let len = payload.iter().map(|part| part.len()).sum();
        let wanted = frame_len(len).saturating_add(CLOSE_LEN);
        if self.free() < wanted {
            let index = self
                .fitting_spare(wanted)
                .ok_or_else(|| Error::invalid("the log has no room for the frame"))?;
            self.switch_to(index)?;
        }
        let fields = self.fields(FrameKind::Data, count, first_seq);
        self.store(fields, payload)?;
        self.last_seq = last;
        Ok(self.next)
    }

    /// What a frame can say to be durable.
    fn promise(&self) -> Lsn {
        if mutant("promise-unsynced") {
            return self.next;
        }
        match self.synced <= self.begin {
            true => self.below,
            false => self.synced,
        }
    }

    fn fields(&self, kind: FrameKind, count: u32, first_seq: SeqNo) -> Fields {
        Fields {
            kind,
            count,
            first_seq,
            synced: self.promise().0,
        }
    }

    /// Writes a frame at the end of the current segment.
    fn store(&mut self, fields: Fields, payload: &[&[u8]]) -> Result<()> {
        let Some(current) = &mut self.current else {
            return Err(Error::invalid("the log has no segment"));
        };
        let salt = current.meta.salt;
        format::encode(&mut self.buffer, fields, payload, salt, current.offset)?;
        current.file.store(current.offset, &self.buffer)?;
        current.offset += self.buffer.len() as u64;
        self.next = Lsn(current.first.0 + current.offset);
        self.promised = self.synced;
        if self.buffer.capacity() > KEPT_BUFFER {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Seals the current segment and begins the spare with a link.
    fn switch_to(&mut self, index: usize) -> Result<()> {
        let spare = self.spares.remove(index);
        let old = self.current.take();
        let (predecessor, from) = match (&old, &self.predecessor) {
            (Some(old), _) => (
                Some((old.meta.number, old.meta.salt, old.offset)),
                self.next,
            ),
            (None, Some(p)) => (Some((p.number, p.salt, p.end)), p.lsn),
            (None, None) => (None, self.next),
        };
        let link = Link {
            salt: spare.meta.salt,
            predecessor: predecessor.map(|(number, salt, end)| Use { number, salt, end }),
            from,
            first: self.next,
            last_seq: self.last_seq,
            manifest_edit: spare.manifest_edit,
        };
        if let Some(old) = old {
            self.unsynced.push_back((self.next, old.file));
            self.sealed.push_back(Sealed {
                meta: old.meta,
                first: old.first,
                end: self.next,
            });
        }
        self.current = Some(Current {
            meta: spare.meta,
            file: spare.file,
            first: self.next,
            offset: 0,
        });
        self.store(
            self.fields(FrameKind::Link, 0, self.last_seq),
            &[&link.encode()],
        )
    }

    /// The position of the next frame.
    pub fn end(&self) -> Lsn {
        self.next
    }

    /// Everything below is durable.
    pub fn synced(&self) -> Lsn {
        self.synced
    }

    /// What must be synced so that everything appended so far is durable. Taken under the lock, run
    /// outside of it, reported back with [`Log::note_synced`].
    pub fn sync_point(&mut self) -> SyncPoint {
        let older = self.unsynced.iter().filter(|_| !mutant("sync-newest-only"));
        let mut files: Vec<_> = older.map(|(_, f)| Arc::clone(f)).collect();
        if let Some(current) = self.current.as_ref().filter(|_| self.next > self.synced) {
            files.push(Arc::clone(&current.file));
        }
        SyncPoint {
            files,
            upto: self.next,
        }
    }

    /// A sync point up to `upto` was run without error: later frames carry it as their promise.
    pub fn note_synced(&mut self, upto: Lsn) {
        self.synced = self.synced.max(upto.min(self.next));
        while self
            .unsynced
            .front()
            .is_some_and(|(end, _)| *end <= self.synced)
        {
            self.unsynced.pop_front();
        }
    }

    /// Repeats the promise in a frame of its own, if more is durable than the last frame says, and
    /// if there is room in the current segment.
    pub fn mark(&mut self) -> Result<()> {
        self.check()?;
        if self.synced <= self.promised || self.free() < MARK_LEN + CLOSE_LEN {
            return Ok(());
        }
        let fields = self.fields(FrameKind::Mark, 0, self.last_seq);
        let result = self.store(fields, &[]);
        self.noting_failure(result)
    }

    /// Syncs what is not durable yet, then ends the log with a close frame and syncs that. Nothing
    /// can be appended any more.
    ///
    /// A log that never used a segment writes nothing if it follows a closed one, whose end still
    /// stands, or if it has no spare: then the answer is false.
    pub fn close(&mut self, last_seq: SeqNo, manifest_edit: u64) -> Result<bool> {
        self.check()?;
        let result = self.try_close(last_seq, manifest_edit);
        let written = self.noting_failure(result)?;
        self.failed = Some(Error::new(ErrorKind::Closed, "the log was closed"));
        Ok(written)
    }

    fn try_close(&mut self, last_seq: SeqNo, manifest_edit: u64) -> Result<bool> {
        if self.current.is_none() {
            if self.predecessor.is_some() || self.spares.is_empty() {
                return Ok(false);
            }
            self.switch_to(0)?;
        }
        let point = self.sync_point();
        if mutant("close-without-sync") {
            return Ok(true);
        }
        point.run()?;
        self.note_synced(point.upto);
        let last_seq = last_seq.max(self.last_seq);
        let payload = Close {
            last_seq,
            manifest_edit,
        }
        .encode();
        self.store(self.fields(FrameKind::Close, 0, last_seq), &[&payload])?;
        let point = self.sync_point();
        point.run()?;
        self.note_synced(point.upto);
        Ok(true)
    }

    /// The segments that lie wholly below `flushed` and are not in use: forgotten here, to be
    /// reused under a fresh salt or deleted once the manifest says so.
    pub fn release(&mut self, flushed: Lsn) -> Vec<SegmentMeta> {
        let mut released = Vec::new();
        while self
            .sealed
            .front()
            .is_some_and(|sealed| sealed.end <= flushed || mutant("release-log-early"))
        {
            released.extend(self.sealed.pop_front().map(|sealed| sealed.meta));
        }
        // Its frames stand in tables: no sync of the log needs them any more.
        while self
            .unsynced
            .front()
            .is_some_and(|(end, _)| *end <= flushed)
        {
            self.unsynced.pop_front();
        }
        released
    }

    /// All segments that the manifest must list, the oldest first.
    pub fn segments(&self) -> Vec<SegmentMeta> {
        let sealed = self.sealed.iter().map(|sealed| &sealed.meta);
        let current = self.current.iter().map(|current| &current.meta);
        let spares = self.spares.iter().map(|spare| &spare.meta);
        sealed.chain(current).chain(spares).cloned().collect()
    }

    /// Bytes of the segments that hold parts of the log and will not be written to again: what
    /// [`Log::release`] of everything would give. 0 before the first frame, when the log is still
    /// as it was found.
    pub fn freeable(&self) -> u64 {
        match self.current {
            Some(_) => self.sealed.iter().map(|sealed| sealed.meta.size).sum(),
            None => 0,
        }
    }

    /// Size of the segment in use; 0 before the first frame.
    pub fn current_size(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.meta.size)
    }

    /// Ends the log because of `cause`, for example a sync that failed: every later call gives it.
    pub fn fail(&mut self, cause: Error) {
        self.failed.get_or_insert(cause);
    }

    fn check(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn noting_failure<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && !mutant("go-on-after-append")
        {
            self.fail(error.clone());
        }
        result
    }
}

/// The last of `count` sequence numbers from `first` on, if there are that many.
pub(crate) fn last_of(first: SeqNo, count: u32) -> Option<SeqNo> {
    let last = first.get() + u64::from(count.max(1) - 1);
    (last <= SeqNo::MAX.get()).then(|| SeqNo::new(last))
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
