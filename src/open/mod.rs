//! From a directory to an engine, after any end.

pub(crate) mod assemble;
pub(crate) mod level0;
pub(crate) mod opening;
pub(crate) mod rebuild;
pub(crate) mod replay;
pub(crate) mod replay_blobs;
pub(crate) mod salvage;
pub(crate) mod spill;
pub(crate) mod start;
