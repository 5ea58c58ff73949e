//! The background threads of a database; the only place that starts any
//!
//! One thread syncs the log, one prepares and frees space on disk, one tends the memtable, and as
//! many as there are spare cores, at most four, compact. They start with the first write and end
//! with `close`. Either all of them run or none: where one cannot be started, those before it end,
//! the write is an error, and a later write tries again.
//!
//! A thread sleeps until it is woken. Only the first compaction thread also wakes by itself, once a
//! second, because nothing signals that a database has become idle; when nothing has changed since
//! its last pass over an idle database, it looks at three counters and sleeps again.
//!
//! A panic in a job makes the database read-only: the effects of the job are not known.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use terrace_base::{Error, ErrorKind, Result, SeqNo, mutant};

use crate::background::signals::{Background, Task, WakeFlush};
use crate::engine::Engine;
use crate::jobs::blob_gc::{flush_large, tend_blobs};
use crate::jobs::compact::{compact_if_worth, compact_once, has_many_deletes};
use crate::jobs::expire::{awaits_expiry, expire_once, flush_expired};
use crate::jobs::flush::{became_visible, tend_memtable};
use crate::jobs::idle::{become_idle, flush_deleted};
use crate::jobs::reclaim::{forget_if_many, reclaim_once};
use crate::jobs::space::tend_space;
use crate::options::compactors;
use crate::sync::thread;

/// How long a database is quiet before it counts as idle, and how often that is checked.
const IDLE: Duration = Duration::from_secs(1);
/// How long a submitted write waits for a caller to sync.
const TICKET: Duration = Duration::from_millis(1);
/// The first and the longest delay before a failed job is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How long threads that could not be started are not tried again.
const RESTART: Duration = Duration::from_millis(100);

/// Starts the threads unless they run. Cheap once they do.
///
/// # Errors
/// `Io` if the system lets no more threads start. None is left running then; a later call tries
/// again.
#[cold]
pub(crate) fn start(engine: &Arc<Engine>) -> Result<()> {
    if engine.options.tuning.manual || engine.options.read_only {
        engine.working.store(true, Ordering::Relaxed);
        return Ok(());
    }
    let mut state = engine.background.lock();
    if state.started || (state.stop && !mutant("start-behind-stop")) {
        engine.working.store(true, Ordering::Relaxed);
        return Ok(());
    }
    let now = engine.clock().monotonic();
    if let Some((error, tried)) = &state.unstarted
        && now.saturating_sub(*tried) < RESTART
    {
        return Err(error.clone());
    }
    let crew = state.crew;
    let threads = tasks()
        .enumerate()
        .map(|(n, task)| spawn(engine, n, task, crew));
    let mut started = Vec::new();
    for thread in threads {
        match thread {
            Ok(thread) => started.push(thread),
            Err(error) => {
                let path = engine.files.dir.as_path();
                let error = Error::io("start a background thread for", path, error);
                state.unstarted = Some((error.clone(), now));
                state.crew += u64::from(!mutant("half-a-crew"));
                drop(state);
                engine.background.wake_all();
                // They have seen nothing but the lock, which is free now.
                started.into_iter().for_each(|thread| drop(thread.join()));
                return Err(error);
            }
        }
    }
    state.threads = started;
    (state.unstarted, state.started) = (None, true);
    engine.working.store(true, Ordering::Relaxed);
    Ok(())
}

/// The task of each thread.
fn tasks() -> impl Iterator<Item = Task> {
    let single = [Task::Log, Task::Space, Task::Flush];
    single
        .into_iter()
        .chain(std::iter::repeat_n(Task::Compaction, compactors()))
}

fn spawn(
    engine: &Arc<Engine>,
    n: usize,
    task: Task,
    crew: u64,
) -> std::io::Result<thread::JoinHandle<()>> {
    if let Some(spare) = &engine.options.tuning.spare_threads {
        let taken = spare.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        taken.map_err(|_| std::io::Error::from(std::io::ErrorKind::WouldBlock))?;
    }
    // A weak reference: a database whose last handle is gone ends its threads, not they it.
    let engine_of = Arc::downgrade(engine);
    let background = engine.background.clone();
    let first_compactor = tasks().position(|task| task == Task::Compaction);
    let mut worker = Worker {
        engine: engine_of,
        task,
        ticks: first_compactor == Some(n),
        settled: None,
        waker: Waker::from(Arc::new(WakeFlush(background.clone()))),
    };
    let name = format!("terrace-{}", format!("{task:?}").to_lowercase());
    let run = move || {
        let (mut longest, mut retry) = (worker.tick(), RETRY.0);
        while background.sleep(task, crew, longest) {
            match worker.turn() {
                Some(Turn::Sleep(next)) => (longest, retry) = (next, RETRY.0),
                Some(Turn::Failed) => {
                    longest = Some(retry);
                    retry = (retry * 2).min(RETRY.1);
                }
                None => break,
            }
        }
    };
    thread::Builder::new().name(name).spawn(run)
}

