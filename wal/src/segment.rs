//! How a segment file comes to be.
//!
//! A segment is zeroed and synced once, when it is made, and then used over and over, each time under
//! a fresh random salt that the manifest gives it. It has no header: the first frame of a use is its
//! link, and frames of earlier uses do not verify under the new salt.
//!
//! It is zeroed in writes of 64 KiB: larger ones make the page cache use large folios, and then every
//! small write into them costs several times as much.

use std::path::Path;

use terrace_base::vfs::{Fs, OpenMode};
use terrace_base::{Error, FileKind, FileNumber, Result};

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

/// Makes the segment file `number` of `size` zero bytes in `dir`, durable with its name.
///
/// After an error the file may be there in part; nothing lists it yet.
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
    file.sync()?;
    fs.sync_dir(dir)
}
