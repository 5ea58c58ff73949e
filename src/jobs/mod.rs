//! Work on data after its commit: flush, compaction, reclaiming, checkpoint, ingest, and the
//! threads that do it.

pub(crate) mod blob_gc;
pub(crate) mod blob_outputs;
pub(crate) mod checkpoint;
pub(crate) mod compact;
pub(crate) mod expire;
pub(crate) mod flush;
pub(crate) mod idle;
pub(crate) mod ingest;
pub(crate) mod ingest_sorter;
pub(crate) mod log_segments;
pub(crate) mod log_size;
pub(crate) mod pacing;
pub(crate) mod reclaim;
pub(crate) mod space;
pub(crate) mod table_outputs;
pub(crate) mod workers;
