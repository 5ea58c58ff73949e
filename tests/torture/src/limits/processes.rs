//! Two processes and one database.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use terrace::{ErrorKind, IoMode};

use super::{Checked, Talking, check, fill, key, other, small, text, value};

const SIGBUS: i32 = 7;

/// Several processes make and open one database at the same moment, again and again: one at a time
/// has it, the others hear `Locked`, and each that had it left its entry.
pub(super) fn race_to_open(dir: &Path) -> Checked {
    for round in 0..3 {
        let db = dir.join(format!("db-{round}"));
        let mut all: Vec<Talking> = (0..4)
            .map(|i| Talking::start(other(&[], "race-to-open", &db, &i.to_string())))
            .collect();
        for one in &mut all {
            one.tell("go");
        }
        let mut had_it = 0;
        for one in all {
            let (said, status, errors) = one.end();
            check(status.success(), || {
                format!("round {round}: {status}: {errors}")
            })?;
            had_it += said.lines().filter(|line| *line == "had it").count();
        }
        check(had_it > 0, || {
            format!("round {round}: nobody could open it")
        })?;
        let db = small().create(false).open(&db).map_err(text)?;
        let there = db.count(..).map_err(text)?;
        check(there == had_it as u64, || {
            format!("round {round}: {there} entries of {had_it} processes that had it")
        })?;
    }
    Ok(())
}

pub(super) fn race_child(dir: &Path, me: &str) -> Checked {
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for attempt in 0..8 {
        match small().open(dir) {
            Ok(db) => {
                db.put(format!("{me}/{attempt}"), "was here")
                    .map_err(text)?;
                db.close().map_err(text)?;
                println!("had it");
            }
            Err(error) if error.kind() == ErrorKind::Locked => {}
            Err(error) => return Err(text(error)),
        }
    }
    Ok(())
}

/// One database under several names is one database.
pub(super) fn other_names(dir: &Path) -> Checked {
    let real = dir.join("db");
    let db = small().open(&real).map_err(text)?;
    fill(&db, 0..100).map_err(text)?;
    let link = dir.join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let winding = dir.join("db/../link/../db");
    for name in [&real, &link, &winding] {
        for options in [small(), small().read_only(true)] {
            let kind = options.open(name).err().map(|error| error.kind());
            check(kind == Some(ErrorKind::Locked), || {
                format!("{name:?}: {kind:?}")
            })?;
        }
    }
    drop(db);
    let db = small().create(false).open(&link).map_err(text)?;
    super::holds(&db, 100, 100)?;
    let error = small().open(&real).err().map(|error| error.kind());
    check(error == Some(ErrorKind::Locked), || format!("{error:?}"))
}

/// Somebody shortens tables under a process that has them open. With maps it may die by SIGBUS; by
/// `pread` it gets an error; in no case is an answer wrong.
pub(super) fn truncated_map(dir: &Path) -> Checked {
    let mut died = 0;
    for (round, keep) in [0.0, 0.3, 0.7, 0.99].into_iter().enumerate() {
        for mode in ["mmap", "pread"] {
            let db = dir.join(format!("{mode}-{round}"));
            {
                let db = small().open(&db).map_err(text)?;
                fill(&db, 0..3000).map_err(text)?;
                db.compact_all().map_err(text)?;
            }
            let mut reader = Talking::start(other(&[], "truncated-map", &db, mode));
            let said = reader.line();
            if said != "ready" {
                let (_, status, errors) = reader.end();
                return Err(format!("{mode}: {said:?}, {status}: {errors}"));
            }
            let mut cut = 0;
            for entry in std::fs::read_dir(&db).unwrap().map(Result::unwrap) {
                if entry.path().extension().is_some_and(|e| e == "sst") {
                    let file = std::fs::OpenOptions::new().write(true).open(entry.path());
                    let file = file.unwrap();
                    let len = file.metadata().unwrap().len() as f64;
                    file.set_len((len * keep) as u64).unwrap();
                    cut += 1;
                }
            }
            check(cut > 5, || format!("only {cut} tables"))?;
            reader.tell("read");
            let (said, status, errors) = reader.end();
            let by_signal = mode == "mmap" && status.signal() == Some(SIGBUS);
            died += u64::from(by_signal);
            check(by_signal || status.success(), || {
                format!("{mode}, {keep} kept: {status}: {said}{errors}")
            })?;
            check(mode == "mmap" || said.contains("errors"), || {
                format!("pread, {keep} kept: no read failed")
            })?;
        }
    }
    check(died > 0, || "no map was ever too short".to_owned())
}

pub(super) fn reader(dir: &Path, mode: &str) -> Checked {
    let mode = if mode == "mmap" {
        IoMode::Mmap
    } else {
        IoMode::Pread
    };
    let db = small().io(mode).open(dir).map_err(text)?;
    // A few have been read before, and lie in caches.
    for i in 0..5 {
        let found = db.get(key(i)).map_err(text)?;
        check(found.as_deref() == Some(&value(i)), || {
            format!("entry {i}: {found:?}")
        })?;
    }
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let mut errors = 0;
    for i in 0..3000 {
        match db.get(key(i)) {
            Ok(found) => {
                check(found.as_deref() == Some(&value(i)), || {
                    format!("entry {i}: {found:?}")
                })?;
            }
            Err(error) => {
                let kind = error.kind();
                let right = matches!(kind, ErrorKind::Corruption | ErrorKind::Io);
                check(right, || format!("entry {i}: {error:?}"))?;
                errors += 1;
            }
        }
    }
    let (mut scanned, mut failed) = (0, 0);
    for entry in db.iter() {
        match entry {
            Ok(_) => scanned += 1,
            Err(_) => failed += 1,
        }
    }
    check(scanned == 3000 || failed == 1, || {
        format!("a scan of {scanned} entries ended without an error")
    })?;
    if errors > 0 {
        println!("{errors} errors");
    }
    Ok(())
}
