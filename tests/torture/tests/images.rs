//! The mode `images`, as every test run has it.

mod common;

#[test]
fn no_crash_loses_or_invents_anything() {
    let counts = common::run("images", 1, 150_000);
    assert!(counts["images"] >= 150_000);
    assert!(counts["in recoveries of those"] > 1000);
}
