//! Salvage: opening what is left of a damaged database, and saying what is not.
//!
//! `open` answers `Corruption` where stored bytes that were promised do not verify. A salvage is an
//! explicit request to go on without them. Every checksum knows its file and its place, so each
//! block of a table, each frame of the log and each edit of the manifest stands alone, and what
//! verifies is taken:
//!
//! ```text
//!              manifest whole, and the newest              manifest or CURRENT damaged, old or foreign
//! tables       those listed: whole ones stay as they are,  all in the directory but those that some edit
//!              of others the blocks that verify            took out: merged into one new run
//! log          each batch that is in no table and          each batch that verifies
//!              verifies, also behind a hole
//! keyspaces    as listed, and as the log says              from the edits and batches that verify; the others
//!                                                          are called `salvaged-ID`
//! ```
//!
//! # What the result is
//!
//! For each key the newest version that verifies. A batch is there whole or not at all, since a
//! batch is one frame, until its entries are in tables, which lose them block by block. Without
//! damage to the log the result is the state that `open` would give, less the lost blocks. With a
//! hole in the log it is *not* a state that the database ever had: batches after the hole are
//! kept, since each is worth having and its sequence numbers say where it belongs, so that no older
//! value can come to stand above a newer one.
//!
//! What is lost may have been a tombstone: the value that it hid is then back. So for whatever a
//! [`Loss`] covers, an older value may be there; what none covers is exact. Where the manifest is
//! lost, leftovers of merges and flushes may be taken for tables in force, so everything deleted
//! may be back: that is a loss of its own kind. A torn tail of the log is no damage, as ever: what
//! was never promised is dropped as `open` would drop it. Damage that also takes the promise with
//! it cannot be told from that, and is not reported.
//!
//! # In what order
//!
//! Nothing is removed that was there. New tables are written beside the old ones; then each file
//! that will be no part of the database gets a second name in `salvaged-NNNNNN`; only then is the
//! new manifest published, as after any unclean end (`recovery.rs`), and only then do the first
//! names go. A crash in front of that leaves every file as it was, with leftovers of the salvage
//! beside them, and salvage can be run again; a crash after it leaves a database that opens.

mod blobs;
mod hints;
mod lenient;
mod log;
mod loose;
mod report;
mod tables;

use std::collections::{BTreeMap, HashSet};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hints::{candidates, is_damage};
use lenient::put_aside;
use log::SegmentFile;
pub use report::{Kept, Loss, LossKind, LostKeys, Salvage};
use tables::Verdict;
use terrace_base::vfs::Fs;
use terrace_base::{
    Error, ErrorKind, FileKind, FileNumber, KeyspaceId, OwnedUserKey, Result, SeqNo,
};
use terrace_compaction::{AddedTable, BlobFiles, BlobMeta, RemovedTable, TableFile, VersionEdit};
use terrace_wal::Lsn;

use crate::engine::Engine;
use crate::keyspace::state::DEFAULT_NAME;
use crate::open::assemble::assemble;
use crate::open::opening::{Found, Opening};
use crate::open::rebuild::{Basis, RecoveredTables};
use crate::open::replay::Replay;
use crate::options::Options;
use crate::storage::manifest;
use crate::storage::version_set::ManifestState;

/// Opens what is left of the database in `dir`.
pub(crate) fn salvage(options: Options, dir: &Path) -> Result<(Arc<Engine>, Salvage)> {
    options.check()?;
    if options.read_only {
        return Err(Error::invalid("a salvage writes: it cannot be read-only"));
    }
    let options = options.resolved();
    let fs = Fs::new(options.vfs.clone());
    let dir = &fs.absolute(dir)?;
    match fs.metadata(dir)? {
        Some(found) if found.is_dir => {}
        _ => return Err(nothing_here(dir)),
    }
    let fs = fs.hold(dir)?;
    let lock = fs.lock(&FileKind::Lock.path(dir), true)?;
    let opening = Opening::new(&options, &fs, dir)?;
    let ours = |name: &&FileKind| !matches!(name, FileKind::Lock | FileKind::CurrentTemporary);
    if opening.names.iter().find(ours).is_none() {
        return Err(nothing_here(dir));
    }
    let mut survey = Survey::new(&opening);
    let found = survey.run()?;
    opening.remove_unlisted(&found)?;
    let report = survey.report;
    let Opening {
        files, policies, ..
    } = opening;
    let engine = assemble(options, files, policies, found, lock)?;
    Ok((engine, report))
}

