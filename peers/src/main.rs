//! Terrace beside other embedded engines.
//!
//! The parent process runs each engine of each round in a child process of its own, in a fresh
//! directory. A child prints one JSON line for each row (`job.rs`) as it goes through the life of a database
//! (`life.rs`); the parent prints medians and the medians of the ratios within rounds (`report.rs`).
//! `README.md` says what is measured and what is not.

mod engines;
mod job;
mod life;
mod measure;
mod options;
mod parent;
mod report;
mod stats;
mod workload;

use job::Job;
use std::process::ExitCode;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.as_slice() {
        [flag, job] if flag == "--job" => child(job),
        [flag] if flag == "--help" => {
            println!("{}", options::HELP);
            Ok(())
        }
        args => options::Options::parse(args).and_then(|options| parent::run(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does a job and names the engine in an error.
fn child(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    let done = match job.engine.as_str() {
        "null" => life::run::<engines::null::Null>(&job),
        #[cfg(feature = "terrace")]
        "terrace" => life::run::<engines::terrace::Terrace>(&job),
        #[cfg(feature = "fjall")]
        "fjall" => life::run::<engines::fjall::Fjall>(&job),
        #[cfg(feature = "lmdb")]
        "lmdb" => life::run::<engines::lmdb::Lmdb>(&job),
        _ => Err("not in this build".into()),
    };
    done.map_err(|error| format!("{}: {error}", job.engine).into())
}
