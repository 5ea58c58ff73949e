//! The database as callers see it. Everything delegates.

pub(crate) mod atomic;
pub(crate) mod delete_small_range;
pub(crate) mod keyspaces;
pub(crate) mod large_values;
pub(crate) mod readable;
pub(crate) mod snapshot;
pub(crate) mod stats;
pub(crate) mod ticket;

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use terrace_base::{Result, SeqNo};
use terrace_compaction::KeyRange;

use crate::db::append::{submit_batch, write_batch};
use crate::db::keyspace::Keyspace;
use crate::db::keyspaces::{create_keyspace, drop_keyspace, keyspace, rename_keyspace};
use crate::db::stats::{Stats, stats};
use crate::db::ticket::Ticket;
use crate::engine::Engine;
use crate::jobs::checkpoint::checkpoint;
use crate::jobs::compact::wait_for_level0;
use crate::jobs::flush::flush;
use crate::jobs::idle::{compact_range, wait_idle};
use crate::jobs::log_size::keep_little_log;
use crate::jobs::pacing::pace_run;
use crate::jobs::workers;
use crate::keyspace::state::KeyspaceState;
use crate::logging::{Plain, event};
use crate::open::start;
use crate::options::Options;
use crate::options::keyspace::KeyspaceOptions;
use crate::sync::lock;
use crate::write::batch::Batch;

/// An open database: an ordered, durable map from bytes to bytes. Cheap to clone.
///
/// A `Db` is also its default keyspace: all of [`Keyspace`]'s methods stand on it.
///
/// A forked process cannot use the handles that it inherits: their calls answer `Locked`, and
/// dropping them does nothing.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use terrace::Db;
/// let db = Db::open(dir.path())?;
/// db.put("ada", "1815")?; // on disk when it returns
/// assert_eq!(db.get("ada")?.unwrap(), "1815");
/// for entry in db.range("a".."b") {
///     let (key, value) = entry?;
///     println!("{key:?} = {value:?}");
/// }
/// db.close()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Db {
    default: Keyspace,
}

/// What all handles of an open database share; the last one closes it.
pub(crate) struct Handle {
    engine: Arc<Engine>,
    default: Arc<KeyspaceState>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:?})", self.engine.files.dir)
    }
}

impl Handle {
    #[inline]
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, for what makes work for the background: its threads start with the first such
    /// call, which fails with `Io` if they cannot be started.
    #[inline]
    pub(crate) fn writer(&self) -> Result<&Engine> {
        if !self.engine.working.load(Ordering::Relaxed) && self.engine.process.is_this() {
            workers::start(&self.engine)?;
        }
        Ok(&self.engine)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.engine.process.is_this() {
            return; // A fork: it is the other process's to close.
        }
        // No caller can get the error; what was acknowledged under `Sync` is on disk
        // anyway.
        if let Err(error) = close(&self.engine) {
            self.engine.background.fail(&error);
            event!(
                error,
                "the last handle of {} is gone, and closing it failed: {}",
                self.engine.files.dir.display(),
                Plain(&error)
            );
        }
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Db({:?})", self.engine().files.dir)
    }
}

impl Deref for Db {
    type Target = Keyspace;

    #[inline]
    fn deref(&self) -> &Keyspace {
        &self.default
    }
}

