//! The tables that a range delete or the drop of a keyspace concerns

use std::sync::Arc;

use terrace_base::{DeletedRange, KeyspaceId, SeqNo, UserKey};
use terrace_compaction::{TableFile, Version};

/// Dropping a keyspace at `at` hides what a delete of all its keys would.
pub(crate) fn whole_keyspace(keyspace: KeyspaceId, at: SeqNo) -> DeletedRange {
    DeletedRange {
        keyspace,
        lower: Box::default(),
        upper: None,
        seq: at,
    }
}

/// The tables that can hold an entry which `range` hides, each with its level.
pub(crate) fn touched<'v>(
    version: &'v Version,
    range: &'v DeletedRange,
) -> impl Iterator<Item = (usize, &'v Arc<TableFile>)> {
    let first = UserKey::new(range.keyspace, &range.lower);
    let last = match &range.upper {
        Some(upper) => UserKey::new(range.keyspace, upper),
        None => UserKey::new(KeyspaceId(range.keyspace.0.saturating_add(1)), &[]),
    };
    let tables = version.runs_newest_first().flat_map(move |(level, run)| {
        let tables = run.tables().part(run.overlapping(first, last));
        let tables = tables.into_iter().flat_map(|tables| tables.iter());
        tables.map(move |table| (level, table))
    });
    tables.filter(move |(_, table)| {
        let info = table.info();
        info.min_seq <= range.seq && range.touches(info.smallest.as_ref(), info.largest.as_ref())
    })
}
