//! Why a check failed: the database gave an error, or an answer that is wrong. Tests that inject faults look at
//! the error; all others print the words.

use std::fmt;

use terrace::{Error, ErrorKind};

/// What every check returns.
pub type Outcome<T = ()> = Result<T, Trouble>;

/// Why a check failed.
#[derive(Clone)]
pub struct Trouble {
    what: String,
    error: Option<Error>,
}

impl Trouble {
    /// The database failed in `what`.
    pub fn failed(what: impl fmt::Display, error: Error) -> Trouble {
        Trouble {
            what: format!("{what} failed: {error:?}"),
            error: Some(error),
        }
    }

    /// The same, with where it happened in front.
    pub fn within(self, place: impl fmt::Display) -> Trouble {
        let what = format!("{place}: {}", self.what);
        Trouble { what, ..self }
    }

    /// The database's error; `None` for a wrong answer.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// The kind of the database's error; `None` for a wrong answer.
    pub fn kind(&self) -> Option<ErrorKind> {
        self.error().map(Error::kind)
    }
}

impl From<String> for Trouble {
    fn from(what: String) -> Trouble {
        Trouble { what, error: None }
    }
}

impl From<&str> for Trouble {
    fn from(what: &str) -> Trouble {
        what.to_owned().into()
    }
}

impl From<Trouble> for String {
    fn from(trouble: Trouble) -> String {
        trouble.what
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// A result of the database as that of a check.
pub(crate) fn failed<T>(what: impl fmt::Display, result: terrace::Result<T>) -> Outcome<T> {
    result.map_err(|error| Trouble::failed(what, error))
}
