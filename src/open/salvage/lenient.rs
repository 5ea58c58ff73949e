//! Reading files that may not be readable everywhere, and putting files aside.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use terrace_base::vfs::{Fs, OpenMode};
use terrace_base::{Error, ErrorKind, FileKind, Result};

/// Bytes read at once.
const PIECE: usize = 1 << 20;
/// What is given up where a piece cannot be read.
const SECTOR: usize = 4096;

/// The first `limit` bytes of a file, with zeroes where it cannot be read, and the places of those.
pub(super) fn read_leniently(
    fs: &Fs,
    path: &Path,
    limit: Option<u64>,
) -> Result<(Bytes, Vec<Range<u64>>)> {
    let file = fs.open(path, OpenMode::Read)?;
    let len = file.len()?.min(limit.unwrap_or(u64::MAX));
    let len = usize::try_from(len).ok();
    let mut bytes: Vec<u8> = Vec::new();
    let Some(len) = len.filter(|len| bytes.try_reserve_exact(*len).is_ok()) else {
        let text = "the file is larger than the memory that there is";
        return Err(Error::unsupported(text).in_file(path, 0));
    };
    bytes.resize(len, 0);
    let mut unread: Vec<Range<u64>> = Vec::new();
    for (n, piece) in bytes.chunks_mut(PIECE).enumerate() {
        let at = (n * PIECE) as u64;
        if file.read_exact_at(piece, at).is_ok() {
            continue;
        }
        for (m, sector) in piece.chunks_mut(SECTOR).enumerate() {
            let at = at + (m * SECTOR) as u64;
            if let Err(error) = file.read_exact_at(sector, at) {
                if !matches!(error.kind(), ErrorKind::Io | ErrorKind::Corruption) {
                    return Err(error);
                }
                sector.fill(0);
                unread.push(at..at + sector.len() as u64);
            }
        }
    }
    Ok((bytes.into(), unread))
}

/// Gives every file in `names` but `keep` a second name in a new directory, durably; copies it
/// where there are no hard links. The files themselves stay where they are.
pub(super) fn put_aside(
    fs: &Fs,
    dir: &Path,
    names: &[FileKind],
    keep: &HashSet<FileKind>,
) -> Result<PathBuf> {
    let mut number = 1u64;
    let aside = loop {
        let path = dir.join(format!("salvaged-{number:06}"));
        if fs.metadata(&path)?.is_none() {
            break path;
        }
        number += 1;
    };
    fs.create_dir_all(&aside)?;
    for name in names {
        if *name == FileKind::Lock || keep.contains(name) {
            continue;
        }
        let (from, to) = (name.path(dir), name.path(&aside));
        fs.link_or_copy(&from, &to)?;
    }
    fs.sync_dir(&aside)?;
    Ok(aside)
}
