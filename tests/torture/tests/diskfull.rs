//! The disk is full at every point where a workload takes space.

use terrace_torture::{Budget, MODES, Plan};

#[test]
fn a_full_disk_goes_away_by_itself() {
    let mode = MODES.iter().find(|mode| mode.name == "diskfull").unwrap();
    let counts = (mode.run)(&Plan::new(1, Budget::Count(2))).unwrap_or_else(|f| panic!("{f}"));
    println!("{counts:?}");
    assert!(counts["disks"] > 100 && counts["recoveries"] > 100);
    assert!(counts["deletes while full"] > 100);
}
