//! Whose turn it is to publish an ingest

use crate::sync::{Condvar, Mutex, Rank, lock};

/// Whose turn it is to publish an ingest, and to write its tables again if that comes too late.
///
/// It is no lock: merge operators may run meanwhile, which are the caller's code.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Turns given out, and turns that have ended: first come, first served.
    state: Mutex<(u64, u64)>,
    ended: Condvar,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            state: Mutex::new(Rank::Leaf, (0, 0)),
            ended: Condvar::new(),
        }
    }
}

impl Turns {
    /// Waits for a turn, which ends with what is returned.
    pub(crate) fn take(&self) -> Turn<'_> {
        let mut state = lock(&self.state);
        let mine = state.0;
        state.0 += 1;
        while state.1 != mine {
            state = self.ended.wait(state);
        }
        Turn(self)
    }
}

pub(crate) struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).1 += 1;
        self.0.ended.notify_all();
    }
}
