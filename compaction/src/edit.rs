//! A [`VersionEdit`]: one step of the database's shape, and how the manifest stores it.
//!
//! # Format
//!
//! ```text
//! edit     := field*                                   to the end of the frame
//! field    := tag: varint | length: varint | payload: [u8; length]
//!
//! tag  payload
//!   2  added      level, run, table
//!   4  removed    level, number
//!   6  moved      from level, to level, run, number
//!   8  segment    number, salt: u64, size              listed again: the file has a new salt
//!  10  segment-   number
//!  12  flushed    lsn, seq                             tables hold everything below lsn and up to seq
//!  14  ceiling    number                               file numbers below it may be in use
//!  16  keyspace   id, created: seq, name: slice, options: slice
//!  18  keyspace-  id, seq
//!  20  next       keyspace id                          ids below it were used
//!  22  last seq   seq
//!  24  blob file  number, id: u64, size               size: 0 if it was listed before it was written
//!  26  blob file- number
//!  28  range      keyspace, lower: slice, bounded: u8 (0, 1), upper: slice, seq      deleted: see `range_set`
//!  32  clock      milliseconds since 1970             the database's clock had come this far
//!  30  range-     seq                                 nothing that it hid is left
//!  34  options    keyspace id, options: slice         a keyspace's options from now on
//!  36  name       keyspace id, name: slice            a keyspace's name from now on
//!  37  keyspace:  keyspace id                         it was dropped, and no entry of it is left
//!
//! table    := number, id: u64, size, entries, tombstones, min seq, max seq,
//!             keyspace, smallest: slice, keyspace, largest: slice,
//!             compression: u8 (as in the table), raw bytes, blocks, field*
//! slice    := length: varint | bytes
//! ```
//!
//! What is not said to be otherwise is a varint; `u64` is 8 bytes, little-endian. Fields may come
//! in any order; those of tags 12, 14, 20, 22 and 32 come once at most. An unknown tag that is odd
//! is optional and skipped; one that is even is needed to understand the edit: `Unsupported`. Both
//! rules hold for the fields at the end of a table too: tag 4 are the times of expiry and tag 6 the
//! blob files that it refers to, both as in its properties. Reserved: table tag 2 (range
//! tombstones). Numbers are never reused.
//!
//! # Example
//!
//! Table 7 leaves level 0, and keyspace ids below 3 were used:
//!
//! ```text
//! 04 02 00 07    removed, 2 bytes: level 0, number 7
//! 14 01 03       next keyspace, 1 byte: 3
//! ```
#![deny(clippy::indexing_slicing)]

use terrace_base::coding::{put_slice, put_u64, put_varint};
use terrace_base::{
    Decoder, DeletedRange, Error, FileNumber, KeyspaceId, OwnedUserKey, Result, SeqNo, UserKey,
};
use terrace_sstable::{Compression, Expiries, TableInfo, decode_blobs, encode_blobs};

use crate::blob_file::BlobMeta;
use crate::table_file::TableMeta;
use crate::version::LEVELS;

const ADDED: u64 = 2;
const REMOVED: u64 = 4;
const MOVED: u64 = 6;
const SEGMENT_ADDED: u64 = 8;
const SEGMENT_REMOVED: u64 = 10;
const FLUSHED: u64 = 12;
const FILE_CEILING: u64 = 14;
const KEYSPACE_CREATED: u64 = 16;
const KEYSPACE_DROPPED: u64 = 18;
const NEXT_KEYSPACE: u64 = 20;
const LAST_SEQ: u64 = 22;
const BLOB_ADDED: u64 = 24;
const BLOB_REMOVED: u64 = 26;
const RANGE_DELETED: u64 = 28;
const RANGE_FORGOTTEN: u64 = 30;
const CLOCK: u64 = 32;
const KEYSPACE_OPTIONS: u64 = 34;
const KEYSPACE_RENAMED: u64 = 36;
/// Odd: a reader that does not know the tag skips it, and filters out entries that no longer exist.
const KEYSPACE_FORGOTTEN: u64 = 37;

/// Fields at the end of a table.
const TABLE_EXPIRIES: u64 = 4;
const TABLE_BLOBS: u64 = 6;

/// A table that joins the tree.
#[derive(Clone, PartialEq)]
pub struct AddedTable {
    /// Where it goes.
    pub level: usize,
    /// Its run in that level.
    pub run: u64,
    /// The table.
    pub meta: TableMeta,
}

/// A table that leaves the tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RemovedTable {
    /// Where it is.
    pub level: usize,
    /// The table.
    pub number: FileNumber,
}

/// A table that changes its level as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MovedTable {
    /// Where it is.
    pub from_level: usize,
    /// Where it goes.
    pub to_level: usize,
    /// Its run there.
    pub run: u64,
    /// The table.
    pub number: FileNumber,
}

