//! Locks and atomics of the concurrent parts: the standard library's, or the schedule checker's
//!
//! Under `--cfg terrace_shuttle` the same code runs on shuttle's types, so that a test can drive it
//! through chosen schedules. Every lock that is held while another one is taken must come from
//! here: a thread that waits for a lock which the checker does not know stops all of them.
//!
//! Each lock has a [`Rank`], and a thread takes locks in rising order of rank only: so no two
//! threads can wait for each other. A debug build asserts this at every lock.

use std::fmt;
use std::ops::{Deref, DerefMut};
#[cfg(not(terrace_shuttle))]
use std::sync as system;
use std::sync::TryLockError;
#[cfg(not(terrace_shuttle))]
pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
#[cfg(not(terrace_shuttle))]
pub(crate) use std::thread;
use std::time::Duration;

#[cfg(terrace_shuttle)]
use shuttle::sync as system;
#[cfg(terrace_shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
#[cfg(terrace_shuttle)]
pub(crate) use shuttle::thread;

/// The locks of the engine, in the order in which they may be taken.
///
/// None is held while code of the caller runs, and readers wait for none of them but those of a
/// transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// `Transaction::writes`.
    TransactionWrites,
    /// `Transaction::used`.
    TransactionUsed,
    /// `Transaction::reads`.
    TransactionReads,
    /// `Engine::closing`.
    Closing,
    /// `Catalogue::changing`.
    ChangingCatalogue,
    /// `Engine::flushing`.
    Flushing,
    /// `Engine::forgetting`.
    Forgetting,
    /// `Blobs::making`.
    MakingBlob,
    /// `Committer::making_segment`.
    MakingSegment,
    /// `Claims::state`.
    Claims,
    /// `VersionSet::inner`.
    Versions,
    /// `Blobs::syncing`.
    SyncingBlobs,
    /// `Blobs::made`.
    MadeBlobs,
    /// `Blobs::active`.
    ActiveBlob,
    /// `Committer::state`.
    Commit,
    /// `Catalogue::inner`.
    Catalogue,
    /// `KeyspaceState::options`.
    KeyspaceOptions,
    /// `Space::state`.
    Space,
    /// `Views::replaced`.
    Views,
    /// `Blobs::damaged`.
    DamagedBlobs,
    /// `SnapshotList::counts`.
    Snapshots,
    /// `Background::state`.
    Background,
    /// Locks under which no other is taken.
    Leaf,
}

/// A lock with a rank.
pub(crate) struct Mutex<T> {
    inner: system::Mutex<T>,
    rank: Rank,
}

impl<T> Mutex<T> {
    pub(crate) fn new(rank: Rank, value: T) -> Mutex<T> {
        Mutex {
            inner: system::Mutex::new(value),
            rank,
        }
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mutex({:?})", self.rank)
    }
}

/// A lock that is held.
pub(crate) struct MutexGuard<'a, T> {
    inner: system::MutexGuard<'a, T>,
    held: Held,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Locks `mutex`, also after a panic under it: code that must stop then asks
/// [`std::thread::panicking`] on the way out, as the commit path does, and leaves a state that says
/// so.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    let held = Held::new(mutex.rank);
    let locked = mutex.inner.lock();
    let inner = locked.unwrap_or_else(|poisoned| poisoned.into_inner());
    MutexGuard { inner, held }
}

/// Locks `mutex` if it is free. It never waits, so the order of locks does not matter.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    let inner = match mutex.inner.try_lock() {
        Ok(inner) => inner,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    let held = Held::of_any_order(mutex.rank);
    Some(MutexGuard { inner, held })
}

/// A condition variable of a [`Mutex`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(system::Condvar);

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar(system::Condvar::new())
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { inner, held } = guard;
        let waited = self.0.wait(inner);
        let inner = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        MutexGuard { inner, held }
    }

    /// Under the schedule checker no time passes: who is never woken sleeps for ever, which it
    /// reports.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        longest: Duration,
    ) -> MutexGuard<'a, T> {
        let MutexGuard { inner, held } = guard;
        let waited = self.0.wait_timeout(inner, longest);
        let (inner, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        MutexGuard { inner, held }
    }
}

#[cfg(all(debug_assertions, not(terrace_shuttle)))]
use checked::Held;
#[cfg(not(all(debug_assertions, not(terrace_shuttle))))]
use unchecked::Held;

/// The order of locks, asserted.
#[cfg(all(debug_assertions, not(terrace_shuttle)))]
mod checked {
    use std::cell::RefCell;

    use super::Rank;

    thread_local! {
        /// The ranks of the locks that the thread holds.
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    /// A lock on the list of its thread.
    pub(super) struct Held(Rank);

    impl Held {
        pub(super) fn new(rank: Rank) -> Held {
            // A thread that ends has no list any more.
            let highest = HELD.try_with(|held| held.borrow().iter().max().copied());
            let highest = highest.ok().flatten();
            assert!(
                std::thread::panicking() || highest.is_none_or(|highest| highest < rank),
                "lock order: {rank:?} is taken while {highest:?} is held"
            );
            Held::of_any_order(rank)
        }

        pub(super) fn of_any_order(rank: Rank) -> Held {
            HELD.try_with(|held| held.borrow_mut().push(rank)).ok();
            Held(rank)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let removed = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                if let Some(at) = held.iter().rposition(|rank| *rank == self.0) {
                    held.swap_remove(at);
                }
            });
            removed.ok();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::super::{Mutex, Rank, lock};

        #[test]
        fn locks_are_taken_in_rising_order() {
            let (low, high) = (Mutex::new(Rank::Versions, ()), Mutex::new(Rank::Commit, ()));
            let first = lock(&low);
            drop(lock(&high));
            drop(first);
            drop(lock(&high));
            drop(lock(&low));
        }

        #[test]
        #[should_panic(expected = "lock order: Versions is taken while Some(Commit) is held")]
        fn a_lock_that_is_taken_too_late_is_noticed() {
            let (low, high) = (Mutex::new(Rank::Versions, ()), Mutex::new(Rank::Commit, ()));
            let _second = lock(&high);
            let _first = lock(&low);
        }
    }
}

/// Nothing, in a release build.
#[cfg(not(all(debug_assertions, not(terrace_shuttle))))]
mod unchecked {
    pub(super) struct Held;

    impl Held {
        #[inline]
        pub(super) fn new(_rank: super::Rank) -> Held {
            Held
        }

        #[inline]
        pub(super) fn of_any_order(_rank: super::Rank) -> Held {
            Held
        }
    }
}

#[cfg(not(terrace_shuttle))]
pub(crate) use arc_swap_cell::ArcCell;
#[cfg(terrace_shuttle)]
pub(crate) use mutex_cell::ArcCell;

/// Gives the processor away once, for a wait of microseconds.
pub(crate) fn yield_now() {
    thread::yield_now();
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

    use super::{Mutex, Rank, lock};

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
            ArcCell(Mutex::new(Rank::Leaf, value))
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
