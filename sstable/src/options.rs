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
    /// Zstandard at level 3, with feature `zstd`; without it, what asks for it or meets it is
    /// `Unsupported`. Blocks that hardly shrink are stored raw.
    Zstd = 2,
}

impl Compression {
    /// The compression stored as `byte`.
    pub fn from_byte(byte: u8) -> Result<Compression> {
        match byte {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Lz4),
            2 => Compression::Zstd.check().map(|()| Compression::Zstd),
            _ => Err(Error::corruption(format!("{byte} is no compression"))),
        }
    }

    /// `Unsupported` if this build lacks the feature that it takes.
    #[doc(hidden)]
    pub fn check(self) -> Result<()> {
        match self {
            Compression::Zstd if !cfg!(feature = "zstd") => Err(no_zstd()),
            _ => Ok(()),
        }
    }
}

#[cold]
pub(crate) fn no_zstd() -> Error {
    Error::unsupported("this build has no zstd: enable the feature `zstd` of the crate `terrace`")
}

/// How tables are read.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IoMode {
    /// Through a memory map: the fastest where the data fits into memory. If the disk cannot read a
    /// page, or another process shortens the file, the operating system kills the process with
    /// SIGBUS; no wrong answer is given. Where the process can have no further map, tables are read
    /// as by `Pread`.
    #[default]
    Mmap,
    /// By system calls, through the block cache: for data beyond memory and for failing disks. What
    /// cannot be read is an error.
    Pread,
}
