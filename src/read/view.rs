//! What a reader pins: the memtable's pieces and the tables, at one moment.
//!
//! A reader loads the [`View`] first and the visible sequence number second. The order matters:
//! whatever a job left out of the view it installed was hidden by a version that was visible
//! before, so a reader with that view reads at a sequence number that sees the newer version.
//!
//! A view is replaced, never changed. Its replacer holds the install lock for the moment of
//! copying: the commit path when it seals a list, a job when it installs its result.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use terrace_base::{SeqNo, mutant};
use terrace_compaction::Version;
use terrace_sstable::BlobReader;

use crate::background::pacer::{Debt, Pacer};
use crate::memtable::{Form, List, MemRun};
use crate::sync::{ArcCell, AtomicU64, Mutex, Ordering, Rank, lock};

/// The memtable's pieces and the tables, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) active: Arc<List>,
    /// Newest first.
    pub(crate) sealed: Vec<Arc<MemRun>>,
    pub(crate) version: Arc<Version>,
    /// No table holds anything above.
    pub(crate) tables_upto: SeqNo,
}

impl View {
    /// Bytes of the sealed pieces.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.sealed.iter().map(|run| run.bytes).sum()
    }

    /// The last sequence number of what is sealed, if anything is.
    pub(crate) fn newest_sealed(&self) -> Option<SeqNo> {
        self.sealed.first().map(|run| run.last_seq)
    }

    /// How many range deletes are in force.
    pub(crate) fn range_deletes(&self) -> usize {
        let sealed = self.sealed.iter().map(|run| run.ranges.len());
        self.active.ranges().len() + sealed.sum::<usize>() + self.version.deleted().len()
    }

    /// Asserts what holds for each view and the one before it, in a debug build.
    fn check(&self, before: &View) {
        if cfg!(not(debug_assertions)) || mutant("wrong-run-order") {
            return;
        }
        let newest_first = |runs: &[Arc<MemRun>]| {
            let falls = |pair: &[Arc<MemRun>]| pair[0].last_seq >= pair[1].last_seq;
            runs.windows(2).all(falls)
        };
        debug_assert!(newest_first(&self.sealed), "sealed pieces are out of order");
        let rises = self.tables_upto >= before.tables_upto;
        debug_assert!(rises, "tables hold less than before");
        let above = |run: &Arc<MemRun>| run.last_seq >= self.tables_upto;
        debug_assert!(self.sealed.iter().all(above), "a piece is in tables too");
    }

    /// What it leaves to do.
    fn debt(&self) -> Debt {
        Debt {
            level0_runs: self.version.level(0).runs.len() as u64,
            sealed_bytes: self.sealed_bytes(),
            range_deletes: self.range_deletes(),
        }
    }
}

/// The present view.
#[derive(Debug)]
pub(crate) struct Views {
    pub(crate) cell: ArcCell<View>,
    pub(crate) pacer: Pacer,
    /// How many views were installed.
    installed: AtomicU64,
    /// Views replaced that readers may still pin, each with how many had been installed before it
    /// was replaced. Held for the moment of replacing one.
    replaced: Mutex<Vec<(u64, Weak<View>)>>,
}

impl Views {
    pub(crate) fn new(view: View, pacer: Pacer) -> Views {
        Views {
            cell: ArcCell::new(Arc::new(view)),
            pacer,
            installed: AtomicU64::new(0),
            replaced: Mutex::new(Rank::Views, Vec::new()),
        }
    }

    /// Replaces the view by what `change` makes of it.
    pub(crate) fn install(&self, change: impl FnOnce(&mut View)) {
        let mut replaced = lock(&self.replaced);
        let before = self.cell.load_full();
        let mut view = View::clone(&before);
        change(&mut view);
        view.check(&before);
        self.pacer.note(view.debt());
        replaced.retain(|(_, view)| view.strong_count() > 0);
        replaced.push((self.installed(), Arc::downgrade(&before)));
        self.cell.store(Arc::new(view));
        self.installed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many views were installed since the open.
    pub(crate) fn installed(&self) -> u64 {
        self.installed.load(Ordering::Relaxed)
    }

    /// True if a reader may still use a view that was replaced before the one that followed
    /// `installed` others.
    pub(crate) fn is_pinned(&self, installed: u64) -> bool {
        let replaced = lock(&self.replaced);
        let is_pinned = |view: &Weak<View>| view.strong_count() > 0;
        replaced
            .iter()
            .any(|(n, view)| *n < installed && is_pinned(view))
    }

    /// Bytes of the memtable's pieces that only views that were replaced still hold: what readers
    /// pin.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        let pinned: Vec<Arc<View>> = lock(&self.replaced)
            .iter()
            .filter_map(|(_, view)| view.upgrade())
            .collect();
        let now = self.cell.load_full();
        let mut counted: HashSet<u64> = now.sealed.iter().map(|run| run.id).collect();
        let mut lists = vec![Arc::as_ptr(&now.active)];
        let mut bytes = 0;
        for run in now.sealed.iter() {
            if let Form::List(list) = &run.form {
                lists.push(Arc::as_ptr(list));
            }
        }
        for view in &pinned {
            for run in view.sealed.iter().filter(|run| counted.insert(run.id)) {
                bytes += run.bytes;
                if let Form::List(list) = &run.form {
                    lists.push(Arc::as_ptr(list));
                }
            }
        }
        for view in &pinned {
            // One that was sealed meanwhile, in a view that no reader pins.
            let list = Arc::as_ptr(&view.active);
            if !lists.contains(&list) {
                bytes += view.active.bytes() as u64;
                lists.push(list);
            }
        }
        bytes
    }

    /// Makes the pacer refuse writes, or accept them again. The lock is the one under which views
    /// set the price.
    pub(crate) fn refuse(&self, yes: bool) {
        let _replaced = lock(&self.replaced);
        self.pacer.refuse(yes);
        self.pacer.note(self.cell.load_full().debt());
    }

    /// Opens every table and blob file of a view that a reader pins. An iterator outlives its
    /// database, whose next opener may remove the file of a table before the iterator comes to it.
    pub(crate) fn open_pinned(&self) {
        let mut pinned: Vec<Arc<View>> = lock(&self.replaced)
            .iter()
            .filter_map(|(_, view)| view.upgrade())
            .collect();
        let now = self.cell.load_full();
        if Arc::strong_count(&now) > 2 {
            pinned.push(now); // Pinned by others than the cell and this call.
        }
        for view in pinned {
            for (_, _, table) in view.version.tables() {
                if table.keep_open().is_err() {
                    continue; // The reader meets the error, if it gets there.
                }
            }
            for blob in view.version.blobs().values() {
                if blob.reader().and_then(BlobReader::keep).is_err() {
                    continue;
                }
            }
        }
    }
}
