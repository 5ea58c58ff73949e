//! What the tests of terrace share: operations made from a seed, a model that remembers the commit order, an
//! oracle that says which prefix of it a database equals, and a runner that drives both side by side.
//!
//! ```text
//! seed ──> Generator ──> Op ──> Runner ──> Db       what it answers
//!                                  └────> Model     what it must answer;  Oracle: which prefix it is
//! ```
//!
//! Everything follows from numbers: the same seed gives the same operations, and a failure prints them.

mod generate;
mod model;
mod op;
mod oracle;
mod reads;
mod runner;
mod scenario;
mod ticket;

pub use generate::{Generator, Profile, Random};
pub use model::{Change, Commit, Entry, Map, Model, State};
pub use op::{End, How, Move, Op, Range, Read, Value, Write};
pub use oracle::{Contents, Oracle};
pub use runner::{Progress, Runner};
pub use scenario::{Mode, Scenario};

/// Why a check failed.
pub type Outcome<T = ()> = Result<T, String>;

/// Names of keyspaces, as operations number them; 0 is the default one.
pub const KEYSPACES: [&str; 4] = ["default", "users", "a/b\\c ü\u{1F980}\0", " "];