enum Turn {
    /// Until the thread is woken, or for at most a time.
    Sleep(Option<Duration>),
    /// A job failed, and is to be tried again.
    Failed,
}

/// What a thread knows from one turn to the next.
struct Worker {
    engine: Weak<Engine>,
    task: Task,
    /// Wakes by itself to see whether the database is idle.
    ticks: bool,
    /// The state of the database in which the last pass over it, when idle, found nothing to do.
    settled: Option<Activity>,
    waker: Waker,
}

/// Changes whenever an idle database may have found something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Activity {
    visible: SeqNo,
    views: u64,
    snapshots: u64,
}

impl Activity {
    fn of(engine: &Engine) -> Activity {
        Activity {
            visible: engine.committer.visible(),
            views: engine.views.installed(),
            snapshots: engine.committer.snapshots.released(),
        }
    }
}

impl Worker {
    fn tick(&self) -> Option<Duration> {
        let often = if mutant("polls-when-idle") { 10 } else { 1 };
        self.ticks.then_some(IDLE / often)
    }

    /// Does what is due; `None` if the thread is to end.
    fn turn(&mut self) -> Option<Turn> {
        let engine = self.engine.upgrade()?;
        if engine.committer.failure().is_some() {
            return Some(Turn::Sleep(None)); // Nothing is written any more.
        }
        let running = &engine.background.running;
        running.fetch_add(1, Ordering::AcqRel);
        let result = catch_unwind(AssertUnwindSafe(|| self.work(&engine)));
        running.fetch_sub(1, Ordering::AcqRel);
        let outcome = result.unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::ReadOnly, "a panic in a background job");
            engine.committer.poison(error.clone());
            Err(error)
        });
        if let Some(cause) = engine.versions.failure() {
            engine.committer.poison(cause);
        }
        let (next, result) = match outcome {
            Ok(next) => (Turn::Sleep(next), Ok(())),
            Err(error) if error.kind() == ErrorKind::Closed => return Some(Turn::Failed),
            Err(error) => (Turn::Failed, Err(error)),
        };
        engine.background.report(self.task, &result);
        Some(next)
    }

    /// How long the thread may sleep afterwards.
    fn work(&mut self, engine: &Engine) -> Result<Option<Duration>> {
        match self.task {
            Task::Log => Ok(sync_log(engine)),
            Task::Space => tend_space(engine).map(|()| None),
            Task::Flush => flush(engine, &self.waker).map(|()| None),
            Task::Compaction => self.compact(engine).map(|()| self.tick()),
        }
    }

    fn compact(&mut self, engine: &Engine) -> Result<()> {
        let before = Activity::of(engine);
        if self.settled == Some(before) && engine.background.lock().hurrying == 0 {
            return Ok(());
        }
        self.settled = None;
        let idle = compact(engine)?;
        if idle && !awaits_expiry(engine) && Activity::of(engine) == before {
            self.settled = Some(before);
        }
        Ok(())
    }
}

fn sync_log(engine: &Engine) -> Option<Duration> {
    let ticket = std::mem::take(&mut engine.background.lock().ticket_waits);
    if ticket {
        thread::sleep(TICKET);
    }
    engine.committer.sync_if_due()
}

fn flush(engine: &Engine, waker: &Waker) -> Result<()> {
    loop {
        let seen = engine.committer.visible();
        while tend_memtable(engine)? {
            engine.background.progressed();
            if stops(&engine.background) {
                return Ok(());
            }
        }
        if !became_visible(engine, seen, waker) {
            return Ok(());
        }
    }
}

fn stops(background: &Background) -> bool {
    background.lock().stop
}

/// Compacts until nothing is due; true if the database is idle.
fn compact(engine: &Engine) -> Result<bool> {
    loop {
        let (hurrying, stop) = {
            let state = engine.background.lock();
            (state.hurrying > 0, state.stop)
        };
        if stop {
            return Ok(false);
        }
        let idle = hurrying || engine.counters.quiet_for(engine.clock().monotonic(), IDLE);
        forget_if_many(engine)?;
        // A caller that waits for the tree to settle gets every merge that is due.
        let compacted = match hurrying {
            true => compact_once(engine, true)?,
            false => compact_if_worth(engine, idle)?,
        };
        if compacted {
            continue;
        }
        if idle {
            flush_expired(engine);
            flush_large(engine);
            flush_deleted(engine)?;
            become_idle(engine)?;
        }
        if (idle || has_many_deletes(engine)) && reclaim_once(engine)? {
            continue;
        }
        if expire_once(engine)? || tend_blobs(engine, idle)? {
            continue;
        }
        return Ok(idle && !hurrying);
    }
}
