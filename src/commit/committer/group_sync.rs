//! Waiting for the disk: who syncs the log, for whom, and when.
//!
//! A thread that waits and finds no sync in flight leads one, outside of the lock, for all that
//! have appended by then; the others sleep until it has ended. On a machine of few cores this alone
//! gives groups of 1, 7, 1, 7, ...: the leader's own next write comes back first and goes off
//! alone. So a leader whose predecessor served several gives the processor away for up to 15 us
//! until as many have appended again.

use std::task::Waker;
use std::time::Duration;

use terrace_base::{Result, SeqNo, mutant};
use terrace_wal::Lsn;

use crate::commit::committer::{Committer, PanicGuard, State, closed, read_only, unlock, wait};
use crate::sync::{MutexGuard, Ordering, lock, yield_now};

/// How long a leader waits for the writers of the last group to come back.
const GATHER: Duration = Duration::from_micros(15);
/// How often it gives the processor away meanwhile at most: a clock of a test may stand still.
const GATHER_YIELDS: usize = 100;

impl Committer {
    /// Under `Interval`: leads or joins a sync while the oldest unsynced write is older than
    /// allowed.
    pub(super) fn wait_while_too_old(
        &self,
        state: MutexGuard<'_, State>,
        longest: Duration,
    ) -> Result<()> {
        let too_old = |state: &State| {
            let now = self.clock.monotonic();
            // What a sync has only begun to cover is not on disk.
            let oldest = state.oldest_syncing.or(state.oldest_unsynced);
            oldest.is_some_and(|then| now.saturating_sub(then) > longest)
        };
        if !too_old(&state) || mutant("interval-without-end") {
            return Ok(());
        }
        self.wait_until(state, |state| !too_old(state))
    }

    /// Waits until everything up to `last` is visible.
    pub(crate) fn wait_visible(&self, last: SeqNo) -> Result<()> {
        if self.visible() >= last {
            return Ok(());
        }
        let state = lock(&self.state);
        self.wait_until(state, |_| self.visible() >= last)
    }

    /// Waits until all that was appended before the call is durable.
    pub(crate) fn sync(&self) -> Result<()> {
        let state = lock(&self.state);
        state.check()?;
        if mutant("sync-without-sync") {
            return Ok(());
        }
        let end = state.log.end();
        self.wait_until(state, |state| state.log.synced() >= end)
    }

    /// True once the log is durable up to `end`.
    pub(crate) fn is_durable(&self, end: Lsn) -> bool {
        lock(&self.state).log.synced() >= end
    }

    /// Registers `waker` for when `last` is visible; the result if that is decided already.
    pub(crate) fn poll_visible(&self, last: SeqNo, waker: &Waker) -> Option<Result<()>> {
        let mut state = lock(&self.state);
        if self.visible() >= last {
            return Some(Ok(()));
        }
        if let Some(cause) = &state.failed {
            return Some(Err(read_only(cause)));
        }
        state
            .wakers
            .retain(|(seq, known)| *seq != last || !known.will_wake(waker));
        state.wakers.push((last, waker.clone()));
        None
    }

    /// Leads syncs, or sleeps while another thread does, until `done`.
    pub(super) fn wait_until<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        done: impl Fn(&State) -> bool,
    ) -> Result<()> {
        let _guard = PanicGuard::new(self);
        let mut state = state; // Unlocked before the guard goes.
        loop {
            if done(&state) {
                return Ok(());
            }
            if let Some(cause) = &state.failed {
                if mutant("ack-failed-sync") {
                    return Ok(());
                }
                return Err(read_only(cause));
            }
            state = if state.syncing {
                wait(&self.synced, state)
            } else {
                self.lead_sync(state)
            };
        }
    }

    /// Syncs everything appended so far. REQUIRES: no sync in flight.
    fn lead_sync<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.syncing = true;
        if state.last_group > 1 && state.pending.len() < state.last_group {
            let wanted = state.last_group as u64;
            drop(state);
            let start = self.clock.monotonic();
            for _ in 0..GATHER_YIELDS {
                if self.waiting.load(Ordering::Relaxed) >= wanted
                    || self.clock.monotonic().saturating_sub(start) >= GATHER
                {
                    break;
                }
                yield_now();
            }
            state = lock(&self.state);
        }
        let point = state.log.sync_point();
        state.oldest_syncing = state.oldest_unsynced.take();
        state.sync_at = None;
        drop(state);
        // What a promise of the log covers may refer to blob files.
        let result = self.env.sync_blobs().and_then(|()| point.run());
        state = lock(&self.state);
        (state.syncing, state.oldest_syncing) = (false, None);
        match result {
            Ok(()) if state.failed.is_none() => {
                state.log.note_synced(point.upto);
                let before = state.pending.len();
                while state
                    .pending
                    .front()
                    .is_some_and(|first| first.end <= point.upto)
                {
                    state.pending.pop_front();
                }
                state.last_group = before - state.pending.len();
                self.waiting
                    .store(state.pending.len() as u64, Ordering::Relaxed);
                self.publish(&mut state);
            }
            Ok(()) => {}
            Err(error) => {
                self.fail(&mut state, error);
            }
        }
        if !mutant("lose-wakeup") {
            self.synced.notify_all();
        }
        if state.woken.is_empty() && state.untold.is_none() {
            return state;
        }
        unlock(state);
        lock(&self.state)
    }

    /// For the log's thread: syncs if a write waits for one; how long until it should look again,
    /// if a write is due by then. A sync in flight may have begun before the write that waits: then
    /// another one follows.
    pub(crate) fn sync_if_due(&self) -> Option<Duration> {
        let state = lock(&self.state);
        if state.failed.is_some() || state.refusal.is_some() {
            return None;
        }
        let left = state
            .sync_at
            .map(|at| at.saturating_sub(self.clock.monotonic()));
        let due = !state.pending.is_empty() || left.is_some_and(|left| left.is_zero());
        if !due {
            return left;
        }
        if state.syncing && mutant("one-sync-for-all") {
            drop(wait(&self.synced, state));
            return None;
        }
        let end = state.log.end();
        if self
            .wait_until(state, |state| state.log.synced() >= end)
            .is_err()
        {
            return None; // The failure is kept, and every write gets it.
        }
        let state = lock(&self.state);
        let at = state.sync_at;
        at.map(|at| at.saturating_sub(self.clock.monotonic()))
    }

    /// Unsynced bytes that tickets may pile up before `submit` waits.
    pub(crate) fn wait_for_room(&self, most: u64) -> Result<()> {
        let state = lock(&self.state);
        self.wait_until(state, |state| {
            state.log.end().0 - state.log.synced().0 <= most
        })
    }

    /// Refuses writes from now on, and syncs everything appended, unless the log failed.
    pub(crate) fn finish_writes(&self) -> Result<()> {
        let mut state = lock(&self.state);
        state.refusal = Some(closed());
        if state.failed.is_some() || mutant("close-without-sync") {
            return Ok(());
        }
        let end = state.log.end();
        self.wait_until(state, |state| state.log.synced() >= end)
    }
}
