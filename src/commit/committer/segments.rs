//! Segments for the log, made outside of the commit lock, and the ends of writing: gate and close

use terrace_base::{ErrorKind, Result};
use terrace_wal::{Log, Room};

use crate::commit::committer::{Committer, Gate, PanicGuard, closed, wait};
use crate::sync::lock;

impl Committer {
    /// Makes the next segment and hands it to the log, unless another writer did meanwhile.
    pub(super) fn make_segment(&self, min_size: u64, len: usize) -> Result<()> {
        let _making = lock(&self.making_segment);
        {
            let state = lock(&self.state);
            state.check()?;
            if matches!(state.log.room_for(len), Room::Fits) {
                return Ok(());
            }
        }
        self.hand_over_segment(min_size, false)?;
        self.env.spare_used();
        Ok(())
    }

    /// REQUIRES: `making_segment` is held.
    fn hand_over_segment(&self, min_size: u64, ahead: bool) -> Result<()> {
        match self.env.make_segment(min_size, ahead) {
            Ok((segment, edit)) => {
                let taken = lock(&self.state).log.put_spare(segment.clone(), edit);
                if taken.is_err() {
                    self.env.return_segment(&segment);
                }
                taken
            }
            Err(error) => {
                // `close` ends the manifest's edits: a write that was making a segment then came
                // too late.
                if let Some(refusal) = &lock(&self.state).refusal {
                    return Err(refusal.clone());
                }
                if error.kind() == ErrorKind::ReadOnly {
                    self.poison(error.clone()); // The manifest failed.
                }
                Err(error)
            }
        }
    }

    /// Prepares a spare segment ahead of need, for the log's thread.
    pub(crate) fn ensure_spare(&self) -> Result<()> {
        let _making = lock(&self.making_segment);
        {
            let state = lock(&self.state);
            if state.failed.is_some() || state.refusal.is_some() || state.log.has_spare() {
                return Ok(());
            }
        }
        self.hand_over_segment(0, true)
    }

    /// Runs `with` on the log, for what concerns its segments.
    pub(crate) fn with_log<R>(&self, with: impl FnOnce(&mut Log) -> R) -> R {
        with(&mut lock(&self.state).log)
    }

    /// Ends the log with the frame that says that it ended well; false if it needed none. REQUIRES:
    /// `finish_writes`.
    pub(crate) fn close_log(&self, manifest_edit: u64) -> Result<bool> {
        let _guard = PanicGuard::new(self);
        let mut state = lock(&self.state);
        let last = state.appended;
        match state.log.close(last, manifest_edit) {
            Ok(written) => Ok(written),
            Err(error) => Err(self.fail_and_unlock(state, error)),
        }
    }

    /// Lets no write be appended until the guard is dropped.
    pub(crate) fn shut_gate(&self) -> Result<Gate<'_>> {
        let mut state = lock(&self.state);
        while state.gate_shut {
            state.check()?;
            state = wait(&self.synced, state);
        }
        state.check()?;
        state.gate_shut = true;
        Ok(Gate(self))
    }

    /// Refuses writes from now on, and touches nothing.
    pub(crate) fn refuse(&self) {
        lock(&self.state).refusal = Some(closed());
    }
}
