//! What the tests of terrace share: operations made from a seed, a model that remembers the commit order, an
//! oracle that says which prefix of it a database equals, and a runner that drives both side by side.
//!
//! ```text
//! seed ──> Generator ──> Op ──> Runner ──> Db       what it answers
//!                                  └────> Model     what it must answer;  Oracle: which prefix it is
//! ```
//!
//! Crash tests put a [`Watch`] on the file system below, which takes what a crash may leave at each
//! of its calls, and a [`Recovery`] of each must end in a state that [`Progress`] allows.
//!
//! Everything follows from numbers: the same seed gives the same operations, and a failure prints
//! them.

mod crash;
mod digest;
pub mod fuzz;
mod generate;
pub mod isolation;
mod model;
mod op;
mod oracle;
mod pins;
mod progress;
mod reads;
mod runner;
mod scenario;
mod spaces;
mod steps;
mod ticket;
mod trouble;

pub use crash::{Allowed, Crash, Moment, Recovery, Watch, no_file_left_over};
pub use digest::digest;
pub use generate::{Generator, Profile, Random};
pub use model::{Change, Commit, Entry, Expires, Map, Model, State};
pub use op::{AGES, Action, End, How, Move, Op, Range, Read, Step, Value, Write, expiry};
pub use oracle::{Contents, Oracle};
pub use progress::Progress;
pub use runner::Runner;
pub use scenario::{Mode, Scenario};
use terrace::Options;
pub use trouble::{Outcome, Trouble};

/// The merge operator that every keyspace gets before its first operand: the newer follows the
/// older.
pub const APPEND: &str = "append";

/// The operator itself.
pub fn append(_key: &[u8], older: &[u8], newer: &[u8]) -> Vec<u8> {
    [older, newer].concat()
}

/// A compaction filter that keeps everything: tables are rewritten with it, and nothing changes.
pub const KEEP_ALL: &str = "keep all";

/// The options with what the keyspaces of the tests name: without, they cannot be opened.
pub fn registered(options: Options) -> Options {
    options
        .merge_operator(APPEND, append)
        .compaction_filter(KEEP_ALL, |_, _| true)
}

/// Names of keyspaces, as operations number them; 0 is the default one.
pub const KEYSPACES: [&str; 4] = ["default", "users", "a/b\\c ü\u{1F980}\0", " "];
