//! How a segment file comes to be.
//!
//! A segment is zeroed and synced once, when it is made, and then used over and over, each time
//! under a fresh random salt that the manifest gives it. It has no header: the first frame of a use
//! is its link, and frames of earlier uses do not verify under the new salt.
//!
//! It is zeroed in writes of 64 KiB: larger ones make the page cache use large folios, and then
//! every small write into them costs several times as much.

use std::path::Path;

use terrace_base::vfs::{Fs, OpenMode};
use terrace_base::{Error, FileKind, FileNumber, Result};

use crate::format::{HEADER_LEN, LINK_LEN, Link};
use crate::scan::Scanner;

/// The size of the writes that zero a file.
pub(crate) const ZERO_LEN: usize = 64 << 10;
/// Sizes of segments are multiples of this.
pub(crate) const SIZE_UNIT: u64 = 4096;

/// A segment as the manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Names the file.
    pub number: FileNumber,
    /// Random, fresh for each use of the file.
    pub salt: u64,
    /// Length of the file in bytes; never changes.
    pub size: u64,
}

/// Makes the segment file `number` of `size` zero bytes in `dir`, durable but for its name: the
/// caller syncs the directory before anything lists the file.
///
/// After an error the file may be there in part.
pub fn create_segment(fs: &Fs, dir: &Path, number: FileNumber, size: u64) -> Result<()> {
    if size == 0 || !size.is_multiple_of(SIZE_UNIT) {
        return Err(Error::invalid(format!(
            "a segment of {size} bytes: {SIZE_UNIT} must divide it"
        )));
    }
    let file = fs.open(&FileKind::Segment(number).path(dir), OpenMode::CreateNew)?;
    let zeroes = vec![0; ZERO_LEN];
    let mut done = 0;
    while done < size {
        let rest = usize::try_from(size - done).unwrap_or(ZERO_LEN);
        let part = zeroes.get(..rest).unwrap_or(&zeroes);
        file.write_all_at(part, done)?;
        done += part.len() as u64;
    }
    file.sync()
}

/// The manifest edit that the first link in a segment file names, whatever its use: what the file
/// itself gives as its salt is believed if the link verifies under it. `None` if it was never used.
///
/// A frame is written only after the edit that its link names is durable. So a later edit than the
/// manifest holds proves that the manifest is old or was cut, also where this manifest does not
/// list the file.
pub fn edit_named_by(fs: &Fs, dir: &Path, number: FileNumber) -> Result<Option<u64>> {
    let file = fs.open(&FileKind::Segment(number).path(dir), OpenMode::Read)?;
    let len = file.len()?;
    if len < LINK_LEN {
        return Ok(None);
    }
    let mut salt = [0; size_of::<u64>()];
    file.read_exact_at(&mut salt, HEADER_LEN as u64)?;
    let mut scanner = Scanner::new(file, u64::from_le_bytes(salt), len);
    let Some(frame) = scanner.frame_at(0)? else {
        return Ok(None);
    };
    Ok(Link::decode(frame.payload)
        .ok()
        .map(|link| link.manifest_edit))
}
