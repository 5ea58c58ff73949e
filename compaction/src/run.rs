//! A run: tables that are disjoint by user key, in order. One key lies in one table of it at most.
//!
//! The tables lie in *chunks* of at most [`CHUNK`]. A run never changes, and an edit makes the next
//! from it: chunks that the edit does not touch are shared by both, so that an edit of one table in
//! a run of 16,000 copies 128 tables and the list of chunks (`run_edit.rs`).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use terrace_base::{SeqNo, UserKey};

use crate::table_file::TableFile;

/// Tables of a full chunk.
pub(crate) const CHUNK: usize = 128;

/// Adjacent tables of a run.
pub(crate) struct Chunk {
    /// Never empty, sorted by smallest key.
    pub(crate) tables: Vec<Arc<TableFile>>,
    /// The head of each table's largest key: a search reads these, side by side, and one table.
    heads: Vec<u128>,
    size: u64,
    min_seq: SeqNo,
    max_seq: SeqNo,
}

impl Chunk {
    /// The chunk of `tables`, which are sorted by smallest key.
    pub(crate) fn new(tables: Vec<Arc<TableFile>>) -> Chunk {
        let infos = || tables.iter().map(|table| table.info());
        Chunk {
            heads: infos().map(|info| info.largest.as_ref().head()).collect(),
            size: infos().map(|info| info.size).sum(),
            min_seq: infos()
                .map(|info| info.min_seq)
                .min()
                .unwrap_or(SeqNo::ZERO),
            max_seq: infos()
                .map(|info| info.max_seq)
                .max()
                .unwrap_or(SeqNo::ZERO),
            tables,
        }
    }

    #[inline]
    fn lower_bound(&self, key: UserKey<'_>, head: u128) -> usize {
        first_reaching(&self.heads, head, |i| {
            self.tables
                .get(i)
                .is_some_and(|table| table.info().largest.as_ref() < key)
        })
    }
}

/// The first place of `heads`, which rise, whose key is at or above the one with this `head`. Where
/// heads tie, `is_below` compares the keys themselves.
#[inline]
fn first_reaching(heads: &[u128], head: u128, is_below: impl Fn(usize) -> bool) -> usize {
    let i = heads.partition_point(|&largest| largest < head);
    match heads.get(i) {
        Some(tie) if *tie == head => first_of_ties(heads, i, is_below),
        _ => i,
    }
}

/// First place from `i` on that is not below, among those with the head of `i`. Apart, because it
/// is rare unless keys share their first 16 bytes, and would keep the search from being inlined.
#[cold]
#[inline(never)]
fn first_of_ties(heads: &[u128], i: usize, is_below: impl Fn(usize) -> bool) -> usize {
    let head = heads.get(i);
    let ties = heads
        .iter()
        .skip(i)
        .take_while(|&h| Some(h) == head)
        .count();
    let (mut from, mut to) = (i, i + ties);
    while from < to {
        let middle = from.midpoint(to);
        match is_below(middle) {
            true => from = middle + 1,
            false => to = middle,
        }
    }
    from
}

/// Tables disjoint by user key, sorted.
pub struct Run {
    id: u64,
    chunks: Vec<Arc<Chunk>>,
    /// The head of each chunk's last key.
    heads: Vec<u128>,
    /// How many tables lie before each chunk.
    starts: Vec<usize>,
    len: usize,
    size: u64,
    min_seq: SeqNo,
    max_seq: SeqNo,
}

impl Run {
    /// The run `id` of `tables`, in any order. That they are disjoint is checked by the
    /// [`Version`](crate::Version) that takes it.
    pub(crate) fn new(id: u64, mut tables: Vec<Arc<TableFile>>) -> Run {
        tables.sort_by(|a, b| a.info().smallest.cmp(&b.info().smallest));
        let chunks = tables.chunks(CHUNK);
        let chunks = chunks.map(|tables| Arc::new(Chunk::new(tables.to_vec())));
        Run::of_chunks(id, chunks.collect())
    }

    pub(crate) fn of_chunks(id: u64, chunks: Vec<Arc<Chunk>>) -> Run {
        let last_head = |chunk: &Arc<Chunk>| chunk.heads.last().copied().unwrap_or(0);
        let mut len = 0;
        let starts = chunks.iter().map(|chunk| {
            len += chunk.tables.len();
            len - chunk.tables.len()
        });
        Run {
            id,
            starts: starts.collect(),
            len,
            heads: chunks.iter().map(last_head).collect(),
            size: chunks.iter().map(|chunk| chunk.size).sum(),
            min_seq: chunks
                .iter()
                .map(|chunk| chunk.min_seq)
                .min()
                .unwrap_or(SeqNo::ZERO),
            max_seq: chunks
                .iter()
                .map(|chunk| chunk.max_seq)
                .max()
                .unwrap_or(SeqNo::ZERO),
            chunks,
        }
    }

