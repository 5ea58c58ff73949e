//! What a transaction has written to a keyspace, as a sorted source of entries

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use terrace_base::{InternalIterator, KeyRef, KeyspaceId, Result, SeqNo, UserKey, ValueKind};

/// What was written to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnWrite {
    Delete,
    /// A value that holds as long as its keyspace says.
    Put(Bytes),
    /// A value that never expires.
    Lasting(Bytes),
    /// A value as it is stored: after the time at which it expires.
    Expiring(Bytes),
}

impl OwnWrite {
    pub(crate) fn kind(&self) -> ValueKind {
        match self {
            OwnWrite::Delete => ValueKind::Tombstone,
            OwnWrite::Put(_) | OwnWrite::Lasting(_) => ValueKind::Put,
            OwnWrite::Expiring(_) => ValueKind::PutExpiring,
        }
    }

    /// The value as an entry of the kind stores it.
    pub(crate) fn stored(&self) -> &[u8] {
        match self {
            OwnWrite::Delete => &[],
            OwnWrite::Put(value) | OwnWrite::Lasting(value) | OwnWrite::Expiring(value) => value,
        }
    }

    fn stored_bytes(&self) -> Bytes {
        match self {
            OwnWrite::Delete => Bytes::new(),
            OwnWrite::Put(value) | OwnWrite::Lasting(value) | OwnWrite::Expiring(value) => {
                value.clone()
            }
        }
    }
}

/// The writes to a keyspace.
pub(crate) type Own = BTreeMap<Bytes, OwnWrite>;

/// A position among the writes of a keyspace.
#[derive(Debug)]
pub(crate) struct OwnIter {
    own: Arc<Own>,
    keyspace: KeyspaceId,
    here: Option<(Bytes, OwnWrite)>,
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
            // Only the position in front of all versions of a key is in front of an entry at
            // `SeqNo::MAX`.
            std::cmp::Ordering::Equal if target.seq == SeqNo::MAX => {
                self.go_first(Bound::Included(key));
            }
            std::cmp::Ordering::Equal => self.go_first(Bound::Excluded(key)),
            std::cmp::Ordering::Greater => self.here = None,
        }
        Ok(())
    }

    /// A walk goes back to in front of all versions of a key with `SeqNo::MAX`: the entry of that
    /// number is not in front of them.
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
            Some((key, write)) => (key, write.kind()),
            None => (&[], ValueKind::Tombstone),
        };
        KeyRef::new(UserKey::new(self.keyspace, key), SeqNo::MAX, kind)
    }

    fn value(&self) -> &[u8] {
        self.here.as_ref().map_or(&[], |(_, write)| write.stored())
    }

    fn key_bytes(&self) -> Bytes {
        self.here
            .as_ref()
            .map_or_else(Bytes::new, |(key, _)| key.clone())
    }

    fn value_bytes(&self) -> Bytes {
        self.here
            .as_ref()
            .map_or_else(Bytes::new, |(_, write)| write.stored_bytes())
    }
}
