//! What is left of dropped keyspaces and deleted ranges: the tables that hold it are written again
//! or removed, and what holds nothing any more is forgotten.
//!
//! A merge leaves out what a drop or a range delete hides anyway; this file sees to the tables that
//! no merge is due for. Range deletes that hide nothing leave the version many at a time, in one
//! edit. A look at them stops at the first few tables that have to be written again: that takes
//! longer than the rest of the look.

use std::sync::Arc;

use terrace_base::{
    DeletedRange, FileNumber, InternalIterator, KeyRef, KeyspaceId, Result, SeqNo, UserKey, mutant,
};
use terrace_compaction::{Version, VersionEdit};
use terrace_sstable::Table;

use crate::engine::Engine;
use crate::engine::forgetting::MANY_DELETES;
use crate::jobs::compact::rewrite;
use crate::jobs::flush::horizon;
use crate::storage::touched::{touched, whole_keyspace};
use crate::sync::lock;

/// Range deletes that one edit forgets, at most.
const FORGOTTEN_AT_ONCE: usize = 16 << 10;

/// Tables to be written again after which a look ends.
const ENOUGH: usize = 4;

/// Whether tables that hold what is deleted are written again, or only what nothing is left of is
/// forgotten.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    Rewrite,
    Forget,
}

/// Takes a table that holds entries of a dropped keyspace or a deleted range, and removes it or
/// writes it again without them; false if there is none. Tables of level 0 are left to the
/// merge that they wait for anyway.
pub(crate) fn reclaim_once(engine: &Engine) -> Result<bool> {
    Ok(reclaim_keyspace(engine, Effort::Rewrite)? || reclaim_range(engine, Effort::Rewrite)?)
}

/// Forgets what nothing is left of, if range deletes and dropped keyspaces are many, and twice
/// as many as the last look left. Under load merges are due all the time, and come before
/// [`Engine::reclaim_once`].
pub(crate) fn forget_if_many(engine: &Engine) -> Result<()> {
    let kept = || {
        let dropped = engine.versions.lock().state.dropped.len();
        dropped + engine.views.cell.load().version.deleted().len()
    };
    let many = MANY_DELETES.max(2 * lock(&engine.forgetting).left);
    if kept() <= many || mutant("forget-when-idle") {
        return Ok(());
    }
    while reclaim_keyspace(engine, Effort::Forget)? || reclaim_range(engine, Effort::Forget)? {}
    lock(&engine.forgetting).left = kept();
    Ok(())
}

/// Forgets dropped keyspaces that no table holds an entry of, or takes a table that holds
/// entries of one that no reader sees.
fn reclaim_keyspace(engine: &Engine, effort: Effort) -> Result<bool> {
    if forget_unread(engine)? {
        return Ok(true);
    }
    let dropped = engine.versions.lock().state.dropped_keyspaces();
    if dropped.is_empty() {
        return Ok(false);
    }
    let waiting = lock(&engine.forgetting).keyspaces.clone();
    let waits =
        |id: &KeyspaceId| matches!(&waiting, Some((_, ids)) if ids.binary_search(id).is_ok());
    let horizon = horizon(engine, dropped);
    let seen = |at: SeqNo| {
        horizon
            .oldest_snapshot
            .is_some_and(|snapshot| snapshot < at)
    };
    let version = engine.views.cell.load().version.clone();
    let (mut gone, mut holders) = (Vec::new(), Vec::new());
    let unseen = horizon.dropped.iter().copied();
    for (id, at) in unseen.filter(|(id, at)| !seen(*at) && !waits(id)) {
        match hidden_in(&version, &whole_keyspace(id, at))? {
            None => gone.push(id),
            Some((level, number, whole)) if level > 0 && effort == Effort::Rewrite => {
                holders.push((number, whole));
            }
            Some(_) => {}
        }
        if holders.len() >= ENOUGH || gone.len() >= FORGOTTEN_AT_ONCE {
            break;
        }
    }
    if !gone.is_empty() {
        let found = (engine.views.installed(), Arc::new(gone));
        lock(&engine.forgetting).keyspaces.get_or_insert(found);
        if forget_unread(engine)? {
            return Ok(true);
        }
    }
    rewrite_one(engine, holders)
}

/// Forgets the keyspaces that wait for it, if there are any that no reader can need.
fn forget_unread(engine: &Engine) -> Result<bool> {
    let mut forgetting = lock(&engine.forgetting);
    let Some((installed, _)) = &forgetting.keyspaces else {
        return Ok(false);
    };
    let installed = match mutant("forgets-only-without-readers") {
        true => u64::MAX,
        false => *installed,
    };
    if engine.views.is_pinned(installed) {
        return Ok(false);
    }
    let ids = forgetting.keyspaces.take().map(|(_, ids)| ids);
    drop(forgetting);
    forget_keyspaces(engine, ids.as_deref().cloned().unwrap_or_default())
}

