//! Whether an older version of a key may lie outside a job: what decides if its tombstone can go.

use std::sync::Arc;

use terrace_base::UserKey;
use terrace_base::hash::key_hash;

use crate::run::Run;
use crate::table_file::TableFile;
use crate::version::{LEVELS, Version};

/// The runs of a [`Version`] that are older than the output of a job.
#[derive(Clone, Debug, Default)]
pub struct OlderRuns {
    runs: Vec<Arc<Run>>,
}

impl OlderRuns {
    /// The runs below `level`.
    pub fn below(version: &Version, level: usize) -> OlderRuns {
        let runs = (level + 1..LEVELS).flat_map(|n| version.level(n).runs.iter().cloned());
        OlderRuns {
            runs: runs.collect(),
        }
    }

    /// The runs of all levels that are older than the one of level 0 which `tables` are of.
    pub fn than(version: &Version, tables: &[Arc<TableFile>]) -> OlderRuns {
        let first = tables.first().map(|table| table.number());
        let holds = |run: &&Arc<Run>| run.tables().first().map(|table| table.number()) == first;
        let runs = version.runs().iter();
        let older = runs.rev().take_while(|run| !holds(run));
        OlderRuns {
            runs: older.cloned().collect(),
        }
    }

    /// Every run: what is older than a memtable.
    pub fn all(version: &Version) -> OlderRuns {
        let runs = version.runs_newest_first();
        OlderRuns {
            runs: runs.map(|(_, run)| Arc::clone(run)).collect(),
        }
    }

    /// False only if it is certain that none of the runs holds `key`: no table covers it, or the
    /// filter of the one that does says no. A table that cannot be opened may hold it.
    pub fn may_hold(&self, key: UserKey<'_>) -> bool {
        let mut candidates = self.runs.iter().filter_map(|run| run.find(key)).peekable();
        if candidates.peek().is_none() {
            return false;
        }
        let hash = key_hash(key);
        candidates.any(|file| match file.table() {
            Ok(table) => table.may_contain(key, hash),
            Err(_) => true,
        })
    }
}
