//! The parts of a table below the public API, for fuzzing. Not part of the API.

use std::ops::Range;

use bytes::Bytes;
use terrace_base::key::{KeyRef, OwnedKey, OwnedUserKey, SeqNo, UserKey};
use terrace_base::{Error, Result};

use crate::block::{BlockBuilder, Header, LZ4, Packer, RawBlock, key_of, unpack};
use crate::fence::{FenceBuilder, Fences};
use crate::format::{decode_footer, encode_footer};
use crate::options::Compression;
use crate::point_index::{IndexBuilder, PointIndex};

/// The footer of the file `id` of `size` bytes that `tail` ends, decoded and encoded again.
///
/// # Errors
/// If it does not decode.
pub fn recode_footer(tail: &[u8], id: u64, size: u64) -> Result<Vec<u8>> {
    let footer = decode_footer(tail, id, size)?;
    let len = encode_footer(&footer.sections, id, 0).len() as u64;
    Ok(encode_footer(&footer.sections, id, size - len))
}

/// Decoded fences.
#[derive(Debug)]
pub struct FenceKeys(Fences);

impl FenceKeys {
    /// Decodes the section of a table whose blocks end at `data_end`.
    ///
    /// # Errors
    /// If it does not decode.
    pub fn decode(payload: &[u8], data_end: u64) -> Result<FenceKeys> {
        let section = Bytes::copy_from_slice(payload);
        Fences::decode(&section, data_end, false).map(FenceKeys)
    }

    /// The payload of the section.
    pub fn encode(&self) -> Vec<u8> {
        let mut builder = FenceBuilder::default();
        for (i, meta) in self.0.metas().enumerate() {
            let end = self.0.range(i).map_or(0, |range| range.end as u64);
            builder.push_meta(self.0.key(i), meta, end).ok();
        }
        builder.encode()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Key and place of block `i`, and what else is known of it.
    pub fn fence(&self, i: usize) -> (UserKey<'_>, Option<Range<usize>>, String) {
        let meta = format!("{:?}", self.0.meta(i));
        (self.0.key(i), self.0.range(i), meta)
    }

    /// The blocks in which the newest version of `key` can be.
    pub fn locate(&self, key: UserKey<'_>) -> Range<usize> {
        self.0.locate(key)
    }
}

/// A point index.
#[derive(Debug)]
pub struct Index(PointIndex);

impl Index {
    /// Decodes the section of a table of `blocks` blocks; `in_place` as from a map.
    ///
    /// # Errors
    /// If it does not decode.
    pub fn decode(section: &Bytes, blocks: usize, in_place: bool) -> Result<Index> {
        PointIndex::decode(section, blocks, in_place).map(Index)
    }

    /// The section for keys, each given by hash, block and the start of its record.
    pub fn encode(seed: u64, keys: &[(u64, usize, usize)], blocks: usize) -> Option<Vec<u8>> {
        let mut builder = IndexBuilder::new(seed);
        for &(hash, block, pos) in keys {
            builder.push(hash, block, pos);
        }
        builder.encode(blocks)
    }

    /// The places where the key with this hash may be.
    pub fn probe(&self, hash: u64) -> Vec<(usize, usize)> {
        self.0.probe(hash).collect()
    }
}

/// A block in raw form.
#[derive(Debug)]
pub struct Block {
    bytes: Vec<u8>,
    header: Header,
}

impl Block {
    /// Takes a raw block, or unpacks a packed one. Nothing but the header is checked, and not the
    /// checksum.
    ///
    /// # Errors
    /// If it does not decode.
    pub fn unchecked(stored: &[u8]) -> Result<Block> {
        let header = Header::decode(stored)?;
        let bytes = match header.kind {
            LZ4 => unpack(stored, &header, &mut Vec::new())?,
            _ => stored.to_vec(),
        };
        let header = Header::decode(&bytes)?;
        Ok(Block { bytes, header })
    }

    /// The block of these entries, which belong together.
    ///
    /// # Errors
    /// If they do not fit into one.
    pub fn build(entries: &[(OwnedKey, Vec<u8>)]) -> Result<Block> {
        let mut builder = BlockBuilder::default();
        for (i, (key, value)) in entries.iter().enumerate() {
            let before = i.checked_sub(1).and_then(|i| entries.get(i));
            let first = before.is_none_or(|(before, _)| before.user != key.user);
            builder.push(key.as_ref(), value, 0, first);
        }
        let mut bytes = Vec::new();
        builder
            .cut(entries.len(), false, &mut bytes)
            .ok_or_else(|| Error::invalid("these entries are no block"))?;
        Block::unchecked(&bytes)
    }

    /// Checks the whole structure, as a reader does before the first use.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<u16> {
        self.raw().validate()
    }

    fn raw(&self) -> RawBlock<'_> {
        RawBlock::with_header(&self.bytes, self.header)
    }

    /// The raw form.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The stored form packed with LZ4; `None` if it is hardly smaller.
    pub fn pack(&self) -> Option<Vec<u8>> {
        let mut packer = Packer::new(Compression::Lz4)?;
        packer
            .pack(&self.bytes, &self.header)
            .map(|(stored, _)| stored.clone())
    }

    /// How many entries the header names.
    pub fn count(&self) -> usize {
        self.raw().len()
    }

    /// Entry `i`.
    pub fn entry(&self, i: usize) -> Option<(KeyRef<'_>, &[u8])> {
        let record = self.raw().record(i)?;
        Some((key_of(self.header.keyspace, &record), record.value))
    }

    /// The first entry at or after the position of `key` at `seq`, or the number of entries.
    pub fn lower_bound(&self, key: &[u8], seq: SeqNo) -> usize {
        self.raw().lower_bound(key, seq)
    }

    /// The first user key.
    pub fn first_key(&self) -> Option<OwnedUserKey> {
        self.entry(0).map(|(key, _)| key.user.to_owned())
    }
}
