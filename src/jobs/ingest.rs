//! Bulk load: many entries straight into tables, past the log and the memtable, as one write.
//!
//! All entries of an ingest have one sequence number. Tables have to be written with it before its
//! place in the commit order is taken, so it is chosen ahead: 2^16 above the last one given out if
//! the input is small, which is then written within milliseconds, else 2^26 above it. When the
//! tables are on disk, writers wait at a gate for the moment that it takes to flush what is in
//! memory (which was flushed just before, so there is little) and to make one edit. That edit is
//! the commit: it adds the tables as the newest run of level 0, and says that tables hold
//! everything up to that number. Then the number is visible, and writers go on above it.
//!
//! ```text
//! appended  ... 90 91 | gate | ingest at 65626 | 65627 ...     chosen when 90 was the last
//! ```
//!
//! Until the edit is synced nothing of an ingest can be seen, also after a crash; from then on all
//! of it. If so much is written, or ingested by others, meanwhile that the number is overtaken, the
//! tables are written again under a higher one. Ingests do this one at a time, and no other is
//! published meanwhile ([`Turns`]): else each would overtake the numbers of all others,
//! those would reach farther, and 32 threads would use all numbers up within seconds. A large
//! ingest tries once more without a turn, 16 times as far ahead, because others wait for the turn.
//!
//! The edit alone would leave no trace in the log: a manifest of before, put back, would fit it,
//! and hide the entries. So the log then takes a number above the ingest's. Replay finds that
//! numbers are missing, or that the log was closed after a later edit.
//!
//! Input that is not sorted is cut into pieces that fit the memory given, each is sorted and
//! written to a table of its own that no edit lists, and those are merged. Of equal keys the last
//! one given counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use terrace_base::{
    Error, ErrorKind, InternalIterator, KeyRef, KeyspaceId, RangeSet, Result, SeqNo, UserKey,
    ValueKind, mutant,
};
use terrace_compaction::{
    AddedTable, BlobMeta, Flushed, MergeOptions, MergeResult, Packings, Rules, RunIter, Stripes,
    TableFile, TableMeta, TableStore, VersionEdit,
};

use crate::background::signals::Task;
use crate::commit::committer::closed;
use crate::engine::Engine;
use crate::jobs::compact::wait_for_level0;
use crate::jobs::flush::{complete, flush};
use crate::jobs::log_segments::release_log;
use crate::jobs::pacing::pace_run;
use crate::jobs::table_outputs::NewTables;
use crate::keyspace::state::KeyspaceState;
use crate::options::Durability;
use crate::sync::lock;
use crate::write::batch::check_lengths;
use crate::write::payload::encode_clock;
use crate::write::prepared::{Entries as Held, Write};

/// How far above the last sequence number an ingest of a small input takes its own. A look-ahead
/// reads that much of it.
const AHEAD_IF_SMALL: u64 = 1 << 16;
/// How far above it a large ingest takes its own: the number of writes that can happen while its
/// tables are written.
const AHEAD: u64 = 1 << 26;
/// How much farther an ingest goes where writes, or small ingests, have overtaken it.
const FARTHER: u64 = 16;
/// A small input has fewer entries than this,
const SMALL_ENTRIES: usize = 1024;
/// and fewer bytes.
const SMALL_BYTES: usize = 1 << 20;

/// How far an ingest has come.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestProgress {
    /// Entries taken from the input.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Sorted pieces written so far.
    pub pieces: u64,
}

/// An entry: key, kind and stored value.
pub(crate) type Taken = (Vec<u8>, ValueKind, Vec<u8>);

/// Entries in the order of their keys, forwards only.
pub(crate) trait Entries {
    /// The next entry.
    fn next(&mut self) -> Result<Option<Taken>>;
}

/// What the caller gives, checked.
pub(crate) struct Checked<I> {
    pub(crate) input: I,
    pub(crate) last: Option<Vec<u8>>,
    pub(crate) expires: Option<u64>,
}

impl<I, K, V> Entries for Checked<I>
where
    I: Iterator<Item = Result<(K, V)>>,
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    fn next(&mut self) -> Result<Option<Taken>> {
        let Some((key, value)) = self.input.next().transpose()? else {
            return Ok(None);
        };
        let (key, value) = (key.as_ref(), value.as_ref());
        check_lengths(key.len(), value.len())?;
        if self
            .last
            .as_ref()
            .is_some_and(|last| last.as_slice() >= key)
        {
            return Err(Error::invalid(
                "the entries to be ingested are not sorted by strictly rising key; sort them, or \
                 use ingest_unsorted",
            ));
        }
        self.last = Some(key.to_vec());
        Ok(Some(put(key.to_vec(), value.to_vec(), self.expires)))
    }
}

/// An entry that sets a key, until a time if there is one.
pub(super) fn put(key: Vec<u8>, value: Vec<u8>, expires: Option<u64>) -> Taken {
    match expires {
        None => (key, ValueKind::Put, value),
        Some(time) => {
            let stored = [&time.to_le_bytes(), value.as_slice()].concat();
            (key, ValueKind::PutExpiring, stored)
        }
    }
}

