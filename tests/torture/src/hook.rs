//! The operating system's file system with a trap: at the n-th call that changes something it does what it was
//! told, before the call, behind it, or in the middle of a write. One counter serves all threads, so every
//! changing call of a workload can be the one at which the process dies or the power goes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io};

use terrace::Bytes;
use terrace::vfs::{LockGuard, Metadata, OpenMode, OsVfs, Vfs, VfsFile};
use terrace_kit::Random;

/// Where at the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Before,
    /// A write stops half-way; any other call is met before it.
    Within,
    After,
}

impl Place {
    pub(crate) const ALL: [Place; 3] = [Place::Before, Place::Within, Place::After];
}

/// The trap.
pub(crate) struct Trap {
    /// The call that springs it, from 1; 0 is never.
    pub(crate) at: u64,
    pub(crate) place: Place,
    pub(crate) spring: Box<dyn Fn() + Send + Sync>,
    pub(crate) calls: AtomicU64,
}

impl fmt::Debug for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trap({:?} call {})", self.place, self.at)
    }
}

impl Trap {
    fn around<T>(&self, call: impl FnOnce() -> T) -> T {
        let hit = self.calls.fetch_add(1, Ordering::SeqCst) + 1 == self.at;
        if hit && self.place != Place::After {
            (self.spring)();
        }
        let result = call();
        if hit && self.place == Place::After {
            (self.spring)();
        }
        result
    }

    fn write(&self, file: &dyn VfsFile, buf: &[u8], offset: u64) -> io::Result<usize> {
        if self.place != Place::Within {
            return self.around(|| file.write_at(buf, offset));
        }
        if self.calls.fetch_add(1, Ordering::SeqCst) + 1 != self.at {
            return file.write_at(buf, offset);
        }
        let part = Random::new(self.at ^ offset).below(buf.len());
        let written = match part {
            0 => Ok(0),
            _ => file.write_at(&buf[..part], offset),
        };
        (self.spring)();
        match written {
            Ok(0) => file.write_at(buf, offset),
            other => other,
        }
    }
}

/// The operating system's file system, with a trap.
#[derive(Clone, Debug)]
pub(crate) struct TrapVfs {
    trap: Arc<Trap>,
    inner: Arc<dyn Vfs>,
}

impl TrapVfs {
    pub(crate) fn new(trap: Arc<Trap>) -> TrapVfs {
        let inner = Arc::new(OsVfs);
        TrapVfs { trap, inner }
    }
}

#[derive(Debug)]
struct TrapFile(Arc<dyn VfsFile>, Arc<Trap>);

impl Vfs for TrapVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let open = || self.inner.open(path, mode);
        let file = match mode {
            OpenMode::Read | OpenMode::ReadWrite => open(),
            OpenMode::CreateNew | OpenMode::CreateOrTruncate => self.trap.around(open),
        }?;
        Ok(Arc::new(TrapFile(file, self.trap.clone())))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.trap.around(|| self.inner.create_dir(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.trap.around(|| self.inner.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.trap.around(|| self.inner.hard_link(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.trap.around(|| self.inner.remove_file(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.trap.around(|| self.inner.sync_dir(path))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.inner.lock(path, exclusive)
    }

    fn random(&self) -> u64 {
        self.inner.random()
    }

    fn most_open_files(&self) -> u64 {
        self.inner.most_open_files()
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        self.inner.absolute(path)
    }

    fn hold(&self, dir: &Path) -> io::Result<Option<Arc<dyn Vfs>>> {
        let trap = self.trap.clone();
        let held = self.inner.hold(dir)?;
        Ok(held.map(|inner| -> Arc<dyn Vfs> { Arc::new(TrapVfs { trap, inner }) }))
    }
}

impl VfsFile for TrapFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.1.write(&*self.0, buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.around(|| self.0.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn map(&self, len: u64) -> io::Result<Bytes> {
        self.0.map(len)
    }
}
