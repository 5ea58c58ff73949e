//! Gives back what is dead in blob files.
//!
//! A file leaves by an edit once no table refers to it, no writer uses it, and whatever the
//! commit path wrote with a reference to it is in tables; its bytes then go with the last reader of
//! an older view. A file of which much is dead is *collected*: the tables that refer to it are
//! written again in place, as merges with all their rules, and values that stay are copied into a
//! new file. A merge keeps sequence numbers and places, so that nothing that was deleted meanwhile
//! can come back.
//!
//! Which values are dead, tables tell only once both references of a key have met in a merge. So
//! level 0 is due for a merge by what its tables refer to, too ([`Engine::blobs_due`]), and where
//! much has piled up this file's work comes before other merges, unless level 0 is overdue.
//!
//! While the database is at work a file is collected when three quarters of it are dead, or half of
//! it if there is more dead than alive in all. An idle one collects down to a third, so it settles
//! at one and a half times what is alive.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use terrace_base::{Error, FileNumber, Result, SeqNo, mutant};
use terrace_compaction::{BlobFile, Version, VersionEdit};

use crate::engine::Engine;
use crate::jobs::compact::rewrite;
use crate::jobs::flush::flush_soon;
use crate::storage::blob_files::Blobs;
use crate::sync::lock;

/// Minimum bytes of unflushed large values for which an idle database flushes.
const WORTH_A_FLUSH: u64 = 8 << 20;

/// As many files' worth of dead values, beyond as much as is alive, are too much.
const FILES_PILED_UP: u64 = 4;

/// With as many files' worth of values that no flush has seen, or that are dead beyond twice what
/// is alive, a writer that needs a new file waits.
const FILES_UNFLUSHED: u64 = 8;
const FILES_DEAD: u64 = 8;
/// How long at most, and how long before it looks again.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_millis(5);

/// A file and how much of it is alive.
#[derive(Debug)]
struct Known {
    number: FileNumber,
    size: u64,
    live: u64,
}

impl Known {
    fn dead(&self) -> u64 {
        self.size.saturating_sub(self.live)
    }
}

impl Blobs {
    /// A value in `number` cannot be read. The file is collected no more.
    pub(crate) fn note_damage(&self, number: FileNumber, error: Error) {
        let mut damaged = lock(&self.damaged);
        if !damaged.iter().any(|(known, _)| *known == number) {
            damaged.push((number, error));
        }
        *lock(&self.victims) = Arc::default();
    }

    /// What merges found damaged, if anything.
    pub(crate) fn damage(&self) -> Option<Error> {
        lock(&self.damaged).first().map(|(_, error)| error.clone())
    }

    fn is_damaged(&self, number: FileNumber) -> bool {
        lock(&self.damaged)
            .iter()
            .any(|(known, _)| *known == number)
    }
}

/// Removes files that nothing refers to, or copies live values out of one table's share of
/// files that hold little else; false if there is nothing to do.
pub(crate) fn tend_blobs(engine: &Engine, idle: bool) -> Result<bool> {
    if engine.views.cell.load().version.blobs().is_empty() {
        return Ok(false);
    }
    let (version, known) = known_files(engine, idle);
    let removing = lock(&engine.forgetting);
    let listed = engine.views.cell.load().version.clone();
    let unused: Vec<FileNumber> = known
        .iter()
        .filter(|file| file.live == 0)
        .map(|file| file.number)
        .filter(|number| listed.blobs().contains_key(number)) // Another thread was first.
        .collect();
    if !unused.is_empty() {
        let edit = VersionEdit {
            blobs_removed: unused,
            ..VersionEdit::default()
        };
        engine.heed(engine.install(&edit))?;
        let gone = |number: &FileNumber| edit.blobs_removed.contains(number);
        lock(&engine.blobs.made).retain(|made| !gone(&made.file.meta.number));
        return Ok(true);
    }
    drop(removing);
    collect(engine, &version, known, idle)
}

/// From how many bytes that tables of level 0 refer to on its merge is due: it is the first to
/// tell which of the values below are dead.
pub(crate) fn blobs_due(engine: &Engine) -> u64 {
    let view = engine.views.cell.load();
    if view.version.blobs().is_empty() || mutant("blobs-wait-for-runs") {
        return u64::MAX;
    }
    let below = view.version.tables().filter(|(level, _, _)| *level > 0);
    let infos = below.flat_map(|(_, _, table)| &table.info().blobs);
    let referred: u64 = infos.map(|(_, bytes)| bytes).sum();
    (referred / 2).max(2 * engine.blobs.target())
}

/// True if so much is dead that it must not wait until the database has nothing else to do.
pub(crate) fn blobs_pile_up(engine: &Engine) -> bool {
    let (live, dead) = live_and_dead(engine);
    dead > live.saturating_add(FILES_PILED_UP * engine.blobs.target())
        && !mutant("blobs-wait-for-runs")
}

