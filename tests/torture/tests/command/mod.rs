//! How the tests run the command: modes that start processes of their own need the real one.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;

/// Runs the command, which must end well; what it says stands in the test's output.
pub fn run(arguments: &[&str]) {
    let program = env!("CARGO_BIN_EXE_torture");
    let run = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    println!("{said}{errors}");
    assert!(
        run.status.success(),
        "torture {arguments:?}: {}",
        run.status
    );
}
