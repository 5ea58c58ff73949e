//! The operating system's file system.
#![allow(unsafe_code, clippy::disallowed_methods)] // Memory maps, forks; and this is what the bans point to.

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{LockGuard, Metadata, OpenMode, Vfs, VfsFile};

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsVfs;

#[derive(Debug)]
struct OsFile(fs::File);

#[derive(Debug)]
struct OsLock {
    file: fs::File,
    process: Process,
}

/// The process that made this. A fork of it has a copy, and can tell that it is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    forks: u64,
}

/// Forks between the process that first asked and this one.
static FORKS: AtomicU64 = AtomicU64::new(0);

impl Process {
    /// This process.
    pub fn this() -> Process {
        #[cfg(unix)]
        {
            extern "C" fn forked() {
                FORKS.fetch_add(1, Ordering::Relaxed);
            }
            static WATCH: std::sync::Once = std::sync::Once::new();
            // SAFETY: the handler runs in a fork before anything else there, and may do what a signal handler may:
            // it adds to an atomic number. It stands as long as the program does. Where it cannot be registered,
            // for want of memory, forks go unnoticed.
            WATCH.call_once(|| unsafe {
                libc::pthread_atfork(None, None, Some(forked));
            });
        }
        Process {
            forks: FORKS.load(Ordering::Relaxed),
        }
    }

    /// True unless this is a copy in a fork.
    #[inline]
    pub fn is_this(self) -> bool {
        FORKS.load(Ordering::Relaxed) == self.forks
    }
}

impl LockGuard for OsLock {}

impl Drop for OsLock {
    /// Closing alone would leave the lock to whatever process is being started just now: between fork and exec it
    /// has a copy of the descriptor. A fork must not unlock for the process that it came from.
    fn drop(&mut self) {
        if self.process.is_this() {
            self.file.unlock().ok(); // Where this fails, closing has to do.
        }
    }
}

fn options(mode: OpenMode) -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true);
    match mode {
        OpenMode::Read => {}
        OpenMode::ReadWrite => {
            options.write(true);
        }
        OpenMode::CreateNew => {
            options.write(true).create_new(true);
        }
        OpenMode::CreateOrTruncate => {
            options.write(true).create(true).truncate(true);
        }
    }
    private(&mut options);
    options
}

#[cfg(unix)]
fn private(options: &mut fs::OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn private(_: &mut fs::OpenOptions) {}

impl Vfs for OsVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        // To open a pipe would wait for somebody to write to it.
        if matches!(mode, OpenMode::Read | OpenMode::ReadWrite) {
            let kind = fs::metadata(path)?.file_type();
            if !kind.is_file() {
                let error = match kind.is_dir() {
                    true => io::ErrorKind::IsADirectory,
                    false => io::ErrorKind::InvalidInput,
                };
                return Err(io::Error::new(error, "it is not a file"));
            }
        }
        Ok(Arc::new(OsFile(options(mode).open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt;
            builder.mode(0o700);
        }
        builder.create(path)
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

    #[cfg(unix)]
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    #[cfg(not(unix))]
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(()) // Elsewhere a directory cannot be opened as a file; names are journaled by the system.
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let found = fs::metadata(path)?;
        #[cfg(unix)]
        let links = std::os::unix::fs::MetadataExt::nlink(&found);
        #[cfg(not(unix))]
        let links = 1;
        // A symbolic link is one more name for the file.
        let links = links + u64::from(fs::symlink_metadata(path)?.is_symlink());
        Ok(Metadata {
            len: found.len(),
            is_dir: found.is_dir(),
            links,
        })
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        if exclusive {
            options.write(true).create(true);
        }
        private(&mut options);
        // A link could have a file made elsewhere.
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a file",
            ));
        }
        let file = options.open(path)?;
        let taken = if exclusive {
            file.try_lock()
        } else {
            file.try_lock_shared()
        };
        match taken {
            Ok(()) => {
                let process = Process::this();
                Ok(Some(Box::new(OsLock { file, process })))
            }
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn random(&self) -> u64 {
        // Each `RandomState` is keyed by the system's randomness; hashing nothing reads the key out.
        RandomState::new().build_hasher().finish()
    }
}

impl VfsFile for OsFile {
    #[cfg(unix)]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buf, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(&self.0, buf, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.0, buf, offset)
    }

    #[cfg(windows)]
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(&self.0, buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn map(&self, len: u64) -> io::Result<Bytes> {
        let actual = self.len()?;
        if actual < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file has {actual} bytes where {len} are to be mapped"),
            ));
        }
        if len == 0 {
            return Ok(Bytes::new());
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: the map is read-only and the file is sealed: terrace writes a table once, syncs it, and
        // from then on only unlinks it, which leaves the map's pages in place. The directory is ours by
        // the lock; a process that changes a file behind our back is outside the promises, as the
        // documentation of `IoMode` says.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(&self.0)? };
        Ok(Bytes::from_owner(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_created_once_written_mapped_and_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = OsVfs.open(&path, OpenMode::CreateNew).unwrap();
        assert!(OsVfs.open(&path, OpenMode::CreateNew).is_err());
        assert_eq!(file.write_at(b"hello", 3).unwrap(), 5);
        file.sync_data().unwrap();
        OsVfs.sync_dir(dir.path()).unwrap();
        assert_eq!(&file.map(8).unwrap()[..], b"\0\0\0hello");
        assert!(file.map(9).is_err());
        assert!(file.map(0).unwrap().is_empty());
        assert_eq!(
            OsVfs.metadata(&path).unwrap(),
            Metadata {
                len: 8,
                is_dir: false,
                links: 1
            }
        );

        let lock = dir.path().join("LOCK");
        let held = OsVfs.lock(&lock, true).unwrap();
        assert!(held.is_some());
        assert!(
            OsVfs.lock(&lock, true).unwrap().is_none(),
            "also within one process"
        );
        assert!(OsVfs.lock(&lock, false).unwrap().is_none());
        drop(held);
        assert!(OsVfs.lock(&lock, false).unwrap().is_some());
        assert_ne!(OsVfs.random(), OsVfs.random());
    }
}
