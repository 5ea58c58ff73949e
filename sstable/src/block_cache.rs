//! The block cache: blocks in raw form that do not lie in a map.
//!
//! Each table has one slot per block, an `ArcSwapOption`: a hit is one load, no hash, no lock, no
//! shared counter. The cache itself knows only the resident blocks, in a ring (CLOCK): when a new
//! block exceeds the budget, the hand goes round, clears the mark of blocks that were used since
//! its last visit, and drops those that were not. A block that is still read stays alive through
//! its `Arc`.
//!
//! Invariants, under the ring's lock: each filled slot has one entry in the ring, and `used` is the
//! sum of their sizes. An entry whose slot is empty, or whose table is gone, is *dead* and counts
//! for nothing. A table that is dropped empties its slots, which frees its blocks; the dead entries
//! leave the ring when half of the ring is dead, or when the hand meets them. Only the slot tells
//! whether an entry is dead: a table can still be reached for a moment after it has emptied them.

use std::sync::{Arc, PoisonError, Weak};

use bytes::Bytes;
use terrace_base::mutant;

use crate::sync::{AtomicBool, AtomicU64, Guard, Mutex, MutexGuard, Ordering, Slot, meet};

/// What an entry costs beside its bytes: the block's allocation headers, its ring entry.
const OVERHEAD: u64 = 128;

/// A block in raw form.
#[derive(Debug)]
pub(crate) struct CachedBlock {
    pub bytes: Bytes,
    used: AtomicBool,
}

impl CachedBlock {
    pub fn new(bytes: Bytes) -> CachedBlock {
        CachedBlock {
            bytes,
            used: AtomicBool::new(false),
        }
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64 + OVERHEAD
    }
}

/// The slots of one table.
#[derive(Debug)]
struct Slots {
    blocks: Box<[Slot<CachedBlock>]>,
}

#[derive(Debug)]
struct Entry {
    table: Weak<Slots>,
    block: u32,
    size: u64,
}

#[derive(Debug, Default)]
struct Ring {
    entries: Vec<Entry>,
    hand: usize,
    /// Entries whose slot was emptied by the table's end.
    dead: usize,
}

impl Slots {
    /// Empties a slot; what was in it.
    fn take(&self, block: u32) -> Option<Arc<CachedBlock>> {
        self.blocks.get(block as usize)?.swap(None)
    }

    fn is_filled(&self, block: u32) -> bool {
        let slot = self.blocks.get(block as usize);
        slot.is_some_and(|slot| slot.load().is_some())
    }

    /// True if the block was used since this was asked last.
    fn was_used(&self, block: u32) -> bool {
        let slot = self.blocks.get(block as usize);
        let cached = slot.map(|slot| slot.load());
        cached.is_some_and(|cached| {
            cached
                .as_ref()
                .is_some_and(|cached| cached.used.swap(false, Ordering::Relaxed))
        })
    }
}

/// Decoded blocks of all tables, within a budget of bytes that they share with what open tables
/// hold themselves.
#[derive(Debug)]
pub struct BlockCache {
    capacity: AtomicU64,
    /// Sum of the sizes in the ring. Written under its lock.
    used: AtomicU64,
    /// What open tables hold beside their blocks.
    charged: AtomicU64,
    ring: Mutex<Ring>,
}

