//! Large values: stored once, in blob files, while log and tables hold references.
//!
//! A value of at least its keyspace's threshold is appended to the active blob file *before* the
//! commit lock is taken, by as many threads at once as there are; what is then committed is an
//! entry with the reference (`terrace_sstable::BlobRef`). All that is asked of commit path and
//! recovery follows from this order:
//!
//! - A sync of the log is preceded by one of every blob file written to since the last
//!   (`Blobs::sync`), and so is the edit of a flush. So what the log promises, and what tables
//!   refer to, is on disk.
//! - A frame above the last promise may refer to what is not. Recovery reads such values: the log
//!   ends in front of the first frame with one that does not verify. Those that verify are copied
//!   into a new file, because what can be read need not be on disk ([`recover`]).
//!
//! A blob file is listed in the manifest before it is written to, under a number never used before.
//! The [`Version`](terrace_compaction::Version) holds the files, so that a reader that pins a view
//! can read whatever the view's entries refer to: the active list is replaced when a new blob file
//! comes into use, so that no list holds a reference to a file that its oldest view does not know.
//!
//! ```text
//! file 7  [header | record | record | gave up | record ]     full: nobody writes to it any more
//! file 9  [header | record |                                 active
//! table   a -> 7, b -> 7, c = small, d -> 9                  its properties: 7: 120 KB, 9: 40 KB
//! ```
//!
//! Tables know how many bytes they refer to in which file; the rest of a file is dead, once the
//! memtable refers to nothing in it. [`collect`] gives that back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use terrace_base::vfs::{File, OpenMode};
use terrace_base::{Error, FileKind, FileNumber, Result, SeqNo, mutant};
use terrace_compaction::{BlobFile, BlobMeta};
use terrace_sstable::{BLOB_HEADER_LEN, BlobRef, blob_header};

use crate::storage::files::Files;
use crate::sync::{Mutex, MutexGuard, Rank, lock};

/// How many full files may be unsynced, and so open, before they are synced for that alone.
const UNSYNCED: usize = 16;
/// A file is full at no less than this, unless the options say so.
const SMALLEST_FULL: u64 = 16 << 20;

/// A blob file that the commit path writes to, or has.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) meta: BlobMeta,
    /// Closed once it is full, synced, and without a writer.
    pub(crate) file: Mutex<Option<File>>,
    pub(crate) listed: Arc<BlobFile>,
    /// Has been written to since it was last synced.
    pub(crate) dirty: AtomicBool,
    /// Who writes a value to it, or commits the reference to one.
    pub(crate) writers: AtomicU64,
}

impl Open {
    pub(crate) fn file(&self) -> Result<File> {
        let file = lock(&self.file).clone();
        file.ok_or_else(|| Error::bug("a write to a blob file that was closed because it is full"))
    }
}

#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) file: Arc<Open>,
    pub(crate) end: u64,
}

/// A file that the commit path has made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) file: Arc<Open>,
    /// No entry above refers to it; known once it has no writer.
    pub(crate) last_seq: Option<SeqNo>,
}

/// The blob files of an open database, as far as they are written.
#[derive(Debug)]
pub(crate) struct Blobs {
    files: Arc<Files>,
    /// A file is full at this size at most.
    most: u64,
    /// Bytes that tables refer to, when it was looked at last.
    live: AtomicU64,
    pub(crate) active: Mutex<Option<Active>>,
    /// Held while a file is made, so that one is made and not one a writer.
    pub(crate) making: Mutex<()>,
    /// Those that are dirty.
    unsynced: Mutex<Vec<Arc<Open>>>,
    is_dirty: AtomicBool,
    /// Held during a sync. After one has failed nothing counts as synced any more.
    syncing: Mutex<Option<Error>>,
    pub(crate) made: Mutex<Vec<Made>>,
    /// No entry of the log that was found at the open is above.
    pub(crate) found_upto: SeqNo,
    /// Bytes stored since the last flush.
    pub(crate) unflushed: AtomicU64,
    /// Files whose live values merges copy into new ones.
    pub(crate) victims: Mutex<Arc<BTreeSet<FileNumber>>>,
    /// Files with a value that cannot be read, and why.
    pub(crate) damaged: Mutex<Vec<(FileNumber, Error)>>,
}

/// A value that was stored, and whose reference is not committed yet: its file stays until this is
/// dropped.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) at: BlobRef,
    pub(crate) file: Arc<Open>,
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.file.writers.fetch_sub(1, Ordering::Release);
    }
}

