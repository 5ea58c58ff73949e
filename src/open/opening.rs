//! Opening a database: from a directory to an [`Engine`].
//!
//! The directory is held by a descriptor, and all files are reached from there (see [`Fs::hold`]):
//! the process may change its working directory, and the directory its name. A file is taken for a
//! leftover if it has a name of ours and the manifest does not list it. That suffices for a file to
//! be this database's own: the lock is on a file in the very directory that is held, so no other
//! database writes there, whatever path it was opened by. No id is compared: what a crash left
//! half-written has none, and a checkpoint's tables have those of the first database.
//!
//! After a *clean* end (the log ends with its close frame, which names the last edit of a whole
//! manifest, or the manifest ends with a mark) everything is known to be on disk. Nothing is
//! written: what the log holds above the tables, at most 1 MiB unless the disk was full, is read
//! into an image in memory.
//!
//! After any other end nothing that was found is appended to: see [`crate::open::rebuild`]. A log
//! that is too long to be held in memory goes into tables while it is read: see
//! [`crate::open::spill`].
//!
//! On a full disk the reserve of the killed process makes room for this. It holds nothing, so that
//! it may go first.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use terrace_base::vfs::Fs;
use terrace_base::{Error, ErrorKind, FileKind, FileNumber, RangeSet, Result, SeqNo, mutant};
use terrace_compaction::TableStore;
use terrace_sstable::{BlockCache, Compression, Table, TableWriter, WriterOptions};
use terrace_wal::{Lsn, SegmentMeta, Start};

use crate::keyspace::catalogue::Change;
use crate::keyspace::policies::Policies;
use crate::logging::event;
use crate::memtable::{Form, ListWriter, MemRun};
use crate::open::rebuild::Basis;
use crate::open::replay::Replay;
use crate::open::spill::Spill;
use crate::options::Options;
use crate::options::keyspace::KeyspaceOptions;
use crate::read::context::believed;
use crate::storage::files::{Files, sync_ancestors};
use crate::storage::manifest::{self, Manifest};
use crate::storage::version_set::{FILE_NUMBERS, ManifestState};

/// What the directory held, as the engine starts from it.
pub(crate) struct Found {
    pub(crate) state: ManifestState,
    pub(crate) manifest: Option<Manifest>,
    pub(crate) database: u64,
    /// Entries of the log that are in no table.
    pub(crate) image: Option<MemRun>,
    pub(crate) log: Start,
    /// Everything up to here is visible, and what is given out next lies above.
    pub(crate) last_seq: SeqNo,
    /// Segments that the manifest lists and nothing uses.
    pub(crate) unused: Vec<SegmentMeta>,
    /// Changes of the catalogue that are in the log and not in the manifest.
    pub(crate) changes: Vec<(SeqNo, Change)>,
    /// `CURRENT` was written by this open, and its name synced.
    pub(crate) published: bool,
    pub(crate) log_had: LogHad,
}

/// What the log had beyond the tables.
#[derive(Clone, Copy, Default)]
pub(crate) struct LogHad {
    pub(crate) entries: usize,
    /// How often some of them were put into tables before the log was read to its end.
    pub(crate) pieces: usize,
    /// Frames behind its end; none was promised.
    pub(super) dropped_frames: u64,
}

/// The directory that is being opened.
pub(crate) struct Opening<'a> {
    pub(crate) options: &'a Options,
    pub(crate) files: Arc<Files>,
    pub(crate) store: Arc<dyn TableStore>,
    pub(crate) policies: Arc<Policies>,
    /// The names of ours that it held at first.
    pub(crate) names: Vec<FileKind>,
    /// `CURRENT` may have been replaced.
    publishing: Cell<bool>,
}

