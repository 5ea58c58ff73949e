//! An open table.
//!
//! Opening reads the footer, the fences, the point index and the properties, by `pread` and against
//! their checksums; only then is the file mapped, and its descriptor let go. Where the process can
//! have no further map, the table is read by `pread` whatever was asked for. Data blocks are read
//! as they are needed:
//!
//! ```text
//!             raw block                          packed block
//! map, image  in place                           unpacked into the block cache
//! pread       read into the block cache          read, unpacked into the block cache
//! ```
//!
//! The first use of a block in the life of a `Table` checks its checksum and its whole structure,
//! and a bit remembers that; what is read by `pread` is checked against its checksum each time.
//! Checks are for telling; every access is bounded on its own, so that no content can cause a
//! panic.
//!
//! A look-up of one key asks the point index. Only a reader that must see an older version than the
//! newest, or a table without index, goes through the fences and searches the block.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use terrace_base::error::{Error, Result};
use terrace_base::key::{KeyspaceId, SeqNo, UserKey};
use terrace_base::mutant;
use terrace_base::prefetch::prefetch;
use terrace_base::vfs::File;

use crate::block::{self, Header, RawBlock, Record, unpack};
use crate::block_cache::{BlockCache, Charge, TableCache};
use crate::fence::Fences;
use crate::filter::Filter;
use crate::iterator::TableIter;
use crate::open::{self, Parts, Source, read_file};
use crate::options::{Compression, IoMode};
use crate::paged_index::PagedIndex;
use crate::point_index::PointIndex;
use crate::properties::TableInfo;
use crate::value::{BlockRef, Found, Value};

/// An open table. Immutable; many threads may read it at once.
#[derive(Debug)]
pub struct Table {
    info: TableInfo,
    fences: Fences,
    index: Option<PointIndex>,
    /// In place of an index, where that is to take little memory.
    paged: Option<Box<PagedIndex>>,
    filter: Option<Filter>,
    /// The map or the image.
    memory: Option<Bytes>,
    /// `None` for an image.
    file: Option<File>,
    /// No block is packed.
    all_raw: bool,
    /// All blocks are of the keyspace of the smallest key.
    one_keyspace: bool,
    /// A bit for each block that was checked.
    verified: Box<[AtomicU64]>,
    /// `None` where all blocks are read in place.
    cache: Option<TableCache>,
    /// What it takes of the cache's budget; nothing for an image, which its owner counts.
    charge: Option<Charge>,
    /// How much of it a scan reads at once.
    chunk: usize,
}

/// A scan reads so much at once, and less where that is more than a share of the memory for blocks:
/// a merge scans dozens of tables.
const LARGEST_CHUNK: u64 = 256 << 10;
const SMALLEST_CHUNK: u64 = 16 << 10;
const CHUNK_SHARE: u64 = 160;

/// What errors call a table that has no file.
pub(crate) const IN_MEMORY: &str = "(table in memory)";

impl Table {
    /// Opens `file`, whose random number is `id` and whose length is `size`.
    pub fn open(
        file: File,
        id: u64,
        size: u64,
        io: IoMode,
        cache: &Arc<BlockCache>,
    ) -> Result<Table> {
        Table::open_file(file, id, size, io, cache, false)
    }

    /// Opens `file` with as little in memory as can be: reads of single keys take a read of
    /// the file more.
    pub fn open_lean(
        file: File,
        id: u64,
        size: u64,
        io: IoMode,
        cache: &Arc<BlockCache>,
    ) -> Result<Table> {
        Table::open_file(file, id, size, io, cache, true)
    }

