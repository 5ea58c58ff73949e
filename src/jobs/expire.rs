//! Expired entries: the tables and the memtable that hold many of them go

use terrace_base::Result;
use terrace_compaction::{LEVELS, TableFile, Version};

use crate::engine::Engine;
use crate::jobs::compact::rewrite;
use crate::jobs::flush::{flush_soon, horizon};

/// Asks for a flush if something in memory has expired; for a database that is idle.
pub(crate) fn flush_expired(engine: &Engine) {
    if engine.context.has_expired_in_memory() {
        flush_soon(engine);
    }
}

/// True if time alone may make work: something in memory or in a table expires.
pub(crate) fn awaits_expiry(engine: &Engine) -> bool {
    let view = engine.views.cell.load();
    let mut tables = view.version.tables();
    engine.context.expires_in_memory()
        || tables.any(|(_, _, table)| table.info().expiries.is_some())
}

/// Writes one table again, or removes it, of which enough has expired; false if there is none.
/// Tables of level 0 are left to the merge that they wait for anyway.
pub(crate) fn expire_once(engine: &Engine) -> Result<bool> {
    let version = engine.views.cell.load().version.clone();
    if version
        .tables()
        .all(|(_, _, table)| table.info().expiries.is_none())
    {
        return Ok(false);
    }
    let stripes = horizon(engine, Vec::new()).stripes;
    let time = stripes.time_of(0); // All readers have come so far.
    for (level, _, file) in version.tables() {
        if level == 0 || file.damaged() || !is_due(file, time) {
            continue;
        }
        let settled = file.info().max_seq <= stripes.settled();
        let whole = settled && goes_whole(&version, level, file, time);
        if rewrite(engine, file.number(), whole)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if by `time` enough of a table has expired.
fn is_due(file: &TableFile, time: u64) -> bool {
    let info = file.info();
    info.expiries.is_some_and(|expiries| {
        let many = expiries.entries.saturating_mul(4) >= info.entries;
        time >= if many { expiries.median } else { expiries.last }
    })
}

/// True if by `time` all of a table has expired, and nothing that it hides can return.
fn goes_whole(version: &Version, level: usize, file: &TableFile, time: u64) -> bool {
    let info = file.info();
    let all = |expiries: terrace_sstable::Expiries| {
        expiries.entries == info.entries && expiries.last <= time
    };
    let mut older = (level + 1..LEVELS).flat_map(|n| &version.level(n).runs);
    info.expiries.is_some_and(all)
        && older.all(|run| {
            run.overlapping(info.smallest.as_ref(), info.largest.as_ref())
                .is_empty()
        })
}
