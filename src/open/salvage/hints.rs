//! What the edits that still verify say, where the manifest as a whole cannot be believed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use terrace_base::{DeletedRange, ErrorKind, FileKind, FileNumber, Result, SeqNo};
use terrace_compaction::{TableMeta, VersionEdit};
use terrace_wal::LinkedUse;

use super::lenient::read_leniently;
use crate::open::opening::Opening;
use crate::storage::manifest;
use crate::storage::version_set::{FILE_NUMBERS, ManifestState};

/// What edits say, each taken for itself.
#[derive(Debug)]
pub(super) struct Hints {
    /// All but the tree and the segments.
    pub state: ManifestState,
    pub database: Option<u64>,
    pub last_edit: u64,
    /// Tables that were added at some time.
    pub tables: BTreeMap<FileNumber, TableMeta>,
    /// Tables that were taken out: numbers are never reused, so these are leftovers.
    pub removed: HashSet<FileNumber>,
    /// The salts of segments, in the order of their uses.
    pub salts: Vec<(FileNumber, u64)>,
    /// Range deletes, by when they were written; also those that hid nothing any more, since
    /// leftovers may hold it.
    pub ranges: BTreeMap<SeqNo, DeletedRange>,
}

impl Hints {
    pub fn new() -> Hints {
        Hints {
            state: ManifestState::new(),
            database: None,
            last_edit: 0,
            tables: BTreeMap::new(),
            removed: HashSet::new(),
            salts: Vec::new(),
            ranges: BTreeMap::new(),
        }
    }

    fn take(&mut self, number: u64, edit: &VersionEdit) {
        self.last_edit = self.last_edit.max(number);
        for added in &edit.added {
            self.tables.insert(added.meta.number, added.meta.clone());
        }
        self.removed
            .extend(edit.removed.iter().map(|table| table.number));
        let salts = edit.segments_added.iter().map(|s| (s.number, s.salt));
        self.salts.extend(salts);
        let ranges = edit.ranges_deleted.iter();
        self.ranges
            .extend(ranges.map(|range| (range.seq, range.clone())));
        let state = &mut self.state;
        if let Some(flushed) = edit.flushed {
            state.flushed.lsn = state.flushed.lsn.max(flushed.lsn);
            state.flushed.seq = state.flushed.seq.max(flushed.seq);
            state.last_seq = state.last_seq.max(flushed.seq);
        }
        let ceiling = edit.file_ceiling.filter(|ceiling| *ceiling <= FILE_NUMBERS);
        state.file_ceiling = state.file_ceiling.max(ceiling.unwrap_or(0));
        for record in &edit.keyspaces_created {
            state.keyspaces.insert(record.id, Arc::new(record.clone()));
            state.next_keyspace = state.next_keyspace.max(record.id.0.saturating_add(1));
        }
        for (id, options) in &edit.keyspaces_changed {
            if let Ok(record) = state.keyspace(*id) {
                record.options.clone_from(options);
            }
        }
        for (id, name) in &edit.keyspaces_renamed {
            if let Ok(record) = state.keyspace(*id) {
                record.name.clone_from(name);
            }
        }
        state.dropped.extend(edit.keyspaces_dropped.iter().copied());
        let next = edit.next_keyspace.unwrap_or(0);
        state.next_keyspace = state.next_keyspace.max(next);
        state.last_seq = state.last_seq.max(edit.last_seq.unwrap_or_default());
    }