/// A log file and the salt of its present use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SegmentRecord {
    /// Names the file.
    pub number: FileNumber,
    /// Frames of the present use verify under this.
    pub salt: u64,
    /// Length of the file.
    pub size: u64,
}

/// A keyspace that exists.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyspaceRecord {
    /// Its number; never reused.
    pub id: KeyspaceId,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: SeqNo,
    /// Its options, as the engine encodes them.
    pub options: Vec<u8>,
}

/// Up to where tables hold everything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// The log below this position is never read again.
    pub lsn: u64,
    /// Every write up to this one is in a table.
    pub seq: SeqNo,
}

/// One step of the database's shape: one frame of the manifest. Whole or not at all.
#[derive(Clone, Default, PartialEq)]
pub struct VersionEdit {
    /// Tables that join.
    pub added: Vec<AddedTable>,
    /// Tables that leave.
    pub removed: Vec<RemovedTable>,
    /// Tables that change their level.
    pub moved: Vec<MovedTable>,
    /// Log files in use; a listed number again has a new salt.
    pub segments_added: Vec<SegmentRecord>,
    /// Log files no longer in use.
    pub segments_removed: Vec<FileNumber>,
    /// Up to where tables hold everything.
    pub flushed: Option<Flushed>,
    /// File numbers below this may be in use.
    pub file_ceiling: Option<u64>,
    /// Keyspaces that exist from now on.
    pub keyspaces_created: Vec<KeyspaceRecord>,
    /// Keyspaces that are gone from the given sequence number on.
    pub keyspaces_dropped: Vec<(KeyspaceId, SeqNo)>,
    /// Options that keyspaces have from now on; the default one, which nobody created, may be among
    /// them.
    pub keyspaces_changed: Vec<(KeyspaceId, Vec<u8>)>,
    /// Names that keyspaces have from now on.
    pub keyspaces_renamed: Vec<(KeyspaceId, String)>,
    /// Keyspaces that were dropped and of which no entry is left.
    pub keyspaces_forgotten: Vec<KeyspaceId>,
    /// Keyspace ids below this were used.
    pub next_keyspace: Option<u32>,
    /// The last sequence number known to be used.
    pub last_seq: Option<SeqNo>,
    /// Blob files that join.
    pub blobs_added: Vec<BlobMeta>,
    /// Blob files that leave: nothing refers to them.
    pub blobs_removed: Vec<FileNumber>,
    /// Ranges of keys deleted.
    pub ranges_deleted: Vec<DeletedRange>,
    /// Range deletes that hide nothing any more, by when they were written.
    pub ranges_forgotten: Vec<SeqNo>,
    /// How far the database's clock had come, in milliseconds since 1970.
    pub clock: Option<u64>,
}

