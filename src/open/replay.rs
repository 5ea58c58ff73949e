//! What the log holds above the tables, as one sorted run.
//!
//! Recovery does not insert entries one by one: it notes where each lies in one buffer, sorts the
//! notes, and reads them in order, into a table or an image.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;

use terrace_base::key::BLOB_REF_LEN;
use terrace_base::{
    DeletedRange, Error, InternalIterator, KeyRef, KeyspaceId, Result, SeqNo, UserKey, ValueKind,
};
use terrace_compaction::KeyspaceRecord;
use terrace_wal::Frame;

use crate::keyspace::catalogue::Change;
use crate::open::replay_blobs::{FoundRef, Mark};
use crate::options::keyspace::KeyspaceOptions;
use crate::read::context::remembered;
use crate::write::payload::{Operation, Operations};

#[derive(Clone, Copy, Debug)]
struct Note {
    keyspace: KeyspaceId,
    head: u64,
    key_at: usize,
    key_len: u32,
    value_len: u32,
    seq: SeqNo,
    kind: ValueKind,
}

/// The entries and catalogue changes of the frames given to it.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) bytes: Vec<u8>,
    notes: Vec<Note>,
    /// In front of each frame that refers to blob files.
    pub(crate) marks: Vec<Mark>,
    /// From this entry on, what they refer to may not be on disk.
    pub(crate) copy_from: Option<usize>,
    pub(crate) changes: Vec<(SeqNo, Change)>,
    pub(crate) ranges: Vec<DeletedRange>,
    /// How far the database's clock had come.
    pub(crate) clock: u64,
    /// Entries that were taken out of it, into tables.
    pub(crate) taken: usize,
    /// How often that was.
    pub(crate) pieces: usize,
}

impl Replay {
    /// Without entries.
    pub(crate) fn of_changes(changes: Vec<(SeqNo, Change)>) -> Replay {
        Replay {
            changes,
            ..Replay::default()
        }
    }

    /// Takes in one frame.
    pub(crate) fn add(&mut self, frame: &Frame<'_>) -> Result<()> {
        let before = Mark {
            lsn: frame.lsn,
            notes: self.notes.len(),
            changes: self.changes.len(),
            ranges: self.ranges.len(),
            clock: self.clock,
        };
        for (i, operation) in Operations::new(frame.payload, frame.count).enumerate() {
            let seq = frame.first_seq.plus(i as u64);
            match operation? {
                Operation::Entry { user, kind, value } => self.note(user, seq, kind, value),
                Operation::DeleteRange { lower, upper } => self.ranges.push(DeletedRange {
                    keyspace: lower.keyspace,
                    lower: lower.bytes.into(),
                    upper: upper.map(Into::into),
                    seq,
                }),
                Operation::Clock(time) => self.clock = remembered(self.clock, time),
                Operation::CreateKeyspace { id, name, options } => {
                    let record = KeyspaceRecord {
                        id,
                        name: name_of(name)?,
                        created: seq,
                        options: options.to_vec(),
                    };
                    self.changes.push((seq, Change::Create(record)));
                }
                Operation::DropKeyspace { id } => self.changes.push((seq, Change::Drop(id))),
                Operation::SetOptions { id, options } => {
                    let options = KeyspaceOptions::decode(options)?;
                    self.changes.push((seq, Change::Options(id, options)));
                }
                Operation::RenameKeyspace { id, name } => {
                    self.changes.push((seq, Change::Rename(id, name_of(name)?)));
                }
            }
        }
        if self.references(before.notes..usize::MAX).next().is_some() {
            self.marks.push(before);
        }
        Ok(())
    }

    /// Those of a range of entries that refer to blob files.
    pub(crate) fn references(&self, notes: Range<usize>) -> impl Iterator<Item = FoundRef> {
        let notes = self.notes.get(notes.start..notes.end.min(self.notes.len()));
        let in_blob = |note: &&Note| note.kind.in_blob();
        let found = |note: &Note| {
            let (key_len, value_len) = (note.key_len as usize, note.value_len as usize);
            FoundRef {
                keyspace: note.keyspace,
                key_at: note.key_at,
                key_len,
                ref_at: note.key_at + key_len + value_len - BLOB_REF_LEN,
            }
        };
        notes.unwrap_or_default().iter().filter(in_blob).map(found)
    }

    /// The n-th entry, in the order of the log.
    pub(crate) fn entry(&self, n: usize) -> Option<(KeyRef<'_>, &[u8])> {
        let note = self.notes.get(n)?;
        let user = UserKey::new(note.keyspace, slice(&self.bytes, note.key_at, note.key_len));
        let value_at = note.key_at + note.key_len as usize;
        let stored = slice(&self.bytes, value_at, note.value_len);
        Some((KeyRef::new(user, note.seq, note.kind), stored))
    }

