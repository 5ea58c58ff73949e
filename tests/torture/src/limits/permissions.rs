//! What the process may not do. Permissions do not bind root, so the other process is nobody; without root these
//! cases say so and pass.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use terrace::ErrorKind;

use super::{Checked, Talking, check, fill, holds, other, small, text};
use crate::skip;

const NOBODY: u32 = 65_534;
const AS_NOBODY: [&str; 4] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];

/// True if there is nobody to be.
fn skipped() -> Result<bool, String> {
    let tried = Command::new(AS_NOBODY[0])
        .args(&AS_NOBODY[1..])
        .arg("true")
        .output();
    let can = tried.is_ok_and(|run| run.status.success());
    if !can {
        let why = "they need root and setpriv (package util-linux)";
        skip::skip("limits: permissions", why)?;
    }
    Ok(!can)
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The temporary directory is ours alone; let nobody pass.
fn database(dir: &Path) -> Result<std::path::PathBuf, String> {
    mode(dir, 0o755);
    let db = dir.join("db");
    let filled = small().open(&db).map_err(text)?;
    fill(&filled, 0..2000).map_err(text)?;
    filled.close().map_err(text)?;
    Ok(db)
}

fn give_away(db: &Path) {
    chown(db, Some(NOBODY), Some(NOBODY)).unwrap();
    for entry in std::fs::read_dir(db).unwrap() {
        chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// What nobody hears: one line for a reader, one for a writer.
fn ask(case: &str, db: &Path) -> Result<Vec<String>, String> {
    let (said, status, errors) = Talking::start(other(&AS_NOBODY, case, db, "")).end();
    check(status.success(), || format!("{status}: {errors}"))?;
    Ok(said.lines().map(str::to_owned).collect())
}

pub(super) fn child(dir: &Path, _: &str) -> Checked {
    match small().read_only(true).open(dir) {
        Ok(db) => {
            let all = holds(&db, 2000, 2000);
            println!("reader: {}", all.err().unwrap_or("all".to_owned()));
        }
        Err(error) => println!("reader: {error:?}"),
    }
    match small().open(dir) {
        Ok(db) => {
            let all = holds(&db, 2000, 2000);
            println!("writer: {}", all.err().unwrap_or("all".to_owned()));
            // The entries 2000 and so on, until one fails.
            match fill(&db, 2000..20_000) {
                Ok(()) => println!("wrote"),
                Err(error) => println!("write: {error:?}"),
            }
            println!(
                "{}",
                holds(&db, 2000, 20_000)
                    .err()
                    .unwrap_or("read on".to_owned())
            );
        }
        Err(error) => println!("writer: {error:?}"),
    }
    Ok(())
}

fn says(said: &[String], line: usize, parts: &[&str]) -> Checked {
    let there = said
        .get(line)
        .is_some_and(|line| parts.iter().all(|part| line.contains(part)));
    check(there, || format!("line {line} has not {parts:?}: {said:?}"))
}

fn still_whole(db: &Path, at_most: u64) -> Checked {
    let db = small().create(false).open(db).map_err(text)?;
    holds(&db, 2000, at_most)?;
    db.health().map_err(text)
}

/// A directory of somebody else, mode 0700: an error with the path, and nothing happens.
pub(super) fn foreign_directory(dir: &Path) -> Checked {
    if skipped()? {
        return Ok(());
    }
    let db = database(dir)?;
    let said = ask("foreign-directory", &db)?;
    says(&said, 0, &["reader: Io", "Permission denied", "db"])?;
    says(&said, 1, &["writer: Io", "Permission denied", "db"])?;
    still_whole(&db, 2000)?;
    // Nor can it be made where nobody may make directories.
    let said = ask("foreign-directory", &dir.join("another"))?;
    says(&said, 1, &["writer: Io", "Permission denied"])?;
    check(!dir.join("another").exists(), || "it was made".to_owned())
}

/// One file cannot be read: whoever needs it hears so, and it is no damage.
pub(super) fn unreadable_file(dir: &Path) -> Checked {
    if skipped()? {
        return Ok(());
    }
    let whole = database(dir)?;
    for entry in std::fs::read_dir(&whole).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "LOCK" {
            continue;
        }
        // Nobody's writer changes files, so each of them is held back in a copy of its own.
        let db = dir.join(format!("without-{name}"));
        std::fs::create_dir(&db).unwrap();
        for entry in std::fs::read_dir(&whole).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), db.join(entry.file_name())).unwrap();
        }
        give_away(&db);
        chown(db.join(&name), Some(0), Some(0)).unwrap();
        let said = ask("unreadable-file", &db)?;
        let wrong = ["Corruption", "is wrong", "entries where"];
        let wrong = |line: &String| wrong.iter().any(|part| line.contains(part));
        check(!said.iter().any(wrong), || format!("{name}: {said:?}"))?;
        if name == "CURRENT" || name.starts_with("MANIFEST") {
            says(&said, 0, &["reader: Io", "Permission denied", &name])?;
        }
        still_whole(&db, 20_000).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

/// A directory in which no file can be made, first with files that can be written, then with none.
pub(super) fn read_only_directory(dir: &Path) -> Checked {
    if skipped()? {
        return Ok(());
    }
    let db = database(dir)?;
    give_away(&db);
    mode(&db, 0o555);
    let said = ask("read-only-directory", &db)?;
    says(&said, 0, &["reader: all"])?;
    says(&said, 1, &["writer: all"])?;
    says(&said, 2, &["write: ", "Permission denied"])?;
    says(&said, 3, &["read on"])?;
    still_whole(&db, 20_000)?;

    for entry in std::fs::read_dir(&db).unwrap() {
        mode(&entry.unwrap().path(), 0o400);
    }
    let said = ask("read-only-directory", &db)?;
    says(&said, 0, &["reader: "])?;
    says(&said, 1, &["writer: Io", "LOCK"])?;
    mode(&db, 0o755);
    for entry in std::fs::read_dir(&db).unwrap() {
        mode(&entry.unwrap().path(), 0o600);
    }
    still_whole(&db, 20_000)?;
    let kind = small()
        .create(false)
        .open(dir.join("none"))
        .err()
        .map(|error| error.kind());
    check(kind == Some(ErrorKind::NotFound), || format!("{kind:?}"))
}
