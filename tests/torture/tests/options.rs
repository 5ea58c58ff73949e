//! The mode `options`, as every test run has it.

mod common;

#[test]
fn options_change_no_answer() {
    let counts = common::run("options", 1, 8);
    assert!(counts["databases"] >= 8 * 64);
}
