//! Options of a keyspace, and how they are stored.
//!
//! They are written when the keyspace is created and whenever they change, in the log and then in
//! the manifest; so a database is opened with the options that its keyspaces have, whatever the
//! program says today.
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
//!  5   compression: u8           of tables in the last level, by its number in tables
//!  6   bytes: varint             of a block; taken between 512 and 65,536
//! ```
//!
//! A field that is absent says nothing. An unknown tag was written by a newer version, and decides
//! how entries are to be read: `Unsupported`. So is an unknown compression: a merge would not know
//! how to write.

use std::ops::RangeInclusive;
use std::time::Duration;

use terrace_base::clock::millis;
use terrace_base::coding::{put_slice, put_varint};
use terrace_base::{Decoder, Error, ErrorKind, Result};
use terrace_compaction::Packing;

use crate::options::Compression;

const EXPIRY: u64 = 1;
const MERGE_OPERATOR: u64 = 2;
const COMPACTION_FILTER: u64 = 3;
const BLOB_THRESHOLD: u64 = 4;
const COMPRESSION: u64 = 5;
const BLOCK_SIZE: u64 = 6;

/// A threshold below this would store more than it saves.
const LEAST_THRESHOLD: u64 = 64;
/// What tables take.
const BLOCK_SIZES: RangeInclusive<u64> = 512..=65_536;

/// Options of a keyspace. They are stored with it;
/// [`Keyspace::set_options`](crate::Keyspace::set_options) changes them.
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
    /// What is written without an expiry of its own expires so long after the write.
    pub expiry: Option<Duration>,
    /// The name of the merge operator.
    pub merge_operator: Option<String>,
    /// The name of the compaction filter.
    pub compaction_filter: Option<String>,
    /// Values from this length on go into blob files.
    pub blob_threshold: Option<u64>,
    /// Compression of the last level.
    pub compression: Option<Compression>,
    /// Bytes of a block of a table.
    pub block_size: Option<u64>,
}

impl KeyspaceOptions {
    /// The defaults: values never expire, and there is no merge operator or compaction filter.
    pub fn new() -> KeyspaceOptions {
        KeyspaceOptions::default()
    }

    /// The default expiry: how long a value holds, from the write on, that is written without an
    /// expiry of its own; `None`, without end, by default. In whole milliseconds; later writes
    /// only.
    ///
    /// A put gets it, alone, in a batch, in a transaction or in an ingest. `put_expiring` says its
    /// own, [`Expiry::Never`](crate::Expiry::Never) included. What reads and writes as one step
    /// (`update`, `compare_and_swap`, `add_i64`, `append`, `merge`, alone or in a batch) keeps the
    /// expiry of the entry that it finds, or that there is none; where it finds no entry, the new
    /// one gets the default.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// use std::time::Duration;
    /// use terrace::{Db, KeyspaceOptions};
    /// let db = Db::in_memory()?;
    /// let minute = KeyspaceOptions::new().expiry(Some(Duration::from_secs(60)));
    /// let calls = db.create_keyspace("calls", minute)?;
    /// calls.add_i64("ada", 1)?; // the minute begins
    /// let end = calls.get_entry("ada")?.unwrap().expires_at;
    /// assert_eq!(calls.add_i64("ada", 1)?, 2);
    /// assert_eq!(calls.get_entry("ada")?.unwrap().expires_at, end);
    /// # Ok(()) }
    /// ```
    pub fn expiry(mut self, expiry: Option<Duration>) -> KeyspaceOptions {
        self.expiry = expiry.map(|time| Duration::from_millis(millis(time)));
        self
    }

    /// The operator of [`Keyspace::merge`](crate::Keyspace::merge), by the name under which
    /// [`Options::merge_operator`](crate::Options::merge_operator) has it. A keyspace that has one
    /// keeps it.
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

    /// From how many bytes on values are kept in blob files: written once, apart from their keys,
    /// so that merges move references and not the values. 4 KiB by default, which `None` stands
    /// for; at least 64; [`u64::MAX`] is never.
    ///
    /// It concerns later writes; what is there follows as merges come across it, but values do not
    /// come back out of blob files. A value in a blob file costs a read of its own, also in scans,
    /// unless only keys are asked for.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// use terrace::{Db, KeyspaceOptions};
    /// let db = Db::in_memory()?;
    /// let options = KeyspaceOptions::new().blob_threshold(Some(64 << 10));
    /// let films = db.create_keyspace("films", options)?;
    /// films.put("metropolis", vec![0; 1 << 20])?;
    /// assert_eq!(db.stats().blob_files, 1);
    /// # Ok(()) }
    /// ```
    pub fn blob_threshold(mut self, bytes: Option<u64>) -> KeyspaceOptions {
        self.blob_threshold = bytes.map(|bytes| bytes.max(LEAST_THRESHOLD));
        self
    }

    /// How the keyspace's entries are compressed in the last level, where most of them lie; `None`
    /// is as [`Options::compression`](crate::Options::compression) says.
    ///
    /// New tables follow, and old ones as compaction meets them: the whole keyspace after
    /// [`Keyspace::compact`](crate::Keyspace::compact). Keyspaces that are compressed alike share
    /// tables; where they differ, a table ends.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// use terrace::{Compression, Db, KeyspaceOptions};
    /// let db = Db::in_memory()?;
    /// let raw = KeyspaceOptions::new().compression(Some(Compression::None));
    /// let photos = db.create_keyspace("photos", raw)?; // JPEGs do not shrink any more.
    /// assert_eq!(photos.options().compression, Some(Compression::None));
    /// # Ok(()) }
    /// ```
    pub fn compression(mut self, compression: Option<Compression>) -> KeyspaceOptions {
        self.compression = compression;
        self
    }