/// Entries of which the first are read ahead, to see whether there are many.
struct Peeked<'a> {
    rest: &'a mut dyn Entries,
    first: VecDeque<Taken>,
    /// They ended within the look-ahead.
    small: bool,
}

impl<'a> Peeked<'a> {
    fn new(rest: &'a mut dyn Entries) -> Result<Peeked<'a>> {
        let (mut first, mut bytes, mut small) = (VecDeque::new(), 0, false);
        while first.len() < SMALL_ENTRIES && bytes < SMALL_BYTES {
            let Some(taken) = rest.next()? else {
                small = true;
                break;
            };
            bytes += taken.0.len() + taken.2.len();
            first.push_back(taken);
        }
        Ok(Peeked { rest, first, small })
    }
}

impl Entries for Peeked<'_> {
    fn next(&mut self) -> Result<Option<Taken>> {
        match self.first.pop_front() {
            Some(taken) => Ok(Some(taken)),
            None if self.small => Ok(None),
            None => self.rest.next(),
        }
    }
}

/// The newest version of each key of sorted pieces.
pub(crate) struct Newest<I> {
    pub(crate) input: I,
    pub(crate) started: bool,
}

impl<I: InternalIterator> Entries for Newest<I> {
    fn next(&mut self) -> Result<Option<Taken>> {
        if !self.started {
            self.started = true;
            self.input.first()?;
        }
        if !self.input.valid() {
            return Ok(None);
        }
        let KeyRef { user, kind, .. } = self.input.key();
        let key = user.bytes.to_vec();
        let value = self.input.value().to_vec();
        while self.input.valid() && self.input.key().user.bytes == key.as_slice() {
            self.input.next()?;
        }
        Ok(Some((key, kind, value)))
    }
}

/// `Entries` as a merge reads them, all at one sequence number.
struct Numbered<'a> {
    entries: &'a mut dyn Entries,
    keyspace: KeyspaceId,
    seq: SeqNo,
    here: Option<Taken>,
}

fn forwards_only<T>() -> Result<T> {
    Err(Error::invalid("an ingest reads forwards only"))
}

impl InternalIterator for Numbered<'_> {
    fn seek(&mut self, _: KeyRef<'_>) -> Result<()> {
        forwards_only()
    }
    fn seek_for_prev(&mut self, _: KeyRef<'_>) -> Result<()> {
        forwards_only()
    }
    fn last(&mut self) -> Result<()> {
        forwards_only()
    }
    fn prev(&mut self) -> Result<()> {
        forwards_only()
    }
    fn first(&mut self) -> Result<()> {
        self.next()
    }
    fn next(&mut self) -> Result<()> {
        self.here = None;
        self.here = self.entries.next()?;
        Ok(())
    }
    fn valid(&self) -> bool {
        self.here.is_some()
    }
    fn key(&self) -> KeyRef<'_> {
        let here = self.here.as_ref();
        let (bytes, kind) = here.map_or((&[][..], ValueKind::Put), |(key, kind, _)| (key, *kind));
        KeyRef::new(UserKey::new(self.keyspace, bytes), self.seq, kind)
    }
    fn value(&self) -> &[u8] {
        self.here.as_ref().map_or(&[], |(_, _, value)| value)
    }
}

/// When what an ingest that begins now writes expires.
pub(crate) fn deadline_of_ingest(engine: &Engine, keyspace: &KeyspaceState) -> Option<u64> {
    let expires = engine.context.deadline(keyspace.expiry());
    if expires.is_some() {
        keyspace.note_expiring();
    }
    expires
}

/// The result of a step of an ingest, `Closed` if the database was closed meanwhile: then the
/// next opener removes its tables.
pub(crate) fn or_closed<T>(engine: &Engine, result: Result<T>) -> Result<T> {
    let is_closed = || engine.closed.load(Ordering::Acquire);
    match result {
        Err(error) if error.kind() == ErrorKind::Io && is_closed() => Err(closed()),
        result => result,
    }
}

