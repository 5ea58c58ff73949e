//! Random operations over the whole API, compared with the model at every step.
//!
//! An operation is a number, and a failing list of them is made shorter before it is shown.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use terrace::vfs::{MemVfs, Vfs};
use terrace_kit::{Mode, Op, Outcome, Profile, Runner, Scenario};

fn run(scenario: Scenario, seed: u64, ops: &[Op]) -> Outcome {
    let mut runner = Runner::new(scenario, seed)?;
    runner.run(ops.iter().cloned())?;
    runner.check()?;
    runner.reopen(seed ^ 1)?;
    runner.close(true)
}

/// How many times as many cases to run as usual: `TERRACE_TIMES`.
fn times() -> u32 {
    let times = std::env::var("TERRACE_TIMES").ok();
    times.and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Runs `cases` lists of up to `len` operations; `seed` fixes them all.
fn machine(
    seed: u64,
    cases: u32,
    len: usize,
    profile: &Profile,
    scenario: impl Fn(u64) -> (Scenario, Option<tempfile::TempDir>),
) {
    let config = Config {
        cases: cases * times(),
        failure_persistence: None,
        max_shrink_iters: 2000,
        max_shrink_time: 20_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let number = any::<u64>().no_shrink();
    let list = proptest::collection::vec(number, len / 4..len);
    let result = TestRunner::new_with_rng(config, rng).run(&(number, list), |(start, numbers)| {
        let ops: Vec<Op> = numbers.iter().map(|n| profile.op(*n)).collect();
        let (scenario, _dir) = scenario(start);
        run(scenario, start, &ops).map_err(|trouble| TestCaseError::fail(String::from(trouble)))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (start, numbers))) => {
            let ops = numbers
                .iter()
                .map(|n| format!("\n  {n:#x}: {:.160}", format!("{:?}", profile.op(*n))));
            let ops: String = ops.collect();
            panic!(
                "seed {seed}: {why}\nstart {start:#x}, {} operations:{ops}",
                numbers.len()
            );
        }
        Err(TestError::Abort(why)) => panic!("seed {seed}: {why}"),
    }
}

fn in_memory(mode: Mode) -> impl Fn(u64) -> (Scenario, Option<tempfile::TempDir>) {
    move |seed| {
        let vfs: Arc<dyn Vfs> = MemVfs::new(seed);
        (Scenario::on(vfs, mode), None)
    }
}

#[test]
fn operations_agree_with_the_model_step_by_step() {
    machine(1, 40, 600, &Profile::default(), in_memory(Mode::Manual));
}

#[test]
fn operations_agree_with_the_model_beside_threads() {
    machine(2, 30, 500, &Profile::default(), in_memory(Mode::Threads));
}

/// Mostly writes over more keys, so that the tree grows several levels.
fn deep() -> Profile {
    let mut profile = Profile::default();
    (profile.keys, profile.writes, profile.reads) = (400, 160, 16);
    profile
}

#[test]
fn a_tree_of_several_levels_agrees_with_the_model() {
    machine(3, 8, 3000, &deep(), in_memory(Mode::Manual));
    machine(4, 8, 3000, &deep(), in_memory(Mode::Threads));
}

/// Maps and locks are the system's here.
#[test]
fn operations_agree_with_the_model_on_a_real_file_system() {
    for (seed, mode) in [(5, Mode::Manual), (6, Mode::Threads)] {
        machine(seed, 4, 400, &Profile::default(), |_| {
            let dir = tempfile::tempdir().unwrap();
            (Scenario::in_dir(dir.path().join("db"), mode), Some(dir))
        });
    }
}
