//! The threads of a database; the only place that starts any.
//!
//! One thread tends the log, one the memtable, and as many as there are spare cores, at most four, compact. They
//! start with the first write and end with `close`. A panic in a job makes the database read-only: what the
//! job had done is not known.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use terrace_base::{Error, ErrorKind, Result};

use crate::background::Task;
use crate::engine::Engine;

/// How long a thread sleeps when nothing wakes it.
const IDLE: Duration = Duration::from_secs(1);
/// How long the flush thread waits for a list to become visible.
const WAITING: Duration = Duration::from_millis(20);
/// How long a submitted write waits for a sync by somebody else.
const TICKET: Duration = Duration::from_millis(1);
/// The first and the longest delay before a failed job is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Starts the threads unless they run.
pub(crate) fn start(engine: &Arc<Engine>) {
    engine
        .working
        .store(true, std::sync::atomic::Ordering::Relaxed);
    if engine.options.tuning.manual || engine.options.read_only {
        return;
    }
    let mut state = engine.background.lock();
    if state.started || state.stop {
        return;
    }
    state.started = true;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let compactors = cores.saturating_sub(1).clamp(1, 4);
    let tasks = [Task::Log, Task::Flush]
        .into_iter()
        .chain(vec![Task::Compaction; compactors]);
    for task in tasks {
        // A weak reference: a database whose last handle is gone ends its threads, not they it.
        let weak = Arc::downgrade(engine);
        let name = format!("terrace-{}", format!("{task:?}").to_lowercase());
        let background = engine.background.clone();
        let run = move || {
            let mut longest = IDLE;
            let mut retry = RETRY.0;
            while background.sleep(task, longest) {
                match turn(&weak, task) {
                    Some(Turn::Sleep(next)) => (longest, retry) = (next.min(IDLE), RETRY.0),
                    Some(Turn::Failed(next)) => {
                        longest = retry.min(next);
                        retry = (retry * 2).min(RETRY.1);
                    }
                    None => break,
                }
            }
        };
        match thread::Builder::new().name(name).spawn(run) {
            Ok(thread) => state.threads.push(thread),
            Err(error) => {
                let path = engine.files.dir.as_path();
                let error = Error::io("start a thread for", path, error);
                drop(state);
                engine.background.report(task, &Err(error));
                return;
            }
        }
    }
}

enum Turn {
    Sleep(Duration),
    /// A job failed; the time is until something else is due.
    Failed(Duration),
}

/// Does what is due; `None` if the thread is to end.
fn turn(engine: &Weak<Engine>, task: Task) -> Option<Turn> {
    let engine = engine.upgrade()?;
    if engine.committer.failure().is_some() {
        return Some(Turn::Sleep(IDLE));
    }
    engine
        .background
        .running
        .fetch_add(1, std::sync::atomic::Ordering::AcqRel);
    let result = catch_unwind(AssertUnwindSafe(|| work(&engine, task)));
    engine
        .background
        .running
        .fetch_sub(1, std::sync::atomic::Ordering::AcqRel);
    let (next, outcome) = result.unwrap_or_else(|_| {
        let error = Error::new(ErrorKind::ReadOnly, "a panic in a background job");
        engine.committer.poison(error.clone());
        (IDLE, Err(error))
    });
    if let Some(cause) = engine.versions.failure() {
        engine.committer.poison(cause);
    }
    let closing = outcome
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::Closed);
    if !closing {
        engine.background.report(task, &outcome);
    }
    Some(match outcome {
        Ok(()) => Turn::Sleep(next),
        Err(_) => Turn::Failed(next),
    })
}

/// How long the thread may sleep, and what came of its work.
fn work(engine: &Engine, task: Task) -> (Duration, Result<()>) {
    match task {
        Task::Log => tend_log(engine),
        Task::Flush => {
            let result = flush(engine);
            // A list that waits to become visible gives no signal when it has.
            let waiting = result.is_ok() && !engine.views.cell.load().sealed.is_empty();
            let next = if waiting { WAITING } else { RETRY.1 };
            (next, result)
        }
        Task::Compaction => (RETRY.1, compact(engine)),
    }
}

fn tend_log(engine: &Engine) -> (Duration, Result<()>) {
    let ticket = std::mem::take(&mut engine.background.lock().ticket_waits);
    if ticket {
        thread::sleep(TICKET);
    }
    // A sync that is due does not wait for space that cannot be had.
    let next = engine.committer.sync_if_due();
    (next.unwrap_or(RETRY.1), engine.tend_space())
}

fn flush(engine: &Engine) -> Result<()> {
    while engine.tend_memtable()? {
        engine.background.progressed();
        if engine.background.lock().stop {
            break;
        }
    }
    Ok(())
}

fn compact(engine: &Engine) -> Result<()> {
    engine.files.remove_obsolete()?;
    loop {
        let (hurrying, stop) = {
            let state = engine.background.lock();
            (state.hurrying > 0, state.stop)
        };
        if stop {
            return Ok(());
        }
        let idle = hurrying || engine.counters.quiet_for(engine.clock().monotonic(), IDLE);
        if !engine.compact_once(idle)? {
            engine.files.remove_obsolete()?;
            if idle {
                engine.flush_expired();
                engine.flush_large();
                engine.become_idle()?;
            }
            if (idle || engine.has_many_ranges()) && engine.reclaim_once()? {
                continue;
            }
            if engine.expire_once()? || engine.tend_blobs(idle)? {
                continue;
            }
            engine.files.remove_obsolete()?;
            return Ok(());
        }
    }
}
