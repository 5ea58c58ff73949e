//! The choices that a table is written and read with.

use terrace_base::error::{Error, Result};

/// How the blocks of a table are packed. Stored on disk: numbers are never reused.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Blocks are read in place.
    None = 0,
    /// LZ4; blocks that hardly shrink are stored raw.
    #[default]
    Lz4 = 1,
    // 2 is reserved for zstd, and `Unsupported` until it works.
}

impl Compression {
    /// The compression stored as `byte`.
    pub fn from_byte(byte: u8) -> Result<Compression> {
        match byte {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Lz4),
            2 => Err(Error::unsupported(
                "the table is packed with zstd, which this build has not",
            )),
            _ => Err(Error::corruption(format!("{byte} is no compression"))),
        }
    }
}

/// How tables are read.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IoMode {
    /// Through a memory map: the fastest where the data fits into memory. If the disk cannot read a
    /// page, or another process shortens the file, the operating system kills the process with SIGBUS;
    /// a wrong answer never comes of it.
    #[default]
    Mmap,
    /// By system calls, through the block cache: for data beyond memory and for failing disks. What cannot
    /// be read is an error.
    Pread,
}
