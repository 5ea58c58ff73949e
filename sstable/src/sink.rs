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

/// Writes a file from its start, in pieces of 4 MiB. Syncs nothing: that is the owner's to do.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    buffer: Vec<u8>,
    /// Where the buffer's first byte belongs.
    offset: u64,
}

impl FileSink {
    /// Writes into `file`, which is new and empty.
    pub fn new(file: File) -> FileSink {
        FileSink {
            file,
            buffer: Vec::new(),
            offset: 0,
        }
    }

    /// The file written.
    pub fn file(&self) -> &File {
        &self.file
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
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(BUFFER_LEN);
        }
        loop {
            let room = BUFFER_LEN - self.buffer.len();
            let Some((now, later)) = bytes.split_at_checked(room) else {
                self.buffer.extend_from_slice(bytes);
                return Ok(());
            };
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