fn nothing_here(dir: &Path) -> Error {
    Error::new(ErrorKind::NotFound, "there is no database here to salvage").in_file(dir, 0)
}

/// A range of keys that may be lost; an end that is not known is open.
type Keys = (Option<OwnedUserKey>, Option<OwnedUserKey>);

/// A loss before the names of keyspaces are known.
#[derive(Clone, Debug)]
struct Lost {
    file: PathBuf,
    kind: LossKind,
    bytes: Option<Range<u64>>,
    keys: Option<Keys>,
    sequences: Option<RangeInclusive<SeqNo>>,
    what: String,
}

impl Lost {
    fn new(file: &Path, kind: LossKind, what: &str) -> Lost {
        Lost {
            file: file.into(),
            kind,
            bytes: None,
            keys: None,
            sequences: None,
            what: what.into(),
        }
    }
}

/// A manifest that was read whole.
struct Listed {
    state: ManifestState,
    read: manifest::Recovered,
    /// Tables that some edit took out.
    removed: HashSet<FileNumber>,
    verdicts: BTreeMap<FileNumber, Verdict>,
}

/// A salvage under way.
struct Survey<'a> {
    opening: &'a Opening<'a>,
    outputs: RecoveredTables<'a>,
    /// The blob files that there are.
    blobs: BlobFiles,
    /// Listed ones that have another length than was listed: to be listed as they are.
    resized: Vec<BlobMeta>,
    /// Those that it has written.
    copied: Vec<BlobMeta>,
    losses: Vec<Lost>,
    report: Salvage,
}

