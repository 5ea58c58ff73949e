//! One growing file of frames behind a header of the caller's: the manifest.
//!
//! ```text
//! file := header of the caller, up to `start` | frame* | zeroes
//! ```
//!
//! All frames are data with one number each, which rises by exactly 1, or marks. Offsets in the
//! file take the place of log positions: a frame promises the offset below which everything was
//! durable.
//!
//! Space is taken ahead. The file grows by zeroed blocks of 64 KiB which are synced with the new
//! length before a frame is stored there, so a frame never meets a full disk, and whole blocks of
//! the file hold all frames. A reader relies on that: a frame that reaches beyond the whole blocks
//! says that the file was cut.
//!
//! The tail rule is that of the log, within the one file: the frames end at the first place `p`
//! without a verifying frame, and a frame further on that promises more than `p` makes it
//! `Corruption`.

use terrace_base::vfs::File;
use terrace_base::{Error, Result, SeqNo};

use crate::format::{self, Fields, FrameKind};
use crate::scan::Scanner;
use crate::segment::ZERO_LEN;

const BLOCK_LEN: u64 = ZERO_LEN as u64;

/// The writing side of a file of frames.
#[derive(Debug)]
pub struct FrameFile {
    file: File,
    salt: u64,
    end: u64,
    synced: u64,
    promised: u64,
    /// The file is zeroed up to here.
    taken: u64,
    /// False until the length that was found is known to be durable.
    taken_is_durable: bool,
    last_number: Option<u64>,
    buffer: Vec<u8>,
    failed: Option<Error>,
}

impl FrameFile {
    /// Begins at offset `start`, a multiple of 8, after a header that the caller has written;
    /// takes the first block and syncs the file.
    pub fn create(file: File, salt: u64, start: u64) -> Result<FrameFile> {
        let mut frames = FrameFile::begin(file, salt, start, start)?;
        frames.taken = start;
        frames.take_space(first_block(start))?;
        Ok(frames)
    }

    /// Goes on at `end` of a file that [`read_frames`] found whole: its tail is not torn.
    pub fn resume(file: File, salt: u64, end: u64, synced: u64) -> Result<FrameFile> {
        let len = file.len()?;
        let mut frames = FrameFile::begin(file, salt, end, synced)?;
        frames.taken = len / BLOCK_LEN * BLOCK_LEN;
        frames.taken_is_durable = false;
        if frames.taken < end || synced > end {
            let text = format!("frames up to {end} in a file of {len} bytes");
            return Err(Error::corruption(text).in_file(frames.file.path(), len));
        }
        Ok(frames)
    }

    fn begin(file: File, salt: u64, end: u64, synced: u64) -> Result<FrameFile> {
        if !end.is_multiple_of(8) || end > format::MAX_LSN {
            return Err(Error::invalid(format!("frames cannot begin at {end}")));
        }
        Ok(FrameFile {
            file,
            salt,
            end,
            synced,
            promised: synced,
            taken: end,
            taken_is_durable: true,
            last_number: None,
            buffer: Vec::new(),
            failed: None,
        })
    }

    /// Appends one frame; `number` is one more than that of the frame before.
    ///
    /// If the file cannot grow nothing was appended, and the call may be repeated once there is
    /// room. After any other error the file is dead, and every later call gives the same error.
    pub fn append(&mut self, number: u64, payload: &[u8]) -> Result<()> {
        self.check()?;
        let follows = self
            .last_number
            .is_none_or(|last| last.checked_add(1) == Some(number));
        if !follows || number > SeqNo::MAX.get() {
            return Err(Error::invalid(format!("frame {number} is out of turn")));
        }
        let fields = Fields {
            kind: FrameKind::Data,
            count: 1,
            first_seq: SeqNo::new(number),
            synced: self.synced,
        };
        self.store(fields, payload)?;
        self.last_number = Some(number);
        Ok(())
    }

    /// Repeats the promise in a frame of its own, if the last frame says less and there is space.
    pub fn mark(&mut self) -> Result<()> {
        self.check()?;
        if self.synced <= self.promised || self.end + format::MARK_LEN > self.taken {
            return Ok(());
        }
        let fields = Fields {
            kind: FrameKind::Mark,
            count: 0,
            first_seq: SeqNo::new(self.last_number.unwrap_or(0)),
            synced: self.synced,
        };
        self.store(fields, &[])
    }

    fn store(&mut self, fields: Fields, payload: &[u8]) -> Result<()> {
        let end = self.end + format::frame_len(payload.len());
        self.take_space(end)?;
        // Taking space may have synced what the frame can now promise.
        let fields = Fields {
            synced: self.synced,
            ..fields
        };
        format::encode(&mut self.buffer, fields, &[payload], self.salt, self.end)?;
        let result = self.file.write_all_at(&self.buffer, self.end);
        self.noting_failure(result)?;
        self.promised = fields.synced;
        self.end = end;
        Ok(())
    }

