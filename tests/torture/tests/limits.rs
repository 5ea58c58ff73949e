//! Every case of the mode.
#![cfg(target_os = "linux")]

mod common;

#[test]
fn every_case_holds() {
    common::run(&["limits", "--seed", "1", "--count", "1"]);
}
