//! The point index: from the hash of a user key to its newest version, in about one cache line.
//!
//! ```text
//! section  := seed:u64 buckets:u32 location_bits:u32 zero{48} bucket{buckets}        64-aligned in the file
//! bucket   := slot:u32{15} overflow:u32                                              64 bytes
//! slot     := 0 (free) | fingerprint << location_bits | location
//! location := block << 10 | where the record starts in the raw block / 8
//! ```
//!
//! With h = `seeded(key_hash(key), seed)`, the home of a key is bucket (h * buckets) >> 64, its
//! fingerprint the low (32 - location_bits) bits of h, or 1 if they are all zero, and its overflow
//! bit number (h >> 32) mod 32. A key whose home is full goes to the next bucket with a free slot,
//! around the end if need be, at most 31 buckets on, and its overflow bit is set in every bucket
//! that it passed. So a reader looks into the home, and continues only while the bit is set.
//! Buckets are filled to 12.5 keys on average: 19 % overflow, but by few keys, and about one
//! look-up in 60 sees a second line. In one large table of 70 some key finds no place so; then
//! there are more buckets, by an eighth each time.
//!
//! Each user key has one slot, whichever keyspace it is in. The table that has too many blocks for
//! the location to leave 9 bits of fingerprint, or a key that found no place even then, has no
//! index, and a filter ([`crate::filter`]) in its place.
//!
//! Example: seed 0, one bucket, 10 location bits, and the key `terrace` of keyspace 0 as the first
//! record, at byte 40, of block 0: h = seeded(0xCDDC9E8EF76ED303, 0), fingerprint = h & 0x3fffff,
//! slot 0 of bucket 0 is fingerprint << 10 | 5.
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use terrace_base::coding::{Decoder, put_u32, put_u64};
use terrace_base::error::{Error, Result};
use terrace_base::hash::seeded;
use terrace_base::mutant;
use terrace_base::prefetch::prefetch;

use crate::filter;

pub(crate) const SLOTS: usize = 15;
pub(crate) const BUCKET_LEN: usize = (SLOTS + 1) * size_of::<u32>();
pub(crate) const HEADER_LEN: usize = BUCKET_LEN;
const _: () = assert!(BUCKET_LEN == 64);
/// Keys in 2 buckets.
const FILL_OF_TWO: usize = 25;
/// How often there are more buckets, by an eighth of those at first.
const GROWTHS: usize = 2;
/// How many buckets a key may be looked for in.
pub(crate) const MAX_PROBES: usize = 32;

/// Bits of a location that name a record within its block.
pub(crate) const RECORD_BITS: u32 = 10;
/// A table with more blocks has no index, but a filter.
pub(crate) const MAX_BLOCKS: usize = 8192;
const MAX_LOCATION_BITS: u32 = RECORD_BITS + MAX_BLOCKS.trailing_zeros();

#[inline]
pub(crate) fn home(hash: u64, buckets: usize) -> usize {
    ((u128::from(hash) * buckets as u128) >> 64) as usize
}

/// The fingerprint in its place above the location.
#[inline]
pub(crate) fn tag(hash: u64, location_bits: u32) -> u32 {
    let fingerprint = (hash as u32) & (u32::MAX >> location_bits);
    fingerprint.max(1) << location_bits
}

#[inline]
pub(crate) fn overflow_bit(hash: u64) -> u32 {
    1 << ((hash >> 32) & 31)
}

/// Gathers the keys of a table.
#[derive(Debug)]
pub(crate) struct IndexBuilder {
    seed: u64,
    keys: Vec<(u64, u32)>,
}

impl IndexBuilder {
    pub fn new(seed: u64) -> IndexBuilder {
        IndexBuilder {
            seed,
            keys: Vec::new(),
        }
    }

    /// Adds the key with this hash, whose newest version starts at byte `pos` of the raw block
    /// `block`.
    #[inline]
    pub fn push(&mut self, hash: u64, block: usize, pos: usize) {
        // Of a block that cannot be named only the hash counts: then there is no index.
        let location = (block << RECORD_BITS) | (pos / 8);
        if self.keys.len() == self.keys.capacity() {
            self.grow();
        }
        self.keys.push((seeded(hash, self.seed), location as u32));
    }

