//! Where a database may lie.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use terrace::ErrorKind;

use super::{Checked, check, fill, holds, small, text};

fn works_in(path: &Path) -> Checked {
    let db = small().open(path).map_err(text)?;
    fill(&db, 0..1000).map_err(text)?;
    db.flush().map_err(text)?;
    db.close().map_err(text)?;
    let db = small().create(false).open(path).map_err(text)?;
    holds(&db, 1000, 1000)
}

fn fails_in(path: &Path, kinds: &[ErrorKind]) -> Checked {
    for options in [small(), small().read_only(true), small().create(false)] {
        match options.open(path) {
            Ok(_) => return Err(format!("{path:?} could be opened")),
            Err(error) if kinds.contains(&error.kind()) => {}
            Err(error) => return Err(format!("{path:?}: {error:?}, and not {kinds:?}")),
        }
    }
    Ok(())
}

pub(super) fn odd_paths(dir: &Path) -> Checked {
    let names: [&[u8]; 8] = [
        b"\xff\xfe not UTF-8 \x80",
        b"new\nline\ttab",
        b" ",
        b"-rf",
        "\u{1F980} \u{202E}".as_bytes(),
        b"CURRENT",
        b"000001.wal",
        b"\\..\\%00'\"$(x)",
    ];
    for name in names {
        let path = dir.join(OsStr::from_bytes(name));
        works_in(&path).map_err(|e| format!("{path:?}: {e}"))?;
    }
    works_in(&dir.join("deep/er/and/deeper/../deeper/db"))?;

    // What is no directory.
    let file = dir.join("file");
    std::fs::write(&file, "mine").unwrap();
    fails_in(
        &file,
        &[ErrorKind::Io, ErrorKind::Invalid, ErrorKind::NotFound],
    )?;
    fails_in(
        &file.join("db"),
        &[ErrorKind::Io, ErrorKind::Invalid, ErrorKind::NotFound],
    )?;
    let around = dir.join("around");
    std::os::unix::fs::symlink(&around, &around).unwrap();
    fails_in(&around, &[ErrorKind::Io])?;
    fails_in(Path::new("a\0b"), &[ErrorKind::Io, ErrorKind::Invalid])?;
    fails_in(
        Path::new("/proc/self/fd/nothing"),
        &[ErrorKind::Io, ErrorKind::NotFound],
    )?;
    let left = std::fs::read(&file).unwrap();
    check(left == b"mine", || format!("the file has {left:?} now"))
}

pub(super) fn long_paths(dir: &Path) -> Checked {
    // One name as long as a name can be, and a path as long as a path can be with a file's name
    // behind it.
    works_in(&dir.join("n".repeat(255)))?;
    let mut path = PathBuf::from(dir);
    while path.as_os_str().len() < 3800 {
        path.push("d".repeat(200));
    }
    path.push("e".repeat(4060 - path.as_os_str().len()));
    works_in(&path)?;
    // Too long, by the name and by the path.
    fails_in(&dir.join("n".repeat(256)), &[ErrorKind::Io])?;
    fails_in(&path.join("f".repeat(200)), &[ErrorKind::Io])?;
    let longest = path
        .parent()
        .unwrap()
        .join("g".repeat(4093 - path.parent().unwrap().as_os_str().len()));
    // With a file's name behind it it would be too long, but files are reached from the directory.
    works_in(&longest)
}