    /// About how much memory a table takes that is open and not lean, in bytes.
    pub fn memory_of(info: &TableInfo, io: IoMode) -> u64 {
        let key_len = info.smallest.as_ref().bytes.len() as u64;
        let indexed = match io {
            IoMode::Mmap => 0,
            IoMode::Pread => info.entries * 16 / 3 + info.blocks * (26 + key_len),
        };
        let slots = match (io, info.compression) {
            (IoMode::Mmap, Compression::None) => 0,
            _ => info.blocks * size_of::<usize>() as u64,
        };
        size_of::<Table>() as u64 + indexed + slots + info.blocks / 8
    }

    fn open_file(
        file: File,
        id: u64,
        size: u64,
        io: IoMode,
        cache: &Arc<BlockCache>,
        lean: bool,
    ) -> Result<Table> {
        let found = file.len()?;
        if found != size {
            let message = format!("the table has {found} bytes, not {size}");
            return Err(Error::corruption(message).in_file(file.path(), found.min(size)));
        }
        let parts = open::open(Source::File(file), id, size, io, lean)?;
        let mut table = Table::new(parts, cache);
        table.charge = Some(cache.charge(table.memory()));
        Ok(table)
    }

    /// Opens the table in `bytes`.
    pub fn open_image(bytes: Bytes, id: u64, cache: &Arc<BlockCache>) -> Result<Table> {
        let size = bytes.len() as u64;
        let parts = open::open(Source::Image(bytes), id, size, IoMode::Mmap, false)?;
        Ok(Table::new(parts, cache))
    }

    fn new(parts: Parts, cache: &Arc<BlockCache>) -> Table {
        let Parts {
            info,
            fences,
            index,
            paged,
            filter,
            memory,
            file,
        } = parts;
        let all_raw = fences.kinds().iter().all(|kind| *kind == block::RAW);
        let cached = memory.is_none() || !all_raw;
        let words = fences.len().div_ceil(64);
        Table {
            one_keyspace: info.smallest.keyspace == info.largest.keyspace,
            cache: cached.then(|| TableCache::new(cache, fences.len())),
            verified: (0..words).map(|_| AtomicU64::new(0)).collect(),
            info,
            fences,
            index,
            paged: paged.map(Box::new),
            filter,
            memory,
            file,
            all_raw,
            charge: None,
            chunk: (cache.capacity() / CHUNK_SHARE).clamp(SMALLEST_CHUNK, LARGEST_CHUNK) as usize,
        }
    }

    /// What is known of the table as a whole.
    pub fn info(&self) -> &TableInfo {
        &self.info
    }

    /// The keyspaces that it has entries of.
    pub fn keyspaces(&self) -> BTreeSet<KeyspaceId> {
        self.fences.metas().map(|meta| meta.keyspace).collect()
    }

