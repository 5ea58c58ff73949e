//! The only way to the file system.
//!
//! [`Vfs`] and [`VfsFile`] are the seam: small traits over what an operating system does, which a
//! test can replace ([`MemVfs`], [`FaultVfs`]) and a user can implement. The engine itself calls
//! [`Fs`] and [`File`], which wrap them: they loop over short transfers, repeat interrupted calls,
//! put the path into every error, and note the source line that called, so that a test can tell
//! whether every call site has met every fault.
//!
//! # What an implementation promises
//!
//! - Bytes written are visible to reads at once; they survive a power cut only after `sync_data` of
//!   that file returned, and a *new, renamed, linked or removed name* only after `sync_dir` of its
//!   directory.
//! - A `sync_data` that failed leaves the file's unsynced bytes unknown for good: a second call
//!   proves nothing, and the engine makes none.
//! - `rename` replaces its target as one unit: afterwards, and after any crash, the name has the
//!   old or the new file.
//! - In what [`Vfs::hold`] gives, paths below the directory go on meaning the same files when the
//!   process changes its working directory, the directory is renamed, or another one gets its name.

#[cfg(test)]
mod contract;
mod fault;
mod handles;
mod mem;
mod os;

use std::ffi::OsString;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use bytes::Bytes;
pub use fault::{Call, Fault, FaultVfs, Op, Site};
pub use handles::OpenFiles;
pub use mem::{CrashPolicy, ImageKind, MemVfs, MutationHook};
pub use os::{OsVfs, Process};

use crate::error::{Error, Result};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A file that must not exist yet, for reading and writing; created with mode 0600.
    CreateNew,
    /// For writing, created or emptied. Only for temporary files of our own.
    CreateOrTruncate,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Length in bytes.
    pub len: u64,
    /// True for a directory.
    pub is_dir: bool,
    /// How many names the file has.
    pub links: u64,
}

/// Holds a lock for as long as it lives.
pub trait LockGuard: fmt::Debug + Send + Sync {}

/// A file system.
pub trait Vfs: fmt::Debug + Send + Sync {
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>>;
    /// Creates one directory with mode 0700; its parent must exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Gives a file another name in place of whatever has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name, which must be free.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the name of a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Length, kind and number of names, a symbolic link among them if `path` is one.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Takes an advisory lock on a file, created if absent; `None` while another handle holds it,
    /// also in this process.
    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>>;
    /// A random number for salts, ids and seeds.
    fn random(&self) -> u64;
    /// `path` in a form that does not depend on where the process is.
    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_path_buf())
    }
    /// How many files the process may have open at once, as of now.
    fn most_open_files(&self) -> u64 {
        u64::MAX
    }
    /// This file system, but that `dir` and the paths below it mean the directory that has the name
    /// `dir` now, wherever it is moved and whatever gets its name. `None` where a path always means
    /// the same. `dir` is absolute.
    fn hold(&self, _dir: &Path) -> io::Result<Option<Arc<dyn Vfs>>> {
        Ok(None)
    }
}

/// An open file.
#[allow(clippy::len_without_is_empty)] // `File` has it; an implementation need not.
pub trait VfsFile: fmt::Debug + Send + Sync {
    /// Reads at `offset`; 0 at the end. May read less than asked.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`. May write less than asked.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes everything written so far durable, and the length with it.
    fn sync_data(&self) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// The first `len` bytes as memory. The file is sealed: nobody writes it any more.
    /// `OutOfMemory` if the process can have no further map.
    fn map(&self, len: u64) -> io::Result<Bytes>;
    /// Lets go of what the system keeps for it, if the next call can have it again.
    fn rest(&self) {}
    /// From now on it is read even if its name goes.
    fn keep(&self) -> io::Result<()> {
        Ok(())
    }
    /// For tests: forgets the unsynced bytes, as a kernel may when it could not write them. A file
    /// system that cannot play this does nothing.
    #[doc(hidden)]
    fn lose_unsynced(&self) {}
}

thread_local! {
    static SITE: std::cell::Cell<Option<&'static Location<'static>>> =
        const { std::cell::Cell::new(None) };
}

/// The source line of the [`Fs`] or [`File`] call that this thread is in.
pub fn call_site() -> Option<&'static Location<'static>> {
    SITE.get()
}

