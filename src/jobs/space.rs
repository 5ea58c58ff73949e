//! Room on a full disk: for jobs out of the reserve, for deletes by a flush, and its end

use terrace_base::{Error, ErrorKind, Result, mutant};
use terrace_wal::Lsn;

use crate::engine::Engine;
use crate::engine::space::Borrower;
use crate::jobs::flush::flush_once;
use crate::write::prepared::Write;

/// Runs `job`, which makes tables. If the disk is full, the reserve makes room for a second
/// try.
pub(crate) fn with_reserve<T>(engine: &Engine, mut job: impl FnMut() -> Result<T>) -> Result<T> {
    let result = job();
    if result.as_ref().err().map(Error::kind) != Some(ErrorKind::NoSpace) {
        return result;
    }
    let _borrower = Borrower::new(&engine.space);
    let result = engine.space.note(result);
    match engine.space.give_up()? {
        true => engine.space.note(job()),
        false => result,
    }
}

/// `NoSpace` for a write that the full disk has no room for.
#[cold]
pub(crate) fn check_space(engine: &Engine, write: &Write<'_>) -> Result<()> {
    engine.check_writable()?;
    let room = match engine.options.tuning.manual {
        true => find_space(engine), // There is no thread that would.
        false => engine.space.full().map_or(Ok(()), Err),
    };
    match write.only_deletes() {
        true if !mutant("full-refuses-deletes") => Ok(()),
        _ => room,
    }
}

/// Has segments of the log freed by a flush, if none is left for deletes.
fn free_log(engine: &Engine) -> Result<()> {
    let starved = !engine.committer.with_log(|log| log.has_spare());
    if starved {
        engine.committer.seal();
    }
    if engine.options.tuning.manual {
        return flush_once(engine, starved).map(|_| ());
    }
    let view = engine.views.cell.load();
    if let (true, Some(newest)) = (starved, view.sealed.first()) {
        engine.background.request_flush(newest.last_seq);
    }
    Ok(())
}

/// Ends the state of a full disk if there is room again.
pub(crate) fn find_space(engine: &Engine) -> Result<()> {
    let Some(cause) = engine.space.full() else {
        return Ok(());
    };
    if engine.space.is_lent() || engine.background.lacks_space() {
        return Err(cause); // Before anything else, what could not be flushed or merged must be.
    }
    free_log(engine)?;
    let taken = engine.space.take_ahead(0);
    let spare = taken.and_then(|()| engine.committer.ensure_spare());
    match spare {
        Ok(()) => {
            engine.space.end();
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NoSpace => Err(cause),
        Err(error) => Err(error),
    }
}

/// Unlinks what is obsolete and takes space ahead of need, for the space thread.
pub(crate) fn tend_space(engine: &Engine) -> Result<()> {
    let removed = engine.files.remove_obsolete();
    find_space(engine)?;
    if engine.committer.end().0 > Lsn(0) && engine.counters.has_written() {
        engine.committer.ensure_spare()?;
    }
    removed
}
