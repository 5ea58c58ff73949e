//! Range deletes of few keys, which become deletes of those keys.
//!
//! A range delete stays in memory until compaction has been over its range, and readers of the
//! range take it into account until then. A delete of a key costs nothing of the kind. So a range
//! is looked at first, outside of every lock and for a few steps only: if it is gone over by then,
//! and not many keys of it are alive, they are deleted one by one, in one write, on condition that
//! nothing was written to the range meanwhile ([`crate::commit::checks`]). Whenever that is not so,
//! it is a range delete like any other; a range that cannot be read as well.

use std::ops::Bound;

use terrace_base::{InternalIterator, KeyRef, Result, SeqNo, UserKey, ValueKind};

use crate::bounds::{KeyBounds, OwnedBounds};
use crate::commit::checks::Checks;
use crate::db::append::append_if;
use crate::db::keyspace::Keyspace;
use crate::options::Durability;
use crate::read::context::ReadPoint;
use crate::read::db_iter::versions;
use crate::read::iter::Scan;
use crate::read::range_deletes::Deleted;
use crate::write::batch::Batch;
use crate::write::prepared::Write;

/// Maximum number of live keys in a range that is deleted key by key.
const FEW: usize = 16;
/// Maximum number of entries that are examined, older versions and tombstones included.
const STEPS: usize = 64;

impl Keyspace {
    /// Deletes the keys of a range one by one, if they are few; `None` if they are not, or may not
    /// be. A range without any needs no write: the number is then that of what was there already.
    pub(crate) fn delete_few(&self, range: &impl KeyBounds) -> Result<Option<SeqNo>> {
        let engine = self.engine_to_write()?;
        self.state.check_alive()?;
        let (view, at) = engine.committer.newest();
        let scan = Scan {
            view,
            keyspace: self.state.id,
            at: ReadPoint::newest(at),
            context: engine.context.clone(),
            bounds: OwnedBounds::new(range),
            overlay: None,
        };
        // What is damaged can be deleted all the same.
        let Ok(Some(keys)) = few(&scan) else {
            return Ok(None);
        };
        if keys.is_empty() {
            engine.committer.wait_visible(at)?;
            // That there is nothing may be known from writes that are not durable yet.
            if engine.options.durability != Durability::Buffered {
                engine.committer.sync()?;
            }
            return Ok(Some(at));
        }
        let mut batch = Batch::new();
        let mut part = batch.keyspace(self);
        for key in &keys {
            part.delete(key);
        }
        let parts = [&[], batch.payload.as_slice()];
        let write = Write::of_batch(&batch, &parts);
        let checks = Checks {
            ranges: &[(self.state.id, scan.bounds)],
            ..Checks::keys(at, &[])
        };
        let receipt = append_if(engine, &write, None, &batch.keyspaces, &checks)?;
        let Some(receipt) = receipt else {
            return Ok(None);
        };
        engine.committer.wait_visible(receipt.last)?;
        Ok(Some(receipt.last))
    }
}

/// The keys of a range that may be alive, if that is soon found out and they are few.
fn few(scan: &Scan) -> Result<Option<Vec<Vec<u8>>>> {
    let (smallest, largest) = scan.bounds.closed(scan.keyspace);
    if !Deleted::within(&scan.view, smallest, largest, SeqNo::MAX).is_empty() {
        return Ok(None); // Single steps may be long there; and one delete more makes no difference.
    }
    let (first, seq): (&[u8], _) = match &scan.bounds.lower {
        Bound::Included(key) => (key, SeqNo::MAX),
        Bound::Excluded(key) => (key, SeqNo::ZERO), // Behind every version.
        Bound::Unbounded => (&[], SeqNo::MAX),
    };
    let mut versions = versions(scan);
    versions.seek(KeyRef::lookup(UserKey::new(scan.keyspace, first), seq))?;
    let mut keys = Vec::new();
    let mut seen: Option<Vec<u8>> = None;
    for _ in 0..STEPS {
        if !versions.valid() {
            return Ok(Some(keys));
        }
        let KeyRef { user, seq, kind } = versions.key();
        if user.keyspace != scan.keyspace || !scan.bounds.below_upper(user.bytes) {
            return Ok(Some(keys));
        }
        if seq <= scan.at.seq && seen.as_deref() != Some(user.bytes) {
            seen = Some(user.bytes.to_vec());
            if kind != ValueKind::Tombstone {
                keys.push(user.bytes.to_vec());
            }
            if keys.len() > FEW {
                return Ok(None);
            }
        }
        versions.next()?;
    }
    Ok(None)
}
