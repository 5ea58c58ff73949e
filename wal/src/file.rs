//! The seam between the log and its files.

use std::fmt::Debug;

use terrace_base::Result;
use terrace_base::vfs::File;

/// Where the frames of one segment go. The blocks exist already: a store never extends the file.
pub trait LogFile: Debug + Send + Sync {
    /// Writes `bytes` at `offset`, whole, or fails with an unknown part of them written.
    fn store(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Makes all that was stored durable. After a failure no second call proves anything.
    fn sync(&self) -> Result<()>;
}

/// The form that works on every file system: one positioned write per store.
#[derive(Debug)]
pub struct PwriteFile {
    file: File,
}

impl PwriteFile {
    /// Stores into `file`, which is open for writing.
    pub fn new(file: File) -> PwriteFile {
        PwriteFile { file }
    }
}

impl LogFile for PwriteFile {
    fn store(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}
