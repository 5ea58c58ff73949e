//! The report, in Markdown.

use crate::engines::Compression;
use crate::job::{ROWS, Unit};
use crate::options::Options;
use crate::parent::{Results, Rounds};
use crate::stats::{Latency, Spread, median, ratios};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// What was run, where.
pub fn heading(options: &Options, dir: &Path) -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "- {} keys of 16 bytes, values of {} bytes, {} rounds, {} MiB of memory, settle: {:?}\n",
        options.keys,
        options.value,
        options.rounds,
        options.memory >> 20,
        options.settle,
    );
    let _ = writeln!(
        text,
        "- {} x {}, {} GiB of memory",
        processors,
        processor(),
        ram_gib()
    );
    let _ = writeln!(text, "- {}, {}", kernel(), file_system(dir));
    let _ = writeln!(text, "- {}", versions().join(", "));
    text
}

fn first_line(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(
        line.strip_prefix(name)?
            .trim_start_matches([':', '\t', ' '])
            .to_string(),
    )
}

fn processor() -> String {
    first_line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".into())
}

fn ram_gib() -> u64 {
    let line = first_line("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib: u64 = line
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    (kib + (1 << 19)) >> 20
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {}", std::env::consts::OS, release.trim())
}

/// The type and options of the file system that holds `dir`: the longest mount point above it.
fn file_system(dir: &Path) -> String {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.into());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let holds = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind, flags) = (fields.next()?, fields.next()?, fields.next()?);
        dir.starts_with(point)
            .then(|| (point.len(), format!("{kind} ({flags})")))
    });
    let longest = holds.max_by_key(|(length, _)| *length);
    longest.map_or_else(|| "unknown file system".into(), |(_, text)| text)
}

/// What Cargo.lock says of the engines in this build.
fn versions() -> Vec<String> {
    let lock = include_str!("../Cargo.lock");
    let packages = [
        (cfg!(feature = "terrace"), "terrace"),
        (cfg!(feature = "fjall"), "fjall"),
        (cfg!(feature = "fjall"), "lsm-tree"),
        (cfg!(feature = "lmdb"), "heed"),
        (cfg!(feature = "lmdb"), "lmdb-master-sys"),
    ];
    let present = packages.iter().filter(|(present, _)| *present);
    present
        .filter_map(|(_, name)| Some(format!("{name} {}", locked(lock, name)?)))
        .collect()
}

/// The version of a package in the text of a lock file.
fn locked<'l>(lock: &'l str, name: &str) -> Option<&'l str> {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = lock.split_once(&entry)?;
    rest.split('"').next()
}

/// The two tables of one compression.
pub fn section(options: &Options, compression: Compression, results: &Results) -> String {
    let mut text = format!("\n### Compression: {compression:?}\n\n");
    value_table(&mut text, options, results);
    text.push('\n');
    latency_table(&mut text, options, results);
    let shares = options.engines.iter().filter_map(|engine| {
        Some(format!(
            "{engine} {:.0} %",
            median(results.foreign.get(engine)?)?
        ))
    });
    let shares: Vec<String> = shares.collect();
    let _ = writeln!(
        text,
        "\nShare of the machine that other processes used meanwhile, the kernel's writing-back \
         included (median): {}.",
        shares.join(", "),
    );
    text.push_str(
        "LMDB writes with NO_SYNC except in fillsync: such a database survives kill -9, but a power cut \
         may damage it. It has no compression.\n",
    );
    for failure in &results.failures {
        let _ = writeln!(text, "\n**Failed:** {failure}.");
    }
    text
}

