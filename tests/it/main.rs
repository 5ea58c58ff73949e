//! Integration tests: one binary, so that the engine is linked once.

mod crash;
mod faults;
mod log_damage;
mod machine;
mod regressions;
mod workload;
