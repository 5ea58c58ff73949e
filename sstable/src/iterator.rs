//! Walks over the entries of a table in both directions.
//!
//! The position is a block, held as a slice of the map or of the cached block, and the place of a
//! record in it. A step within a block reads the next offset and no more; key and value are sliced
//! when they are asked for.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use terrace_base::error::Result;
use terrace_base::iterator::InternalIterator;
use terrace_base::key::{KeyRef, KeyspaceId, SeqNo, UserKey, ValueKind};

use crate::block::{CONTINUES, Header, KINDS, RawBlock, Record, VERSIONS, key_of};
use crate::reader::{LINE, SEARCHED_LINES, Table, prefetch_lines};
use crate::value::COPY_LIMIT;

const NOWHERE: usize = usize::MAX;
const EMPTY: KeyRef<'static> = KeyRef::new(
    UserKey::new(KeyspaceId(0), &[]),
    SeqNo::ZERO,
    ValueKind::Tombstone,
);
/// How many cache lines behind the one of its key a seek asks for.
const READ_LINES: usize = 6;

/// A position among the entries of a table, which it keeps open.
///
/// A target is met by its user key and sequence number: the two name an entry, whatever its kind.
pub struct TableIter {
    table: Arc<Table>,
    /// For scans: the piece of the file read last.
    scan: Option<Scan>,
    /// The current block in raw form.
    block: Bytes,
    header: Header,
    /// Its ordinal.
    ordinal: usize,
    /// The number of the record in it.
    index: usize,
    /// How many records it has; 0 while not valid.
    count: usize,
    /// Where the record starts; `NOWHERE` while not valid.
    pos: usize,
}

/// Reads blocks by `pread` in large pieces.
#[derive(Default)]
pub(crate) struct Scan {
    chunk: Bytes,
    chunk_at: usize,
    scratch: Vec<u8>,
}

impl Scan {
    /// Block `i` in raw form, from the chunk or from the next one.
    pub fn block(&mut self, table: &Table, i: usize) -> Result<Bytes> {
        let range = table.block_range(i)?;
        let Some(file) = table.file() else {
            return Ok(table.block(i)?.to_bytes());
        };
        let within = range.start.checked_sub(self.chunk_at);
        let within = within.filter(|start| start + range.len() <= self.chunk.len());
        let start = match within {
            Some(start) => start,
            None => {
                let last = table.block_range(table.fences().len() - 1)?;
                let end = (range.start + table.chunk()).min(last.end).max(range.end);
                let chunk = std::mem::take(&mut self.chunk);
                let mut chunk = chunk.try_into_mut().unwrap_or_else(|_| BytesMut::new());
                chunk.resize(end - range.start, 0);
                file.read_exact_at(&mut chunk, range.start as u64)?;
                (self.chunk, self.chunk_at) = (chunk.freeze(), range.start);
                0
            }
        };
        let stored = self.chunk.slice(start..start + range.len());
        table.raw_form(i, stored, false, &mut self.scratch)
    }
}

impl Drop for TableIter {
    fn drop(&mut self) {
        if self.scan.is_some() {
            self.table.rest();
        }
    }
}

impl TableIter {
    pub(crate) fn new(table: Arc<Table>, scan: bool) -> TableIter {
        TableIter {
            table,
            scan: scan.then(Scan::default),
            block: Bytes::new(),
            header: Header::default(),
            ordinal: 0,
            index: 0,
            count: 0,
            pos: NOWHERE,
        }
    }

    /// The table read.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// True if there is a current block and it has only puts of `keyspace`, one version per key,
    /// none newer than `at`: a reader at `at` need not look at its entries one by one.
    #[inline]
    pub fn plain_below(&self, keyspace: KeyspaceId, at: SeqNo) -> bool {
        self.count > 0
            && self.header.keyspace == keyspace
            && self.header.flags & (KINDS | VERSIONS | CONTINUES) == 0
            && self.header.highest <= at
    }

    /// Moves to the next entry if that is in the current block and the block is plain, as
    /// [`TableIter::plain_below`] says; else stays, and is false.
    #[inline]
    pub fn next_plain(&mut self, keyspace: KeyspaceId, at: SeqNo) -> bool {
        let next = self.index + 1;
        let moves = next < self.count && self.plain_below(keyspace, at);
        if moves {
            self.go(next);
        }
        moves
    }

    /// Moves to the previous entry if that is in the current block and the block is plain, as
    /// [`TableIter::plain_below`] says; else stays, and is false.
    #[inline]
    pub fn prev_plain(&mut self, keyspace: KeyspaceId, at: SeqNo) -> bool {
        let moves = self.index > 0 && self.plain_below(keyspace, at);
        if moves {
            self.go(self.index - 1);
        }
        moves
    }

