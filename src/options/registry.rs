//! The merge operators and compaction filters that the options bring along

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use terrace_base::{Error, Result};

use crate::options::keyspace::KeyspaceOptions;

/// Key, older and newer: what the two are together.
pub(crate) type MergeFn = dyn Fn(&[u8], &[u8], &[u8]) -> Vec<u8> + Send + Sync;

/// Key and value: whether the entry stays.
pub(crate) type FilterFn = dyn Fn(&[u8], &[u8]) -> bool + Send + Sync;

/// What options bring along, by name.
#[derive(Clone, Default)]
pub(crate) struct Registered {
    pub(crate) operators: BTreeMap<String, Arc<MergeFn>>,
    pub(crate) filters: BTreeMap<String, Arc<FilterFn>>,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.operators.keys().chain(self.filters.keys());
        f.debug_list().entries(names).finish()
    }
}

impl Registered {
    /// `Unsupported` if `options` name what is not there; `Invalid` if they say what cannot be.
    pub(crate) fn check(&self, options: &KeyspaceOptions) -> Result<()> {
        options.check()?;
        let operator = options.merge_operator.as_ref();
        if let Some(name) = operator.filter(|name| !self.operators.contains_key(*name)) {
            return Err(Error::unsupported(format!(
                "a keyspace needs the merge operator `{name}`, which Options::merge_operator \
                 does not have"
            )));
        }
        let filter = options.compaction_filter.as_ref();
        if let Some(name) = filter.filter(|name| !self.filters.contains_key(*name)) {
            return Err(Error::unsupported(format!(
                "a keyspace needs the compaction filter `{name}`, which \
                 Options::compaction_filter does not have"
            )));
        }
        Ok(())
    }
}
