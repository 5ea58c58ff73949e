//! Every call site meets every error.

use terrace_torture::{Budget, MODES, Plan};

#[test]
fn every_call_meets_every_error() {
    let mode = MODES.iter().find(|mode| mode.name == "faults").unwrap();
    let counts = (mode.run)(&Plan::new(2, Budget::Count(1))).unwrap_or_else(|f| panic!("{f}"));
    println!("{counts:?}");
    assert!(counts["faults"] > 3000 && counts["call sites"] > 75);
}
