//! What a machine lacks is skipped with a line that says so, and is a failure in `.ci/run`
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // It is a test.

use std::process::{Command, Output};

/// A power cut where no program is found, neither `mkfs.xfs` nor another.
fn without_tools(required: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torture"));
    command.args(["powercut", "--seed", "1", "--count", "1"]);
    command
        .env("PATH", "/nonexistent")
        .env_remove("TERRACE_NO_SKIPS");
    if required {
        command.env("TERRACE_NO_SKIPS", "1");
    }
    command.output().unwrap()
}

#[test]
fn a_skip_is_a_failure_where_it_is_said() {
    let skipped = without_tools(false);
    let said = String::from_utf8_lossy(&skipped.stderr);
    assert!(
        skipped.status.success() && said.contains("powercut: skipped"),
        "{said}"
    );
    let refused = without_tools(true);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("TERRACE_NO_SKIPS"),
        "{said}"
    );
}
