//! The mode `images`, as every test run has it.

mod common;

#[test]
fn no_crash_loses_or_invents_anything() {
    let counts = common::run("images", 1, 150_000);
    assert!(counts["images"] >= 150_000);
    assert!(counts["in recoveries of those"] > 1000);
}

/// Found by seed 9427: killed behind the rename of CURRENT, opened again, and cut while the first
/// segment of the log was made. The name of the segment was kept and that of CURRENT was not, and
/// what was left could not be opened.
#[test]
fn a_name_that_is_made_after_a_kill_does_not_outlive_that_of_current() {
    common::run("images", 9427, 1);
}
