//! What is about to be forgotten of dropped keyspaces and range deletes

use std::sync::Arc;

use terrace_base::KeyspaceId;

/// More range deletes than this, or dropped keyspaces, are not left to an idle database.
pub(crate) const MANY_DELETES: usize = 256;

/// What is about to be forgotten.
#[derive(Debug, Default)]
pub(crate) struct Forgetting {
    /// Dropped keyspaces of which no entry is left, and how many views had been installed when that
    /// was found. A reader of an older view may have begun before the drop, and still need the
    /// keyspace's merge operator.
    pub(crate) keyspaces: Option<(u64, Arc<Vec<KeyspaceId>>)>,
    /// What the last look left, of range deletes and dropped keyspaces together.
    pub(crate) left: usize,
}
