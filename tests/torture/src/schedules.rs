//! The real commit path, views, flushes and compactions under chosen schedules: `src/schedule_tests/mod.rs`.
//!
//! There a schedule checker's locks and atomics stand in for the standard library's, by `--cfg
//! terrace_shuttle`. The engine that this program is linked with has none of that, so the mode lets
//! cargo build another one from the sources around it, in the target folder that `.ci/run` uses for
//! the same, and reads what its tests print. It counts schedules. A failure names the test, and
//! `--at TEST/N` runs that one alone under the same N schedules.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Budget, Counts, Failure, Outcome, Plan};

/// Schedules of each test under each scheduler in one round, at most.
const ROUND: u64 = 250;
/// About how many times that a round runs: tests and schedulers.
const TESTS: u64 = 40;
/// Lines of the output that a failure shows.
const SHOWN: usize = 25;

/// Runs it.
pub fn run(plan: &Plan) -> Outcome {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if let Some(at) = &plan.at {
        let (test, schedules) = at
            .rsplit_once('/')
            .and_then(|(test, n)| Some((test, n.parse().ok()?)))
            .ok_or_else(|| cannot(format!("{at} is not of the form TEST/SCHEDULES")))?;
        return round(&root, plan.seed, schedules, Some(test));
    }
    if plan.progress {
        eprintln!(
            "cargo builds the engine under the schedule checker, which takes a while the first time"
        );
    }
    let mut counts = Counts::new();
    let done = |counts: &Counts| counts.get("schedules").copied().unwrap_or(0);
    for seed in plan.seed.. {
        let wanted = match plan.budget {
            Budget::Count(count) => (count - done(&counts)).div_ceil(TESTS).min(ROUND),
            Budget::For(_) => ROUND,
        };
        for (name, count) in round(&root, seed, wanted.max(1), None)? {
            *counts.entry(name).or_default() += count;
        }
        plan.show(|| format!("{} schedules", done(&counts)));
        if !plan.goes_on(done(&counts)) {
            break;
        }
    }
    Ok(counts)
}

fn cannot(why: String) -> Failure {
    Failure {
        what: format!("the mode cannot run: {why}"),
        reproduce: "with cargo, in a clone of the repository".into(),
    }
}

/// Runs every test, or one, under `schedules` schedules of either scheduler.
fn round(root: &Path, seed: u64, schedules: u64, only: Option<&str>) -> Outcome {
    if !root.join("src/schedule_tests/mod.rs").is_file() {
        return Err(cannot(format!(
            "it builds terrace from its sources, and they are not in {}",
            root.display()
        )));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(&cargo);
    command
        .current_dir(root)
        .args(["test", "--quiet", "-p", "terrace", "--lib", "--target-dir"])
        .arg(target.join("shuttle"))
        .arg(only.unwrap_or("schedule_tests::"))
        .args(["--", "--nocapture"])
        .args(only.map(|_| "--exact"))
        .env("RUSTFLAGS", "--cfg terrace_shuttle")
        .env("TERRACE_SCHEDULES", schedules.to_string())
        .env("TERRACE_SCHEDULE_SEED", seed.to_string())
        .stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| cannot(format!("{}: {error}", cargo.display())))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    match read(&stdout) {
        Some(counts) if output.status.success() => Ok(counts),
        _ => Err(failure(&stdout, &stderr, seed, schedules)),
    }
}

/// What the tests counted, if all of them passed and there was one.
fn read(stdout: &str) -> Option<Counts> {
    let number = |text: &str| {
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        text.get(..end)?.parse::<u64>().ok()
    };
    let said = |line: &str, before: &str| {
        let at = line.find(before)?;
        number(line.get(at + before.len()..)?)
    };
    let sum = |before: &str| stdout.lines().filter_map(|line| said(line, before)).sum();
    let (schedules, tests) = (sum("schedules: "), sum("test result: ok. "));
    let counts = [("schedules", schedules), ("tests", tests)];
    (schedules > 0 && tests > 0)
        .then(|| counts.map(|(name, count)| (name.to_owned(), count)).into())
}

/// What went wrong: the tests that failed, with the end of what they said, or that there were none.
fn failure(stdout: &str, stderr: &str, seed: u64, schedules: u64) -> Failure {
    let mut failed: Vec<&str> = stdout
        .lines()
        .filter_map(|line| {
            line.strip_prefix("    ")
                .filter(|name| name.starts_with("schedule_tests::"))
        })
        .collect();
    failed.sort_unstable();
    failed.dedup();
    let said: Vec<&str> = stderr.lines().chain(stdout.lines()).collect();
    let Some(first) = failed.first() else {
        let end = said
            .get(said.len().saturating_sub(SHOWN)..)
            .unwrap_or(&said);
        return cannot(format!(
            "the tests were not built or not run:\n{}",
            end.join("\n")
        ));
    };
    let panic = said.iter().position(|line| line.contains("panicked at"));
    let from = panic.unwrap_or(0);
    let shown = said
        .get(from..said.len().min(from + SHOWN))
        .unwrap_or(&said);
    Failure {
        what: format!("{}\n{}", failed.join(", "), shown.join("\n")),
        reproduce: format!("torture schedules --seed {seed} --at {first}/{schedules}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_what_the_tests_print() {
        let good = "running 2 tests\nschedules: 40\n.test x ... schedules: 2\nok\n\
                    test result: ok. 2 passed; 0 failed; 0 ignored\n";
        let counts = read(good).unwrap();
        assert_eq!((counts["schedules"], counts["tests"]), (42, 2));
        assert!(read("test result: ok. 0 passed; 0 failed\n").is_none());
        assert!(read("schedules: 40\ntest result: FAILED. 1 passed; 1 failed\n").is_none());
    }

    #[test]
    fn a_failure_names_the_test_and_how_to_see_it_again() {
        let stdout = "schedules: 40\nfailures:\n    schedule_tests::a\n    schedule_tests::jobs::b\n\n\
                      test result: FAILED. 1 passed; 2 failed\n";
        let failure = failure(
            stdout,
            "noise\nthread 'x' panicked at y:\nhalf a batch\n",
            7,
            20,
        );
        assert!(
            failure.what.contains("schedule_tests::jobs::b")
                && failure.what.contains("half a batch")
        );
        assert!(!failure.what.contains("noise"));
        assert!(
            failure
                .reproduce
                .ends_with("--seed 7 --at schedule_tests::a/20")
        );
    }

    #[test]
    fn it_says_when_it_cannot_run() {
        let why = round(Path::new("/no/such/place"), 1, 1, None).unwrap_err();
        assert!(
            why.what.contains("cannot run") && why.what.contains("/no/such/place"),
            "{why}"
        );
        let built = failure("", "error: could not compile `terrace`\n", 1, 1);
        assert!(built.what.contains("cannot run") && built.what.contains("could not compile"));
    }
}
