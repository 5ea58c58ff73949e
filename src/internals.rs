//! Parts below the public API, for benches. Not part of the API.

use terrace_base::hash::key_hash;
use terrace_base::{KeyRef, KeyspaceId, Result, SeqNo, UserKey, ValueKind};

use crate::memtable::{ListWriter, pin};

/// A list of the memtable.
#[derive(Debug)]
pub struct MemList(ListWriter);

impl Default for MemList {
    fn default() -> MemList {
        MemList(ListWriter::new())
    }
}

impl MemList {
    /// Inserts a put; `seq` rises from call to call.
    #[inline]
    pub fn insert(&mut self, key: &[u8], seq: u64, value: &[u8]) {
        let user = UserKey::new(KeyspaceId(0), key);
        let key = KeyRef::new(user, SeqNo::new(seq), ValueKind::Put);
        self.0.insert(key, key_hash(user), value, &pin());
    }

    /// Length of the newest value of `key`.
    ///
    /// # Errors
    /// If the entry is of an unknown kind.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        let user = UserKey::new(KeyspaceId(0), key);
        let found = self.0.list().get(user, key_hash(user), SeqNo::MAX)?;
        Ok(found.map(|(_, _, value)| value.len()))
    }
}
