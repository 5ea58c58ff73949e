//! The filter of a table that has no point index: "not here" without a read of a block.
//!
//! ```text
//! section := lines:u32 0:u32 seed:u64 zero{48} line{lines}         64-aligned in the file
//! line    := word:u64{8}                                           512 bits
//! ```
//!
//! With h = `seeded(key_hash(key), seed)`, the line of a key is (h * lines) >> 64. Its 6 bits there
//! are (a + i * b) mod 512 for i from 0 to 5, where a is the low half of h and b its high half,
//! made odd. A line has 40 keys on average, which is 12.8 bits a key: about 1 absent key in 100
//! needs a look. This is a Bloom filter in blocks of one cache line (Putze, Sanders and Singler,
//! "Cache-, hash- and space-efficient Bloom filters", 2007).
//!
//! A table has one where the point index cannot be: with more blocks than that can name, or with so
//! many keys of one hash that they find no place in it. Merges end tables before they have too many
//! blocks, so it is for tables that cannot be cut: images of a whole log, a key with very many
//! versions, hashes that were made to collide. The section is optional: a reader that does not know
//! it searches by the fences.
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use terrace_base::coding::{Decoder, put_u32, put_u64};
use terrace_base::error::{Error, Result};
use terrace_base::hash::seeded;

const WORDS: usize = 8;
const LINE_LEN: usize = WORDS * size_of::<u64>();
const HEADER_LEN: usize = LINE_LEN;
const LINE_BITS: u64 = LINE_LEN as u64 * 8;
const KEYS_OF_LINE: usize = 40;
const PROBES: u64 = 6;

#[inline]
fn line_of(hash: u64, lines: usize) -> usize {
    ((u128::from(hash) * lines as u128) >> 64) as usize
}

/// Word and bit of each probe.
#[inline]
fn probes(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    let (a, b) = (hash & 0xffff_ffff, (hash >> 32) | 1);
    (0..PROBES).map(move |i| {
        let bit = a.wrapping_add(i.wrapping_mul(b)) % LINE_BITS;
        ((bit / 64) as usize, 1 << (bit % 64))
    })
}

/// The payload of the section for keys with these hashes, which `seed` has gone into.
pub(crate) fn encode(seed: u64, hashes: impl ExactSizeIterator<Item = u64>) -> Option<Vec<u8>> {
    let count = hashes.len().div_ceil(KEYS_OF_LINE).max(1);
    let mut lines = vec![[0u64; WORDS]; count];
    for hash in hashes {
        let line = lines.get_mut(line_of(hash, count))?;
        for (word, bit) in probes(hash) {
            *line.get_mut(word)? |= bit;
        }
    }
    let mut out = Vec::with_capacity(HEADER_LEN + count * LINE_LEN);
    put_u32(&mut out, u32::try_from(count).ok()?);
    put_u32(&mut out, 0);
    put_u64(&mut out, seed);
    out.resize(HEADER_LEN, 0);
    for word in lines.as_flattened() {
        put_u64(&mut out, *word);
    }
    Some(out)
}

/// The filter of an open table.
#[derive(Debug)]
pub(crate) struct Filter {
    seed: u64,
    count: usize,
    section: Bytes,
    mapped: bool,
}

impl Filter {
    /// Reads the section, which is kept: a slice of a map if `mapped`.
    pub fn decode(section: &Bytes, mapped: bool) -> Result<Filter> {
        let mut decoder = Decoder::new(section);
        let (count, zero, seed) = (decoder.u32()? as usize, decoder.u32()?, decoder.u64()?);
        let len = count
            .checked_mul(LINE_LEN)
            .and_then(|len| len.checked_add(HEADER_LEN));
        if len != Some(section.len()) || count == 0 || zero != 0 {
            return Err(Error::corruption("the filter has another length"));
        }
        Ok(Filter {
            seed,
            count,
            section: section.clone(),
            mapped,
        })
    }

    /// False only if the table has no key with this hash.
    pub fn may_contain(&self, hash: u64) -> bool {
        let hash = seeded(hash, self.seed);
        let at = HEADER_LEN + line_of(hash, self.count) * LINE_LEN;
        let line = self.section.get(at..).unwrap_or(&[]);
        let words = line.as_chunks::<8>().0;
        probes(hash).all(|(word, bit)| {
            let word = words.get(word).map_or(0, |word| u64::from_le_bytes(*word));
            word & bit != 0
        })
    }

    /// Bytes of anonymous memory held.
    pub fn memory(&self) -> u64 {
        match self.mapped {
            true => 0,
            false => self.section.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn every_key_passes_and_few_others() {
        for count in [1usize, 40, 41, 10_000, 300_000] {
            let mut random = Random(count as u64);
            let keys: Vec<u64> = (0..count).map(|_| random.next()).collect();
            let section = encode(7, keys.iter().map(|key| seeded(*key, 7))).unwrap();
            let filter = Filter::decode(&Bytes::from(section), false).unwrap();
            assert!(keys.iter().all(|key| filter.may_contain(*key)));
            let wrong = (0..10_000).filter(|_| filter.may_contain(random.next()));
            let wrong = wrong.count();
            assert!(wrong < 250, "{wrong} of 10,000 among {count}");
            assert!(filter.memory() as usize <= HEADER_LEN + LINE_LEN + count * 64 / 40);
        }
    }

    #[test]
    fn a_filter_of_another_length_is_refused() {
        let section = encode(7, [1, 2].into_iter()).unwrap();
        for (at, byte) in [(0, 2), (0, 0), (4, 1)] {
            let mut wrong = section.clone();
            if let Some(place) = wrong.get_mut(at) {
                *place = byte;
            }
            Filter::decode(&Bytes::from(wrong), false).unwrap_err();
        }
        for len in 0..section.len() {
            let cut = section.get(..len).unwrap().to_vec();
            Filter::decode(&Bytes::from(cut), false).unwrap_err();
        }
    }
}
