//! Checkpoints: a second database with the present contents, made of links while writes continue.
//!
//! What is in memory is flushed first. From then on the state of the manifest alone, at any moment,
//! is that after some prefix of the writes, with at least all that had returned: a flush takes
//! whole lists of whole batches, and an ingest whatever was in memory before it. Tables and blob
//! files are never rewritten and leave by unlink only, so that a second name costs no copy and
//! whatever the first database does later does not show. (A blob file may go on growing, behind
//! everything that the state refers to.) The log is written to in place and is left out: nothing in
//! it is needed.
//!
//! ```text
//! db/        000007.sst  000009.blob  000012.wal  MANIFEST-000003  CURRENT
//!                |            |
//! copy/      000007.sst  000009.blob              MANIFEST-000270  CURRENT        another database id
//! ```
//!
//! `CURRENT` comes last, as when a database is created: a crash before leaves a folder that holds
//! no database.

use std::path::Path;

use terrace_base::error::is_missing;
use terrace_base::vfs::{Fs, LockGuard};
use terrace_base::{Error, ErrorKind, FileKind, FileNumber, PersistentMap, Result};

use crate::engine::Engine;
use crate::jobs::flush::flush;
use crate::storage::files::sync_ancestors;
use crate::storage::manifest::Manifest;
use crate::sync::lock;

pub(crate) fn checkpoint(engine: &Engine, dir: &Path) -> Result<()> {
    engine.check_writable()?;
    let fs = engine.fs();
    let dir = &fs.absolute(dir)?;
    let _lock = claim(fs, dir)?;
    let made = flush(engine).and_then(|()| copy_into(engine, dir));
    if made.is_err() {
        give_up(fs, dir);
    }
    made
}

/// Gives the files of the newest state a second name, and writes a manifest for them.
fn copy_into(engine: &Engine, dir: &Path) -> Result<()> {
    // Once this is closed, another process may open it and remove what only this one still
    // needs.
    let _closing = lock(&engine.closing);
    engine.check_open()?;
    let mut state = engine.versions.lock().state.clone();
    state.segments = PersistentMap::new();
    let number = FileNumber(state.file_ceiling);
    state.file_ceiling += 1;
    let tables = state.version.tables();
    let tables = tables.map(|(_, _, table)| FileKind::Table(table.meta().number));
    let blobs = state.version.blobs().keys().copied().map(FileKind::Blob);
    let fs = engine.fs();
    for file in tables.chain(blobs) {
        fs.link_or_copy(&file.path(&engine.files.dir), &file.path(dir))?;
    }
    let database = fs.random();
    let mut manifest = Manifest::create(fs, dir, number, database, 1, &state.as_edit())?;
    manifest.stage(fs, dir)?;
    sync_ancestors(fs, dir)?;
    manifest.publish(fs, dir)
}

/// Makes the folder, which must be new or empty, and locks it, so that nobody opens it half-way.
fn claim(fs: &Fs, dir: &Path) -> Result<Box<dyn LockGuard>> {
    let check_empty = || match fs.read_dir(dir)?.iter().find(|name| *name != "LOCK") {
        Some(_) => {
            let text = "the folder of a checkpoint must be new or empty; name another, or remove \
                what is in it";
            Err(Error::new(ErrorKind::AlreadyExists, text).in_file(dir, 0))
        }
        None => Ok(()),
    };
    fs.create_dir_all(dir)?;
    check_empty()?;
    let guard = fs.lock(&FileKind::Lock.path(dir), true)?;
    check_empty()?; // Another process may have created files before the lock was taken.
    Ok(guard)
}

/// Removes what was made, as far as that goes: first `CURRENT`, without which the rest is no
/// database.
fn give_up(fs: &Fs, dir: &Path) {
    let remove = |file: FileKind| match fs.remove_file(&file.path(dir)) {
        Err(error) if is_missing(&error) => Ok(()),
        removed => removed,
    };
    if remove(FileKind::Current).is_err() {
        return;
    }
    let names = fs.read_dir(dir).unwrap_or_default();
    for file in names.iter().filter_map(|name| FileKind::parse(name)) {
        if file != FileKind::Lock {
            remove(file).ok();
        }
    }
}
