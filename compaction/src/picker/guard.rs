//! Which steps may run beside the jobs that are running.
//!
//! The *hull* of a job is the closed range from the least to the greatest key of its inputs; its
//! new tables lie in there, and may span every gap. Two hulls at one output level must be disjoint.
//! All that is known of running jobs is which tables are busy, so three rules keep that true:
//!
//! 1. No table of the output level that overlaps the hull is busy.
//! 2. The nearest tables to the left and to the right of the hull are not both busy: they may be
//!    inputs of one job, whose output will span the gap between them. So a job's inputs stay
//!    adjacent while it runs.
//! 3. A step with several tables of a level spans gaps of its own. No busy table above that level
//!    overlaps its range: its job may be about to fill such a gap.
//!
//! ```text
//! L5          [e-f]            the move of [e-f] to L6 waits: [a-c] and [h-k] are being rewritten,
//! L6  [a-c]*         [h-k]*    and the new table may be [a-k]
//! ```
//!
//! The rules may make a step wait that could run; it runs later.

use std::sync::Arc;

use super::leveled::Picker;
use super::{Hull, hull, run_at};
use crate::run::Tables;
use crate::table_file::TableFile;
use crate::version::LEVELS;

impl<'a> Picker<'a> {
    /// The tables of level `output` that a merge of `inputs`, of level `level`, must take along.
    /// `None` if it must wait for a running job, or needs a damaged table.
    pub fn partners<'t>(
        &self,
        level: usize,
        inputs: impl Iterator<Item = &'t Arc<TableFile>> + Clone,
        output: usize,
    ) -> Option<Tables<'a>> {
        let (first, last) = hull(inputs.clone())?;
        if self.blocked.any(inputs.clone()) {
            return None;
        }
        if level > 0 && inputs.take(2).count() > 1 && self.busy_above(level, (first, last)) {
            return None;
        }
        let Some(run) = run_at(self.version, output) else {
            return Some(Tables::NONE);
        };
        let range = run.overlapping(first, last);
        let tables = run.tables();
        let busy = |i: Option<usize>| {
            let table = i.and_then(|i| tables.get(i));
            table.is_some_and(|table| self.blocked.busy.contains(&table.number()))
        };
        if busy(range.start.checked_sub(1)) && busy(Some(range.end)) {
            return None;
        }
        let partners = tables.part(range)?;
        (!self.blocked.any(partners.iter())).then_some(partners)
    }

    /// True if `table`, of level `level`, can become a table of `output` as it is.
    pub fn can_move(&self, level: usize, table: &Arc<TableFile>, output: usize) -> bool {
        let partners = self.partners(level, [table].into_iter(), output);
        self.fits_as_it_is(table, output) && partners.is_some_and(|partners| partners.is_empty())
    }

    /// True if a busy table above `level` overlaps `hull`.
    fn busy_above(&self, level: usize, (first, last): Hull<'_>) -> bool {
        let runs = (0..level.min(LEVELS)).flat_map(|n| &self.version.level(n).runs);
        runs.into_iter().any(|run| {
            let tables = run.tables().part(run.overlapping(first, last));
            let mut tables = tables.unwrap_or(Tables::NONE).iter();
            tables.any(|table| self.blocked.busy.contains(&table.number()))
        })
    }
}
