//! What keyspaces decide about their entries: by the caller's code, merge operators and compaction
//! filters, and by thresholds and packings.
//!
//! [`Options`](crate::Options) bring them along under names; a keyspace stores the names. Here the
//! two meet: what a keyspace's operands mean, and which of its entries compactions leave out.
//! Readers and jobs come here on cold paths, and hold no lock while the caller's code runs. A panic
//! in it is caught: a reader gets an error, a job leaves the entries as they are, and
//! [`Db::health`](crate::Db::health) tells of the first one until the database is closed.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use terrace_base::key::MAX_VALUE_LEN;
use terrace_base::{Error, ErrorKind, KeyspaceId, PersistentMap, Result, UserKey};
use terrace_compaction::{Packing, Packings};

use crate::logging::{Plain, event};
use crate::options::Options;
use crate::options::keyspace::KeyspaceOptions;
use crate::options::registry::{FilterFn, MergeFn, Registered};
use crate::sync::{ArcCell, Mutex, Rank, lock};

#[derive(Clone)]
struct Policy {
    operator: Option<Arc<MergeFn>>,
    filter: Option<Arc<FilterFn>>,
    threshold: Option<usize>,
    packing: Packing,
}

/// The policies of all keyspaces that have any, and what follows from them. A copy costs nothing,
/// one more entry the logarithm of their number.
#[derive(Clone, Default)]
struct All {
    /// Of dropped keyspaces too, until no entry of theirs is left: a snapshot may still see those.
    by_keyspace: PersistentMap<KeyspaceId, Policy>,
    /// How many keyspaces have each threshold.
    thresholds: PersistentMap<usize, usize>,
    /// How many have a filter.
    filters: usize,
}

impl All {
    /// Puts `policy` in place of what the keyspace had; `None` has it forgotten.
    fn replace(&mut self, id: KeyspaceId, policy: Option<Policy>) {
        if let Some(new) = &policy {
            self.filters += usize::from(new.filter.is_some());
            if let Some(threshold) = new.threshold {
                let alike = self.thresholds.get(&threshold).copied().unwrap_or(0);
                self.thresholds.insert(threshold, alike + 1);
            }
        }
        let before = match policy {
            Some(policy) => self.by_keyspace.insert(id, policy),
            None => self.by_keyspace.remove(&id),
        };
        let Some(before) = before else { return };
        self.filters -= usize::from(before.filter.is_some());
        if let Some(threshold) = before.threshold {
            match self.thresholds.get(&threshold).copied().unwrap_or(0) {
                0 | 1 => self.thresholds.remove(&threshold),
                alike => self.thresholds.insert(threshold, alike - 1),
            };
        }
    }
}

/// What an open database's keyspaces decide.
pub(crate) struct Policies {
    pub(crate) registered: Registered,
    all: ArcCell<All>,
    /// From how many bytes on values go into blob files, where the keyspace does not say.
    default_threshold: usize,
    /// No keyspace has a threshold below.
    large_from: AtomicUsize,
    /// Of keyspaces that do not say.
    default_packing: Packing,
    packings: ArcCell<Packings>,
    /// The first panic.
    trouble: Mutex<Option<Error>>,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policies({:?})", self.registered)
    }
}

impl Policies {
    /// Those of `options`; nothing is known of keyspaces yet.
    pub(crate) fn new(options: &Options) -> Policies {
        let default_threshold = options.tuning.blob_threshold;
        let default_packing = Packing {
            compression: options.compression,
            ..Packing::default()
        };
        let packings = Packings::new(default_packing, BTreeMap::new());
        Policies {
            registered: options.registered.clone(),
            default_packing,
            packings: ArcCell::new(Arc::new(packings)),
            default_threshold,
            large_from: AtomicUsize::new(default_threshold),
            all: ArcCell::new(Arc::default()),
            trouble: Mutex::new(Rank::Leaf, None),
        }
    }

    /// The keyspace has these options from now on. Calls come one after the other: under the
    /// catalogue's lock, or from the thread that opens.
    pub(crate) fn set(&self, id: KeyspaceId, options: &KeyspaceOptions) {
        let (operator, filter) = (&options.merge_operator, &options.compaction_filter);
        let policy = Policy {
            operator: operator
                .as_ref()
                .and_then(|name| self.registered.operators.get(name).cloned()),
            filter: filter
                .as_ref()
                .and_then(|name| self.registered.filters.get(name).cloned()),
            threshold: options.threshold(),
            packing: options.packing(self.default_packing),
        };
        let all = self.all.load_full();
        let plain = policy.operator.is_none()
            && policy.filter.is_none()
            && policy.threshold.is_none()
            && policy.packing == self.default_packing;
        if plain && !all.by_keyspace.contains_key(&id) {
            return;
        }
        let mut packings = (*self.packings.load_full()).clone();
        packings.set(id, policy.packing);
        let mut all = (*all).clone();
        all.replace(id, (!plain).then_some(policy));
        self.publish(all, packings);
    }

