//! A thousand processes are killed while they write, recover and close.
#![cfg(target_os = "linux")]

mod common;

#[test]
fn nothing_is_lost() {
    common::run(&["kill", "--seed", "1", "--count", "1000"]);
}
