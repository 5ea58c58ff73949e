//! Fences: the first user key of each block, where ordered search starts.
//!
//! ```text
//! fences := count:u32 prefix:u32 head:u64{count} start:u32{count + 1} key:u32{count + 1}
//!           entries:u16{count} tombstones:u16{count} kind:u8{count} flags:u8{count} bytes
//! ```
//!
//! A fence key is the keyspace as 4 big-endian bytes and the user key; all of them lie end to end in
//! `bytes`, the i-th from `key[i]` to `key[i + 1]`. `prefix` is how many bytes they all begin with alike, and
//! `head[i]` the next 8 as a big-endian number, padded with zeroes. Block i lies from `start[i]` to `start[i
//! + 1]`, in units of 8 bytes. `kind` and `flags` are those of the block's header.
//!
//! Fence keys rise; they are equal only where a block continues the key of the block before.
//!
//! Example: blocks of 64 and 72 bytes with first keys `aa` and `ab` in keyspace 0: count 2, prefix 5, heads
//! `61 00..` and `62 00..`, starts 0 8 17, keys 0 6 12, and the bytes `\0\0\0\0aa\0\0\0\0ab`.
#![deny(clippy::indexing_slicing)]

use std::cmp::Ordering;
use std::ops::Range;

use terrace_base::coding::{Decoder, put_u32, put_u64};
use terrace_base::error::{Error, Result};
use terrace_base::key::{KeyspaceId, UserKey, head_of};

use crate::block::{self, Header};
use crate::properties::{put_user_key, split_user_key};

/// Tables are addressed in units of 8 bytes by 32 bits.
pub(crate) const MAX_DATA_LEN: u64 = (u32::MAX as u64) * 8;

/// What a fence says of its block, apart from key and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockMeta {
    pub keyspace: KeyspaceId,
    pub entries: u16,
    pub tombstones: u16,
    pub kind: u8,
    pub flags: u8,
}

/// The fences of a table.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    prefix: usize,
    heads: Vec<u64>,
    starts: Vec<u32>,
    key_starts: Vec<u32>,
    metas: Vec<BlockMeta>,
    keys: Vec<u8>,
}

impl Fences {
    // ---- Writing.

    /// Adds the block with this header that ends at `end`.
    pub fn push(
        &mut self,
        first_key: &[u8],
        header: &Header,
        tombstones: u16,
        end: u64,
    ) -> Result<()> {
        let too_long = |_| Error::invalid("the table is too long");
        if self.starts.is_empty() {
            self.starts.push(0);
            self.key_starts.push(0);
        }
        put_user_key(&mut self.keys, UserKey::new(header.keyspace, first_key));
        self.starts.push(u32::try_from(end / 8).map_err(too_long)?);
        self.key_starts
            .push(u32::try_from(self.keys.len()).map_err(too_long)?);
        self.metas.push(BlockMeta {
            keyspace: header.keyspace,
            entries: header.count,
            tombstones,
            kind: header.kind,
            flags: header.flags,
        });
        Ok(())
    }

    /// The payload of the section.
    pub fn encode(&self) -> Vec<u8> {
        let count = self.len();
        let last = self.full_key(count.wrapping_sub(1));
        let prefix = block::common_prefix(self.full_key(0), last);
        let mut out = Vec::with_capacity(8 + 22 * count + 8 + self.keys.len());
        put_u32(&mut out, count as u32);
        put_u32(&mut out, prefix as u32);
        for i in 0..count {
            put_u64(&mut out, head_behind(self.full_key(i), prefix));
        }
        for start in self.starts.iter().chain(&self.key_starts) {
            put_u32(&mut out, *start);
        }
        for meta in &self.metas {
            out.extend_from_slice(&meta.entries.to_le_bytes());
        }
        for meta in &self.metas {
            out.extend_from_slice(&meta.tombstones.to_le_bytes());
        }
        out.extend(self.metas.iter().map(|meta| meta.kind));
        out.extend(self.metas.iter().map(|meta| meta.flags));
        out.extend_from_slice(&self.keys);
        out
    }

    /// About how long the section will be.
    pub fn encoded_len(&self) -> u64 {
        (22 * self.metas.len() + self.keys.len()) as u64
    }

    // ---- Reading.

