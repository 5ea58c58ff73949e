//! Lock, atomics and slots of the block cache: the system's, or the schedule checker's
//!
//! In tests of this crate under `--cfg terrace_shuttle` they are shuttle's, so that a test can
//! drive the cache through chosen schedules: what the engine has in `src/sync.rs`. A slot is a lock
//! there, for shuttle knows no arc-swap. The engine's schedules run on the ordinary ones: a table
//! is opened under a lock that the checker does not know, so no thread may have to wait for another
//! thread in here.

#[cfg(not(all(test, terrace_shuttle)))]
use std::sync as system;

#[cfg(not(all(test, terrace_shuttle)))]
pub(crate) use arc_swap::{ArcSwapOption as Slot, Guard};
#[cfg(all(test, terrace_shuttle))]
pub(crate) use mutex_slot::{Guard, Slot};
#[cfg(all(test, terrace_shuttle))]
use shuttle::sync as system;
pub(crate) use system::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use system::{Mutex, MutexGuard};

/// Lets another thread go on, under the schedule checker alone: where threads can meet without a
/// lock or an atomic.
#[inline]
pub(crate) fn meet() {
    #[cfg(all(test, terrace_shuttle))]
    AtomicU64::new(0).load(Ordering::SeqCst);
}

#[cfg(all(test, terrace_shuttle))]
mod mutex_slot {
    use std::ops::Deref;
    use std::sync::{Arc, PoisonError};

    use super::{Mutex, MutexGuard};

    /// As `ArcSwapOption`, of which it has what the cache uses.
    #[derive(Debug)]
    pub(crate) struct Slot<T>(Mutex<Option<Arc<T>>>);

    /// What was in a slot.
    #[derive(Debug)]
    pub(crate) struct Guard<T>(T);

    impl<T> Deref for Guard<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> Slot<T> {
        pub(crate) fn empty() -> Slot<T> {
            Slot(Mutex::new(None))
        }

        fn lock(&self) -> MutexGuard<'_, Option<Arc<T>>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn load(&self) -> Guard<Option<Arc<T>>> {
            Guard(self.load_full())
        }

        pub(crate) fn load_full(&self) -> Option<Arc<T>> {
            self.lock().clone()
        }

        pub(crate) fn store(&self, value: Option<Arc<T>>) {
            drop(self.swap(value));
        }

        pub(crate) fn swap(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
            std::mem::replace(&mut *self.lock(), value)
        }
    }
}
