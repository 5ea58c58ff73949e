//! Sorting the input of an ingest: pieces that fit into memory, each written to tables that no edit
//! lists.

use std::sync::Arc;

use terrace_base::{KeyspaceId, Result, SeqNo};
use terrace_compaction::{TableFile, TableMeta, TableStore};

use crate::engine::Engine;
use crate::jobs::ingest::{Entries, IngestProgress, Taken, put, write_ingested};
use crate::write::batch::check_lengths;

/// What an entry in memory costs beside its bytes.
const OVERHEAD: usize = 64;

/// Sorts pieces that fit into memory, and writes each to tables that no edit lists.
pub(crate) struct Sorter<'e> {
    engine: &'e Engine,
    keyspace: KeyspaceId,
    /// When what is sorted here expires.
    expires: Option<u64>,
    memory: usize,
    held: usize,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    pieces: Vec<Vec<Arc<TableFile>>>,
    progress: IngestProgress,
}

impl Drop for Sorter<'_> {
    fn drop(&mut self) {
        if !self.pieces.is_empty() {
            // The input failed or panicked: what was sorted so far goes.
            self.pieces.clear();
            self.engine.files.remove_obsolete().ok();
        }
    }
}

/// A piece in memory, in order.
struct Sorted<'a> {
    entries: std::iter::Peekable<std::vec::Drain<'a, (Vec<u8>, Vec<u8>)>>,
    expires: Option<u64>,
}

impl Entries for Sorted<'_> {
    fn next(&mut self) -> Result<Option<Taken>> {
        // The sort is stable: the last of equal keys was given last.
        let mut found = self.entries.next();
        while let Some((key, _)) = &found
            && let Some(later) = self.entries.next_if(|(next, _)| next == key)
        {
            found = Some(later);
        }
        Ok(found.map(|(key, value)| put(key, value, self.expires)))
    }
}

impl<'e> Sorter<'e> {
    /// Sorts in pieces of about `memory` bytes.
    pub(crate) fn new(
        engine: &'e Engine,
        keyspace: KeyspaceId,
        memory: usize,
        expires: Option<u64>,
    ) -> Sorter<'e> {
        Sorter {
            engine,
            keyspace,
            expires,
            memory,
            held: 0,
            entries: Vec::new(),
            pieces: Vec::new(),
            progress: IngestProgress::default(),
        }
    }

    /// The sorted pieces, each a row of tables.
    pub(crate) fn finish(
        mut self,
        progress: &mut dyn FnMut(IngestProgress),
    ) -> Result<Vec<Vec<Arc<TableFile>>>> {
        self.spill(progress)?;
        Ok(std::mem::take(&mut self.pieces))
    }

    pub(crate) fn add(
        &mut self,
        key: &[u8],
        value: &[u8],
        progress: &mut dyn FnMut(IngestProgress),
    ) -> Result<()> {
        check_lengths(key.len(), value.len())?;
        let bytes = key.len() + value.len();
        self.entries.push((key.to_vec(), value.to_vec()));
        self.held += bytes + OVERHEAD;
        self.progress.entries += 1;
        self.progress.bytes += bytes as u64;
        if self.held >= self.memory {
            self.spill(progress)?;
        }
        Ok(())
    }

    fn spill(&mut self, progress: &mut dyn FnMut(IngestProgress)) -> Result<()> {
        self.held = 0;
        if self.entries.is_empty() {
            return Ok(());
        }
        self.entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        // Later pieces are newer.
        let seq = SeqNo::new(self.pieces.len() as u64 + 1);
        let mut sorted = Sorted {
            entries: self.entries.drain(..).peekable(),
            expires: self.expires,
        };
        let written = write_ingested(
            self.engine,
            self.keyspace,
            seq,
            &mut sorted,
            &self.engine.context.policies.packings().plain(),
            false,
        )?;
        drop(sorted);
        let store: Arc<dyn TableStore> = self.engine.files.clone();
        let open = |meta: TableMeta| {
            let table = TableFile::new(meta, store.clone());
            table.mark_obsolete(); // It goes with its last reader.
            table
        };
        self.pieces
            .push(written.tables.into_iter().map(open).collect());
        self.progress.pieces += 1;
        progress(self.progress);
        Ok(())
    }
}
