//! The operating system's file system with a trap: at the n-th call that changes something it does what it was
//! told, before the call, behind it, or in the middle of a write. One counter serves all threads, so every
//! changing call of a workload can be the one at which the process dies or the power goes.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
pub(crate) struct TrapVfs(pub(crate) Arc<Trap>);

#[derive(Debug)]
struct TrapFile(Arc<dyn VfsFile>, Arc<Trap>);

impl Vfs for TrapVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let open = || OsVfs.open(path, mode);
        let file = match mode {
            OpenMode::Read | OpenMode::ReadWrite => open(),
            OpenMode::CreateNew | OpenMode::CreateOrTruncate => self.0.around(open),
        }?;
        Ok(Arc::new(TrapFile(file, self.0.clone())))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.around(|| OsVfs.create_dir(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        OsVfs.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.around(|| OsVfs.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.around(|| OsVfs.hard_link(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.around(|| OsVfs.remove_file(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.around(|| OsVfs.sync_dir(path))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        OsVfs.metadata(path)
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        OsVfs.lock(path, exclusive)
    }

    fn random(&self) -> u64 {
        OsVfs.random()
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
