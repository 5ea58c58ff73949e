//! The shape of the tree and how it changes: a plan is made purely, then carried out, then installed.
//!
//! An internal part of the `terrace` crate: its API changes without notice.
//!
//! - [`Version`]: levels of runs of tables at one instant; it never changes. [`VersionEdit`] is the step
//!   from one to the next, and what the manifest stores.
//!
//! Threads, locks and the lives of files belong to the engine, which lends them as a [`TableStore`].
#![forbid(unsafe_code)]

mod edit;
mod edit_text;
mod run;
mod table_file;
mod text;
mod version;

pub use edit::{
    AddedTable, Flushed, KeyspaceRecord, MovedTable, RemovedTable, SegmentRecord, VersionEdit,
};
pub use run::Run;
pub use table_file::{TableFile, TableMeta, TableStore, damaged_table};
pub use version::{LEVELS, Level, Version};
