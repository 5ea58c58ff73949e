//! Large values as readers get them: by the reference that an entry stores

use std::sync::Arc;

use bytes::Bytes;
use terrace_base::{Error, Result, UserKey};
use terrace_compaction::{BlobFile, BlobFiles};
use terrace_sstable::BlobRef;

/// How much of a value a reader wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    /// All of it.
    Whole,
    /// These bytes of it, as far as it has them.
    Part(u64, u64),
    /// Only whether there is one.
    Nothing,
}

/// What of the value of `user` is wanted, whose stored value ends with a reference.
pub(crate) fn read(
    blobs: &BlobFiles,
    user: UserKey<'_>,
    stored: &[u8],
    want: Want,
) -> Result<Bytes> {
    let at = BlobRef::decode(stored)?;
    let file = file_of(blobs, &at)?;
    match want {
        Want::Whole => file.reader()?.read(user, &at),
        Want::Part(start, end) => file.reader()?.read_part(user, &at, start..end),
        Want::Nothing => Ok(Bytes::new()),
    }
}

pub(crate) fn file_of<'b>(blobs: &'b BlobFiles, at: &BlobRef) -> Result<&'b Arc<BlobFile>> {
    blobs.get(&at.file).ok_or_else(|| {
        Error::corruption(format!(
            "an entry refers to blob file {}, which the manifest does not list",
            at.file
        ))
    })
}