    /// Leaves out the entries with these numbers, which rise.
    pub(crate) fn leave_out(&mut self, lost: &[usize]) {
        let mut n = 0;
        self.notes.retain(|_| {
            n += 1;
            lost.binary_search(&(n - 1)).is_err()
        });
        self.marks.clear(); // They count entries.
    }

    /// Forgets what came behind `mark`.
    pub(crate) fn cut(&mut self, mark: &Mark) {
        self.notes.truncate(mark.notes);
        self.changes.truncate(mark.changes);
        self.ranges.truncate(mark.ranges);
        self.clock = mark.clock;
    }

    /// What was added since the last time, to be put into tables.
    pub(crate) fn take(&mut self) -> Replay {
        let left = Replay {
            clock: self.clock,
            taken: self.taken + self.notes.len(),
            pieces: self.pieces + 1,
            ..Replay::default()
        };
        std::mem::replace(self, left)
    }

    /// Memory that it holds, about.
    pub(crate) fn held(&self) -> u64 {
        (self.bytes.len() + self.notes.len() * size_of::<Note>()) as u64
    }

    /// How many entries there are.
    pub(crate) fn entries(&self) -> usize {
        self.notes.len()
    }

    fn note(&mut self, user: UserKey<'_>, seq: SeqNo, kind: ValueKind, value: &[u8]) {
        self.notes.push(Note {
            keyspace: user.keyspace,
            head: terrace_base::key::head_of(user.bytes),
            key_at: self.bytes.len(),
            key_len: user.bytes.len() as u32,
            value_len: value.len() as u32,
            seq,
            kind,
        });
        self.bytes.extend_from_slice(user.bytes);
        self.bytes.extend_from_slice(value);
    }

    /// The keyspaces that it has entries of.
    pub(crate) fn keyspaces(&self) -> BTreeSet<KeyspaceId> {
        self.notes.iter().map(|note| note.keyspace).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    pub(crate) fn size(&self) -> u64 {
        (self.bytes.len() + self.notes.len() * 24) as u64
    }

    /// The entries in internal order.
    pub(crate) fn into_sorted(self) -> Sorted {
        let Replay {
            bytes, mut notes, ..
        } = self;
        let key = |note: &Note| slice(&bytes, note.key_at, note.key_len);
        notes.sort_unstable_by(|a, b| {
            (a.keyspace, a.head)
                .cmp(&(b.keyspace, b.head))
                .then_with(|| key(a).cmp(key(b)))
                .then_with(|| b.seq.cmp(&a.seq))
        });
        Sorted {
            bytes,
            notes,
            at: 0,
        }
    }
}

fn name_of(name: &[u8]) -> Result<String> {
    String::from_utf8(name.to_vec())
        .map_err(|_| Error::corruption("a keyspace's name is not UTF-8"))
}

fn slice(bytes: &[u8], at: usize, len: u32) -> &[u8] {
    bytes.get(at..at + len as usize).unwrap_or(&[])
}

/// A [`Replay`] in order.
#[derive(Debug)]
pub(crate) struct Sorted {
    bytes: Vec<u8>,
    notes: Vec<Note>,
    at: usize,
}

impl Sorted {
    fn key_of(&self, note: &Note) -> KeyRef<'_> {
        let user = UserKey::new(note.keyspace, slice(&self.bytes, note.key_at, note.key_len));
        KeyRef::new(user, note.seq, note.kind)
    }
}

impl InternalIterator for Sorted {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.at = self
            .notes
            .partition_point(|note| self.key_of(note).cmp(&target) == Ordering::Less);
        Ok(())
    }
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        let behind = self
            .notes
            .partition_point(|note| self.key_of(note).cmp(&target) != Ordering::Greater);
        self.at = behind.wrapping_sub(1);
        Ok(())
    }
    fn first(&mut self) -> Result<()> {
        self.at = 0;
        Ok(())
    }
    fn last(&mut self) -> Result<()> {
        self.at = self.notes.len().wrapping_sub(1);
        Ok(())
    }
    fn next(&mut self) -> Result<()> {
        self.at = self.at.saturating_add(1);
        Ok(())
    }
    fn prev(&mut self) -> Result<()> {
        self.at = self.at.wrapping_sub(1);
        Ok(())
    }
    fn valid(&self) -> bool {
        self.at < self.notes.len()
    }
    fn key(&self) -> KeyRef<'_> {
        match self.notes.get(self.at) {
            Some(note) => self.key_of(note),
            None => KeyRef::new(
                UserKey::new(KeyspaceId(0), &[]),
                SeqNo::ZERO,
                ValueKind::Tombstone,
            ),
        }
    }
    fn value(&self) -> &[u8] {
        self.notes.get(self.at).map_or(&[], |note| {
            slice(
                &self.bytes,
                note.key_at + note.key_len as usize,
                note.value_len,
            )
        })
    }
}
