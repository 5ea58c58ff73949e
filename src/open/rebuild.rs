//! Opening after an unclean end: what was found is written again under new names.
//!
//! What can be read back may still not be on disk: a killed process leaves it in the page cache,
//! and after a failed sync a second one proves nothing. So nothing found is appended to. The tail
//! of the log goes into new tables and the state into a new manifest, all under new names, and only
//! when `CURRENT` names that manifest durably do the old files go. A crash at any point before
//! leaves the old state whole; the unlisted new files are removed by the next open, which does the
//! same again.
//!
//! Sequence numbers and log positions of a lost tail are never given out again: both move on by
//! 2^32, and the new manifest says so.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use terrace_base::coding::align8;
use terrace_base::vfs::OpenMode;
use terrace_base::{FileKind, FileNumber, RangeSet, Result, SeqNo, UserKey, mutant};
use terrace_compaction::{
    AddedTable, Flushed, Folding, MergeOptions, OlderRuns, Outputs, Rules, Stripes, VersionEdit,
};
use terrace_wal::{Lsn, Start};

use crate::open::opening::{Found, Opening, log_had};
use crate::open::replay::Replay;
use crate::storage::files::Files;
use crate::storage::version_set::ManifestState;

/// How far sequence numbers and log positions move on after an unclean end.
const SKIP: u64 = 1 << 32;

/// What a new manifest after an unclean end starts from.
pub(crate) struct Basis {
    /// The random number of the database.
    pub(crate) database: u64,
    /// Number of the last edit of the old manifest.
    pub(crate) last_edit: u64,
    /// The last sequence number that was found.
    pub(crate) last_seq: SeqNo,
    /// No position of the log that was found lies above.
    pub(crate) lsn: u64,
    /// Frames behind the log's end; none was promised.
    pub(crate) dropped_frames: u64,
    /// Small tables may be merged and go; a salvage deletes none.
    pub(crate) tidies: bool,
}

impl Opening<'_> {
    /// After an unclean end: the log's tail into new tables, the state into a new manifest.
    pub(crate) fn rebuilt(
        &self,
        mut state: ManifestState,
        basis: &Basis,
        replay: Replay,
    ) -> Result<Found> {
        let log_had = log_had(&replay, basis.dropped_frames);
        let skipped = match mutant("reuse-sequence-number") {
            true => 0,
            false => SKIP,
        };
        let last_seq = basis.last_seq.plus(skipped);
        let found_seq = basis.last_seq;
        let seen = basis.lsn.max(state.flushed.lsn);
        let next_lsn = Lsn(align8(seen).saturating_add(SKIP));
        let mut edit = VersionEdit {
            segments_removed: state.segments.keys().copied().collect(),
            flushed: Some(Flushed {
                lsn: next_lsn.0,
                seq: last_seq,
            }),
            last_seq: Some(last_seq),
            ..self.write_piece(&state, replay, found_seq)?
        };
        edit.blobs_removed = unreferenced(&state, &edit);
        state.apply(&edit, &self.store)?;
        if basis.tidies {
            self.tidy(&mut state, found_seq)?;
        }
        let number = FileNumber(self.free_number(state.file_ceiling));
        state.file_ceiling = number.0 + 1;
        let manifest = self.publish(&state, number, basis.database, basis.last_edit + 1)?;
        Ok(Found {
            state,
            manifest: Some(manifest),
            database: basis.database,
            image: None,
            log: Start {
                next: next_lsn,
                last_seq,
                predecessor: None,
                sealed: Vec::new(),
            },
            last_seq,
            unused: Vec::new(),
            changes: Vec::new(),
            published: true,
            log_had,
        })
    }

    /// Tables of level 0 with the entries of `replay`, up to `last_seq`, which are newer than all
    /// of `state`.
    pub(crate) fn write_tables(
        &self,
        state: &ManifestState,
        edit: &VersionEdit,
        replay: Replay,
        last_seq: SeqNo,
        outputs: &mut RecoveredTables<'_>,
    ) -> Result<Vec<AddedTable>> {
        let mut dropped = state.dropped_keyspaces();
        dropped.extend(edit.keyspaces_dropped.iter().copied());
        let older = OlderRuns::all(&state.version);
        let ranges = edit.ranges_deleted.iter().cloned().map(Arc::new);
        let ranges = RangeSet::new(ranges.collect());
        let combine =
            |key: UserKey<'_>, parts: &[&[u8]]| self.policies.combine_for_good(key, parts);
        let deleted = RangeSet::union([&**state.version.deleted(), &ranges]);
        let options = MergeOptions {
            rules: Rules {
                stripes: &Stripes::new(&[], last_seq),
                dropped_keyspaces: &dropped,
                deleted: &deleted,
                oldest_snapshot: None,
                may_exist_below: &|key| older.may_hold(key),
                folding: Some(Folding {
                    combine: &combine,
                    deleted: &deleted,
                }),
                keeps: None,
                fetch: None,
            },
            target_size: self.options.tuning.table_bytes,
            memory: self.options.job_memory(),
            packings: &self.policies.packings().plain(),
            should_stop: &|| false,
        };
        let result = terrace_compaction::merge(replay.into_sorted(), &options, outputs)?;
        self.files.read_back(&result.tables)?; // Their names become durable with the manifest's.
        let run = result.tables.first().map_or(0, |meta| meta.number.0);
        let added = |meta| AddedTable {
            level: 0,
            run,
            meta,
        };
        Ok(result.tables.into_iter().map(added).collect())
    }
}

/// The blob files that no table refers to once `edit` is in force, which leaves no log.
fn unreferenced(state: &ManifestState, edit: &VersionEdit) -> Vec<FileNumber> {
    let before = state.version.tables().map(|(_, _, table)| table.info());
    let added = edit.added.iter().map(|added| &added.meta.info);
    let used: BTreeSet<FileNumber> = before
        .chain(added)
        .flat_map(|info| info.blobs.iter().map(|(number, _)| *number))
        .collect();
    let listed = state.version.blobs().keys();
    listed
        .copied()
        .filter(|number| !used.contains(number))
        .collect()
}

/// Makes files for the tables that recovery writes; no edit can set numbers aside yet.
pub(crate) struct RecoveredTables<'a> {
    pub(crate) files: &'a Files,
    pub(crate) next_file: u64,
}

impl Outputs for RecoveredTables<'_> {
    fn create(&mut self) -> Result<(FileNumber, u64, u64, terrace_base::vfs::File)> {
        let number = FileNumber(self.next_file);
        self.next_file += 1;
        let fs = &self.files.fs;
        let path: PathBuf = FileKind::Table(number).path(&self.files.dir);
        let file = fs.open(&path, OpenMode::CreateNew)?;
        Ok((number, fs.random(), fs.random(), file))
    }
}
