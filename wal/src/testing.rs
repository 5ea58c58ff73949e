//! A file system in memory that can be cut: what was not synced survives by sectors, or not.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use terrace_base::vfs::{Fs, LockGuard, Metadata, OpenMode, Vfs, VfsFile};

#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub now: Vec<u8>,
    pub durable: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct TestFile {
    pub content: Mutex<Content>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Calls that change files, until one fails; `u64::MAX`: never.
    until_failure: AtomicU64,
    reads_until_failure: AtomicU64,
}

impl Shared {
    fn step(counter: &AtomicU64) -> io::Result<()> {
        match counter.load(Ordering::Relaxed) {
            u64::MAX => Ok(()),
            0 => Err(io::Error::from_raw_os_error(5)),
            n => {
                counter.store(n - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

/// Names and contents; names are durable at once.
#[derive(Clone, Debug)]
pub(crate) struct TestVfs {
    files: Arc<Mutex<BTreeMap<PathBuf, Arc<TestFile>>>>,
    shared: Arc<Shared>,
}

impl TestVfs {
    pub(crate) fn new() -> TestVfs {
        let shared = Shared {
            until_failure: AtomicU64::new(u64::MAX),
            reads_until_failure: AtomicU64::new(u64::MAX),
        };
        TestVfs {
            files: Arc::default(),
            shared: Arc::new(shared),
        }
    }

    pub(crate) fn fs(&self) -> Fs {
        Fs::new(Arc::new(self.clone()))
    }

    /// After `n` more writes and syncs all fail.
    pub(crate) fn fail_after(&self, n: u64) {
        self.shared.until_failure.store(n, Ordering::Relaxed);
    }

    pub(crate) fn fail_reads_after(&self, n: u64) {
        self.shared.reads_until_failure.store(n, Ordering::Relaxed);
    }

    pub(crate) fn reads_left(&self) -> u64 {
        self.shared.reads_until_failure.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.files.lock().unwrap()[path]
            .content
            .lock()
            .unwrap()
            .now
            .clone()
    }

    /// Changes a file behind everybody's back.
    pub(crate) fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.files.lock().unwrap()[path].content.lock().unwrap().now);
    }

    pub(crate) fn remove(&self, path: &Path) {
        self.files.lock().unwrap().remove(path);
    }

    /// A power cut: each unsynced sector of 512 bytes is kept where `keep` says so. What is left is
    /// durable.
    pub(crate) fn cut(&self, keep: &mut dyn FnMut() -> bool) {
        self.fail_after(u64::MAX);
        for file in self.files.lock().unwrap().values() {
            let mut content = file.content.lock().unwrap();
            let Content { now, durable } = &mut *content;
            // A length that was not synced may be kept or not; blocks that are not written read as
            // zeroes.
            let len = if now.len() == durable.len() || keep() {
                now.len()
            } else {
                durable.len()
            };
            durable.resize(len, 0);
            now.resize(len, 0);
            for (old, new) in durable.chunks_mut(512).zip(now.chunks_mut(512)) {
                if old != new && keep() {
                    old.copy_from_slice(new);
                }
                new.copy_from_slice(old);
            }
        }
    }
}

impl Vfs for TestVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut files = self.files.lock().unwrap();
        if let OpenMode::CreateNew = mode {
            let shared = Arc::clone(&self.shared);
            let file = Arc::new(TestFile {
                content: Mutex::default(),
                shared,
            });
            if files.insert(path.into(), file).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        let file = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::<TestFile>::clone(file))
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn read_dir(&self, _: &Path) -> io::Result<Vec<OsString>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn hard_link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.remove(path);
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Shared::step(&self.shared.until_failure)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let files = self.files.lock().unwrap();
        let file = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        let len = file.content.lock().unwrap().now.len() as u64;
        Ok(Metadata {
            len,
            is_dir: false,
            links: 1,
        })
    }

    fn lock(&self, _: &Path, _: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn random(&self) -> u64 {
        4
    }
}

impl VfsFile for TestFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Shared::step(&self.shared.reads_until_failure)?;
        let content = self.content.lock().unwrap();
        let rest = content.now.get(offset as usize..).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let failed = Shared::step(&self.shared.until_failure);
        // A write that fails may have written nothing, a part or all of it.
        let buf = match failed {
            Ok(()) => buf,
            Err(_) => &buf[..buf.len() * (buf.len() / 8 % 3) / 2],
        };
        let mut content = self.content.lock().unwrap();
        let end = offset as usize + buf.len();
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[offset as usize..end].copy_from_slice(buf);
        failed.map(|()| buf.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        Shared::step(&self.shared.until_failure)?;
        let mut content = self.content.lock().unwrap();
        content.durable = content.now.clone();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().now.len() as u64)
    }

    fn map(&self, _: u64) -> io::Result<Bytes> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
