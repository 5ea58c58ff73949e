//! What a transaction has written so far, and how its reads see it.
//!
//! The writes of a keyspace are a map that readers share: an iterator keeps the map that was there when it was
//! made, and the next write copies it if one is still alive. To a walk they are one more source, of entries at
//! [`SeqNo::MAX`], newer than all others; no write is ever given that number.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use terrace_base::{
    Error, InternalIterator, KeyRef, KeyspaceId, Result, SeqNo, UserKey, ValueKind,
};

use crate::batch::Batch;

/// Bytes that an operation takes in the log beside its key and value, at most.
const FRAMING: u64 = 24;

/// New values of a keyspace; `None` is a delete.
pub(crate) type Own = BTreeMap<Bytes, Option<Bytes>>;

/// What undoes one write: the key, and what the transaction had written to it before, if anything.
#[derive(Debug)]
struct Undo {
    keyspace: KeyspaceId,
    key: Bytes,
    before: Option<Option<Bytes>>,
}

/// The writes of a transaction.
#[derive(Debug)]
pub(crate) struct Writes {
    /// As many bytes may be written.
    most: u64,
    spaces: BTreeMap<KeyspaceId, Arc<Own>>,
    /// What they take in the log, at most.
    bytes: u64,
    /// Kept while there is a savepoint.
    undo: Vec<Undo>,
    /// Savepoints that can be gone back to: their number, and how much of `undo` was there.
    savepoints: Vec<(u64, usize)>,
}

/// Numbers of savepoints: one of another transaction is known by its number.
static SAVEPOINTS: AtomicU64 = AtomicU64::new(1);

fn size(key: &[u8], value: Option<&Bytes>) -> u64 {
    FRAMING + key.len() as u64 + value.map_or(0, Bytes::len) as u64
}

impl Writes {
    /// None yet; `most` bytes of them may come.
    pub(crate) fn new(most: u64) -> Writes {
        Writes {
            most,
            spaces: BTreeMap::new(),
            bytes: 0,
            undo: Vec::new(),
            savepoints: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spaces.values().all(|own| own.is_empty())
    }

    /// What was written to `key`, if anything.
    pub(crate) fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Option<Option<Bytes>> {
        self.spaces.get(&keyspace)?.get(key).cloned()
    }

    /// All writes to a keyspace, for a reader to keep.
    pub(crate) fn of(&self, keyspace: KeyspaceId) -> Option<Arc<Own>> {
        self.spaces.get(&keyspace).cloned()
    }

    pub(crate) fn set(
        &mut self,
        keyspace: KeyspaceId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<()> {
        let value = value.map(Bytes::copy_from_slice);
        let more = size(key, value.as_ref());
        let own = self.spaces.entry(keyspace).or_default();
        let less = own.get(key).map_or(0, |old| size(key, old.as_ref()));
        let bytes = self.bytes + more - less;
        let most = self.most;
        if bytes > most {
            return Err(Error::invalid(format!(
                "the transaction would write {bytes} bytes; at most {most} are allowed"
            )));
        }
        self.bytes = bytes;
        let key = Bytes::copy_from_slice(key);
        let before = Arc::make_mut(own).insert(key.clone(), value);
        if !self.savepoints.is_empty() {
            self.undo.push(Undo {
                keyspace,
                key,
                before,
            });
        }
        Ok(())
    }

    /// A new savepoint.
    pub(crate) fn save(&mut self) -> u64 {
        let number = SAVEPOINTS.fetch_add(1, Ordering::Relaxed);
        self.savepoints.push((number, self.undo.len()));
        number
    }

    /// Undoes what was written since a savepoint, which stays. False if it is no more: an earlier one was gone
    /// back to.
    pub(crate) fn go_back(&mut self, savepoint: u64) -> bool {
        let known = self.savepoints.iter().rposition(|(n, _)| *n == savepoint);
        let Some(at) = known else { return false };
        self.savepoints.truncate(at + 1);
        let kept = self.savepoints.last().map_or(0, |(_, kept)| *kept);
        while self.undo.len() > kept {
            let Some(undo) = self.undo.pop() else { break };
            let own = Arc::make_mut(self.spaces.entry(undo.keyspace).or_default());
            let (key, before) = (undo.key, undo.before);
            self.bytes += before.as_ref().map_or(0, |old| size(&key, old.as_ref()));
            let undone = match before {
                Some(old) => own.insert(key.clone(), old),
                None => own.remove(&key),
            };
            self.bytes -= undone.map_or(0, |new| size(&key, new.as_ref()));
        }
        true
    }

    /// All of it as one batch.
    pub(crate) fn to_batch(&self) -> Batch {
        let mut batch = Batch::new();
        for (id, own) in &self.spaces {
            for (key, value) in own.iter() {
                match value {
                    Some(value) => batch.add_put(*id, key, value),
                    None => batch.add_delete(*id, key),
                }
            }
        }
        batch
    }

    /// Every key written.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (KeyspaceId, Bytes)> {
        let spaces = self.spaces.iter();
        spaces.flat_map(|(id, own)| own.keys().map(|key| (*id, key.clone())))
    }
}

/// A position among the writes of a keyspace.
#[derive(Debug)]
pub(crate) struct OwnIter {
    own: Arc<Own>,
    keyspace: KeyspaceId,
    here: Option<(Bytes, Option<Bytes>)>,
}

impl OwnIter {
    pub(crate) fn new(own: Arc<Own>, keyspace: KeyspaceId) -> OwnIter {
        OwnIter {
            own,
            keyspace,
            here: None,
        }
    }

