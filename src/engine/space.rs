//! A full disk: writes are refused before they start, and resume once there is room.
//!
//! Nothing that has begun may meet a full disk: a frame that was half written ends the log. So
//! space is taken *ahead*, as zeroes that are written over later: log segments before they are
//! used, the manifest's next blocks before edits need them. Tables cannot be made ahead, so there
//! is a *reserve*, a file of zeroes with the size of what a flush may have to write: as much as the
//! log holds, at most one memtable and the list by which it is exceeded. It is made before the log
//! takes another segment, and only then; an idle or closed database has none.
//!
//! ```text
//!           a segment, block, table or the reserve cannot be made
//!   room  ───────────────────────────────────────────────────────>  full
//!         <───────────────────────────────────────────────────────
//!           no flush or merge lacks space; manifest, reserve and spare segment are taken again
//! ```
//!
//! While the disk is *full*, writes give `NoSpace` before they take a sequence number, and
//! `Db::health` gives the same error, with its cause. Deletes go on in the segments that are there;
//! when the last is used, what is in memory is flushed, which frees others. A flush that meets the
//! full disk removes the reserve and begins again; what is left goes to the merge that meets it
//! next. The log's thread tries to end this state, at first after 50 ms and every 5 s at most.
//! ENOSPC, EDQUOT and EFBIG are one to it: see `Error::io`.
//!
//! The write path pays nothing for this: a full disk is a price of the
//! [pacer](crate::background::pacer).
//!
//! What this cannot do: where writing over a block needs space (copy-on-write, thin volumes),
//! taking it ahead helps little, and a frame that fails for want of it ends all writes like any
//! failed frame. Another process may take what the reserve gave up.

use std::sync::Arc;

use terrace_base::vfs::OpenMode;
use terrace_base::{Error, ErrorKind, FileKind, Result, mutant};

use crate::background::signals::{Background, Task};
use crate::commit::committer::closed;
use crate::read::view::Views;
use crate::storage::files::Files;
use crate::storage::version_set::VersionSet;
use crate::sync::{Mutex, Rank, lock};

/// Bytes of edits that find their space zeroed: dozens, as long as keys are not huge.
const EDITS_AHEAD: u64 = 32 << 10;
/// Bytes of one write to the reserve.
const ZERO_LEN: usize = 64 << 10;

#[derive(Debug, Default)]
struct State {
    /// Bytes of the reserve.
    held: u64,
    /// Jobs that met the full disk and are at work in the space of the reserve: nothing is taken
    /// ahead meanwhile.
    borrowers: usize,
    /// Why writes are refused, while they are.
    full: Option<Error>,
}

/// What is known of the space on disk.
#[derive(Debug)]
pub(crate) struct Space {
    files: Arc<Files>,
    versions: Arc<VersionSet>,
    views: Arc<Views>,
    background: Arc<Background>,
    /// Most bytes of the reserve.
    most: u64,
    state: Mutex<State>,
}

impl Space {
    pub(crate) fn new(
        files: Arc<Files>,
        versions: Arc<VersionSet>,
        views: Arc<Views>,
        background: Arc<Background>,
        most: u64,
    ) -> Space {
        Space {
            files,
            versions,
            views,
            background,
            most,
            state: Mutex::new(Rank::Space, State::default()),
        }
    }

    /// Why writes are refused, while they are.
    pub(crate) fn full(&self) -> Option<Error> {
        lock(&self.state).full.clone()
    }

    /// Takes the space that must be there before the log grows by `adding` bytes.
    pub(crate) fn take_ahead(&self, adding: u64) -> Result<()> {
        self.versions.take_ahead(EDITS_AHEAD)?;
        let wanted = self.versions.log_in_use().saturating_add(adding);
        self.fill(wanted.min(self.most))
    }

    /// Makes the reserve at least `wanted` bytes large. What has been taken stays taken after an
    /// error for want of more.
    fn fill(&self, wanted: u64) -> Result<()> {
        let mut state = lock(&self.state);
        if state.held >= wanted || self.files.frozen() {
            return Ok(());
        }
        let path = FileKind::Reserve.path(&self.files.dir);
        let mode = match state.held {
            0 => OpenMode::CreateOrTruncate,
            _ => OpenMode::ReadWrite,
        };
        let file = self.files.fs.open(&path, mode)?;
        let zeroes = vec![0; ZERO_LEN];
        while state.held < wanted {
            if self.background.lock().stop {
                return Err(closed()); // No flush will need it: closing does not wait for it.
            }
            let rest = usize::try_from(wanted - state.held).unwrap_or(ZERO_LEN);
            let part = zeroes.get(..rest).unwrap_or(&zeroes);
            if let Err(error) = file.write_all_at(part, state.held) {
                if state.held == 0 {
                    // Less than what is counted would be lost sight of.
                    self.files.remove(FileKind::Reserve)?;
                }
                return Err(error);
            }
            state.held += part.len() as u64;
        }
        // Its name need not last: what a power cut takes is made again.
        if let Err(error) = file.sync() {
            // Another file next time: a second sync of this one would prove nothing.
            state.held = 0;
            return self.files.remove(FileKind::Reserve).and(Err(error));
        }
        Ok(())
    }

    /// Removes the reserve; false if there was none.
    pub(crate) fn give_up(&self) -> Result<bool> {
        let mut state = lock(&self.state);
        if state.held == 0 || self.files.frozen() {
            return Ok(false);
        }
        self.files.remove(FileKind::Reserve)?;
        state.held = 0;
        Ok(true)
    }

    /// Passes `result` on. If it says that the disk is full, writes are refused from now on.
    pub(crate) fn note<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.kind() == ErrorKind::NoSpace
        {
            let mut state = lock(&self.state);
            if state.full.is_none() {
                let cause = error
                    .clone()
                    .wrap_as("the disk is full: only deletes are taken until there is room");
                state.full = Some(cause);
                self.views.refuse(!mutant("full-takes-puts"));
            }
            drop(state);
            self.background.wake(Task::Space);
        }
        result
    }

    /// The most bytes of memory that a flush takes at once: all, unless the reserve must be enough
    /// for it.
    pub(crate) fn largest_flush(&self) -> u64 {
        match lock(&self.state).full {
            Some(_) => self.most,
            None => u64::MAX,
        }
    }

    pub(crate) fn is_lent(&self) -> bool {
        lock(&self.state).borrowers > 0
    }

    /// Writes are taken again.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        if !mutant("full-without-end") && state.full.take().is_some() {
            self.views.refuse(false);
        }
    }
}

/// Keeps anything from being taken ahead.
pub(crate) struct Borrower<'a>(&'a Space);

impl Borrower<'_> {
    pub(crate) fn new(space: &Space) -> Borrower<'_> {
        lock(&space.state).borrowers += 1;
        Borrower(space)
    }
}

impl Drop for Borrower<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).borrowers -= 1;
    }
}
