//! The command line.

use crate::Result;
use crate::engines::{self, Compression, Settle};
use crate::job;
use std::path::PathBuf;

pub const HELP: &str = "\
Terrace beside other embedded engines.

  --engines A,B       of those in this build (default: all)
  --keys N            keys of a database (default: 2000000)
  --value BYTES       bytes of a value (default: 100)
  --rounds N          rounds, each with every engine once (default: 5)
  --compression C     none, lz4 or both (default: both, one after the other)
  --rows A,B          rows to report; fillsync means fillsync_1, _8 and _64 (default: all)
  --memory MIB        write buffers and caches together (default: 1024)
  --settle S          peers: Terrace at rest, each peer as it reads best (default);
                      idle: all at rest; full: all fully compacted
  --base ENGINE       whose ratio to the others is shown (default: terrace, else the first)
  --dir DIR           where databases are made and removed (default: the temporary directory)
  --markdown FILE     writes the report there as well
  --json FILE         adds every measured figure there, a line for each child
  --pause SECONDS     rest before each child (default: 2)
  --patience SECONDS  wait so long before each child for the machine to be quiet (default: 60)
  --noise PERCENT     leave out the rounds of a row that were measured while others, the kernel's
                      writing-back included, used more of the machine (default: 100, none);
                      where no round is left, all count and the figure is marked with ~
  --mixed SECONDS     time of readwhilewriting (default: 5)
  --sync SECONDS      time of each fillsync (default: 3)";

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub engines: Vec<String>,
    pub keys: usize,
    pub value: usize,
    pub rounds: usize,
    pub compressions: Vec<Compression>,
    pub rows: Vec<String>,
    pub memory: u64,
    pub settle: Settle,
    pub base: Option<String>,
    pub dir: PathBuf,
    pub markdown: Option<PathBuf>,
    pub json: Option<PathBuf>,
    pub pause: f64,
    pub patience: f64,
    pub noise: f64,
    pub mixed: f64,
    pub sync: f64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            engines: engines::NAMES.iter().map(|name| name.to_string()).collect(),
            keys: 2_000_000,
            value: 100,
            rounds: 5,
            compressions: vec![Compression::None, Compression::Lz4],
            rows: Vec::new(),
            memory: 1 << 30,
            settle: Settle::Peers,
            base: None,
            dir: std::env::temp_dir(),
            markdown: None,
            json: None,
            pause: 2.0,
            patience: 60.0,
            noise: 100.0,
            mixed: 5.0,
            sync: 3.0,
        }
    }
}

impl Options {
    pub fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let value = args
                .next()
                .ok_or_else(|| format!("{flag} needs a value; see --help"))?;
            options
                .set(flag, value)
                .map_err(|error| format!("{flag} {value}: {error}"))?;
        }
        options.check()?;
        Ok(options)
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<()> {
        match flag {
            "--engines" => self.engines = list(value),
            "--keys" => self.keys = value.parse()?,
            "--value" => self.value = value.parse()?,
            "--rounds" => self.rounds = value.parse()?,
            "--compression" => self.compressions = compressions(value)?,
            "--rows" => self.rows = list(value),
            "--memory" => self.memory = value.parse::<u64>()? << 20,
            "--settle" => self.settle = settle(value)?,
            "--base" => self.base = Some(value.into()),
            "--dir" => self.dir = value.into(),
            "--markdown" => self.markdown = Some(value.into()),
            "--json" => self.json = Some(value.into()),
            "--pause" => self.pause = value.parse()?,
            "--patience" => self.patience = value.parse()?,
            "--noise" => self.noise = value.parse()?,
            "--mixed" => self.mixed = value.parse()?,
            "--sync" => self.sync = value.parse()?,
            _ => return Err("no such option; see --help".into()),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        for engine in self.engines.iter().chain(&self.base) {
            if !engines::NAMES.contains(&engine.as_str()) {
                return Err(format!(
                    "{engine}: not in this build, which has {:?}",
                    engines::NAMES
                )
                .into());
            }
        }
        for wanted in &self.rows {
            if !job::ROWS
                .iter()
                .any(|(row, _)| job::row_matches(wanted, row))
            {
                let rows: Vec<&str> = job::ROWS.iter().map(|(row, _)| *row).collect();
                return Err(format!("{wanted}: no such row of {}", rows.join(", ")).into());
            }
        }
        if !(1_000..=1 << 31).contains(&self.keys) || !(8..=1 << 26).contains(&self.value) {
            return Err("keys from 1,000 to 2^31, values from 8 bytes to 64 MiB".into());
        }
        if self.rounds == 0 || self.engines.is_empty() || self.memory < 64 << 20 {
            return Err("at least one round, one engine and 64 MiB".into());
        }
        let times = [self.pause, self.patience, self.mixed, self.sync];
        if !times.iter().all(|time| (0.0..1e6).contains(time)) {
            return Err("times are seconds from 0".into());
        }
        Ok(())
    }

    /// The engine whose ratio to the others is shown.
    pub fn base(&self) -> &str {
        let wanted = self.base.as_deref().unwrap_or("terrace");
        let mut engines = self.engines.iter();
        let real = engines.clone().find(|engine| *engine != "null");
        let base = engines.find(|engine| *engine == wanted).or(real);
        base.map_or(wanted, String::as_str)
    }
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::to_string).collect()
}

fn compressions(value: &str) -> Result<Vec<Compression>> {
    Ok(match value {
        "none" => vec![Compression::None],
        "lz4" => vec![Compression::Lz4],
        "both" => vec![Compression::None, Compression::Lz4],
        _ => return Err("none, lz4 or both".into()),
    })
}

fn settle(value: &str) -> Result<Settle> {
    Ok(match value {
        "peers" => Settle::Peers,
        "idle" => Settle::Idle,
        "full" => Settle::Full,
        _ => return Err("peers, idle or full".into()),
    })
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