    /// Starts loading what [`Table::get`] will look at first. `hash` is
    /// [`key_hash`](terrace_base::hash::key_hash) of the key.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        if let Some(index) = &self.index {
            index.prefetch(hash);
        }
    }

    /// The newest version of `key` written at or before `at`, tombstones included. `hash` is
    /// [`key_hash`](terrace_base::hash::key_hash) of the key.
    #[inline]
    pub fn get(&self, key: &UserKey<'_>, hash: u64, at: SeqNo) -> Result<Option<Found<'_>>> {
        let Some(index) = &self.index else {
            return self.get_unindexed(key, hash, at);
        };
        for (block, pos) in index.probe(hash) {
            let reference = self.block(block)?;
            // Most records span two cache lines or three: ask for the next ones along with the
            // first.
            prefetch_lines(reference.bytes(), pos + LINE, 2);
            let record = match Record::at(reference.bytes(), pos) {
                Some(record) if record.key == key.bytes && self.is_in(block, *key) => record,
                _ => continue,
            };
            if record.seq() > at && !mutant("index-ignores-snapshot") {
                return self.get_by_fences(*key, at);
            }
            let (start, len) = (record.value_start(pos), record.value.len());
            return Ok(Some(Found {
                seq: record.seq(),
                kind: record.kind(),
                value: Value::new(reference, start, len),
            }));
        }
        Ok(None)
    }

    #[cold]
    fn get_unindexed(&self, key: &UserKey<'_>, hash: u64, at: SeqNo) -> Result<Option<Found<'_>>> {
        match &self.paged {
            Some(index) => self.get_by_pages(index, key, hash, at),
            None if self.passes_filter(hash) => self.get_by_fences(*key, at),
            None => Ok(None),
        }
    }

    /// True if block `i` is of the keyspace of `key`.
    #[inline]
    pub(crate) fn is_in(&self, i: usize, key: UserKey<'_>) -> bool {
        if self.one_keyspace {
            return key.keyspace == self.info.smallest.keyspace;
        }
        i < self.fences.len() && self.fences.keyspace(i) == key.keyspace
    }

    /// True if a version of `key` is at this place, a block and a byte in it. The block does not
    /// become resident: checking a whole table would evict what others read.
    pub(crate) fn is_at(
        &self,
        key: UserKey<'_>,
        (block, pos): (usize, usize),
        scratch: &mut Vec<u8>,
    ) -> Result<bool> {
        let stored = self.stored(self.block_range(block)?)?;
        let trusted = self.memory.is_some() && self.is_verified(block);
        let raw = self.raw_form(block, stored, trusted, scratch)?;
        self.set_verified(block);
        let record = Record::at(&raw, pos);
        Ok(record.is_some_and(|record| record.key == key.bytes) && self.is_in(block, key))
    }

    /// False only if there is a filter, and it knows no key with this hash.
    #[cold]
    pub(crate) fn passes_filter(&self, hash: u64) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.may_contain(hash))
    }

    #[cold]
    pub(crate) fn get_by_fences(&self, key: UserKey<'_>, at: SeqNo) -> Result<Option<Found<'_>>> {
        let blocks = self.fences.locate(key);
        let mut i = self.block_of_version(&blocks, at)?;
        while i < blocks.end && self.is_in(i, key) {
            let reference = self.block(i)?;
            prefetch_lines(reference.bytes(), 0, SEARCHED_LINES);
            let block = RawBlock::new(reference.bytes())?;
            let n = block.lower_bound(key.bytes, at);
            if let Some(record) = block.record(n) {
                if record.key != key.bytes {
                    return Ok(None);
                }
                let start = record.value_start(block.position(n));
                let (seq, kind, len) = (record.seq(), record.kind(), record.value.len());
                return Ok(Some(Found {
                    seq,
                    kind,
                    value: Value::new(reference, start, len),
                }));
            }
            i += 1; // All versions here are newer; the next block may continue.
        }
        Ok(None)
    }

    /// Among blocks that all begin with the same user key, the last one that begins at or above
    /// `at`; else the first.
    pub(crate) fn block_of_version(&self, blocks: &Range<usize>, at: SeqNo) -> Result<usize> {
        let (mut low, mut high) = (blocks.start + 1, blocks.end);
        while low < high {
            let middle = low + (high - low) / 2;
            let reference = self.block(middle)?;
            let first = RawBlock::new(reference.bytes())?.record(0).map(|r| r.seq());
            if first.is_some_and(|seq| seq >= at) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low - 1)
    }

    /// False only if no version of `key` is in the table. Reads nothing but the index.
    pub fn may_contain(&self, key: UserKey<'_>, hash: u64) -> bool {
        if key < self.info.smallest.as_ref() || key > self.info.largest.as_ref() {
            return false;
        }
        match (&self.index, &self.paged) {
            (Some(index), _) => index.probe(hash).next().is_some(),
            // A page that cannot be read says nothing.
            (None, Some(index)) => self
                .probe_pages(index, hash)
                .map_or(true, |p| !p.is_empty()),
            (None, None) => self.passes_filter(hash),
        }
    }

    /// An iterator that reads in place or through the block cache.
    pub fn iter(self: &Arc<Table>) -> TableIter {
        TableIter::new(Arc::clone(self), false)
    }

    /// An iterator for reading everything once: by `pread` in large pieces, past the block cache,
    /// with every block checked against its checksum.
    pub fn scan(self: &Arc<Table>) -> TableIter {
        TableIter::new(Arc::clone(self), true)
    }

    /// Bytes of anonymous memory held, blocks in the cache aside.
    pub fn memory(&self) -> u64 {
        let image = match (&self.memory, &self.file) {
            (Some(image), None) => image.len() as u64,
            _ => 0,
        };
        let index = self.index.as_ref().map_or(0, PointIndex::memory)
            + self.filter.as_ref().map_or(0, Filter::memory);
        let paged = self.paged.as_ref().map_or(0, |index| index.memory());
        let slots = self.cache.as_ref().map_or(0, TableCache::memory);
        let fixed = size_of::<Table>() + size_of_val(&*self.verified);
        image + index + paged + slots + self.fences.memory() + fixed as u64
    }

    /// Checks everything: every block by `pread`, counts and bounds against the properties, and
    /// that the point index finds the newest version of every key, or that each passes the filter.
    pub fn verify(&self) -> Result<()> {
        crate::verify::verify(self)
    }

    // ---- Blocks.

    pub(crate) fn fences(&self) -> &Fences {
        &self.fences
    }

    pub(crate) fn index(&self) -> Option<&PointIndex> {
        self.index.as_ref()
    }

    /// How much a scan reads at once.
    pub(crate) fn chunk(&self) -> usize {
        self.chunk
    }

    /// The file, unless the table is an image.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Sees to it that the table is read even if its file loses its name.
    pub fn keep(&self) -> Result<()> {
        match (&self.memory, &self.file) {
            (None, Some(file)) => file.keep(),
            _ => Ok(()), // A map needs no file.
        }
    }

    /// After a scan: a table that is mapped needs no descriptor.
    pub(crate) fn rest(&self) {
        if let (Some(_), Some(file)) = (&self.memory, &self.file) {
            file.rest();
        }
    }

    /// Adds path and place of block `i` to an error.
    #[cold]
    pub(crate) fn at_block(&self, i: usize, error: Error) -> Error {
        let path = self.file.as_ref().map_or(Path::new(IN_MEMORY), File::path);
        let offset = self.fences.range(i).map_or(0, |range| range.start as u64);
        error.in_file(path, offset)
    }

    /// Block `i` in raw form.
    #[inline]
    pub(crate) fn block(&self, i: usize) -> Result<BlockRef<'_>> {
        if let Some(table) = &self.memory
            && self.is_raw(i)
        {
            let block = self.fences.range(i).and_then(|range| table.get(range));
            if let Some(block) = block
                && (self.is_verified(i) || self.first_use(i, block)?)
            {
                return Ok(BlockRef::Mapped { table, block });
            }
        }
        self.cached_block(i)
    }

    #[inline]
    fn is_raw(&self, i: usize) -> bool {
        self.all_raw || self.fences.kind(i) == Some(block::RAW)
    }

    #[inline]
    pub(crate) fn is_verified(&self, i: usize) -> bool {
        let word = self.verified.get(i / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (i % 64)) != 0)
    }

    fn set_verified(&self, i: usize) {
        if let Some(word) = self.verified.get(i / 64) {
            word.fetch_or(1 << (i % 64), Ordering::Relaxed);
        }
    }

    #[cold]
    fn first_use(&self, i: usize, stored: &[u8]) -> Result<bool> {
        let header = self.check_stored(i, stored)?;
        self.check_raw(i, stored, &header)?;
        self.set_verified(i);
        Ok(true)
    }

    fn cached_block(&self, i: usize) -> Result<BlockRef<'_>> {
        let Some(cache) = &self.cache else {
            let error = Error::corruption("the point index names a block that is not there");
            return Err(self.at_block(i, error));
        };
        if let Some(guard) = cache.get(i) {
            return Ok(BlockRef::Cached(guard));
        }
        let range = self.block_range(i)?;
        let stored = self.stored(range)?;
        let trusted = self.memory.is_some() && self.is_verified(i);
        let raw = self.raw_form(i, stored, trusted, &mut Vec::new())?;
        self.set_verified(i);
        cache.insert(i, raw.clone());
        Ok(BlockRef::Owned(raw))
    }

    /// These bytes of the file.
    fn stored(&self, range: Range<usize>) -> Result<Bytes> {
        match (&self.memory, &self.file) {
            (Some(memory), _) => Ok(memory.slice(range)),
            (None, Some(file)) => read_file(file, range.start as u64, range.len() as u64),
            (None, None) => Ok(Bytes::new()),
        }
    }

    /// Where block `i` lies.
    pub(crate) fn block_range(&self, i: usize) -> Result<Range<usize>> {
        let range = self.fences.range(i);
        let size = self.info.size;
        range
            .filter(|range| range.end as u64 <= size)
            .ok_or_else(|| {
                let error = Error::corruption("the point index names a block that is not there");
                self.at_block(i, error)
            })
    }

    /// The raw form of `stored`, which is block `i`. Unless it is `trusted` its checksum is
    /// checked, and its structure if that has not happened yet. `scratch` is memory to unpack into.
    pub(crate) fn raw_form(
        &self,
        i: usize,
        stored: Bytes,
        trusted: bool,
        scratch: &mut Vec<u8>,
    ) -> Result<Bytes> {
        let header = match trusted {
            true => Header::decode(&stored),
            false => self.check_stored(i, &stored),
        };
        let header = header.map_err(|error| self.at_block(i, error))?;
        let raw = if header.kind == block::RAW {
            stored
        } else {
            unpack(&stored, &header, scratch)
                .map_err(|error| self.at_block(i, error))?
                .into()
        };
        if !self.is_verified(i) {
            self.check_raw(i, &raw, &header)?;
        }
        Ok(raw)
    }

    /// Checks checksum and header of `stored`, which is block `i`.
    fn check_stored(&self, i: usize, stored: &[u8]) -> Result<Header> {
        let offset = self.block_range(i)?.start as u64;
        let check = || {
            block::check_crc(stored, self.info.id, offset)?;
            let header = Header::decode(stored)?;
            match self.fences.is(i, &header) {
                true => Ok(header),
                false => Err(Error::corruption("a block is not what its fence says")),
            }
        };
        check().map_err(|error| self.at_block(i, error))
    }

    /// Checks the structure of block `i` in raw form, whose stored header is `stored`.
    pub(crate) fn check_raw(&self, i: usize, raw: &[u8], stored: &Header) -> Result<()> {
        let check = || {
            let block = RawBlock::new(raw)?;
            let tombstones = block.validate()?;
            let first = block.record(0).map(|record| record.key);
            let fits = first == Some(self.fences.key(i).bytes)
                && self.fences.tombstones(i) == Some(tombstones)
                && block.header().count == stored.count;
            match fits {
                true => Ok(()),
                false => Err(Error::corruption("a block is not what its fence says")),
            }
        };
        check().map_err(|error| self.at_block(i, error))
    }
}

/// What a search of a block of 8 KiB looks at first: header, heads, and after the offsets the first
/// record.
pub(crate) const SEARCHED_LINES: usize = 8;
/// Length of a cache line.
pub(crate) const LINE: usize = 64;

/// Starts loading `count` cache lines of a block from `pos` on.
#[inline]
pub(crate) fn prefetch_lines(block: &[u8], pos: usize, count: usize) {
    for line in 0..count {
        if let Some(rest) = block.get(pos + line * LINE..) {
            prefetch(rest);
        }
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "damage_tests.rs"]
mod damage_tests;

#[cfg(test)]
#[path = "speed_tests.rs"]
mod speed_tests;