impl VersionEdit {
    /// Appends the edit to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for added in &self.added {
            put_field(out, ADDED, |body| {
                put_varint(body, added.level as u64);
                put_varint(body, added.run);
                put_table(body, &added.meta);
            });
        }
        for removed in &self.removed {
            put_numbers(out, REMOVED, &[removed.level as u64, removed.number.0]);
        }
        for moved in &self.moved {
            let levels = [moved.from_level as u64, moved.to_level as u64];
            let [from, to] = levels;
            put_numbers(out, MOVED, &[from, to, moved.run, moved.number.0]);
        }
        for segment in &self.segments_added {
            put_field(out, SEGMENT_ADDED, |body| {
                put_varint(body, segment.number.0);
                put_u64(body, segment.salt);
                put_varint(body, segment.size);
            });
        }
        for number in &self.segments_removed {
            put_numbers(out, SEGMENT_REMOVED, &[number.0]);
        }
        if let Some(flushed) = &self.flushed {
            put_numbers(out, FLUSHED, &[flushed.lsn, flushed.seq.get()]);
        }
        if let Some(ceiling) = self.file_ceiling {
            put_numbers(out, FILE_CEILING, &[ceiling]);
        }
        self.encode_keyspaces(out);
        if let Some(seq) = self.last_seq {
            put_numbers(out, LAST_SEQ, &[seq.get()]);
        }
        for blob in &self.blobs_added {
            put_field(out, BLOB_ADDED, |body| {
                put_varint(body, blob.number.0);
                put_u64(body, blob.id);
                put_varint(body, blob.size);
            });
        }
        for number in &self.blobs_removed {
            put_numbers(out, BLOB_REMOVED, &[number.0]);
        }
        for range in &self.ranges_deleted {
            put_field(out, RANGE_DELETED, |body| put_range(body, range));
        }
        for seq in &self.ranges_forgotten {
            put_numbers(out, RANGE_FORGOTTEN, &[seq.get()]);
        }
        if let Some(time) = self.clock {
            put_numbers(out, CLOCK, &[time]);
        }
    }

    fn encode_keyspaces(&self, out: &mut Vec<u8>) {
        for keyspace in &self.keyspaces_created {
            put_field(out, KEYSPACE_CREATED, |body| {
                put_varint(body, u64::from(keyspace.id.0));
                put_varint(body, keyspace.created.get());
                put_slice(body, keyspace.name.as_bytes());
                put_slice(body, &keyspace.options);
            });
        }
        for (id, options) in &self.keyspaces_changed {
            put_field(out, KEYSPACE_OPTIONS, |body| {
                put_varint(body, u64::from(id.0));
                put_slice(body, options);
            });
        }
        for (id, name) in &self.keyspaces_renamed {
            put_field(out, KEYSPACE_RENAMED, |body| {
                put_varint(body, u64::from(id.0));
                put_slice(body, name.as_bytes());
            });
        }
        for (id, seq) in &self.keyspaces_dropped {
            put_numbers(out, KEYSPACE_DROPPED, &[u64::from(id.0), seq.get()]);
        }
        for id in &self.keyspaces_forgotten {
            put_numbers(out, KEYSPACE_FORGOTTEN, &[u64::from(id.0)]);
        }
        if let Some(id) = self.next_keyspace {
            put_numbers(out, NEXT_KEYSPACE, &[u64::from(id)]);
        }
    }

    /// Reads what [`VersionEdit::encode`] wrote. Whatever the bytes, the answer is an edit or an
    /// error.
    pub fn decode(bytes: &[u8]) -> Result<VersionEdit> {
        let mut edit = VersionEdit::default();
        let mut decoder = Decoder::new(bytes);
        while !decoder.is_empty() {
            let tag = decoder.varint()?;
            let mut body = Decoder::new(decoder.slice()?);
            if edit.decode_field(tag, &mut body)? {
                body.finish()?;
            }
        }
        Ok(edit)
    }

    /// False if the field was skipped.
    fn decode_field(&mut self, tag: u64, body: &mut Decoder<'_>) -> Result<bool> {
        match tag {
            ADDED => self.added.push(AddedTable {
                level: level(body)?,
                run: body.varint()?,
                meta: table(body)?,
            }),
            REMOVED => self.removed.push(RemovedTable {
                level: level(body)?,
                number: number(body)?,
            }),
            MOVED => self.moved.push(MovedTable {
                from_level: level(body)?,
                to_level: level(body)?,
                run: body.varint()?,
                number: number(body)?,
            }),
            SEGMENT_ADDED => self.segments_added.push(SegmentRecord {
                number: number(body)?,
                salt: body.u64()?,
                size: body.varint()?,
            }),
            SEGMENT_REMOVED => self.segments_removed.push(number(body)?),
            FLUSHED => {
                let (lsn, seq) = (body.varint()?, seq(body)?);
                once(&mut self.flushed, Flushed { lsn, seq })?;
            }
            FILE_CEILING => once(&mut self.file_ceiling, body.varint()?)?,
            KEYSPACE_CREATED => self.keyspaces_created.push(keyspace(body)?),
            KEYSPACE_DROPPED => {
                let dropped = (KeyspaceId(body.varint_u32()?), seq(body)?);
                self.keyspaces_dropped.push(dropped);
            }
            KEYSPACE_OPTIONS => {
                let changed = (KeyspaceId(body.varint_u32()?), body.slice()?.to_vec());
                self.keyspaces_changed.push(changed);
            }
            KEYSPACE_RENAMED => {
                let renamed = (KeyspaceId(body.varint_u32()?), name(body)?);
                self.keyspaces_renamed.push(renamed);
            }
            KEYSPACE_FORGOTTEN => {
                let id = KeyspaceId(body.varint_u32()?);
                self.keyspaces_forgotten.push(id);
            }
            NEXT_KEYSPACE => once(&mut self.next_keyspace, body.varint_u32()?)?,
            LAST_SEQ => once(&mut self.last_seq, seq(body)?)?,
            BLOB_ADDED => self.blobs_added.push(BlobMeta {
                number: number(body)?,
                id: body.u64()?,
                size: body.varint()?,
            }),
            BLOB_REMOVED => self.blobs_removed.push(number(body)?),
            RANGE_DELETED => self.ranges_deleted.push(range(body)?),
            RANGE_FORGOTTEN => self.ranges_forgotten.push(seq(body)?),
            CLOCK => once(&mut self.clock, body.varint()?)?,
            _ => return skip(tag).map(|()| false),
        }
        Ok(true)
    }
}

/// Unknown fields: odd ones may be skipped.
fn skip(tag: u64) -> Result<()> {
    if tag % 2 == 1 {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "the manifest holds a field {tag} of a newer terrace; open it with that version"
    )))
}