    pub(crate) fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// Names the run within its level; in level 0 a newer run has a larger one.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The tables, by rising key. Never empty.
    #[inline]
    pub fn tables(&self) -> Tables<'_> {
        Tables {
            run: Some(self),
            start: 0,
            end: self.len,
        }
    }

    /// Bytes of all tables.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The oldest entry of the run.
    pub fn min_seq(&self) -> SeqNo {
        self.min_seq
    }

    /// The newest entry of the run.
    pub fn max_seq(&self) -> SeqNo {
        self.max_seq
    }

    /// The first and the last user key.
    pub fn bounds(&self) -> Option<(UserKey<'_>, UserKey<'_>)> {
        let (first, last) = (self.tables().first()?, self.tables().last()?);
        Some((first.info().smallest.as_ref(), last.info().largest.as_ref()))
    }

    /// The first chunk that ends at or after `key`, which may be none if there are several.
    #[inline]
    fn chunk_of(&self, key: UserKey<'_>, head: u128) -> Option<&Arc<Chunk>> {
        match self.chunks.as_slice() {
            [only] => Some(only), // Its own search finds out whether the run ends before the key.
            chunks => chunks.get(self.place_of_chunk(key, head)),
        }
    }

    #[inline(never)]
    fn place_of_chunk(&self, key: UserKey<'_>, head: u128) -> usize {
        first_reaching(&self.heads, head, |i| {
            let last = self.chunks.get(i).and_then(|chunk| chunk.tables.last());
            last.is_some_and(|table| table.info().largest.as_ref() < key)
        })
    }

    /// The place of the first table that ends at or after `key`.
    #[inline]
    pub fn lower_bound(&self, key: UserKey<'_>) -> usize {
        let head = key.head();
        if let [only] = self.chunks.as_slice() {
            return only.lower_bound(key, head);
        }
        let i = self.place_of_chunk(key, head);
        match (self.chunks.get(i), self.starts.get(i)) {
            (Some(chunk), Some(start)) => start + chunk.lower_bound(key, head),
            _ => self.len,
        }
    }

    /// The one table that may hold `key`.
    // A get asks each run: as a call it took 20 of its 760 instructions more.
    #[inline(always)]
    pub fn find(&self, key: UserKey<'_>) -> Option<&Arc<TableFile>> {
        let head = key.head();
        let chunk = self.chunk_of(key, head)?;
        chunk
            .tables
            .get(chunk.lower_bound(key, head))
            .filter(|table| table.info().smallest.as_ref() <= key)
    }

    /// True if a table shares a key with the closed range from `smallest` to `largest`.
    pub fn touches(&self, smallest: UserKey<'_>, largest: UserKey<'_>) -> bool {
        let first = self.tables().get(self.lower_bound(smallest));
        first.is_some_and(|table| table.info().smallest.as_ref() <= largest)
    }

    /// The places of the tables that share a key with the closed range from `smallest` to
    /// `largest`.
    pub fn overlapping(&self, smallest: UserKey<'_>, largest: UserKey<'_>) -> Range<usize> {
        let start = self.lower_bound(smallest);
        let starts_in = |table: &Arc<TableFile>| table.info().smallest.as_ref() <= largest;
        let chunks = self.chunks.partition_point(|chunk| {
            let first = chunk.tables.first();
            first.is_some_and(starts_in)
        });
        let i = chunks.saturating_sub(1);
        let end = match (self.chunks.get(i), self.starts.get(i)) {
            (Some(chunk), Some(before)) => before + chunk.tables.partition_point(starts_in),
            _ => 0,
        };
        start..end.max(start)
    }
}

/// Adjacent tables of a run.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// `None` if there are none.
    run: Option<&'a Run>,
    start: usize,
    end: usize,
}

impl<'a> Tables<'a> {
    /// No tables.
    pub(crate) const NONE: Tables<'static> = Tables {
        run: None,
        start: 0,
        end: 0,
    };

    /// How many.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// True if there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Table `i` of these.
    #[inline]
    pub fn get(&self, i: usize) -> Option<&'a Arc<TableFile>> {
        let at = self.start.checked_add(i).filter(|at| *at < self.end)?;
        let run = self.run?;
        if let [only] = run.chunks.as_slice() {
            return only.tables.get(at);
        }
        let chunk = run
            .starts
            .partition_point(|start| *start <= at)
            .checked_sub(1)?;
        let start = run.starts.get(chunk)?;
        run.chunks.get(chunk)?.tables.get(at - start)
    }

    /// The tables at the places `range` of these; `None` if one of them is not there.
    pub fn part(&self, range: Range<usize>) -> Option<Tables<'a>> {
        (range.start <= range.end && range.end <= self.len()).then(|| Tables {
            run: self.run,
            start: self.start + range.start,
            end: self.start + range.end,
        })
    }

    /// The first table.
    pub fn first(&self) -> Option<&'a Arc<TableFile>> {
        self.get(0)
    }

    /// The last table.
    pub fn last(&self) -> Option<&'a Arc<TableFile>> {
        self.get(self.len().checked_sub(1)?)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a Arc<TableFile>> + Clone + use<'a> {
        let (start, end) = (self.start, self.end);
        let starts = self.run.map_or(&[][..], |run| &run.starts);
        let first = starts.partition_point(|s| *s <= start).saturating_sub(1);
        let chunks = self.run.map_or(&[][..], |run| &run.chunks);
        let before = starts.get(first).copied().unwrap_or(0);
        let chunks = chunks.get(first..).unwrap_or(&[]).iter();
        chunks
            .flat_map(|chunk| &chunk.tables)
            .skip(start.saturating_sub(before))
            .take(end - start)
    }

    /// References of their own to all of them.
    pub fn to_vec(&self) -> Vec<Arc<TableFile>> {
        self.iter().cloned().collect()
    }

    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|table| table.info().size).sum()
    }
}

impl fmt::Debug for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {}:", self.id)?;
        for table in self.tables().iter() {
            write!(f, " {table:?}")?;
        }
        Ok(())
    }
}
