//! Running a mode from a test.

#![allow(clippy::unwrap_used, clippy::panic)] // It is a test.

use terrace_torture::{Budget, Counts, MODES, Plan};

/// Runs the mode `name` from seed `first` until it has counted `count`; panics with what reproduces
/// a failure.
pub fn run(name: &str, first: u64, count: u64) -> Counts {
    let mode = MODES.iter().find(|mode| mode.name == name).unwrap();
    match (mode.run)(&Plan::new(first, Budget::Count(count))) {
        Ok(counts) => {
            println!("{name}: {counts:?}");
            counts
        }
        Err(failure) => panic!("torture {name} FAILED: {failure}"),
    }
}
