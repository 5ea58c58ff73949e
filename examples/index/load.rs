//! The loader: one atomic batch per file, first by a process that is killed.
//!
//! The loader says on its standard output what has been acknowledged, a line for each file:
//!
//! ```text
//! stored INDEX
//! skipped INDEX REASON        REASON: position in `Skip::ALL`
//! wrote USER FLUSHED COMPACTED        bytes since it started, now and then
//! ```

use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::{env, fs};

use terrace::{Batch, Db, Durability, Keyspace, MAX_BATCH_LEN};

use crate::broom::TempFolder;
use crate::check::Expected;
use crate::source::{Skip, Source, Words, word_key};
use crate::{Failure, open, progress, report};

/// How often the loader reports what it wrote.
const REPORT_EVERY: usize = 32;

/// Bytes handed to the database, and bytes that it wrote into tables.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) user: u64,
    pub(crate) flushed: u64,
    pub(crate) compacted: u64,
}

/// What became of the killed process.
#[derive(Debug)]
pub(crate) struct Killed {
    /// As it last said.
    pub(crate) written: Written,
    /// Bytes of the database as the kill left it.
    pub(crate) left_behind: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Stored,
    Skipped(Skip),
}

/// Stores files.
#[derive(Debug)]
pub(crate) struct Loader {
    db: Db,
    files: Keyspace,
    words: Keyspace,
}

impl Loader {
    pub(crate) fn new(db: &Db) -> terrace::Result<Loader> {
        Ok(Loader {
            db: db.clone(),
            files: db.keyspace("files")?,
            words: db.keyspace("words")?,
        })
    }

    pub(crate) fn has(&self, source: &Source, index: usize) -> terrace::Result<bool> {
        match source.files.get(index) {
            Some(file) => self.files.contains_key(file.key()),
            None => Ok(false),
        }
    }

    /// Stores the file and its words, all or nothing.
    pub(crate) fn load(&self, source: &Source, index: usize) -> Result<Outcome, Failure> {
        let file = source.files.get(index).ok_or("no such file")?;
        let Ok(bytes) = source.read(file) else {
            return Ok(Outcome::Skipped(Skip::Unreadable));
        };
        if bytes.len() as u64 != file.size {
            return Ok(Outcome::Skipped(Skip::Changed));
        }
        let words = Words::new(&bytes);
        let words = words.sorted();
        let keys = words.iter().map(|word| word.len() + 1 + file.key().len());
        let framing = 24 * (words.len() + 1);
        if (keys.sum::<usize>() + bytes.len() + framing) as u64 > MAX_BATCH_LEN {
            return Ok(Outcome::Skipped(Skip::TooManyWords));
        }
        let mut batch = Batch::new();
        batch.keyspace(&self.files).put(file.key(), &bytes);
        let mut of_words = batch.keyspace(&self.words);
        let mut key = Vec::new();
        for word in words {
            word_key(&mut key, word, file.key());
            of_words.put(&key, "");
        }
        self.db.write(batch)?;
        Ok(Outcome::Stored)
    }
}