/// Bytes in blob files that tables refer to, and those that neither tables nor what is in
/// memory does.
fn live_and_dead(engine: &Engine) -> (u64, u64) {
    let version = engine.views.cell.load().version.clone();
    if version.blobs().is_empty() {
        return (0, 0);
    }
    let live: u64 = version.blob_bytes().values().sum();
    engine.blobs.note_live(live);
    let all: u64 = version.blobs().values().map(|file| file.size()).sum();
    let unflushed = engine.blobs.unflushed.load(Ordering::Relaxed);
    (live, all.saturating_sub(live).saturating_sub(unflushed))
}

/// Holds up a writer that needs a new file while flushes and collection are late: for
/// a while, as both are also slow on a disk that is.
pub(crate) fn wait_for_blobs(engine: &Engine) {
    if engine.options.tuning.manual || mutant("blobs-wait-for-runs") {
        return; // There is no thread that would catch up.
    }
    for _ in 0..LONGEST_WAIT.as_millis() / WAIT.as_millis() {
        let file = engine.blobs.target();
        let (live, dead) = live_and_dead(engine);
        let unflushed = engine.blobs.unflushed.load(Ordering::Relaxed);
        let far = unflushed > FILES_UNFLUSHED * file || dead > 2 * live + FILES_DEAD * file;
        if !far || engine.committer.failure().is_some() {
            return;
        }
        std::thread::sleep(WAIT);
    }
}

/// Those files of which it is known what is alive in them.
fn known_files(engine: &Engine, idle: bool) -> (Arc<Version>, Vec<Known>) {
    // A file that is listed and not in use yet must not look like one that was.
    let _making = engine.blobs.hold();
    let (version, flushed) = {
        let versions = engine.versions.lock();
        (versions.state.version.clone(), versions.state.flushed.seq)
    };
    let live = version.blob_bytes();
    let files = version.blobs().values();
    let settled = files.filter(|file| is_settled(engine, file, flushed, idle, &live));
    let known = |file: &Arc<BlobFile>| Known {
        number: file.meta().number,
        size: file.size(),
        live: live.get(&file.meta().number).copied().unwrap_or(0),
    };
    let known = settled.map(known).collect();
    (version, known)
}

/// True if all entries that the commit path wrote with a reference to `file`, or will, are in
/// tables. The active file of an idle database is given up for this if much of it is dead.
fn is_settled(
    engine: &Engine,
    file: &BlobFile,
    flushed: SeqNo,
    idle: bool,
    live: &std::collections::BTreeMap<FileNumber, u64>,
) -> bool {
    let number = file.meta().number;
    let mut made = lock(&engine.blobs.made);
    let Some(made) = made.iter_mut().find(|made| made.file.meta.number == number) else {
        return flushed >= engine.blobs.found_upto;
    };
    if mutant("blob-ignores-memtable") {
        return true;
    }
    if let Some(last) = made.last_seq {
        return flushed >= last;
    }
    let active = lock(&engine.blobs.active)
        .as_ref()
        .map(|active| active.file.meta.number);
    if active == Some(number) {
        let live = live.get(&number).copied().unwrap_or(0);
        let dead = file.size().saturating_sub(live);
        let covered = flushed >= engine.committer.end().1;
        if !idle || !covered || dead.saturating_mul(3) <= file.size() {
            return false;
        }
        engine.blobs.retire(number);
    }
    // No new writer can start on it; the ones that have started are counted.
    if made.file.writers.load(Ordering::Acquire) > 0 {
        return false;
    }
    let last = engine.committer.end().1;
    made.last_seq = Some(last);
    flushed >= last
}

/// Has one table written again without references to files that are mostly dead.
fn collect(engine: &Engine, version: &Version, known: Vec<Known>, idle: bool) -> Result<bool> {
    let live: u64 = known.iter().map(|file| file.live).sum();
    let dead: u64 = known.iter().map(Known::dead).sum();
    let is_due = |file: &&Known| {
        let share = match (idle, dead > live) {
            (true, _) => file.dead().saturating_mul(3) > file.size,
            (_, true) => file.dead().saturating_mul(2) > file.size,
            _ => file.dead().saturating_mul(4) > file.size.saturating_mul(3),
        };
        share && !engine.blobs.is_damaged(file.number)
    };
    let due = known.iter().filter(is_due).map(|file| file.number);
    let victims: Arc<BTreeSet<FileNumber>> = Arc::new(due.collect());
    *lock(&engine.blobs.victims) = victims.clone();
    if victims.is_empty() {
        return Ok(false);
    }
    for (level, _, table) in version.tables() {
        let refers = |(number, _): &(FileNumber, u64)| victims.contains(number);
        let holds = level > 0 && !table.damaged() && table.info().blobs.iter().any(refers);
        if holds && rewrite(engine, table.number(), false)? {
            return Ok(true);
        }
    }
    Ok(false) // Level 0 waits for its merge, which does the same.
}

/// Asks for a flush that tells what is dead in blob files; for a database that is idle.
pub(crate) fn flush_large(engine: &Engine) {
    if engine.blobs.unflushed.load(Ordering::Relaxed) >= WORTH_A_FLUSH.min(engine.blobs.target()) {
        flush_soon(engine);
    }
}
