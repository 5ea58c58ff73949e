//! Tests of the whole engine through its public API, in one binary.
// All of this is a test, helpers included, which the lints' exceptions for tests do not see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]

mod approximate;
mod arguments;
mod atomic;
mod behaviour;
mod blobs;
mod checkpoint;
mod concurrency;
mod crash;
mod expiry;
mod expiry_rule;
mod faults;
mod ingest;
mod isolation;
mod keyspace_packing;
mod known_bugs;
mod limits;
mod links;
mod liveness;
mod log_damage;
mod log_size;
#[cfg(feature = "log")]
mod logging;
mod machine;
mod memory;
mod merge;
mod moved;
mod opening;
mod packing;
mod policies;
mod promises;
mod queues;
mod ranges;
mod regressions;
mod salvage;
mod set_aside;
mod stretches;
mod tidy;
mod transactions;
mod typed;
