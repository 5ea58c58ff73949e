//! "Not here" without a search: a small Bloom filter over the keys of one list.
//!
//! A key sets two bits of one 64-bit word, so a probe reads one word. There are 4 bytes for each
//! key that fits the list, 64 KiB at most: with 16 K keys in 64 KiB about one absent key in 250
//! passes. There is one inserter at a time, so plain loads and stores suffice; the store that
//! publishes a sequence number orders them before any reader that could look for its key.

use std::sync::atomic::{AtomicU64, Ordering};

const MOST_WORDS: usize = 8192;
/// An entry of a list takes 128 bytes at least, and a word is for two of them.
const LIST_BYTES_PER_WORD: usize = 256;

#[derive(Debug)]
pub(super) struct Filter {
    /// Their number is a power of two.
    words: Box<[AtomicU64]>,
    mask: usize,
}

impl Filter {
    /// A filter for a list that is sealed at `list_bytes` bytes.
    pub(super) fn new(list_bytes: usize) -> Filter {
        let words = (list_bytes / LIST_BYTES_PER_WORD).clamp(64, MOST_WORDS);
        let words = words.next_power_of_two();
        Filter {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            mask: words - 1,
        }
    }

    /// Memory that it holds.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    #[inline]
    fn word_and_bits(&self, hash: u64) -> Option<(&AtomicU64, u64)> {
        let bits = (1 << ((hash >> 13) & 63)) | (1 << ((hash >> 19) & 63));
        self.words
            .get(hash as usize & self.mask)
            .map(|word| (word, bits))
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
        self.word_and_bits(hash)
            .is_none_or(|(word, bits)| word.load(Ordering::Relaxed) & bits == bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_may_be_there_and_little_else() {
        let hash = |i: u64| terrace_base::hash::seeded(i, 7);
        // As many keys as the smallest entries that fit; of a large list no more than it may have.
        for (list_bytes, keys) in [(64 << 10, 512), (256 << 10, 2048), (2 << 20, 16_384)] {
            let filter = Filter::new(list_bytes);
            assert!(filter.bytes() * 32 <= list_bytes);
            (0..keys).for_each(|i| filter.insert(hash(i)));
            assert!((0..keys).all(|i| filter.may_contain(hash(i))));
            let absent = 20_000..120_000;
            let false_hits = absent.filter(|&i| filter.may_contain(hash(i))).count();
            assert!(false_hits < 1_000, "{false_hits} of 100,000");
        }
    }
}
