//! Calls by path, where the system has none that take a directory's descriptor.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use super::{OsFile, locked};
use crate::vfs::{LockGuard, Metadata, OpenMode, Vfs, VfsFile};

/// The system's files, by path.
#[derive(Debug)]
pub(super) struct Places;

/// Every path as it stands.
pub(super) static BY_PATH: Places = Places;

impl Vfs for Places {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
            OpenMode::CreateOrTruncate => options.write(true).create(true).truncate(true),
        };
        Ok(Arc::new(OsFile(options.open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(()) // A directory cannot be opened as a file here; names are journaled by the system.
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let found = fs::metadata(path)?;
        Ok(Metadata {
            len: found.len(),
            is_dir: found.is_dir(),
            // A symbolic link is one more name for the file.
            links: 1 + u64::from(fs::symlink_metadata(path)?.is_symlink()),
        })
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        // A link could have a file made elsewhere.
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            let text = "it is not a file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut options = fs::OpenOptions::new();
        options.read(true).write(exclusive).create(exclusive);
        locked(options.open(path)?, exclusive)
    }

    fn random(&self) -> u64 {
        super::random()
    }
}
