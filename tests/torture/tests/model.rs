//! The mode `model`, as every test run has it.

mod common;

#[test]
fn every_answer_is_the_models() {
    let counts = common::run("model", 1, 300_000);
    assert!(counts["writes"] > 100_000);
}
