//! Reads frames from a file: the one at an offset, or all that verify alone behind it.
//!
//! A [`Scanner`] holds a window of the file, so that a reader needs memory for its largest frame
//! and a constant, and a clean log is opened without reading what was never written.
//!
//! The search looks at every multiple of 8 for the salt and a possible length, and computes CRCs
//! only there. Whole frames do not overlap, so all candidates of one use together are about as long
//! as the file; bytes made to look like many long frames would cost a CRC each. [`Scanner::charge`]
//! bounds that: a file whose broken candidates add up to many times its size was not written by a
//! log.
#![deny(clippy::indexing_slicing)]

use terrace_base::coding::align8;
use terrace_base::vfs::File;
use terrace_base::{Error, Result, mutant};

use crate::format::{self, HEADER_LEN, Verified};

/// First read: enough for a link.
const FIRST_READ: usize = 4 << 10;
/// Reads grow up to this.
const LARGEST_READ: usize = 1 << 20;
/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;
/// Broken candidates may add up to this many times the size of the file.
const PATIENCE: u64 = 8;

/// Reads the frames of one file, of the use with one salt.
#[derive(Debug)]
pub(crate) struct Scanner {
    file: File,
    salt: u64,
    size: u64,
    /// Offset of the window.
    start: u64,
    window: Vec<u8>,
    next_read: usize,
    broken: u64,
}

impl Scanner {
    /// Reads frames with `salt` from the first `size` bytes of `file`.
    pub(crate) fn new(file: File, salt: u64, size: u64) -> Scanner {
        Scanner {
            file,
            salt,
            size,
            start: 0,
            window: Vec::new(),
            next_read: FIRST_READ,
            broken: 0,
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Gives the window's memory back.
    pub(crate) fn forget(&mut self) {
        self.window = Vec::new();
    }

    fn room(&self, offset: u64) -> u64 {
        self.size.saturating_sub(offset)
    }

    /// What the window holds from `offset` on: at least `len` bytes, which the caller knows to be
    /// there.
    fn load(&mut self, offset: u64, len: u64) -> Result<&[u8]> {
        let held = self.start + self.window.len() as u64;
        if offset < self.start || offset.saturating_add(len) > held {
            let wanted = len.max(self.next_read as u64).min(self.room(offset));
            let wanted = usize::try_from(wanted)
                .map_err(|_| Error::unsupported("a frame is larger than this machine's memory"))?;
            self.next_read = (self.next_read * 4).min(LARGEST_READ);
            // An error must not leave a window that claims to hold what was not read.
            self.start = offset;
            let mut window = std::mem::take(&mut self.window);
            window.resize(wanted, 0);
            match self.file.read_exact_at(&mut window, offset) {
                Err(_) if mutant("read-error-ends-log") => window.fill(0),
                read => read?,
            }
            self.window = window;
        }
        Ok(self.held_from(offset))
    }

    fn held_from(&self, offset: u64) -> &[u8] {
        let skip = offset.saturating_sub(self.start) as usize;
        self.window.get(skip..).unwrap_or(&[])
    }

    /// The frame at `offset`, if one verifies there.
    pub(crate) fn frame_at(&mut self, offset: u64) -> Result<Option<Verified<'_>>> {
        let (room, salt) = (self.room(offset), self.salt);
        if !offset.is_multiple_of(8) || room < HEADER_LEN as u64 {
            return Ok(None);
        }
        let head = self.load(offset, HEADER_LEN as u64)?;
        let Some(total) = format::claimed_len(head, salt, room) else {
            return Ok(None);
        };
        self.load(offset, total)?;
        let bytes = self.held_from(offset).get(..total as usize).unwrap_or(&[]);
        format::decode(bytes, salt, offset).map_err(|e| e.in_file(self.file.path(), offset))
    }

    /// True if the header at `offset` is of this use but its frame would end beyond the file.
    ///
    /// Length and salt prove that only together. Where a sector ends between them a tear may keep
    /// the salt and leave anything as the length.
    pub(crate) fn overruns(&mut self, offset: u64) -> Result<bool> {
        let (room, salt) = (self.room(offset), self.salt);
        let words = 2 * size_of::<u64>() as u64;
        if room < words || offset % SECTOR > SECTOR - words {
            return Ok(false);
        }
        let head = self.load(offset, room.min(HEADER_LEN as u64))?;
        Ok(format::claimed_len(head, salt, u64::MAX).is_some_and(|total| total > room))
    }

    /// Calls `visit` with every frame from `offset` on that verifies alone, whatever lies between.
    pub(crate) fn search(
        &mut self,
        offset: u64,
        visit: &mut dyn FnMut(u64, Verified<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut at = align8(offset);
        while let Some((candidate, total)) = self.next_candidate(at)? {
            at = match self.frame_at(candidate)? {
                Some(frame) => {
                    visit(candidate, frame)?;
                    candidate + total
                }
                None => {
                    self.charge(candidate, total)?;
                    candidate + 8
                }
            };
        }
        Ok(())
    }

    /// The first place from `at` on that has the salt and a length that fits.
    fn next_candidate(&mut self, mut at: u64) -> Result<Option<(u64, u64)>> {
        let (size, salt) = (self.size, self.salt);
        while size.saturating_sub(at) >= HEADER_LEN as u64 {
            let (words, _) = self.load(at, HEADER_LEN as u64)?.as_chunks::<8>();
            for pair in words.windows(2) {
                if let [first, second] = pair
                    && let Some(total) = format::plausible(*first, *second, salt, size - at)
                {
                    return Ok(Some((at, total)));
                }
                at += 8;
            }
        }
        Ok(None)
    }

    /// Counts a candidate that did not verify.
    fn charge(&mut self, offset: u64, total: u64) -> Result<()> {
        self.broken = self.broken.saturating_add(total);
        if self.broken / PATIENCE > self.size.max(LARGEST_READ as u64) {
            let text = "more broken frames than a log can leave behind";
            return Err(Error::corruption(text).in_file(self.file.path(), offset));
        }
        Ok(())
    }

    /// True if a byte from `offset` on is not zero.
    pub(crate) fn is_dirty_from(&mut self, mut offset: u64) -> Result<bool> {
        while offset < self.size {
            let bytes = self.load(offset, 1)?;
            let (lines, rest) = bytes.as_chunks::<64>(); // Far faster than byte by byte.
            if lines.iter().any(|line| *line != [0; 64]) || rest.iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
            offset += bytes.len() as u64;
        }
        Ok(false)
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
