//! Fences: the first user key of each block, where ordered search starts.
//!
//! ```text
//! fences := count:u32 prefix:u32 head:u64{count} start:u32{count + 1} key:u32{count + 1}
//!           entries:u16{count} tombstones:u16{count} kind:u8{count} flags:u8{count} bytes
//! ```
//!
//! A fence key is the keyspace as 4 big-endian bytes and the user key; all of them lie end to end
//! in `bytes`, the i-th from `key[i]` to `key[i + 1]`. `prefix` is how many bytes they all begin
//! with alike, and `head[i]` the next 8 as a big-endian number, padded with zeroes. Block i lies
//! from `start[i]` to `start[i + 1]`, in units of 8 bytes. `kind` and `flags` are those of the
//! block's header.
//!
//! Fence keys rise; they are equal only where a block continues the key of the block before.
//!
//! Example: blocks of 64 and 72 bytes with first keys `aa` and `ab` in keyspace 0: count 2, prefix
//! 5, heads `61 00..` and `62 00..`, starts 0 8 17, keys 0 6 12, and the bytes
//! `\0\0\0\0aa\0\0\0\0ab`.
#![deny(clippy::indexing_slicing)]

use std::cmp::Ordering;
use std::ops::Range;

use bytes::Bytes;
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

/// Gathers the fences of a table that is being written.
#[derive(Debug, Default)]
pub(crate) struct FenceBuilder {
    starts: Vec<u32>,
    key_starts: Vec<u32>,
    metas: Vec<BlockMeta>,
    keys: Vec<u8>,
}

impl FenceBuilder {
    /// Adds the block with this header that ends at `end`.
    pub fn push(
        &mut self,
        first_key: &[u8],
        header: &Header,
        tombstones: u16,
        end: u64,
    ) -> Result<()> {
        let user = UserKey::new(header.keyspace, first_key);
        let meta = BlockMeta {
            keyspace: header.keyspace,
            entries: header.count,
            tombstones,
            kind: header.kind,
            flags: header.flags,
        };
        self.push_meta(user, meta, end)
    }

    /// Adds the block that begins with `user`, is as `meta` says, and ends at `end`.
    pub fn push_meta(&mut self, user: UserKey<'_>, meta: BlockMeta, end: u64) -> Result<()> {
        let too_long = |_| Error::invalid("the table is too long");
        if self.starts.is_empty() {
            self.starts.push(0);
            self.key_starts.push(0);
        }
        put_user_key(&mut self.keys, user);
        self.starts.push(u32::try_from(end / 8).map_err(too_long)?);
        self.key_starts
            .push(u32::try_from(self.keys.len()).map_err(too_long)?);
        self.metas.push(meta);
        Ok(())
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.metas.len()
    }

    fn full_key(&self, i: usize) -> &[u8] {
        let (start, end) = (self.key_starts.get(i), self.key_starts.get(i + 1));
        let bounds = start.zip(end).map(|(s, e)| *s as usize..*e as usize);
        let key = bounds.and_then(|bounds| self.keys.get(bounds));
        key.unwrap_or_default()
    }