#[inline]
fn note(site: &'static Location<'static>) {
    SITE.set(Some(site));
}

/// Repeats an interrupted call, but not for ever.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..100 {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
    call()
}

/// How much of a file is copied by one call, in bytes.
const COPIED_AT_ONCE: usize = 1 << 20;

/// A [`Vfs`] as the engine uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fs {
    vfs: Arc<dyn Vfs>,
}

impl Fs {
    /// Wraps `vfs`.
    pub fn new(vfs: Arc<dyn Vfs>) -> Fs {
        Fs { vfs }
    }

    /// `path` in a form that does not depend on where the process is.
    pub fn absolute(&self, path: &Path) -> Result<PathBuf> {
        self.vfs
            .absolute(path)
            .map_err(|e| Error::io("find the absolute form of", path, e))
    }

    /// This file system, in which `dir`, an absolute path, goes on meaning the directory that it
    /// names now.
    #[track_caller]
    pub fn hold(&self, dir: &Path) -> Result<Fs> {
        note(Location::caller());
        let held = retry(|| self.vfs.hold(dir)).map_err(|e| Error::io("open", dir, e))?;
        Ok(held.map_or_else(|| self.clone(), Fs::new))
    }

    /// Opens or creates a file.
    #[track_caller]
    pub fn open(&self, path: &Path, mode: OpenMode) -> Result<File> {
        note(Location::caller());
        let file = retry(|| self.vfs.open(path, mode)).map_err(|e| Error::io("open", path, e))?;
        Ok(File {
            file,
            path: path.into(),
        })
    }

    /// Creates `path` and the directories above it that are missing, each one's parent synced.
    #[track_caller]
    pub fn create_dir_all(&self, path: &Path) -> Result<()> {
        note(Location::caller());
        match retry(|| self.vfs.metadata(path)) {
            Ok(found) if found.is_dir => return Ok(()),
            Ok(_) => return Err(Error::invalid("not a directory").in_file(path, 0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("look at", path, error)),
        }
        let parent = parent_of(path);
        if parent != path {
            self.create_dir_all(parent)?;
        }
        match retry(|| self.vfs.create_dir(path)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create directory", path, error));
            }
            _ => {}
        }
        self.sync_dir(parent)
    }

    /// The names in a directory, sorted. Names that are not UTF-8 are not ours and are left out.
    #[track_caller]
    pub fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        note(Location::caller());
        let names = retry(|| self.vfs.read_dir(path)).map_err(|e| Error::io("list", path, e))?;
        let mut names: Vec<String> = names
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Gives a file another name in place of whatever has it.
    #[track_caller]
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        note(Location::caller());
        retry(|| self.vfs.rename(from, to)).map_err(|e| Error::io("rename", from, e))
    }

    /// Gives a file a second name, which must be free.
    #[track_caller]
    pub fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        note(Location::caller());
        retry(|| self.vfs.hard_link(from, to)).map_err(|e| Error::io("link", from, e))
    }

    /// Gives a file a second name, which must be free; where it cannot have one, as on another file
    /// system, its bytes are copied and synced.
    #[track_caller]
    pub fn link_or_copy(&self, from: &Path, to: &Path) -> Result<()> {
        if self.hard_link(from, to).is_ok() {
            return Ok(());
        }
        let source = self.open(from, OpenMode::Read)?;
        let target = self.open(to, OpenMode::CreateNew)?;
        let len = source.len()?; // It may grow meanwhile.
        let mut piece = vec![0; COPIED_AT_ONCE];
        let mut at = 0;
        while at < len {
            piece.truncate(usize::try_from(len - at).unwrap_or(COPIED_AT_ONCE));
            source.read_exact_at(&mut piece, at)?; // An error if somebody cuts it off meanwhile.
            target.write_all_at(&piece, at)?;
            at += piece.len() as u64;
        }
        target.sync()
    }

    /// Removes the name of a file.
    #[track_caller]
    pub fn remove_file(&self, path: &Path) -> Result<()> {
        note(Location::caller());
        retry(|| self.vfs.remove_file(path)).map_err(|e| Error::io("remove", path, e))
    }

    /// Makes the names in a directory durable.
    #[track_caller]
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        note(Location::caller());
        self.vfs
            .sync_dir(path)
            .map_err(|e| Error::io("sync directory", path, e))
    }

    /// What is known of a name; `None` if nothing has it.
    #[track_caller]
    pub fn metadata(&self, path: &Path) -> Result<Option<Metadata>> {
        note(Location::caller());
        match retry(|| self.vfs.metadata(path)) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("look at", path, error)),
        }
    }

    /// Takes the lock on `path`; `Locked` while another handle holds it.
    #[track_caller]
    pub fn lock(&self, path: &Path, exclusive: bool) -> Result<Box<dyn LockGuard>> {
        note(Location::caller());
        match retry(|| self.vfs.lock(path, exclusive)) {
            Ok(Some(guard)) => Ok(guard),
            Ok(None) => Err(Error::new(
                crate::ErrorKind::Locked,
                "the database is open elsewhere; close it there, or use that handle",
            )
            .in_file(path, 0)),
            Err(error) => Err(Error::io("lock", path, error)),
        }
    }

    /// How many files the process may have open at once, as of now.
    pub fn most_open_files(&self) -> u64 {
        self.vfs.most_open_files()
    }

    /// A random number for salts, ids and seeds.
    pub fn random(&self) -> u64 {
        self.vfs.random()
    }
}