    /// The salts to try on each segment file, the likeliest first: its link's own, its last, those
    /// of the others.
    ///
    /// A use that no edit names may be a later one than the manifest knows, or of another database.
    /// It is the former if its link follows a known use, or one that does; and all are believed
    /// where no file has a known use.
    pub fn salts_of(&self, uses: &BTreeMap<FileNumber, Option<LinkedUse>>) -> Vec<Vec<u64>> {
        let named: BTreeSet<(FileNumber, u64)> = self.salts.iter().copied().collect();
        let all = || {
            uses.iter()
                .filter_map(|(number, found)| Some((*number, (*found)?)))
        };
        let mut ours = named.clone();
        if !all().any(|(number, found)| named.contains(&(number, found.salt))) {
            ours.extend(all().map(|(number, found)| (number, found.salt)));
        }
        while let Some((number, found)) = all().find(|(number, found)| {
            let follows = found
                .predecessor
                .is_some_and(|before| ours.contains(&before));
            follows && !ours.contains(&(*number, found.salt))
        }) {
            ours.insert((number, found.salt));
        }
        let salts_for = |(number, found): (&FileNumber, &Option<LinkedUse>)| {
            let of = |own: bool| {
                let salts = self.salts.iter().rev();
                let salts = salts.filter(move |(n, _)| (n == number) == own);
                salts.map(|(_, salt)| *salt)
            };
            let own = found.filter(|found| ours.contains(&(*number, found.salt)));
            let mut seen = BTreeSet::new();
            let all = own
                .map(|found| found.salt)
                .into_iter()
                .chain(of(true))
                .chain(of(false));
            all.filter(|salt| seen.insert(*salt)).collect()
        };
        uses.iter().map(salts_for).collect()
    }
}

/// A manifest of the directory that has a header.
#[derive(Debug)]
pub(super) struct Candidate {
    pub number: FileNumber,
    pub salt: u64,
    pub database: u64,
    bytes: Bytes,
}

/// The manifests in the directory whose headers verify, newest first.
pub(super) fn candidates(opening: &Opening<'_>) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for name in &opening.names {
        let FileKind::Manifest(number) = *name else {
            continue;
        };
        if number.0 >= FILE_NUMBERS {
            continue; // Nobody's.
        }
        let path = name.path(opening.dir());
        let (bytes, _) = read_leniently(&opening.files.fs, &path, None)?;
        if let Some((salt, database)) = manifest::identity_of(&bytes, number)? {
            found.push(Candidate {
                number,
                salt,
                database,
                bytes,
            });
        }
    }
    found.sort_by_key(|candidate| std::cmp::Reverse(candidate.number));
    Ok(found)
}

/// What all manifests of the database say; `current` is what `CURRENT` names, if it verifies.
pub(super) fn gather(opening: &Opening<'_>, current: Option<(FileNumber, u64)>) -> Result<Hints> {
    let mut candidates = candidates(opening)?;
    // A file of that number with another salt is not the one that was in force.
    candidates
        .retain(|c| current.is_none_or(|(number, salt)| c.number != number || c.salt == salt));
    let named = candidates
        .iter()
        .find(|c| current.is_some_and(|(number, _)| c.number == number));
    let database = named.or(candidates.first()).map(|c| c.database);
    let mut hints = Hints::new();
    hints.database = database;
    for candidate in candidates.iter().rev() {
        if Some(candidate.database) == database {
            manifest::edits_in(&candidate.bytes, candidate.salt, &mut |number, edit| {
                hints.take(number, edit);
            })?;
        }
    }
    for id in hints.state.dropped.keys() {
        hints.state.keyspaces.remove(id);
    }
    match names_something(opening, &hints)? {
        true => Ok(hints),
        false => Ok(Hints::new()), // The manifest of another database.
    }
}

/// False if the hints name files and none in the directory is one of those, though there are some.
fn names_something(opening: &Opening<'_>, hints: &Hints) -> Result<bool> {
    if hints.tables.is_empty() && hints.salts.is_empty() {
        return Ok(true);
    }
    let mut others = false;
    for name in &opening.names {
        let path = name.path(opening.dir());
        match *name {
            FileKind::Table(number) if !hints.removed.contains(&number) => {
                let (bytes, _) = read_leniently(&opening.files.fs, &path, None)?;
                let identity = terrace_sstable::identify(&bytes)?;
                let known = hints.tables.get(&number).map(|meta| meta.info.id);
                match identity {
                    Some(identity) if known == Some(identity.id) => return Ok(true),
                    Some(_) => others = true,
                    None => {}
                }
            }
            FileKind::Segment(number) => {
                let (bytes, _) = read_leniently(&opening.files.fs, &path, None)?;
                match terrace_wal::use_in_link(&bytes) {
                    Some(found) if hints.salts.contains(&(number, found.salt)) => return Ok(true),
                    Some(_) => others = true,
                    None => {}
                }
            }
            _ => {}
        }
    }
    Ok(!others)
}

/// True for an error that says that what was read is damaged or unreadable.
pub(super) fn is_damage(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Corruption | ErrorKind::Io | ErrorKind::NotFound
    )
}
