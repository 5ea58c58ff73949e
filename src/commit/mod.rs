//! The log and the active list under one lock: order, durability, visibility.

pub(crate) mod checks;
pub(crate) mod committer;
pub(crate) mod queue_bounds;
pub(crate) mod snapshots;
