//! The point index of a table that takes little memory: left in the file, and read page by page.
//!
//! Where tables are read by `pread` a point index takes 5 bytes of memory a key. If there is no
//! room for that, only what verifies it is kept: a checksum of each page of 4 KiB of the section,
//! taken while the section as a whole is verified. A look-up then reads the page that its bucket
//! lies in, which the system's page cache mostly holds, and verifies it.
//!
//! ```text
//! section   | header bucket bucket .. | bucket ..      | ..        |      in the file
//! memory    | crc of 4 KiB            | crc of 4 KiB   | crc       |      a thousandth of it
//! ```
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use terrace_base::checksum::crc32;
use terrace_base::error::{Error, Result};
use terrace_base::hash::seeded;
use terrace_base::key::{SeqNo, UserKey};
use terrace_base::vfs::File;

use crate::block::Record;
use crate::point_index::{
    BUCKET_LEN, HEADER_LEN, MAX_PROBES, PointIndex, RECORD_BITS, SLOTS, home, matches,
    overflow_bit, tag, word,
};
use crate::reader::Table;
use crate::value::{Found, Value};

/// Bytes that are verified at once; whole buckets.
const PAGE: usize = 4096;
const _: () = assert!(PAGE.is_multiple_of(BUCKET_LEN) && HEADER_LEN.is_multiple_of(BUCKET_LEN));

/// A point index that lies in its file.
#[derive(Debug)]
pub(crate) struct PagedIndex {
    seed: u64,
    location_bits: u32,
    count: usize,
    /// Where the section begins in the file, and its length.
    offset: u64,
    len: usize,
    /// Checksums of its pages.
    sums: Box<[u32]>,
}

impl PagedIndex {
    /// The section at `offset` of the file of a table of `blocks` blocks; it was read and verified.
    pub fn new(section: &Bytes, offset: u64, blocks: usize) -> Result<PagedIndex> {
        let (seed, location_bits, count) = PointIndex::decode(section, blocks, true)?.shape();
        Ok(PagedIndex {
            seed,
            location_bits,
            count,
            offset,
            len: section.len(),
            sums: section.chunks(PAGE).map(crc32).collect(),
        })
    }

    /// The places where the key with this hash may be: blocks, and where the record starts in their
    /// raw form.
    pub fn probe(&self, file: &File, hash: u64) -> Result<Vec<(usize, usize)>> {
        let hash = seeded(hash, self.seed);
        let (tag, overflow) = (tag(hash, self.location_bits), overflow_bit(hash));
        let mut at = home(hash, self.count);
        let mut page = (usize::MAX, Vec::new());
        let mut found = Vec::new();
        for _ in 0..MAX_PROBES.min(self.count) {
            let start = HEADER_LEN + at * BUCKET_LEN;
            if page.0 != start / PAGE {
                page = (start / PAGE, self.read_page(file, start / PAGE)?);
            }
            let rest = page.1.get(start % PAGE..).unwrap_or_default();
            let Some(bucket) = rest.first_chunk() else {
                break;
            };
            let mut matches = matches(bucket, tag, u32::MAX << self.location_bits);
            while matches != 0 {
                let location = word(bucket, matches.trailing_zeros() as usize) ^ tag;
                let record = location & ((1 << RECORD_BITS) - 1);
                found.push(((location >> RECORD_BITS) as usize, record as usize * 8));
                matches &= matches - 1;
            }
            if word(bucket, SLOTS) & overflow == 0 {
                break;
            }
            at = (at + 1) % self.count;
        }
        Ok(found)
    }

    fn read_page(&self, file: &File, page: usize) -> Result<Vec<u8>> {
        let start = page * PAGE;
        let mut bytes = vec![0; self.len.saturating_sub(start).min(PAGE)];
        let offset = self.offset + start as u64;
        file.read_exact_at(&mut bytes, offset)?;
        if self.sums.get(page) != Some(&crc32(&bytes)) {
            let text = "a page of the point index does not verify";
            return Err(Error::corruption(text).in_file(file.path(), offset));
        }
        Ok(bytes)
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> u64 {
        (size_of::<PagedIndex>() + size_of_val(&*self.sums)) as u64
    }
}

impl Table {
    /// The newest version of `key` at or before `at`, by an index that lies in the file.
    #[cold]
    pub(crate) fn get_by_pages(
        &self,
        index: &PagedIndex,
        key: &UserKey<'_>,
        hash: u64,
        at: SeqNo,
    ) -> Result<Option<Found<'_>>> {
        for (block, pos) in self.probe_pages(index, hash)? {
            let reference = self.block(block)?;
            let record = match Record::at(reference.bytes(), pos) {
                Some(record) if record.key == key.bytes && self.is_in(block, *key) => record,
                _ => continue,
            };
            if record.seq() > at {
                return self.get_by_fences(*key, at);
            }
            let (seq, kind) = (record.seq(), record.kind());
            let (start, len) = (record.value_start(pos), record.value.len());
            let value = Value::new(reference, start, len);
            return Ok(Some(Found { seq, kind, value }));
        }
        Ok(None)
    }

    /// The places where the key with this hash may be.
    pub(crate) fn probe_pages(&self, index: &PagedIndex, hash: u64) -> Result<Vec<(usize, usize)>> {
        match self.file() {
            Some(file) => index.probe(file, hash),
            None => Err(Error::corruption(
                "a table without a file has its index in one",
            )),
        }
    }
}

#[cfg(test)]
#[path = "paged_index_tests.rs"]
mod tests;