impl<'a> Opening<'a> {
    /// Looks at what `dir` holds; its lock is taken.
    pub(crate) fn new(options: &'a Options, fs: &Fs, dir: &Path) -> Result<Opening<'a>> {
        let memory = options.memory_in_force();
        // Half of the write budget on top is for jobs at work, and for what the allocator keeps of
        // what writes gave back.
        let cache = BlockCache::new(memory - options.write_budget() * 3 / 2);
        let files = Arc::new(Files::new(fs.clone(), dir.to_path_buf(), options.io, cache));
        let names = fs.read_dir(dir)?;
        let store: Arc<dyn TableStore> = files.clone();
        Ok(Opening {
            options,
            files,
            store,
            policies: Arc::new(Policies::new(options)),
            names: names
                .iter()
                .filter_map(|name| FileKind::parse(name))
                .collect(),
            publishing: Cell::new(false),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.files.dir
    }

    pub(super) fn find(&self) -> Result<Found> {
        match self.names.contains(&FileKind::Current) {
            true => self.existing(),
            false => self.created(),
        }
    }

    /// Makes room on a full disk: removes what this open has made so far, of which nothing is in
    /// force, and the reserve that a killed process left for this. False if there is none.
    pub(super) fn give_up_reserve(&mut self) -> Result<bool> {
        if self.publishing.get() || !self.names.contains(&FileKind::Reserve) {
            return Ok(false);
        }
        self.remove_made()?;
        self.files.remove(FileKind::Reserve)?;
        self.names.retain(|file| *file != FileKind::Reserve);
        Ok(true)
    }

    /// After an error: removes what this open has made, unless it may be in force. What cannot be
    /// removed now, the next open removes.
    pub(super) fn discard(&self) {
        if !self.options.read_only && !self.publishing.get() && !mutant("leave-spilled-tables") {
            self.remove_made().ok();
        }
    }

    fn remove_made(&self) -> Result<()> {
        let mut files = self.present()?;
        files.retain(|file| !self.names.contains(file));
        files
            .into_iter()
            .try_for_each(|file| self.files.remove(file))
    }

    /// The files in the directory that have names of ours.
    fn present(&self) -> Result<Vec<FileKind>> {
        let names = self.files.fs.read_dir(self.dir())?;
        Ok(names
            .iter()
            .filter_map(|name| FileKind::parse(name))
            .collect())
    }

    /// A number above every number in the directory and every number set aside. A name with a
    /// number that no database can reach is a leftover.
    pub(crate) fn free_number(&self, ceiling: u64) -> u64 {
        if mutant("reuse-file-number") {
            return ceiling;
        }
        let used = self.names.iter().filter_map(|name| match name {
            FileKind::Manifest(n)
            | FileKind::Segment(n)
            | FileKind::Table(n)
            | FileKind::Blob(n) => Some(n.0).filter(|n| *n < FILE_NUMBERS),
            _ => None,
        });
        used.fold(ceiling, |free, n| free.max(n + 1))
    }

    /// Begins a database where there is none, or where creating one was not finished.
    fn created(&self) -> Result<Found> {
        let data = self.names.iter().find(|name| {
            matches!(
                name,
                FileKind::Table(_) | FileKind::Blob(_) | FileKind::Segment(_)
            )
        });
        if let Some(data) = data {
            return Err(Error::corruption(
                "CURRENT is missing beside data; restore it, or the directory from a backup",
            )
            .in_file(&data.path(self.dir()), 0));
        }
        if self.options.read_only || !self.options.create {
            return Err(
                Error::new(ErrorKind::NotFound, "there is no database here").in_file(self.dir(), 0)
            );
        }
        if !mutant("skip-parent-sync") {
            sync_ancestors(&self.files.fs, self.dir())?;
        }
        let mut state = ManifestState::new();
        let number = self.free_number(state.file_ceiling);
        state.file_ceiling = number + 1;
        let database = self.files.fs.random();
        let manifest = self.publish(&state, FileNumber(number), database, 1)?;
        let log = Start {
            next: Lsn(0),
            last_seq: SeqNo::ZERO,
            predecessor: None,
            sealed: Vec::new(),
        };
        Ok(Found {
            state,
            manifest: Some(manifest),
            database,
            image: None,
            log,
            last_seq: SeqNo::ZERO,
            unused: Vec::new(),
            changes: Vec::new(),
            published: true,
            log_had: LogHad::default(),
        })
    }

    pub(crate) fn publish(
        &self,
        state: &ManifestState,
        number: FileNumber,
        database: u64,
        edit_number: u64,
    ) -> Result<Manifest> {
        let (fs, dir) = (&self.files.fs, self.dir());
        let edit = state.as_edit();
        let mut manifest = Manifest::create(fs, dir, number, database, edit_number, &edit)?;
        manifest.stage(fs, dir)?;
        self.publishing.set(true);
        manifest.publish(fs, dir)?;
        Ok(manifest)
    }

    /// The time that the database begins with, of what the manifest and the log remember.
    fn clock_after(&self, manifest: u64, log: u64) -> u64 {
        let clock = &*self.options.clock;
        let (latest, begin) = (
            manifest.max(log),
            believed(manifest, clock).max(believed(log, clock)),
        );
        if begin < latest {
            event!(
                warn,
                "{}: its clock was {:?} ahead of the system's and is set back; values may come \
                 back",
                self.dir().display(),
                Duration::from_millis(latest - begin)
            );
        }
        begin
    }

    /// Reads manifest and log, and decides how the database ended.
    pub(crate) fn existing(&self) -> Result<Found> {
        let mut edits = ManifestState::new().replay();
        let read = manifest::read(&self.files.fs, self.dir(), &mut |edit| {
            edits.apply(edit, &self.store)
        })?;
        let path = FileKind::Manifest(read.number).path(self.dir());
        let mut state = edits.finish().map_err(|e| e.in_file(&path, 0))?;
        self.check_newest(&read)?;
        for (_, _, table) in state.version.tables() {
            self.files.check_listed(table.meta())?;
        }
        // One tells a manifest of another database, whose log would look as if it had not been
        // written to yet.
        if let Some((_, _, newest)) = state.version.tables().next() {
            self.files.check_identity(newest.meta())?;
        }
        for blob in state.version.blobs().values() {
            self.files.check_blob(blob)?;
        }
        let segments = state.segment_metas();
        let known = terrace_wal::Known {
            flushed: Lsn(state.flushed.lsn),
            edit: read.last_edit,
            last_seq: state.last_seq,
        };
        let mut spill = Spill::new(self, read.number);
        let (fs, dir) = (&self.files.fs, self.dir());
        let log = terrace_wal::recover(fs, dir, &segments, known, &mut |frame| {
            spill.add(&frame, &mut state)
        })?;
        spill.check_listed(&state)?;
        let mut replay = spill.replay;
        let cut = replay.check_large(log.synced, state.version.blobs())?;
        state.clock = self.clock_after(state.clock, replay.clock);
        self.set_policies(&state, &replay.changes, true)?;
        let last_table = state
            .version
            .tables()
            .map(|(_, _, t)| t.meta().info.max_seq)
            .max();
        let last_seq = state
            .last_seq
            .max(log.last_seq)
            .max(last_table.unwrap_or(SeqNo::ZERO));
        if log
            .close
            .as_ref()
            .is_some_and(|close| close.manifest_edit > read.last_edit)
        {
            return Err(Error::corruption(
                "the log was closed after a later edit than the manifest holds: the manifest is \
                 cut or old",
            )
            .in_file(&FileKind::Manifest(read.number).path(self.dir()), 0));
        }
        let clean = !cut
            && replay.pieces == 0
            && ended_well(&read, &log, &state)
            && self.has_one_name(read.number)?;
        if !clean && !self.options.read_only {
            let basis = Basis {
                database: read.database,
                last_edit: read.last_edit,
                last_seq,
                lsn: log.end.0.max(log.highest_seen.0),
                dropped_frames: log.dropped_frames,
                tidies: true,
            };
            return self.rebuilt(state, &basis, replay);
        }
        let unsure = !read.marked && state.segments.is_empty();
        if unsure && !self.options.read_only && !mutant("trust-unsynced-name") {
            // The process that made CURRENT may have been stopped before it was sure to be found.
            // No name made later may outlive its, and what the one before it names must stay till
            // then. A listed segment is proof: it came later.
            self.files.fs.sync_dir(self.dir())?;
        }
        let log_had = log_had(&replay, log.dropped_frames);
        let changes = std::mem::take(&mut replay.changes);
        let database = read.database;
        Ok(Found {
            image: self.image_of(replay, last_seq, log.end)?,
            manifest: if self.options.read_only {
                None
            } else {
                Some(Manifest::resume(read)?)
            },
            log: Start {
                next: log.end,
                last_seq,
                predecessor: log.predecessor,
                sealed: log.used,
            },
            unused: log.unused.into_iter().chain(log.dropped).collect(),
            state,
            database,
            last_seq,
            changes,
            published: false,
            log_had,
        })
    }

    /// False if the manifest can be reached by another name, of a copy made of links: its bytes
    /// must stay.
    fn has_one_name(&self, manifest: FileNumber) -> Result<bool> {
        let path = FileKind::Manifest(manifest).path(self.dir());
        let found = self.files.fs.metadata(&path)?;
        Ok(found.is_some_and(|found| found.links == 1))
    }

    /// Looks up what the keyspaces' options say and name, before anything is written.
    pub(crate) fn set_policies(
        &self,
        state: &ManifestState,
        changes: &[(SeqNo, Change)],
        check: bool,
    ) -> Result<()> {
        let mut all = BTreeMap::new();
        for record in state.keyspaces.values() {
            all.insert(record.id, KeyspaceOptions::decode(&record.options)?);
        }
        for (_, change) in changes {
            match change {
                Change::Create(record) => {
                    all.insert(record.id, KeyspaceOptions::decode(&record.options)?);
                }
                Change::Options(id, options) => {
                    all.insert(*id, options.clone());
                }
                Change::Drop(id) => {
                    all.remove(id);
                }
                Change::Rename(..) => {}
            }
        }
        for (id, options) in &all {
            if check {
                self.policies.registered.check(options)?;
            }
            self.policies.set(*id, options);
        }
        Ok(())
    }

    /// `Corruption` if some file proves that the manifest was replaced or cut: an old copy lists
    /// what once was, and everything since would be taken for leftovers and removed.
    pub(crate) fn check_newest(&self, read: &manifest::Recovered) -> Result<()> {
        let (fs, dir) = (&self.files.fs, self.dir());
        for name in &self.names {
            let (proof, text) = match *name {
                FileKind::Segment(number) => (
                    terrace_wal::edit_named_by(fs, dir, number)?
                        .is_some_and(|edit| edit > read.last_edit),
                    "the segment was used after a later edit than the manifest holds: the \
                     manifest is cut or old",
                ),
                FileKind::Manifest(number) if number > read.number => (
                    manifest::was_in_force(fs, dir, number)?,
                    "the manifest was in force after the one that CURRENT names: CURRENT is old",
                ),
                _ => continue,
            };
            if proof {
                return Err(Error::corruption(text).in_file(&name.path(dir), 0));
            }
        }
        Ok(())
    }

    /// The replayed entries as an image in memory.
    pub(crate) fn image_of(
        &self,
        replay: Replay,
        last_seq: SeqNo,
        end_lsn: Lsn,
    ) -> Result<Option<MemRun>> {
        use terrace_base::InternalIterator;
        let ranges = replay.ranges.iter().cloned().map(Arc::new);
        let ranges = Arc::new(RangeSet::new(ranges.collect()));
        if replay.is_empty() {
            let list = ListWriter::new(0); // Without entries, as a list of range deletes alone is.
            return Ok((!ranges.is_empty()).then(|| MemRun {
                id: 0,
                form: Form::List(list.list().clone()),
                last_seq,
                end_lsn,
                bytes: list.bytes() as u64 + ranges.memory(),
                ranges,
                entries: 0,
            }));
        }
        let id = self.files.fs.random();
        let mut options = WriterOptions::new(id, self.files.fs.random());
        options.compression = Compression::None;
        let sink = Vec::with_capacity(usize::try_from(replay.size()).unwrap_or(0));
        let mut writer = TableWriter::new(sink, options);
        let mut entries = replay.into_sorted();
        entries.first()?;
        while entries.valid() {
            writer.add(entries.key(), entries.value())?;
            entries.next()?;
        }
        let (info, bytes) = writer.finish()?;
        let bytes = Bytes::from(bytes.into_boxed_slice());
        let table = Table::open_image(bytes, id, &self.files.cache)?;
        Ok(Some(MemRun {
            id: 0,
            form: Form::Image(Arc::new(table)),
            last_seq,
            end_lsn,
            bytes: info.size + ranges.memory(),
            ranges,
            entries: info.entries,
        }))
    }

    /// Removes files with names of ours that the manifest in force does not list. `CURRENT` is on
    /// disk by now: none is a file that an older one still names there.
    pub(crate) fn remove_unlisted(&self, found: &Found) -> Result<()> {
        self.unlisted(found)?
            .into_iter()
            .try_for_each(|file| self.files.remove(file))
    }

    fn unlisted(&self, found: &Found) -> Result<Vec<FileKind>> {
        let manifest = found.manifest.as_ref().map(|manifest| manifest.number);
        let tables: std::collections::HashSet<FileNumber> = found
            .state
            .version
            .tables()
            .map(|(_, _, table)| table.meta().number)
            .collect();
        let mut files = self.present()?;
        files.retain(|file| match file {
            FileKind::Lock | FileKind::Current => false,
            FileKind::CurrentTemporary | FileKind::Reserve => true,
            FileKind::Manifest(number) => Some(*number) != manifest,
            FileKind::Segment(number) => !found.state.segments.contains_key(number),
            FileKind::Table(number) => !tables.contains(number),
            FileKind::Blob(number) => !found.state.version.blobs().contains_key(number),
        });
        Ok(files)
    }
}

pub(crate) fn log_had(replay: &Replay, dropped_frames: u64) -> LogHad {
    LogHad {
        entries: replay.taken + replay.entries(),
        pieces: replay.pieces,
        dropped_frames,
    }
}

/// True if everything that was read is known to be on disk.
fn ended_well(
    read: &manifest::Recovered,
    log: &terrace_wal::Recovered,
    state: &ManifestState,
) -> bool {
    // The one edit of a new manifest was durable before CURRENT; of a later one the mark of `close`
    // tells.
    let closed_later = read.marked && read.edits > 1;
    if mutant("trust-unsynced-log") {
        return !read.torn;
    }
    !read.torn
        && match &log.close {
            Some(close) => close.manifest_edit == read.last_edit || closed_later,
            None if state.segments.is_empty() => closed_later || read.edits == 1,
            // Tables hold the whole log, and the last process wrote nothing to it.
            None => closed_later && log.end.0 == state.flushed.lsn && log.dropped_frames == 0,
        }
}
