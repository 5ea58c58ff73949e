//! What the background has to do, who waits for it, and what troubles it.
//!
//! The threads of [`crate::workers`] sleep on one condition variable each and ask the engine what is due when
//! they are woken; this file only wakes, counts and remembers. A failure of a job is kept and shown by
//! `Db::health` until a job of its kind succeeds again; the job is tried again with a growing delay.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use terrace_base::{Error, ErrorKind, FileNumber, Result, SeqNo};

use crate::events::{Plain, event};
use crate::sync::{Condvar, Mutex, MutexGuard, lock};

/// The kinds of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Log,
    Flush,
    Compaction,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) stop: bool,
    /// Something may have become due since the thread last looked.
    pub(crate) log_due: bool,
    pub(crate) flush_due: bool,
    pub(crate) compaction_due: bool,
    pub(crate) ticket_waits: bool,
    /// Flush whatever is sealed up to here.
    pub(crate) flush_upto: SeqNo,
    /// Callers that wait until nothing is due: compaction behaves as if the database were idle.
    pub(crate) hurrying: usize,
    /// Tables that a compaction works on.
    pub(crate) busy: HashSet<FileNumber>,
    /// The last failure of each kind of task.
    log_trouble: Option<Error>,
    flush_trouble: Option<Error>,
    compaction_trouble: Option<Error>,
    fatal: Option<Error>,
    pub(crate) threads: Vec<JoinHandle<()>>,
    pub(crate) started: bool,
}

/// State and signals of the background.
#[derive(Debug, Default)]
pub(crate) struct Background {
    state: Mutex<State>,
    log: Condvar,
    flush: Condvar,
    compaction: Condvar,
    /// Signalled when a job has ended or failed.
    progress: Condvar,
    /// Jobs under way.
    pub(crate) running: AtomicUsize,
}

impl Background {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn wake_all(&self) {
        let mut state = self.lock();
        (state.log_due, state.flush_due, state.compaction_due) = (true, true, true);
        drop(state);
        self.log.notify_all();
        self.flush.notify_all();
        self.compaction.notify_all();
    }

    pub(crate) fn wake_log(&self) {
        self.lock().log_due = true;
        self.log.notify_all();
    }

    pub(crate) fn wake_compaction(&self) {
        self.lock().compaction_due = true;
        self.compaction.notify_all();
    }

    pub(crate) fn ticket_waits(&self) {
        let mut state = self.lock();
        state.ticket_waits = true;
        state.log_due = true;
        drop(state);
        self.log.notify_all();
    }

    pub(crate) fn request_flush(&self, upto: SeqNo) {
        let mut state = self.lock();
        state.flush_upto = state.flush_upto.max(upto);
        state.flush_due = true;
        state.flush_trouble = None; // What comes of this try counts.
        drop(state);
        self.flush.notify_all();
    }

    /// Tells everybody who waits that something has changed.
    pub(crate) fn progressed(&self) {
        // Taking the lock orders this after the check of whoever is about to wait.
        drop(self.lock());
        self.progress.notify_all();
    }

