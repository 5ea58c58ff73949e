//! The tables that running compactions read
//!
//! Two compactions never share an input. A compaction is picked and its inputs are claimed under
//! the lock of this file, which is held for nothing else: writers and readers never wait for a
//! pick.
//!
//! A caller that compacts a range may find the tables that it needs claimed by the background,
//! which would claim the next ones as soon as it has released those. So while a caller waits, the
//! background claims nothing: the caller waits for the jobs that run, and for no others. The
//! exception is level 0: with four times as many runs as are due it does not wait for callers, of
//! which there may be one after the other.

use std::collections::HashSet;
use std::time::Duration;

use terrace_base::{FileNumber, mutant};
use terrace_compaction::Compaction;

use crate::sync::{Condvar, Mutex, Rank, lock};

/// How long a call sleeps before it looks again, should a signal be missed.
const RECHECK: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct State {
    busy: HashSet<FileNumber>,
    /// Callers that wait for claimed tables.
    waiting: usize,
}

/// The inputs of the running compactions.
#[derive(Debug)]
pub(crate) struct Claims {
    state: Mutex<State>,
    /// Signalled when inputs were released.
    released: Condvar,
}

/// The inputs of one compaction; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Busy<'a> {
    claims: &'a Claims,
    numbers: Vec<FileNumber>,
}

/// A caller that waits for claimed tables.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a Claims);

impl Default for Claims {
    fn default() -> Claims {
        Claims {
            state: Mutex::new(Rank::Claims, State::default()),
            released: Condvar::new(),
        }
    }
}

impl Claims {
    /// Claims the inputs of the compaction that `choose` picks beside the claimed tables. One that
    /// `gives_way` gets nothing while a caller waits.
    pub(crate) fn claim(
        &self,
        gives_way: bool,
        choose: impl FnOnce(&HashSet<FileNumber>) -> Option<Compaction>,
    ) -> Option<(Compaction, Busy<'_>)> {
        let mut state = lock(&self.state);
        if gives_way && state.waiting > 0 {
            return None;
        }
        let compaction = choose(&state.busy)?;
        let numbers: Vec<FileNumber> = compaction.numbers().collect();
        let free = numbers.iter().all(|number| !state.busy.contains(number));
        debug_assert!(free, "a table is claimed twice");
        if !mutant("share-inputs") {
            state.busy.extend(numbers.iter().copied());
        }
        drop(state);
        let claims = self;
        Some((compaction, Busy { claims, numbers }))
    }

    /// Keeps the background from claiming more until this is dropped.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        lock(&self.state).waiting += 1;
        Waiting(self)
    }

    /// Waits until a compaction releases its inputs, at most 50 ms; false if none runs.
    pub(crate) fn wait_for_release(&self) -> bool {
        let state = lock(&self.state);
        if state.busy.is_empty() {
            return false;
        }
        drop(self.released.wait_timeout(state, RECHECK));
        true
    }

    /// Waits until no compaction runs, also none of a caller.
    pub(crate) fn wait_for_all(&self) {
        while self.wait_for_release() {}
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        debug_assert!(state.waiting > 0, "a caller that does not wait has ended");
        state.waiting -= 1;
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.claims.state);
        for number in &self.numbers {
            let was_claimed = state.busy.remove(number) || mutant("share-inputs");
            debug_assert!(was_claimed, "table {number} was released twice");
        }
        drop(state);
        self.claims.released.notify_all();
    }
}
