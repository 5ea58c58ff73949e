//! The open of a directory: its lock, what is found in it, and a report to the log

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use terrace_base::vfs::{Fs, LockGuard};
use terrace_base::{Error, ErrorKind, FileKind, Result};

use crate::engine::Engine;
use crate::logging::event;
use crate::open::assemble::assemble;
use crate::open::opening::{Found, Opening};
use crate::options::Options;

/// Opens the database in `dir`.
pub(crate) fn open(options: Options, dir: &Path) -> Result<Arc<Engine>> {
    options.check()?;
    let options = options.resolved();
    let started = options.clock.monotonic();
    let fs = Fs::new(options.vfs.clone());
    let dir = &fs.absolute(dir)?;
    let fs = prepare_directory(&fs, dir, &options)?;
    let lock = lock_directory(&fs, dir, &options)?;
    let mut opening = Opening::new(&options, &fs, dir)?;
    let found = match opening.find() {
        Err(error) if error.kind() == ErrorKind::NoSpace && opening.give_up_reserve()? => {
            opening.find()?
        }
        found => found.inspect_err(|_| opening.discard())?,
    };
    if !options.read_only {
        opening.remove_unlisted(&found)?;
    }
    let took = options.clock.monotonic().saturating_sub(started);
    tell(dir, &found, took);
    let Opening {
        files, policies, ..
    } = opening;
    assemble(options, files, policies, found, lock)
}

/// Logs how the database was found.
fn tell(dir: &Path, found: &Found, took: Duration) {
    let (dir, had) = (dir.display(), found.log_had);
    if found.published {
        event!(
            info,
            "{dir} is new or did not end well: {} log entries went into tables in {} pieces and \
             {took:?}",
            had.entries,
            had.pieces + 1
        );
    } else {
        event!(
            debug,
            "{dir} was opened in {took:?}, with {} log entries",
            had.entries
        );
    }
    if had.dropped_frames > 0 {
        event!(
            warn,
            "{dir}: {} log frames that were not promised were dropped",
            had.dropped_frames
        );
    }
}

/// Creates the directory if it may and must; the file system that holds it.
fn prepare_directory(fs: &Fs, dir: &Path, options: &Options) -> Result<Fs> {
    let absent = || {
        let text = "there is no database here, and none is to be created";
        Error::new(ErrorKind::NotFound, text).in_file(dir, 0)
    };
    let create = options.create && !options.read_only;
    match fs.metadata(dir)? {
        Some(found) if !found.is_dir => {
            return Err(Error::invalid("the path is not a directory").in_file(dir, 0));
        }
        Some(_) => {}
        None if create => fs.create_dir_all(dir)?,
        None => return Err(absent()),
    }
    let fs = fs.hold(dir)?;
    let found = create || fs.metadata(&FileKind::Current.path(dir))?.is_some();
    if found { Ok(fs) } else { Err(absent()) }
}

/// Takes the lock. It lies in the directory that `fs` holds, as all other files do: who has it is
/// alone with them.
fn lock_directory(fs: &Fs, dir: &Path, options: &Options) -> Result<Box<dyn LockGuard>> {
    let lock = FileKind::Lock.path(dir);
    if options.read_only && fs.metadata(&lock)?.is_none() {
        let text = "a reader must hold the file LOCK, which is missing; create it, empty, or \
            open the database for writing once";
        return Err(Error::new(ErrorKind::NotFound, text).in_file(&lock, 0));
    }
    fs.lock(&lock, !options.read_only)
}
