//! Writes a table front to back.
//!
//! Entries gather in a [`BlockBuilder`]; a full block goes to the sink, its first key to the fences
//! and the place of each user key's newest version to the point index. A block is cut between user
//! keys: where the versions of the last key would exceed it, they move to the next block together,
//! and only a key that fills a block alone continues in a block that *continues*.

use std::collections::BTreeMap;

use terrace_base::FileNumber;
use terrace_base::error::{Error, ErrorKind, Result};
use terrace_base::hash::key_hash;
use terrace_base::key::{
    KeyRef, KeyspaceId, MAX_KEY_LEN, MAX_VALUE_LEN, OwnedUserKey, SeqNo, UserKey, ValueKind,
    split_expiry,
};

use crate::blob::BlobRef;
use crate::block::{self, BlockBuilder, Packer};
use crate::fence::{FenceBuilder, MAX_DATA_LEN};
use crate::format::{self, Section, encode_footer, seal_section};
use crate::options::Compression;
use crate::point_index::{IndexBuilder, MAX_BLOCKS};
use crate::properties::{self, Expiries, TableInfo};
use crate::sink::Sink;

/// How a table is written.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// The random number of the file.
    pub id: u64,
    /// The random seed of its point index.
    pub seed: u64,
    /// How blocks are packed.
    pub compression: Compression,
    /// Length of a raw block in bytes; taken between 512 and 65,536.
    pub block_size: usize,
}

impl WriterOptions {
    /// The defaults for a file with this id and seed.
    pub fn new(id: u64, seed: u64) -> WriterOptions {
        WriterOptions {
            id,
            seed,
            compression: Compression::default(),
            block_size: 8192,
        }
    }
}

/// Writes one table.
#[derive(Debug)]
pub struct TableWriter<S: Sink> {
    sink: S,
    options: WriterOptions,
    block: BlockBuilder,
    fences: FenceBuilder,
    index: IndexBuilder,
    packer: Option<Packer>,
    /// The raw form of the block being cut.
    raw: Vec<u8>,
    /// Where the next block starts.
    offset: u64,
    first_key: Option<OwnedUserKey>,
    /// The last key added: its keyspace, bytes and sequence number.
    last_keyspace: KeyspaceId,
    last_bytes: Vec<u8>,
    last_seq: SeqNo,
    entries: u64,
    tombstones: u64,
    min_seq: SeqNo,
    max_seq: SeqNo,
    raw_bytes: u64,
    /// When entries expire.
    expiries: Vec<u64>,
    /// Bytes that values have in blob files.
    blobs: BTreeMap<FileNumber, u64>,
}

impl<S: Sink> TableWriter<S> {
    /// Writes into `sink`.
    pub fn new(sink: S, options: WriterOptions) -> TableWriter<S> {
        let block_size = options.block_size;
        let mut writer = TableWriter {
            sink,
            block: BlockBuilder::default(),
            fences: FenceBuilder::default(),
            index: IndexBuilder::new(options.seed),
            packer: Packer::new(options.compression),
            options,
            raw: Vec::new(),
            offset: 0,
            first_key: None,
            last_keyspace: KeyspaceId(0),
            last_bytes: Vec::new(),
            last_seq: SeqNo::ZERO,
            entries: 0,
            tombstones: 0,
            min_seq: SeqNo::MAX,
            max_seq: SeqNo::ZERO,
            raw_bytes: 0,
            expiries: Vec::new(),
            blobs: BTreeMap::new(),
        };
        writer.set_block_size(block_size);
        writer
    }

    /// The length of raw blocks from the next entry on, which may begin a block sooner for it.
    pub fn set_block_size(&mut self, bytes: usize) {
        self.options.block_size = bytes.clamp(512, 65_536);
    }

    /// Adds an entry; keys rise strictly. An entry out of order is `Corruption`: whatever it comes
    /// from is damaged. After an error the table is worth nothing.
    pub fn add(&mut self, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        let first = self.check(key, value)?;
        let user = key.user;
        let fits = self
            .block
            .fits(user.bytes.len(), value.len(), self.options.block_size);
        let same_keyspace = self.block.keyspace() == user.keyspace;
        let joins = self.block.is_empty() || (fits && same_keyspace);
        if !joins {
            self.make_room(user, value, first)?;
        }
        let hash = if first { key_hash(user) } else { 0 };
        self.block.push(key, value, hash, first);
        if first {
            self.last_keyspace = user.keyspace;
            self.last_bytes.clear();
            self.last_bytes.extend_from_slice(user.bytes);
        }
        self.last_seq = key.seq;
        self.entries += 1;
        self.tombstones += u64::from(key.kind == ValueKind::Tombstone);
        self.min_seq = self.min_seq.min(key.seq);
        self.max_seq = self.max_seq.max(key.seq);
        self.raw_bytes += (user.bytes.len() + value.len()) as u64;
        Ok(())
    }

    /// Checks order and limits; true if the user key is a new one.
    #[inline]
    fn check(&mut self, key: KeyRef<'_>, value: &[u8]) -> Result<bool> {
        if key.user.bytes.len() > MAX_KEY_LEN || value.len() as u64 > MAX_VALUE_LEN {
            return Err(Error::invalid("a key or value is too long"));
        }
        if key.kind != ValueKind::Put {
            let fits = key.kind.check_len(value.len());
            fits.map_err(|error| error.wrap(ErrorKind::Invalid, "an entry cannot be stored"))?;
            if key.kind.expires() {
                self.expiries.push(split_expiry(value)?.0);
            }
            if key.kind.in_blob() {
                let at = BlobRef::decode(value)?;
                *self.blobs.entry(at.file).or_default() += at.record_len(key.user.bytes.len());
            }
        }
        if self.entries == 0 {
            self.first_key = Some(key.user.to_owned());
            return Ok(true);
        }
        let last = UserKey::new(self.last_keyspace, &self.last_bytes);
        match last.cmp(&key.user) {
            std::cmp::Ordering::Less => Ok(true),
            std::cmp::Ordering::Equal if self.last_seq > key.seq => Ok(false),
            _ => Err(Error::corruption(format!(
                "entries are out of order: {key:?} follows {last:?}#{}",
                self.last_seq
            ))),
        }
    }

