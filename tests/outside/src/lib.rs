//! What a user's library does with Terrace: code that is generic over where it reads and over what keys are.

use terrace::{Bytes, KeyBounds, Readable, Result};

/// The examples of the readme, which have to compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;

/// Works on a `Keyspace`, a `Db` and a `Snapshot` alike.
pub fn sum(from: &impl Readable, range: impl KeyBounds) -> Result<u64> {
    let mut sum = 0;
    for entry in from.range(range) {
        let (_, value) = entry?;
        sum += u64::from(value.first().copied().unwrap_or(0));
    }
    Ok(sum)
}

/// A reader that owns its source, as a struct in somebody's program would.
#[derive(Debug)]
pub struct Table<R> {
    source: R,
}

impl<R: Readable> Table<R> {
    pub fn new(source: R) -> Self {
        Table { source }
    }

    /// Every method of `Readable`, through the trait.
    pub fn describe<K: AsRef<[u8]> + Copy>(&self, key: K) -> Result<Description> {
        let mut cursor = self.source.cursor();
        cursor.first()?;
        Ok(Description {
            value: self.source.get(key)?,
            start: self.source.get_slice(key, 0..4)?,
            length: self.source.get_with(key, <[u8]>::len)?,
            version: self.source.get_entry(key)?.map(|entry| entry.version.get()),
            there: self.source.contains_key(key)?,
            empty: self.source.is_empty()?,
            first: self.source.first()?.map(|(key, _)| key),
            last: self.source.last()?.map(|(key, _)| key),
            both: self.source.multi_get([key, key])?,
            count: self.source.count(..)?,
            entries: self.source.iter().collect::<Result<Vec<_>>>()?.len(),
            from_key: self.source.range(key..).count(),
            with_prefix: self.source.prefix(key).keys().count(),
            at_cursor: cursor.key().to_vec(),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub value: Option<Bytes>,
    pub start: Option<Bytes>,
    pub length: Option<usize>,
    pub version: Option<u64>,
    pub there: bool,
    pub empty: bool,
    pub first: Option<Bytes>,
    pub last: Option<Bytes>,
    pub both: Vec<Option<Bytes>>,
    pub count: u64,
    pub entries: usize,
    pub from_key: usize,
    pub with_prefix: usize,
    pub at_cursor: Vec<u8>,
}
