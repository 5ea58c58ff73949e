//! A file system that fails on purpose.
//!
//! [`FaultVfs`] stands before any other [`Vfs`], counts the calls, and fails, tears, shortens or
//! delays those that a test chose: the n-th from now ([`FaultVfs::arm`]), or those that a predicate
//! picks ([`FaultVfs::arm_when`]). A test that counts n up until a run injects nothing has met
//! every call. It also collects the source lines that called, and those that met a fault, so that a
//! test can tell that no call site was left out.
//!
//! A fault that means nothing to a call (a short read of a sync) waits for the next call that it
//! fits.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;

use super::{LockGuard, Metadata, OpenMode, Vfs, VfsFile, call_site};

/// `EIO`, which has no `io::ErrorKind` of its own.
const EIO: i32 = 5;

/// What happens to a call.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does nothing and fails with this error.
    Error(io::ErrorKind),
    /// It does nothing and fails with this number of the operating system.
    Errno(i32),
    /// It does all of its work, and then fails with this number of the operating system.
    Late(i32),
    /// A read gives half of what it could.
    ShortRead,
    /// A write takes half of what it is given.
    ShortWrite,
    /// Half is written, then the write fails with `EIO`.
    TornWrite,
    /// It goes on after this time.
    Delay(Duration),
    /// A sync fails with `EIO`, and what it should have written is marked clean: it stays readable,
    /// but only luck has made it durable, and no later sync will.
    SyncLost,
}

impl Fault {
    fn fits(self, op: Op, len: usize) -> bool {
        match self {
            Fault::Error(_) | Fault::Errno(_) | Fault::Late(_) | Fault::Delay(_) => true,
            Fault::ShortRead => op == Op::Read && len > 1,
            Fault::ShortWrite => op == Op::Write && len > 1,
            Fault::TornWrite => op == Op::Write && len > 0,
            Fault::SyncLost => op == Op::SyncData,
        }
    }

    fn error(self) -> io::Error {
        match self {
            Fault::Error(kind) => kind.into(),
            Fault::Errno(number) | Fault::Late(number) => io::Error::from_raw_os_error(number),
            _ => io::Error::from_raw_os_error(EIO),
        }
    }
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Opening an existing file.
    Open,
    /// Opening with a mode that creates.
    Create,
    /// `create_dir`
    CreateDir,
    /// `read_dir`
    ReadDir,
    /// `rename`
    Rename,
    /// `hard_link`
    HardLink,
    /// `remove_file`
    Remove,
    /// `sync_dir`
    SyncDir,
    /// `metadata`
    Metadata,
    /// `lock`
    Lock,
    /// `hold`
    Hold,
    /// `read_at`
    Read,
    /// `write_at`
    Write,
    /// `sync_data`
    SyncData,
    /// `len`
    Len,
    /// `map`
    Map,
}

/// One call, as a predicate sees it.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Call {
    /// What is called.
    pub op: Op,
    /// On what: of a rename or link the old name, of an open file the path that it was opened by.
    pub path: PathBuf,
    /// 1 for the first call of this file system.
    pub index: u64,
    /// The line that called `Fs` or `File`.
    pub site: Option<&'static Location<'static>>,
}

/// A line that calls, and what it calls. One line may stand for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The source file.
    pub file: &'static str,
    /// The line in it.
    pub line: u32,
    /// The column in the line.
    pub column: u32,
    /// What was called.
    pub op: Op,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Site {
            file,
            line,
            column,
            op,
        } = self;
        write!(f, "{file}:{line}:{column} {op:?}")
    }
}

/// A file system that fails on purpose.
#[derive(Debug)]
pub struct FaultVfs {
    inner: Arc<dyn Vfs>,
    plan: Arc<Plan>,
}

/// What is armed and what was seen; the open files share it.
#[derive(Default)]
struct Plan {
    calls: AtomicU64,
    injected: AtomicU64,
    armed: Mutex<Vec<Arc<Armed>>>,
    seen: Mutex<BTreeSet<Site>>,
    hit: Mutex<BTreeSet<Site>>,
}

struct Armed {
    when: Box<dyn Fn(&Call) -> bool + Send + Sync>,
    fault: Fault,
    sticky: bool,
    spent: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("calls", &self.calls)
            .field("injected", &self.injected)
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// Counts a call and says what is to happen to it. Delays have happened on return.
    fn meet(&self, op: Op, path: &Path, len: usize) -> Option<Fault> {
        let index = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let caller = call_site();
        let site = caller.map(|at| Site {
            file: at.file(),
            line: at.line(),
            column: at.column(),
            op,
        });
        lock(&self.seen).extend(site);
        let armed = lock(&self.armed).clone();
        if armed.is_empty() {
            return None;
        }
        let call = Call {
            op,
            path: path.to_path_buf(),
            index,
            site: caller,
        };
        for armed in armed.iter().filter(|armed| armed.fault.fits(op, len)) {
            if armed.spent.load(Ordering::Relaxed) || !(armed.when)(&call) {
                continue;
            }
            if !armed.sticky && armed.spent.swap(true, Ordering::Relaxed) {
                continue; // Another thread came first.
            }
            self.injected.fetch_add(1, Ordering::Relaxed);
            lock(&self.hit).extend(site);
            match armed.fault {
                Fault::Delay(time) => std::thread::sleep(time),
                fault => return Some(fault),
            }
        }
        None
    }

