//! Signals between the callers and the background threads, and the failures of background jobs
//!
//! Each thread of [`crate::jobs::workers`] sleeps on the condition variable of its [`Task`] and
//! asks the engine what is due when it wakes. This file only wakes, counts and remembers. A failure
//! of a job is kept, and shown by `Db::health`, until a job of its kind succeeds; the job is
//! retried with a growing delay.
//!
//! No code of a caller runs under the lock of this file, and no other lock is taken under it: a
//! condition that [`Background::wait_for`] waits for is evaluated between two looks at a counter of
//! progress.

use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;

use terrace_base::{Error, ErrorKind, Result, SeqNo, mutant};

use crate::logging::{Plain, event};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, Rank, lock};

/// How often a waiting call looks again if it missed a signal.
const RECHECK: Duration = Duration::from_millis(50);

/// The kinds of background thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Syncs the log for tickets and `Durability::Interval`. Does nothing else, so that no sync is
    /// late.
    Log,
    /// Unlinks obsolete files and prepares log segments and the disk reserve.
    Space,
    /// Turns sealed lists into images, folds images, flushes them to level 0.
    Flush,
    /// Runs compactions, and the work of an idle database.
    Compaction,
}

const TASKS: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) stop: bool,
    /// By task: something may have become due since its thread last looked.
    due: [bool; TASKS],
    /// A ticket waits for a sync that no caller may lead.
    pub(crate) ticket_waits: bool,
    /// Flush whatever is sealed up to here.
    pub(crate) flush_upto: SeqNo,
    /// Callers that wait until nothing is due: compaction behaves as if the database were idle.
    pub(crate) hurrying: usize,
    /// By task: the last failure of a job.
    troubles: [Option<Error>; TASKS],
    /// Why the threads could not be started, and when that was tried.
    pub(crate) unstarted: Option<(Error, Duration)>,
    fatal: Option<Error>,
    /// Counts the signals on `progress`.
    progressed: u64,
    pub(crate) threads: Vec<JoinHandle<()>>,
    /// The threads that belong to this number run. It changes when a start fails half-way, which
    /// ends those that had been started.
    pub(crate) crew: u64,
    pub(crate) started: bool,
}

/// State and signals of the background.
#[derive(Debug)]
pub(crate) struct Background {
    state: Mutex<State>,
    signals: [Condvar; TASKS],
    /// Signalled when a job has ended or failed.
    progress: Condvar,
    /// Jobs in progress.
    pub(crate) running: AtomicUsize,
}

impl Default for Background {
    fn default() -> Background {
        Background {
            state: Mutex::new(Rank::Background, State::default()),
            signals: Default::default(),
            progress: Condvar::new(),
            running: AtomicUsize::new(0),
        }
    }
}

impl Background {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn signal(&self, task: Task) -> &Condvar {
        let [log, space, flush, compaction] = &self.signals;
        match task {
            Task::Log => log,
            Task::Space => space,
            Task::Flush => flush,
            Task::Compaction => compaction,
        }
    }

    /// Has the threads of `task` look for work.
    pub(crate) fn wake(&self, task: Task) {
        *self.lock().due_flag(task) = true;
        self.signal(task).notify_all();
    }

    /// Has the log's thread sync for a ticket, unless a caller does so first.
    pub(crate) fn ticket_waits(&self) {
        let mut state = self.lock();
        state.ticket_waits = true;
        *state.due_flag(Task::Log) = true;
        drop(state);
        self.signal(Task::Log).notify_all();
    }

    pub(crate) fn request_flush(&self, upto: SeqNo) {
        let mut state = self.lock();
        state.flush_upto = state.flush_upto.max(upto);
        *state.due_flag(Task::Flush) = true;
        *state.trouble_of(Task::Flush) = None; // Only the result of this try counts.
        drop(state);
        self.signal(Task::Flush).notify_all();
    }

    /// Wakes every call that waits for a job, to look again.
    pub(crate) fn progressed(&self) {
        self.lock().progressed += 1;
        self.progress.notify_all();
    }

    /// Sleeps until the task is woken, at most `longest`; false if the thread is to end.
    pub(crate) fn sleep(&self, task: Task, crew: u64, longest: Option<Duration>) -> bool {
        let ends = |state: &State| state.stop || state.crew != crew;
        let mut state = self.lock();
        if !ends(&state) && (!*state.due_flag(task) || mutant("sleep-though-due")) {
            let signal = self.signal(task);
            state = match longest {
                None => signal.wait(state),
                Some(longest) => signal.wait_timeout(state, longest),
            };
        }
        *state.due_flag(task) = false;
        !ends(&state)
    }

    /// Keeps the result of a job: a failure is shown until the next success.
    pub(crate) fn report(&self, task: Task, result: &Result<()>) {
        let mut state = self.lock();
        let failure = result.as_ref().err().cloned();
        let failed_before = std::mem::replace(state.trouble_of(task), failure).is_some();
        if result.is_err() || failed_before {
            state.progressed += 1;
        }
        drop(state);
        self.progress.notify_all();
        match result {
            Err(error) if !failed_before => event!(
                warn,
                "a background job of kind {task:?} failed and will be retried: {}",
                Plain(error)
            ),
            Ok(()) if failed_before => event!(info, "background jobs of kind {task:?} work again"),
            _ => {}
        }
    }

