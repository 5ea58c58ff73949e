//! The next step that takes a range down to the last level.
//!
//! From the top: level 0, then each level with a table in the range goes into the next that holds
//! anything, as many adjacent tables at a time as a job may take, so that tables at the seams are
//! rewritten once. Last, tables of the last level are rewritten whose compression is not the wanted
//! one, or whose tombstones can all go.

use std::collections::HashSet;
use std::ops::{Bound, Range};
use std::sync::Arc;

use terrace_base::{FileNumber, KeyspaceId, UserKey};

use super::leveled::Picker;
use super::{Compaction, CompactionKind, LAST, PickOptions, run_at};
use crate::table_file::TableFile;
use crate::version::Version;

/// A range of user keys in a keyspace, or everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    keyspace: Option<KeyspaceId>,
    start: Bound<&'a [u8]>,
    end: Bound<&'a [u8]>,
}

impl<'a> KeyRange<'a> {
    /// Every key of every keyspace.
    pub const ALL: KeyRange<'static> = KeyRange {
        keyspace: None,
        start: Bound::Unbounded,
        end: Bound::Unbounded,
    };

    /// The keys from `start` to `end` of `keyspace`.
    pub const fn new(
        keyspace: KeyspaceId,
        start: Bound<&'a [u8]>,
        end: Bound<&'a [u8]>,
    ) -> KeyRange<'a> {
        KeyRange {
            keyspace: Some(keyspace),
            start,
            end,
        }
    }

    /// True if some key of the closed range from `smallest` to `largest` may lie in this one.
    pub fn overlaps(&self, smallest: UserKey<'_>, largest: UserKey<'_>) -> bool {
        let Some(keyspace) = self.keyspace else {
            return true;
        };
        let at = |bytes| UserKey { keyspace, bytes };
        let starts = match self.start {
            Bound::Unbounded => largest >= at(&[]),
            Bound::Included(start) => largest >= at(start),
            Bound::Excluded(start) => largest > at(start),
        };
        let ends = match self.end {
            Bound::Unbounded => smallest.keyspace <= keyspace,
            Bound::Included(end) => smallest <= at(end),
            Bound::Excluded(end) => smallest < at(end),
        };
        starts && ends && !self.is_inverted()
    }

    fn is_inverted(&self) -> bool {
        match (self.start, self.end) {
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end))
            | (Bound::Excluded(start), Bound::Included(end)) => start >= end,
            _ => false,
        }
    }

    /// True if `table` may hold a key of this range.
    pub fn touches(&self, table: &TableFile) -> bool {
        let info = table.info();
        self.overlaps(info.smallest.as_ref(), info.largest.as_ref())
    }
}

/// Tells by level and number which tables a caller of [`pick_range`] wants to go down.
pub type Among<'a> = dyn Fn(usize, FileNumber) -> bool + 'a;

/// The next step that takes those tables of `range` down that are `among` the wanted; `None` if
/// they lie in the last level as they should, or what is left waits for `busy` tables or is
/// damaged. So `None` while nothing is busy means done. Where new tables keep arriving, `among`
/// says which were there at the start.
pub fn pick_range(
    version: &Version,
    range: &KeyRange<'_>,
    among: &Among<'_>,
    options: &PickOptions,
    busy: &HashSet<FileNumber>,
) -> Option<Compaction> {
    let picker = Picker::new(version, options, busy);
    let wanted =
        |level: usize, table: &TableFile| range.touches(table) && among(level, table.number());
    level0(&picker, |table| wanted(0, table))
        .or_else(|| {
            (1..LAST).find_map(|level| downwards(&picker, level, |table| wanted(level, table)))
        })
        .or_else(|| last(&picker, |table| wanted(LAST, table)))
}

/// All oldest runs up to the newest with a wanted table.
fn level0(picker: &Picker<'_>, wanted: impl Fn(&TableFile) -> bool) -> Option<Compaction> {
    let runs = picker.oldest_free_runs();
    let newest = runs
        .iter()
        .position(|run| run.tables().iter().any(|table| wanted(table)))?;
    picker.merge_level0(runs.get(newest..)?)
}

fn downwards(
    picker: &Picker<'_>,
    level: usize,
    wanted: impl Fn(&TableFile) -> bool,
) -> Option<Compaction> {
    let full = |n: &usize| !picker.version.level(*n).is_empty();
    let output = (level + 1..LAST).find(full).unwrap_or(LAST);
    let tables = run_at(picker.version, level)?.tables();
    tables.iter().enumerate().find_map(|(i, table)| {
        if !wanted(table) {
            return None;
        }
        if picker.can_move(level, table, output) {
            let runs = vec![(level, vec![Arc::clone(table)])];
            return Some(picker.plan(runs, output, CompactionKind::Move));
        }
        picker.merge_around(level, output, i, &wanted)
    })
}

/// Adjacent tables of the last level that are not as they should be.
fn last(picker: &Picker<'_>, among: impl Fn(&TableFile) -> bool) -> Option<Compaction> {
    let wanted = |table: &TableFile| {
        let well_packed = picker.options.well_packed(table.info());
        let stale = !well_packed || picker.tombstones_can_go(table);
        stale && among(table)
    };
    let tables = run_at(picker.version, LAST)?.tables();
    let open = |range: Range<usize>| {
        let tables = tables.part(range)?;
        picker.partners(LAST, tables.iter(), LAST)
    };
    let first = (0..tables.len())
        .find(|&i| tables.get(i).is_some_and(|table| wanted(table)) && open(i..i + 1).is_some())?;
    let mut chosen = open(first..first + 1)?;
    for end in first + 1..tables.len() {
        match open(first..end + 1) {
            Some(wider)
                if wider.last().is_some_and(|table| wanted(table))
                    && wider.bytes() <= picker.options.max_job_bytes =>
            {
                chosen = wider;
            }
            _ => break,
        }
    }
    Some(picker.rewrite(chosen.to_vec()))
}
