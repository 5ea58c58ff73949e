//! Point reads and scans of one pinned view.

pub(crate) mod basis;
pub(crate) mod blob;
pub(crate) mod context;
pub(crate) mod db_iter;
pub(crate) mod dead_ranges;
pub(crate) mod estimate;
pub(crate) mod get;
pub(crate) mod iter;
pub(crate) mod range_delete_iter;
pub(crate) mod range_deletes;
pub(crate) mod read_set;
pub(crate) mod sources;
pub(crate) mod view;
