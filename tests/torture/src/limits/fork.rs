//! A process that forked holds a copy of everything: of handles, of locks that other threads had, of the position in
//! the log. What it does with a handle must do nothing to the database, and must not hang.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use terrace::{Batch, Db, ErrorKind};

use super::{Checked, check, fill, holds, key, small, text, value};
use crate::sys;

/// Runs `code` in a fork, which may hang: then the failure says so, and the fork is killed.
fn in_fork(code: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) -> Checked {
    let (tell, hear) = mpsc::channel();
    // A fork that hangs leaves whoever started it waiting, so somebody else does that.
    let starter = thread::spawn(move || {
        let started = sys::fork_into(Command::new("true"), code);
        tell.send(started.and_then(|mut child| child.wait())).ok();
    });
    match hear.recv_timeout(Duration::from_secs(20)) {
        Ok(Ok(status)) if status.success() => {}
        Ok(ended) => return Err(format!("a fork ended by {ended:?}")),
        Err(_) => {
            sys::kill_children();
            return Err("a fork hangs".to_owned());
        }
    }
    starter.join().map_err(|_| "a fork panicked".to_owned())
}

/// What a fork hears for each call, a line each.
fn answers(db: &Db) -> String {
    let mut batch = Batch::new();
    batch.put("forked", "batch");
    let kinds = [
        ("put", db.put("forked", "put").err()),
        ("delete", db.delete(key(1)).err()),
        ("write", db.write(batch.clone()).err()),
        ("submit", db.submit(batch).err()),
        ("get", db.get(key(1)).err()),
        ("iter", db.iter().next().and_then(Result::err)),
        ("keyspace", db.keyspace("forked").err()),
        ("drop_keyspace", db.drop_keyspace("forked").err()),
        ("sync", db.sync().err()),
        ("flush", db.flush().err()),
        ("compact_all", db.compact_all().err()),
        ("wait_idle", db.wait_idle().err()),
        ("health", db.health().err()),
        ("close", db.close().err()),
    ];
    kinds.iter().fold(String::new(), |mut out, (call, error)| {
        let kind = error.as_ref().map(terrace::Error::kind);
        writeln!(out, "{call}: {kind:?}").unwrap();
        out
    })
}

/// While other threads write, the process forks again and again, and each fork tries everything.
pub(super) fn used_in_a_fork(dir: &Path) -> Checked {
    let path = dir.join("db");
    let db = small().open(&path).map_err(text)?;
    fill(&db, 0..500).map_err(text)?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let (db, stop) = (db.clone(), stop.clone());
        move || {
            let mut wrote = 500;
            while !stop.load(Ordering::Relaxed) {
                db.put(key(wrote), value(wrote)).map_err(text)?;
                wrote += 1;
            }
            Ok::<u64, String>(wrote)
        }
    });
    let heard = dir.join("heard");
    let forks = (0..40).try_for_each(|_| {
        let code = {
            let (db, heard) = (db.clone(), heard.clone());
            move || std::fs::write(&heard, answers(&db))
        };
        in_fork(code)?;
        let heard = std::fs::read_to_string(&heard).unwrap();
        let locked = format!("{:?}", Some(ErrorKind::Locked));
        let right = heard.lines().all(|line| line.ends_with(&locked));
        check(right, || format!("a fork heard\n{heard}"))
    });
    stop.store(true, Ordering::Relaxed);
    let wrote = writer.join().unwrap();
    forks?;
    let wrote = wrote?;
    holds(&db, wrote, wrote)?;
    let kind = small().open(&path).err().map(|error| error.kind());
    check(kind == Some(ErrorKind::Locked), || {
        format!("a fork let go of the lock: {kind:?}")
    })?;
    db.close().map_err(text)?;
    holds(&small().open(&path).map_err(text)?, wrote, wrote)
}

/// A fork drops the last handle, as it ends its `main`: the parent still has the database.
pub(super) fn dropped_in_a_fork(dir: &Path) -> Checked {
    let path = dir.join("db");
    for round in 0..5 {
        let db = small().open(&path).map_err(text)?;
        fill(&db, round * 300..(round + 1) * 300).map_err(text)?;
        let last = Arc::new(Mutex::new(Some(db)));
        let code = {
            let last = last.clone();
            move || {
                drop(last.lock().unwrap().take());
                Ok(())
            }
        };
        in_fork(code)?;
        let kind = small().open(&path).err().map(|error| error.kind());
        check(kind == Some(ErrorKind::Locked), || {
            format!("a fork let go of the lock: {kind:?}")
        })?;
        let db = last.lock().unwrap().take().expect("the parent's");
        db.put(key(300 * (round + 1)), value(300 * (round + 1)))
            .map_err(text)?;
        holds(&db, (round + 1) * 300 + 1, (round + 1) * 300 + 1)?;
        db.delete(key(300 * (round + 1))).map_err(text)?;
        db.close().map_err(text)?;
    }
    holds(&small().open(&path).map_err(text)?, 1500, 1500)
}
