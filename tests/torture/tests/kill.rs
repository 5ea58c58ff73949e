//! A thousand processes are killed while they write, recover and close.
#![cfg(target_os = "linux")]

mod command;

#[test]
fn nothing_is_lost() {
    command::run(&["kill", "--seed", "1", "--count", "1000"]);
}
