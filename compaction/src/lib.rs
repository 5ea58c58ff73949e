//! The shape of the tree and how it changes: a plan is made purely, then carried out, then
//! installed.
//!
//! An internal part of the `terrace` crate: its API changes without notice.
//!
//! ```text
//!            Version ──────────────────────────────┐
//!               │ pick, pick_range                 │ apply
//!               ▼                                  │
//!           Compaction ── merge ──► MergeResult ── VersionEdit ──► next Version
//!            (plan)       (work)     new tables      (one frame of the manifest)
//! ```
//!
//! - [`Version`]: levels of runs of tables at one instant; it never changes. [`VersionEdit`] is the
//!   step from one to the next, and what the manifest stores.
//! - [`pick`], [`pick_range`], [`debt`]: which tables should be merged next. Nothing here knows a
//!   file.
//! - [`merge`]: writes new tables from sorted entries through a [`CompactionIter`], which drops
//!   what no reader can see. It knows no locks and publishes nothing.
//! - [`RunIter`] reads a run in order.
//!
//! Threads, locks and the lives of files belong to the engine, which lends them as [`TableStore`]
//! and [`Outputs`].
#![forbid(unsafe_code)]

mod blob_file;
mod builder;
mod edit;
mod edit_text;
mod fold;
mod iterator;
mod job;
mod packing;
mod picker;
mod run;
mod run_edit;
mod run_iter;
mod stripes;
mod table_file;
mod text;
mod version;

pub use blob_file::{BlobFile, BlobMeta};
pub use builder::VersionBuilder;
pub use edit::{
    AddedTable, Flushed, KeyspaceRecord, MovedTable, RemovedTable, SegmentRecord, VersionEdit,
};
pub use fold::{Combine, Folding};
pub use iterator::{CompactionIter, DropCounts, Dropped, Fetch, Keeps, Rules, Step};
pub use job::{MergeOptions, MergeResult, Outputs, merge};
pub use packing::{Packing, Packings};
pub use picker::{
    Among, Compaction, CompactionKind, KeyRange, OlderRuns, PickOptions, Targets, debt, pick,
    pick_newest, pick_range, rewrite_in_place, targets,
};
pub use run::{Run, Tables};
pub use run_iter::RunIter;
pub use stripes::Stripes;
pub use table_file::{Opened, TableFile, TableMeta, TableRef, TableStore, damaged_table};
pub use version::{BlobFiles, LEVELS, Level, Version};
