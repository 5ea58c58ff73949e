//! A [`RunIter`] reads a run in order. A table is opened when the iterator comes to it.

use std::sync::Arc;

use bytes::Bytes;
use terrace_base::{InternalIterator, KeyRef, KeyspaceId, Result, SeqNo, UserKey, ValueKind};
use terrace_sstable::TableIter;

use crate::run::Run;
use crate::table_file::TableFile;

const EMPTY: KeyRef<'static> = KeyRef::new(
    UserKey::new(KeyspaceId(0), &[]),
    SeqNo::ZERO,
    ValueKind::Tombstone,
);

/// All entries of a run.
pub struct RunIter {
    run: Arc<Run>,
    /// Compaction reads: every block is checked, and none is kept.
    scan: bool,
    /// The table that the iterator is in. The iterator is valid while this one is.
    current: Option<(usize, TableIter)>,
}

impl RunIter {
    /// Reads `run` for a reader.
    pub fn new(run: Arc<Run>) -> RunIter {
        RunIter {
            run,
            scan: false,
            current: None,
        }
    }

    /// Reads `tables`, which must be disjoint by user key. With `scan` they are read as a
    /// compaction reads: by pread, every block checked.
    pub fn over(tables: Vec<Arc<TableFile>>, scan: bool) -> RunIter {
        RunIter {
            run: Arc::new(Run::new(0, tables)),
            scan,
            current: None,
        }
    }

    /// The iterator over the table that it is in, for those who save the way through this one.
    #[inline]
    pub fn inner(&self) -> Option<&TableIter> {
        self.current.as_ref().map(|(_, table)| table)
    }

    /// The iterator of the current table, to be moved within its entries only.
    #[inline]
    pub fn inner_mut(&mut self) -> Option<&mut TableIter> {
        self.current.as_mut().map(|(_, table)| table)
    }

    /// The table that the iterator is in.
    pub fn table(&self) -> Option<&Arc<TableFile>> {
        let (i, _) = self.current.as_ref()?;
        self.run.tables().get(*i)
    }

    /// Moves to the first entry of the next table.
    pub fn next_table(&mut self) -> Result<()> {
        if let Some((i, _)) = &self.current {
            let next = i + 1;
            self.enter(next, |table| table.first())?;
        }
        self.skip_forward()
    }

    /// Moves to the last entry of the table before.
    pub fn prev_table(&mut self) -> Result<()> {
        match self.current.as_ref().map(|(i, _)| i.checked_sub(1)) {
            Some(Some(before)) => self.enter(before, |table| table.last()).map(|_| ())?,
            _ => self.current = None,
        }
        self.skip_backward()
    }

    /// Enters table `i` by `place`; false if there is none. The iterator is left invalid on
    /// failure.
    fn enter(
        &mut self,
        i: usize,
        place: impl FnOnce(&mut TableIter) -> Result<()>,
    ) -> Result<bool> {
        let Some(file) = self.run.tables().get(i) else {
            self.current = None;
            return Ok(false);
        };
        let placed = match &mut self.current {
            Some((at, table)) if *at == i => place(table),
            current => {
                *current = None; // Its files may go, whatever becomes of this one.
                let table = file.table()?;
                let table = match self.scan {
                    true => table.scan(),
                    false => table.iter(),
                };
                place(&mut current.insert((i, table)).1)
            }
        };
        if let Err(error) = placed {
            let error = file.name(error);
            self.current = None;
            return Err(error);
        }
        Ok(true)
    }

    /// Goes on to later tables until one has an entry.
    fn skip_forward(&mut self) -> Result<()> {
        while let Some(i) = self.exhausted() {
            if !self.enter(i + 1, |table| table.first())? {
                break;
            }
        }
        Ok(())
    }

    /// Goes back to earlier tables until one has an entry.
    fn skip_backward(&mut self) -> Result<()> {
        while let Some(i) = self.exhausted() {
            let Some(before) = i.checked_sub(1) else {
                self.current = None;
                break;
            };
            self.enter(before, |table| table.last())?;
        }
        Ok(())
    }

    /// The table that the iterator has come to the end of.
    #[inline]
    fn exhausted(&self) -> Option<usize> {
        match &self.current {
            Some((i, table)) if !table.valid() => Some(*i),
            _ => None,
        }
    }

    #[cold]
    fn fail<T>(&mut self, i: usize, error: terrace_base::Error) -> Result<T> {
        self.current = None;
        Err(match self.run.tables().get(i) {
            Some(file) => file.name(error),
            None => error,
        })
    }
}

impl InternalIterator for RunIter {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        let i = self.run.lower_bound(target.user);
        self.enter(i, |table| table.seek(target))?;
        self.skip_forward()
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        let last = self.run.tables().len().saturating_sub(1);
        let i = self.run.lower_bound(target.user).min(last);
        self.enter(i, |table| table.seek_for_prev(target))?;
        self.skip_backward()
    }

    fn first(&mut self) -> Result<()> {
        self.enter(0, |table| table.first())?;
        self.skip_forward()
    }

    fn last(&mut self) -> Result<()> {
        let last = self.run.tables().len().saturating_sub(1);
        self.enter(last, |table| table.last())?;
        self.skip_backward()
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        let Some((i, table)) = &mut self.current else {
            return Ok(());
        };
        let i = *i;
        match table.next() {
            Ok(()) if table.valid() => Ok(()),
            Ok(()) => self.skip_forward(),
            Err(error) => self.fail(i, error),
        }
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        let Some((i, table)) = &mut self.current else {
            return Ok(());
        };
        let i = *i;
        match table.prev() {
            Ok(()) if table.valid() => Ok(()),
            Ok(()) => self.skip_backward(),
            Err(error) => self.fail(i, error),
        }
    }

    #[inline]
    fn valid(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|(_, table)| table.valid())
    }

    #[inline]
    fn key(&self) -> KeyRef<'_> {
        self.current
            .as_ref()
            .map_or(EMPTY, |(_, table)| table.key())
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.current
            .as_ref()
            .map_or(&[], |(_, table)| table.value())
    }

    #[inline]
    fn key_bytes(&self) -> Bytes {
        self.current
            .as_ref()
            .map_or_else(Bytes::new, |(_, table)| table.key_bytes())
    }

    #[inline]
    fn value_bytes(&self) -> Bytes {
        self.current
            .as_ref()
            .map_or_else(Bytes::new, |(_, table)| table.value_bytes())
    }
}

impl std::fmt::Debug for RunIter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunIter")
            .field("run", &self.run)
            .field("scan", &self.scan)
            .field("table", &self.current.as_ref().map(|(i, _)| i))
            .finish_non_exhaustive()
    }
}
