//! Calls on a name below a directory's descriptor.
//!
//! A path means something else once the process has changed its working directory or a
//! directory in it was renamed: a database that opened its files by path would then make, take over
//! and delete files of another one. So an open database holds a descriptor of its directory
//! ([`Places`]), and every path below is resolved from there, by the `openat` family of calls. The
//! lock is taken on a file of the same directory, so that of two databases at work no one can reach
//! a file of the other, whatever their paths look like.
//!
//! ```text
//! held     /srv/db  is descriptor 5
//! path     /srv/db/000007.sst  is  000007.sst at 5;  /srv/db  is  . at 5;  /srv/copy/000007.sst  is resolved by path
//! ```
//!
//! Where the system has no such calls, a held directory is but a path that was made absolute.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

use super::{OsFile, OsVfs, locked};
use crate::vfs::{LockGuard, Metadata, OpenMode, Vfs, VfsFile};

const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
const DIR_MODE: Mode = Mode::from_raw_mode(0o700);

/// The system's files, by path or below a directory that is held.
#[derive(Debug)]
pub(super) struct Places {
    held: Option<HeldDir>,
}

/// A directory that stays the same one when it is renamed or the process moves.
#[derive(Debug)]
struct HeldDir {
    dir: fs::File,
    /// What it was called when it was opened: how paths below it begin.
    path: PathBuf,
}

/// Where a path is resolved from, and the rest of it.
struct Place<'a> {
    from: BorrowedFd<'a>,
    path: &'a Path,
}

/// Every path as it stands.
pub(super) static BY_PATH: Places = Places { held: None };

impl Places {
    /// The directory `path` is held, and what lies below it is resolved from there.
    pub(super) fn hold(path: &Path) -> io::Result<Places> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Places {
            held: Some(HeldDir {
                dir: dir.into(),
                path: path.to_path_buf(),
            }),
        })
    }

    fn at<'a>(&'a self, path: &'a Path) -> Place<'a> {
        let by_path = Place { from: CWD, path };
        let Some(held) = &self.held else {
            return by_path;
        };
        let Ok(rest) = path.strip_prefix(&held.path) else {
            return by_path;
        };
        let from = held.dir.as_fd();
        if rest.as_os_str().is_empty() {
            let path = Path::new(".");
            return Place { from, path };
        }
        // A name with `..` in it may lead out of the directory.
        let below = rest
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        match below {
            true => Place { from, path: rest },
            false => by_path,
        }
    }
}

impl Vfs for Places {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        self.at(path).open(mode)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let place = self.at(path);
        Ok(rustix::fs::mkdirat(place.from, place.path, DIR_MODE)?)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.at(path).read_dir()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (old, new) = (self.at(from), self.at(to));
        Ok(rustix::fs::renameat(
            old.from, old.path, new.from, new.path,
        )?)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (old, new, flags) = (self.at(from), self.at(to), AtFlags::empty());
        Ok(rustix::fs::linkat(
            old.from, old.path, new.from, new.path, flags,
        )?)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let place = self.at(path);
        Ok(rustix::fs::unlinkat(
            place.from,
            place.path,
            AtFlags::empty(),
        )?)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.at(path).file(OFlags::RDONLY)?.sync_all()
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.at(path).metadata()
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.at(path).lock(exclusive)
    }

    fn random(&self) -> u64 {
        super::random()
    }

    fn most_open_files(&self) -> u64 {
        OsVfs.most_open_files()
    }
}

impl Place<'_> {
    fn stat(&self, flags: AtFlags) -> io::Result<rustix::fs::Stat> {
        Ok(rustix::fs::statat(self.from, self.path, flags)?)
    }

    fn kind(&self, flags: AtFlags) -> io::Result<FileType> {
        Ok(FileType::from_raw_mode(self.stat(flags)?.st_mode))
    }

    fn file(&self, flags: OFlags) -> io::Result<fs::File> {
        let flags = flags | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.from, self.path, flags, FILE_MODE)?.into())
    }

    fn open(&self, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        // To open a pipe would wait for a writer.
        if matches!(mode, OpenMode::Read | OpenMode::ReadWrite) {
            let kind = self.kind(AtFlags::empty())?;
            if !kind.is_file() {
                let error = match kind.is_dir() {
                    true => io::ErrorKind::IsADirectory,
                    false => io::ErrorKind::InvalidInput,
                };
                return Err(io::Error::new(error, "it is not a file"));
            }
        }
        Ok(Arc::new(OsFile(self.file(match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::ReadWrite => OFlags::RDWR,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            OpenMode::CreateOrTruncate => OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
        })?)))
    }

    fn read_dir(&self) -> io::Result<Vec<OsString>> {
        let dir = self.file(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::new(dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    #[allow(clippy::unnecessary_cast)] // The types of the fields differ between systems.
    fn metadata(&self) -> io::Result<Metadata> {
        let found = self.stat(AtFlags::empty())?;
        // A symbolic link is one more name for the file.
        let symbolic = self.kind(AtFlags::SYMLINK_NOFOLLOW)?.is_symlink();
        Ok(Metadata {
            len: found.st_size as u64,
            is_dir: FileType::from_raw_mode(found.st_mode).is_dir(),
            links: found.st_nlink as u64 + u64::from(symbolic),
        })
    }

    fn lock(&self, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a file");
        // A link could have a file made elsewhere.
        let kind = self.kind(AtFlags::SYMLINK_NOFOLLOW);
        if kind.is_ok_and(|kind| !kind.is_file()) {
            return Err(wrong());
        }
        locked(
            self.file(match exclusive {
                true => OFlags::RDWR | OFlags::CREATE,
                false => OFlags::RDONLY,
            })?,
            exclusive,
        )
    }
}
