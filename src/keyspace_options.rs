//! Options of a keyspace, and how they are stored.
//!
//! They are written when the keyspace is created and whenever they change, in the log and then in the manifest; so a
//! database is opened with the options that its keyspaces have, whatever the program says today.
//!
//! ```text
//! options := field*
//! field   := tag: varint | length: varint | payload: [u8; length]
//!
//! tag  payload
//!  1   milliseconds: varint      plain puts expire so long after they are written
//!  2   name                      of the merge operator
//!  3   name                      of the compaction filter
//!  4   bytes: varint             values from this length on go into blob files
//! ```
//!
//! A field that is absent says nothing. An unknown tag was written by a newer version, and decides how entries are to be
//! read: `Unsupported`.

use std::time::Duration;

use terrace_base::coding::{put_slice, put_varint};
use terrace_base::{Decoder, Error, Result};

use crate::context::millis;

const EXPIRY: u64 = 1;
const MERGE_OPERATOR: u64 = 2;
const COMPACTION_FILTER: u64 = 3;
const BLOB_THRESHOLD: u64 = 4;

/// A threshold below this would store more than it saves.
const LEAST_THRESHOLD: u64 = 64;

/// Options of a keyspace. They are stored with it; [`Keyspace::set_options`](crate::Keyspace::set_options) changes them.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// use std::time::Duration;
/// use terrace::{Db, KeyspaceOptions};
/// let db = Db::in_memory()?;
/// let hour = Duration::from_secs(3600);
/// let sessions = db.create_keyspace("sessions", KeyspaceOptions::new().expiry(Some(hour)))?;
/// sessions.put("ada", "token")?;
/// assert!(sessions.get_entry("ada")?.unwrap().expires_at.is_some());
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceOptions {
    /// Plain puts expire so long after they are written.
    pub expiry: Option<Duration>,
    /// The name of the merge operator.
    pub merge_operator: Option<String>,
    /// The name of the compaction filter.
    pub compaction_filter: Option<String>,
    /// Values from this length on go into blob files.
    pub blob_threshold: Option<u64>,
}

impl KeyspaceOptions {
    /// The defaults: values hold for ever, nothing is merged and nothing filtered.
    pub fn new() -> KeyspaceOptions {
        KeyspaceOptions::default()
    }

    /// How long what `put` writes holds, alone or in a batch, from the write on; for ever by default. It counts in whole
    /// milliseconds, and concerns later writes only. `put_expiring` says its own, [`Expiry::Never`](crate::Expiry::Never)
    /// included; what transactions, atomic operations and merges write holds for ever.
    pub fn expiry(mut self, expiry: Option<Duration>) -> KeyspaceOptions {
        self.expiry = expiry.map(|time| Duration::from_millis(millis(time)));
        self
    }

    /// The operator of [`Keyspace::merge`](crate::Keyspace::merge), by the name under which
    /// [`Options::merge_operator`](crate::Options::merge_operator) has it. A keyspace that has one keeps it.
    pub fn merge_operator(mut self, name: &str) -> KeyspaceOptions {
        self.merge_operator = Some(name.into());
        self
    }

    /// The filter of compactions, by the name under which
    /// [`Options::compaction_filter`](crate::Options::compaction_filter) has it.
    pub fn compaction_filter(mut self, name: Option<&str>) -> KeyspaceOptions {
        self.compaction_filter = name.map(Into::into);
        self
    }

