//! The command: picks a mode, runs it, prints what it counted.

// A command prints and exits; it is a test all the same.
#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use terrace_torture::{Budget, MODES, Mode, Plan, Report};

/// Crash-recovery tests of terrace.
#[derive(Parser, Debug)]
#[command(name = "torture", version, after_help = modes())]
struct Args {
    /// A mode, or `all`: each one in turn.
    mode: String,
    /// Round i works with seed S + i; drawn from the clock if not given.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// How long, such as 90s, 10m or 2h.
    #[arg(long = "for", value_name = "TIME", value_parser = time, conflicts_with = "count")]
    time: Option<Duration>,
    /// How many of what the mode counts.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Reproduces one failure, as printed with it.
    #[arg(long, value_name = "PLACE")]
    at: Option<String>,
    /// Adds what was counted to this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn modes() -> String {
    let lines = MODES
        .iter()
        .map(|mode| format!("  {:<10} {}\n", mode.name, mode.about));
    format!("Modes:\n{}", lines.collect::<String>())
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no time such as 90s, 10m or 2h");
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "" | "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

fn main() -> ExitCode {
    let arguments = std::env::args_os()
        .skip(1)
        .map(|argument| argument.into_string());
    let arguments: Vec<String> = arguments.map_while(Result::ok).collect();
    if let Some(code) = terrace_torture::child(&arguments) {
        return code;
    }
    let args = Args::parse();
    let chosen: Vec<&Mode> = MODES
        .iter()
        .filter(|mode| args.mode == "all" || mode.name == args.mode)
        .collect();
    if chosen.is_empty() {
        eprintln!("there is no mode `{}`\n{}", args.mode, modes());
        return ExitCode::from(2);
    }
    let budget = match (args.time, args.count) {
        (_, Some(count)) => Budget::Count(count),
        (time, None) => Budget::For(time.unwrap_or(Duration::from_secs(60))),
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = args
        .seed
        .unwrap_or_else(|| now.map_or(0, |since| since.as_secs()));
    for mode in chosen {
        let mut plan = Plan::new(seed, budget);
        plan.at = args.at.clone();
        plan.progress = true;
        if let Err(failed) = run(mode, &plan, args.report.as_deref()) {
            eprintln!("{failed}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(mode: &Mode, plan: &Plan, report: Option<&std::path::Path>) -> Result<(), String> {
    println!("torture {}: seed {}", mode.name, plan.seed);
    let counts =
        (mode.run)(plan).map_err(|failure| format!("torture {} FAILED: {failure}", mode.name))?;
    let seconds = plan.elapsed().as_secs();
    println!("torture {}: all well after {seconds} s", mode.name);
    for (name, count) in &counts {
        println!("  {count:>12} {name}");
    }
    if let (Some(file), None) = (report, &plan.at) {
        let mut totals = Report::load(file)?;
        totals.add(mode.name, plan.seed, seconds, &counts);
        totals.save(file)?;
    }
    Ok(())
}
