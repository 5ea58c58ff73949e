//! The crash-recovery tests of terrace, for whoever wants to see them: each mode tortures databases in one way,
//! from a seed, for a time or a number of rounds, and counts what it did.
//!
//! ```text
//! cargo run --release -p terrace-torture -- MODE [--seed S] [--for 60s | --count N] [--report FILE]
//! ```
//!
//! A mode is a function from a [`Plan`] to [`Counts`]; its first failure ends it. Failures are shrunk where the
//! mode can, and end in one line that reproduces them. `cargo test` runs every mode with a small count
//! (`tests/`); the totals that the readme shows come from `--report` files, which add up.

// All of this is a test, which the lints' exceptions for tests do not see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]
#![forbid(unsafe_code)]

mod plan;
mod report;
mod schedules;

pub use plan::{Budget, Plan};
pub use report::{Counts, Failure, Report};

/// What a mode returns: what it counted, or the failure that ended it.
pub type Outcome = Result<Counts, Failure>;

/// A way to torture databases.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line for the help.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(&Plan) -> Outcome,
}

/// Every mode, in the order in which `all` runs them.
pub const MODES: &[Mode] = &[Mode {
    name: "schedules",
    about: "the concurrent parts under chosen schedules, built anew by cargo; counts schedules",
    run: schedules::run,
}];
