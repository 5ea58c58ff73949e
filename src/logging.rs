//! What a database says of itself to the crate `log`, with feature `log`: under the target
//! "terrace", by level
//!
//! ```text
//! error  writes have stopped; a table is damaged; the last handle was dropped without its sync
//! warn   a background job fails, and is tried again; recovery dropped log frames above `synced`
//! info   recovery after an unclean end; a background job works again
//! debug  opening after a clean end
//! ```
//!
//! A logger is the caller's code, so nothing is logged while a lock of the engine is held, and
//! neither keys nor values are ever part of a message. The text of an error may quote keys, so
//! [`Plain`] leaves it out.
//!
//! Without the feature the macro checks its arguments and makes no code.

use std::error::Error as StdError;
use std::{fmt, io};

use terrace_base::{Error, ErrorKind};

#[cfg(feature = "log")]
macro_rules! event {
    ($level:ident, $($what:tt)+) => {
        $crate::logging::guarded(|| ::log::$level!(target: "terrace", $($what)+))
    };
}
#[cfg(not(feature = "log"))]
macro_rules! event {
    ($level:ident, $($what:tt)+) => {
        if false {
            let _ = format_args!($($what)+);
        }
    };
}
pub(crate) use event;

/// A panic of the logger is its own, reported where it happened: it must not stop the database.
#[cfg(feature = "log")]
pub(crate) fn guarded(tell: impl FnOnce()) {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    drop(catch_unwind(AssertUnwindSafe(tell)));
}

/// Tells of damage that a read has met.
#[cold]
pub(crate) fn damage(error: &Error) {
    if error.kind() == ErrorKind::Corruption {
        event!(
            error,
            "stored bytes are damaged, a read fails: {}",
            Plain(error)
        );
    }
}

/// An error as it may be logged: kinds, the file with the place in it, and what the operating
/// system said.
pub(crate) struct Plain<'a>(pub(crate) &'a Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut error = self.0;
        loop {
            let cause = error.source();
            if cause.is_some_and(|cause| cause.is::<io::Error>()) {
                // A failed system call names itself and its file, and no more.
                return write!(f, "{:?}, {error}", error.kind());
            }
            write!(f, "{:?}", error.kind())?;
            if let Some((path, offset)) = error.file() {
                write!(f, " in {}", path.display())?;
                if error.kind() == ErrorKind::Corruption {
                    write!(f, " at byte {offset}")?;
                }
            }
            match cause.and_then(|cause| cause.downcast_ref::<Error>()) {
                Some(next) => {
                    f.write_str(": ")?;
                    error = next;
                }
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_an_error_says_of_keys_is_left_out_and_its_place_is_not() {
        let damage = Error::corruption("the fences miss `some key`").about_key(b"some key");
        let error = damage
            .in_file(Path::new("db/000007.sst"), 64)
            .wrap(ErrorKind::ReadOnly, "while `some key` was moved");
        assert_eq!(
            Plain(&error).to_string(),
            "ReadOnly: Corruption in db/000007.sst at byte 64"
        );
        let full = io::Error::from_raw_os_error(28);
        let error = Error::io("write", Path::new("db/000008.sst"), full).wrap_as("in a job");
        let text = Plain(&error).to_string();
        assert!(
            text.starts_with("NoSpace: NoSpace, cannot write (db/000008.sst): "),
            "{text}"
        );
    }
}
