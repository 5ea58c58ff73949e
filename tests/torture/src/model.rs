//! Mode `model`: random operations over the whole API, beside a model that is compared with every answer.
//!
//! A round is a database and a few thousand operations, with tiny sizes, so that lists are sealed,
//! folded, flushed and compacted through several levels all the time: three rounds of four are
//! driven by hand in memory, the fourth has the database's own threads at work. Writes of every
//! kind, reads in both directions, snapshots, iterators and cursors that are kept while everything
//! changes below them, keyspaces, closes and reopens with other options.
//!
//! What is counted: `operations` (the budget is a number of these; a batch or a scan is one),
//! `writes`, `databases`.
//!
//! A failure is shrunk by leaving operations out, and `--at` takes the numbers of those that are
//! left.

use terrace::vfs::MemVfs;
use terrace_kit::{Mode, Outcome as Done, Profile, Runner, Scenario};

use crate::place::{self, Place};
use crate::rounds::{self, Tally};
use crate::{Failure, Outcome, Plan, shrink};

/// Operations of a round.
const OPERATIONS: usize = 4000;

/// Runs the mode.
pub(crate) fn run(plan: &Plan) -> Outcome {
    if let Some(at) = &plan.at {
        let tally = Tally::default();
        let place: Result<Place, String> = at.parse();
        let done = place.and_then(|place| round(plan.seed, &place, &tally));
        return match done {
            Ok(()) => Ok(tally.into_counts()),
            Err(what) => Err(failure(plan.seed, what, at)),
        };
    }
    rounds::run(plan, |seed, tally| {
        let whole = Place::whole(OPERATIONS);
        round(seed, &whole, tally).map_err(|what| {
            let fails = |place: &Place| round(seed, place, &Tally::default()).err();
            let (place, what) = shrink::shortest(&whole, what, &fails);
            failure(seed, what, &place.to_string())
        })
    })
}

fn failure(seed: u64, what: String, at: &str) -> Failure {
    let reproduce = format!("--seed {seed} --at {at}");
    Failure { what, reproduce }
}

/// What a round does most of.
fn profile(seed: u64) -> Profile {
    let mut profile = Profile::default();
    // A compaction or a reopen costs as much as hundreds of other operations, and compares
    // everything anyway; long values and batches fill levels, but try nothing that short ones do
    // not.
    (profile.writes, profile.reads, profile.pins) = (480, 200, 80);
    (profile.maintenance, profile.reopens, profile.checks) = (8, 1, false);
    (profile.longest, profile.large_one_in, profile.batch) = (300, 5000, 20);
    match seed / 4 % 8 {
        // Values larger than blocks and log segments, batches larger than lists.
        0 => (profile.longest, profile.large_one_in, profile.batch) = (8800, 300, 80),
        // A tree of several levels.
        1..=3 => (profile.keys, profile.writes, profile.reads) = (400, 960, 120),
        // Few keys with many versions, held by snapshots.
        4..=5 => (profile.keys, profile.pins) = (16, 240),
        _ => {}
    }
    profile
}

fn round(seed: u64, place: &Place, tally: &Tally) -> Result<(), String> {
    let mode = if seed % 4 == 3 {
        Mode::Threads
    } else {
        Mode::Manual
    };
    let mut runner = Runner::closed(Scenario::on(MemVfs::new(seed), mode));
    let mut done = 0;
    let result = operations(seed, place, &mut runner, &mut done);
    tally.done(done);
    tally.add([
        ("operations", done),
        ("writes", runner.model().len() as u64),
        ("databases", 1),
    ]);
    result.map_err(String::from)
}

fn operations(seed: u64, place: &Place, runner: &mut Runner, done: &mut u64) -> Done {
    let profile = profile(seed);
    runner.open(seed)?;
    for &at in &place.ops {
        place::operate(runner, &profile, seed, at)?;
        *done += 1;
    }
    runner.check()?;
    runner.close(true)
}
