//! What a transaction has written so far, and how its reads see it.
//!
//! The writes of a keyspace are a map that readers share: an iterator keeps the map that was there
//! when it was made, and the next write copies it if one is still alive. To a walk they are one
//! more source, of entries at [`SeqNo::MAX`], newer than all others; no write is ever given that
//! number.
//!
//! A range that is deleted takes the own writes in it away, and stays as a range delete that is
//! newer than all that the database holds and older than what the transaction writes from then on.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use terrace_base::key::split_expiry;
use terrace_base::{DeletedRange, Error, KeyspaceId, RangeSet, Result, SeqNo, UserKey};

use crate::bounds::OwnedBounds;
use crate::memtable::tx_buffer::{Own, OwnWrite};
use crate::write::batch::Batch;

/// Bytes that an operation takes in the log beside its key and value, at most.
const FRAMING: u64 = 24;

/// What undoes one write.
#[derive(Debug)]
enum Undo {
    /// What the transaction had written to a key before, if anything.
    Key {
        keyspace: KeyspaceId,
        key: Bytes,
        before: Option<OwnWrite>,
    },
    /// The range deletes that there were before.
    Ranges(Arc<RangeSet>),
}

/// The writes of a transaction.
#[derive(Debug)]
pub(crate) struct Writes {
    /// As many bytes may be written.
    most: u64,
    spaces: BTreeMap<KeyspaceId, Arc<Own>>,
    /// Of all keyspaces, with the highest numbers below those of the keys.
    ranges: Arc<RangeSet>,
    /// What they take in the log, at most.
    bytes: u64,
    /// Kept while there is a savepoint.
    undo: Vec<Undo>,
    /// Savepoints that can be gone back to: their number, and how much of `undo` was there.
    savepoints: Vec<(u64, usize)>,
}

/// Numbers of savepoints: one of another transaction is known by its number.
static SAVEPOINTS: AtomicU64 = AtomicU64::new(1);

fn size(key: &[u8], write: &OwnWrite) -> u64 {
    FRAMING + key.len() as u64 + write.stored().len() as u64
}

fn size_of_ranges(ranges: &RangeSet) -> u64 {
    ranges.key_bytes() + FRAMING * ranges.len() as u64
}

