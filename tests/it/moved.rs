//! The directory of an open database is moved, replaced or removed, or the process goes elsewhere.

use std::path::Path;
use std::process::Command;

use terrace::{Db, Durability, ErrorKind, IoMode, Options};

/// The directory that another process is to work in.
const CHILD: &str = "TERRACE_MOVED";

/// Runs `task` alone in another process, which may change its working directory; gives it an empty
/// directory. `name` is that of the test.
fn in_another_process(name: &str, task: fn(&Path)) {
    if let Ok(dir) = std::env::var(CHILD) {
        return task(Path::new(&dir));
    }
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&format!("moved::{name}"), "--exact", "--nocapture"])
        .env(CHILD, home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

fn key(i: u32) -> String {
    format!("key {i:06}")
}

fn put(db: &Db, range: std::ops::Range<u32>, value: u8) {
    for i in range {
        db.put(key(i), [value; 1000]).unwrap();
    }
}

/// All of `0..len` with this value, and no more.
#[track_caller]
fn holds(db: &Db, len: u32, value: u8) {
    let mut found = 0;
    for entry in db.iter() {
        let (k, v) = entry.unwrap();
        assert_eq!(k, key(found));
        assert_eq!(v, &[value; 1000][..]);
        found += 1;
    }
    assert_eq!(found, len);
}

fn small() -> Options {
    Options::new().memory(4 << 20)
}

#[test]
fn two_databases_of_one_relative_name_in_two_directories() {
    in_another_process(
        "two_databases_of_one_relative_name_in_two_directories",
        |home| {
            for (round, options) in [Options::new(), small(), small().io(IoMode::Pread)]
                .into_iter()
                .enumerate()
            {
                let home = home.join(round.to_string());
                let (a, b) = (home.join("a"), home.join("b"));
                std::fs::create_dir_all(&a).unwrap();
                std::fs::create_dir_all(&b).unwrap();
                std::env::set_current_dir(&a).unwrap();
                let first = options.open("db").unwrap();
                put(&first, 0..100, 1);
                std::env::set_current_dir(&b).unwrap();
                let second = options.open("db").unwrap();
                put(&second, 0..100, 2);
                for i in 2..22 {
                    put(&first, i * 50..i * 50 + 50, 1);
                    first.flush().unwrap();
                    put(&second, i * 50..i * 50 + 50, 2);
                    second.flush().unwrap();
                }
                first.compact_all().unwrap();
                // A name that depends on where the process is counts from there, whatever is open.
                first.checkpoint("copy").unwrap();
                holds(&options.open(b.join("copy")).unwrap(), 1100, 1);
                for (db, value) in [(first, 1), (second, 2)] {
                    holds(&db, 1100, value);
                    db.close().unwrap();
                }
                holds(&options.open(a.join("db")).unwrap(), 1100, 1);
                holds(&options.open(b.join("db")).unwrap(), 1100, 2);
            }
        },
    );
}

#[test]
fn a_process_that_goes_elsewhere_takes_its_database_along() {
    in_another_process(
        "a_process_that_goes_elsewhere_takes_its_database_along",
        |home| {
            std::env::set_current_dir(home).unwrap();
            let db = small().durability(Durability::Buffered).open("db").unwrap();
            std::env::set_current_dir("/").unwrap();
            put(&db, 0..10_000, 3);
            db.flush().unwrap();
            db.compact_all().unwrap();
            db.close().unwrap();
            assert!(!Path::new("/db").exists());
            holds(&Db::open(home.join("db")).unwrap(), 10_000, 3);
        },
    );
}

#[cfg(unix)]
#[test]
fn a_renamed_directory_goes_on_and_a_new_database_may_take_its_name() {
    let home = tempfile::tempdir().unwrap();
    let (old, new) = (home.path().join("old"), home.path().join("new"));
    let options = small().durability(Durability::Buffered);
    let first = options.open(&old).unwrap();
    put(&first, 0..3000, 1);
    std::fs::rename(&old, &new).unwrap();
    put(&first, 3000..6000, 1);
    first.flush().unwrap();

    // It holds its lock under the new name, and none under the old one.
    let again = options.open(&new).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Locked);
    let second = options.open(&old).unwrap();
    put(&second, 0..5000, 2);
    second.flush().unwrap();
    first.compact_all().unwrap();
    second.compact_all().unwrap();
    holds(&first, 6000, 1);
    holds(&second, 5000, 2);
    first.close().unwrap();
    second.close().unwrap();
    holds(&options.open(&new).unwrap(), 6000, 1);
    holds(&options.open(&old).unwrap(), 5000, 2);
}

#[cfg(unix)]
#[test]
fn a_removed_directory_is_an_error_of_the_system_and_one_of_close() {
    for (written, options) in [(10, Options::new()), (0, Options::new()), (10_000, small())] {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("db");
        let db = options
            .clone()
            .durability(Durability::Buffered)
            .open(&dir)
            .unwrap();
        put(&db, 0..written, 1);
        while dir.exists() {
            std::fs::remove_dir_all(&dir).ok(); // Fails where a file is made meanwhile.
        }
        for i in 0..written {
            match db.get(key(i)) {
                Ok(found) => assert_eq!(found.unwrap(), &[1; 1000][..]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{error}"),
            }
        }
        if written > 0 {
            let failed = db.flush().unwrap_err();
            assert!(
                matches!(failed.kind(), ErrorKind::Io | ErrorKind::ReadOnly),
                "{failed:?}"
            );
        }
        let closed = db.close().unwrap_err();
        assert!(
            matches!(closed.kind(), ErrorKind::Io | ErrorKind::ReadOnly),
            "{closed:?}"
        );
        assert!(!dir.exists(), "nothing is made anew");
    }
}

#[cfg(unix)]
#[test]
fn a_table_that_was_removed_is_an_error_of_the_system_when_it_is_opened() {
    let home = tempfile::tempdir().unwrap();
    let db = small().open(home.path().join("db")).unwrap();
    let users = db.keyspace("users").unwrap();
    put(&db, 0..10, 1);
    users.put("k", "v").unwrap();
    db.close().unwrap();
    let db = small().open(home.path().join("db")).unwrap();
    db.compact_all().unwrap();
    drop(db);
    let db = small().open(home.path().join("db")).unwrap();
    std::fs::remove_dir_all(home.path().join("db")).unwrap();
    let error = db.get(key(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    let error = db.iter().next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
}