    /// Makes `call`, unless it is to fail before.
    fn run<T>(&self, op: Op, path: &Path, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let fault = self.meet(op, path, 0);
        Plan::finish(fault, call)
    }

    /// Fails before `call` or after it, as `fault` says.
    fn finish<T>(fault: Option<Fault>, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match fault {
            None => call(),
            Some(fault @ Fault::Late(_)) => {
                call()?;
                Err(fault.error())
            }
            Some(fault) => Err(fault.error()),
        }
    }
}

impl FaultVfs {
    /// Wraps `inner`; without an armed fault it changes nothing.
    pub fn new(inner: Arc<dyn Vfs>) -> Arc<FaultVfs> {
        let plan = Arc::default();
        Arc::new(FaultVfs { inner, plan })
    }

    /// Has the `at`-th call from now (the next is 1), of whatever kind, meet `fault`; `sticky`: and
    /// all later ones. Where it does not fit, it waits for the next call that it fits.
    pub fn arm(&self, at: u64, fault: Fault, sticky: bool) {
        let first = self.calls() + at.max(1);
        self.arm_when(move |call| call.index >= first, fault, sticky);
    }

    /// Has the next call that `when` picks meet `fault`; `sticky`: and all later ones that it
    /// picks. With several faults armed the first that fits is met.
    pub fn arm_when(
        &self,
        when: impl Fn(&Call) -> bool + Send + Sync + 'static,
        fault: Fault,
        sticky: bool,
    ) {
        lock(&self.plan.armed).push(Arc::new(Armed {
            when: Box::new(when),
            fault,
            sticky,
            spent: AtomicBool::new(false),
        }));
    }

    /// Takes all faults back.
    pub fn disarm(&self) {
        lock(&self.plan.armed).clear();
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.plan.calls.load(Ordering::Relaxed)
    }

    /// How many of them met a fault.
    pub fn injected(&self) -> u64 {
        self.plan.injected.load(Ordering::Relaxed)
    }

    /// The lines that called.
    pub fn sites(&self) -> BTreeSet<Site> {
        lock(&self.plan.seen).clone()
    }

    /// The lines whose calls met a fault.
    pub fn injected_sites(&self) -> BTreeSet<Site> {
        lock(&self.plan.hit).clone()
    }
}

impl Vfs for FaultVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let op = match mode {
            OpenMode::Read | OpenMode::ReadWrite => Op::Open,
            OpenMode::CreateNew | OpenMode::CreateOrTruncate => Op::Create,
        };
        let inner = self.plan.run(op, path, || self.inner.open(path, mode))?;
        Ok(Arc::new(FaultFile {
            inner,
            plan: self.plan.clone(),
            path: path.into(),
        }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.plan
            .run(Op::CreateDir, path, || self.inner.create_dir(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.plan
            .run(Op::ReadDir, path, || self.inner.read_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.plan
            .run(Op::Rename, from, || self.inner.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.plan
            .run(Op::HardLink, from, || self.inner.hard_link(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.plan
            .run(Op::Remove, path, || self.inner.remove_file(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.plan
            .run(Op::SyncDir, path, || self.inner.sync_dir(path))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.plan
            .run(Op::Metadata, path, || self.inner.metadata(path))
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.plan
            .run(Op::Lock, path, || self.inner.lock(path, exclusive))
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
        let held = self.plan.run(Op::Hold, dir, || self.inner.hold(dir))?;
        Ok(held.map(|inner| -> Arc<dyn Vfs> {
            let plan = self.plan.clone();
            Arc::new(FaultVfs { inner, plan })
        }))
    }
}

#[derive(Debug)]
struct FaultFile {
    inner: Arc<dyn VfsFile>,
    plan: Arc<Plan>,
    path: Arc<Path>,
}

impl VfsFile for FaultFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let half = buf.len() / 2;
        match self.plan.meet(Op::Read, &self.path, buf.len()) {
            Some(Fault::ShortRead) => self.inner.read_at(&mut buf[..half], offset),
            fault => Plan::finish(fault, || self.inner.read_at(buf, offset)),
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let half = buf.len() / 2;
        match self.plan.meet(Op::Write, &self.path, buf.len()) {
            Some(Fault::ShortWrite) => self.inner.write_at(&buf[..half], offset),
            Some(Fault::TornWrite) => {
                self.inner.write_at(&buf[..half], offset)?;
                Err(Fault::TornWrite.error())
            }
            fault => Plan::finish(fault, || self.inner.write_at(buf, offset)),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.plan.meet(Op::SyncData, &self.path, 0) {
            Some(Fault::SyncLost) => {
                self.inner.lose_unsynced();
                Err(Fault::SyncLost.error())
            }
            fault => Plan::finish(fault, || self.inner.sync_data()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.plan.run(Op::Len, &self.path, || self.inner.len())
    }

    fn map(&self, len: u64) -> io::Result<Bytes> {
        self.plan.run(Op::Map, &self.path, || self.inner.map(len))
    }

    fn rest(&self) {
        self.inner.rest();
    }

    fn keep(&self) -> io::Result<()> {
        self.inner.keep()
    }

    fn lose_unsynced(&self) {
        self.inner.lose_unsynced();
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
