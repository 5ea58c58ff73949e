//! Names of the files of a database.
//!
//! A database is one directory. Every name in it comes from a [`FileNumber`], never from a caller:
//! `LOCK`, `CURRENT`, `CURRENT.tmp`, `RESERVE`, `MANIFEST-NNNNNN`, `NNNNNN.wal`, `NNNNNN.sst`,
//! `NNNNNN.blob` (six digits or more). A number means something only in its own directory.

use std::fmt;
use std::path::{Path, PathBuf};

/// Number of a file of a database. Numbers rise and are never reused within a database.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNumber(pub u64);

impl fmt::Debug for FileNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

impl fmt::Display for FileNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

/// What a file of a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `LOCK`: held while the database is open.
    Lock,
    /// `CURRENT`: names the manifest.
    Current,
    /// `CURRENT.tmp`: the next `CURRENT` before its rename.
    CurrentTemporary,
    /// `RESERVE`: zeroes that hold space for when the disk is full.
    Reserve,
    /// `MANIFEST-NNNNNN`: the log of version edits.
    Manifest(FileNumber),
    /// `NNNNNN.wal`: a segment of the write-ahead log.
    Segment(FileNumber),
    /// `NNNNNN.sst`: a sorted table.
    Table(FileNumber),
    /// `NNNNNN.blob`: large values.
    Blob(FileNumber),
}

impl FileKind {
    /// The name of the file.
    pub fn name(self) -> String {
        match self {
            FileKind::Lock => "LOCK".into(),
            FileKind::Current => "CURRENT".into(),
            FileKind::CurrentTemporary => "CURRENT.tmp".into(),
            FileKind::Reserve => "RESERVE".into(),
            FileKind::Manifest(n) => format!("MANIFEST-{n}"),
            FileKind::Segment(n) => format!("{n}.wal"),
            FileKind::Table(n) => format!("{n}.sst"),
            FileKind::Blob(n) => format!("{n}.blob"),
        }
    }

    /// The path of the file in `dir`.
    pub fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.name())
    }

    /// The file that exactly `name` names, if it is one of ours.
    pub fn parse(name: &str) -> Option<FileKind> {
        let kind = match name {
            "LOCK" => FileKind::Lock,
            "CURRENT" => FileKind::Current,
            "CURRENT.tmp" => FileKind::CurrentTemporary,
            "RESERVE" => FileKind::Reserve,
            _ => match name.strip_prefix("MANIFEST-") {
                Some(digits) => FileKind::Manifest(parse_number(digits)?),
                None => {
                    let (digits, extension) = name.split_once('.')?;
                    let number = parse_number(digits)?;
                    match extension {
                        "wal" => FileKind::Segment(number),
                        "sst" => FileKind::Table(number),
                        "blob" => FileKind::Blob(number),
                        _ => return None,
                    }
                }
            },
        };
        Some(kind)
    }
}

/// Parses exactly what `FileNumber` prints.
fn parse_number(digits: &str) -> Option<FileNumber> {
    if digits.len() < 6 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = FileNumber(digits.parse().ok()?);
    (number.to_string() == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_nothing_else_does() {
        let n = FileNumber(12);
        for kind in [
            FileKind::Lock,
            FileKind::Current,
            FileKind::CurrentTemporary,
            FileKind::Reserve,
            FileKind::Manifest(n),
            FileKind::Segment(n),
            FileKind::Table(FileNumber(1_234_567)),
            FileKind::Blob(n),
        ] {
            assert_eq!(FileKind::parse(&kind.name()), Some(kind));
        }
        for other in [
            "12.sst",
            "0000012.sst",
            "000012.SST",
            "000012.sst.bak",
            "MANIFEST-",
            "a.wal",
            "+00012.wal",
            "99999999999999999999999.wal",
        ] {
            assert_eq!(FileKind::parse(other), None, "{other}");
        }
    }
}