    /// Reads the section of a table whose blocks end at `data_end`.
    pub fn decode(payload: &[u8], data_end: u64) -> Result<Fences> {
        let mut decoder = Decoder::new(payload);
        let (count, prefix) = (decoder.u32()? as usize, decoder.u32()? as usize);
        let column = |width: usize, extra: usize| {
            count
                .checked_add(extra)
                .and_then(|n| n.checked_mul(width))
                .ok_or_else(|| Error::corruption("the fences are too many"))
        };
        let heads = numbers(decoder.bytes(column(8, 0)?)?, u64::from_le_bytes);
        let starts = numbers(decoder.bytes(column(4, 1)?)?, u32::from_le_bytes);
        let key_starts = numbers(decoder.bytes(column(4, 1)?)?, u32::from_le_bytes);
        let entries = decoder.bytes(column(2, 0)?)?.as_chunks::<2>().0;
        let tombstones = decoder.bytes(column(2, 0)?)?.as_chunks::<2>().0;
        let kinds = decoder.bytes(count)?;
        let flags = decoder.bytes(count)?;
        let keys_len = key_starts.last().copied().unwrap_or_default() as usize;
        let keys = decoder.bytes(keys_len)?.to_vec();
        let metas = entries.iter().zip(tombstones).zip(kinds.iter().zip(flags));
        let metas = metas.map(|((entries, tombstones), (kind, flags))| BlockMeta {
            keyspace: KeyspaceId(0), // `check` fills it in.
            entries: u16::from_le_bytes(*entries),
            tombstones: u16::from_le_bytes(*tombstones),
            kind: *kind,
            flags: *flags,
        });
        let mut fences = Fences {
            prefix,
            heads,
            starts,
            key_starts,
            metas: metas.collect(),
            keys,
        };
        fences.check(data_end)?;
        Ok(fences)
    }

    /// Checks order and bounds, and sets each block's keyspace.
    fn check(&mut self, data_end: u64) -> Result<()> {
        let wrong = |what: &str| Error::corruption(format!("among the fences, {what}"));
        let rising = |column: &[u32]| column.is_sorted_by(|a, b| a < b);
        let last = u64::from(self.starts.last().copied().unwrap_or_default());
        if self.starts.first() != Some(&0) || last * 8 != data_end || !rising(&self.starts) {
            return Err(wrong("the blocks do not tile the data"));
        }
        if self.key_starts.first() != Some(&0) || !rising(&self.key_starts) {
            return Err(wrong("the keys do not lie end to end"));
        }
        let prefix = self
            .full_key(0)
            .get(..self.prefix)
            .ok_or_else(|| wrong("the common prefix is longer than a key"))?;
        let mut keyspaces = Vec::with_capacity(self.len());
        for (i, meta) in self.metas.iter().enumerate() {
            let key = self.full_key(i);
            let user = split_user_key(key)?;
            if !key.starts_with(prefix)
                || self.heads.get(i) != Some(&head_behind(key, prefix.len()))
            {
                return Err(wrong("a head is not its key's"));
            }
            let continues = meta.flags & block::CONTINUES != 0;
            let order = match i.checked_sub(1) {
                Some(before) => self.full_key(before).cmp(key),
                None => Ordering::Less,
            };
            if order == Ordering::Greater || (order == Ordering::Equal) != continues {
                return Err(wrong("the keys are out of order"));
            }
            if meta.entries == 0 || meta.tombstones > meta.entries || meta.kind > block::ZSTD {
                return Err(wrong("a count contradicts another"));
            }
            keyspaces.push(user.keyspace);
        }
        for (meta, keyspace) in self.metas.iter_mut().zip(keyspaces) {
            meta.keyspace = keyspace;
        }
        Ok(())
    }

