//! A file system in memory that knows which bytes of the log a sync has covered, and lets other
//! threads run around each call on the log.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use terrace_base::vfs::{
    CrashPolicy, ImageKind, LockGuard, MemVfs, Metadata, OpenMode, Vfs, VfsFile,
};

#[derive(Debug, Default)]
struct Known {
    /// Every store into the log, in order.
    stores: Vec<(PathBuf, Vec<u8>)>,
    /// How many of `stores` there were when the last sync of a file began that succeeded.
    durable: HashMap<PathBuf, usize>,
    /// The sync that fails: 1 is the next one.
    fail_in: Option<usize>,
    failed: bool,
    after_failure: usize,
}

#[derive(Debug)]
pub(super) struct Disk {
    inner: Arc<MemVfs>,
    known: Arc<Mutex<Known>>,
}

impl Disk {
    pub(super) fn new() -> Arc<Disk> {
        Arc::new(Disk {
            inner: MemVfs::crashable(7),
            known: Arc::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    /// True if a sync has covered the store that holds `marker` and every store before it.
    pub(super) fn is_durable(&self, marker: &[u8]) -> bool {
        let known = self.known();
        let holds =
            |(_, bytes): &(PathBuf, Vec<u8>)| bytes.windows(marker.len()).any(|w| w == marker);
        let Some(at) = known.stores.iter().position(holds) else {
            return false;
        };
        let durable = |(i, (path, _)): (usize, &(PathBuf, Vec<u8>))| {
            known.durable.get(path).is_some_and(|&n| n > i)
        };
        known.stores.iter().enumerate().take(at + 1).all(durable)
    }

    /// What a power cut now would leave, with nothing kept that was not synced.
    pub(super) fn cut(&self) -> Arc<MemVfs> {
        self.inner.image(ImageKind::Cut, CrashPolicy::DropAll, 7)
    }

    /// The `nth` sync of what was stored in the log, counted from now on, fails.
    pub(super) fn fail_sync(&self, nth: usize) {
        self.known().fail_in = Some(nth);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.known().failed
    }

    pub(super) fn syncs_after_failure(&self) -> usize {
        self.known().after_failure
    }
}

/// Lets another thread run.
fn switch() {
    shuttle::sync::atomic::AtomicU64::new(0).load(std::sync::atomic::Ordering::SeqCst);
}

#[derive(Debug)]
struct LogFile {
    inner: Arc<dyn VfsFile>,
    path: PathBuf,
    known: Arc<Mutex<Known>>,
}

impl VfsFile for LogFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        switch();
        let written = self.inner.write_at(buf, offset)?;
        if buf.iter().any(|&byte| byte != 0) {
            let store = (self.path.clone(), buf.to_vec());
            self.known.lock().unwrap().stores.push(store);
        }
        switch();
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        switch();
        let (before, fails) = {
            let mut known = self.known.lock().unwrap();
            // A segment that is only being made has no bytes to lose.
            let used = known.stores.iter().any(|(path, _)| *path == self.path);
            known.after_failure += usize::from(used && known.failed);
            if used && let Some(left) = &mut known.fail_in {
                *left = left.saturating_sub(1);
            }
            let fails = used && known.fail_in == Some(0);
            if fails {
                known.fail_in = None;
            }
            (known.stores.len(), fails)
        };
        switch();
        if fails {
            self.known.lock().unwrap().failed = true;
            return Err(io::Error::from_raw_os_error(5));
        }
        self.inner.sync_data()?;
        self.known
            .lock()
            .unwrap()
            .durable
            .insert(self.path.clone(), before);
        switch();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn map(&self, len: u64) -> io::Result<Bytes> {
        self.inner.map(len)
    }
}

impl Vfs for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let inner = self.inner.open(path, mode)?;
        if path.extension().is_none_or(|extension| extension != "wal") {
            return Ok(inner);
        }
        let (path, known) = (path.to_path_buf(), self.known.clone());
        Ok(Arc::new(LogFile { inner, path, known }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.read_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.hard_link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
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
}