    /// Grows by a quarter, not to twice the size: a job's memory is for the keys, not for room.
    #[cold]
    fn grow(&mut self) {
        self.keys.reserve_exact((self.keys.len() / 4).max(1024));
    }

    /// Bytes of memory held.
    #[inline]
    pub fn memory(&self) -> u64 {
        (self.keys.capacity() * size_of::<(u64, u32)>()) as u64
    }

    /// The payload of a filter of the keys.
    pub fn encode_filter(&self) -> Option<Vec<u8>> {
        filter::encode(self.seed, self.keys.iter().map(|(hash, _)| *hash))
    }

    /// About how long the section will be.
    pub fn encoded_len(&self) -> u64 {
        (HEADER_LEN + self.keys.len() * 2 * BUCKET_LEN / FILL_OF_TWO) as u64
    }

    /// The payload of the section for a table of `blocks` blocks; `None` if it can have no index.
    pub fn encode(&self, blocks: usize) -> Option<Vec<u8>> {
        if blocks > MAX_BLOCKS || self.keys.is_empty() {
            return None;
        }
        let location_bits = RECORD_BITS + blocks.next_power_of_two().trailing_zeros();
        let count = (self.keys.len() * 2).div_ceil(FILL_OF_TWO);
        let buckets = (0..=GROWTHS)
            .map(|growth| count + (count * growth).div_ceil(8))
            .find_map(|count| self.place_all(count, location_bits))?;
        let mut out = Vec::with_capacity(HEADER_LEN + buckets.len() * BUCKET_LEN);
        put_u64(&mut out, self.seed);
        put_u32(&mut out, u32::try_from(buckets.len()).ok()?);
        put_u32(&mut out, location_bits);
        out.resize(HEADER_LEN, 0);
        for word in buckets.as_flattened() {
            put_u32(&mut out, *word);
        }
        Some(out)
    }

    /// All keys in `count` buckets, unless one finds no place.
    fn place_all(&self, count: usize, location_bits: u32) -> Option<Vec<[u32; SLOTS + 1]>> {
        let mut buckets = vec![[0; SLOTS + 1]; count];
        for &(hash, location) in &self.keys {
            place(&mut buckets, hash, tag(hash, location_bits) | location)?;
        }
        Some(buckets)
    }
}

fn place(buckets: &mut [[u32; SLOTS + 1]], hash: u64, slot: u32) -> Option<()> {
    let mut at = home(hash, buckets.len());
    for _ in 0..MAX_PROBES.min(buckets.len()) {
        let (overflow, slots) = buckets.get_mut(at)?.split_last_mut()?;
        if let Some(free) = slots.iter_mut().find(|slot| **slot == 0) {
            *free = slot;
            return Some(());
        }
        if !mutant("lose-overflow-bit") {
            *overflow |= overflow_bit(hash);
        }
        at += 1;
        if at == buckets.len() {
            at = 0;
        }
    }
    None
}

/// A bucket that is one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket([u8; BUCKET_LEN]);

#[derive(Debug)]
enum Buckets {
    /// In a map: whole cache lines there already.
    Mapped(Bytes),
    Owned(Box<[Bucket]>),
}

/// The point index of an open table.
#[derive(Debug)]
pub(crate) struct PointIndex {
    seed: u64,
    location_bits: u32,
    count: usize,
    buckets: Buckets,
}

impl PointIndex {
    /// Reads the section of a table of `blocks` blocks. With `in_place`, `section` is a slice of a
    /// map and is kept, else it is copied.
    pub fn decode(section: &Bytes, blocks: usize, in_place: bool) -> Result<PointIndex> {
        let mut decoder = Decoder::new(section);
        let seed = decoder.u64()?;
        let (count, location_bits) = (decoder.u32()? as usize, decoder.u32()?);
        let len = count.checked_mul(BUCKET_LEN);
        let body = section
            .get(HEADER_LEN..)
            .filter(|body| Some(body.len()) == len && count > 0)
            .ok_or_else(|| Error::corruption("the point index has another length"))?;
        if !(RECORD_BITS..=MAX_LOCATION_BITS).contains(&location_bits) {
            return Err(Error::corruption("the point index has no such locations"));
        }
        if 1 << (location_bits - RECORD_BITS) < blocks {
            return Err(Error::corruption("the point index names too few blocks"));
        }
        let buckets = if in_place {
            Buckets::Mapped(section.slice(HEADER_LEN..))
        } else {
            let chunks = body.as_chunks::<BUCKET_LEN>().0;
            Buckets::Owned(chunks.iter().map(|chunk| Bucket(*chunk)).collect())
        };
        Ok(PointIndex {
            seed,
            location_bits,
            count,
            buckets,
        })
    }