impl BlockCache {
    /// A cache that holds up to `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Arc<BlockCache> {
        Arc::new(BlockCache {
            capacity: AtomicU64::new(capacity_bytes),
            used: AtomicU64::new(0),
            charged: AtomicU64::new(0),
            ring: Mutex::default(),
        })
    }

    /// What blocks and open tables may take together, in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Bytes that open tables hold beside their blocks: fences and point indexes that do not lie in
    /// a map, and what is noted of each block.
    pub fn charged(&self) -> u64 {
        self.charged.load(Ordering::Relaxed)
    }

    /// What blocks may take now.
    fn budget(&self) -> u64 {
        self.capacity().saturating_sub(self.charged())
    }

    /// Takes `bytes` from what blocks may use, for as long as the charge lives.
    pub(crate) fn charge(self: &Arc<BlockCache>, bytes: u64) -> Charge {
        self.charged.fetch_add(bytes, Ordering::Relaxed);
        self.shrink(&mut self.lock());
        let cache = Arc::clone(self);
        Charge { cache, bytes }
    }

    /// Bytes of blocks held now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Changes the budget; what exceeds it goes at once.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.capacity.store(capacity_bytes, Ordering::Relaxed);
        self.shrink(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, table: &Arc<Slots>, block: u32, cached: Arc<CachedBlock>) {
        let size = cached.size();
        if size > self.budget() / 4 {
            return; // One block shall not drive out the rest.
        }
        let Some(slot) = table.blocks.get(block as usize) else {
            return;
        };
        let mut ring = self.lock();
        if slot.load().is_some() && !mutant("cache-twice") {
            return; // Another reader was faster.
        }
        slot.store(Some(cached));
        ring.entries.push(Entry {
            table: Arc::downgrade(table),
            block,
            size,
        });
        self.used.fetch_add(size, Ordering::Relaxed);
        self.shrink(&mut ring);
    }

    fn give_back(&self, size: u64) {
        let before = self.used.fetch_sub(size, Ordering::Relaxed);
        debug_assert!(before >= size, "{size} bytes given back of {before}");
    }

    /// Drops blocks until the rest is within the budget.
    fn shrink(&self, ring: &mut Ring) {
        if ring.dead * 2 > ring.entries.len() {
            ring.entries.retain(|entry| {
                let table = entry.table.upgrade();
                table.is_some_and(|table| table.is_filled(entry.block))
            });
            ring.dead = 0;
        }
        while self.used() > self.budget() {
            if ring.hand >= ring.entries.len() {
                ring.hand = 0;
            }
            let Some(entry) = ring.entries.get(ring.hand) else {
                return;
            };
            let table = entry.table.upgrade();
            if table
                .as_ref()
                .is_some_and(|table| table.was_used(entry.block))
            {
                ring.hand += 1;
                continue;
            }
            match table.and_then(|table| table.take(entry.block)) {
                Some(_) => self.give_back(entry.size),
                // Its bytes were given back already.
                None => ring.dead = ring.dead.saturating_sub(1),
            }
            ring.entries.swap_remove(ring.hand);
        }
    }
}

/// Memory of an open table, taken from what blocks may use.
#[derive(Debug)]
pub(crate) struct Charge {
    cache: Arc<BlockCache>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.cache.charged.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a table keeps of the cache.
#[derive(Debug)]
pub(crate) struct TableCache {
    slots: Arc<Slots>,
    cache: Arc<BlockCache>,
}

impl TableCache {
    /// Slots for a table of `blocks` blocks.
    pub fn new(cache: &Arc<BlockCache>, blocks: usize) -> TableCache {
        TableCache {
            slots: Arc::new(Slots {
                blocks: (0..blocks).map(|_| Slot::empty()).collect(),
            }),
            cache: Arc::clone(cache),
        }
    }

    /// The block, if it is resident; marks it as used.
    #[inline]
    pub fn get(&self, block: usize) -> Option<Guard<Option<Arc<CachedBlock>>>> {
        let guard = self.slots.blocks.get(block)?.load();
        let cached = guard.as_ref()?;
        if !cached.used.load(Ordering::Relaxed) {
            cached.used.store(true, Ordering::Relaxed);
        }
        Some(guard)
    }

    /// Makes the block resident, if the budget allows.
    pub fn insert(&self, block: usize, bytes: Bytes) {
        let cached = Arc::new(CachedBlock::new(bytes));
        self.cache.insert(&self.slots, block as u32, cached);
    }

    /// Bytes of memory held beside the blocks.
    pub fn memory(&self) -> u64 {
        size_of_val(&*self.slots.blocks) as u64
    }
}

impl Drop for TableCache {
    fn drop(&mut self) {
        // Each slot is emptied under the lock, so that its bytes are given back once: the ring may
        // reach the slots until the last `Arc` of them is gone, which is after the lock is
        // released.
        let mut freed = Vec::new();
        let mut ring = self.cache.lock();
        for block in 0..self.slots.blocks.len() {
            let held = match mutant("give-back-twice") {
                true => self.slots.blocks.get(block).and_then(Slot::load_full),
                false => self.slots.take(block as u32),
            };
            if let Some(cached) = held {
                self.cache.give_back(cached.size());
                ring.dead += 1;
                freed.push(cached);
            }
        }
        drop(ring); // Memory is freed outside of the lock.
        meet(); // The slots go after this.
    }
}

#[cfg(test)]
#[path = "block_cache_tests.rs"]
mod tests;
