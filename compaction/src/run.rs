//! A run: tables that are disjoint by user key, in order. One key lies in one table of it at most.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use terrace_base::{SeqNo, UserKey};

use crate::table_file::TableFile;

/// Tables disjoint by user key, sorted.
pub struct Run {
    id: u64,
    tables: Vec<Arc<TableFile>>,
    /// The head of each table's largest key: a search reads these, side by side, and one table.
    heads: Vec<u128>,
    size: u64,
    min_seq: SeqNo,
    max_seq: SeqNo,
}

impl Run {
    /// The run `id` of `tables`, in any order. That they are disjoint is checked by the
    /// [`Version`](crate::Version) that takes it.
    pub(crate) fn new(id: u64, mut tables: Vec<Arc<TableFile>>) -> Run {
        tables.sort_by(|a, b| a.info().smallest.cmp(&b.info().smallest));
        let heads = tables
            .iter()
            .map(|table| table.info().largest.as_ref().head())
            .collect();
        let seqs = |pick: fn(&TableFile) -> SeqNo| tables.iter().map(move |table| pick(table));
        Run {
            id,
            size: tables.iter().map(|table| table.info().size).sum(),
            min_seq: seqs(|table| table.info().min_seq)
                .min()
                .unwrap_or(SeqNo::ZERO),
            max_seq: seqs(|table| table.info().max_seq)
                .max()
                .unwrap_or(SeqNo::ZERO),
            heads,
            tables,
        }
    }

    /// Names the run within its level; in level 0 a newer run has a larger one.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The tables, by rising key. Never empty.
    #[inline]
    pub fn tables(&self) -> &[Arc<TableFile>] {
        &self.tables
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
        let (first, last) = (self.tables.first()?, self.tables.last()?);
        Some((first.info().smallest.as_ref(), last.info().largest.as_ref()))
    }

    /// The place of the first table that ends at or after `key`.
    #[inline]
    pub fn lower_bound(&self, key: UserKey<'_>) -> usize {
        let head = key.head();
        let mut i = self.heads.partition_point(|&largest| largest < head);
        // Tables whose last keys share the head: few, unless keys share long prefixes.
        if self.heads.get(i) == Some(&head) {
            // Keys that share their first 8 bytes: the keys themselves decide.
            let ties = self.heads.iter().skip(i).take_while(|&&h| h == head);
            let ties = self.tables.get(i..i + ties.count()).unwrap_or(&[]);
            i += ties.partition_point(|table| table.info().largest.as_ref() < key);
        }
        i
    }

    /// The one table that may hold `key`.
    #[inline]
    pub fn find(&self, key: UserKey<'_>) -> Option<&Arc<TableFile>> {
        self.tables
            .get(self.lower_bound(key))
            .filter(|table| table.info().smallest.as_ref() <= key)
    }

    /// True if a table shares a key with the closed range from `smallest` to `largest`.
    pub fn touches(&self, smallest: UserKey<'_>, largest: UserKey<'_>) -> bool {
        let first = self.tables.get(self.lower_bound(smallest));
        first.is_some_and(|table| table.info().smallest.as_ref() <= largest)
    }

    /// The places of the tables that share a key with the closed range from `smallest` to `largest`.
    pub fn overlapping(&self, smallest: UserKey<'_>, largest: UserKey<'_>) -> Range<usize> {
        let start = self.lower_bound(smallest);
        let rest = self.tables.get(start..).unwrap_or(&[]);
        let count = rest.partition_point(|table| table.info().smallest.as_ref() <= largest);
        start..start + count
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {}:", self.id)?;
        for table in &self.tables {
            write!(f, " {table:?}")?;
        }
        Ok(())
    }
}