fn value_table(text: &mut String, options: &Options, results: &Results) {
    let base = options.base();
    let others: Vec<&String> = options
        .engines
        .iter()
        .filter(|engine| *engine != base && *engine != "null")
        .collect();
    let _ = write!(text, "| row |");
    for engine in &options.engines {
        let _ = write!(text, " {engine} |");
    }
    for other in &others {
        let _ = write!(text, " {base} is better than {other} by |");
    }
    let columns = options.engines.len() + others.len();
    let _ = write!(text, "\n|---|{}\n", "---:|".repeat(columns));
    for (row, unit) in ROWS {
        let rounds = |engine: &str| results.rounds(engine, row, options.noise);
        let all: Vec<Rounds> = options
            .engines
            .iter()
            .map(|engine| rounds(engine))
            .collect();
        if all.iter().all(|rounds| rounds.rows.is_empty()) {
            continue;
        }
        let _ = write!(text, "| {row}{} |", unit_name(*unit));
        for rounds in &all {
            let measured: Vec<f64> = values(rounds).into_iter().flatten().collect();
            let cell = median(&measured).map_or_else(|| "-".into(), |v| number(v, *unit));
            let _ = write!(text, " {}{cell} |", mark(rounds.noisy));
        }
        for other in &others {
            let _ = write!(
                text,
                " {} |",
                ratio_cell(&rounds(base), &rounds(other), *unit)
            );
        }
        text.push('\n');
    }
}

/// How much better ours is, by the rounds that both have.
fn ratio_cell(ours: &Rounds, theirs: &Rounds, unit: Unit) -> String {
    let (ours_by_round, theirs_by_round) = (values(ours), values(theirs));
    let spread = match unit {
        Unit::PerSecond => ratios(&ours_by_round, &theirs_by_round),
        Unit::Seconds | Unit::Bytes => ratios(&theirs_by_round, &ours_by_round),
    };
    let noisy = mark(ours.noisy || theirs.noisy);
    spread.map_or_else(
        || "-".into(),
        |spread| format!("{noisy}{}", spread_cell(spread)),
    )
}

/// Stands before a figure for which no round was quiet.
fn mark(noisy: bool) -> &'static str {
    if noisy { "~" } else { "" }
}

fn latency_table(text: &mut String, options: &Options, results: &Results) {
    text.push_str(
        "Latency in us (medians over the rounds): p50 / p99 / p99.9 / longest.\n\n| row |",
    );
    for engine in &options.engines {
        let _ = write!(text, " {engine} |");
    }
    let _ = write!(text, "\n|---|{}\n", "---:|".repeat(options.engines.len()));
    for (row, _) in ROWS {
        let cells: Vec<Option<String>> = options
            .engines
            .iter()
            .map(|engine| latency_cell(&results.rounds(engine, row, options.noise)))
            .collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "| {row} |");
        for cell in cells {
            let _ = write!(text, " {} |", cell.as_deref().unwrap_or("-"));
        }
        text.push('\n');
    }
}

fn latency_cell(rounds: &Rounds) -> Option<String> {
    let latencies: Vec<Latency> = rounds
        .rows
        .iter()
        .flatten()
        .filter_map(|row| row.latency)
        .collect();
    let part = |part: fn(&Latency) -> u64| {
        let parts: Vec<f64> = latencies
            .iter()
            .map(|latency| part(latency) as f64 / 1e3)
            .collect();
        median(&parts).map(three_digits)
    };
    Some(format!(
        "{}{} / {} / {} / {}",
        mark(rounds.noisy),
        part(|l| l.p50)?,
        part(|l| l.p99)?,
        part(|l| l.p999)?,
        part(|l| l.max)?,
    ))
}

/// What was measured in each round.
fn values(rounds: &Rounds) -> Vec<Option<f64>> {
    let rows = rounds.rows.iter();
    rows.map(|row| row.as_ref().map(|row| row.value)).collect()
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::PerSecond => ", K/s",
        Unit::Seconds => ", s",
        Unit::Bytes => ", MB",
    }
}

fn number(value: f64, unit: Unit) -> String {
    three_digits(match unit {
        Unit::PerSecond => value / 1e3,
        Unit::Seconds => value,
        Unit::Bytes => value / 1e6,
    })
}

/// Three significant digits, but never fewer than stand before the point.
fn three_digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return "0".into();
    }
    let digits_before = value.abs().log10().floor() as i32 + 1;
    format!("{value:.*}", (3 - digits_before).clamp(0, 6) as usize)
}

fn spread_cell(spread: Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(three_digits);
    format!("**{median}x** ({min}..{max})")
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