impl Writes {
    /// None yet; `most` bytes of them may come.
    pub(crate) fn new(most: u64) -> Writes {
        Writes {
            most,
            spaces: BTreeMap::new(),
            ranges: Arc::default(),
            bytes: 0,
            undo: Vec::new(),
            savepoints: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.spaces.values().all(|own| own.is_empty())
    }

    /// What was written to `key`, if anything.
    pub(crate) fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Option<OwnWrite> {
        let own = self.spaces.get(&keyspace).and_then(|own| own.get(key));
        let deleted = || {
            let delete = self
                .ranges
                .covering(UserKey::new(keyspace, key), SeqNo::MAX);
            delete.map(|_| OwnWrite::Delete)
        };
        own.cloned().or_else(deleted)
    }

    /// All writes to a keyspace, for a reader to keep.
    pub(crate) fn of(&self, keyspace: KeyspaceId) -> Option<Arc<Own>> {
        self.spaces.get(&keyspace).cloned()
    }

    /// The ranges deleted, for a reader to keep.
    pub(crate) fn ranges(&self) -> &Arc<RangeSet> {
        &self.ranges
    }

    fn check_size(&self, bytes: u64) -> Result<()> {
        if bytes > self.most {
            return Err(Error::invalid(format!(
                "the transaction would write {bytes} bytes; at most {} are allowed",
                self.most
            )));
        }
        Ok(())
    }

    pub(crate) fn set(&mut self, keyspace: KeyspaceId, key: &[u8], write: OwnWrite) -> Result<()> {
        let own = self.spaces.get(&keyspace).and_then(|own| own.get(key));
        let less = own.map_or(0, |old| size(key, old));
        self.check_size(self.bytes + size(key, &write) - less)?;
        self.change(keyspace, Bytes::copy_from_slice(key), Some(write));
        Ok(())
    }

    /// Deletes from `lower` up to `upper`, or the keyspace's end.
    pub(crate) fn delete_range(
        &mut self,
        keyspace: KeyspaceId,
        lower: &[u8],
        upper: Option<&[u8]>,
    ) -> Result<()> {
        let behind = upper.map_or(Bound::Unbounded, Bound::Excluded);
        let mut within = Vec::new();
        let mut less = 0;
        if let Some(own) = self.spaces.get(&keyspace) {
            for (key, write) in own.range::<[u8], _>((Bound::Included(lower), behind)) {
                within.push(key.clone());
                less += size(key, write);
            }
        }
        let more = FRAMING + (lower.len() + upper.map_or(0, <[u8]>::len)) as u64;
        self.check_size(self.bytes + more - less)?;
        for key in within {
            self.change(keyspace, key, None);
        }
        let oldest = self.ranges.ranges().next();
        let next = oldest.map_or(SeqNo::MAX, |range| range.seq);
        let range = DeletedRange {
            keyspace,
            lower: lower.into(),
            upper: upper.map(Into::into),
            seq: next.before(),
        };
        let ranges = Arc::new(self.ranges.with(range));
        let before = std::mem::replace(&mut self.ranges, ranges);
        self.bytes += more;
        if !self.savepoints.is_empty() {
            self.undo.push(Undo::Ranges(before));
        }
        Ok(())
    }

    /// Changes what is written to a key; what undoes it is kept while somebody may ask.
    fn change(&mut self, keyspace: KeyspaceId, key: Bytes, write: Option<OwnWrite>) {
        let before = self.put_in(keyspace, key.clone(), write);
        if !self.savepoints.is_empty() {
            self.undo.push(Undo::Key {
                keyspace,
                key,
                before,
            });
        }
    }

    /// Has `write` in place of what is there, which it returns.
    fn put_in(
        &mut self,
        keyspace: KeyspaceId,
        key: Bytes,
        write: Option<OwnWrite>,
    ) -> Option<OwnWrite> {
        let own = Arc::make_mut(self.spaces.entry(keyspace).or_default());
        self.bytes += write.as_ref().map_or(0, |new| size(&key, new));
        let before = match write {
            Some(write) => own.insert(key.clone(), write),
            None => own.remove(&key),
        };
        self.bytes -= before.as_ref().map_or(0, |old| size(&key, old));
        before
    }

    /// A new savepoint.
    pub(crate) fn save(&mut self) -> u64 {
        let number = SAVEPOINTS.fetch_add(1, Ordering::Relaxed);
        self.savepoints.push((number, self.undo.len()));
        number
    }

    /// Undoes what was written since a savepoint, which stays. False if it is no more: an earlier
    /// one was gone back to.
    pub(crate) fn go_back(&mut self, savepoint: u64) -> bool {
        let known = self.savepoints.iter().rposition(|(n, _)| *n == savepoint);
        let Some(at) = known else { return false };
        self.savepoints.truncate(at + 1);
        let kept = self.savepoints.last().map_or(0, |(_, kept)| *kept);
        while self.undo.len() > kept {
            let Some(undo) = self.undo.pop() else { break };
            match undo {
                Undo::Key {
                    keyspace,
                    key,
                    before,
                } => {
                    self.put_in(keyspace, key, before);
                }
                Undo::Ranges(before) => {
                    self.bytes -= size_of_ranges(&self.ranges) - size_of_ranges(&before);
                    self.ranges = before;
                }
            }
        }
        true
    }

    /// All of it as one batch.
    pub(crate) fn to_batch(&self) -> Result<Batch> {
        let mut batch = Batch::new();
        for range in self.ranges.ranges() {
            let lower = UserKey::new(range.keyspace, &range.lower);
            batch.add_range(lower, range.upper.as_deref());
        }
        for (id, own) in &self.spaces {
            for (key, write) in own.iter() {
                match write {
                    OwnWrite::Delete => batch.add_delete(*id, key),
                    OwnWrite::Put(value) => batch.add_put(*id, key, value),
                    OwnWrite::Lasting(value) => batch.add_lasting_put(*id, key, value),
                    OwnWrite::Expiring(stored) => {
                        let (time, value) = split_expiry(stored)?;
                        batch.add_put_until(*id, key, value, time);
                    }
                }
            }
        }
        Ok(batch)
    }

    /// Every key written.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (KeyspaceId, Bytes)> {
        let spaces = self.spaces.iter();
        spaces.flat_map(|(id, own)| own.keys().map(|key| (*id, key.clone())))
    }

    /// Every range deleted.
    pub(crate) fn stretches(&self) -> Vec<(KeyspaceId, OwnedBounds)> {
        let stretch = |range: &Arc<DeletedRange>| {
            let upper = range.upper.as_deref().map(<[u8]>::to_vec);
            let bounds = OwnedBounds {
                lower: Bound::Included(range.lower.to_vec()),
                upper: upper.map_or(Bound::Unbounded, Bound::Excluded),
            };
            (range.keyspace, bounds)
        };
        self.ranges.ranges().map(stretch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_too_large_is_refused_and_what_is_undone_frees_its_room() {
        let id = KeyspaceId(0);
        let put = |len: usize| OwnWrite::Put(vec![7; len].into());
        let mut writes = Writes::new(100);
        let before = writes.save();
        writes.set(id, b"a", put(40)).unwrap();
        let error = writes.set(id, b"b", put(40)).unwrap_err();
        assert!(
            error.to_string().contains("would write 130 bytes"),
            "{error}"
        );
        assert_eq!(writes.get(id, b"b"), None);
        writes.set(id, b"a", OwnWrite::Delete).unwrap();
        writes.set(id, b"b", put(40)).unwrap();
        assert!(writes.go_back(before) && writes.is_empty());
        assert_eq!(writes.bytes, 0);
        writes.set(id, b"c", put(70)).unwrap();
        writes.delete_range(id, b"b", None).unwrap();
        assert_eq!(
            (writes.bytes, writes.get(id, b"c")),
            (25, Some(OwnWrite::Delete))
        );
        writes.delete_range(id, b"a", Some(b"b")).unwrap();
        assert!(writes.go_back(before) && writes.is_empty());
        assert_eq!(writes.bytes, 0);
        writes.set(id, b"c", put(75)).unwrap();
        writes.set(id, b"c", put(74)).unwrap();
        assert_eq!(writes.to_batch().unwrap().len(), 1);
    }
}