    fn go_first(&mut self, lower: Bound<&[u8]>) {
        let mut range = self.own.range::<[u8], _>((lower, Bound::Unbounded));
        self.here = range.next().map(|(k, v)| (k.clone(), v.clone()));
    }

    fn go_last(&mut self, upper: Bound<&[u8]>) {
        let mut range = self.own.range::<[u8], _>((Bound::Unbounded, upper));
        self.here = range.next_back().map(|(k, v)| (k.clone(), v.clone()));
    }
}

impl InternalIterator for OwnIter {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        let key = target.user.bytes;
        match target.user.keyspace.cmp(&self.keyspace) {
            std::cmp::Ordering::Less => self.go_first(Bound::Unbounded),
            // Only the position in front of all versions of a key is in front of an entry at `SeqNo::MAX`.
            std::cmp::Ordering::Equal if target.seq == SeqNo::MAX => {
                self.go_first(Bound::Included(key));
            }
            std::cmp::Ordering::Equal => self.go_first(Bound::Excluded(key)),
            std::cmp::Ordering::Greater => self.here = None,
        }
        Ok(())
    }

    /// A walk goes back to in front of all versions of a key with `SeqNo::MAX`: the entry of that number is not
    /// in front of them.
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        let key = target.user.bytes;
        match target.user.keyspace.cmp(&self.keyspace) {
            std::cmp::Ordering::Less => self.here = None,
            std::cmp::Ordering::Equal if target.seq == SeqNo::MAX => {
                self.go_last(Bound::Excluded(key));
            }
            std::cmp::Ordering::Equal => self.go_last(Bound::Included(key)),
            std::cmp::Ordering::Greater => self.go_last(Bound::Unbounded),
        }
        Ok(())
    }

    fn first(&mut self) -> Result<()> {
        self.go_first(Bound::Unbounded);
        Ok(())
    }

    fn last(&mut self) -> Result<()> {
        self.go_last(Bound::Unbounded);
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        if let Some((key, _)) = self.here.take() {
            self.go_first(Bound::Excluded(&key));
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        if let Some((key, _)) = self.here.take() {
            self.go_last(Bound::Excluded(&key));
        }
        Ok(())
    }

    fn valid(&self) -> bool {
        self.here.is_some()
    }

    fn key(&self) -> KeyRef<'_> {
        let (key, kind): (&[u8], _) = match &self.here {
            Some((key, Some(_))) => (key, ValueKind::Put),
            Some((key, None)) => (key, ValueKind::Tombstone),
            None => (&[], ValueKind::Tombstone),
        };
        KeyRef::new(UserKey::new(self.keyspace, key), SeqNo::MAX, kind)
    }

    fn value(&self) -> &[u8] {
        match &self.here {
            Some((_, Some(value))) => value,
            _ => &[],
        }
    }

    fn key_bytes(&self) -> Bytes {
        self.here
            .as_ref()
            .map_or_else(Bytes::new, |(key, _)| key.clone())
    }

    fn value_bytes(&self) -> Bytes {
        match &self.here {
            Some((_, Some(value))) => value.clone(),
            _ => Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_too_large_is_refused_and_what_is_undone_frees_its_room() {
        let id = KeyspaceId(0);
        let mut writes = Writes::new(100);
        let before = writes.save();
        writes.set(id, b"a", Some(&[7; 40])).unwrap();
        let error = writes.set(id, b"b", Some(&[7; 40])).unwrap_err();
        assert!(
            error.to_string().contains("would write 130 bytes"),
            "{error}"
        );
        assert_eq!(writes.get(id, b"b"), None);
        writes.set(id, b"a", None).unwrap();
        writes.set(id, b"b", Some(&[7; 40])).unwrap();
        assert!(writes.go_back(before) && writes.is_empty());
        assert_eq!(writes.bytes, 0);
        writes.set(id, b"c", Some(&[7; 75])).unwrap();
        writes.set(id, b"c", Some(&[7; 74])).unwrap();
        assert_eq!(writes.to_batch().len(), 1);
    }
}
