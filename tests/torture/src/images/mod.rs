//! Mode `images`: power cuts and kills at every call that changes a file.
//!
//! A round is one workload: a few dozen operations from a seed (puts, batches across keyspaces,
//! deletes, snapshots, flushes, compactions, keyspaces created and dropped, closes and reopens with
//! other options) on tiny log segments and tables, driven by hand so that everything follows from
//! the seed. Before each changing call, images of the disk are taken: one cut by each policy of
//! `CrashPolicy`, and the kill of the process. Each different one is opened; what it holds must be
//! the state after some prefix of the commits, with all that was acknowledged; then it goes on:
//! read and cut again, written to and cut again, closed and opened. Some recoveries are crashed
//! themselves at each of their calls, and some of those recoveries again. Now and then the workload
//! itself goes on with what one of the crashes left.
//!
//! What is counted:
//!
//! - `images`: distinct contents of a disk that were opened and compared. Equal ones count once,
//!   whatever crash left them. The budget is a number of these.
//! - `differing`: those of them that are not what the disk would have held without the crash. It is
//!   a failure if they are less than a fifth: such a run would test little.
//! - `crashes`: crashes whose outcome was looked at, equal outcomes included; `in recoveries` and
//!   `in recoveries of those` count those of a first and a second recovery.
//! - `calls`: changing calls of the workloads; `operations`, `lives` and `workloads` say how they
//!   came about.
//!
//! A failure is shrunk: operations are left out while it still fails. `--at` takes what is left, as
//! `0,3,7-12@2.117`: the numbers of the operations, and that only the crashes of life 2 before its
//! call 117 are to be looked at.

mod examine;
mod workload;

use std::collections::HashSet;
use std::sync::Mutex;

use workload::{Everywhere, Wrong};

use crate::place::Place;
use crate::rounds::{self, Tally};
use crate::{Counts, Failure, Outcome, Plan, shrink};

/// Operations of a workload.
const OPERATIONS: usize = 50;

/// Contents that were seen.
type Seen = Mutex<HashSet<u64>>;

/// Runs the mode.
pub(crate) fn run(plan: &Plan) -> Outcome {
    let seen = Seen::default();
    if let Some(at) = &plan.at {
        let place: Place = at.parse().map_err(|what| failure(plan.seed, what, at))?;
        let tally = Tally::default();
        let found = Everywhere::new(plan.seed, &place, &seen, &tally).run();
        return match found {
            Ok(()) => Ok(tally.into_counts()),
            Err(wrong) => Err(failure(plan.seed, wrong.what, at)),
        };
    }
    let counts = rounds::run(plan, |seed, tally| {
        let whole = Place::whole(OPERATIONS);
        let found = Everywhere::new(seed, &whole, &seen, tally).run();
        found.map_err(|wrong| shrunk(seed, &whole, wrong))
    })?;
    differing_enough(plan.seed, &counts)?;
    Ok(counts)
}

fn failure(seed: u64, what: String, at: &str) -> Failure {
    let reproduce = format!("--seed {seed} --at {at}");
    Failure { what, reproduce }
}

/// The failure of the shortest workload that has it.
fn shrunk(seed: u64, whole: &Place, wrong: Wrong) -> Failure {
    let fails = |place: &Place| {
        let (seen, tally) = (Seen::default(), Tally::default());
        let found = Everywhere::new(seed, place, &seen, &tally).run();
        found.err()
    };
    let (mut place, mut wrong) = shrink::shortest(whole, wrong, &fails);
    // With the other crashes left out nothing else has been opened before; mostly that is no
    // matter.
    let narrow = place.only(wrong.life, wrong.call);
    if let Some(same) = fails(&narrow) {
        (place, wrong) = (narrow, same);
    }
    failure(seed, wrong.what, &place.to_string())
}

fn differing_enough(seed: u64, counts: &Counts) -> Result<(), Failure> {
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    let (images, differing) = (count("images"), count("differing"));
    if differing * 5 >= images {
        return Ok(());
    }
    Err(Failure {
        what: format!("only {differing} of {images} images differ from the disk without the crash"),
        reproduce: format!("--seed {seed} --count {images}"),
    })
}
