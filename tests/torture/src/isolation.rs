//! Transactions of many threads, round by round, each on a new database of tiny sizes: no cycle of dependencies
//! may come out. Counts transactions that were committed.

use terrace::Isolation;
use terrace::vfs::MemVfs;
use terrace_kit::{Mode, Scenario, isolation};

use crate::{Counts, Failure, Outcome, Plan};

const THREADS: u64 = 8;
/// Transactions of each thread in a round.
const EACH: u64 = 500;

/// Runs the mode.
pub(crate) fn run(plan: &Plan) -> Outcome {
    let mut counts = Counts::new();
    let mut seed = plan.seed;
    let mut done = 0;
    while plan.goes_on(done) {
        let scenario = Scenario::on(MemVfs::new(seed), Mode::Threads);
        let failure = |what: String| Failure {
            what,
            reproduce: format!(
                "isolation --seed {seed} --count 1 (threads: it may take several runs)"
            ),
        };
        let db = scenario
            .open(seed)
            .map_err(|error| failure(error.to_string()))?;
        let found = isolation::round(&db, seed, THREADS, EACH, Isolation::Serializable);
        if let Some(anomaly) = found.anomalies.first() {
            return Err(failure(anomaly.clone()));
        }
        for (name, count) in [
            ("transactions committed", found.committed),
            ("transactions given up", found.given_up),
            ("dependencies", found.dependencies),
        ] {
            *counts.entry(name.into()).or_default() += count;
        }
        done += found.committed;
        seed += 1;
        plan.show(|| format!("{done} transactions, 0 anomalies"));
    }
    Ok(counts)
}
