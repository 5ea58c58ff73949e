//! The range deletes that a read of a range has to look at.
//!
//! Each piece of the memtable has a set of its own, and the tables have one. They are not put
//! together, which would cost as much as there are deletes: a [`Deleted`] lists those that touch
//! the range, newest first. The deletes of a set are all newer than those of the next, so the first
//! that covers a key decides.

use std::sync::Arc;

use terrace_base::{DeletedRange, RangeSet, SeqNo, UserKey};

use crate::read::view::View;

/// Range deletes as a reader sees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deleted {
    /// Newest first, each with the sequence number up to which its deletes count.
    sets: Vec<(Arc<RangeSet>, SeqNo)>,
}

impl Deleted {
    /// The deletes of `view` that touch keys from `smallest` to `largest`, as a reader at `at` sees
    /// them.
    pub(crate) fn within(
        view: &View,
        smallest: UserKey<'_>,
        largest: UserKey<'_>,
        at: SeqNo,
    ) -> Deleted {
        let mut deleted = Deleted::default();
        if view.active.has_ranges() {
            deleted.push(view.active.ranges(), smallest, largest, at);
        }
        let sealed = view.sealed.iter().map(|run| &run.ranges);
        for set in sealed.chain([view.version.deleted()]) {
            if set.touches(smallest, largest) {
                deleted.sets.push((Arc::clone(set), at));
            }
        }
        deleted
    }

    fn push(&mut self, set: Arc<RangeSet>, smallest: UserKey<'_>, largest: UserKey<'_>, at: SeqNo) {
        if set.touches(smallest, largest) {
            self.sets.push((set, at));
        }
    }

    /// Puts a transaction's own deletes on top.
    pub(crate) fn put_on_top(
        &mut self,
        own: &Arc<RangeSet>,
        smallest: UserKey<'_>,
        largest: UserKey<'_>,
    ) {
        if own.touches(smallest, largest) {
            self.sets.insert(0, (Arc::clone(own), SeqNo::MAX.before()));
        }
    }

    /// True if no delete touches the range.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// The newest delete that covers `key`.
    #[inline]
    pub(crate) fn covering(&self, key: UserKey<'_>) -> Option<&DeletedRange> {
        let mut sets = self.sets.iter();
        sets.find_map(|(set, at)| set.covering(key, *at))
    }

    /// True if a delete above `above` that touches keys from `first` to `last` is `wanted`.
    pub(crate) fn any(
        &self,
        first: UserKey<'_>,
        last: UserKey<'_>,
        above: SeqNo,
        wanted: impl Fn(&DeletedRange) -> bool,
    ) -> bool {
        self.sets.iter().any(|(set, at)| {
            let wanted = |range: &DeletedRange| range.seq <= *at && wanted(range);
            set.find_touching(first, last, above, wanted).is_some()
        })
    }
}
