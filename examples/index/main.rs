//! The main job on real input: indexes a directory tree, is killed, recovers and checks every
//! byte.
//!
//! ```text
//! cargo run --release --example index -- [DIR] [--limit BYTES] [--buffered]
//! ```
//!
//! It stores each regular file under DIR (path -> bytes, keyspace `files`) and each of its
//! words (`word NUL path` -> nothing, keyspace `words`) in one atomic batch per file. A child
//! process starts the work and reports which batches were acknowledged; it is killed with
//! SIGKILL between 30 and 70 % of the files. This process then opens the database, checks that
//! every acknowledged file is complete and that no file has only some of its words, stores the
//! rest, and compares everything with the disk byte by byte. It exits with 1 on any difference.
//! The database is in a temporary directory, which is removed however the program ends.
//!
//! DIR defaults to the directory where cargo keeps the sources of crates, or to the current one
//! if there is none. Acknowledged writes survive kill -9 whether they are synced one by one
//! (`Durability::Sync`, the default of Terrace and of this program) or only written to the
//! operating system (`--buffered`); the two differ after a power failure, and in time.
#![allow(
    clippy::disallowed_methods,
    reason = "this program reads real files and a real clock; the rule is for the engine"
)]

mod broom;
mod check;
mod load;
mod report;
mod source;

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use broom::TempFolder;
use check::Expected;
use indicatif::{ProgressBar, ProgressStyle};
use load::{Loader, Outcome};
use source::Source;
use terrace::{Db, Durability, Options};

/// What every part of this program fails with.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: index [DIR] [--limit BYTES, or with K, M, G] [--buffered]";

struct Arguments {
    root: PathBuf,
    limit: u64,
    durability: Durability,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    // The two hidden forms in which this program starts itself.
    let result = match arguments.first().and_then(|first| first.to_str()) {
        Some("--load-for-parent") => load::child(&arguments),
        Some("--sweep-for-parent") => broom::child(&arguments),
        Some("--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => parse(&arguments).and_then(|arguments| run(&arguments)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[std::ffi::OsString]) -> Result<Arguments, Failure> {
    let mut parsed = Arguments {
        root: default_root(),
        limit: 1 << 30,
        durability: Durability::Sync,
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("--limit") => {
                let text = rest.next().and_then(|text| text.to_str());
                parsed.limit = text.and_then(parse_size).ok_or(USAGE)?;
            }
            Some("--buffered") => parsed.durability = Durability::Buffered,
            Some(option) if option.starts_with("--") => return Err(USAGE.into()),
            _ => parsed.root = PathBuf::from(argument),
        }
    }
    Ok(parsed)
}

fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (text.get(..text.len() - 1)?, 10),
        b'M' | b'm' => (text.get(..text.len() - 1)?, 20),
        b'G' | b'g' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Where cargo keeps the sources of crates, if it does.
fn default_root() -> PathBuf {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")));
    home.map(|home| home.join("registry").join("src"))
        .filter(|folder| folder.is_dir())
        .unwrap_or_else(|| PathBuf::from("."))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut source = Source::walk(&arguments.root, arguments.limit)?;
    let files = source.files.len();
    report::input(arguments, &source);
    if files == 0 {
        return Err("there is nothing to index; name another folder".into());
    }
    let folder = TempFolder::new()?;
    let database = folder.path().join("db");

    let mut expected = Expected::new(files);
    let loading = Instant::now();
    let killed = load::until_killed(
        &mut source,
        &mut expected,
        &database,
        &folder,
        arguments.durability,
    )?;
    let mut load_time = loading.elapsed();

    let opening = Instant::now();
    let db = open(&database, arguments.durability)?;
    let recovery = opening.elapsed();
    report::recovery(&db, recovery, &killed);

    let bar = progress("checking what was acknowledged", files);
    let recovered = check::check(&db, &mut source, &expected, &[], &bar)?;
    bar.finish_and_clear();
    report::recovered(&recovered, &expected);

    let loading = Instant::now();
    finish(&db, &mut source, &mut expected)?;
    load_time += loading.elapsed();

    let settling = Instant::now();
    db.wait_idle()?;
    let settling = settling.elapsed();

    let words = check::frequent_words(&source)?;
    let bar = progress("comparing everything with the disk", files);
    let checked = check::check(&db, &mut source, &expected, &words, &bar)?;
    bar.finish_and_clear();
    println!(
        "compared with the disk, byte by byte: {} files with {} words, no difference",
        report::grouped(checked.files),
        report::grouped(checked.words)
    );
    check::queries(&db, &source, &words, &checked)?;

    report::table(&db, &database, &killed, &checked, load_time, settling)?;
    report::skipped(&source);
    db.close()?;
    drop(db);
    folder.remove()
}

pub(crate) fn open(database: &Path, durability: Durability) -> terrace::Result<Db> {
    Options::new().durability(durability).open(database)
}

/// Does what the killed process did not get to.
fn finish(db: &Db, source: &mut Source, expected: &mut Expected) -> Result<(), Failure> {
    let loader = Loader::new(db)?;
    let bar = progress("finishing the job", source.files.len());
    for index in 0..source.files.len() {
        bar.inc(1);
        if expected.is_settled(index) || loader.has(source, index)? {
            expected.acknowledged(index);
            continue;
        }
        match loader.load(source, index)? {
            Outcome::Stored => expected.acknowledged(index),
            Outcome::Skipped(reason) => {
                source.skip(reason);
                expected.skipped(index);
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}

pub(crate) fn progress(what: &'static str, length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} files, {eta} left");
    let bar = ProgressBar::new(length as u64).with_message(what);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