    /// How many blocks there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.metas.len()
    }

    /// What is known of block `i`.
    #[inline]
    pub fn meta(&self, i: usize) -> Option<&BlockMeta> {
        self.metas.get(i)
    }

    pub fn metas(&self) -> &[BlockMeta] {
        &self.metas
    }

    /// Where block `i` lies in the file.
    #[inline]
    pub fn range(&self, i: usize) -> Option<Range<usize>> {
        let start = *self.starts.get(i)? as usize * 8;
        let end = *self.starts.get(i + 1)? as usize * 8;
        Some(start..end)
    }

    /// The first user key of block `i`.
    pub fn key(&self, i: usize) -> UserKey<'_> {
        split_user_key(self.full_key(i)).unwrap_or(UserKey::new(KeyspaceId(0), &[]))
    }

    fn full_key(&self, i: usize) -> &[u8] {
        let bounds = (
            self.key_starts.get(i),
            self.key_starts.get(i.wrapping_add(1)),
        );
        let (Some(start), Some(end)) = bounds else {
            return &[];
        };
        self.keys
            .get(*start as usize..*end as usize)
            .unwrap_or_default()
    }

    /// The blocks in which the newest version of `key` can be: one, or all that hold nothing else than
    /// versions of it.
    pub fn locate(&self, key: UserKey<'_>) -> Range<usize> {
        match self.search(key) {
            Ok(first) => first..first + self.same_from(first, key),
            Err(next) => {
                let before = next.saturating_sub(1);
                before..before + 1
            }
        }
    }

    /// How many fences from `first` on are `key`, of which that one is one.
    fn same_from(&self, first: usize, key: UserKey<'_>) -> usize {
        let same = |i: usize| i < self.len() && self.key(i) == key;
        match same(first + 1) {
            true => first_without(first + 2..self.len(), same) - first,
            false => 1,
        }
    }

    /// The blocks that can hold a key of `keyspace` from `lower` to before `upper`, or to the keyspace's end.
    pub fn between(
        &self,
        keyspace: KeyspaceId,
        lower: &[u8],
        upper: Option<&[u8]>,
    ) -> Range<usize> {
        let of_it = |i: usize| self.meta(i).is_some_and(|meta| meta.keyspace == keyspace);
        let mut start = self.locate(UserKey::new(keyspace, lower)).start;
        if !of_it(start) {
            start += 1; // The block before is another keyspace's.
        }
        let end = match upper {
            Some(upper) => self.lower_bound(UserKey::new(keyspace, upper)),
            None => self.metas.partition_point(|meta| meta.keyspace <= keyspace),
        };
        start..end.max(start)
    }

    /// The first fence at or after `key`.
    fn lower_bound(&self, key: UserKey<'_>) -> usize {
        self.search(key).unwrap_or_else(|next| next)
    }

    /// The first fence that is `key`; else the first one after it. Fence keys themselves, which mostly lie in no cache, are
    /// looked at only where heads are equal.
    fn search(&self, key: UserKey<'_>) -> Result<usize, usize> {
        let keyspace = key.keyspace.0.to_be_bytes();
        let shared = self.full_key(0).get(..self.prefix).unwrap_or_default();
        let wanted = match self.prefix.checked_sub(4) {
            Some(in_key) => {
                let (id, rest) = shared.split_at_checked(4).unwrap_or_default();
                let start = key.bytes.get(..in_key).unwrap_or(key.bytes);
                match keyspace[..].cmp(id).then_with(|| start.cmp(rest)) {
                    Ordering::Less => return Err(0),
                    Ordering::Greater => return Err(self.len()),
                    Ordering::Equal => head_of(key.bytes.get(in_key..).unwrap_or_default()),
                }
            }
            None => {
                let (start, rest) = keyspace.split_at_checked(self.prefix).unwrap_or_default();
                match start.cmp(shared) {
                    Ordering::Less => return Err(0),
                    Ordering::Greater => return Err(self.len()),
                    Ordering::Equal => head_of_parts(rest, key.bytes),
                }
            }
        };
        let first = self.heads.partition_point(|head| *head < wanted);
        let ties = self.heads.get(first..).unwrap_or_default();
        if ties.first() != Some(&wanted) {
            return Err(first);
        }
        let ties = first..first + ties.partition_point(|head| *head == wanted);
        let at = first_without(ties, |i| self.key(i) < key);
        match at < self.len() && self.key(at) == key {
            true => Ok(at),
            false => Err(at),
        }
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> u64 {
        let fixed = size_of::<u64>() + 2 * size_of::<u32>() + size_of::<BlockMeta>();
        (self.len() * fixed + self.keys.len()) as u64
    }
}

/// The first number of `range` that does not have what the ones before it have; the end if all do.
fn first_without(range: Range<usize>, has: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        match has(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

fn numbers<T, const N: usize>(column: &[u8], parse: impl Fn([u8; N]) -> T) -> Vec<T> {
    column
        .as_chunks::<N>()
        .0
        .iter()
        .map(|n| parse(*n))
        .collect()
}

fn head_behind(key: &[u8], prefix: usize) -> u64 {
    head_of(key.get(prefix..).unwrap_or_default())
}

/// [`head_of`] the bytes of `start`, at most 4, followed by `rest`.
fn head_of_parts(start: &[u8], rest: &[u8]) -> u64 {
    let bits = 8 * start.len() as u32;
    head_of(start) | head_of(rest).checked_shr(bits).unwrap_or(0)
}
