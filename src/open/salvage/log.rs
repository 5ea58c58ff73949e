//! The log in a salvage: every batch that verifies, wherever it lies.
//!
//! Sequence numbers have no gaps but for ingests: each batch takes those after the one before. So
//! what lies between two batches that were found, and is not in tables, is lost, and exactly which
//! numbers is known. Without the manifest the numbers that an ingest left out count as lost, too.
//! At the end of the log, marks, links and the close frame tell the last number that was in use.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use bytes::Bytes;
use terrace_base::{ErrorKind, FileKind, FileNumber, KeyspaceId, Result, SeqNo, mutant};
use terrace_compaction::KeyspaceRecord;
use terrace_wal::{FoundFrame, Frame, FrameKind, Lsn, frames_in};

use super::lenient::read_leniently;
use super::report::LossKind;
use super::{Lost, Survey};
use crate::keyspace::catalogue::Change;
use crate::keyspace::state::DEFAULT_NAME;
use crate::open::replay::Replay;
use crate::storage::version_set::ManifestState;
use crate::write::payload::Operations;

/// A segment and the salts to try on it.
#[derive(Clone, Debug)]
pub(super) struct SegmentFile {
    pub number: FileNumber,
    /// The length that the manifest gives it.
    pub size: Option<u64>,
    pub salts: Vec<u64>,
}

/// A batch that verifies.
#[derive(Debug)]
struct Found {
    first: SeqNo,
    last: SeqNo,
    count: u32,
    file: usize,
    start: u64,
    end: u64,
    payload: Bytes,
}

/// What the log holds.
#[derive(Debug, Default)]
pub(super) struct LogFound {
    pub replay: Replay,
    /// The last sequence number in use.
    pub last_seq: SeqNo,
    /// No position lies above.
    pub lsn: u64,
    /// The last edit that is named.
    pub last_edit: u64,
}