impl Db {
    /// Opens the database in `dir` with default options, creating it if need be.
    ///
    /// # Errors
    /// As for [`Options::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Db> {
        Options::new().open(dir)
    }

    /// A database in memory, gone with its last handle.
    ///
    /// # Errors
    /// None that depend on the caller.
    pub fn in_memory() -> Result<Db> {
        Options::new().open_in_memory()
    }

    pub(crate) fn open_with(options: Options, dir: &Path) -> Result<Db> {
        start::open(options, dir).map(Db::of_engine)
    }

    pub(crate) fn of_engine(engine: Arc<Engine>) -> Db {
        let default = engine.default_keyspace.clone();
        Db::from_handle(Arc::new(Handle { engine, default }))
    }

    pub(crate) fn from_handle(handle: Arc<Handle>) -> Db {
        let state = handle.default.clone();
        Db {
            default: Keyspace { state, handle },
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Engine> {
        &self.default.handle.engine
    }

    fn engine(&self) -> &Engine {
        self.default.handle.engine()
    }

    fn writer(&self) -> Result<&Engine> {
        self.default.handle.writer()
    }

    fn wrap(&self, state: Arc<KeyspaceState>) -> Keyspace {
        Keyspace {
            state,
            handle: self.default.handle.clone(),
        }
    }

    /// The options in force, figures that follow from others included.
    pub fn options(&self) -> Options {
        self.engine().options.clone()
    }

    /// Figures about the database now.
    pub fn stats(&self) -> Stats {
        stats(self.engine())
    }

    /// Writes a batch, whole or not at all; the sequence number of its last operation.
    ///
    /// # Errors
    /// `Invalid` for the first wrong argument in the batch, with nothing written; else as for
    /// [`Keyspace::put`].
    pub fn write(&self, mut batch: Batch) -> Result<SeqNo> {
        write_batch(self.writer()?, &mut batch)
    }

    /// Hands a batch to the log without waiting for it to be durable. Reads see it when the ticket
    /// is done.
    ///
    /// # Errors
    /// As for [`Db::write`].
    pub fn submit(&self, mut batch: Batch) -> Result<Ticket> {
        let receipt = submit_batch(self.writer()?, &mut batch)?;
        Ok(Ticket::new(self.shared().clone(), receipt))
    }

    /// The keyspace `name`, created with default options if there is none.
    ///
    /// # Errors
    /// `Invalid` for a name that is empty or over 255 bytes; as for a write if it has to be
    /// created.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        keyspace(self.writer()?, name).map(|state| self.wrap(state))
    }

    /// A new keyspace.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of that name; `Invalid` for a name that is empty or over 255
    /// bytes; `Unsupported` if its options name a merge operator or filter that the database was
    /// not opened with.
    pub fn create_keyspace(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        create_keyspace(self.writer()?, name, &options).map(|state| self.wrap(state))
    }

    /// Drops a keyspace with all its entries. Handles of it answer `NotFound` from then on; a new
    /// one of that name is another. Snapshots taken before still see it.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name; `Invalid` for the default keyspace.
    pub fn drop_keyspace(&self, name: &str) -> Result<()> {
        drop_keyspace(self.writer()?, name)
    }

    /// Renames the keyspace `from` to `to`, which must be free. Existing handles stay valid and
    /// return the new name.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name; `AlreadyExists` if there is one of the other;
    /// `Invalid` for the default keyspace, and for a name that is empty or over 255 bytes.
    pub fn rename_keyspace(&self, from: &str, to: &str) -> Result<()> {
        rename_keyspace(self.writer()?, from, to)
    }

    /// The names of all keyspaces, sorted.
    ///
    /// # Errors
    /// `Closed` after `close`.
    pub fn keyspaces(&self) -> Result<Vec<String>> {
        self.engine().check_open()?;
        Ok(self.engine().catalogue.names())
    }

    /// Makes every write that returned durable, whatever its durability was.
    ///
    /// # Errors
    /// `ReadOnly` if the log cannot be synced, now or earlier.
    pub fn sync(&self) -> Result<()> {
        self.engine().check_writable()?;
        self.engine().committer.sync()
    }

    /// Writes what is in memory into tables, so that the log up to now is not needed any more.
    ///
    /// # Errors
    /// Those of writing tables; they are retried in the background.
    pub fn flush(&self) -> Result<()> {
        let engine = self.writer()?;
        let view = engine.views.cell.load_full();
        if !(view.active.is_empty() && view.sealed.is_empty()) {
            pace_run(engine);
            wait_for_level0(engine);
        }
        drop(view);
        flush(engine)
    }

    /// Makes a second database in `dir`, which must be new or empty, of what this one holds: every
    /// write that has returned, and of those under way a prefix, in all keyspaces. Its files are
    /// links to those of this one, as long as `dir` is on the same file system, so that it takes
    /// little time and space at first; else they are copied. Both are used and changed
    /// independently from then on, and either can be removed. Writes continue.
    ///
    /// It is durable on return. After an error, or a crash meanwhile, `dir` holds no database; this
    /// one is as it was.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let home = tempfile::tempdir().unwrap();
    /// # let (dir, copy) = (home.path().join("db"), home.path().join("copy"));
    /// use terrace::Db;
    /// let db = Db::open(dir)?;
    /// db.put("a", "before")?;
    /// db.checkpoint(&copy)?;
    /// db.put("a", "after")?;
    /// assert_eq!(Db::open(&copy)?.get("a")?.unwrap(), "before");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `AlreadyExists` if there is anything in `dir`, `Invalid` if it is no directory; those of
    /// flushing, and of writing there.
    pub fn checkpoint(&self, dir: impl AsRef<Path>) -> Result<()> {
        checkpoint(self.writer()?, dir.as_ref())
    }

    /// Merges every keyspace's tables into the last level, which drops what no reader can see.
    /// Blocks until done.
    ///
    /// # Errors
    /// Those of reading and writing tables.
    pub fn compact_all(&self) -> Result<()> {
        compact_range(self.writer()?, &KeyRange::ALL)
    }

    /// Flushes, and waits until no flush or compaction is due, as in a database that has been idle
    /// for a while.
    ///
    /// # Errors
    /// What keeps the background from its work.
    pub fn wait_idle(&self) -> Result<()> {
        wait_idle(self.writer()?)
    }

    /// Why writes fail now, or what the background cannot do; `Ok` if all is well.
    ///
    /// # Errors
    /// The cause.
    pub fn health(&self) -> Result<()> {
        self.engine().health()
    }

    /// Syncs and closes the database, ends its threads, and lets others open it; later calls on any
    /// handle answer `Closed`. Open iterators and values stay readable.
    /// Closing twice is fine.
    ///
    /// # Errors
    /// Those of the last sync and flush; `Io` if the directory was removed, and all that was in it;
    /// `ReadOnly` if the log failed before, and writes that returned under `Buffered` or `Interval`
    /// may not be on disk. The database is closed all the same.
    pub fn close(&self) -> Result<()> {
        close(self.engine())
    }
}

