//! Every case of the mode.
#![cfg(target_os = "linux")]

mod command;

#[test]
fn every_case_holds() {
    command::run(&["limits", "--seed", "1", "--count", "1"]);
}
