//! `limits`: what a process may run into that is no crash: other processes, permissions, limits of the system,
//! odd clocks, paths and sizes. Each case has a name, and runs alone with `--at NAME`.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use terrace::{Db, Durability, IoMode, Options};

use crate::{Budget, Counts, Failure, Outcome, Plan};

mod fork;
mod paths;
mod permissions;
mod processes;
mod resources;
mod sizes;

/// The argument that makes this program the other process of a case.
pub(crate) const ARGUMENT: &str = "@limits";

/// What a case found wrong.
type Checked = Result<(), String>;

/// One thing to run into.
struct Case {
    name: &'static str,
    /// Gets an empty directory.
    run: fn(&Path) -> Checked,
    /// The other process: gets the directory and what the case passed along; ends in failure with
    /// its text.
    child: Option<fn(&Path, &str) -> Checked>,
    /// Runs in long runs only.
    long: bool,
}

const fn case(name: &'static str, run: fn(&Path) -> Checked) -> Case {
    Case {
        name,
        run,
        child: None,
        long: false,
    }
}

impl Case {
    const fn child(mut self, child: fn(&Path, &str) -> Checked) -> Case {
        self.child = Some(child);
        self
    }

    const fn long(mut self) -> Case {
        self.long = true;
        self
    }
}

const CASES: &[Case] = &[
    case("race-to-open", processes::race_to_open).child(processes::race_child),
    case("other-names", processes::other_names),
    case("fork", fork::used_in_a_fork),
    case("fork-drops-the-last", fork::dropped_in_a_fork),
    case("truncated-map", processes::truncated_map).child(processes::reader),
    case("foreign-directory", permissions::foreign_directory).child(permissions::child),
    case("unreadable-file", permissions::unreadable_file).child(permissions::child),
    case("read-only-directory", permissions::read_only_directory).child(permissions::child),
    case("few-descriptors", resources::few_descriptors).child(resources::descriptors_child),
    case("file-size", resources::file_size).child(resources::file_size_child),
    case("file-size-signal", resources::file_size_signal).child(resources::file_size_child),
    case("clock-back", resources::clock_back),
    case("odd-paths", paths::odd_paths),
    case("long-paths", paths::long_paths),
    case("large-values", sizes::large_values),
    case("million-entries", sizes::million_entries),
    case("greatest-value", sizes::greatest_value).long(),
];

/// A run is long from here.
const LONG: Duration = Duration::from_secs(300);

pub(crate) fn run(plan: &Plan) -> Outcome {
    let mut counts = Counts::new();
    let long = matches!(plan.budget, Budget::For(time) if time >= LONG);
    let chosen = |case: &&Case| match &plan.at {
        Some(name) => case.name == name,
        None => long || !case.long,
    };
    for case in CASES.iter().filter(chosen) {
        let dir = tempfile::Builder::new().prefix("torture-limits-").tempdir();
        let dir = dir.expect("a temporary directory");
        let started = plan.elapsed();
        (case.run)(dir.path()).map_err(|what| Failure {
            what: format!("{}: {what}", case.name),
            reproduce: format!("--at {}", case.name),
        })?;
        if plan.progress {
            let took = plan.elapsed() - started;
            eprintln!("{:>6.1} s  {}", took.as_secs_f64(), case.name);
        }
        *counts.entry("cases".to_owned()).or_default() += 1;
    }
    match &plan.at {
        Some(name) if counts.is_empty() => Err(Failure {
            what: format!("there is no case `{name}`"),
            reproduce: CASES
                .iter()
                .map(|case| format!("--at {}\n", case.name))
                .collect(),
        }),
        _ => Ok(counts),
    }
}

/// The whole other process.
pub(crate) fn child_main(arguments: &[String]) -> std::process::ExitCode {
    let [name, dir, more] = arguments else {
        panic!("the arguments of a case's process: {arguments:?}");
    };
    let case = CASES.iter().find(|case| case.name == name);
    let child = case
        .and_then(|case| case.child)
        .expect("a case with a process");
    match child(Path::new(dir), more) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{what}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// The other process of the case `name`; `wrap` are a program and arguments that start it.
fn other(wrap: &[&str], name: &str, dir: &Path, more: &str) -> Command {
    let program = std::env::current_exe().expect("the path of this program");
    let mut command = match wrap.split_first() {
        None => Command::new(program),
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.arg(ARGUMENT).arg(name).arg(dir).arg(more);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A process that talks by lines. Dropped, it is killed.
struct Talking {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Talking {
    fn start(mut command: Command) -> Talking {
        let mut child = command.spawn().expect("a process");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Talking { child, out }
    }

    /// The next line that it says; empty at its end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("its standard output");
        line.trim_end().to_owned()
    }

    fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{line}").expect("its standard input");
    }

    /// What it says until its end, how it ended, and its standard error.
    fn end(mut self) -> (String, ExitStatus, String) {
        drop(self.child.stdin.take());
        let (mut said, mut errors) = (String::new(), String::new());
        self.out
            .read_to_string(&mut said)
            .expect("its standard output");
        if let Some(mut err) = self.child.stderr.take() {
            err.read_to_string(&mut errors).expect("its standard error");
        }
        (said, self.child.wait().expect("its end"), errors)
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

fn text(error: terrace::Error) -> String {
    format!("{error:?}")
}

/// Small sizes, so that a few thousand entries make many files.
fn small() -> Options {
    Options::new()
        .memory(8 << 20)
        .durability(Durability::Buffered)
        .io(IoMode::Pread)
        .tune(|tuning| {
            tuning.list_entries = 64;
            tuning.memtable_bytes = Some(64 << 10);
            tuning.segment_bytes = (64 << 10, Some(64 << 10));
            tuning.table_bytes = 16 << 10;
            tuning.base_level_bytes = 64 << 10;
        })
}

fn key(i: u64) -> String {
    format!("{:08}", i.wrapping_mul(7_919) % 1_000_003)
}

fn value(i: u64) -> Vec<u8> {
    let mut out = vec![i as u8; 100 + (i % 50) as usize];
    out[..8].copy_from_slice(&i.to_le_bytes());
    out
}

/// Writes entries `range`.
fn fill(db: &Db, range: std::ops::Range<u64>) -> terrace::Result<()> {
    for i in range {
        db.put(key(i), value(i))?;
    }
    Ok(())
}

/// Entries 0 to `acknowledged` are there, and of those up to `at_most` some first ones; nothing
/// else is.
fn holds(db: &Db, acknowledged: u64, at_most: u64) -> Checked {
    let mut there = 0;
    for entry in db.iter() {
        entry.map_err(text)?;
        there += 1;
    }
    check((acknowledged..=at_most).contains(&there), || {
        format!("{there} entries where {acknowledged} to {at_most} belong")
    })?;
    for i in 0..there {
        let found = db.get(key(i)).map_err(text)?;
        check(found.as_deref() == Some(&value(i)), || {
            format!("entry {i} is wrong: {found:?}")
        })?;
    }
    Ok(())
}
