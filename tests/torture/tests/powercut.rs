//! Fifty power cuts of real file systems, where that can be done.
#![cfg(target_os = "linux")]

mod command;

#[test]
fn nothing_is_lost() {
    command::run(&["powercut", "--seed", "1", "--count", "50"]);
}