#[derive(Debug, Default)]
struct Reading {
    files: Vec<PathBuf>,
    batches: Vec<Found>,
    /// Files that are missing, short, or hold something else: they may have held the end of the
    /// log.
    incomplete: Vec<(PathBuf, &'static str)>,
    /// Salts of which a frame was found, in whatever file.
    salts: HashSet<u64>,
    /// Files that hold something, and not the use that they should, with its salt.
    without: Vec<(PathBuf, u64)>,
    last_seq: SeqNo,
    /// The close frame of the last life: its sequence number and the edit that it names.
    closed: Option<(SeqNo, u64)>,
    lsn: u64,
    last_edit: u64,
}

/// True if every operation of a batch decodes.
fn is_whole(frame: &FoundFrame<'_>) -> Result<bool> {
    let mut operations = Operations::new(frame.payload, frame.count);
    match operations.find_map(Result::err) {
        Some(error) if error.kind() == ErrorKind::Unsupported => Err(error),
        broken => Ok(broken.is_none()),
    }
}

impl Survey<'_> {
    /// Reads every batch of `segments` with numbers above `flushed`, and notes which are missing.
    /// If `flushed` is not known, nothing is missed in front of the first. `manifest_edit` is the
    /// last edit, if that is known: a log that was closed after it has no other end.
    pub fn read_log(
        &mut self,
        segments: &[SegmentFile],
        flushed: Option<SeqNo>,
        manifest_edit: Option<u64>,
    ) -> Result<LogFound> {
        let mut reading = Reading::default();
        for segment in segments {
            self.read_segment(segment, &mut reading)?;
        }
        for (path, salt) in std::mem::take(&mut reading.without) {
            if !reading.salts.contains(&salt) {
                self.report.damaged.push(path.clone());
                let what = "nothing of a segment of the log verifies";
                reading.incomplete.push((path, what));
            }
        }
        let batches = &mut reading.batches;
        batches.retain(|found| flushed.is_none_or(|flushed| found.first > flushed));
        batches.sort_by_key(|found| found.first);
        batches.dedup_by_key(|found| found.first);
        let mut replay = Replay::default();
        let mut expected = flushed
            .map(SeqNo::get)
            .or(batches.first().map(|found| found.first.get() - 1));
        let mut before: Option<&Found> = None;
        for found in batches.iter() {
            let last = expected.unwrap_or(0);
            if found.first.get() <= last {
                continue; // It contradicts the one before: not of this log.
            }
            if found.first.get() > last + 1 && !mutant("salvage-hides-hole") {
                self.lose_between(&reading.files, before, found, last);
            }
            replay.add(&Frame {
                kind: FrameKind::Data,
                count: found.count,
                first_seq: found.first,
                lsn: Lsn(0),
                end: Lsn(0),
                synced: Lsn(0),
                payload: &found.payload,
            })?;
            self.report.kept.batches += 1;
            expected = Some(found.last.get());
            before = Some(found);
        }
        let last = expected.unwrap_or(0);
        let known = reading.last_seq.get();
        let end = before.and_then(|found| reading.files.get(found.file));
        let path = end.or(reading.files.first());
        let path = path.map_or(self.opening.dir().to_path_buf(), Clone::clone);
        if known > last {
            self.losses.push(Lost {
                sequences: Some(SeqNo::new(last + 1)..=SeqNo::new(known)),
                ..Lost::new(&path, LossKind::Log, "the end of the log does not verify")
            });
        }
        let closed = reading
            .closed
            .filter(|(_, edit)| manifest_edit == Some(*edit));
        let all_seen = closed.is_some_and(|(at, _)| at.get() >= known.max(last));
        for (file, what) in std::mem::take(&mut reading.incomplete) {
            if !all_seen {
                self.losses.push(Lost {
                    sequences: Some(SeqNo::new(known.max(last) + 1)..=SeqNo::MAX),
                    ..Lost::new(&file, LossKind::Log, what)
                });
            }
        }
        Ok(LogFound {
            replay,
            last_seq: reading.last_seq.max(SeqNo::new(last)),
            lsn: reading.lsn,
            last_edit: reading.last_edit,
        })
    }

    fn lose_between(&mut self, files: &[PathBuf], before: Option<&Found>, next: &Found, last: u64) {
        let (file, bytes) = match before {
            Some(before) if before.file == next.file => (next.file, Some(before.end..next.start)),
            Some(before) => (before.file, None),
            None => (next.file, None),
        };
        let path = files.get(file).cloned().unwrap_or_default();
        self.losses.push(Lost {
            bytes,
            sequences: Some(SeqNo::new(last + 1)..=SeqNo::new(next.first.get() - 1)),
            ..Lost::new(&path, LossKind::Log, "a part of the log does not verify")
        });
    }

