//! The operating system's file system.
// Memory maps, forks; and this is what the bans point to.
#![allow(unsafe_code, clippy::disallowed_methods)]

use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::{fs, io};

use bytes::Bytes;

use super::{LockGuard, Metadata, OpenMode, Vfs, VfsFile};

#[cfg(unix)]
mod place;
#[cfg(not(unix))]
#[path = "os/path.rs"]
mod place;

use place::BY_PATH;
#[cfg(unix)]
use place::Places;

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
            // SAFETY: the handler runs in a fork before anything else there, and may do what a
            // signal handler may: it adds to an atomic number. It stands as long as the program
            // does. Where it cannot be registered, for want of memory, forks go unnoticed.
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
    /// Closing alone would leave the lock to whatever process is being started just now: between
    /// fork and exec it has a copy of the descriptor. A fork must not unlock for the process that
    /// it came from.
    fn drop(&mut self) {
        if self.process.is_this() {
            self.file.unlock().ok(); // Where this fails, closing has to do.
        }
    }
}

/// Takes the lock on an open file, unless it is held.
fn locked(file: fs::File, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
    let taken = match exclusive {
        true => file.try_lock(),
        false => file.try_lock_shared(),
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

fn random() -> u64 {
    // Each `RandomState` is keyed by the system's randomness; hashing nothing reads the key out.
    RandomState::new().build_hasher().finish()
}

/// Maps of files that this process has, of all its databases.
static MAPS: AtomicU64 = AtomicU64::new(0);

/// A map, which is counted.
struct Map(memmap2::Mmap);

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        MAPS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many maps of files there may be: half of what Linux lets a process have, for the allocator
/// and the threads' stacks take maps too, and a process without any left ends.
fn most_maps() -> u64 {
    static MOST: OnceLock<u64> = OnceLock::new();
    *MOST.get_or_init(|| match cfg!(target_os = "linux") {
        true => {
            let text = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
            let limit = text.and_then(|text| text.trim().parse().ok());
            limit.unwrap_or(DEFAULT_MAX_MAP_COUNT) / 2
        }
        false => u64::MAX, // Others do not count them.
    })
}

/// What Linux has unless it was changed.
const DEFAULT_MAX_MAP_COUNT: u64 = 65_530;

/// Maps the file, unless there are `most` maps already.
fn map_within(file: &OsFile, len: u64, most: u64) -> io::Result<Bytes> {
    let actual = file.len()?;
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
    if MAPS.load(Ordering::Relaxed) >= most {
        let text = "the process has too many memory maps";
        return Err(io::Error::new(io::ErrorKind::OutOfMemory, text));
    }
    // SAFETY: the map is read-only and the file is sealed: terrace writes a table once, syncs it,
    // and from then on only unlinks it, which leaves the map's pages in place. The directory is
    // ours by the lock; a process that changes a file behind our back is outside the promises, as
    // the documentation of `IoMode` says.
    let map = unsafe { memmap2::MmapOptions::new().len(len).map(&file.0)? };
    MAPS.fetch_add(1, Ordering::Relaxed);
    Ok(Bytes::from_owner(Map(map)))
}

impl Vfs for OsVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        BY_PATH.open(path, mode)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        BY_PATH.create_dir(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        BY_PATH.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        BY_PATH.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        BY_PATH.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        BY_PATH.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        BY_PATH.sync_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        BY_PATH.metadata(path)
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        BY_PATH.lock(path, exclusive)
    }

    fn random(&self) -> u64 {
        random()
    }

    #[cfg(unix)]
    fn most_open_files(&self) -> u64 {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current.unwrap_or(u64::MAX)
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        std::path::absolute(path)
    }

    #[cfg(unix)]
    fn hold(&self, dir: &Path) -> io::Result<Option<Arc<dyn Vfs>>> {
        Ok(Some(Arc::new(Places::hold(dir)?)))
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
        map_within(self, len, most_maps())
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
        let raw = OsFile(fs::File::open(&path).unwrap());
        let error = map_within(&raw, 8, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
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

    #[cfg(unix)]
    #[test]
    fn a_held_directory_stays_the_same_under_another_name_and_in_the_way_of_a_new_one() {
        let home = tempfile::tempdir().unwrap();
        let (old, new) = (home.path().join("old"), home.path().join("new"));
        OsVfs.create_dir(&old).unwrap();
        let held = OsVfs.hold(&old).unwrap().unwrap();
        held.open(&old.join("a"), OpenMode::CreateNew).unwrap();
        OsVfs.rename(&old, &new).unwrap();
        OsVfs.create_dir(&old).unwrap();

        held.open(&old.join("b"), OpenMode::CreateNew).unwrap();
        held.rename(&old.join("a"), &old.join("c")).unwrap();
        held.hard_link(&old.join("c"), &home.path().join("out"))
            .unwrap();
        let guard = held.lock(&old.join("LOCK"), true).unwrap().unwrap();
        assert!(OsVfs.lock(&new.join("LOCK"), true).unwrap().is_none());
        let sorted = |vfs: &dyn Vfs, dir: &Path| {
            let mut names = vfs.read_dir(dir).unwrap();
            names.sort();
            names
        };
        assert_eq!(sorted(&*held, &old), ["LOCK", "b", "c"]);
        assert_eq!(sorted(&OsVfs, &new), ["LOCK", "b", "c"]);
        assert!(sorted(&OsVfs, &old).is_empty());
        assert_eq!(sorted(&*held, &old.join("../new")), ["LOCK", "b", "c"]);
        assert_eq!(held.metadata(&home.path().join("out")).unwrap().links, 2);
        held.sync_dir(&old).unwrap();

        drop(guard);
        fs::remove_dir_all(&new).unwrap();
        let gone = |result: io::Result<()>| result.unwrap_err().kind() == io::ErrorKind::NotFound;
        assert!(gone(
            held.open(&old.join("d"), OpenMode::CreateNew).map(drop)
        ));
        assert!(gone(held.metadata(&old.join("b")).map(drop)));
    }
}
