//! Bulk load as callers start it

use std::error::Error as StdError;

use terrace_base::{Error, MergingIterator, Result, SeqNo};
use terrace_compaction::RunIter;

use crate::IngestProgress;
use crate::db::keyspace::Keyspace;
use crate::jobs::ingest::{Checked, Newest, deadline_of_ingest, ingest, or_closed};
use crate::jobs::ingest_sorter::Sorter;

impl Keyspace {
    /// Writes many entries as one write, straight into tables: several times as fast as batches,
    /// and written once. Over what is there already, if anything is. The entries come sorted by
    /// strictly rising key. The write's sequence number, which is the version of each key.
    ///
    /// They get the keyspace's default expiry, counted from the call.
    ///
    /// Other writes continue, except during the commit, when they wait until the memtable is
    /// flushed. An ingest that returned is durable, whatever the durability of the database.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// let db = terrace::Db::in_memory()?;
    /// db.ingest((0..1000u32).map(|n| (n.to_be_bytes(), n.to_string())))?;
    /// assert_eq!(db.get(7u32.to_be_bytes())?.unwrap(), "7");
    /// # Ok(()) }
    /// ```
    ///
    /// An input that may fail goes to [`Keyspace::try_ingest`].
    ///
    /// # Errors
    /// `Invalid` if a key does not rise, or for a key or value that is too long; those of writing
    /// tables. Nothing is written then.
    pub fn ingest<K, V>(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<SeqNo>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        self.ingest_checked(entries.into_iter().map(Ok))
    }

    /// Writes many entries as one write, as [`Keyspace::ingest`] does, from an input that may fail,
    /// as a file may. The first error ends it, and nothing is written.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// use std::error::Error as _;
    /// use std::io::{self, BufRead};
    ///
    /// let db = terrace::Db::in_memory()?;
    /// let load = |text: &'static [u8]| {
    ///     let lines = text.lines().map(|line| line.map(|line| (line, "")));
    ///     db.try_ingest(lines)
    /// };
    /// load(b"apple\npear\n")?;
    /// let error = load(b"quince\n\xff\n").unwrap_err();
    /// assert_eq!(error.kind(), terrace::ErrorKind::Other);
    /// assert!(error.source().unwrap().is::<io::Error>());
    /// assert_eq!(db.iter().count(), 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Other` if the input fails: its error is the [source](std::error::Error::source); else as
    /// for [`Keyspace::ingest`].
    pub fn try_ingest<K, V, E>(
        &self,
        entries: impl IntoIterator<Item = Result<(K, V), E>>,
    ) -> Result<SeqNo>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.ingest_checked(entries.into_iter().map(|item| item.map_err(Error::other)))
    }

    fn ingest_checked<K, V>(&self, entries: impl Iterator<Item = Result<(K, V)>>) -> Result<SeqNo>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let engine = self.handle.writer()?;
        let mut entries = Checked {
            input: entries,
            last: None,
            expires: deadline_of_ingest(engine, &self.state),
        };
        or_closed(engine, ingest(engine, &self.state, &mut entries))
    }

    /// Ingests entries in any order, of which the last one of each key counts. They are sorted
    /// in pieces of up to `memory` bytes, which lie in the database's directory until it is done.
    /// `progress` is called now and then.
    ///
    /// # Errors
    /// As for [`Keyspace::ingest`], the order aside.
    pub fn ingest_unsorted<K, V>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
        memory: usize,
        progress: impl FnMut(IngestProgress),
    ) -> Result<SeqNo>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        self.sort_and_ingest(entries.into_iter().map(Ok), memory, progress)
    }

    /// Writes many entries in any order as one write, as [`Keyspace::ingest_unsorted`] does, from
    /// an input that may fail. The first error ends it, and nothing is written.
    ///
    /// # Errors
    /// As for [`Keyspace::try_ingest`], the order aside.
    pub fn try_ingest_unsorted<K, V, E>(
        &self,
        entries: impl IntoIterator<Item = Result<(K, V), E>>,
        memory: usize,
        progress: impl FnMut(IngestProgress),
    ) -> Result<SeqNo>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let entries = entries.into_iter();
        let entries = entries.map(|item| item.map_err(Error::other));
        self.sort_and_ingest(entries, memory, progress)
    }

    fn sort_and_ingest<K, V>(
        &self,
        entries: impl Iterator<Item = Result<(K, V)>>,
        memory: usize,
        mut progress: impl FnMut(IngestProgress),
    ) -> Result<SeqNo>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let engine = self.handle.writer()?;
        let expires = deadline_of_ingest(engine, &self.state);
        let mut sorter = Sorter::new(engine, self.state.id, memory, expires);
        for item in entries {
            let (key, value) = item?;
            or_closed(
                engine,
                sorter.add(key.as_ref(), value.as_ref(), &mut progress),
            )?;
        }
        let pieces = or_closed(engine, sorter.finish(&mut progress))?.into_iter();
        let pieces: Vec<RunIter> = pieces.map(|piece| RunIter::over(piece, true)).collect();
        let mut merged = Newest {
            input: MergingIterator::new(pieces),
            started: false,
        };
        let result = ingest(engine, &self.state, &mut merged);
        drop(merged); // The pieces become obsolete.
        engine.files.remove_obsolete().ok(); // What cannot be removed now, the next open removes.
        or_closed(engine, result)
    }
}