    /// Cuts the block so that an entry which does not fit can start or join the next one.
    #[cold]
    fn make_room(&mut self, key: UserKey<'_>, value: &[u8], first: bool) -> Result<()> {
        let all = usize::MAX;
        if first {
            return self.write_block(all, false);
        }
        match self.block.last_group() {
            Some(group) if group > 0 => {
                self.write_block(group, false)?;
                let fits = self
                    .block
                    .fits(key.bytes.len(), value.len(), self.options.block_size);
                if fits {
                    Ok(())
                } else {
                    self.write_block(all, true)
                }
            }
            _ => self.write_block(all, true),
        }
    }

    /// Writes the first `count` entries as a block; `open` if the last one's key continues in the
    /// next.
    fn write_block(&mut self, count: usize, open: bool) -> Result<()> {
        let count = count.min(self.block.len());
        let cut = self
            .block
            .cut(count, open, &mut self.raw)
            .ok_or_else(|| Error::invalid("a block is too long"))?;
        let ordinal = self.fences.len();
        for (pos, entry) in self.block.placed(&cut) {
            if entry.first {
                self.index.push(entry.hash, ordinal, pos);
            }
        }
        let packed = match &mut self.packer {
            Some(packer) => packer.pack(&self.raw, &cut.header),
            None => None,
        };
        let (stored, header) = packed.unwrap_or((&mut self.raw, cut.header));
        block::seal(stored, self.options.id, self.offset);
        self.sink.write(stored)?;
        self.offset += stored.len() as u64;
        if self.offset > MAX_DATA_LEN {
            return Err(Error::invalid("the table is too long"));
        }
        self.fences
            .push(self.block.first_key(), &header, cut.tombstones, self.offset)?;
        self.block.remove(count);
        Ok(())
    }

    /// About how long the file would be if it were finished now.
    pub fn estimated_size(&self) -> u64 {
        let block = match self.block.is_empty() {
            true => 0,
            false => self.block.raw_len() as u64,
        };
        self.offset + block + self.fences.encoded_len() + self.index.encoded_len() + 512
    }

    /// True if the table should end before the next key: with many more blocks it could have no
    /// point index.
    #[inline]
    pub fn is_full(&self) -> bool {
        // A key with many versions may take many blocks, and no table ends within a key.
        self.fences.len() >= MAX_BLOCKS - MAX_BLOCKS / 16
    }

    /// Bytes of memory that it holds for the point index, until the table is finished.
    #[inline]
    pub fn index_memory(&self) -> u64 {
        self.index.memory()
    }

    /// How many entries were added.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The last user key added.
    pub fn last_user_key(&self) -> Option<UserKey<'_>> {
        (self.entries > 0).then(|| UserKey::new(self.last_keyspace, &self.last_bytes))
    }

    /// Writes the rest. A table without entries is `Invalid`, one to be packed as this build cannot
    /// is `Unsupported`. The sink has everything then, but nothing is synced.
    pub fn finish(mut self) -> Result<(TableInfo, S)> {
        self.options.compression.check()?;
        let Some(smallest) = self.first_key.take() else {
            return Err(Error::invalid("a table needs an entry"));
        };
        if !self.block.is_empty() {
            self.write_block(usize::MAX, false)?;
        }
        let mut sections = Vec::new();
        let fences = self.fences.encode();
        self.write_section(&mut sections, format::FENCES, true, fences)?;
        match self.index.encode(self.fences.len()) {
            Some(index) => self.write_section(&mut sections, format::POINT_INDEX, false, index)?,
            None => {
                let filter = self.index.encode_filter();
                let filter = filter.ok_or_else(|| Error::invalid("the table has too many keys"))?;
                self.write_section(&mut sections, format::FILTER, false, filter)?;
            }
        }
        let mut info = TableInfo {
            id: self.options.id,
            size: 0,
            entries: self.entries,
            tombstones: self.tombstones,
            min_seq: self.min_seq,
            max_seq: self.max_seq,
            smallest,
            largest: UserKey::new(self.last_keyspace, &self.last_bytes).to_owned(),
            compression: self.options.compression,
            raw_bytes: self.raw_bytes,
            blocks: self.fences.len() as u64,
            expiries: Expiries::of(&mut self.expiries),
            blobs: std::mem::take(&mut self.blobs).into_iter().collect(),
        };
        let properties = properties::encode(&info);
        self.write_section(&mut sections, format::PROPERTIES, true, properties)?;
        let footer = encode_footer(&sections, self.options.id, self.offset);
        self.sink.write(&footer)?;
        info.size = self.offset + footer.len() as u64;
        self.sink.finish()?;
        Ok((info, self.sink))
    }

    fn write_section(
        &mut self,
        sections: &mut Vec<Section>,
        tag: u32,
        required: bool,
        mut payload: Vec<u8>,
    ) -> Result<()> {
        let section = seal_section(tag, required, self.options.id, self.offset, &mut payload);
        self.sink.write(&payload)?;
        self.offset += section.len;
        sections.push(section);
        Ok(())
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
