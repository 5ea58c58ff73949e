//! "Not here" without a search: a small Bloom filter over the keys of one list.
//!
//! A key sets two bits of one 64-bit word, so a probe reads one word. With 16 K keys in 64 KiB about one
//! absent key in 250 passes. There is one inserter at a time, so plain loads and stores suffice; the store
//! that publishes a sequence number orders them before any reader that could look for its key.

use std::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = 8192;

#[derive(Debug)]
pub(super) struct Filter {
    words: Box<[AtomicU64]>,
}

impl Filter {
    pub(super) fn new() -> Filter {
        Filter { words: (0..WORDS).map(|_| AtomicU64::new(0)).collect() }
    }

    #[inline]
    fn word_and_bits(&self, hash: u64) -> Option<(&AtomicU64, u64)> {
        let bits = (1 << ((hash >> 13) & 63)) | (1 << ((hash >> 19) & 63));
        self.words.get(hash as usize % WORDS).map(|word| (word, bits))
    }

    /// REQUIRES: one inserter at a time.
    #[inline]
    pub(super) fn insert(&self, hash: u64) {
        if let Some((word, bits)) = self.word_and_bits(hash) {
            word.store(word.load(Ordering::Relaxed) | bits, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        self.word_and_bits(hash).is_none_or(|(word, bits)| word.load(Ordering::Relaxed) & bits == bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_may_be_there_and_little_else() {
        let filter = Filter::new();
        let hash = |i: u64| terrace_base::hash::seeded(i, 7);
        (0..16_384).for_each(|i| filter.insert(hash(i)));
        assert!((0..16_384).all(|i| filter.may_contain(hash(i))));
        let false_hits = (20_000..120_000).filter(|&i| filter.may_contain(hash(i))).count();
        assert!(false_hits < 1_000, "{false_hits} of 100,000");
    }
}