/// No entry of the keyspaces `ids` is left, nor can one come back.
fn forget_keyspaces(engine: &Engine, mut ids: Vec<KeyspaceId>) -> Result<bool> {
    let _forgetting = lock(&engine.forgetting);
    let state = engine.versions.lock().state.clone();
    // Another job may have come to the same conclusion, and been first.
    ids.retain(|id| state.dropped.contains_key(id));
    if ids.is_empty() {
        return Ok(true);
    }
    let edit = VersionEdit {
        keyspaces_forgotten: ids,
        ..VersionEdit::default()
    };
    engine.heed(engine.install(&edit))?;
    engine.catalogue.forget_dropped(&edit.keyspaces_forgotten);
    Ok(true)
}

/// Has the first of some tables written again that is not being merged.
fn rewrite_one(engine: &Engine, holders: Vec<(FileNumber, bool)>) -> Result<bool> {
    for (number, whole) in holders {
        if rewrite(engine, number, whole)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Forgets range deletes that hide nothing any more, or takes a table that holds entries which
/// one hides from everybody.
fn reclaim_range(engine: &Engine, effort: Effort) -> Result<bool> {
    let settled = horizon(engine, Vec::new()).stripes.settled();
    let version = engine.views.cell.load().version.clone();
    let deleted = version.deleted();
    let (mut gone, mut holders) = (Vec::new(), Vec::new());
    for range in deleted.ranges().take_while(|range| range.seq <= settled) {
        // All that it hides a later one may hide too.
        let superseded = || deleted.is_superseded(range, settled);
        if mutant("forget-range-early") || superseded() {
            gone.push(range.seq);
            continue;
        }
        match hidden_in(&version, range)? {
            None => gone.push(range.seq),
            Some((level, number, whole)) if level > 0 && effort == Effort::Rewrite => {
                holders.push((number, whole));
            }
            Some(_) => {}
        }
        if holders.len() >= ENOUGH || gone.len() >= FORGOTTEN_AT_ONCE {
            break;
        }
    }
    if !gone.is_empty() {
        return forget(engine, gone);
    }
    rewrite_one(engine, holders)
}

/// No entry that the range deletes at `seqs` hide is left, nor can one come back: whatever a
/// running job writes, it read from the tables that were looked at.
fn forget(engine: &Engine, mut seqs: Vec<SeqNo>) -> Result<bool> {
    let _forgetting = lock(&engine.forgetting);
    let version = engine.views.cell.load().version.clone();
    // Another job may have come to the same conclusion, and been first.
    seqs.retain(|seq| version.deleted().get(*seq).is_some());
    if seqs.is_empty() {
        return Ok(true);
    }
    let edit = VersionEdit {
        ranges_forgotten: seqs,
        ..VersionEdit::default()
    };
    engine.heed(engine.install(&edit))?;
    Ok(true)
}

/// A table that holds an entry which `range` hides, with its level and whether all its entries are
/// hidden; one below level 0 if there is one.
fn hidden_in(version: &Version, range: &DeletedRange) -> Result<Option<(usize, FileNumber, bool)>> {
    let mut in_level0 = None;
    for (level, file) in touched(version, range) {
        let info = file.info();
        let (first, last) = (info.smallest.as_ref(), info.largest.as_ref());
        let whole = info.max_seq < range.seq && range.covers_keys(first, last);
        if !whole && !file.damaged() && !holds_hidden(&*file.table()?, range)? {
            continue;
        }
        if level > 0 && !file.damaged() {
            return Ok(Some((level, file.number(), whole)));
        }
        in_level0 = Some((0, file.number(), whole)); // Or set aside: it waits too.
    }
    Ok(in_level0)
}

/// True if `table` holds an entry that `range` hides.
fn holds_hidden(table: &Arc<Table>, range: &DeletedRange) -> Result<bool> {
    let mut entries = table.iter();
    let lower = UserKey::new(range.keyspace, &range.lower);
    entries.seek(KeyRef::lookup(lower, SeqNo::MAX))?;
    while entries.valid() {
        let key = entries.key();
        if !range.covers_keys(key.user, key.user) {
            return Ok(false);
        }
        if key.seq < range.seq {
            return Ok(true);
        }
        entries.next()?;
    }
    Ok(false)
}

#[cfg(test)]
#[path = "reclaim_tests.rs"]
mod tests;