    /// Forgets dropped keyspaces that nothing is left of.
    pub(crate) fn forget(&self, ids: &[KeyspaceId]) {
        let mut all = (*self.all.load_full()).clone();
        let mut packings = (*self.packings.load_full()).clone();
        for id in ids {
            all.replace(*id, None);
            packings.set(*id, self.default_packing);
        }
        self.publish(all, packings);
    }

    fn publish(&self, all: All, packings: Packings) {
        let least = all.thresholds.first().map(|(threshold, _)| *threshold);
        let least = least.unwrap_or(usize::MAX).min(self.default_threshold);
        self.packings.store(Arc::new(packings));
        self.all.store(Arc::new(all));
        self.large_from.store(least, Ordering::Release);
    }

    fn operator(&self, id: KeyspaceId) -> Option<Arc<MergeFn>> {
        self.all.load().by_keyspace.get(&id)?.operator.clone()
    }

    fn filter(&self, id: KeyspaceId) -> Option<Arc<FilterFn>> {
        self.all.load().by_keyspace.get(&id)?.filter.clone()
    }

    /// The smallest threshold of all keyspaces, in bytes: smaller values go into no blob file.
    #[inline]
    pub(crate) fn large_from(&self) -> usize {
        self.large_from.load(Ordering::Relaxed)
    }

    /// From how many bytes on values of a keyspace go into blob files.
    pub(crate) fn threshold(&self, id: KeyspaceId) -> usize {
        let all = self.all.load();
        let own = all.by_keyspace.get(&id).and_then(|policy| policy.threshold);
        own.unwrap_or(self.default_threshold)
    }

    /// How tables of the last level are packed; those above it by [`Packings::plain`].
    pub(crate) fn packings(&self) -> Arc<Packings> {
        self.packings.load_full()
    }

    pub(crate) fn has_filters(&self) -> bool {
        self.all.load().filters > 0
    }

    /// `Invalid` if the keyspace has no merge operator.
    pub(crate) fn check_merge(&self, id: KeyspaceId) -> Result<()> {
        match self.operator(id) {
            Some(_) => Ok(()),
            None => Err(Error::invalid(
                "the keyspace has no merge operator; see KeyspaceOptions::merge_operator",
            )),
        }
    }

    /// What `parts`, oldest first, are together.
    pub(crate) fn combine(&self, key: UserKey<'_>, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let operator = self.operator(key.keyspace).ok_or_else(|| {
            Error::unsupported(
                "a value is made of operands, and its keyspace has no merge operator",
            )
        })?;
        let made = catch_unwind(AssertUnwindSafe(|| fold(&*operator, key.bytes, parts)));
        made.map_err(|_| self.note("a merge operator panicked"))
    }

    /// Combines merge operands for a job; `None` where that fails and they stay as they are.
    pub(crate) fn combine_for_good(&self, key: UserKey<'_>, parts: &[&[u8]]) -> Option<Vec<u8>> {
        let made = self.combine(key, parts).ok()?;
        (made.len() as u64 <= MAX_VALUE_LEN).then_some(made)
    }

    /// False if compactions are to leave the entry out.
    pub(crate) fn keeps(&self, key: UserKey<'_>, value: &[u8]) -> bool {
        let Some(filter) = self.filter(key.keyspace) else {
            return true;
        };
        let keeps = catch_unwind(AssertUnwindSafe(|| filter(key.bytes, value)));
        keeps.unwrap_or_else(|_| {
            self.note("a compaction filter panicked");
            true
        })
    }

    /// Of how many keyspaces anything is known.
    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.all.load().by_keyspace.len()
    }

    /// What the caller's code did wrong, if anything.
    pub(crate) fn trouble(&self) -> Option<Error> {
        lock(&self.trouble).clone()
    }

    fn note(&self, what: &'static str) -> Error {
        let error = Error::new(ErrorKind::Other, what);
        let first = lock(&self.trouble).replace(error.clone()).is_none();
        if first {
            event!(
                error,
                "{what}; its entries stay as they are: {}",
                Plain(&error)
            );
        }
        error
    }
}

/// Combines by halves: where values grow with their parts, as lists do, that copies each byte a few
/// times only.
fn fold(operator: &MergeFn, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    match parts {
        [] => Vec::new(),
        [one] => one.to_vec(),
        [older, newer] => operator(key, older, newer),
        _ => {
            let (older, newer) = parts.split_at(parts.len() / 2);
            let (older, newer) = (fold(operator, key, older), fold(operator, key, newer));
            operator(key, &older, &newer)
        }
    }
}