    /// The user key of the entry, empty where there is none.
    #[inline]
    pub fn user_key(&self) -> &[u8] {
        self.record().map_or(&[], |record| record.key)
    }

    /// Goes to no entry.
    fn leave(&mut self) {
        self.block = Bytes::new();
        (self.index, self.count, self.pos) = (0, 0, NOWHERE);
    }

    /// Loads block `i`; the position is left open.
    fn load(&mut self, i: usize) -> Result<()> {
        self.leave();
        let block = match &mut self.scan {
            Some(scan) => scan.block(&self.table, i)?,
            None => {
                let block = self.table.block(i)?;
                prefetch_lines(block.bytes(), 0, SEARCHED_LINES);
                block.to_bytes()
            }
        };
        self.header = Header::decode(&block).map_err(|error| self.table.at_block(i, error))?;
        self.block = block;
        self.ordinal = i;
        self.count = usize::from(self.header.count);
        Ok(())
    }

    #[inline]
    fn raw(&self) -> RawBlock<'_> {
        RawBlock::with_header(&self.block, self.header)
    }

    #[inline]
    fn go(&mut self, index: usize) {
        self.index = index;
        self.pos = self.raw().position(index);
    }

    #[inline]
    fn record(&self) -> Option<Record<'_>> {
        Record::at(&self.block, self.pos)
    }

    /// The first entry of the block after the current one.
    fn next_block(&mut self) -> Result<()> {
        let next = self.ordinal + 1;
        if self.count == 0 || next >= self.table.fences().len() {
            self.leave();
            return Ok(());
        }
        self.load(next)?;
        self.go(0);
        Ok(())
    }

    /// The last entry of the block before the current one.
    fn previous_block(&mut self) -> Result<()> {
        if self.count == 0 || self.ordinal == 0 {
            self.leave();
            return Ok(());
        }
        self.load(self.ordinal - 1)?;
        self.go(self.count - 1);
        Ok(())
    }
}

impl InternalIterator for TableIter {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.leave();
        let blocks = self.table.fences().locate(target.user);
        let i = match blocks.len() {
            0 | 1 => blocks.start,
            _ => self.table.block_of_version(&blocks, target.seq)?,
        };
        self.load(i)?;
        let index = match self.header.keyspace.cmp(&target.user.keyspace) {
            std::cmp::Ordering::Less => self.count,
            std::cmp::Ordering::Equal => self.raw().lower_bound(target.user.bytes, target.seq),
            std::cmp::Ordering::Greater => 0,
        };
        if index < self.count {
            self.go(index);
            // A seek is followed by steps.
            prefetch_lines(&self.block, self.pos + LINE, READ_LINES);
            return Ok(());
        }
        self.next_block()
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.seek(target)?;
        if !self.valid() {
            return self.last();
        }
        let key = self.key();
        if key.user == target.user && key.seq == target.seq {
            return Ok(());
        }
        self.prev()
    }

    fn first(&mut self) -> Result<()> {
        self.load(0)?;
        self.go(0);
        Ok(())
    }

    fn last(&mut self) -> Result<()> {
        self.load(self.table.fences().len().saturating_sub(1))?;
        self.go(self.count - 1);
        Ok(())
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        let index = self.index + 1;
        if index < self.count {
            self.go(index);
            return Ok(());
        }
        self.next_block()
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        if let Some(index) = self.index.checked_sub(1) {
            self.go(index);
            return Ok(());
        }
        self.previous_block()
    }

    #[inline]
    fn valid(&self) -> bool {
        self.count > 0
    }

    #[inline]
    fn key(&self) -> KeyRef<'_> {
        self.record()
            .map_or(EMPTY, |record| key_of(self.header.keyspace, &record))
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.record().map_or(&[], |record| record.value)
    }

    #[inline]
    fn key_bytes(&self) -> Bytes {
        self.owned(self.key().user.bytes)
    }

    #[inline]
    fn value_bytes(&self) -> Bytes {
        self.owned(self.value())
    }
}

impl TableIter {
    /// A copy of short bytes, else a slice of the block that they lie in.
    #[inline]
    fn owned(&self, bytes: &[u8]) -> Bytes {
        if bytes.len() <= COPY_LIMIT {
            return Bytes::copy_from_slice(bytes);
        }
        self.block.slice_ref(bytes)
    }
}

impl fmt::Debug for TableIter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.record() {
            Some(record) => write!(f, "TableIter({:?})", key_of(self.header.keyspace, &record)),
            None => f.write_str("TableIter(not valid)"),
        }
    }
}

#[cfg(test)]
#[path = "iterator_tests.rs"]
mod tests;
