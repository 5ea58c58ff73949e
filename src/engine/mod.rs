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
pub(crate) mod log_segments;
pub(crate) mod space;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use terrace_base::vfs::{Fs, LockGuard, Process};
use terrace_base::{Clock, Error, ErrorKind, Result, SeqNo, mutant};
use terrace_compaction::{KeyRange, PickOptions};
use terrace_wal::Lsn;

use crate::background::signals::{Background, Task};
use crate::commit::committer::{Committer, Receipt, closed, opened_read_only};
use crate::db::stats::Counters;
use crate::engine::claims::Claims;
use crate::engine::space::Space;
use crate::jobs::ingest::Turns;
use crate::jobs::reclaim::{Forgetting, MANY_DELETES};
use crate::keyspace::catalogue::{Catalogue, KeyspaceState};
use crate::options::{Durability, Options};
use crate::read::context::Context;
use crate::read::view::Views;
use crate::storage::blob_files::Blobs;
use crate::storage::files::Files;
use crate::storage::version_set::VersionSet;
use crate::sync::Mutex;
use crate::write::batch::Batch;
use crate::write::write::Write;

/// A merge of level 0 that nobody asked for may rewrite so many bytes for each of its own.
const WORTH: u64 = 16;
/// A list with more operands than this is sealed.
const OPERANDS: u64 = 2048;

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

    #[inline]
    pub(crate) fn write(
        &self,
        write: &Write<'_>,
        durability: Option<Durability>,
        keyspaces: &[Arc<KeyspaceState>],
    ) -> Result<SeqNo> {
        self.check_process()?;
        if self.may_be_large(write) {
            return self.separate(write, |small| self.write(small, durability, keyspaces));
        }
        self.views.pacer.pace(self, write)?;
        let durability = durability.unwrap_or(self.options.durability);
        let last = self.committer.commit(write, durability, keyspaces)?;
        self.counters.written(write);
        Ok(last)
    }

    pub(crate) fn write_batch(&self, batch: &mut Batch) -> Result<SeqNo> {
        self.check_batch(batch)?;
        if batch.is_conditional() {
            let receipt = self.append_conditional(batch)?;
            self.committer.wait_visible(receipt.last)?;
            self.note_operands(batch);
            return Ok(receipt.last);
        }
        if batch.count == 0 {
            return Ok(self.nothing_written()?.last);
        }
        let clock = self.date(batch);
        let parts = [clock.as_deref().unwrap_or_default(), &batch.payload];
        let write = Write::of_batch(batch, &parts);
        let last = self.write(&write, batch.durability, &batch.keyspaces)?;
        self.note_operands(batch);
        Ok(last)
    }

    fn note_operands(&self, batch: &Batch) {
        if !batch.merging.is_empty() {
            self.operands_written(batch.count);
        }
    }

    /// Seals the active list early if it may hold many operands: a read gathers all of its key one
    /// by one, and those of sealed pieces are combined.
    #[cold]
    pub(crate) fn operands_written(&self, count: u32) {
        let before = self.operands.fetch_add(u64::from(count), Ordering::Relaxed);
        let after = before.wrapping_add(u64::from(count));
        if before / OPERANDS != after / OPERANDS && !self.options.tuning.manual {
            self.committer.seal();
        }
    }

    /// Appends a batch without waiting for it to be durable.
    pub(crate) fn submit_batch(&self, batch: &mut Batch) -> Result<Receipt> {
        self.check_batch(batch)?;
        if batch.is_empty() && !batch.is_conditional() {
            return self.nothing_written();
        }
        self.check_process()?;
        self.committer
            .wait_for_room(self.options.largest_segment())?;
        let receipt = match batch.is_conditional() {
            false => self.append_plain(batch)?,
            true => self.append_conditional(batch)?,
        };
        self.note_operands(batch);
        if !receipt.visible {
            self.background.ticket_waits();
        }
        Ok(receipt)
    }

    /// What a batch without operations comes to.
    pub(crate) fn nothing_written(&self) -> Result<Receipt> {
        self.check_open()?;
        let (end, _) = self.committer.end();
        Ok(Receipt {
            last: self.committer.visible(),
            end,
            visible: true,
        })
    }

    fn append_plain(&self, batch: &mut Batch) -> Result<Receipt> {
        let clock = self.date(batch);
        let parts = [clock.as_deref().unwrap_or_default(), &batch.payload];
        let write = Write::of_batch(batch, &parts);
        self.append_write(&write, batch)
    }

    fn append_write(&self, write: &Write<'_>, batch: &Batch) -> Result<Receipt> {
        if self.may_be_large(write) {
            return self.separate(write, |small| self.append_write(small, batch));
        }
        self.views.pacer.pace(self, write)?;
        let durability = batch.durability.unwrap_or(self.options.durability);
        let receipt = self
            .committer
            .append(write, durability, &batch.keyspaces, &mut |_| {})?;
        self.counters.written(write);
        Ok(receipt)
    }

    /// Checks what a batch holds, and gives its plain puts the expiry that their keyspaces have.
    pub(crate) fn check_batch(&self, batch: &mut Batch) -> Result<()> {
        if let Some(wrong) = &batch.wrong {
            return Err(wrong.clone());
        }
        self.check_owners(batch)?;
        for id in &batch.merging {
            self.context.policies.check_merge(*id)?;
        }
        let default = self.default_keyspace.expiry();
        if default.is_some() || batch.keyspaces.iter().any(|k| k.expiry().is_some()) {
            let keyspaces = batch.keyspaces.clone();
            batch.expire(|id| match keyspaces.iter().find(|state| state.id == id) {
                Some(state) => state.expiry(),
                None => default,
            })?;
        }
        Ok(())
    }

    fn check_owners(&self, batch: &Batch) -> Result<()> {
        match batch
            .keyspaces
            .iter()
            .find(|keyspace| keyspace.owner != self.id)
        {
            None => Ok(()),
            Some(foreign) => Err(Error::invalid(format!(
                "keyspace `{}` in the batch is of another database",
                foreign.name()
            ))),
        }
    }

    /// How compactions are picked now.
    pub(crate) fn pick_options(&self, idle: bool) -> PickOptions {
        let tuning = &self.options.tuning;
        PickOptions {
            level0_runs: if idle { 1 } else { tuning.level0_runs },
            base_bytes: tuning.base_level_bytes,
            packings: (*self.context.policies.packings()).clone(),
            settled: self.horizon(Vec::new()).stripes.settled(),
            idle,
            ..PickOptions::default()
        }
    }

    /// The same for the background, whose merges must be worth what they cost.
    pub(crate) fn pick_worthy(&self, idle: bool) -> PickOptions {
        PickOptions {
            worth: WORTH,
            blob_bytes: self.blobs_due(),
            ..self.pick_options(idle)
        }
    }

    /// Everything acknowledged becomes durable and goes into tables.
    pub(crate) fn flush(&self) -> Result<()> {
        self.check_writable()?;
        self.committer.sync()?;
        self.committer.seal();
        self.flush_sealed()?;
        self.flush_catalogue()?;
        match self.options.tuning.manual {
            true => self.find_space().or(Ok(())), // What it lacks, `health` says.
            false => Ok(()),
        }
    }

    /// Flushes what is sealed now, by the flush thread or, without one, here.
    pub(crate) fn flush_sealed(&self) -> Result<()> {
        let newest = self.views.cell.load().newest_sealed();
        let Some(newest) = newest else { return Ok(()) };
        if self.options.tuning.manual {
            while self.flush_once(true)? {}
            return Ok(());
        }
        self.background.request_flush(newest);
        let flushed = || {
            let view = self.views.cell.load();
            view.sealed
                .last()
                .is_none_or(|oldest| oldest.last_seq > newest)
        };
        self.background.wait_for(Task::Flush, flushed)
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

    /// True if so many range deletes or dropped keyspaces are kept that they are to be worked off
    /// before the database is idle.
    pub(crate) fn has_many_deletes(&self) -> bool {
        let dropped = || self.versions.lock().state.dropped.len();
        self.views.cell.load().version.deleted().len() > MANY_DELETES || dropped() > MANY_DELETES
    }

    /// Flushes and merges as an idle database would, until nothing is due.
    pub(crate) fn wait_idle(&self) -> Result<()> {
        self.flush()?;
        if self.options.tuning.manual {
            while self.compact_once(true)? {}
        } else {
            self.background.hurry_while(|| {
                let version = self.views.cell.load().version.clone();
                let idle =
                    terrace_compaction::pick(&version, &self.pick_options(true), &HashSet::new());
                idle.is_none()
            })?;
        }
        self.work_off()?;
        self.become_idle()?;
        self.files.remove_obsolete()
    }

    /// Takes dropped keyspaces, range deletes, expired entries and dead large values out of the
    /// tables. It takes as many steps as what is there now may need, and no more: other threads may
    /// make work faster than this one does it.
    fn work_off(&self) -> Result<()> {
        let steps = {
            let view = self.views.cell.load();
            let version = &view.version;
            let tables = version.tables().count() + version.blobs().len();
            2 * tables + version.deleted().len() + 1
        };
        for _ in 0..=steps {
            if !(self.reclaim_once()? || self.expire_once()? || self.tend_blobs(true)?) {
                break;
            }
        }
        Ok(())
    }

    /// Flushes, and pushes every table that overlaps `range` down into the last level.
    pub(crate) fn compact_range(&self, range: &KeyRange<'_>) -> Result<()> {
        self.flush()?;
        self.push_down(range)?;
        self.work_off()?;
        self.files.remove_obsolete()
    }

    /// Gives back the space that only a database at work needs. On a full disk deletes need what
    /// there is of the log.
    pub(crate) fn become_idle(&self) -> Result<()> {
        if self.space.full().is_some() {
            return Ok(());
        }
        self.trim_log(0)?;
        match self.views.cell.load().sealed.is_empty() {
            true => self.space.give_up().map(|_| ()),
            false => Ok(()),
        }
    }

    /// Unlinks what is obsolete and takes space ahead of need, for the space thread.
    pub(crate) fn tend_space(&self) -> Result<()> {
        let removed = self.files.remove_obsolete();
        self.find_space()?;
        if self.committer.end().0 > Lsn(0) && self.counters.has_written() {
            self.committer.ensure_spare()?;
        }
        removed
    }
}

/// The error of every call in a fork.
#[cold]
fn forked() -> Error {
    Error::new(
        ErrorKind::Locked,
        "the process that this one was forked from has the database open; only handles opened here can be used",
    )
}
