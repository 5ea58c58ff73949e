//! What a salvage reports.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use bytes::Bytes;
use terrace_base::SeqNo;

/// What [`Options::salvage`](crate::Options::salvage) found, kept and lost. It prints as text for
/// people.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// What is lost. What no loss covers is there, and is the newest that was written.
    ///
    /// For a key that a loss covers there are three outcomes: it is gone, or it has an older value,
    /// or, if it had been deleted, an older value is back. Never a value that was not written.
    pub losses: Vec<Loss>,
    /// Files that were damaged, missing, or of another place, whether anything is lost with them or
    /// not.
    pub damaged: Vec<PathBuf>,
    /// Keyspaces whose names are lost, with what they are called now.
    pub renamed: Vec<String>,
    /// What was kept.
    pub kept: Kept,
    /// The directory that now holds every file that is not part of the database any more; `None` if
    /// nothing was damaged, and nothing was changed.
    pub aside: Option<PathBuf>,
}

/// What was kept.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Tables without damage.
    pub tables: u64,
    /// Damaged tables of which at least one block was kept.
    pub mended: u64,
    /// Entries in the blocks kept of those.
    pub entries: u64,
    /// Batches of the log that are in no table.
    pub batches: u64,
}

/// What kind of file a loss lies in, and so what it can cover.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossKind {
    /// Entries of a table: of keys in [`Loss::keys`], written by [`Loss::sequences`].
    Table,
    /// Writes that were only in the log: those of [`Loss::sequences`], to any key.
    Log,
    /// Which files were in force. No entry is lost with that, but whatever was deleted or dropped
    /// may be back, since files that were left over may have been taken for files in force; and a
    /// file that is missing is not missed.
    Manifest,
}

/// One thing that is lost.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Where it was.
    pub file: PathBuf,
    /// In what kind of file.
    pub kind: LossKind,
    /// The place in the file, where it is known.
    pub bytes: Option<Range<u64>>,
    /// For a table, the keys that may be concerned; all others are not.
    pub keys: Vec<LostKeys>,
    /// The sequence numbers that may be concerned, where they are known. [`SeqNo::MAX`] as the
    /// last: how many is not known.
    pub sequences: Option<RangeInclusive<SeqNo>>,
    /// What happened, in words.
    pub what: String,
}

/// A range of keys of one keyspace, its ends included.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostKeys {
    /// Name of the keyspace.
    pub keyspace: String,
    /// The first key; `None`: from the beginning.
    pub first: Option<Bytes>,
    /// The last key; `None`: to the end.
    pub last: Option<Bytes>,
}

impl Salvage {
    /// True if nothing was damaged: the database was opened as it was.
    pub fn is_clean(&self) -> bool {
        self.aside.is_none()
    }

    /// True if something is lost, or deleted keys may be back.
    pub fn lost_something(&self) -> bool {
        !self.losses.is_empty()
    }
}

impl Loss {
    /// True if this loss may concern what a write numbered `seq` did to `key` of the keyspace of
    /// that name.
    pub fn covers(&self, keyspace: &str, key: &[u8], seq: SeqNo) -> bool {
        let in_keys = self.kind != LossKind::Table
            || self.keys.iter().any(|keys| keys.contains(keyspace, key));
        let in_sequences = self
            .sequences
            .as_ref()
            .is_none_or(|range| range.contains(&seq));
        in_keys && in_sequences
    }
}

impl LostKeys {
    /// True if `key` of the keyspace of that name lies in the range.
    pub fn contains(&self, keyspace: &str, key: &[u8]) -> bool {
        self.keyspace == keyspace
            && self.first.as_ref().is_none_or(|first| first[..] <= *key)
            && self.last.as_ref().is_none_or(|last| *key <= last[..])
    }
}

impl fmt::Display for Salvage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("nothing is damaged");
        }
        let Kept {
            tables,
            mended,
            entries,
            batches,
        } = self.kept;
        writeln!(
            f,
            "kept: {tables} tables, {entries} entries of {mended} damaged ones, {batches} \
             batches of the log"
        )?;
        for file in &self.damaged {
            writeln!(f, "damaged: {}", file.display())?;
        }
        for name in &self.renamed {
            writeln!(f, "name lost: the keyspace is now called `{name}`")?;
        }
        for loss in &self.losses {
            writeln!(f, "lost: {loss}")?;
        }
        match self.losses.is_empty() {
            true => writeln!(f, "nothing is lost")?,
            false => writeln!(
                f,
                "deleted keys among those may be back, and older values too"
            )?,
        }
        match &self.aside {
            Some(dir) => write!(f, "the old files are in {}", dir.display()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)?;
        if let Some(bytes) = &self.bytes {
            write!(f, "; bytes {} to {}", bytes.start, bytes.end)?;
        }
        if let Some(range) = &self.sequences {
            match *range.end() {
                SeqNo::MAX => write!(f, "; writes from {} on", range.start())?,
                end => write!(f, "; writes {} to {end}", range.start())?,
            }
        }
        for keys in &self.keys {
            write!(f, "; {keys}")?;
        }
        Ok(())
    }
}

impl fmt::Display for LostKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys of `{}`", self.keyspace)?;
        if let Some(first) = &self.first {
            write!(f, " from \"{}\"", first.escape_ascii())?;
        }
        if let Some(last) = &self.last {
            write!(f, " to \"{}\"", last.escape_ascii())?;
        }
        Ok(())
    }
}
