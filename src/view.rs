//! What a reader pins: the memtable's pieces and the tables, at one moment.
//!
//! A reader loads the [`View`] first and the visible sequence number second. The order matters: whatever a
//! job left out of the view it installed was hidden by a version that was visible before, so a reader with
//! that view reads at a sequence number that sees the newer version.
//!
//! A view is replaced, never changed. Whoever replaces it holds the install lock for the moment of copying:
//! the commit path when it seals a list, a job when it installs its result.

use std::sync::Arc;

use terrace_compaction::Version;

use crate::memtable::{List, MemRun};
use crate::pacer::Pacer;
use crate::sync::{ArcCell, Mutex, lock};

/// The memtable's pieces and the tables, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) active: Arc<List>,
    /// Newest first.
    pub(crate) sealed: Vec<Arc<MemRun>>,
    pub(crate) version: Arc<Version>,
}

impl View {
    /// Bytes of the sealed pieces.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.sealed.iter().map(|run| run.bytes).sum()
    }
}

/// The present view.
#[derive(Debug)]
pub(crate) struct Views {
    pub(crate) cell: ArcCell<View>,
    pub(crate) pacer: Pacer,
    install: Mutex<()>,
}

impl Views {
    pub(crate) fn new(view: View, pacer: Pacer) -> Views {
        Views {
            cell: ArcCell::new(Arc::new(view)),
            pacer,
            install: Mutex::new(()),
        }
    }

    /// Replaces the view by what `change` makes of it.
    pub(crate) fn install(&self, change: impl FnOnce(&mut View)) {
        let _installing = lock(&self.install);
        let mut view = View::clone(&self.cell.load());
        change(&mut view);
        self.pacer.note(&view);
        self.cell.store(Arc::new(view));
    }
}
