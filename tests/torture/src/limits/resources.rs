//! Limits of the process, and clocks that jump.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use terrace::clock::ManualClock;
use terrace::{Durability, ErrorKind};

use super::{Checked, Talking, check, fill, holds, key, other, small, text, value};

const SIGXFSZ: i32 = 25;

fn limit(resource: Resource, to: u64) {
    let maximum = getrlimit(resource).maximum;
    let limit = Rlimit {
        current: Some(to),
        maximum,
    };
    setrlimit(resource, limit).unwrap();
}

/// How many entries the other process said it has written.
fn acknowledged(said: &str) -> u64 {
    let numbers = said
        .lines()
        .filter_map(|line| line.strip_prefix("wrote ")?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// With few file descriptors calls may fail, with an error of the system; nothing acknowledged is
/// lost, no answer is wrong, and with more of them it goes on.
pub(super) fn few_descriptors(dir: &Path) -> Checked {
    let mut refused = 0;
    for limit in [8, 12, 16, 24, 32, 64] {
        let db = dir.join(limit.to_string());
        let first = small().open(&db).map_err(text)?;
        fill(&first, 0..1000).map_err(text)?;
        first.close().map_err(text)?;
        let other = other(&[], "few-descriptors", &db, &limit.to_string());
        let (said, status, errors) = Talking::start(other).end();
        check(status.success(), || {
            format!("{limit} descriptors: {status}: {said}{errors}")
        })?;
        refused += u64::from(said.contains("Too many open files"));
        let wrote = acknowledged(&said).max(1000);
        let db = small().create(false).open(&db).map_err(text)?;
        holds(&db, wrote, wrote + 1).map_err(|e| format!("{limit} descriptors: {e}; {said}"))?;
        fill(&db, wrote..wrote + 1000).map_err(text)?;
        db.compact_all().map_err(text)?;
        holds(&db, wrote + 1000, wrote + 1000)?;
    }
    check(refused > 0, || "no limit was ever met".to_owned())
}

pub(super) fn descriptors_child(dir: &Path, to: &str) -> Checked {
    limit(Resource::Nofile, to.parse().unwrap());
    let db = match small().open(dir) {
        Ok(db) => db,
        Err(error) if error.kind() == ErrorKind::Io => {
            println!("open: {error:?}");
            return Ok(());
        }
        Err(error) => return Err(text(error)),
    };
    let end = write_on(&db, 1000..2500);
    println!("write: {:?}", end.err());
    // Reads answer, or fail as calls of the system do.
    for i in 0..1000 {
        match db.get(key(i)) {
            Ok(found) => check(found.as_deref() == Some(&value(i)), || {
                format!("{i}: {found:?}")
            })?,
            Err(error) if error.kind() == ErrorKind::Io => {}
            Err(error) => return Err(text(error)),
        }
    }
    println!(
        "health: {:?}, close: {:?}",
        db.health().err(),
        db.close().err()
    );
    Ok(())
}

/// Writes entries and says how far it came.
fn write_on(db: &terrace::Db, range: std::ops::Range<u64>) -> terrace::Result<()> {
    let mut wrote = range.start;
    let mut end = Ok(());
    for i in range {
        end = db.put(key(i), value(i)).map(drop);
        if end.is_err() {
            break;
        }
        wrote = i + 1;
        if wrote.is_multiple_of(100) {
            println!("wrote {wrote}");
        }
    }
    println!("wrote {wrote}");
    end
}

/// A file may not grow beyond a limit (EFBIG): writes end with `NoSpace` or behind a failure that
/// names it, and nothing acknowledged is lost.
pub(super) fn file_size(dir: &Path) -> Checked {
    let mut refused = 0;
    for limit in [0u64, 1 << 10, 10 << 10, 40 << 10, 64 << 10, 100 << 10] {
        let db = dir.join(limit.to_string());
        fill(&small().open(&db).map_err(text)?, 0..1000).map_err(text)?;
        // An ignored signal stays ignored: then the call fails instead.
        let shell = ["sh", "-c", "trap '' 25; exec \"$0\" \"$@\""];
        let other = other(&shell, "file-size", &db, &limit.to_string());
        let (said, status, errors) = Talking::start(other).end();
        check(status.success(), || {
            format!("{limit} bytes: {status}: {said}{errors}")
        })?;
        refused += u64::from(said.contains("File too large"));
        let wrote = acknowledged(&said).max(1000);
        let db = small().create(false).open(&db).map_err(text)?;
        holds(&db, wrote, wrote + 1).map_err(|e| format!("{limit} bytes: {e}; {said}"))?;
        fill(&db, wrote..wrote + 1000).map_err(text)?;
        holds(&db, wrote + 1000, wrote + 1000)?;
    }
    check(refused > 0, || "no limit was ever met".to_owned())
}

pub(super) fn file_size_child(dir: &Path, to: &str) -> Checked {
    limit(Resource::Fsize, to.parse().unwrap());
    let fits = |error: &terrace::Error| {
        let says = error.to_string().contains("File too large");
        error.kind() == ErrorKind::NoSpace || (error.kind() == ErrorKind::ReadOnly && says)
    };
    let db = match small().open(dir) {
        Ok(db) => db,
        Err(error) if fits(&error) => {
            println!("open: {error:?}");
            return Ok(());
        }
        Err(error) => return Err(text(error)),
    };
    if let Err(error) = write_on(&db, 1000..5000) {
        check(fits(&error), || format!("write: {error:?}"))?;
        println!("write: {error:?}");
    }
    holds(&db, 1000, 5000)?;
    println!("close: {:?}", db.close().err());
    Ok(())
}

/// The same without ignoring the signal: the process dies, as by any other.
pub(super) fn file_size_signal(dir: &Path) -> Checked {
    let mut died = 0;
    for limit in [0u64, 10 << 10, 40 << 10, 64 << 10, 100 << 10] {
        let db = dir.join(limit.to_string());
        fill(&small().open(&db).map_err(text)?, 0..1000).map_err(text)?;
        let other = other(&[], "file-size-signal", &db, &limit.to_string());
        let (said, status, errors) = Talking::start(other).end();
        let by_signal = status.signal() == Some(SIGXFSZ);
        died += u64::from(by_signal);
        check(by_signal || status.success(), || {
            format!("{limit} bytes: {status}: {errors}")
        })?;
        let wrote = acknowledged(&said).max(1000);
        let db = small().create(false).open(&db).map_err(text)?;
        holds(&db, wrote, if by_signal { 5000 } else { wrote })
            .map_err(|e| format!("{limit} bytes: {e}; {said}"))?;
    }
    check(died > 0, || "no limit was ever met".to_owned())
}

/// The wall clock jumps back and forth, also between two openings: order, versions and syncs do not
/// go by it.
pub(super) fn clock_back(dir: &Path) -> Checked {
    let mut newest = None;
    let mut wrote = 0;
    for (round, wall) in [1_000_000, 10, 0, 500_000, u64::from(u32::MAX), 1]
        .into_iter()
        .enumerate()
    {
        let clock = Arc::new(ManualClock::new(Duration::from_secs(wall)));
        let interval = Durability::Interval(Duration::from_millis(20));
        let options = small().clock(clock.clone()).durability(interval);
        let db = options.open(dir.join("db")).map_err(text)?;
        holds(&db, wrote, wrote)?;
        for i in 0..300 {
            clock.advance(Duration::from_millis(i % 7));
            clock.set_wall(Duration::from_secs([wall, 0, wall / 2][i as usize % 3]));
            let version = Some(db.put(key(wrote), value(wrote)).map_err(text)?);
            check(version > newest, || {
                format!("round {round}: {version:?} after {newest:?}")
            })?;
            newest = version;
            wrote += 1;
        }
        let snapshot = db.snapshot();
        clock.set_wall(Duration::ZERO);
        db.compact_all().map_err(text)?;
        let seen = snapshot.count(..).map_err(text)?;
        check(seen == wrote, || {
            format!("a snapshot has {seen} of {wrote} entries")
        })?;
        holds(&db, wrote, wrote)?;
        drop(snapshot);
        db.close().map_err(text)?;
    }
    Ok(())
}