    /// From how many bytes on values are kept in blob files: written once, apart from their keys, so that merges move
    /// references and not the values. 4 KiB by default, which `None` stands for; at least 64; [`u64::MAX`] is never.
    ///
    /// It concerns later writes; what is there follows as merges come across it, but values do not come back out of blob
    /// files. A value in a blob file costs a read of its own, also in scans, unless only keys are asked for.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// use terrace::{Db, KeyspaceOptions};
    /// let db = Db::in_memory()?;
    /// let films = db.create_keyspace("films", KeyspaceOptions::new().blob_threshold(Some(64 << 10)))?;
    /// films.put("metropolis", vec![0; 1 << 20])?;
    /// assert_eq!(db.stats().blob_files, 1);
    /// # Ok(()) }
    /// ```
    pub fn blob_threshold(mut self, bytes: Option<u64>) -> KeyspaceOptions {
        self.blob_threshold = bytes.map(|bytes| bytes.max(LEAST_THRESHOLD));
        self
    }

    /// The threshold, if it is not the default one.
    pub(crate) fn threshold(&self) -> Option<usize> {
        self.blob_threshold
            .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |tag, payload: &[u8]| {
            put_varint(&mut out, tag);
            put_slice(&mut out, payload);
        };
        if let Some(expiry) = self.expiry {
            let mut time = Vec::new();
            put_varint(&mut time, millis(expiry));
            put(EXPIRY, &time);
        }
        if let Some(name) = &self.merge_operator {
            put(MERGE_OPERATOR, name.as_bytes());
        }
        if let Some(name) = &self.compaction_filter {
            put(COMPACTION_FILTER, name.as_bytes());
        }
        if let Some(bytes) = self.blob_threshold {
            let mut payload = Vec::new();
            put_varint(&mut payload, bytes);
            put(BLOB_THRESHOLD, &payload);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<KeyspaceOptions> {
        let mut options = KeyspaceOptions::default();
        let mut decoder = Decoder::new(bytes);
        while !decoder.is_empty() {
            let (tag, payload) = (decoder.varint()?, decoder.slice()?);
            let name = || {
                String::from_utf8(payload.to_vec())
                    .map_err(|_| Error::corruption("a name in a keyspace's options is not UTF-8"))
            };
            match tag {
                EXPIRY => {
                    let mut time = Decoder::new(payload);
                    options.expiry = Some(Duration::from_millis(time.varint()?));
                    time.finish()?;
                }
                MERGE_OPERATOR => options.merge_operator = Some(name()?),
                COMPACTION_FILTER => options.compaction_filter = Some(name()?),
                BLOB_THRESHOLD => {
                    let mut bytes = Decoder::new(payload);
                    options = options.blob_threshold(Some(bytes.varint()?));
                    bytes.finish()?;
                }
                _ => {
                    return Err(Error::unsupported(format!(
                        "a keyspace has an option {tag} of a newer terrace; open it with that version"
                    )));
                }
            }
        }
        Ok(options)
    }

    /// `Invalid` unless a keyspace that has these options may get `new` ones. What was merged can be read with its own
    /// operator alone.
    pub(crate) fn check_change(&self, new: &KeyspaceOptions) -> Result<()> {
        match &self.merge_operator {
            Some(name) if new.merge_operator.as_ref() != Some(name) => {
                Err(Error::invalid(format!(
                    "the keyspace has the merge operator `{name}`, and keeps it: its entries may need it"
                )))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_back_and_unknown_ones_refused() {
        let all = KeyspaceOptions::new()
            .expiry(Some(Duration::from_micros(1_234_567)))
            .merge_operator("add")
            .compaction_filter(Some("old"))
            .blob_threshold(Some(u64::MAX));
        assert_eq!(all.expiry, Some(Duration::from_millis(1234)));
        for options in [KeyspaceOptions::new(), all] {
            let bytes = options.encode();
            assert_eq!(KeyspaceOptions::decode(&bytes).unwrap(), options);
            for len in 0..bytes.len() {
                drop(KeyspaceOptions::decode(&bytes[..len])); // An answer or an error, whatever it is.
            }
        }
        let newer = KeyspaceOptions::decode(&[9, 0]).unwrap_err();
        assert_eq!(newer.kind(), terrace_base::ErrorKind::Unsupported);
        assert!(KeyspaceOptions::decode(&[1, 2, 3, 3]).is_err());
    }
}