    fn read_segment(&mut self, segment: &SegmentFile, reading: &mut Reading) -> Result<()> {
        let path = FileKind::Segment(segment.number).path(self.opening.dir());
        let file = reading.files.len();
        reading.files.push(path.clone());
        if self.fs().metadata(&path)?.is_none() {
            self.report.damaged.push(path.clone());
            reading
                .incomplete
                .push((path, "a segment of the log is missing"));
            return Ok(());
        }
        let (bytes, unread) = read_leniently(self.fs(), &path, segment.size)?;
        for salt in &segment.salts {
            let mut here = false;
            frames_in(&bytes, *salt, 0, &mut |frame| {
                here = true;
                reading.last_seq = reading.last_seq.max(frame.last_seq);
                reading.last_edit = reading.last_edit.max(frame.manifest_edit.unwrap_or(0));
                if let Some(first) = frame.first_lsn {
                    reading.lsn = reading.lsn.max(first.0.saturating_add(bytes.len() as u64));
                }
                match frame.kind {
                    FrameKind::Data if frame.first_seq > SeqNo::ZERO && is_whole(&frame)? => {
                        reading.batches.push(Found {
                            first: frame.first_seq,
                            last: frame.last_seq,
                            count: frame.count,
                            file,
                            start: frame.start,
                            end: frame.end,
                            payload: bytes.slice_ref(frame.payload),
                        });
                    }
                    FrameKind::Close => {
                        let closed = frame.manifest_edit.map(|edit| (frame.last_seq, edit));
                        reading.closed = reading.closed.max(closed);
                    }
                    _ => {}
                }
                Ok(())
            })?;
            if here {
                reading.salts.insert(*salt);
                break;
            }
        }
        let short = segment.size.is_some_and(|size| (bytes.len() as u64) < size);
        let what = match () {
            () if short => "a segment of the log was cut short",
            () if !unread.is_empty() => "a segment of the log cannot be read everywhere",
            () => {
                let salt = segment.salts.first().copied().unwrap_or(0);
                if !reading.salts.contains(&salt) && bytes.iter().any(|byte| *byte != 0) {
                    reading.without.push((path, salt));
                }
                return Ok(());
            }
        };
        self.report.damaged.push(path.clone());
        reading.incomplete.push((path, what));
        Ok(())
    }

    /// Makes the catalogue's changes found in the log fit `state`, and gives names to keyspaces
    /// whose names are lost: those of `used` that nothing names.
    pub fn mend_catalogue(
        &mut self,
        state: &ManifestState,
        changes: &mut Vec<(SeqNo, Change)>,
        used: impl IntoIterator<Item = KeyspaceId>,
    ) {
        let used: HashSet<KeyspaceId> = used.into_iter().collect();
        let dropped = changes.iter().filter_map(|(_, change)| match change {
            Change::Drop(id) => Some(*id),
            _ => None,
        });
        let mut gone: HashSet<KeyspaceId> = dropped.collect();
        gone.extend(state.dropped.keys().copied());
        let mut known: HashSet<KeyspaceId> = state.keyspaces.keys().copied().collect();
        let alive = state
            .keyspaces
            .values()
            .filter(|record| !gone.contains(&record.id));
        let mut name_of: HashMap<KeyspaceId, String> = alive
            .map(|record| (record.id, record.name.clone()))
            .collect();
        let mut names: HashSet<String> = name_of.values().cloned().collect();
        names.insert(DEFAULT_NAME.into());
        let mut renamed = Vec::new();
        let mut free_name = |names: &mut HashSet<String>, id: KeyspaceId| {
            let mut name = format!("salvaged-{}", id.0);
            while !names.insert(name.clone()) {
                name.push('\'');
            }
            renamed.push(name.clone());
            name
        };
        changes.retain_mut(|(_, change)| match change {
            Change::Drop(_) => true,
            Change::Options(id, _) => {
                let mended = used.contains(id) && !gone.contains(id);
                id.0 == 0 || known.contains(id) || mended
            }
            Change::Rename(id, name) => {
                let fits = known.contains(id) && (gone.contains(id) || names.insert(name.clone()));
                if fits && let Some(old) = name_of.insert(*id, name.clone()) {
                    names.remove(&old);
                }
                fits
            }
            Change::Create(record) if record.id.0 == 0 || !known.insert(record.id) => false,
            Change::Create(record) => {
                // The drop of an older keyspace of this name may be lost.
                if !gone.contains(&record.id) && !names.insert(record.name.clone()) {
                    record.name = free_name(&mut names, record.id);
                }
                name_of.insert(record.id, record.name.clone());
                true
            }
        });
        for id in used {
            if id.0 != 0 && !gone.contains(&id) && known.insert(id) {
                let record = KeyspaceRecord {
                    id,
                    name: free_name(&mut names, id),
                    created: SeqNo::ZERO,
                    options: Vec::new(),
                };
                changes.push((SeqNo::ZERO, Change::Create(record)));
            }
        }
        self.report.renamed.extend(renamed);
    }
}
