//! How much a range holds, told without reading it.
//!
//! Each table knows how many entries and tombstones each of its blocks has, and where the block
//! lies and begins; so do the pieces of the memtable that are tables in memory. What the range
//! covers of them is summed up from that alone: the cost is a binary search in each table at an end
//! of the range, and no data block is read. The few pieces of the memtable that are still lists are
//! walked: 16 K entries or 2 MiB each.
//!
//! ```text
//! range               |---------------------|
//! level 0        [. . . . . . .]                   blocks: those it touches
//! level 6     [ . . . ][ . . . ][ . . . ][ . . . ] the middle ones: by their properties
//! list                 x   x  x                    walked
//! ```
//!
//! The estimate is an upper bound: it is never below the exact count at that moment. It is too high
//! by what it cannot tell apart:
//!
//! - A block that the range only touches is counted whole: in each run (and each piece in memory)
//!   less than two blocks, of 8 KiB (or what the keyspace says) before compression or one entry.
//!   After [`Keyspace::compact`](crate::Keyspace::compact) of an otherwise idle database there is
//!   one run, one version a key and no tombstone, so this is all: with entries of 120 bytes less
//!   than 140. A range between two neighbouring keys may count as much.
//! - Older versions count until a merge drops them, and a deleted key counts as the versions that
//!   its tombstone hides. Tombstones do not count. A key counts at most once for each version that
//!   is kept: after a range was written over n times without a merge, the estimate may be n times
//!   the count.
//! - Expired values count until a merge drops them.
//! - A range delete takes off what lies in lists, and each table, or piece in memory, of whose part
//!   in the range it leaves nothing. Other tables under it count until a merge: so `delete_range`
//!   of what is asked for, and `clear`, take effect at once.
//!
//! Sizes are those of the blocks as stored, with their share of fences, point index and properties,
//! so that the sizes of all keyspaces add up to the files'; of lists, of keys and values. Large
//! values, which lie in blob files, are as exact only where tables are covered whole: a table knows
//! how many bytes all of them have, and a part of it counts by its entries.

use std::sync::Arc;

use terrace_base::{
    DeletedRange, InternalIterator, KeyRef, KeyspaceId, Result, SeqNo, UserKey, ValueKind,
};
use terrace_compaction::TableRef;
use terrace_sstable::{BlobRef, Stretch, TableInfo};

use crate::memtable::{Form, List};
use crate::read::range_deletes::Deleted;
use crate::read::view::View;

/// What is known of a range, being summed up.
#[derive(Debug)]
pub(crate) struct Estimate<'a> {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) lower: &'a [u8],
    /// The first key behind the range; the keyspace's end if there is none.
    pub(crate) upper: Option<&'a [u8]>,
    pub(crate) at: SeqNo,
    pub(crate) deleted: Deleted,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Estimate<'_> {
    pub(crate) fn add_view(&mut self, view: &View) -> Result<()> {
        let first = UserKey::new(self.keyspace, self.lower);
        let last = match self.upper {
            Some(upper) => UserKey::new(self.keyspace, upper),
            None => UserKey::new(KeyspaceId(self.keyspace.0.saturating_add(1)), &[]),
        };
        self.deleted = Deleted::within(view, first, last, self.at);
        self.add_list(&view.active)?;
        for run in &view.sealed {
            match &run.form {
                Form::List(list) => self.add_list(list)?,
                Form::Image(table) => {
                    self.add_table(table.info(), || Ok(TableRef::Kept(table)))?;
                }
            }
        }
        for run in view.version.runs() {
            let places = run.overlapping(first, last);
            for table in run.tables().part(places).into_iter().flat_map(|t| t.iter()) {
                self.add_table(table.info(), || table.table())?;
            }
        }
        Ok(())
    }

    /// True if the range ends before `key`.
    fn ends_before(&self, key: UserKey<'_>) -> bool {
        key.keyspace > self.keyspace
            || (key.keyspace == self.keyspace && self.upper.is_some_and(|upper| key.bytes >= upper))
    }

    /// The table is opened only if the range ends in it.
    fn add_table<'t>(
        &mut self,
        info: &TableInfo,
        table: impl FnOnce() -> Result<TableRef<'t>>,
    ) -> Result<()> {
        let first = UserKey::new(self.keyspace, self.lower);
        let (smallest, largest) = (info.smallest.as_ref(), info.largest.as_ref());
        if largest < first || self.ends_before(smallest) || self.is_hidden(info) {
            return Ok(());
        }
        let stretch = if smallest >= first && !self.ends_before(largest) {
            Stretch {
                blocks: info.blocks,
                entries: info.entries,
                tombstones: info.tombstones,
                bytes: info.size,
            }
        } else {
            table()?.stretch(self.keyspace, self.lower, self.upper)
        };
        self.entries += stretch.entries.saturating_sub(stretch.tombstones);
        self.bytes += stretch.bytes;
        let large: u64 = info.blobs.iter().map(|(_, bytes)| bytes).sum();
        let share =
            u128::from(large) * u128::from(stretch.entries) / u128::from(info.entries.max(1));
        self.bytes += u64::try_from(share).unwrap_or(u64::MAX).min(large);
        Ok(())
    }

    /// True if a delete is newer than the table and leaves nothing of it in the range.
    fn is_hidden(&self, info: &TableInfo) -> bool {
        if self.deleted.is_empty() {
            return false;
        }
        let range = DeletedRange {
            keyspace: self.keyspace,
            lower: self.lower.into(),
            upper: self.upper.map(Into::into),
            seq: SeqNo::ZERO,
        };
        let first = UserKey::new(self.keyspace, self.lower).max(info.smallest.as_ref());
        let last = info.largest.as_ref();
        self.deleted.any(first, last, info.max_seq, |delete| {
            delete.covers(&range) || delete.covers_keys(first, last)
        })
    }

    /// Counts the newest version of each key.
    fn add_list(&mut self, list: &Arc<List>) -> Result<()> {
        let mut cursor = list.cursor();
        let first = UserKey::new(self.keyspace, self.lower);
        cursor.seek(KeyRef::lookup(first, SeqNo::MAX))?;
        let mut seen: Option<Vec<u8>> = None;
        while cursor.valid() && !self.ends_before(cursor.key().user) {
            let key = cursor.key();
            if key.seq <= self.at && seen.as_deref() != Some(key.user.bytes) {
                let copy = seen.get_or_insert_default();
                copy.clear();
                copy.extend_from_slice(key.user.bytes);
                let deleted = self.deleted.covering(key.user);
                let hidden = deleted.is_some_and(|delete| delete.seq > key.seq);
                if key.kind != ValueKind::Tombstone && !hidden {
                    self.entries += 1;
                    self.bytes += (key.user.bytes.len() + cursor.value().len()) as u64;
                    if key.kind.in_blob() {
                        let at = BlobRef::decode(cursor.value())?;
                        self.bytes += at.record_len(key.user.bytes.len());
                    }
                }
            }
            cursor.next()?;
        }
        Ok(())
    }
}