    /// Records a fatal error; every waiting call fails with it.
    pub(crate) fn fail(&self, cause: &Error) {
        let mut state = self.lock();
        state.fatal.get_or_insert(cause.clone());
        state.progressed += 1;
        drop(state);
        self.progress.notify_all();
    }

    /// What keeps the background from its work.
    pub(crate) fn trouble(&self) -> Option<Error> {
        let state = self.lock();
        let unstarted = state.unstarted.as_ref().map(|(error, _)| error);
        let [log, space, flush, compaction] = &state.troubles;
        let all = [
            state.fatal.as_ref(),
            unstarted,
            flush.as_ref(),
            compaction.as_ref(),
            log.as_ref(),
            space.as_ref(),
        ];
        all.into_iter().flatten().next().cloned()
    }

    /// True while a flush or a merge could not be written for want of space.
    pub(crate) fn lacks_space(&self) -> bool {
        let mut state = self.lock();
        [Task::Flush, Task::Compaction].into_iter().any(|task| {
            let trouble = state.trouble_of(task).as_ref();
            trouble.is_some_and(|error| error.kind() == ErrorKind::NoSpace)
        })
    }

    /// Sleeps until `done`, or until the jobs that it depends on fail: flushes, and for
    /// `Task::Compaction` compactions too. `done` runs under no lock.
    pub(crate) fn wait_for(&self, task: Task, done: impl Fn() -> bool) -> Result<()> {
        loop {
            let mut seen = self.lock().progressed;
            let held = mutant("wait-under-lock").then(|| self.lock());
            if done() {
                return Ok(());
            }
            drop(held);
            if mutant("missed-progress") {
                seen = self.lock().progressed;
            }
            let state = self.lock();
            if let Some(error) = state.obstacle(task) {
                return Err(error);
            }
            if state.progressed == seen {
                drop(self.progress.wait_timeout(state, RECHECK));
            }
        }
    }

    /// As [`Background::wait_for`] for compactions, until no job runs; compaction works as if idle
    /// meanwhile.
    pub(crate) fn hurry_while(&self, done: impl Fn() -> bool) -> Result<()> {
        {
            let mut state = self.lock();
            state.hurrying += 1;
            *state.trouble_of(Task::Compaction) = None; // Only the result of this try counts.
        }
        self.wake(Task::Compaction);
        let result = self.wait_for(Task::Compaction, || {
            self.running.load(Ordering::Acquire) == 0 && done()
        });
        self.lock().hurrying -= 1;
        result
    }

    /// Ends the threads and waits for them.
    pub(crate) fn stop(&self) {
        let threads = {
            let mut state = self.lock();
            state.stop = true;
            state.progressed += 1;
            std::mem::take(&mut state.threads)
        };
        self.wake_all();
        let this = thread::current().id();
        for thread in threads {
            // A worker that held the last reference cannot wait for itself.
            if thread.thread().id() != this && thread.join().is_err() {
                // The panic was reported where it happened: the job's guard made the database
                // read-only.
            }
        }
    }

    /// Wakes every thread and every waiting call.
    pub(crate) fn wake_all(&self) {
        self.signals.iter().for_each(Condvar::notify_all);
        self.progress.notify_all();
    }
}

impl State {
    fn due_flag(&mut self, task: Task) -> &mut bool {
        let [log, space, flush, compaction] = &mut self.due;
        match task {
            Task::Log => log,
            Task::Space => space,
            Task::Flush => flush,
            Task::Compaction => compaction,
        }
    }

    fn trouble_of(&mut self, task: Task) -> &mut Option<Error> {
        let [log, space, flush, compaction] = &mut self.troubles;
        match task {
            Task::Log => log,
            Task::Space => space,
            Task::Flush => flush,
            Task::Compaction => compaction,
        }
    }

    /// Why a call that waits for `task` waits in vain.
    fn obstacle(&self, task: Task) -> Option<Error> {
        if self.stop {
            let text = "the database was closed during the call";
            return Some(Error::new(ErrorKind::Closed, text));
        }
        let unstarted = self.unstarted.as_ref().map(|(error, _)| error);
        let [_, _, flush, compaction] = &self.troubles;
        let compaction = compaction.as_ref().filter(|_| task == Task::Compaction);
        let unstarted = unstarted.filter(|_| !mutant("wait-for-nobody"));
        let first = self.fatal.as_ref().or(unstarted).or(flush.as_ref());
        first.or(compaction).cloned()
    }
}

/// Wakes the flush thread when a list that it waits for has become visible.
#[derive(Debug)]
pub(crate) struct WakeFlush(pub(crate) Arc<Background>);

impl Wake for WakeFlush {
    fn wake(self: Arc<Self>) {
        self.0.wake(Task::Flush);
    }
}
