//! Blob files that jobs write: merges, which copy live values out of files that are collected, and
//! bulk loads.
//!
//! A job's file is written by it alone, and listed by the edit that lists its tables. Copying keeps
//! to a rate, so that readers and writers find the disk free, unless a call waits for it or
//! tables pile up meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use terrace_base::key::split_expiry;
use terrace_base::vfs::OpenMode;
use terrace_base::{ErrorKind, FileKind, FileNumber, KeyRef, Result, UserKey, ValueKind};
use terrace_compaction::BlobMeta;
use terrace_sstable::{BlobRef, BlobWriter};

use crate::engine::Engine;
use crate::jobs::blob_gc::blobs_pile_up;
use crate::read::blob::{Want, read};
use crate::sync::lock;

/// Bytes that collection copies in a second.
const RATE: u64 = 64 << 20;
/// Sleeping shorter than this is not worth a system call.
const SHORTEST_SLEEP: Duration = Duration::from_millis(5);
/// With more runs in level 0 than this, a merge is not to be held up.
const BUSY_RUNS: usize = 8;

/// The blob files of one job.
#[derive(Debug)]
pub(crate) struct NewBlobs {
    /// Large values of the input go into files too.
    pub(crate) separates: bool,
    victims: Arc<BTreeSet<FileNumber>>,
    /// What is dead piles up: copying keeps to no rate.
    piled_up: bool,
    open: Option<BlobWriter>,
    done: Vec<BlobMeta>,
    pub(crate) numbers: Vec<FileNumber>,
    owed: Duration,
}

impl NewBlobs {
    /// None yet.
    pub(crate) fn new(engine: &Engine, separates: bool) -> NewBlobs {
        let victims = lock(&engine.blobs.victims).clone();
        NewBlobs {
            separates,
            piled_up: !victims.is_empty() && blobs_pile_up(engine),
            victims,
            open: None,
            done: Vec::new(),
            numbers: Vec::new(),
            owed: Duration::ZERO,
        }
    }

    pub(crate) fn moves(&self) -> bool {
        !self.victims.is_empty()
    }

    /// What an entry becomes, if its value is to lie elsewhere.
    pub(crate) fn place(
        &mut self,
        engine: &Engine,
        key: KeyRef<'_>,
        stored: &[u8],
    ) -> Result<Option<(ValueKind, Vec<u8>)>> {
        let (time, rest) = match key.kind.expires() {
            true => {
                let (_, rest) = split_expiry(stored)?;
                (
                    stored.get(..stored.len() - rest.len()).unwrap_or_default(),
                    rest,
                )
            }
            false => (&[][..], stored),
        };
        let least = engine.context.policies.threshold(key.user.keyspace);
        let (kind, at) = match key.kind {
            ValueKind::Put if rest.len() >= least => {
                (ValueKind::Blob, self.add(engine, key.user, rest)?)
            }
            ValueKind::PutExpiring if rest.len() >= least => {
                (ValueKind::BlobExpiring, self.add(engine, key.user, rest)?)
            }
            ValueKind::Blob | ValueKind::BlobExpiring => {
                let Some(at) = self.copy(engine, key.user, rest)? else {
                    return Ok(None);
                };
                (key.kind, at)
            }
            _ => return Ok(None),
        };
        Ok(Some((kind, [time, &at.encode()].concat())))
    }

    /// Copies a value out of a file that is collected. One that is damaged stays where it is.
    fn copy(
        &mut self,
        engine: &Engine,
        user: UserKey<'_>,
        reference: &[u8],
    ) -> Result<Option<BlobRef>> {
        let number = BlobRef::decode(reference)?.file;
        if !self.victims.contains(&number) {
            return Ok(None);
        }
        let version = engine.views.cell.load().version.clone();
        match read(version.blobs(), user, reference, Want::Whole) {
            Ok(value) => {
                let at = self.add(engine, user, &value)?;
                engine.counters.collected(value.len() as u64);
                self.keep_to_rate(engine, value.len() as u64);
                Ok(Some(at))
            }
            Err(error) if error.kind() == ErrorKind::Corruption => {
                engine.blobs.note_damage(number, error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn keep_to_rate(&mut self, engine: &Engine, bytes: u64) {
        let hurry = self.piled_up
            || engine.options.tuning.manual
            || engine.background.lock().hurrying > 0
            || engine.views.cell.load().version.level(0).runs.len() > BUSY_RUNS;
        if hurry {
            return;
        }
        self.owed += Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / RATE);
        if self.owed >= SHORTEST_SLEEP {
            std::thread::sleep(std::mem::take(&mut self.owed));
        }
    }

    fn add(&mut self, engine: &Engine, user: UserKey<'_>, value: &[u8]) -> Result<BlobRef> {
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.size() >= engine.blobs.target())
        {
            self.close()?;
        }
        let writer = match &mut self.open {
            Some(writer) => writer,
            None => {
                let number = engine.versions.new_file_number()?;
                let path = FileKind::Blob(number).path(&engine.files.dir);
                let file = engine.fs().open(&path, OpenMode::CreateNew)?;
                self.numbers.push(number);
                let id = engine.fs().random();
                // Half of what the job has is for the table.
                let bytes = usize::try_from(engine.options.job_memory() / 2).unwrap_or(usize::MAX);
                self.open
                    .insert(BlobWriter::with_buffer(file, number, id, bytes))
            }
        };
        writer.add(user, value)
    }

    fn close(&mut self) -> Result<()> {
        if let Some(writer) = self.open.take() {
            let (number, id, size) = writer.finish()?;
            self.done.push(BlobMeta { number, id, size });
        }
        Ok(())
    }

    /// Makes their bytes durable; what they are.
    pub(crate) fn finish(&mut self) -> Result<Vec<BlobMeta>> {
        self.close()?;
        Ok(std::mem::take(&mut self.done))
    }
}
