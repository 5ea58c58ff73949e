//! Files that are open only while they are read: as many at once as the process may have.
//!
//! A tree of n tables does not hold n descriptors. A file from [`OpenFiles`] is opened by its first
//! read and stays open until the bound is reached: then one that was not read lately is closed
//! (CLOCK), and opened again by its next read. A table that has been mapped lets its descriptor go
//! at once. If the process has no descriptor left even so, because its user needs them, every
//! file here that is not in use is closed and the call is tried again.
//!
//! ```text
//! bound 3     a* b* c      * read since the hand was last there
//! read d      a  b  d*     the hand clears a and b and closes c
//! read c      c* b  d*     a is closed
//! ```
//!
//! A file is found again by its name. So this is for files whose name stays theirs for as long as
//! they are read, as those of a database are: numbers are not given out twice, and a file is
//! removed after its last reader.
//!
//! Locks: a file's own, then the ring's; under the ring's lock other files' are only tried.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use super::{File, Fs, OpenMode, Vfs, VfsFile, retry};
use crate::error::{Error, Result};

/// `EMFILE` and `ENFILE`: the process, or the system, has no descriptor left. They have no
/// `io::ErrorKind`.
const NO_DESCRIPTOR: [i32; 2] = [24, 23];

/// Keeps the number of open files within a bound. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OpenFiles {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    most: usize,
    open: AtomicUsize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Files that were opened and, as far as is known, still are.
    files: Vec<Weak<Handle>>,
    hand: usize,
}

/// One file.
#[derive(Debug)]
struct Handle {
    vfs: Arc<dyn Vfs>,
    path: Arc<Path>,
    shared: Arc<Shared>,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    file: Option<Arc<dyn VfsFile>>,
    used: bool,
    /// Stays open, whatever the bound is: its name may go.
    kept: bool,
}

