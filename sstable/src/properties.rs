//! What is known of a table as a whole.
//!
//! ```text
//! properties := (tag:varint value:slice)* 0          slice: length as a varint, then the bytes
//! 10 (only where entries expire): how many do, and when the first, the middle one and the last of them does
//! 11 (only where values lie in blob files): of each file its number and how many bytes it has for this table
//! 1 entries, 2 tombstones, 3 lowest sequence number, 4 highest, 7 compression, 8 bytes of keys and
//! values, 9 blocks: varints.   5 smallest user key, 6 largest: keyspace as 4 big-endian bytes, key
//! ```
//!
//! Each known tag stands once; unknown ones are skipped. Example: `01 01 05` says that there are 5
//! entries.
#![deny(clippy::indexing_slicing)]

use terrace_base::FileNumber;
use terrace_base::coding::{Decoder, put_slice, put_varint};
use terrace_base::error::{Error, Result};
use terrace_base::key::{KeyspaceId, OwnedUserKey, SeqNo, UserKey};

use crate::options::Compression;

/// What is known of a table as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct TableInfo {
    /// The random number of the file.
    pub id: u64,
    /// Its length in bytes.
    pub size: u64,
    /// How many entries it holds, tombstones included.
    pub entries: u64,
    /// How many of them are tombstones.
    pub tombstones: u64,
    /// The lowest sequence number.
    pub min_seq: SeqNo,
    /// The highest sequence number.
    pub max_seq: SeqNo,
    /// The first user key.
    pub smallest: OwnedUserKey,
    /// The last user key.
    pub largest: OwnedUserKey,
    /// How it was asked to be packed; single blocks may be raw all the same.
    pub compression: Compression,
    /// Bytes of all user keys and values.
    pub raw_bytes: u64,
    /// How many blocks it has.
    pub blocks: u64,
    /// When its entries expire, if any does.
    pub expiries: Option<Expiries>,
    /// The blob files that its values lie in, by rising number, and how many bytes each has of
    /// them.
    pub blobs: Vec<(FileNumber, u64)>,
}

/// When entries expire, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiries {
    /// How many do.
    pub entries: u64,
    /// The first of them.
    pub first: u64,
    /// By then half of them have.
    pub median: u64,
    /// The last of them.
    pub last: u64,
}

impl Expiries {
    /// Sums up when entries expire, in any order; `None` if none does.
    pub fn of(times: &mut [u64]) -> Option<Expiries> {
        times.sort_unstable();
        Some(Expiries {
            entries: times.len() as u64,
            first: *times.first()?,
            median: *times.get((times.len() - 1) / 2)?,
            last: *times.last()?,
        })
    }

    /// Appends the four numbers.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for n in [self.entries, self.first, self.median, self.last] {
            put_varint(out, n);
        }
    }

    /// Reads what [`Expiries::encode`] wrote.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Expiries> {
        let expiries = Expiries {
            entries: decoder.varint()?,
            first: decoder.varint()?,
            median: decoder.varint()?,
            last: decoder.varint()?,
        };
        let rising = expiries.first <= expiries.median && expiries.median <= expiries.last;
        if expiries.entries == 0 || !rising {
            return Err(Error::corruption(
                "the times of expiry contradict each other",
            ));
        }
        Ok(expiries)
    }
}

/// Appends blob files and the bytes that they have.
pub fn encode_blobs(blobs: &[(FileNumber, u64)], out: &mut Vec<u8>) {
    for (file, bytes) in blobs {
        put_varint(out, file.0);
        put_varint(out, *bytes);
    }
}

/// Reads what [`encode_blobs`] wrote, to its end.
pub fn decode_blobs(bytes: &[u8]) -> Result<Vec<(FileNumber, u64)>> {
    let mut decoder = Decoder::new(bytes);
    let mut blobs: Vec<(FileNumber, u64)> = Vec::new();
    while !decoder.is_empty() {
        let (file, bytes) = (FileNumber(decoder.varint()?), decoder.varint()?);
        if blobs.last().is_some_and(|(last, _)| *last >= file) {
            return Err(Error::corruption("a table's blob files are not in order"));
        }
        blobs.push((file, bytes));
    }
    Ok(blobs)
}

const ENTRIES: u64 = 1;
const TOMBSTONES: u64 = 2;
const MIN_SEQ: u64 = 3;
const MAX_SEQ: u64 = 4;
const SMALLEST: u64 = 5;
const LARGEST: u64 = 6;
const COMPRESSION: u64 = 7;
const RAW_BYTES: u64 = 8;
const BLOCKS: u64 = 9;
const EXPIRIES: u64 = 10;
const BLOBS: u64 = 11;
const KNOWN: usize = 11;

