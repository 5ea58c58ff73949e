//! Tables that may be closed again: for data much larger than memory.
//!
//! An open table takes memory: what is noted of each block and, where it is not mapped, its fences
//! and its point index. The first tables that are read stay open for as long as they are in the
//! tree, and a get finds them without a lock. Once they take 3/8 of the budget that tables share
//! with the block cache, any further table is *lent*: it lies here, and when all open tables take
//! more than half of the budget, those that were not read lately are closed (CLOCK). A reader holds
//! what it reads, so that a table which leaves this list is closed when its last reader is done.
//!
//! ```text
//! budget   |  kept: up to 3/8  | lent: up to 1/2 |  blocks: the rest, 1/2 at least  |
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use terrace_base::FileNumber;
use terrace_sstable::Table;

/// The tables lent now. No other lock is taken under its own.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    seats: HashMap<FileNumber, Seat>,
    ring: Vec<FileNumber>,
    hand: usize,
}

#[derive(Debug)]
struct Seat {
    table: Arc<Table>,
    used: AtomicBool,
}

impl Lent {
    /// The table `number`, if it is here.
    pub(crate) fn get(&self, number: FileNumber) -> Option<Arc<Table>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let seat = inner.seats.get(&number)?;
        if !seat.used.load(Ordering::Relaxed) {
            seat.used.store(true, Ordering::Relaxed);
        }
        Some(seat.table.clone())
    }

    /// Adds a table, and closes others while `is_full`.
    pub(crate) fn insert(&self, number: FileNumber, table: Arc<Table>, is_full: impl Fn() -> bool) {
        let mut steps = usize::MAX;
        while steps > 0 && is_full() {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            steps = steps.min(2 * inner.ring.len()).saturating_sub(1);
            let closed = inner.step();
            drop(inner);
            drop(closed); // Closing takes time, and is done outside of the lock.
        }
        let used = AtomicBool::new(false);
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner.seats.insert(number, Seat { table, used }).is_none() {
            inner.ring.push(number);
        }
    }

    /// Lets a table go.
    pub(crate) fn remove(&self, number: FileNumber) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let gone = inner.seats.remove(&number);
        if gone.is_some() {
            inner.ring.retain(|other| *other != number);
        }
        drop(inner);
        drop(gone);
    }
}

impl Inner {
    /// Moves the hand by one; the table that it takes out, if it was not read since the hand was
    /// last there.
    fn step(&mut self) -> Option<Arc<Table>> {
        if self.hand >= self.ring.len() {
            self.hand = 0;
        }
        let number = *self.ring.get(self.hand)?;
        let seat = self.seats.get(&number)?;
        if seat.used.swap(false, Ordering::Relaxed) {
            self.hand += 1;
            return None;
        }
        self.ring.swap_remove(self.hand);
        self.seats.remove(&number).map(|seat| seat.table)
    }
}
