//! What a run did: counts by name, which add up over runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What a mode counted, by name.
pub type Counts = BTreeMap<String, u64>;

/// Why a mode ended early.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// The arguments that reproduce it: `--seed ... --at ...`.
    pub reproduce: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nreproduce: {}", self.what, self.reproduce)
    }
}

/// The totals of every mode, as kept in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// By mode.
    pub modes: BTreeMap<String, ModeTotals>,
}

/// The totals of one mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeTotals {
    /// Runs added up here.
    pub runs: u64,
    /// Seconds that they took.
    pub seconds: u64,
    /// First seeds of the runs.
    pub seeds: Vec<u64>,
    /// What they counted.
    pub counts: Counts,
}

impl Report {
    /// Reads a report; an empty one where there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or is no report.
    pub fn load(file: &Path) -> Result<Report, String> {
        match std::fs::read(file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", file.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Report::default()),
            Err(error) => Err(format!("{}: {error}", file.display())),
        }
    }

    /// Adds one run.
    pub fn add(&mut self, mode: &str, seed: u64, seconds: u64, counts: &Counts) {
        let totals = self.modes.entry(mode.to_owned()).or_default();
        totals.runs += 1;
        totals.seconds += seconds;
        totals.seeds.push(seed);
        for (name, count) in counts {
            *totals.counts.entry(name.clone()).or_default() += count;
        }
    }

    /// Writes it, in a form that is kind to `diff`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, file: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        std::fs::write(file, text + "\n").map_err(|e| format!("{}: {e}", file.display()))
    }
}

/// A number with its thousands apart.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl fmt::Display for Report {
    /// The table in `docs/testing.md`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| mode | runs | minutes | counted |")?;
        writeln!(f, "|---|---:|---:|---|")?;
        for (mode, totals) in &self.modes {
            let counted: Vec<String> = totals
                .counts
                .iter()
                .map(|(name, count)| format!("{} {name}", grouped(*count)))
                .collect();
            let minutes = totals.seconds.div_ceil(60);
            let counted = counted.join(", ");
            writeln!(f, "| {mode} | {} | {minutes} | {counted} |", totals.runs)?;
        }
        Ok(())
    }
}