impl Blobs {
    pub(crate) fn new(files: Arc<Files>, most: u64, live: u64, found_upto: SeqNo) -> Blobs {
        Blobs {
            files,
            most,
            live: AtomicU64::new(live),
            active: Mutex::new(Rank::ActiveBlob, None),
            making: Mutex::new(Rank::MakingBlob, ()),
            unsynced: Mutex::new(Rank::Leaf, Vec::new()),
            is_dirty: AtomicBool::new(false),
            syncing: Mutex::new(Rank::SyncingBlobs, None),
            made: Mutex::new(Rank::MadeBlobs, Vec::new()),
            found_upto,
            unflushed: AtomicU64::new(0),
            victims: Mutex::new(Rank::Leaf, Arc::default()),
            damaged: Mutex::new(Rank::DamagedBlobs, Vec::new()),
        }
    }

    /// A file is full at this size: a quarter of what is alive, within limits. Space comes back by
    /// whole files.
    pub(crate) fn target(&self) -> u64 {
        let live = self.live.load(Ordering::Relaxed);
        (live / 4).clamp(SMALLEST_FULL.min(self.most), self.most)
    }

    /// Makes durable whatever references that are committed by now refer to.
    pub(crate) fn sync(&self) -> Result<()> {
        if !self.is_dirty.load(Ordering::Acquire) || mutant("skip-blob-sync") {
            return Ok(());
        }
        let mut failed = lock(&self.syncing);
        if let Some(cause) = &*failed {
            return Err(cause.clone());
        }
        let files = std::mem::take(&mut *lock(&self.unsynced));
        for open in files {
            let file = open.file(); // Before it looks as if it could be closed.
            open.dirty.store(false, Ordering::Release);
            if let Err(error) = file.and_then(|file| file.sync()) {
                // Still dirty, so that everybody meets the failure.
                return Err(failed.insert(error).clone());
            }
        }
        // Only now: who finds nothing dirty relies on it, and does not wait for a sync in flight.
        let unsynced = lock(&self.unsynced);
        self.is_dirty.store(!unsynced.is_empty(), Ordering::Release);
        Ok(())
    }

    pub(crate) fn note_live(&self, bytes: u64) {
        self.live.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn note_written(&self, open: &Arc<Open>) {
        // Under the lock: nobody who finds it dirty already goes on before it is in the list.
        let mut unsynced = lock(&self.unsynced);
        if !open.dirty.swap(true, Ordering::AcqRel) {
            unsynced.push(open.clone());
            self.is_dirty.store(true, Ordering::Release);
        }
    }

    /// A place of `len` bytes in the active file, if it has one.
    pub(crate) fn reserve(&self, len: u64) -> Option<(Arc<Open>, u64)> {
        let mut active = lock(&self.active);
        let active = active.as_mut()?;
        let end = active.end.checked_add(len)?;
        if end > self.target() && active.end > BLOB_HEADER_LEN {
            return None;
        }
        let offset = std::mem::replace(&mut active.end, end);
        active.file.writers.fetch_add(1, Ordering::Acquire);
        active.file.listed.grown_to(end);
        Some((active.file.clone(), offset))
    }

    /// Closes the files that are not written to again, and syncs them first where they are many:
    /// a file that is not synced must stay open, or an error of writing it back may go unnoticed.
    pub(crate) fn close_full(&self) {
        if lock(&self.unsynced).len() > UNSYNCED && self.sync().is_err() {
            return; // The next sync of the log says so.
        }
        let active = lock(&self.active).as_ref().map(|a| a.file.meta.number);
        for made in lock(&self.made).iter() {
            let open = &made.file;
            let done = Some(open.meta.number) != active
                && open.writers.load(Ordering::Acquire) == 0
                && !open.dirty.load(Ordering::Acquire);
            if done {
                *lock(&open.file) = None;
            }
        }
    }

    /// Keeps new writers from the blob file `number`.
    pub(crate) fn retire(&self, number: FileNumber) {
        let mut active = lock(&self.active);
        if active
            .as_ref()
            .is_some_and(|active| active.file.meta.number == number)
        {
            *active = None;
        }
    }

    /// While the guard lives no file comes into use.
    pub(crate) fn hold(&self) -> MutexGuard<'_, ()> {
        lock(&self.making)
    }

    pub(crate) fn create(&self, number: FileNumber, id: u64) -> Result<File> {
        let path = FileKind::Blob(number).path(&self.files.dir);
        let file = self.files.fs.open(&path, OpenMode::CreateNew)?;
        file.write_all_at(&blob_header(id), 0)?;
        file.sync()?;
        Ok(file)
    }
}
