//! Recovery in bounded memory: a long log goes into tables piece by piece, while it is read.
//!
//! What recovery has read of the log lies in a [`Replay`]. Once that is larger than
//! `Tuning::replay_bytes` its entries become tables of level 0, one run a piece, each newer than
//! the one before, and reading goes on. Nothing of this is in force: the tables have names that
//! nothing lists, as all that a recovery writes, until `CURRENT` names the new manifest. If reading
//! fails later they are removed; what a crash leaves of them the next open removes.
//!
//! A clean end needs no tables, but that it was one is only known when the log has been read. A log
//! of more than one piece is therefore always treated as after an unclean end
//! ([`crate::open::rebuild`]), which is right for every log.
//!
//! How the log ends can still change what was read: it ends in front of the first frame above the
//! last promise with a large value that does not verify. The last promise is not known yet, but it
//! can only rise. So a piece is written only if all its large values above the promises so far
//! verify; else the rest of the log stays in memory, and the end of recovery decides.

use std::path::Path;

use terrace_base::{FileKind, FileNumber, Result, SeqNo, mutant};
use terrace_compaction::VersionEdit;
use terrace_wal::{Frame, Lsn};

use crate::open::opening::Opening;
use crate::open::rebuild::RecoveredTables;
use crate::open::replay::Replay;
use crate::storage::version_set::ManifestState;

/// Takes the log in while it is read.
pub(crate) struct Spill<'o, 'a> {
    opening: &'o Opening<'a>,
    manifest: FileNumber,
    pub(crate) replay: Replay,
    /// The highest promise so far.
    synced: Lsn,
    /// A large value did not verify: nothing is written from here on.
    in_doubt: bool,
}

impl<'o, 'a> Spill<'o, 'a> {
    pub(crate) fn new(opening: &'o Opening<'a>, manifest: FileNumber) -> Spill<'o, 'a> {
        Spill {
            opening,
            manifest,
            replay: Replay::default(),
            synced: Lsn(0),
            in_doubt: false,
        }
    }

    /// Takes in one frame. What becomes tables is in `state` from then on.
    pub(crate) fn add(&mut self, frame: &Frame<'_>, state: &mut ManifestState) -> Result<()> {
        self.replay.add(frame)?;
        self.synced = self.synced.max(frame.synced);
        let options = self.opening.options;
        if mutant("recover-in-one-piece") {
            return Ok(());
        }
        if self.replay.held() < options.replay_bytes() || options.read_only || self.in_doubt {
            return Ok(());
        }
        self.check_listed(state)?;
        let blobs = state.version.blobs();
        if self.replay.first_doubtful(self.synced, blobs)?.is_some() {
            self.in_doubt = true;
            return Ok(());
        }
        let opening = self.opening;
        opening.set_policies(state, &self.replay.changes, true)?;
        let last = frame.first_seq.plus(u64::from(frame.count.max(1) - 1));
        let piece = self.replay.take();
        let edit = opening.write_piece(state, piece, last)?;
        state.apply(&edit, &opening.store)
    }

    /// `Corruption` of the manifest if an entry refers to a blob file that it does not list.
    pub(crate) fn check_listed(&self, state: &ManifestState) -> Result<()> {
        let path = FileKind::Manifest(self.manifest).path(self.opening.dir());
        let listed = self.replay.check_listed(state.version.blobs());
        listed.map_err(|error| error.in_file(&path, 0))
    }
}

impl Opening<'_> {
    /// Writes a piece of the log, with entries up to `last`, into tables; the edit that adds all
    /// that was in it to `state`.
    pub(crate) fn write_piece(
        &self,
        state: &ManifestState,
        mut piece: Replay,
        last: SeqNo,
    ) -> Result<VersionEdit> {
        let mut edit = VersionEdit::default();
        for (seq, change) in std::mem::take(&mut piece.changes) {
            change.put_into(seq, &mut edit);
        }
        edit.ranges_deleted.append(&mut piece.ranges);
        let mut next_file = self.free_number(state.file_ceiling);
        let (fs, dir): (_, &Path) = (&self.files.fs, self.dir());
        let copied = piece.copy_large(fs, dir, FileNumber(next_file), state.version.blobs())?;
        edit.blobs_added.extend(copied);
        next_file += edit.blobs_added.len() as u64;
        if !piece.is_empty() {
            let mut outputs = RecoveredTables {
                files: &self.files,
                next_file,
            };
            edit.added = self.write_tables(state, &edit, piece, last, &mut outputs)?;
            next_file = outputs.next_file;
        }
        edit.file_ceiling = Some(next_file);
        Ok(edit)
    }
}

#[cfg(test)]
#[path = "spill_tests.rs"]
mod tests;
