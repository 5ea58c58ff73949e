//! Links, pipes and folders where files of a database are expected: a folder may come from anybody, and opening it
//! must not write to what lies outside.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use terrace::{Db, Durability, ErrorKind, Options};

fn options() -> Options {
    Options::new()
        .memory(4 << 20)
        .durability(Durability::Buffered)
        .tune(|t| {
            t.manual = true;
            t.segment_bytes = (4096, Some(4096));
        })
}

fn fill(db: &Db) {
    for n in 0..200 {
        db.put(format!("{n:03}"), [n as u8; 100]).unwrap();
    }
}

#[test]
fn a_link_in_place_of_the_lock_makes_no_file_elsewhere() {
    let home = tempfile::tempdir().unwrap();
    let (dir, elsewhere) = (home.path().join("db"), home.path().join("elsewhere"));
    fs::create_dir(&dir).unwrap();
    symlink(&elsewhere, dir.join("LOCK")).unwrap();
    assert_eq!(options().open(&dir).unwrap_err().kind(), ErrorKind::Io);
    assert!(!elsewhere.exists());
}

#[test]
fn a_link_in_place_of_the_temporary_file_is_not_written_through() {
    for hard in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let (dir, precious) = (home.path().join("db"), home.path().join("precious"));
        fs::create_dir(&dir).unwrap();
        fs::write(&precious, "do not touch").unwrap();
        let link = dir.join("CURRENT.tmp");
        match hard {
            true => fs::hard_link(&precious, &link).unwrap(),
            false => symlink(&precious, &link).unwrap(),
        }
        let db = options().open(&dir).unwrap();
        fill(&db);
        db.close().unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "do not touch");
        assert!(!dir.join("CURRENT").is_symlink());
        assert_eq!(options().open(&dir).unwrap().iter().count(), 200);
    }
}

#[test]
fn files_that_are_links_are_read_and_never_written_to() {
    for hard in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let (dir, outside) = (home.path().join("db"), home.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        let db = options().open(&dir).unwrap();
        fill(&db);
        db.close().unwrap();
        let mut precious = Vec::new();
        for file in fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if file.ends_with("LOCK") {
                continue;
            }
            let moved = outside.join(file.file_name().unwrap());
            fs::rename(&file, &moved).unwrap();
            match hard {
                true => fs::hard_link(&moved, &file).unwrap(),
                false => symlink(&moved, &file).unwrap(),
            }
            precious.push((moved.clone(), fs::read(&moved).unwrap()));
        }
        assert!(precious.len() > 3);
        for _ in 0..3 {
            let db = options().open(&dir).unwrap();
            assert_eq!(db.iter().map(Result::unwrap).count(), 200);
            for _ in 0..3 {
                fill(&db);
                db.flush().unwrap();
            }
            db.close().unwrap();
        }
        for (path, bytes) in precious {
            assert!(
                fs::read(&path).unwrap() == bytes,
                "{} was written to",
                path.display()
            );
        }
    }
}

/// Opening a pipe to read waits until somebody opens it to write.
#[test]
fn pipes_and_folders_in_place_of_files_are_errors_at_once() {
    for pipe in [true, false] {
        for name in ["CURRENT", "MANIFEST-000099", "000099.wal"] {
            let home = tempfile::tempdir().unwrap();
            let dir = home.path().join("db");
            let db = options().open(&dir).unwrap();
            fill(&db);
            db.close().unwrap();
            let path = dir.join(name);
            if path.exists() {
                fs::remove_file(&path).unwrap();
            }
            if pipe {
                assert!(
                    Command::new("mkfifo")
                        .arg(&path)
                        .status()
                        .unwrap()
                        .success()
                );
            } else {
                fs::create_dir(&path).unwrap();
            }
            let (send, opened) = mpsc::channel();
            std::thread::spawn(move || send.send(options().open(&dir).map(|_| ())));
            let opened = opened.recv_timeout(Duration::from_secs(20));
            let error = opened.expect("it waits for ever").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{name}: {error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
