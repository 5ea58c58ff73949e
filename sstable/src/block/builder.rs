//! Gathers entries and lays them out as a raw block.
//!
//! Records are written once, as they will stand, but where they start in the block is known only
//! when their number is: heads and offsets come before them. So the builder keeps the records apart
//! and joins the parts when the block is cut.
#![deny(clippy::indexing_slicing)]

use terrace_base::coding::{align8, put_u32};
use terrace_base::key::{KeyRef, KeyspaceId, SeqNo, ValueKind};

use super::{
    CONTINUES, HEADER_LEN, Header, MAX_RECORD_START, RAW, RECORD_HEAD_LEN, Record, SLOT_LEN,
    VERSIONS, common_prefix, flags_of, head_behind, record_len, records_at,
};

/// What is remembered of an entry until its block is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Where its record starts among the records.
    start: u32,
    /// The hash of its user key.
    pub hash: u64,
    /// True for the newest version of a user key.
    pub first: bool,
}

/// What became a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub header: Header,
    pub tombstones: u16,
    /// Where the first record starts.
    pub records_at: usize,
    /// How many entries went in.
    pub entries: usize,
}

/// Gathers the entries of a block.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    keyspace: KeyspaceId,
    /// Records, each padded to a multiple of 8.
    records: Vec<u8>,
    entries: Vec<Entry>,
}

impl BlockBuilder {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn keyspace(&self) -> KeyspaceId {
        self.keyspace
    }

    /// The length of the raw block, were it cut now.
    #[inline]
    pub fn raw_len(&self) -> usize {
        records_at(self.entries.len()) + self.records.len()
    }

    /// True if the next entry would stay within `block_size` and start where it can be named.
    #[inline]
    pub fn fits(&self, key_len: usize, value_len: usize, block_size: usize) -> bool {
        let start = records_at(self.entries.len() + 1) + self.records.len();
        start < MAX_RECORD_START && start + record_len(key_len, value_len) <= block_size
    }

    /// Adds an entry; `first` for the newest version of its user key.
    #[inline]
    pub fn push(&mut self, key: KeyRef<'_>, value: &[u8], hash: u64, first: bool) {
        self.keyspace = key.user.keyspace;
        let start = self.records.len() as u32;
        self.entries.push(Entry { start, hash, first });
        put_record(&mut self.records, key.trailer(), key.user.bytes, &[], value);
    }

    /// The place of the newest version of the last user key, if it is in this block.
    pub fn last_group(&self) -> Option<usize> {
        self.entries.iter().rposition(|entry| entry.first)
    }

    fn record(&self, i: usize) -> Option<Record<'_>> {
        let entry = self.entries.get(i)?;
        Record::at(&self.records, entry.start as usize)
    }

    /// Lays out the first `count` entries into `out`, which it empties before. `open` says that the
    /// last one's key continues in the next block. The entries stay until [`BlockBuilder::remove`].
    pub fn cut(&self, count: usize, open: bool, out: &mut Vec<u8>) -> Option<Cut> {
        let taken = self.entries.get(..count)?;
        let (first, last) = (self.record(0)?, self.record(count.checked_sub(1)?)?);
        let prefix = common_prefix(first.key, last.key);
        let end = self
            .entries
            .get(count)
            .map_or(self.records.len(), |next| next.start as usize);
        let records_at = records_at(count);
        out.clear();
        out.reserve(records_at + end);
        out.resize(HEADER_LEN, 0);
        let (mut flags, mut highest, mut tombstones) = (0, SeqNo::ZERO, 0u16);
        if open || taken.iter().any(|entry| !entry.first) {
            flags |= VERSIONS;
        }
        if !taken.first()?.first {
            flags |= CONTINUES;
        }
        for i in 0..count {
            let record = self.record(i)?;
            highest = highest.max(record.seq());
            let kind = record.kind();
            if kind != ValueKind::Put {
                tombstones += u16::from(kind == ValueKind::Tombstone);
                flags |= flags_of(kind);
            }
            put_u32(out, head_behind(record.key, prefix));
        }
        for entry in taken {
            let units = (records_at + entry.start as usize) / 8;
            out.extend_from_slice(&(units as u16).to_le_bytes());
        }
        out.resize(records_at, 0);
        out.extend_from_slice(self.records.get(..end)?);
        let header = Header {
            count: u16::try_from(count).ok()?,
            prefix: u16::try_from(prefix).ok()?,
            keyspace: self.keyspace,
            kind: RAW,
            flags,
            highest,
            raw_len: u32::try_from(out.len()).ok()?,
            plain_len: 0,
        };
        let mut encoded = Vec::with_capacity(HEADER_LEN);
        header.encode(&mut encoded);
        out.get_mut(..HEADER_LEN)?.copy_from_slice(&encoded);
        Some(Cut {
            header,
            tombstones,
            records_at,
            entries: count,
        })
    }

    /// The entries of `cut`, each with where its record starts in the block.
    pub fn placed(&self, cut: &Cut) -> impl Iterator<Item = (usize, Entry)> {
        let at = cut.records_at;
        let taken = self.entries.get(..cut.entries).unwrap_or_default();
        taken
            .iter()
            .map(move |entry| (at + entry.start as usize, *entry))
    }

    /// The first key.
    pub fn first_key(&self) -> &[u8] {
        self.record(0).map_or(&[], |record| record.key)
    }

    /// Forgets the first `count` entries.
    pub fn remove(&mut self, count: usize) {
        match self.entries.get(count).map(|entry| entry.start) {
            None => {
                self.entries.clear();
                self.records.clear();
            }
            Some(start) => {
                self.entries.drain(..count);
                self.records.drain(..start as usize);
                for entry in &mut self.entries {
                    entry.start -= start;
                }
            }
        }
    }
}

/// Appends one record, whose key is `start` and `rest` end to end, and its padding.
#[inline]
pub(super) fn put_record(out: &mut Vec<u8>, trailer: u64, start: &[u8], rest: &[u8], value: &[u8]) {
    const ZEROES: [u8; 8] = [0; 8];
    let key_len = start.len() + rest.len();
    let len = record_len(key_len, value.len());
    let padding = align8(len as u64) as usize - len;
    // No byte more: a block that is unpacked has exactly the room that it needs, and would double
    // it.
    out.reserve(len + padding);
    let mut head = [0; RECORD_HEAD_LEN];
    if let Some((first, more)) = head.split_first_chunk_mut::<8>()
        && let Some((second, third)) = more.split_first_chunk_mut::<4>()
    {
        *first = trailer.to_le_bytes();
        *second = (value.len() as u32).to_le_bytes();
        third.copy_from_slice(&(key_len as u16).to_le_bytes());
    }
    out.extend_from_slice(&head);
    out.extend_from_slice(start);
    out.extend_from_slice(rest);
    out.extend_from_slice(value);
    out.extend_from_slice(ZEROES.get(..padding).unwrap_or_default());
}

const _: () = assert!(SLOT_LEN == size_of::<u32>() + size_of::<u16>());