    #[inline]
    fn bucket(&self, i: usize) -> &[u8; BUCKET_LEN] {
        const NOTHING: &[u8; BUCKET_LEN] = &[0; BUCKET_LEN];
        match &self.buckets {
            Buckets::Mapped(bytes) => bytes
                .get(i * BUCKET_LEN..)
                .and_then(|rest| rest.first_chunk())
                .unwrap_or(NOTHING),
            Buckets::Owned(buckets) => buckets.get(i).map_or(NOTHING, |bucket| &bucket.0),
        }
    }

    /// Starts loading the bucket that `probe` will look at.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.bucket(home(seeded(hash, self.seed), self.count)));
    }

    /// The places where the key with this hash may be.
    #[inline]
    pub fn probe(&self, hash: u64) -> Probe<'_> {
        let hash = seeded(hash, self.seed);
        let at = home(hash, self.count);
        let bucket = self.bucket(at);
        let tag = tag(hash, self.location_bits);
        Probe {
            index: self,
            tag,
            overflow: overflow_bit(hash),
            matches: matches(bucket, tag, u32::MAX << self.location_bits),
            bucket,
            at,
            left: MAX_PROBES.min(self.count) as u32,
        }
    }

    /// The seed, how many bits a location has, and how many buckets there are.
    pub fn shape(&self) -> (u64, u32, usize) {
        (self.seed, self.location_bits, self.count)
    }

    /// Bytes of anonymous memory held.
    pub fn memory(&self) -> u64 {
        match &self.buckets {
            Buckets::Mapped(_) => 0,
            Buckets::Owned(buckets) => size_of_val(&**buckets) as u64,
        }
    }
}

/// Bit i is set if slot i has the fingerprint. Written so that it compiles to vector instructions.
#[inline]
pub(crate) fn matches(bucket: &[u8; BUCKET_LEN], tag: u32, mask: u32) -> u32 {
    let mut found = 0;
    for (i, word) in bucket.as_chunks::<4>().0.iter().enumerate() {
        let equal = u32::from_le_bytes(*word) & mask == tag;
        found |= if equal { 1 << i } else { 0 };
    }
    found & ((1 << SLOTS) - 1)
}

#[inline]
pub(crate) fn word(bucket: &[u8; BUCKET_LEN], i: usize) -> u32 {
    bucket
        .as_chunks::<4>()
        .0
        .get(i)
        .map_or(0, |word| u32::from_le_bytes(*word))
}

/// Walks over the places where a key may be.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    index: &'a PointIndex,
    bucket: &'a [u8; BUCKET_LEN],
    at: usize,
    left: u32,
    tag: u32,
    overflow: u32,
    matches: u32,
}

impl Iterator for Probe<'_> {
    /// Block, and where the record starts in its raw form.
    type Item = (usize, usize);

    #[inline]
    fn next(&mut self) -> Option<(usize, usize)> {
        loop {
            if self.matches != 0 {
                let slot = self.matches.trailing_zeros();
                self.matches &= self.matches - 1;
                let location = word(self.bucket, slot as usize) ^ self.tag;
                let record = location & ((1 << RECORD_BITS) - 1);
                return Some(((location >> RECORD_BITS) as usize, record as usize * 8));
            }
            if word(self.bucket, SLOTS) & self.overflow == 0 || self.left <= 1 {
                return None;
            }
            self.left -= 1;
            self.at += 1;
            if self.at == self.index.count {
                self.at = 0;
            }
            self.bucket = self.index.bucket(self.at);
            let mask = u32::MAX << self.index.location_bits;
            self.matches = matches(self.bucket, self.tag, mask);
        }
    }
}

#[cfg(test)]
#[path = "point_index_tests.rs"]
mod tests;
