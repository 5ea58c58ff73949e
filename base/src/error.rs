//! The one error type of terrace.
//!
//! An [`Error`] is one pointer and can be cloned, because the cause of a failure in the background
//! is shown to every writer that waits. Its [`ErrorKind`] says what the caller should do; its text
//! says what happened, and for damage in which file and where.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an [`Error`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// An argument is out of range or belongs elsewhere: fix the call. Nothing was written.
    Invalid,
    /// There is no such database or keyspace: create it.
    NotFound,
    /// The keyspace or target exists already.
    AlreadyExists,
    /// Another handle or process has the database open: wait, or close it there.
    Locked,
    /// A condition did not hold, or a transaction met a newer write: read again and retry.
    Conflict,
    /// Stored bytes are damaged, missing or from elsewhere: restore or salvage.
    Corruption,
    /// A mistake in this crate: please report it with the text. The files are not damaged.
    Bug,
    /// The operating system failed a call.
    Io,
    /// The disk is full. Writes resume by themselves once space has been freed.
    NoSpace,
    /// An earlier failure of the log or manifest stopped all writes: reopen after mending the
    /// cause.
    ReadOnly,
    /// Too much is in progress: retry later.
    Stalled,
    /// The files or options need a feature or version that this build has not.
    Unsupported,
    /// The database was closed.
    Closed,
    /// From the caller's own code.
    Other,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    file: Option<(PathBuf, u64)>,
    key: Option<Vec<u8>>,
    ready_in: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Why a call failed. Cheap to clone.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind,
            message: message.into(),
            file: None,
            key: None,
            ready_in: None,
            source: None,
        }))
    }

    /// A wrong argument.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// Damage; add the place with [`Error::in_file`].
    #[cold]
    pub fn corruption(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corruption, message)
    }

    /// A broken invariant, which only our own mistake can cause. Panics in a debug build, so that
    /// tests notice.
    #[cold]
    #[track_caller]
    pub fn bug(message: impl Into<String>) -> Error {
        let message = message.into();
        debug_assert!(false, "{message}");
        Error::new(
            ErrorKind::Bug,
            format!("a bug in terrace, please report it: {message}"),
        )
    }

    /// Something that this build does not know.
    #[cold]
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// A failed system call `what` on `path`. No space, quota and file-size limits are `NoSpace`;
    /// all else is `Io`, a missing file too (see [`is_missing`]): `NotFound` is what a caller asks
    /// for and can make anew.
    pub fn io(what: &str, path: &Path, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Error(Arc::new(Inner {
            kind,
            message: format!("cannot {what}"),
            file: Some((path.to_path_buf(), 0)),
            key: None,
            ready_in: None,
            source: Some(Box::new(source)),
        }))
    }

    /// An error of the caller's own, for example to abort a transaction.
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error::new(ErrorKind::Other, "the caller's code failed").with_source(error.into())
    }

    /// Wraps the error in one of `kind` with `message`; this one becomes its source.
    pub fn wrap(self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, message).with_source(Box::new(self))
    }

    /// Wraps the error in one of its own kind with `message`.
    pub fn wrap_as(self, message: impl Into<String>) -> Error {
        let kind = self.kind();
        self.wrap(kind, message)
    }

    /// Adds the file and the byte offset that the error is about, unless it has them already.
    pub fn in_file(mut self, path: &Path, offset: u64) -> Error {
        if self.0.file.is_none() {
            self.inner().file = Some((path.to_path_buf(), offset));
        }
        self
    }

    /// Adds the key that the error is about.
    pub fn about_key(mut self, key: &[u8]) -> Error {
        self.inner().key = Some(key.to_vec());
        self
    }

    /// Adds the time after which a retry makes sense.
    pub fn ready_after(mut self, wait: Duration) -> Error {
        self.inner().ready_in = Some(wait);
        self
    }

    fn with_source(mut self, source: Box<dyn StdError + Send + Sync>) -> Error {
        self.inner().source = Some(source);
        self
    }

    /// The inner part for change: these methods run on errors just made, else on a copy.
    fn inner(&mut self) -> &mut Inner {
        if Arc::get_mut(&mut self.0).is_none() {
            let copy = Error::new(self.kind(), self.0.message.clone());
            let shared = std::mem::replace(self, copy);
            let inner = Arc::get_mut(&mut self.0);
            if let Some(inner) = inner {
                inner.file = shared.0.file.clone();
                inner.key = shared.0.key.clone();
                inner.ready_in = shared.0.ready_in;
                inner.source = Some(Box::new(shared));
            }
        }
        // The branch above left one owner, so `make_mut`-like access cannot fail.
        #[expect(
            clippy::expect_used,
            reason = "the only other owner was replaced above"
        )]
        Arc::get_mut(&mut self.0).expect("sole owner")
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file that the error is about, and the offset in it: for `Corruption` the damage.
    pub fn file(&self) -> Option<(&Path, u64)> {
        self.0
            .file
            .as_ref()
            .map(|(path, offset)| (path.as_path(), *offset))
    }

    /// The key of a `Conflict`.
    pub fn key(&self) -> Option<&[u8]> {
        self.0.key.as_deref()
    }

    /// For `Stalled`: the time after which a retry makes sense.
    pub fn ready_in(&self) -> Option<Duration> {
        self.0.ready_in
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some((path, offset)) = &self.0.file {
            write!(f, " ({}", path.display())?;
            if self.0.kind == ErrorKind::Corruption {
                write!(f, " at byte {offset}")?;
            }
            f.write_str(")")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

/// True if a system call failed because nothing has the name.
pub fn is_missing(error: &Error) -> bool {
    system_kind(error) == Some(io::ErrorKind::NotFound)
}

/// True if a system call failed for want of memory, or of room for a memory map.
pub fn is_out_of_memory(error: &Error) -> bool {
    system_kind(error) == Some(io::ErrorKind::OutOfMemory)
}

/// What the system said, if it is what failed.
fn system_kind(error: &Error) -> Option<io::ErrorKind> {
    let source = error.0.source.as_ref()?;
    Some(source.downcast_ref::<io::Error>()?.kind())
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::Io => system_kind(&error).unwrap_or(io::ErrorKind::Other),
            ErrorKind::Invalid => io::ErrorKind::InvalidInput,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::Locked | ErrorKind::Stalled => io::ErrorKind::WouldBlock,
            ErrorKind::Corruption => io::ErrorKind::InvalidData,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_and_keeps_its_cause() {
        let cause = io::Error::from_raw_os_error(28);
        let error = Error::io("write", Path::new("db/000001.wal"), cause);
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let wrapped = error.clone().wrap(ErrorKind::ReadOnly, "the log failed");
        let text = wrapped.to_string();
        assert!(
            text.contains("the log failed") && text.contains("000001.wal"),
            "{text}"
        );
        assert!(wrapped.source().is_some());
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn a_missing_file_is_a_failed_call_and_can_be_told() {
        let missing = |kind: io::ErrorKind| Error::io("open", Path::new("a"), kind.into());
        let error = missing(io::ErrorKind::NotFound);
        assert!(is_missing(&error) && error.kind() == ErrorKind::Io);
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
        assert!(!is_missing(&missing(io::ErrorKind::PermissionDenied)));
        assert!(!is_missing(&Error::new(ErrorKind::NotFound, "no keyspace")));
    }

    #[test]
    fn adding_to_a_shared_error_leaves_the_other_owner_alone() {
        let first = Error::corruption("bad block");
        let second = first.clone().in_file(Path::new("x.sst"), 8);
        assert!(first.file().is_none());
        assert_eq!(second.file(), Some((Path::new("x.sst"), 8)));
        let third = second.clone().in_file(Path::new("y.sst"), 9);
        assert_eq!(third.file(), Some((Path::new("x.sst"), 8)));
    }
}