pub(crate) fn close(engine: &Engine) -> Result<()> {
    engine.check_process()?;
    let _closing = lock(&engine.closing);
    if engine.closed.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    engine.background.stop();
    engine.claims.wait_for_all();
    let result = finish(engine).and_then(|()| check_present(engine));
    engine.views.open_pinned();
    let directory = lock(&engine.directory_lock).take();
    drop(directory);
    result
}

/// The last writes to disk. After a failure of the log or manifest: none.
fn finish(engine: &Engine) -> Result<()> {
    if engine.options.read_only {
        engine.committer.refuse();
        return Ok(());
    }
    engine.committer.finish_writes()?;
    if engine.committer.failure().is_some() || engine.versions.failure().is_some() {
        return engine.committer.loss().map_or(Ok(()), Err);
    }
    let flushed = keep_little_log(engine);
    if engine.committer.failure().is_some() {
        return flushed;
    }
    // What could not be flushed stays in the log.
    let removed = engine.files.remove_obsolete();
    let given_up = engine.space.give_up();
    if !engine.committer.close_log(engine.versions.end())? {
        engine.versions.mark_closed()?;
    }
    flushed.and(removed).and(given_up.map(|_| ()))
}

fn check_present(engine: &Engine) -> Result<()> {
    match engine.options.read_only {
        true => Ok(()), // Nothing was written.
        false => engine.files.check_present(),
    }
}

pub(crate) mod append;
pub(crate) mod estimate;
pub(crate) mod ingest;
pub(crate) mod keyspace;
pub(crate) mod open;
pub(crate) mod resolve;
#[cfg(test)]
#[path = "db_tests.rs"]
mod tests;
