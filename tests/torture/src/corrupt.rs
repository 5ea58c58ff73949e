//! Mode `corrupt`: the files of a small database are damaged in every way there is, one at a time.
//!
//! Every single bit flipped, every byte zeroed, every length; files and blocks exchanged, doubled,
//! missing, put back from earlier, or from another database; bytes appended. The database has a
//! file of each kind, and everything that was ever written to it is known. So each outcome can be
//! judged:
//!
//! - after a clean end: the right answer to every read, or `Corruption` with file and offset, from
//!   the open or from just the reads that touch the damage;
//! - after a kill, where the log is damaged: what the promises of the frames that are left require,
//!   computed here from the frames themselves: one exact state, or `Corruption`;
//! - an older copy of a log segment may bring back an earlier state: nothing in the files says that
//!   there was more.
//!
//! Then a salvage of the same files must open, return no value that was never written, have
//! everything that its report does not name, keep every old file, and leave a database that opens
//! and says the same.

mod check;
mod damage;
mod subject;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use self::check::Outcome as Answer;
use self::damage::{Damage, misplaced, single};
use self::subject::{Ending, Subject};
use crate::{Counts, Failure, Outcome, Plan};

/// Threads that work side by side.
const THREADS: usize = 2;
/// One single damage in so many is also salvaged; of the others every one.
const SALVAGED: usize = 11;

/// Damages databases made from the plan's seeds, one database after the other.
pub fn run(plan: &Plan) -> Outcome {
    let mut counts = Counts::new();
    let mut rounds = 0;
    while plan.goes_on(rounds) && (rounds == 0 || plan.at.is_none()) {
        round(plan, plan.seed + rounds, &mut counts)?;
        rounds += 1;
    }
    Ok(counts)
}

fn round(plan: &Plan, seed: u64, counts: &mut Counts) -> Result<(), Failure> {
    let foreign = Subject::new(seed ^ 0x5555, Ending::Closed);
    for ending in [Ending::Closed, Ending::Killed] {
        let subject = Subject::new(seed, ending);
        let mut cases: Vec<(Damage, bool)> =
            misplaced(&subject).into_iter().map(|d| (d, true)).collect();
        let singles = single(&subject).into_iter().enumerate();
        cases.extend(singles.map(|(n, damage)| (damage, n % SALVAGED == 0)));
        cases.insert(0, (Damage::None, true));
        if let Some(at) = &plan.at {
            cases.retain(|(damage, _)| format!("{}.{damage}", subject.name) == *at);
            cases.iter_mut().for_each(|(_, salvaged)| *salvaged = true);
        }
        *counts.entry("databases".into()).or_default() += 1;
        let failed = damage_all(plan, &subject, &foreign, seed, &cases, counts);
        if let Some((damage, what)) = failed {
            return Err(Failure {
                what,
                reproduce: format!("--seed {seed} --at {}.{damage}", subject.name),
            });
        }
    }
    Ok(())
}

/// Tries all cases in parallel; the first that fails.
fn damage_all(
    plan: &Plan,
    subject: &Subject,
    foreign: &Subject,
    seed: u64,
    cases: &[(Damage, bool)],
    counts: &mut Counts,
) -> Option<(Damage, String)> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failure = Mutex::new(None);
    let totals = Mutex::new(BTreeMap::<String, u64>::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut local = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((damage, salvaged)) = cases.get(at) else {
                        break;
                    };
                    let tried = || one(subject, foreign, seed, damage, *salvaged, &mut local);
                    let result = catch_unwind(AssertUnwindSafe(tried));
                    let result = result.unwrap_or_else(|_| Err("a panic".into()));
                    if let Err(what) = result {
                        stop.store(true, Ordering::Relaxed);
                        let mut failure = failure.lock().unwrap();
                        failure.get_or_insert((at, damage.clone(), what));
                    }
                }
                let mut totals = totals.lock().unwrap();
                for (name, count) in local {
                    *totals.entry(name).or_default() += count;
                }
            });
        }
        while plan.progress
            && next.load(Ordering::Relaxed) < cases.len()
            && !stop.load(Ordering::Relaxed)
        {
            plan.show(|| {
                format!(
                    "{} of {} of {}",
                    next.load(Ordering::Relaxed),
                    cases.len(),
                    subject.name
                )
            });
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    for (name, count) in totals.into_inner().unwrap() {
        *counts.entry(name).or_default() += count;
    }
    let failure = failure.into_inner().unwrap();
    failure.map(|(_, damage, what)| (damage, what))
}

fn one(
    subject: &Subject,
    foreign: &Subject,
    seed: u64,
    damage: &Damage,
    salvaged: bool,
    counts: &mut BTreeMap<String, u64>,
) -> Result<(), String> {
    let mut count = |name: &str, n: u64| *counts.entry(name.to_owned()).or_default() += n;
    let Some(disk) = damage.apply(subject, foreign) else {
        count("that changed nothing", 1);
        return Ok(());
    };
    let allowed = damage.allowed(subject);
    count("damages", 1);
    if matches!(damage, Damage::Flip(..)) {
        count("single bits flipped", 1);
    }
    match check::open_and_read(subject, &disk, seed, allowed)? {
        Answer::Harmless => count("harmless", 1),
        Answer::Told => count("told as corruption", 1),
        Answer::Earlier => count("taken for a tear", 1),
    }
    if salvaged {
        let losses = check::salvage(subject, &disk, seed, allowed)?;
        count("salvaged", 1);
        count("losses reported", losses);
    }
    Ok(())
}
