//! Where a table's bytes go while it is written, front to back.

use terrace_base::error::Result;
use terrace_base::vfs::File;

/// Receives the bytes of a table in order.
pub trait Sink {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// Hands on whatever is still held back. Nothing is written afterwards.
    fn finish(&mut self) -> Result<()>;
}

impl Sink for Vec<u8> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Large writes make large folios in the page cache, and those cost readers fewer TLB misses.
const BUFFER_LEN: usize = 4 << 20;
/// Pieces smaller than this cost more in system calls than the memory is worth.
const SMALLEST_BUFFER: usize = 64 << 10;
/// What a buffer begins with: most tables of an ingest are no larger.
const FIRST_BUFFER: usize = 64 << 10;

/// Writes a file from its start, in pieces of up to 4 MiB. Syncs nothing: that is the owner's to
/// do.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    buffer: Vec<u8>,
    /// The buffer is written once it has this length.
    most: usize,
    /// Where the buffer's first byte belongs.
    offset: u64,
}

impl FileSink {
    /// Writes into `file`, which is new and empty.
    pub fn new(file: File) -> FileSink {
        FileSink::with_buffer(file, BUFFER_LEN)
    }

    /// Writes to `file` through a buffer of about `bytes` at most.
    pub fn with_buffer(file: File, bytes: usize) -> FileSink {
        FileSink {
            file,
            buffer: Vec::new(),
            most: bytes.clamp(SMALLEST_BUFFER, BUFFER_LEN),
            offset: 0,
        }
    }

    /// The file written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes room for `more` bytes, which fit: as much as a small table needs, or all.
    #[inline]
    fn reserve(&mut self, more: usize) {
        let needed = self.buffer.len() + more;
        if needed > self.buffer.capacity() {
            let capacity = if needed > FIRST_BUFFER {
                self.most
            } else {
                FIRST_BUFFER
            };
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Sink for FileSink {
    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            let room = self.most - self.buffer.len();
            let Some((now, later)) = bytes.split_at_checked(room) else {
                self.reserve(bytes.len());
                self.buffer.extend_from_slice(bytes);
                return Ok(());
            };
            self.reserve(now.len());
            self.buffer.extend_from_slice(now);
            self.flush()?;
            bytes = later;
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.buffer = Vec::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use terrace_base::vfs::{Fs, MemVfs, OpenMode};

    use super::*;

    /// The buffer is small for a small table, and never larger than it may be; the file gets every
    /// byte in its place.
    #[test]
    fn a_buffer_is_no_larger_than_it_may_be() {
        let fs = Fs::new(MemVfs::new(1));
        let path = Path::new("/file");
        let file = fs.open(path, OpenMode::CreateNew).unwrap();
        let mut sink = FileSink::with_buffer(file.clone(), 100_000);
        let piece: Vec<u8> = (0..8_200_u32).map(|n| n as u8).collect();
        sink.write(&piece).unwrap();
        assert_eq!(sink.buffer.capacity(), FIRST_BUFFER);
        for _ in 1..40 {
            sink.write(&piece).unwrap();
            assert!(sink.buffer.capacity() <= 100_000);
        }
        sink.finish().unwrap();
        let expected = piece.repeat(40);
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(file.len().unwrap(), expected.len() as u64);
        assert!(found == expected);
    }
}
