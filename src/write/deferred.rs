//! What a batch leaves to be found out when it is written: conditions, counters, appended bytes.
//!
//! A [`Batch`] with any of these is made into a plain one when it is written: conditions are tested
//! and new values computed from the newest appended state, under no lock, and the result is
//! appended on condition that none of the keys looked at has changed ([`crate::commit::checks`]);
//! else the same again. So the log holds only puts and deletes, and operands: of those only the
//! ones in keyspaces that may hold values that expire are combined here ([`crate::write::expiry`]).
//!
//! A condition is about the database, whatever the batch does to its key. A counter or an append
//! sees what stands before it in the batch:
//!
//! ```text
//! given    put n = 5; add 2 to n;  delete m; append "x" to m
//! written  put n = 5; put n = 7;   delete m; put m = "x"
//! ```
//!
//! Of several changes of a key only the last writes the value. The others are written as deletes:
//! no reader sees them, and each operation keeps its sequence number. Otherwise n appends to a log
//! of one key would take n values.

use terrace_base::{KeyspaceId, OwnedUserKey, SeqNo, UserKey};

use crate::write::batch::Batch;

/// What of a batch is found out when it is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deferred {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) changes: Vec<Change>,
}

#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) user: OwnedUserKey,
    /// `None`: the key has no value.
    pub(crate) version: Option<SeqNo>,
}

/// A new value that depends on the one before.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) user: OwnedUserKey,
    /// Number of operations of the payload that precede it.
    pub(crate) operations: u32,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Add(i64),
    Append(Box<[u8]>),
    Merge(Box<[u8]>),
}

impl Deferred {
    pub(crate) fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.changes.is_empty()
    }

    /// How many operations it will add to the batch.
    pub(crate) fn changes(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.conditions.clear();
        self.changes.clear();
    }
}

impl Batch {
    /// True if it is to be found out when it is written what it writes.
    pub(crate) fn is_conditional(&self) -> bool {
        !self.deferred.is_empty() || !self.merging.is_empty()
    }

    pub(crate) fn add_condition(&mut self, id: KeyspaceId, key: &[u8], version: Option<SeqNo>) {
        if self.admit(key.len(), 0) {
            let user = UserKey::new(id, key).to_owned();
            self.deferred.conditions.push(Condition { user, version });
        }
    }

    pub(crate) fn add_sum(&mut self, id: KeyspaceId, key: &[u8], delta: i64) {
        self.add_change(id, key, size_of::<i64>(), || What::Add(delta));
    }

    pub(crate) fn add_append(&mut self, id: KeyspaceId, key: &[u8], bytes: &[u8]) {
        self.add_change(id, key, bytes.len(), || What::Append(bytes.into()));
    }

    fn add_change(&mut self, id: KeyspaceId, key: &[u8], len: usize, what: impl FnOnce() -> What) {
        if self.admit(key.len(), len) {
            self.deferred.changes.push(Change {
                user: UserKey::new(id, key).to_owned(),
                operations: self.count,
                what: what(),
            });
        }
    }
}