/// A file that is opened by its next read.
#[derive(Debug)]
struct Reopened(Arc<Handle>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenFiles {
    /// At most `most` files are open at once, apart from those that are being read.
    pub fn new(most: usize) -> OpenFiles {
        OpenFiles {
            shared: Arc::new(Shared {
                most: most.max(1),
                open: AtomicUsize::new(0),
                ring: Mutex::default(),
            }),
        }
    }

    /// Opens an existing file for reading.
    #[track_caller]
    pub fn open(&self, fs: &Fs, path: &Path) -> Result<File> {
        super::note(std::panic::Location::caller());
        let handle = Arc::new(Handle {
            vfs: fs.vfs.clone(),
            path: path.into(),
            shared: self.shared.clone(),
            slot: Mutex::default(),
        });
        retry(|| handle.file()).map_err(|e| Error::io("open", path, e))?;
        let path = handle.path.clone();
        let file: Arc<dyn VfsFile> = Arc::new(Reopened(handle));
        Ok(File { file, path })
    }

    /// How many are open now.
    pub fn open_now(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Closes files until there is room for one more, or, with `all`, every one that is not being
    /// read.
    fn make_room(&self, all: bool) {
        let mut ring = lock(&self.ring);
        if ring.files.len() > 2 * self.most {
            ring.files.retain(|file| file.strong_count() > 0);
        }
        // Twice round: the first time clears marks.
        let mut steps = 2 * ring.files.len();
        while steps > 0 && (all || self.open.load(Ordering::Relaxed) >= self.most) {
            steps -= 1;
            if ring.hand >= ring.files.len() {
                ring.hand = 0;
            }
            let Some(file) = ring.files.get(ring.hand) else {
                return;
            };
            let gone = file.upgrade().is_none_or(|file| file.close_unused(all));
            if gone {
                let hand = ring.hand;
                ring.files.swap_remove(hand);
            } else {
                ring.hand += 1;
            }
        }
    }
}

impl Handle {
    /// The open file.
    fn file(self: &Arc<Handle>) -> io::Result<Arc<dyn VfsFile>> {
        let mut slot = lock(&self.slot);
        slot.used = true;
        if let Some(file) = &slot.file {
            return Ok(file.clone());
        }
        self.shared.make_room(false);
        let open = || self.vfs.open(&self.path, OpenMode::Read);
        let file = match open() {
            Err(error)
                if error
                    .raw_os_error()
                    .is_some_and(|e| NO_DESCRIPTOR.contains(&e)) =>
            {
                self.shared.make_room(true);
                open()?
            }
            opened => opened?,
        };
        slot.file = Some(file.clone());
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.ring).files.push(Arc::downgrade(self));
        Ok(file)
    }

    /// True if it is closed now; false if it stays open because it is in use or was of late.
    fn close_unused(&self, at_once: bool) -> bool {
        let Ok(mut slot) = self.slot.try_lock() else {
            return false;
        };
        if slot.kept || (std::mem::take(&mut slot.used) && !at_once) {
            return false;
        }
        self.close(&mut slot);
        true
    }

    fn close(&self, slot: &mut Slot) {
        if slot.file.take().is_some() {
            self.shared.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let slot = self.slot.get_mut().unwrap_or_else(PoisonError::into_inner);
        if slot.file.take().is_some() {
            self.shared.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl VfsFile for Reopened {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.file()?.read_at(buf, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into()) // It is open for reading.
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.file()?.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.file()?.len()
    }

    fn map(&self, len: u64) -> io::Result<Bytes> {
        self.0.file()?.map(len)
    }

    fn rest(&self) {
        let mut slot = lock(&self.0.slot);
        if !slot.kept {
            self.0.close(&mut slot);
        }
    }

    fn keep(&self) -> io::Result<()> {
        self.0.file()?;
        lock(&self.0.slot).kept = true;
        // Closed between the two: once more, and now it stays.
        self.0.file().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemVfs;
    use super::*;

    fn files(count: usize) -> (Fs, Vec<std::path::PathBuf>) {
        let vfs = MemVfs::new(1);
        let paths: Vec<_> = (0..count)
            .map(|i| Path::new("/").join(i.to_string()))
            .collect();
        for (i, path) in paths.iter().enumerate() {
            vfs.write_file(path, [i as u8]);
        }
        (Fs::new(vfs), paths)
    }

    fn first(file: &File) -> u8 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        byte[0]
    }

    #[test]
    fn all_are_read_and_few_are_open() {
        let (fs, paths) = files(50);
        let open = OpenFiles::new(4);
        let mut handles: Vec<File> = Vec::new();
        for path in &paths {
            handles.push(open.open(&fs, path).unwrap());
            assert!(open.open_now() <= 4);
        }
        for round in 0..3 {
            for i in 0..50 {
                assert_eq!(first(&handles[i * 7 % 50]), (i * 7 % 50) as u8, "{round}");
                assert!(open.open_now() <= 4);
            }
        }
        handles[3].rest();
        assert_eq!(first(&handles[3]), 3);
        handles[9].keep().unwrap();
        fs.remove_file(&paths[9]).unwrap();
        (10..50).for_each(|i| assert_eq!(first(&handles[i]), i as u8));
        handles[9].rest();
        assert_eq!(first(&handles[9]), 9, "it was kept open");
        handles.truncate(2);
        assert!(open.open_now() <= 2);
        assert_eq!((first(&handles[0]), first(&handles[1])), (0, 1));
        assert_eq!(open.open_now(), 2);
        drop(handles);
        assert_eq!(open.open_now(), 0);
        assert!(open.open(&fs, Path::new("/none")).is_err());
    }

    #[test]
    fn what_is_read_often_stays_open() {
        let (fs, paths) = files(20);
        let fault = super::super::FaultVfs::new(fs.vfs.clone());
        let fs = Fs::new(fault.clone());
        let open = OpenFiles::new(4);
        let handles: Vec<File> = paths.iter().map(|p| open.open(&fs, p).unwrap()).collect();
        first(&handles[0]);
        let before = fault.calls();
        for file in &handles[1..] {
            first(file);
            first(&handles[0]);
        }
        // Each of the others is opened at most once, and the first one hardly ever.
        let opened = fault.calls() - before - 2 * 19;
        assert!(opened <= 19 + 3, "{opened}");
    }

    #[test]
    fn without_a_descriptor_left_others_are_closed() {
        let (fs, paths) = files(6);
        let fault = super::super::FaultVfs::new(fs.vfs.clone());
        let fs = Fs::new(fault.clone());
        let open = OpenFiles::new(100);
        let handles: Vec<File> = paths.iter().map(|p| open.open(&fs, p).unwrap()).collect();
        handles[5].rest();
        let emfile = super::super::Fault::Errno(NO_DESCRIPTOR[0]);
        fault.arm_when(|call| call.op == super::super::Op::Open, emfile, false);
        assert_eq!(first(&handles[5]), 5);
        assert_eq!((fault.injected(), open.open_now()), (1, 1));
    }

    #[test]
    fn threads_that_read_many_files_through_few_descriptors() {
        let (fs, paths) = files(12);
        let open = OpenFiles::new(3);
        let handles: Vec<File> = paths.iter().map(|p| open.open(&fs, p).unwrap()).collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let handles = &handles;
                scope.spawn(move || {
                    for i in 0..3000 {
                        let at = (i * 5 + thread * 7) % 12;
                        assert_eq!(first(&handles[at]), at as u8);
                    }
                });
            }
        });
        assert!(open.open_now() <= 3 + 4, "{}", open.open_now());
        drop(handles);
        assert_eq!(open.open_now(), 0);
    }
}