/// The directory that holds the name `path`.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// An open file as the engine uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct File {
    file: Arc<dyn VfsFile>,
    path: Arc<Path>,
}

impl File {
    /// The path that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `buf` from `offset`. A file that ends before is `Corruption`: it is shorter than it is
    /// known to be.
    #[track_caller]
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let wanted = buf.len();
        match self.read_at(buf, offset)? {
            n if n == wanted => Ok(()),
            n => Err(
                Error::corruption(format!("the file ends {} bytes early", wanted - n))
                    .in_file(&self.path, offset.saturating_add(n as u64)),
            ),
        }
    }

    /// Reads into `buf` from `offset` until it is full or the file ends; how much was read.
    #[track_caller]
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        note(Location::caller());
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            match retry(|| self.file.read_at(rest, at)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) => return Err(Error::io("read", &self.path, error)),
            }
        }
        Ok(done)
    }

    /// Writes all of `buf` at `offset`.
    #[track_caller]
    pub fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        note(Location::caller());
        let mut done = 0;
        while let Some(rest) = buf.get(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            match retry(|| self.file.write_at(rest, at)) {
                Ok(0) => {
                    let error = io::Error::from(io::ErrorKind::WriteZero);
                    return Err(Error::io("write", &self.path, error));
                }
                Ok(n) => done += n,
                Err(error) => return Err(Error::io("write", &self.path, error)),
            }
        }
        Ok(())
    }

    /// Makes everything written so far durable. Never called again on a file where it failed.
    #[track_caller]
    pub fn sync(&self) -> Result<()> {
        note(Location::caller());
        self.file
            .sync_data()
            .map_err(|e| Error::io("sync", &self.path, e))
    }

    /// The length in bytes.
    #[track_caller]
    pub fn len(&self) -> Result<u64> {
        note(Location::caller());
        retry(|| self.file.len()).map_err(|e| Error::io("look at", &self.path, e))
    }

    /// True if the file has no bytes.
    #[track_caller]
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The first `len` bytes as memory; nobody may write the file any more.
    #[track_caller]
    pub fn map(&self, len: u64) -> Result<Bytes> {
        note(Location::caller());
        retry(|| self.file.map(len)).map_err(|e| Error::io("map", &self.path, e))
    }

    /// From now on it is read even if its name goes: a file of [`OpenFiles`] stays open.
    #[track_caller]
    pub fn keep(&self) -> Result<()> {
        note(Location::caller());
        retry(|| self.file.keep()).map_err(|e| Error::io("open", &self.path, e))
    }

    /// It may not be read for a long time: a file of [`OpenFiles`] is closed until the next call.
    pub fn rest(&self) {
        self.file.rest();
    }

    /// The whole file.
    #[track_caller]
    pub fn read_to_end(&self, limit: u64) -> Result<Vec<u8>> {
        let len = self.len()?;
        if len > limit {
            return Err(
                Error::corruption(format!("{len} bytes where at most {limit} belong"))
                    .in_file(&self.path, limit),
            );
        }
        let mut bytes = vec![0; len as usize];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// A path made absolute lexically: what a `Vfs` in memory uses as its key.
pub fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}
