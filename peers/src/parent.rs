//! The parent: rounds, children, and what they said.

use crate::Result;
use crate::engines::Compression;
use crate::job::{Job, Role, Row};
use crate::measure::{self, Noise};
use crate::options::Options;
use crate::report;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// All rows of one engine: for each row and round, what was measured.
pub type Rows = BTreeMap<String, Vec<Option<Row>>>;

/// What all rounds with one compression gave.
#[derive(Debug, Default)]
pub struct Results {
    /// By engine.
    pub rows: BTreeMap<String, Rows>,
    /// By engine: the share of the machine that others used while the engine ran, by round.
    pub foreign: BTreeMap<String, Vec<f64>>,
    /// What went wrong: a wrong answer, a crash. The rows that came before it still count.
    pub failures: Vec<String>,
}

/// What one row has of one engine, by round, without the rounds in too much noise.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    pub rows: Vec<Option<Row>>,
    /// No round was quiet, so the noisy ones are here after all.
    pub noisy: bool,
}

impl Results {
    /// Takes the rows of one child.
    pub fn add(&mut self, engine: &str, round: usize, rows: Vec<Row>) {
        let engine = self.rows.entry(engine.into()).or_default();
        for row in rows {
            let rounds = engine.entry(row.row.clone()).or_default();
            rounds.resize(round, None);
            rounds.push(Some(row));
        }
    }

    /// The rounds of a row that were quiet enough; all, if none was.
    pub fn rounds(&self, engine: &str, row: &str, noise: f64) -> Rounds {
        let all = self.rows.get(engine).and_then(|rows| rows.get(row));
        let all = all.map(Vec::as_slice).unwrap_or_default();
        let quiet = |row: &Option<Row>| row.clone().filter(|row| row.foreign <= noise);
        let rows: Vec<Option<Row>> = all.iter().map(quiet).collect();
        if rows.iter().any(Option::is_some) {
            return Rounds { rows, noisy: false };
        }
        Rounds {
            rows: all.to_vec(),
            noisy: !all.is_empty(),
        }
    }
}

/// Runs everything and prints the report.
pub fn run(options: &Options) -> Result<()> {
    let dir = options
        .dir
        .join(format!("terrace-peers-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let outcome = run_in(options, &dir);
    let removed = fs::remove_dir_all(&dir);
    outcome?;
    Ok(removed?)
}

fn run_in(options: &Options, dir: &Path) -> Result<()> {
    let mut text = report::heading(options, dir);
    let mut failures = Vec::new();
    for compression in &options.compressions {
        let results = rounds(options, *compression, dir)?;
        text += &report::section(options, *compression, &results);
        if let Some(file) = &options.markdown {
            fs::write(file, &text)?; // After each section, so that a failure later leaves this one.
        }
        failures.extend(results.failures);
    }
    println!("{text}");
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("; ").into())
    }
}

fn rounds(options: &Options, compression: Compression, dir: &Path) -> Result<Results> {
    let mut results = Results::default();
    for round in 0..options.rounds {
        let mut engines: Vec<&String> = options.engines.iter().collect();
        if round % 2 == 1 {
            engines.reverse(); // A B B A: what drifts with time meets all engines alike.
        }
        for engine in engines {
            let job = job(options, engine, round, compression, dir);
            run_child(options, &job, round, &mut results)?;
        }
    }
    Ok(results)
}

fn job(options: &Options, engine: &str, round: usize, compression: Compression, dir: &Path) -> Job {
    let ms = |seconds: f64| (seconds * 1000.0) as u64;
    Job {
        engine: engine.into(),
        role: Role::Measure,
        dir: dir.join(format!("{engine}-{round}")),
        rows: options.rows.clone(),
        keys: options.keys,
        value: options.value,
        memory: options.memory,
        compression,
        settle: options.settle,
        seed: 0x5eed_0000 + round as u64,
        pause_ms: ms(options.pause),
        mixed_ms: ms(options.mixed),
        sync_ms: ms(options.sync),
    }
}

fn run_child(options: &Options, job: &Job, round: usize, results: &mut Results) -> Result<()> {
    eprint!("{:?} round {} {:8}", job.compression, round + 1, job.engine);
    fs::create_dir(&job.dir)?;
    measure::calm(job.pause());
    measure::wait_for_quiet(Duration::from_secs_f64(options.patience));
    let noise = Noise::now();
    let mut rows = Vec::new();
    let outcome = read_child(job, &mut rows);
    let (took, foreign) = (noise.elapsed().as_secs_f64(), noise.percent());
    eprintln!(" {took:5.0} s, others used {foreign:3.0} % of the machine");
    if let Some(file) = &options.json {
        append_json(file, job, round, &rows)?;
    }
    results.add(&job.engine, round, rows);
    let shares = results.foreign.entry(job.engine.clone()).or_default();
    shares.push(foreign);
    if let Err(error) = outcome {
        eprintln!("{error}");
        let failure = format!("round {}: {error}", round + 1);
        results.failures.push(failure);
    }
    Ok(fs::remove_dir_all(&job.dir)?)
}

/// Adds the rows of one child to a file, as one JSON object on one line.
fn append_json(file: &Path, job: &Job, round: usize, rows: &[Row]) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)?;
    let line = serde_json::json!({ "round": round, "job": job, "rows": rows });
    Ok(writeln!(file, "{line}")?)
}

/// Runs the child and takes its rows as they come.
fn read_child(job: &Job, rows: &mut Vec<Row>) -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--job", &serde_json::to_string(job)?])
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().ok_or("no output of the child")?;
    for line in BufReader::new(out).lines() {
        rows.push(serde_json::from_str(&line?)?);
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("{} ended with {status}", job.engine).into());
    }
    Ok(())
}
