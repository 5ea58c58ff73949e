//! One blob file of the tree: what the manifest knows of it, and its reader once somebody needs it.
//!
//! A [`BlobFile`] is shared by every [`Version`](crate::Version) that lists it, as a table is.
//! Tables say how many bytes they refer to in which blob file; what no table refers to is dead once
//! nothing in memory does either.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use terrace_base::{FileNumber, Result};
use terrace_sstable::BlobReader;

use crate::table_file::TableStore;

/// A blob file as the manifest lists it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlobMeta {
    /// Names the file.
    pub number: FileNumber,
    /// The random number of the file.
    pub id: u64,
    /// Its length in bytes; 0 for one that was listed before it was written.
    pub size: u64,
}

/// A blob file in the tree.
pub struct BlobFile {
    meta: BlobMeta,
    store: Arc<dyn TableStore>,
    reader: OnceLock<BlobReader>,
    /// How long it is by now.
    size: AtomicU64,
    obsolete: AtomicBool,
}

impl BlobFile {
    /// The file `meta`, to be opened through `store`.
    pub fn new(meta: BlobMeta, store: Arc<dyn TableStore>) -> Arc<BlobFile> {
        Arc::new(BlobFile {
            meta,
            store,
            reader: OnceLock::new(),
            size: AtomicU64::new(meta.size),
            obsolete: AtomicBool::new(false),
        })
    }

    /// As the manifest lists it.
    pub fn meta(&self) -> &BlobMeta {
        &self.meta
    }

    /// The open file. The first caller opens it; a failure is not remembered.
    #[inline]
    pub fn reader(&self) -> Result<&BlobReader> {
        match self.reader.get() {
            Some(reader) => Ok(reader),
            None => {
                let reader = self.store.open_blob(&self.meta)?;
                Ok(self.reader.get_or_init(|| reader))
            }
        }
    }

    /// How long it is by now.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// It has grown to `size` bytes at least.
    pub fn grown_to(&self, size: u64) {
        self.size.fetch_max(size, Ordering::Relaxed);
    }

    /// From now on the file goes with the last reference.
    pub fn mark_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        if *self.obsolete.get_mut() {
            // Our handle goes first: some systems keep the space of an open file.
            self.reader.take();
            self.store.obsolete_blob(self.meta.number);
        }
    }
}

impl fmt::Debug for BlobFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.meta.fmt(f)
    }
}
