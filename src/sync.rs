//! Locks and atomics of the concurrent parts: the standard library's, or the schedule checker's.
//!
//! Under `--cfg terrace_shuttle` the same code runs on shuttle's types, so that a test can drive it through chosen
//! schedules. Every lock that is held while another of these is taken must come from here: a thread that
//! waits for a lock which the checker does not know stops all of them.

#[cfg(not(terrace_shuttle))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(terrace_shuttle)]
pub(crate) use shuttle::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(not(terrace_shuttle))]
pub(crate) use arc_swap_cell::ArcCell;
#[cfg(terrace_shuttle)]
pub(crate) use mutex_cell::ArcCell;

/// Locks `mutex`, also after a panic under it: whoever must not go on then asks [`std::thread::panicking`]
/// on the way out, as the commit path does, and leaves a state that says so.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Gives the processor away once, for a wait of microseconds.
pub(crate) fn yield_now() {
    #[cfg(not(terrace_shuttle))]
    std::thread::yield_now();
    #[cfg(terrace_shuttle)]
    shuttle::thread::yield_now();
}

#[cfg(not(terrace_shuttle))]
mod arc_swap_cell {
    use std::ops::Deref;
    use std::sync::Arc;

    /// A shared pointer that readers take without a lock or a shared counter.
    #[derive(Debug)]
    pub(crate) struct ArcCell<T>(arc_swap::ArcSwap<T>);

    impl<T> ArcCell<T> {
        pub(crate) fn new(value: Arc<T>) -> ArcCell<T> {
            ArcCell(arc_swap::ArcSwap::new(value))
        }

        /// Borrows the present value; cheap, and never blocks a store.
        #[inline]
        pub(crate) fn load(&self) -> impl Deref<Target = Arc<T>> + use<T> {
            self.0.load()
        }

        pub(crate) fn load_full(&self) -> Arc<T> {
            self.0.load_full()
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            self.0.store(value);
        }
    }
}

#[cfg(terrace_shuttle)]
mod mutex_cell {
    use std::ops::Deref;
    use std::sync::Arc;

    use super::{Mutex, lock};

    #[derive(Debug)]
    pub(crate) struct ArcCell<T>(Mutex<Arc<T>>);

    struct Held<T>(Arc<T>);

    impl<T> Deref for Held<T> {
        type Target = Arc<T>;
        fn deref(&self) -> &Arc<T> {
            &self.0
        }
    }

    impl<T> ArcCell<T> {
        pub(crate) fn new(value: Arc<T>) -> ArcCell<T> {
            ArcCell(Mutex::new(value))
        }

        pub(crate) fn load(&self) -> impl Deref<Target = Arc<T>> + use<T> {
            Held(self.load_full())
        }

        pub(crate) fn load_full(&self) -> Arc<T> {
            lock(&self.0).clone()
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            *lock(&self.0) = value;
        }
    }
}