    /// Zeroes the file up to a whole block that holds `end`, and syncs the length.
    fn take_space(&mut self, end: u64) -> Result<()> {
        let wanted = end.div_ceil(BLOCK_LEN) * BLOCK_LEN;
        if wanted <= self.taken && self.taken_is_durable {
            return Ok(());
        }
        let zeroes = vec![0; ZERO_LEN];
        let mut at = self.taken;
        while at < wanted {
            let rest = usize::try_from(wanted - at).unwrap_or(ZERO_LEN);
            let part = zeroes.get(..rest).unwrap_or(&zeroes);
            self.file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        self.sync_file()?;
        self.taken = at;
        self.taken_is_durable = true;
        Ok(())
    }

    /// Sees to it that frames of `bytes` bytes in all can be appended without the file growing.
    ///
    /// If the file cannot grow nothing has changed, and the call may be repeated once there is
    /// room.
    pub fn take_ahead(&mut self, bytes: u64) -> Result<()> {
        self.check()?;
        self.take_space(self.end.saturating_add(bytes))
    }

    /// False after a failure that ended the file: a failed append that leaves this true has
    /// appended nothing.
    pub fn is_alive(&self) -> bool {
        self.failed.is_none()
    }

    fn sync_file(&mut self) -> Result<()> {
        let result = self.file.sync();
        self.noting_failure(result)?;
        self.synced = self.end;
        Ok(())
    }

    /// Makes everything appended durable. A failure is final.
    pub fn sync(&mut self) -> Result<()> {
        self.check()?;
        match self.synced < self.end {
            true => self.sync_file(),
            false => Ok(()),
        }
    }

    /// Where the next frame goes.
    pub fn end(&self) -> u64 {
        self.end
    }

    fn check(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn noting_failure<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }
}

/// The file is at least this long from its first sync on.
fn first_block(start: u64) -> u64 {
    (start / BLOCK_LEN + 1) * BLOCK_LEN
}

/// What [`read_frames`] found behind the last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFileTail {
    /// Where the frames end.
    pub end: u64,
    /// The highest promise that verifies: everything below it was durable.
    pub synced: u64,
    /// Something else than zeroes lies behind the end: never append here.
    pub torn: bool,
    /// The frames end with a mark that promises all others.
    pub marked: bool,
}

/// Reads the frames of a file from `start` on and gives each number and payload to `sink`, in
/// order. After an error what the sink got must be thrown away.
pub fn read_frames(
    file: &File,
    salt: u64,
    start: u64,
    sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<FrameFileTail> {
    let len = file.len()?;
    let wrong = |offset: u64, text: &str| Err(Error::corruption(text).in_file(file.path(), offset));
    if start > len || len < first_block(start) {
        return wrong(len, "the file is shorter than it was made");
    }
    let mut scanner = Scanner::new(file.clone(), salt, len);
    let (mut end, mut synced, mut last) = (start, 0, None::<u64>);
    let mut marked = false;
    while let Some(frame) = scanner.frame_at(end)? {
        if frame.fields.synced > end {
            return wrong(end, "a frame promises what lies above it");
        }
        synced = synced.max(frame.fields.synced);
        marked = frame.fields.kind == FrameKind::Mark && frame.fields.synced == end;
        match frame.fields.kind {
            FrameKind::Data => {
                let number = frame.fields.first_seq.get();
                if last.is_some_and(|last| last + 1 != number) {
                    return wrong(end, "the numbers of frames do not rise by one");
                }
                last = Some(number);
                sink(number, frame.payload)?;
            }
            FrameKind::Mark => {}
            FrameKind::Link | FrameKind::Close => {
                return wrong(end, "a frame of a kind that does not belong here");
            }
        }
        end += frame.total;
    }
    let mut promise = 0;
    scanner.search(end, &mut |_, frame| {
        promise = promise.max(frame.fields.synced);
        Ok(())
    })?;
    if promise > end {
        return wrong(end, "a frame is damaged that a later one says was durable");
    }
    // No tear leaves this behind: space is taken, with the length, before a frame is stored in it.
    if end > len / BLOCK_LEN * BLOCK_LEN || scanner.overruns(end)? {
        return wrong(end, "the file was cut short");
    }
    let torn = scanner.is_dirty_from(end)?;
    Ok(FrameFileTail {
        end,
        synced: synced.max(promise),
        torn,
        marked,
    })
}

#[cfg(test)]
#[path = "single_tests.rs"]
mod tests;
