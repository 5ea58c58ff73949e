//! What has been written since the last flush, in memory.
//!
//! The memtable is a sequence of small sorted pieces, newest first: one active [`List`] that takes
//! inserts, and older, sealed [`MemRun`]s. A list is sealed at a frame's end once it holds 16 K
//! entries or 2 MiB (with little memory an eighth of the write budget), so that an insert walks a
//! skiplist that fits the processor's second-level cache: with 550 K entries an insert took 1,200
//! ns, with 16 K 230-310 ns. A sealed list becomes a table image in memory (the blocks, fences and
//! point index of an SSTable, read by the same code), which is smaller than the list and makes each
//! entry of it cost one or two cache misses to find; images of a size are merged so that few
//! remain; at 64 MiB all of them are flushed to level 0.
//!
//! Skiplists: crossbeam-skiplist, after Fraser, "Practical lock-freedom" (2004).

mod bloom;
pub(crate) mod iter;
mod skiplist;
pub(crate) mod tx_buffer;

use std::sync::Arc;

pub(crate) use skiplist::{List, ListCursor, ListWriter, pin};
use terrace_base::{RangeSet, SeqNo};
use terrace_sstable::Table;
use terrace_wal::Lsn;

/// How a sealed piece is held.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// As it was written.
    List(Arc<List>),
    /// As a table in memory.
    Image(Arc<Table>),
}

/// A sealed piece of the memtable. Pieces cover adjoining stretches of the commit order.
#[derive(Clone, Debug)]
pub(crate) struct MemRun {
    /// Names the piece; a merge of pieces keeps none of their names.
    pub(crate) id: u64,
    pub(crate) form: Form,
    /// The last sequence number in it.
    pub(crate) last_seq: SeqNo,
    /// The log position behind its last frame.
    pub(crate) end_lsn: Lsn,
    /// The range deletes written in this stretch.
    pub(crate) ranges: Arc<RangeSet>,
    /// Memory that it holds.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}