    /// The payload of the section.
    pub fn encode(&self) -> Vec<u8> {
        let count = self.len();
        let last = self.full_key(count.saturating_sub(1));
        let prefix = block::common_prefix(self.full_key(0), last);
        let mut out = Vec::with_capacity(8 + 22 * count + 8 + self.keys.len());
        put_u32(&mut out, count as u32);
        put_u32(&mut out, prefix as u32);
        for i in 0..count {
            put_u64(&mut out, head_behind(self.full_key(i), prefix));
        }
        // Without blocks the columns have their first number all the same.
        for column in [&self.starts, &self.key_starts] {
            let column = if count == 0 { &[0][..] } else { column };
            column.iter().for_each(|start| put_u32(&mut out, *start));
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
}

/// The fences of an open table, read in place: as slices of the section, which lies in the table's
/// map or in memory.
#[derive(Debug)]
pub(crate) struct Fences {
    count: usize,
    prefix: usize,
    heads: Bytes,
    starts: Bytes,
    key_starts: Bytes,
    entries: Bytes,
    tombstones: Bytes,
    kinds: Bytes,
    flags: Bytes,
    keys: Bytes,
    /// That of the first block.
    keyspace: KeyspaceId,
    /// That of each block, unless all have the same.
    keyspaces: Option<Box<[KeyspaceId]>>,
    /// Bytes of the section if it lies in memory of its own.
    owned: u64,
}

impl Fences {
    /// Reads the section of a table whose blocks end at `data_end`. With `in_place` the section is
    /// a part of something that stays anyway, as a map does.
    pub fn decode(section: &Bytes, data_end: u64, in_place: bool) -> Result<Fences> {
        let mut decoder = Decoder::new(section);
        let (count, prefix) = (decoder.u32()? as usize, decoder.u32()? as usize);
        let mut column = |width: usize, extra: usize| {
            let len = count
                .checked_add(extra)
                .and_then(|n| n.checked_mul(width))
                .ok_or_else(|| Error::corruption("the fences are too many"))?;
            Ok(section.slice_ref(decoder.bytes(len)?))
        };
        let mut fences = Fences {
            count,
            prefix,
            heads: column(8, 0)?,
            starts: column(4, 1)?,
            key_starts: column(4, 1)?,
            entries: column(2, 0)?,
            tombstones: column(2, 0)?,
            kinds: column(1, 0)?,
            flags: column(1, 0)?,
            keys: Bytes::new(),
            keyspace: KeyspaceId(0),
            keyspaces: None,
            owned: if in_place { 0 } else { section.len() as u64 },
        };
        let keys_len = number(&fences.key_starts, count).unwrap_or_default();
        fences.keys = section.slice_ref(decoder.bytes(keys_len as usize)?);
        fences.check(data_end)?;
        Ok(fences)
    }

    /// Checks order and bounds, and notes the keyspaces.
    fn check(&mut self, data_end: u64) -> Result<()> {
        let wrong = |what: &str| Error::corruption(format!("among the fences, {what}"));
        let rising = |column: &[u8]| {
            let numbers = column.as_chunks::<4>().0.iter();
            numbers
                .map(|n| u32::from_le_bytes(*n))
                .is_sorted_by(|a, b| a < b)
        };
        let last = u64::from(number(&self.starts, self.count).unwrap_or_default());
        if number(&self.starts, 0) != Some(0) || last * 8 != data_end || !rising(&self.starts) {
            return Err(wrong("the blocks do not tile the data"));
        }
        if number(&self.key_starts, 0) != Some(0) || !rising(&self.key_starts) {
            return Err(wrong("the keys do not lie end to end"));
        }
        let prefix = self
            .full_key(0)
            .get(..self.prefix)
            .ok_or_else(|| wrong("the common prefix is longer than a key"))?;
        let mut keyspaces = Vec::with_capacity(self.len());
        let mut before: Option<&[u8]> = None;
        for (i, meta) in self.metas().enumerate() {
            let key = self.full_key(i);
            let user = split_user_key(key)?;
            let head = head_behind(key, prefix.len());
            if !key.starts_with(prefix) || self.heads().get(i) != Some(&head.to_le_bytes()) {
                return Err(wrong("a head is not its key's"));
            }
            let continues = meta.flags & block::CONTINUES != 0;
            let order = before.map_or(Ordering::Less, |before| before.cmp(key));
            before = Some(key);
            if order == Ordering::Greater || (order == Ordering::Equal) != continues {
                return Err(wrong("the keys are out of order"));
            }
            if meta.entries == 0 || meta.tombstones > meta.entries || meta.kind > block::ZSTD {
                return Err(wrong("a count contradicts another"));
            }
            keyspaces.push(user.keyspace);
        }
        self.keyspace = keyspaces.first().copied().unwrap_or(KeyspaceId(0));
        if keyspaces.last() != Some(&self.keyspace) && !keyspaces.is_empty() {
            self.keyspaces = Some(keyspaces.into());
        }
        Ok(())
    }

    fn heads(&self) -> &[[u8; 8]] {
        self.heads.as_chunks().0
    }

    /// How many blocks there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// What is known of block `i`.
    pub fn meta(&self, i: usize) -> Option<BlockMeta> {
        Some(BlockMeta {
            keyspace: self.keyspace(i),
            entries: short(&self.entries, i)?,
            tombstones: self.tombstones(i)?,
            kind: self.kind(i)?,
            flags: *self.flags.get(i)?,
        })
    }

    /// True if block `i` is as `header` says.
    pub fn is(&self, i: usize, header: &Header) -> bool {
        short(&self.entries, i) == Some(header.count)
            && self.kind(i) == Some(header.kind)
            && self.flags.get(i) == Some(&header.flags)
            && self.keyspace(i) == header.keyspace
    }

    /// How many tombstones block `i` has.
    pub fn tombstones(&self, i: usize) -> Option<u16> {
        short(&self.tombstones, i)
    }

    /// What is known of each block.
    pub fn metas(&self) -> impl Iterator<Item = BlockMeta> {
        (0..self.count).filter_map(|i| self.meta(i))
    }

    /// How many entries and tombstones all blocks have.
    pub fn totals(&self) -> (u64, u64) {
        let sum = |column: &[u8]| {
            let numbers = column.as_chunks().0.iter();
            numbers.map(|n| u64::from(u16::from_le_bytes(*n))).sum()
        };
        (sum(&self.entries), sum(&self.tombstones))
    }

    /// How each block is packed.
    pub fn kinds(&self) -> &[u8] {
        &self.kinds
    }

    /// How block `i` is packed.
    #[inline]
    pub fn kind(&self, i: usize) -> Option<u8> {
        self.kinds.get(i).copied()
    }

    /// The keyspace of block `i`; of one that is not there, that of some other.
    #[inline]
    pub fn keyspace(&self, i: usize) -> KeyspaceId {
        match &self.keyspaces {
            Some(keyspaces) => keyspaces.get(i).copied().unwrap_or(KeyspaceId(0)),
            None => self.keyspace,
        }
    }

    /// Where block `i` lies in the file.
    #[inline]
    pub fn range(&self, i: usize) -> Option<Range<usize>> {
        let rest = self.starts.get(i.checked_mul(4)?..)?;
        let both = u64::from_le_bytes(*rest.first_chunk()?);
        Some((both as u32) as usize * 8..(both >> 32) as usize * 8)
    }

    /// The first user key of block `i`.
    pub fn key(&self, i: usize) -> UserKey<'_> {
        split_user_key(self.full_key(i)).unwrap_or(UserKey::new(KeyspaceId(0), &[]))
    }

    fn full_key(&self, i: usize) -> &[u8] {
        let (start, end) = (
            number(&self.key_starts, i),
            number(&self.key_starts, i.wrapping_add(1)),
        );
        let bounds = start.zip(end).map(|(s, e)| s as usize..e as usize);
        let key = bounds.and_then(|bounds| self.keys.get(bounds));
        key.unwrap_or_default()
    }

    /// The blocks in which the newest version of `key` can be: one, or all that hold nothing else
    /// than versions of it.
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

    /// The blocks that can hold a key of `keyspace` from `lower` to before `upper`, or to the
    /// keyspace's end.
    pub fn between(
        &self,
        keyspace: KeyspaceId,
        lower: &[u8],
        upper: Option<&[u8]>,
    ) -> Range<usize> {
        let of_it = |i: usize| i < self.count && self.keyspace(i) == keyspace;
        let mut start = self.locate(UserKey::new(keyspace, lower)).start;
        if !of_it(start) {
            start += 1; // The block before is another keyspace's.
        }
        let end = match upper {
            Some(upper) => self.lower_bound(UserKey::new(keyspace, upper)),
            None => first_without(0..self.count, |i| self.keyspace(i) <= keyspace),
        };
        start..end.max(start)
    }

    /// The first fence at or after `key`.
    fn lower_bound(&self, key: UserKey<'_>) -> usize {
        self.search(key).unwrap_or_else(|next| next)
    }

    /// The first fence that is `key`; else the first one after it. Fence keys themselves, which
    /// mostly lie in no cache, are looked at only where heads are equal.
    fn search(&self, key: UserKey<'_>) -> Result<usize, usize> {
        let keyspace = key.keyspace.0.to_be_bytes();
        let shared = self.keys.get(..self.prefix).unwrap_or_default();
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
        let heads = self.heads();
        let first = heads.partition_point(|head| u64::from_le_bytes(*head) < wanted);
        let ties = heads.get(first..).unwrap_or_default();
        let wanted = wanted.to_le_bytes();
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

    /// Bytes of anonymous memory held.
    pub fn memory(&self) -> u64 {
        let keyspaces = self.keyspaces.as_ref().map_or(0, |all| size_of_val(&**all));
        self.owned + keyspaces as u64
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

#[inline]
fn short(column: &[u8], i: usize) -> Option<u16> {
    let bytes = column.as_chunks().0.get(i)?;
    Some(u16::from_le_bytes(*bytes))
}

/// Number `i` of a column.
#[inline]
fn number(column: &[u8], i: usize) -> Option<u32> {
    let bytes = column.as_chunks().0.get(i)?;
    Some(u32::from_le_bytes(*bytes))
}

fn head_behind(key: &[u8], prefix: usize) -> u64 {
    head_of(key.get(prefix..).unwrap_or_default())
}

/// [`head_of`] the bytes of `start`, at most 4, followed by `rest`.
fn head_of_parts(start: &[u8], rest: &[u8]) -> u64 {
    let bits = 8 * start.len() as u32;
    head_of(start) | head_of(rest).checked_shr(bits).unwrap_or(0)
}
