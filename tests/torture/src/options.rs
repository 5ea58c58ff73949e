//! Mode `options`: one script under 64 option vectors; whatever the options, the answers are the same.
//!
//! A script is a few hundred operations from a seed. It is run 64 times, each on a database of its
//! own: with every one of 16 combinations of compression (none, LZ4), reading (maps, `pread`), who
//! works in the background (threads, the caller) and default durability (`Sync`, `Buffered`), and
//! for each of these with four draws of the sizes of memory, lists, memtables, log segments,
//! tables, levels, level-0 runs and manifest. A script closes its database several times and opens
//! it with the vector that follows, so that each also meets what others left. Every operation is
//! compared with the model, and at the end the digest of what the databases hold must be one
//! number.
//!
//! What is counted: `scripts` (the budget is a number of these), `databases`, `operations`,
//! `reopens`.
//!
//! `--at` takes a vector and the numbers of the operations, as `17:0-99,104`.

use terrace::vfs::MemVfs;
use terrace::{Compression, Durability, IoMode, Options};
use terrace_kit::{Mode, Oracle, Outcome as Done, Profile, Random, Runner, Scenario, digest};

use crate::place::{self, Place};
use crate::rounds::{self, Tally};
use crate::{Failure, Outcome, Plan, shrink};

/// Option vectors.
const VECTORS: u64 = 64;
/// Operations of a script.
const OPERATIONS: usize = 300;
/// A script closes its database after so many of them.
const REOPEN_EVERY: usize = 75;

/// Runs the mode.
pub(crate) fn run(plan: &Plan) -> Outcome {
    if let Some(at) = &plan.at {
        let tally = Tally::default();
        return match again(plan.seed, at, &tally) {
            Ok(()) => Ok(tally.into_counts()),
            Err(what) => Err(Failure {
                what,
                reproduce: format!("--seed {} --at {at}", plan.seed),
            }),
        };
    }
    rounds::run(plan, |seed, tally| {
        let whole = Place::whole(OPERATIONS);
        let mut first = None;
        for vector in 0..VECTORS {
            let found = script(seed, vector, &whole, tally);
            let found = found.and_then(|digest| match *first.get_or_insert(digest) {
                same if same == digest => Ok(()),
                other => Err(format!(
                    "{digest:x} is there under vector {vector}, {other:x} under 0"
                )),
            });
            found.map_err(|what| shrunk(seed, vector, &whole, what))?;
        }
        tally.done(1);
        tally.add([("scripts", 1)]);
        Ok(())
    })
}

fn again(seed: u64, at: &str, tally: &Tally) -> Result<(), String> {
    let (vector, ops) = at.split_once(':').unwrap_or(("0", at));
    let vector = vector
        .parse()
        .map_err(|_| format!("{vector} is no vector"))?;
    let place: Place = ops.parse()?;
    let (one, other) = (
        script(seed, vector, &place, tally)?,
        script(seed, 0, &place, tally)?,
    );
    match one == other {
        true => Ok(()),
        false => Err(format!(
            "{one:x} is there under vector {vector}, {other:x} under 0"
        )),
    }
}

fn shrunk(seed: u64, vector: u64, whole: &Place, what: String) -> Failure {
    let fails = |place: &Place| again(seed, &format!("{vector}:{place}"), &Tally::default()).err();
    let (place, what) = shrink::shortest(whole, what, &fails);
    Failure {
        what: format!("vector {vector}: {what}"),
        reproduce: format!("--seed {seed} --at {vector}:{place}"),
    }
}

/// The way of opening number `vector`: the lowest four bits are choices, the others draw sizes.
fn vector_of(seed: u64, vector: u64) -> (Mode, Durability, impl FnOnce(Options) -> Options) {
    let bit = |n: u64| vector >> n & 1 == 1;
    let mode = if bit(2) { Mode::Threads } else { Mode::Manual };
    let durability = match bit(3) {
        true => Durability::Buffered,
        false => Durability::Sync,
    };
    let (lz4, pread) = (bit(0), bit(1));
    let mut random = Random::new(seed ^ (vector >> 4) << 32);
    let change = move |options: Options| {
        let r = &mut random;
        let options = options
            .memory((4 << 20) << r.below(6))
            .durability(durability)
            .io(if pread { IoMode::Pread } else { IoMode::Mmap })
            .compression(if lz4 {
                Compression::Lz4
            } else {
                Compression::None
            });
        options.tune(|tuning| {
            tuning.list_entries = 2 << r.below(10);
            tuning.memtable_bytes = Some(2048 << r.below(10));
            let first = (4 << 10) << r.below(6);
            tuning.segment_bytes = (first, Some(first << r.below(4)));
            tuning.table_bytes = (4 << 10) << r.below(10);
            tuning.base_level_bytes = (8 << 10) << r.below(10);
            tuning.level0_runs = 1 + r.below(8);
            tuning.manifest_bytes = 1 << r.below(21);
            tuning.log_bytes = Some(4096 << r.below(10));
            tuning.replay_bytes = Some(1024 << r.below(14));
            tuning.manual = mode == Mode::Manual;
        })
    };
    (mode, durability, change)
}

/// Runs a script under a vector and those that follow it; the digest of what is there at the end.
fn script(seed: u64, vector: u64, place: &Place, tally: &Tally) -> Result<u64, String> {
    let mut reopens = 0;
    let found = operations(seed, vector, place, &mut reopens);
    tally.add([
        ("databases", 1),
        ("operations", place.ops.len() as u64),
        ("reopens", reopens),
    ]);
    found.map_err(String::from)
}

fn operations(seed: u64, vector: u64, place: &Place, reopens: &mut u64) -> Done<u64> {
    let mut profile = Profile::default();
    (profile.reopens, profile.mixed_durability) = (0, false);
    let mut runner = Runner::closed(Scenario::on(MemVfs::new(seed), Mode::Manual));
    let open = |runner: &mut Runner, vector: u64| {
        let (mode, durability, change) = vector_of(seed, vector % VECTORS);
        runner.open_as(mode, durability, change)
    };
    open(&mut runner, vector)?;
    for &at in &place.ops {
        place::operate(&mut runner, &profile, seed, at)?;
        if at % REOPEN_EVERY == REOPEN_EVERY - 1 {
            runner.close(at % 2 == 0)?;
            *reopens += 1;
            open(&mut runner, vector + 1 + (at / REOPEN_EVERY) as u64 * 17)?;
        }
    }
    runner.check()?;
    let found = digest(&Oracle::read(runner.db()?)?);
    runner.close(true)?;
    Ok(found)
}
