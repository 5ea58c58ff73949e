//! The crash-recovery tests of terrace, for whoever wants to see them: each mode tortures databases in one way,
//! from a seed, for a time or a number of rounds, and counts what it did.
//!
//! ```text
//! cargo run --release -p terrace-torture -- MODE [--seed S] [--for 60s | --count N] [--report FILE]
//! ```
//!
//! A mode is a function from a [`Plan`] to [`Counts`]; its first failure ends it. Failures are
//! shrunk where the mode can, and end in one line that reproduces them. `cargo test` runs every
//! mode with a small count (`tests/`); the totals in `docs/testing.md` come from `--report` files,
//! which add up.

// All of this is a test, which the lints' exceptions for tests do not see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]
#![deny(unsafe_code)] // One file says why it needs some.

#[cfg(target_os = "linux")]
mod child;
mod corrupt;
#[cfg(target_os = "linux")]
mod disk;
mod diskfull;
#[cfg(target_os = "linux")]
mod endure;
mod faults;
#[cfg(target_os = "linux")]
mod hook;
mod images;
mod isolation;
#[cfg(target_os = "linux")]
mod kill;
#[cfg(target_os = "linux")]
mod ledger;
#[cfg(target_os = "linux")]
mod limits;
mod model;
mod options;
mod parallel;
mod place;
mod plan;
#[cfg(target_os = "linux")]
mod powercut;
mod report;
mod rounds;
mod schedules;
mod shrink;
mod skip;
#[cfg(target_os = "linux")]
mod steps;
#[cfg(target_os = "linux")]
mod sys;
mod tmpfs;
#[cfg(target_os = "linux")]
mod writer;

pub use plan::{Budget, Plan};
pub use report::{Counts, Failure, Report, grouped};

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
pub const MODES: &[Mode] = &[
    Mode {
        name: "images",
        about: "power cuts and kills at every call that changes a file; counts disk images",
        run: images::run,
    },
    Mode {
        name: "model",
        about: "random operations beside a model; counts operations",
        run: model::run,
    },
    Mode {
        name: "options",
        about: "one script under 64 option vectors, changed at reopens; counts scripts",
        run: options::run,
    },
    Mode {
        name: "corrupt",
        about: "every bit, byte and length of small databases damaged, and salvage; counts databases",
        run: corrupt::run,
    },
    #[cfg(target_os = "linux")]
    Mode {
        name: "kill",
        about: "processes killed by SIGKILL while they open, write and close; counts kills",
        run: kill::run,
    },
    #[cfg(target_os = "linux")]
    Mode {
        name: "powercut",
        about: "a real ext4 and XFS that lose power meanwhile; needs root; counts cuts",
        run: powercut::run,
    },
    #[cfg(target_os = "linux")]
    Mode {
        name: "limits",
        about: "other processes, permissions, limits of the system, odd clocks, paths and sizes; once each",
        run: limits::run,
    },
    Mode {
        name: "faults",
        about: "every call to the file system fails, once and for good, with every error",
        run: faults::run,
    },
    Mode {
        name: "diskfull",
        about: "the disk is full at every point where space is taken, and then has room again",
        run: diskfull::run,
    },
    Mode {
        name: "isolation",
        about: "transactions by 8 threads, and a search for what no serial order explains",
        run: isolation::run,
    },
    #[cfg(target_os = "linux")]
    Mode {
        name: "endure",
        about: "databases under load, watched for calls that hang and resources that grow; counts rounds",
        run: endure::run,
    },
    Mode {
        name: "schedules",
        about: "the concurrent parts under chosen schedules, built anew by cargo; counts schedules",
        run: schedules::run,
    },
];

/// Does the work of a process that a mode has started, if `arguments` (without the program's name)
/// say so.
pub fn child(arguments: &[String]) -> Option<std::process::ExitCode> {
    match arguments.split_first()? {
        #[cfg(target_os = "linux")]
        (first, rest) if first == writer::ARGUMENT => Some(writer::main(rest)),
        #[cfg(target_os = "linux")]
        (first, rest) if first == endure::ARGUMENT => Some(endure::child_main(rest)),
        #[cfg(target_os = "linux")]
        (first, rest) if first == limits::ARGUMENT => Some(limits::child_main(rest)),
        _ => None,
    }
}
