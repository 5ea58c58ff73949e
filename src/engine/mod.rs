//! One open database: the parts, and how they hold together. Everything public delegates here.
//!
//! ```text
//! put ──> Committer ──> log, active list ──seal──> sealed pieces ──flush──> level 0 ──compaction──> levels
//!            │                     └──────────────── View ──────────────────────────────┘
//!            └ visible SeqNo               ^ every reader pins one, lock-free
//! ```
//!
//! The locks and their order are listed in [`crate::sync::Rank`].

pub(crate) mod claims;
pub(crate) mod counters;
pub(crate) mod forgetting;
pub(crate) mod log_segments;
pub(crate) mod space;
pub(crate) mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use terrace_base::vfs::{Fs, LockGuard, Process};
use terrace_base::{Clock, Error, ErrorKind, Result, mutant};
use terrace_compaction::VersionEdit;

use crate::background::signals::Background;
use crate::commit::committer::{Committer, closed, opened_read_only};
use crate::engine::claims::Claims;
use crate::engine::counters::Counters;
use crate::engine::forgetting::Forgetting;
use crate::engine::space::Space;
use crate::engine::turns::Turns;
use crate::keyspace::catalogue::Catalogue;
use crate::keyspace::state::KeyspaceState;
use crate::options::Options;
use crate::read::context::Context;
use crate::read::view::Views;
use crate::storage::blob_files::Blobs;
use crate::storage::files::Files;
use crate::storage::version_set::VersionSet;
use crate::sync::Mutex;

/// One open database.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Differs from that of every other database opened by this process.
    pub(crate) id: u64,
    /// Who opened it. A fork has a copy of everything, position in the log and lock included, and
    /// must not use it.
    pub(crate) process: Process,
    pub(crate) options: Options,
    pub(crate) context: Arc<Context>,
    pub(crate) files: Arc<Files>,
    pub(crate) versions: Arc<VersionSet>,
    pub(crate) views: Arc<Views>,
    pub(crate) committer: Committer,
    pub(crate) catalogue: Arc<Catalogue>,
    /// Batches do not name it.
    pub(crate) default_keyspace: Arc<KeyspaceState>,
    pub(crate) background: Arc<Background>,
    pub(crate) claims: Claims,
    pub(crate) space: Arc<Space>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) counters: Counters,
    /// Operands written since the open.
    pub(crate) operands: AtomicU64,
    pub(crate) closed: AtomicBool,
    /// The threads were started, or there are to be none.
    pub(crate) working: AtomicBool,
    pub(crate) directory_lock: Mutex<Option<Box<dyn LockGuard>>>,
    /// Held by a flush: the flushed position rises from edit to edit.
    pub(crate) flushing: Mutex<()>,
    /// Ingests are published one at a time.
    pub(crate) ingests: Turns,
    /// Callers that take tables down to the last level.
    pub(crate) pushing: AtomicUsize,
    /// Held while a range delete or a dropped keyspace is forgotten, so that no two jobs forget the
    /// same one.
    pub(crate) forgetting: Mutex<Forgetting>,
    /// Held while the database is closed, so that a second caller waits for the first.
    pub(crate) closing: Mutex<()>,
}

impl Engine {
    pub(crate) fn fs(&self) -> &Fs {
        &self.files.fs
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.options.clock
    }

    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_process()?;
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        Ok(())
    }

    /// `Locked` in a fork of the process that opened it.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        match self.process.is_this() {
            true => Ok(()),
            false => Err(forked()),
        }
    }

    /// Passes on the result of a job. If the manifest or the directory failed in it, writes fail
    /// from now on.
    pub(crate) fn heed<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err()
            && let Some(cause) = self.versions.failure()
        {
            self.committer.poison(cause);
        }
        result
    }

    /// `ReadOnly` or `Closed` if nothing may be written.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.options.read_only {
            return Err(opened_read_only());
        }
        self.committer.failure().map_or(Ok(()), Err)
    }

    /// Why writes fail now, or what the background cannot do.
    pub(crate) fn health(&self) -> Result<()> {
        self.check_open()?;
        if let Some(cause) = self.committer.failure() {
            return Err(cause);
        }
        if let Some(cause) = self.versions.failure() {
            return Err(cause.wrap(ErrorKind::ReadOnly, "the manifest failed"));
        }
        let full = self.space.full().filter(|_| !mutant("full-in-silence"));
        let trouble = full.or_else(|| self.background.trouble());
        let trouble = trouble.or_else(|| self.context.policies.trouble());
        let trouble = trouble.or_else(|| self.blobs.damage());
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        let version = self.views.cell.load().version.clone();
        version.damage().next().cloned().map_or(Ok(()), Err)
    }

    pub(crate) fn install(&self, edit: &VersionEdit) -> Result<()> {
        self.versions.log_and_apply(edit, |_, version| {
            self.views.install(|view| view.version = version.clone());
        })?;
        Ok(())
    }
}

/// The error of every call in a fork.
#[cold]
fn forked() -> Error {
    Error::new(
        ErrorKind::Locked,
        "the process that this one was forked from has the database open; only handles opened \
         here can be used",
    )
}
