//! A run taken apart for edits: chunks that no edit touches stay shared, the others are opened.

use std::sync::Arc;

use terrace_base::{FileNumber, UserKey};

use crate::run::{CHUNK, Chunk, Run};
use crate::table_file::TableFile;

/// Adjacent chunks that an edit leaves this small become one.
const SPARSE: usize = CHUNK / 2;

#[derive(Default)]
struct Part {
    /// The chunk as it was. Else the tables are those in `open`.
    kept: Option<Arc<Chunk>>,
    open: Vec<Arc<TableFile>>,
}

impl Part {
    fn kept(chunk: Arc<Chunk>) -> Part {
        let open = Vec::new();
        let kept = Some(chunk);
        Part { kept, open }
    }

    fn opened(open: Vec<Arc<TableFile>>) -> Part {
        Part { kept: None, open }
    }

    fn tables(&self) -> &[Arc<TableFile>] {
        self.kept.as_ref().map_or(&self.open, |chunk| &chunk.tables)
    }

    fn open(&mut self) -> &mut Vec<Arc<TableFile>> {
        if let Some(chunk) = self.kept.take() {
            self.open.clone_from(&chunk.tables);
        }
        &mut self.open
    }
}

/// A run that changes.
pub(crate) struct RunEdit {
    /// None is empty.
    parts: Vec<Part>,
}

impl RunEdit {
    /// A run without tables.
    pub(crate) fn empty() -> RunEdit {
        RunEdit { parts: Vec::new() }
    }

    pub(crate) fn of(run: &Run) -> RunEdit {
        let chunks = run.chunks().iter().cloned();
        RunEdit {
            parts: chunks.map(Part::kept).collect(),
        }
    }

    /// The last part that begins at or before `smallest`, or the first.
    fn place(&self, smallest: UserKey<'_>) -> usize {
        let behind = self.parts.partition_point(|part| {
            let first = part.tables().first();
            first.is_some_and(|table| table.info().smallest.as_ref() <= smallest)
        });
        behind.saturating_sub(1)
    }

    pub(crate) fn insert(&mut self, table: Arc<TableFile>) {
        let smallest = table.info().smallest.as_ref();
        let i = self.place(smallest);
        let Some(part) = self.parts.get_mut(i) else {
            self.parts.push(Part::opened(vec![table]));
            return;
        };
        let tables = part.open();
        let at = tables.partition_point(|other| other.info().smallest.as_ref() <= smallest);
        tables.insert(at, table);
        if tables.len() > CHUNK {
            // Tables that come in rising order leave full chunks.
            let right = if at == CHUNK { CHUNK } else { CHUNK / 2 };
            let right = tables.split_off(right);
            self.parts.insert(i + 1, Part::opened(right));
        }
    }

    /// Takes the table `number` out, which begins at `smallest`; `None` if it is not there.
    pub(crate) fn remove(
        &mut self,
        number: FileNumber,
        smallest: UserKey<'_>,
    ) -> Option<Arc<TableFile>> {
        let i = self.place(smallest);
        let part = self.parts.get_mut(i)?;
        let first = part
            .tables()
            .partition_point(|table| table.info().smallest.as_ref() < smallest);
        let mut rest = part.tables().iter().skip(first);
        let at = first + rest.position(|table| table.number() == number)?;
        let table = part.open().remove(at);
        if part.tables().is_empty() {
            self.parts.remove(i);
        }
        Some(table)
    }

    /// The run, and which of its chunks are new; `None` if it has no table.
    pub(crate) fn finish(self, id: u64) -> Option<(Run, Vec<usize>)> {
        let mut parts: Vec<Part> = Vec::with_capacity(self.parts.len());
        for part in self.parts {
            let joins = |before: &&mut Part| {
                let changed = before.kept.is_none() || part.kept.is_none();
                changed && before.tables().len() + part.tables().len() <= SPARSE
            };
            match parts.last_mut().filter(joins) {
                Some(before) => before.open().extend_from_slice(part.tables()),
                None => parts.push(part),
            }
        }
        let places = parts.iter().enumerate();
        let new = places.filter_map(|(i, part)| part.kept.is_none().then_some(i));
        let new = new.collect();
        let chunks = parts.into_iter().map(|part| match part.kept {
            Some(chunk) => chunk,
            None => Arc::new(Chunk::new(part.open)),
        });
        let run = Run::of_chunks(id, chunks.collect());
        (!run.chunks().is_empty()).then_some((run, new))
    }
}