fn put_field(out: &mut Vec<u8>, tag: u64, write: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    write(&mut body);
    put_varint(out, tag);
    put_slice(out, &body);
}

fn put_numbers(out: &mut Vec<u8>, tag: u64, numbers: &[u64]) {
    put_field(out, tag, |body| {
        for &n in numbers {
            put_varint(body, n);
        }
    });
}

fn put_table(body: &mut Vec<u8>, meta: &TableMeta) {
    let info = &meta.info;
    put_varint(body, meta.number.0);
    put_u64(body, info.id);
    for n in [
        info.size,
        info.entries,
        info.tombstones,
        info.min_seq.get(),
        info.max_seq.get(),
    ] {
        put_varint(body, n);
    }
    for key in [&info.smallest, &info.largest] {
        put_varint(body, u64::from(key.keyspace.0));
        put_slice(body, &key.bytes);
    }
    body.push(info.compression as u8);
    put_varint(body, info.raw_bytes);
    put_varint(body, info.blocks);
    if let Some(expiries) = &info.expiries {
        put_field(body, TABLE_EXPIRIES, |field| expiries.encode(field));
    }
    if !info.blobs.is_empty() {
        put_field(body, TABLE_BLOBS, |field| encode_blobs(&info.blobs, field));
    }
}

fn table(body: &mut Decoder<'_>) -> Result<TableMeta> {
    let number = number(body)?;
    let mut info = TableInfo {
        id: body.u64()?,
        size: body.varint()?,
        entries: body.varint()?,
        tombstones: body.varint()?,
        min_seq: seq(body)?,
        max_seq: seq(body)?,
        smallest: user_key(body)?,
        largest: user_key(body)?,
        compression: Compression::from_byte(body.u8()?)?,
        raw_bytes: body.varint()?,
        blocks: body.varint()?,
        expiries: None,
        blobs: Vec::new(),
    };
    while !body.is_empty() {
        match body.varint()? {
            TABLE_EXPIRIES => {
                let mut field = Decoder::new(body.slice()?);
                once(&mut info.expiries, Expiries::decode(&mut field)?)?;
                field.finish()?;
            }
            TABLE_BLOBS if info.blobs.is_empty() => info.blobs = decode_blobs(body.slice()?)?,
            tag => {
                skip(tag)?;
                body.slice()?;
            }
        }
    }
    Ok(TableMeta { number, info })
}

fn put_range(body: &mut Vec<u8>, range: &DeletedRange) {
    put_varint(body, u64::from(range.keyspace.0));
    put_slice(body, &range.lower);
    body.push(u8::from(range.upper.is_some()));
    put_slice(body, range.upper.as_deref().unwrap_or_default());
    put_varint(body, range.seq.get());
}

fn range(body: &mut Decoder<'_>) -> Result<DeletedRange> {
    let keyspace = KeyspaceId(body.varint_u32()?);
    let lower = body.slice()?;
    let (bounded, upper) = (body.u8()?, body.slice()?);
    let upper = match bounded {
        0 if upper.is_empty() => None,
        1 if upper > lower => Some(upper.into()),
        _ => {
            return Err(Error::corruption(
                "a deleted range has no end, or an end before its start",
            ));
        }
    };
    Ok(DeletedRange {
        keyspace,
        lower: lower.into(),
        upper,
        seq: seq(body)?,
    })
}

fn keyspace(body: &mut Decoder<'_>) -> Result<KeyspaceRecord> {
    Ok(KeyspaceRecord {
        id: KeyspaceId(body.varint_u32()?),
        created: seq(body)?,
        name: name(body)?,
        options: body.slice()?.to_vec(),
    })
}

fn name(body: &mut Decoder<'_>) -> Result<String> {
    String::from_utf8(body.slice()?.to_vec())
        .map_err(|_| Error::corruption("the name of a keyspace is not UTF-8"))
}

fn user_key(body: &mut Decoder<'_>) -> Result<OwnedUserKey> {
    let keyspace = KeyspaceId(body.varint_u32()?);
    Ok(UserKey::new(keyspace, body.slice()?).to_owned())
}

fn number(body: &mut Decoder<'_>) -> Result<FileNumber> {
    body.varint().map(FileNumber)
}

fn seq(body: &mut Decoder<'_>) -> Result<SeqNo> {
    match body.varint()? {
        n if n <= SeqNo::MAX.get() => Ok(SeqNo::new(n)),
        n => Err(Error::corruption(format!("{n} is no sequence number"))),
    }
}

fn level(body: &mut Decoder<'_>) -> Result<usize> {
    match body.varint_usize()? {
        n if n < LEVELS => Ok(n),
        n => Err(Error::corruption(format!("there is no level {n}"))),
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::corruption("an edit holds a field twice")),
    }
}