    /// Sleeps until the task is woken, at most `longest`; false if the thread is to end.
    pub(crate) fn sleep(&self, task: Task, longest: Duration) -> bool {
        let mut state = self.lock();
        if !state.stop && !due(&mut state, task) {
            let signal = match task {
                Task::Log => &self.log,
                Task::Flush => &self.flush,
                Task::Compaction => &self.compaction,
            };
            state = match signal.wait_timeout(state, longest) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        due(&mut state, task);
        !state.stop
    }

    /// The result of a job: a failure is shown until the next success.
    pub(crate) fn report(&self, task: Task, result: &Result<()>) {
        let mut state = self.lock();
        let trouble = match task {
            Task::Log => &mut state.log_trouble,
            Task::Flush => &mut state.flush_trouble,
            Task::Compaction => &mut state.compaction_trouble,
        };
        let failed_before = std::mem::replace(trouble, result.as_ref().err().cloned()).is_some();
        drop(state);
        self.progress.notify_all();
        match result {
            Err(error) if !failed_before => event!(
                warn,
                "a background job of kind {task:?} fails, and is tried again: {}",
                Plain(error)
            ),
            Ok(()) if failed_before => event!(info, "background jobs of kind {task:?} work again"),
            _ => {}
        }
    }

    /// Nothing goes on from here.
    pub(crate) fn fail(&self, cause: &Error) {
        self.lock().fatal.get_or_insert(cause.clone());
        self.progress.notify_all();
    }

    /// What keeps the background from its work.
    pub(crate) fn trouble(&self) -> Option<Error> {
        let state = self.lock();
        let all = [
            &state.fatal,
            &state.flush_trouble,
            &state.compaction_trouble,
            &state.log_trouble,
        ];
        all.into_iter().flatten().next().cloned()
    }

    /// True while a flush or a merge could not be written for want of space.
    pub(crate) fn lacks_space(&self) -> bool {
        let state = self.lock();
        let troubles = [&state.flush_trouble, &state.compaction_trouble];
        troubles
            .into_iter()
            .flatten()
            .any(|error| error.kind() == ErrorKind::NoSpace)
    }

    /// Sleeps until `done`, or until what has to do it fails: flushes, and for `Task::Compaction` compactions too.
    pub(crate) fn wait_for(&self, task: Task, done: impl Fn() -> bool) -> Result<()> {
        loop {
            let state = self.lock();
            if done() {
                return Ok(());
            }
            if state.stop {
                return Err(Error::new(
                    ErrorKind::Closed,
                    "the database was closed meanwhile",
                ));
            }
            let compaction = state
                .compaction_trouble
                .as_ref()
                .filter(|_| task == Task::Compaction);
            let flush = state.flush_trouble.as_ref();
            if let Some(error) = state.fatal.as_ref().or(flush).or(compaction) {
                return Err(error.clone());
            }
            // The bound covers a job whose condition became true without a signal.
            let waited = self.progress.wait_timeout(state, Duration::from_millis(50));
            drop(waited.map_err(|poisoned| poisoned.into_inner()));
        }
    }

    /// Waits a moment for a compaction to free its tables; false if none is at work.
    pub(crate) fn wait_for_a_table(&self) -> bool {
        let state = self.lock();
        if state.busy.is_empty() {
            return false;
        }
        let waited = self.progress.wait_timeout(state, Duration::from_millis(50));
        drop(waited.map_err(|poisoned| poisoned.into_inner()));
        true
    }

    /// Waits until no compaction works on a table, also one that a caller runs.
    pub(crate) fn wait_for_jobs(&self) {
        while self.wait_for_a_table() {}
    }

    /// As [`Background::wait_for`], and until no job runs, with compaction working as if idle meanwhile.
    pub(crate) fn hurry_while(&self, done: impl Fn() -> bool) -> Result<()> {
        {
            let mut state = self.lock();
            state.hurrying += 1;
            state.compaction_due = true;
            state.compaction_trouble = None; // What comes of this try counts.
        }
        self.compaction.notify_all();
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
            std::mem::take(&mut state.threads)
        };
        for signal in [&self.log, &self.flush, &self.compaction, &self.progress] {
            signal.notify_all();
        }
        let this = std::thread::current().id();
        for thread in threads {
            // A worker that held the last reference cannot wait for itself.
            if thread.thread().id() != this && thread.join().is_err() {
                // The panic was reported where it happened: the job's guard made the database read-only.
            }
        }
    }
}

/// Takes the task's flag.
fn due(state: &mut State, task: Task) -> bool {
    let flag = match task {
        Task::Log => &mut state.log_due,
        Task::Flush => &mut state.flush_due,
        Task::Compaction => &mut state.compaction_due,
    };
    std::mem::take(flag)
}