/// Lets a child process load until it is killed, and notes what it said.
pub(crate) fn until_killed(
    source: &mut Source,
    expected: &mut Expected,
    database: &Path,
    folder: &TempFolder,
    durability: Durability,
) -> Result<Killed, Failure> {
    let list = folder.path().join("list");
    write_list(source, &list)?;
    let mut child = Command::new(env::current_exe()?)
        .arg("--load-for-parent")
        .args([source.root.as_path(), database, list.as_path()])
        .arg(format!("{durability:?}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let result = follow(&mut child, source, expected);
    if result.is_err() {
        // It may have ended already, and there is an error to report.
        drop(child.kill());
        drop(child.wait());
    }
    Ok(Killed {
        written: result?,
        left_behind: report::folder_size(database)?,
    })
}

fn follow(
    child: &mut Child,
    source: &mut Source,
    expected: &mut Expected,
) -> Result<Written, Failure> {
    let files = source.files.len();
    let percent = 30 + RandomState::new().hash_one(0) % 41;
    let kill_at = (files * percent as usize / 100).max(1);
    let mut lines = BufReader::new(child.stdout.take().ok_or("the loader has no output")?);
    let bar = progress("loading, until killed", files);
    let mut line = String::new();
    let (mut heard, mut stored, mut killed) = (0, 0, false);
    let mut written = Written::default();
    // What it said before it died counts, also what is read after the kill.
    while lines.read_line(&mut line)? > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            _ if !line.ends_with('\n') => {} // Cut off by the kill: not said.
            ["stored", index] => {
                expected.acknowledged(index.parse()?);
                stored += 1;
            }
            ["skipped", index, reason] => {
                expected.skipped(index.parse()?);
                let reason = Skip::ALL.get(reason.parse::<usize>()?);
                source.skip(*reason.ok_or("the loader gave an unknown reason")?);
            }
            ["wrote", user, flushed, compacted] => {
                written = Written {
                    user: user.parse()?,
                    flushed: flushed.parse()?,
                    compacted: compacted.parse()?,
                };
            }
            _ => return Err(format!("the loader said {line:?}").into()),
        }
        if !line.starts_with("wrote") {
            heard += 1;
            bar.inc(1);
        }
        line.clear();
        if heard >= kill_at && !killed {
            child.kill()?; // SIGKILL: it gets no chance to do anything more.
            killed = true;
        }
    }
    bar.finish_and_clear();
    let status = child.wait()?;
    if !killed || !was_killed(status) {
        return Err(format!("the loader ended by itself: {status}").into());
    }
    println!(
        "killed the loader at {percent} % with SIGKILL; it had acknowledged {} of {} files",
        report::grouped(stored as u64),
        report::grouped(files as u64)
    );
    Ok(written)
}

#[cfg(unix)]
fn was_killed(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

#[cfg(not(unix))]
fn was_killed(status: ExitStatus) -> bool {
    !status.success()
}

/// Paths with their sizes; no path has a NUL.
fn write_list(source: &Source, list: &Path) -> io::Result<()> {
    let mut bytes = Vec::new();
    for file in &source.files {
        bytes.extend_from_slice(file.size.to_string().as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(file.key());
        bytes.push(0);
    }
    fs::write(list, bytes)
}

fn read_list(root: &Path, list: &Path) -> Result<Source, Failure> {
    let bytes = fs::read(list)?;
    let mut source = Source::empty(root);
    let mut parts = bytes.split(|byte| *byte == 0);
    while let (Some(size), Some(path)) = (parts.next(), parts.next()) {
        let size = std::str::from_utf8(size)?.parse()?;
        source.push(to_path(path)?, size);
    }
    Ok(source)
}

#[cfg(unix)]
fn to_path(bytes: &[u8]) -> Result<PathBuf, Failure> {
    let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(bytes);
    Ok(PathBuf::from(path))
}

#[cfg(not(unix))]
fn to_path(bytes: &[u8]) -> Result<PathBuf, Failure> {
    Ok(PathBuf::from(std::str::from_utf8(bytes)?))
}

/// The process that is killed.
pub(crate) fn child(arguments: &[OsString]) -> Result<(), Failure> {
    let [_, root, database, list, durability] = arguments else {
        return Err("the loader is started by its parent only".into());
    };
    let durability = match durability.to_str() {
        Some("Buffered") => Durability::Buffered,
        _ => Durability::Sync,
    };
    let source = read_list(Path::new(root), Path::new(list))?;
    let db = open(Path::new(database), durability)?;
    let loader = Loader::new(&db)?;
    let mut out = io::stdout().lock();
    for index in 0..source.files.len() {
        match loader.load(&source, index)? {
            Outcome::Stored => writeln!(out, "stored {index}")?,
            Outcome::Skipped(reason) => {
                let reason = Skip::ALL.iter().position(|known| *known == reason);
                writeln!(out, "skipped {index} {}", reason.ok_or("unknown reason")?)?;
            }
        }
        if index % REPORT_EVERY == 0 {
            let stats = db.stats();
            let (flushed, compacted) = (stats.bytes_flushed, stats.bytes_compacted);
            writeln!(out, "wrote {} {flushed} {compacted}", stats.bytes_written)?;
        }
    }
    // A small tree may be done before the kill arrives: wait for it, or for the parent's end.
    io::stdin().read_to_end(&mut Vec::new())?;
    Err("the parent ended before it killed the loader".into())
}
