//! Signals between callers and background threads, and write throttling.

pub(crate) mod pacer;
pub(crate) mod signals;
