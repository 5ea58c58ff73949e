//! Reads a whole table and checks all that it says of itself.

use std::collections::BTreeMap;

use terrace_base::FileNumber;
use terrace_base::error::{Error, Result};
use terrace_base::hash::key_hash;
use terrace_base::key::{OwnedUserKey, SeqNo, UserKey, ValueKind, split_expiry};

use crate::blob::BlobRef;
use crate::block::{CONTINUES, RawBlock, VERSIONS};
use crate::iterator::Scan;
use crate::properties::Expiries;
use crate::reader::Table;

/// What the blocks add up to.
struct Sums {
    entries: u64,
    tombstones: u64,
    raw_bytes: u64,
    expiries: Vec<u64>,
    blobs: BTreeMap<FileNumber, u64>,
    min_seq: SeqNo,
    max_seq: SeqNo,
    /// The last key seen and its sequence number.
    last: Option<(OwnedUserKey, SeqNo)>,
    /// Memory to unpack other blocks into.
    scratch: Vec<u8>,
}

pub(crate) fn verify(table: &Table) -> Result<()> {
    let mut sums = Sums {
        entries: 0,
        tombstones: 0,
        raw_bytes: 0,
        expiries: Vec::new(),
        blobs: BTreeMap::new(),
        min_seq: SeqNo::MAX,
        max_seq: SeqNo::ZERO,
        last: None,
        scratch: Vec::new(),
    };
    let mut scan = Scan::default();
    for i in 0..table.fences().len() {
        let bytes = scan.block(table, i)?;
        let mut add = || {
            let block = RawBlock::new(&bytes)?;
            block.validate()?;
            sums.add(table, i, &block)
        };
        add().map_err(|error| table.at_block(i, error))?;
    }
    table.rest();
    sums.agree(table).map_err(|error| table.at_block(0, error))
}

impl Sums {
    fn add(&mut self, table: &Table, i: usize, block: &RawBlock<'_>) -> Result<()> {
        let header = block.header();
        let starts_new = match (&self.last, block.record(0)) {
            (Some((last, seq)), Some(first)) => {
                let user = UserKey::new(header.keyspace, first.key);
                let continues = last.as_ref() == user;
                let before = table.fences().meta(i.wrapping_sub(1));
                let open = before.is_some_and(|meta| meta.flags & VERSIONS != 0);
                if last.as_ref() > user || (continues && (*seq <= first.seq() || !open)) {
                    return Err(Error::corruption("blocks are out of order"));
                }
                !continues
            }
            _ => true,
        };
        if starts_new == (header.flags & CONTINUES != 0) {
            return Err(Error::corruption(
                "a block does not continue as its flags say",
            ));
        }
        let mut previous: Option<&[u8]> = None;
        let mut last_new: Option<UserKey<'_>> = None;
        for n in 0..block.len() {
            let Some(record) = block.record(n) else { break };
            let newest = match previous {
                Some(previous) => previous != record.key,
                None => starts_new,
            };
            let user = UserKey::new(header.keyspace, record.key);
            if newest {
                find_by_index(table, user, (i, block.position(n)), &mut self.scratch)?;
                if last_new.is_none() {
                    find_by_fences(table, user, i)?;
                }
                last_new = Some(user);
            }
            self.entries += 1;
            self.tombstones += u64::from(record.kind() == ValueKind::Tombstone);
            if record.kind().expires() {
                self.expiries.push(split_expiry(record.value)?.0);
            }
            if record.kind().in_blob() {
                let at = BlobRef::decode(record.value)?;
                *self.blobs.entry(at.file).or_default() += at.record_len(record.key.len());
            }
            self.raw_bytes += (record.key.len() + record.value.len()) as u64;
            self.min_seq = self.min_seq.min(record.seq());
            self.max_seq = self.max_seq.max(record.seq());
            previous = Some(record.key);
        }
        // Keys rise, so the fences lead to this block for all of them if they do for the first and
        // the last.
        if let Some(user) = last_new {
            find_by_fences(table, user, i)?;
        }
        if let Some(record) = block.record(block.len() - 1) {
            let user = UserKey::new(header.keyspace, record.key);
            self.last = Some((user.to_owned(), record.seq()));
        }
        Ok(())
    }

    fn agree(&self, table: &Table) -> Result<()> {
        let info = table.info();
        let largest = self.last.as_ref().map(|(user, _)| user);
        if self.entries != info.entries
            || self.tombstones != info.tombstones
            || self.raw_bytes != info.raw_bytes
            || self.min_seq != info.min_seq
            || self.max_seq != info.max_seq
            || largest != Some(&info.largest)
            || Expiries::of(&mut self.expiries.clone()) != info.expiries
            || !self
                .blobs
                .iter()
                .map(|(n, b)| (*n, *b))
                .eq(info.blobs.iter().copied())
        {
            return Err(Error::corruption(
                "the properties are not those of the entries",
            ));
        }
        Ok(())
    }
}

/// Checks that the filter, where that stands for the index, lets `user` pass; else that the point
/// index leads to the newest version of `user`, which lies at `place`, before it leads to any other
/// version of it.
fn find_by_index(
    table: &Table,
    user: UserKey<'_>,
    place: (usize, usize),
    scratch: &mut Vec<u8>,
) -> Result<()> {
    let Some(index) = table.index() else {
        return match table.passes_filter(key_hash(user)) {
            true => Ok(()),
            false => Err(Error::corruption(format!("the filter misses {user:?}"))),
        };
    };
    for found in index.probe(key_hash(user)) {
        if found == place {
            return Ok(());
        }
        // A key with the same fingerprint, as a rule: a look-up passes over it.
        if table.is_at(user, found, scratch)? {
            break;
        }
    }
    Err(Error::corruption(format!(
        "the point index misses {user:?}"
    )))
}

/// Checks that the fences lead to `block` for `user`.
fn find_by_fences(table: &Table, user: UserKey<'_>, block: usize) -> Result<()> {
    if table.fences().locate(user).start == block {
        return Ok(());
    }
    Err(Error::corruption(format!("the fences miss {user:?}")))
}