/// The key as it stands in properties and fences.
pub(crate) fn put_user_key(out: &mut Vec<u8>, key: UserKey<'_>) {
    out.extend_from_slice(&key.keyspace.0.to_be_bytes());
    out.extend_from_slice(key.bytes);
}

/// The reverse of [`put_user_key`].
#[inline]
pub(crate) fn split_user_key(bytes: &[u8]) -> Result<UserKey<'_>> {
    match bytes.split_first_chunk::<4>() {
        Some((keyspace, key)) => Ok(UserKey::new(KeyspaceId(u32::from_be_bytes(*keyspace)), key)),
        None => Err(Error::corruption("a key lacks its keyspace")),
    }
}

/// The payload of the section.
pub(crate) fn encode(info: &TableInfo) -> Vec<u8> {
    let mut out = Vec::new();
    let mut value = Vec::new();
    let numbers = [
        (ENTRIES, info.entries),
        (TOMBSTONES, info.tombstones),
        (MIN_SEQ, info.min_seq.get()),
        (MAX_SEQ, info.max_seq.get()),
        (COMPRESSION, info.compression as u64),
        (RAW_BYTES, info.raw_bytes),
        (BLOCKS, info.blocks),
    ];
    for (tag, number) in numbers {
        value.clear();
        put_varint(&mut value, number);
        put_varint(&mut out, tag);
        put_slice(&mut out, &value);
    }
    for (tag, key) in [(SMALLEST, &info.smallest), (LARGEST, &info.largest)] {
        value.clear();
        put_user_key(&mut value, key.as_ref());
        put_varint(&mut out, tag);
        put_slice(&mut out, &value);
    }
    if let Some(expiries) = &info.expiries {
        value.clear();
        expiries.encode(&mut value);
        put_varint(&mut out, EXPIRIES);
        put_slice(&mut out, &value);
    }
    if !info.blobs.is_empty() {
        value.clear();
        encode_blobs(&info.blobs, &mut value);
        put_varint(&mut out, BLOBS);
        put_slice(&mut out, &value);
    }
    put_varint(&mut out, 0);
    out
}

/// Reads the section of the table `id` of `size` bytes.
pub(crate) fn decode(payload: &[u8], id: u64, size: u64) -> Result<TableInfo> {
    let mut decoder = Decoder::new(payload);
    let mut values: [Option<&[u8]>; KNOWN] = [None; KNOWN];
    loop {
        let tag = decoder.varint()?;
        if tag == 0 {
            break;
        }
        let value = decoder.slice()?;
        let place = usize::try_from(tag - 1).unwrap_or(usize::MAX);
        if let Some(slot) = values.get_mut(place)
            && slot.replace(value).is_some()
        {
            return Err(Error::corruption(format!("property {tag} stands twice")));
        }
    }
    let value = |tag: u64| {
        values
            .get((tag - 1) as usize)
            .copied()
            .flatten()
            .ok_or_else(|| Error::corruption(format!("property {tag} is missing")))
    };
    let number = |tag: u64| -> Result<u64> {
        let mut decoder = Decoder::new(value(tag)?);
        let number = decoder.varint()?;
        decoder.finish()?;
        Ok(number)
    };
    let compression = u8::try_from(number(COMPRESSION)?)
        .map_err(|_| Error::corruption("no such compression"))
        .and_then(Compression::from_byte)?;
    let optional = |tag: u64| values.get((tag - 1) as usize).copied().flatten();
    let expiries = match optional(EXPIRIES) {
        Some(value) => {
            let mut decoder = Decoder::new(value);
            let expiries = Expiries::decode(&mut decoder)?;
            decoder.finish()?;
            Some(expiries)
        }
        None => None,
    };
    let info = TableInfo {
        id,
        size,
        expiries,
        blobs: optional(BLOBS).map_or(Ok(Vec::new()), decode_blobs)?,
        entries: number(ENTRIES)?,
        tombstones: number(TOMBSTONES)?,
        min_seq: SeqNo::new(number(MIN_SEQ)?),
        max_seq: SeqNo::new(number(MAX_SEQ)?),
        smallest: split_user_key(value(SMALLEST)?)?.to_owned(),
        largest: split_user_key(value(LARGEST)?)?.to_owned(),
        compression,
        raw_bytes: number(RAW_BYTES)?,
        blocks: number(BLOCKS)?,
    };
    let expiring = info.expiries.map_or(0, |expiries| expiries.entries);
    if info.smallest > info.largest
        || info.min_seq > info.max_seq
        || info.entries == 0
        || expiring > info.entries
    {
        return Err(Error::corruption("the properties contradict themselves"));
    }
    Ok(info)
}