pub(crate) fn ingest(
    engine: &Engine,
    keyspace: &KeyspaceState,
    entries: &mut dyn Entries,
) -> Result<SeqNo> {
    engine.check_writable()?;
    keyspace.check_alive()?;
    let packings = engine.context.policies.packings();
    let mut entries = Peeked::new(entries)?;
    let small = entries.small;
    let mut ahead = match small {
        true => AHEAD_IF_SMALL,
        false => AHEAD,
    };
    let mut seq = engine.committer.end().1.plus(ahead);
    let entries: &mut dyn Entries = &mut entries;
    let mut written = write_ingested(engine, keyspace.id, seq, entries, &packings, true)?;
    let blobs = std::mem::take(&mut written.blobs);
    let (mut tries, mut kept) = (0, None);
    pace_run(engine); // Before the turn, for which others wait.
    loop {
        if written.tables.is_empty() {
            return Ok(engine.committer.visible());
        }
        let metas = written.tables.clone();
        let held = kept.is_some();
        let turn = kept.take().unwrap_or_else(|| engine.ingests.take());
        tries += 1;
        match engine.heed(publish_ingested(engine, keyspace, seq, &metas, &blobs)) {
            Ok(true) => {
                note_in_log(engine);
                engine.counters.flushed(&written);
                engine.background.wake(Task::Compaction);
                return Ok(seq);
            }
            Ok(false) => {}
            Err(error) => {
                discard(engine, &metas, &blobs);
                return Err(error);
            }
        }
        // Overtaken: the same once more under a higher number.
        if small || tries > 1 {
            kept = Some(turn).filter(|_| !mutant("ingests-outbid"));
        }
        if held || kept.is_none() {
            ahead = ahead.saturating_mul(FARTHER);
        }
        seq = engine.committer.end().1.plus(ahead);
        let store: Arc<dyn TableStore> = engine.files.clone();
        let open = |meta: &TableMeta| TableFile::new(meta.clone(), store.clone());
        let mut again = Newest {
            input: RunIter::over(metas.iter().map(open).collect(), true),
            started: false,
        };
        let result = write_ingested(engine, keyspace.id, seq, &mut again, &packings, false);
        drop(again);
        discard(engine, &metas, if result.is_err() { &blobs } else { &[] });
        written = result?;
    }
}

/// Continues the log above the sequence number of an ingest. An older manifest, put back, is then
/// detected by the missing numbers, or by the end of the log, which names a later edit.
fn note_in_log(engine: &Engine) {
    let clock = encode_clock(engine.context.now());
    let parts = [clock.as_slice()];
    let write = Write::new(&parts, 1, Held::None);
    // The ingest is in, also without.
    let durability = Durability::Buffered;
    engine
        .committer
        .append(&write, durability, &[], &mut |_| ())
        .ok();
}

/// Removes tables and blob files that no edit lists. What cannot be removed now, the next open
/// removes.
fn discard(engine: &Engine, metas: &[TableMeta], blobs: &[BlobMeta]) {
    let numbers = metas.iter().map(|meta| meta.number).collect();
    let mut made = NewTables::made(engine, numbers);
    made.blobs.numbers = blobs.iter().map(|blob| blob.number).collect();
    made.discard();
}

/// Writes entries into new tables, which are on disk and read back then; large values into blob
/// files, if they are to be taken apart.
pub(super) fn write_ingested(
    engine: &Engine,
    keyspace: KeyspaceId,
    seq: SeqNo,
    entries: &mut dyn Entries,
    packings: &Packings,
    separate: bool,
) -> Result<MergeResult> {
    let input = Numbered {
        entries,
        keyspace,
        seq: if mutant("ingest-too-old") {
            SeqNo::new(1)
        } else {
            seq
        },
        here: None,
    };
    let options = MergeOptions {
        rules: Rules {
            stripes: &Stripes::default(),
            dropped_keyspaces: &[],
            deleted: &RangeSet::default(),
            oldest_snapshot: None,
            may_exist_below: &|_| true,
            folding: None,
            keeps: None,
            fetch: None,
        },
        target_size: engine.options.tuning.table_bytes,
        memory: engine.options.job_memory(),
        packings,
        should_stop: &|| engine.background.lock().stop,
    };
    let mut tables = NewTables::new(engine);
    tables.blobs.separates = separate;
    let written = terrace_compaction::merge(input, &options, &mut tables).and_then(|result| {
        if !mutant("ingest-without-sync") {
            complete(engine, &result.tables)?;
        }
        Ok(result)
    });
    tables.written();
    if written.is_err() {
        tables.discard();
    }
    written
}

/// Makes the tables a part of the database; false if their number was overtaken.
fn publish_ingested(
    engine: &Engine,
    keyspace: &KeyspaceState,
    seq: SeqNo,
    metas: &[TableMeta],
    blobs: &[BlobMeta],
) -> Result<bool> {
    wait_for_level0(engine);
    flush(engine)?; // So that little is left to do while writers wait.
    let _gate = engine.committer.shut_gate()?;
    flush(engine)?;
    let _flushing = lock(&engine.flushing);
    let Some((lsn, appended)) = engine.committer.boundary(None) else {
        return Err(Error::bug("a write passed the gate of an ingest"));
    };
    keyspace.check_alive()?;
    if appended >= seq {
        return Ok(false);
    }
    // Newer than the runs that were flushed while the tables were written.
    let run = engine.versions.new_file_number()?.0;
    let added = |meta: &TableMeta| AddedTable {
        level: 0,
        run,
        meta: meta.clone(),
    };
    let edit = VersionEdit {
        added: metas.iter().map(added).collect(),
        blobs_added: blobs.to_vec(),
        flushed: Some(Flushed { lsn: lsn.0, seq }),
        last_seq: Some(seq),
        clock: Some(engine.context.now()),
        ..VersionEdit::default()
    };
    engine.versions.log_and_apply(&edit, |_, version| {
        engine.views.install(|view| {
            view.version = version.clone();
            view.tables_upto = seq;
        });
    })?;
    engine.committer.advance(seq);
    // It is done, whatever becomes of the log: the next flush releases it.
    release_log(engine, lsn).ok();
    Ok(true)
}