    /// How many bytes a block has at most before it is compressed, from 512 to 65,536, unless one
    /// entry has more; `None` is 8 KiB. Where single keys are read from compressed blocks or from
    /// beyond memory, small ones cost less; large ones are compressed better. No entry begins
    /// beyond the first 8 KiB of its block: more is for values of some KiB, that several share one.
    ///
    /// New tables follow, and old ones as compaction meets them; it writes none again for the size
    /// of its blocks alone.
    pub fn block_size(mut self, bytes: Option<u64>) -> KeyspaceOptions {
        self.block_size = bytes.map(|bytes| bytes.clamp(*BLOCK_SIZES.start(), *BLOCK_SIZES.end()));
        self
    }

    /// How the keyspace is packed where the others are packed by `default`.
    pub(crate) fn packing(&self, default: Packing) -> Packing {
        let block_size = self.block_size.and_then(|bytes| bytes.try_into().ok());
        Packing {
            compression: self.compression.unwrap_or(default.compression),
            block_size: block_size.unwrap_or(default.block_size),
        }
    }

    /// `Invalid` or `Unsupported` if nothing can be written as they say.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(bytes) = self.block_size.filter(|bytes| !BLOCK_SIZES.contains(bytes)) {
            return Err(Error::invalid(format!(
                "blocks of {bytes} bytes: they have 512 to 65,536"
            )));
        }
        self.compression.map_or(Ok(()), Compression::check)
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
        if let Some(compression) = self.compression {
            put(COMPRESSION, &[compression as u8]);
        }
        if let Some(bytes) = self.block_size {
            let mut payload = Vec::new();
            put_varint(&mut payload, bytes);
            put(BLOCK_SIZE, &payload);
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
                COMPRESSION => {
                    let mut number = Decoder::new(payload);
                    let known = Compression::from_byte(number.u8()?);
                    options.compression = Some(known.map_err(|error| match error.kind() {
                        ErrorKind::Unsupported => error,
                        _ => newer("a compression"),
                    })?);
                    number.finish()?;
                }
                BLOCK_SIZE => {
                    let mut bytes = Decoder::new(payload);
                    options = options.block_size(Some(bytes.varint()?));
                    bytes.finish()?;
                }
                _ => return Err(newer(&format!("an option {tag}"))),
            }
        }
        Ok(options)
    }

    /// `Invalid` unless a keyspace that has these options may get `new` ones. What was merged can
    /// be read with its own operator alone.
    pub(crate) fn check_change(&self, new: &KeyspaceOptions) -> Result<()> {
        match &self.merge_operator {
            Some(name) if new.merge_operator.as_ref() != Some(name) => {
                Err(Error::invalid(format!(
                    "the keyspace has the merge operator `{name}`, and keeps it: its entries may \
                     need it"
                )))
            }
            _ => Ok(()),
        }
    }
}

#[cold]
fn newer(what: &str) -> Error {
    Error::unsupported(format!(
        "a keyspace has {what} of a newer terrace; open it with that version"
    ))
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
            .blob_threshold(Some(u64::MAX))
            .compression(Some(Compression::None))
            .block_size(Some(u64::MAX));
        assert_eq!(all.block_size, Some(65_536));
        assert_eq!(all.expiry, Some(Duration::from_millis(1234)));
        for options in [KeyspaceOptions::new(), all] {
            let bytes = options.encode();
            assert_eq!(KeyspaceOptions::decode(&bytes).unwrap(), options);
            for len in 0..bytes.len() {
                // An answer or an error, whatever it is.
                drop(KeyspaceOptions::decode(&bytes[..len]));
            }
        }
        for newer in [&[9, 0][..], &[5, 1, 3], &[5, 1, 255]] {
            let kind = KeyspaceOptions::decode(newer).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::Unsupported, "{newer:?}");
        }
        for wrong in [&[1, 2, 3, 3][..], &[5, 0], &[5, 2, 0, 0], &[6, 2, 3, 3]] {
            let kind = KeyspaceOptions::decode(wrong).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::Corruption, "{wrong:?}");
        }
    }

    #[test]
    fn nothing_is_packed_as_no_table_can_be() {
        let least = KeyspaceOptions::decode(&[6, 1, 0]).unwrap();
        assert_eq!(least.block_size, Some(512));
        for bytes in [0, 511, 65_537, u64::MAX] {
            let options = KeyspaceOptions {
                block_size: Some(bytes),
                ..KeyspaceOptions::new()
            };
            assert_eq!(options.check().unwrap_err().kind(), ErrorKind::Invalid);
            options.block_size(Some(bytes)).check().unwrap();
        }
        let zstd = KeyspaceOptions::new().compression(Some(Compression::Zstd));
        assert_eq!(zstd.check().is_ok(), Compression::Zstd.check().is_ok());
        let read = KeyspaceOptions::decode(&zstd.encode());
        assert_eq!(read.is_ok(), zstd.check().is_ok());
    }
}