impl<'a> Survey<'a> {
    fn new(opening: &'a Opening<'a>) -> Survey<'a> {
        Survey {
            outputs: RecoveredTables {
                files: &opening.files,
                next_file: opening.free_number(1),
            },
            opening,
            blobs: BlobFiles::new(),
            resized: Vec::new(),
            copied: Vec::new(),
            losses: Vec::new(),
            report: Salvage::default(),
        }
    }

    fn fs(&self) -> &'a Fs {
        &self.opening.files.fs
    }

    fn path(&self, file: FileKind) -> PathBuf {
        file.path(self.opening.dir())
    }

    fn run(&mut self) -> Result<Found> {
        let current = match manifest::read_current(self.fs(), self.opening.dir()) {
            Ok(current) => Some(current),
            Err(error) if is_damage(error.kind()) => {
                self.report.damaged.push(self.path(FileKind::Current));
                None
            }
            Err(error) => return Err(error),
        };
        let Some((number, salt)) = self.the_manifest(current)? else {
            return self.loose(current);
        };
        match self.listed(number, salt)? {
            Some(listed) => self.exact(listed),
            None => self.loose(current),
        }
    }

    /// The manifest in force; without `CURRENT`, the only one.
    fn the_manifest(
        &self,
        current: Option<(FileNumber, u64)>,
    ) -> Result<Option<(FileNumber, u64)>> {
        if current.is_some() {
            return Ok(current);
        }
        let files = self.opening.names.iter();
        let files = files.filter(|name| matches!(name, FileKind::Manifest(_)));
        Ok(match (&candidates(self.opening)?[..], files.count()) {
            ([only], 1) => Some((only.number, only.salt)),
            _ => None,
        })
    }

    /// Reads the manifest and judges the tables that it lists; `None` if it is damaged or not the
    /// newest.
    fn listed(&mut self, number: FileNumber, salt: u64) -> Result<Option<Listed>> {
        let mut edits = ManifestState::new().replay();
        let mut removed = HashSet::new();
        let (fs, dir) = (self.fs(), self.opening.dir());
        let read = manifest::read_named(fs, dir, number, salt, &mut |edit| {
            removed.extend(edit.removed.iter().map(|table| table.number));
            edits.apply(edit, &self.opening.store)
        });
        let file = self.path(FileKind::Manifest(number));
        let newest = read.and_then(|read| self.opening.check_newest(&read).map(|()| read));
        let whole = newest.and_then(|read| edits.finish().map(|state| (read, state)));
        let (read, state) = match whole {
            Ok(whole) => whole,
            Err(error) if is_damage(error.kind()) => {
                self.report.damaged.push(file);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.note_blobs(state.version.blobs())?;
        let mut verdicts = BTreeMap::new();
        for (_, _, table) in state.version.tables() {
            verdicts.insert(table.number(), self.judge(table.meta())?);
        }
        let listed = Listed {
            state,
            read,
            removed,
            verdicts,
        };
        if self.is_outdated(&listed) {
            self.report.damaged.push(file);
            return Ok(None);
        }
        Ok(Some(listed))
    }

    /// True if the manifest is an old one or of another database, as far as its tables tell: some
    /// of those listed are not there and others are, which no edit took out; or none of those
    /// listed is there at all.
    fn is_outdated(&self, listed: &Listed) -> bool {
        let count =
            |wanted: fn(&Verdict) -> bool| listed.verdicts.values().filter(|v| wanted(v)).count();
        let missing = count(|v| matches!(v, Verdict::Missing));
        let foreign = count(|v| matches!(v, Verdict::Foreign));
        let others = self.opening.names.iter().any(|name| {
            let FileKind::Table(number) = name else {
                return false;
            };
            !listed.verdicts.contains_key(number) && !listed.removed.contains(number)
        });
        let none = missing + foreign == listed.verdicts.len();
        (others && (none || missing + foreign > 0)) || (none && foreign > 0)
    }

    /// The manifest says what was in force.
    fn exact(&mut self, listed: Listed) -> Result<Found> {
        let Listed {
            mut state,
            read,
            verdicts,
            ..
        } = listed;
        let metas = state.segment_metas();
        let flushed = state.flushed;
        let (mut replay, mut batches) = (Replay::default(), 0);
        let (fs, dir) = (self.fs(), self.opening.dir());
        let recovered = terrace_wal::recover(
            fs,
            dir,
            &metas,
            terrace_wal::Known {
                flushed: Lsn(flushed.lsn),
                edit: read.last_edit,
                last_seq: SeqNo::MAX, // What is missing is no reason to leave out more.
            },
            &mut |f| {
                batches += 1;
                replay.add(&f)
            },
        );
        let later = |close: &terrace_wal::CloseInfo| close.manifest_edit > read.last_edit;
        let (mut replay, last_seq, lsn) = match recovered {
            Ok(log) if !log.close.as_ref().is_some_and(later) => {
                self.report.kept.batches = batches;
                let whole = verdicts.values().all(|v| matches!(v, Verdict::Whole));
                if whole && self.report.damaged.is_empty() && self.has_values(&replay)? {
                    self.report.kept.tables = verdicts.len() as u64;
                    return self.opening.existing();
                }
                replay.check_large(log.synced, &self.blobs)?;
                (replay, log.last_seq, log.end.0.max(log.highest_seen.0))
            }
            Ok(_) => return self.loose(Some((read.number, read.salt()))),
            Err(error) if is_damage(error.kind()) => {
                let all: Vec<u64> = metas.iter().map(|meta| meta.salt).collect();
                let segments: Vec<SegmentFile> = metas
                    .iter()
                    .map(|meta| SegmentFile {
                        number: meta.number,
                        size: Some(meta.size),
                        salts: std::iter::once(meta.salt)
                            .chain(all.iter().copied())
                            .collect(),
                    })
                    .collect();
                if let Some((file, _)) = error.file() {
                    self.report.damaged.push(file.to_path_buf());
                }
                let log = self.read_log(&segments, Some(flushed.seq), Some(read.last_edit))?;
                (log.replay, log.last_seq, log.lsn)
            }
            Err(error) => return Err(error),
        };
        self.mend_replay(&mut replay)?;
        let mut edit = self.mend_listed(&state, &verdicts)?;
        edit.blobs_removed = self.resized.iter().map(|blob| blob.number).collect();
        edit.blobs_added = std::mem::take(&mut self.resized);
        state.apply(&edit, &self.opening.store)?;
        state.file_ceiling = state.file_ceiling.max(self.outputs.next_file);
        let used = replay.keyspaces();
        let mut changes = std::mem::take(&mut replay.changes);
        self.mend_catalogue(&state, &mut changes, used);
        replay.changes = changes;
        let last_table = state
            .version
            .tables()
            .map(|(_, _, t)| t.meta().info.max_seq);
        let basis = Basis {
            database: read.database,
            last_edit: read.last_edit,
            last_seq: last_seq
                .max(state.last_seq)
                .max(last_table.max().unwrap_or_default()),
            lsn,
            dropped_frames: 0,
            tidies: false,
        };
        self.publish(state, basis, replay)
    }

    /// The edit that puts what is left of damaged tables in their places.
    fn mend_listed(
        &mut self,
        state: &ManifestState,
        verdicts: &BTreeMap<FileNumber, Verdict>,
    ) -> Result<VersionEdit> {
        let mut edit = VersionEdit::default();
        for (level, run, table) in state.version.tables() {
            let meta = table.meta();
            let mended = match verdicts.get(&meta.number) {
                Some(Verdict::Whole) => {
                    self.report.kept.tables += 1;
                    continue;
                }
                Some(Verdict::Broken) => self.mend(meta.number, Some(meta))?,
                Some(Verdict::Foreign) => {
                    self.lose_listed(meta, "the file is another table");
                    None
                }
                Some(Verdict::Missing) | None => {
                    self.lose_listed(meta, "the table is missing");
                    None
                }
            };
            edit.removed.push(RemovedTable {
                level,
                number: meta.number,
            });
            edit.added
                .extend(mended.map(|meta| AddedTable { level, run, meta }));
        }
        Ok(edit)
    }

    /// Puts the old files aside and the new state in force.
    fn publish(&mut self, state: ManifestState, basis: Basis, replay: Replay) -> Result<Found> {
        let tables = state.version.tables().map(|(_, _, table)| table);
        let blobs = |table: &Arc<TableFile>| {
            let numbers = table.info().blobs.iter();
            numbers
                .map(|(number, _)| FileKind::Blob(*number))
                .collect::<Vec<_>>()
        };
        let keep: HashSet<FileKind> = tables
            .flat_map(|table| {
                let mut files = blobs(table);
                files.push(FileKind::Table(table.number()));
                files
            })
            .collect();
        let (fs, dir) = (self.fs(), self.opening.dir());
        self.report.aside = Some(put_aside(fs, dir, &self.opening.names, &keep)?);
        self.report.damaged.sort();
        self.report.damaged.dedup();
        let found = self.opening.rebuilt(state, &basis, replay)?;
        let mut names: BTreeMap<KeyspaceId, String> = BTreeMap::new();
        names.insert(KeyspaceId(0), DEFAULT_NAME.into());
        for record in found.state.keyspaces.values() {
            names.insert(record.id, record.name.clone());
        }
        let losses = std::mem::take(&mut self.losses);
        self.report.losses = losses
            .into_iter()
            .filter_map(|lost| told(lost, &names))
            .collect();
        Ok(found)
    }
}

/// The loss with names; `None` if it concerns no keyspace that there is.
fn told(lost: Lost, names: &BTreeMap<KeyspaceId, String>) -> Option<Loss> {
    let keys: Vec<LostKeys> = lost.keys.map_or(Vec::new(), |(first, last)| {
        let from = first.as_ref().map_or(KeyspaceId(0), |key| key.keyspace);
        let to = last
            .as_ref()
            .map_or(KeyspaceId(u32::MAX), |key| key.keyspace);
        let bound = |end: &Option<OwnedUserKey>, id: KeyspaceId| {
            let end = end.as_ref().filter(|key| key.keyspace == id);
            end.map(|key| bytes::Bytes::copy_from_slice(&key.bytes))
        };
        let within = names.iter().filter(|(id, _)| from <= **id && **id <= to);
        let range = |(id, name): (&KeyspaceId, &String)| LostKeys {
            keyspace: name.clone(),
            first: bound(&first, *id),
            last: bound(&last, *id),
        };
        within.map(range).collect()
    });
    let concerns = lost.kind != LossKind::Table || !keys.is_empty();
    concerns.then_some(Loss {
        file: lost.file,
        kind: lost.kind,
        bytes: lost.bytes,
        keys,
        sequences: lost.sequences,
        what: lost.what,
    })
}
