//! Blob files: large values, each written once, outside of the tables that refer to it.
//!
//! A table, like the log before it, holds of a large value only where it lies. So merges move 24
//! bytes in place of the value. A value's place never changes; its file goes when no table refers
//! to it any more.
//!
//! ```text
//! file      := header record*                              what lies between records was given up
//! header    := magic: [u8; 8] | version: u32 | 0: u32 | id: u64 | crc: u32 | 0: u32      crc of the bytes in front
//! record    := head value
//! head      := key length: u32 | value length: u32 | keyspace: u32 | key | (crc of a chunk: u32)*
//! reference := file: u64 | offset: u64 | value length: u32 | crc of the head: u32         offset of the record
//! ```
//!
//! Numbers are little-endian. The value is cut into chunks of 32 KiB, the last one shorter, and
//! each has its plain CRC-32 in the head; the reference has that of the head, with the place mixed
//! in (see `checksum`). So a reader that holds the reference verifies all that it reads, also of a
//! part of the value: whole chunks are read, and none is returned that does not match. Example: `k`
//! = `xy` of keyspace 7, 19 bytes, whose chunk has the CRC `crc("xy")`:
//!
//! ```text
//! 01 00 00 00   02 00 00 00   07 00 00 00   6b   crc   78 79
//! ```
#![deny(clippy::indexing_slicing)]

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use terrace_base::FileNumber;
use terrace_base::checksum::{checksum, crc32};
use terrace_base::coding::{Decoder, put_u32, put_u64};
use terrace_base::error::{Error, Result};
use terrace_base::key::{BLOB_REF_LEN, UserKey};
use terrace_base::vfs::File;

/// Bytes of a value with a checksum of their own.
const CHUNK: u64 = 32 << 10;
/// Bytes in front of the first record.
pub const BLOB_HEADER_LEN: u64 = 32;
const MAGIC: [u8; 8] = *b"TERRBLOB";
const VERSION: u32 = 1;
/// Bytes of a head beside key and checksums.
const FIXED: u64 = 12;
/// Bytes read at once where a value is only verified.
const STRIDE: u64 = 32 * CHUNK;

/// Where a large value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// Names the file.
    pub file: FileNumber,
    /// Where its record begins.
    pub offset: u64,
    /// Bytes of the value.
    pub len: u32,
    /// Verifies the head of the record.
    pub crc: u32,
}

impl BlobRef {
    /// As entries store it.
    pub fn encode(&self) -> [u8; BLOB_REF_LEN] {
        let mut out = Vec::with_capacity(BLOB_REF_LEN);
        put_u64(&mut out, self.file.0);
        put_u64(&mut out, self.offset);
        put_u32(&mut out, self.len);
        put_u32(&mut out, self.crc);
        out.try_into().unwrap_or([0; BLOB_REF_LEN])
    }

    /// The reference at the end of a stored value; a time of expiry may stand in front of it.
    pub fn decode(stored: &[u8]) -> Result<BlobRef> {
        let start = stored.len().checked_sub(BLOB_REF_LEN);
        let bytes = start.and_then(|start| stored.get(start..));
        let mut d = Decoder::new(bytes.unwrap_or_default());
        Ok(BlobRef {
            file: FileNumber(d.u64()?),
            offset: d.u64()?,
            len: d.u32()?,
            crc: d.u32()?,
        })
    }

    /// Bytes that the value of a key of this length takes in its file.
    pub fn record_len(&self, key_len: usize) -> u64 {
        head_len(key_len, u64::from(self.len)) + u64::from(self.len)
    }
}

fn head_len(key_len: usize, value_len: u64) -> u64 {
    FIXED + key_len as u64 + 4 * value_len.div_ceil(CHUNK)
}

/// The bytes that a blob file with this id begins with.
pub fn blob_header(id: u64) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_u32(&mut out, VERSION);
    put_u32(&mut out, 0);
    put_u64(&mut out, id);
    let crc = checksum(&out, id, 0);
    put_u32(&mut out, crc);
    put_u32(&mut out, 0);
    out
}

/// The id that the header of a blob file says, if it verifies.
pub fn blob_id(header: &[u8]) -> Option<u64> {
    let mut d = Decoder::new(header);
    d.bytes(MAGIC.len()).ok()?;
    d.u64().ok()?;
    let id = d.u64().ok()?;
    (header.get(..BLOB_HEADER_LEN as usize)? == blob_header(id)).then_some(id)
}

/// A record to be written: its head, and where it is to lie.
#[derive(Debug)]
pub struct BlobHead {
    /// What is written in front of the value.
    pub bytes: Vec<u8>,
    value_len: u32,
}

impl BlobHead {
    /// The head of a record for the value of a key.
    pub fn new(user: UserKey<'_>, value: &[u8]) -> BlobHead {
        let len = head_len(user.bytes.len(), value.len() as u64);
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        put_u32(&mut bytes, user.bytes.len() as u32);
        put_u32(&mut bytes, value.len() as u32);
        put_u32(&mut bytes, user.keyspace.0);
        bytes.extend_from_slice(user.bytes);
        for chunk in value.chunks(CHUNK as usize) {
            put_u32(&mut bytes, crc32(chunk));
        }
        BlobHead {
            bytes,
            value_len: value.len() as u32,
        }
    }

    /// Bytes of the whole record.
    pub fn record_len(&self) -> u64 {
        self.bytes.len() as u64 + u64::from(self.value_len)
    }

    /// The reference to the record, if it lies at `offset` of the file `number` with the given id.
    pub fn at(&self, number: FileNumber, id: u64, offset: u64) -> BlobRef {
        BlobRef {
            file: number,
            offset,
            len: self.value_len,
            crc: checksum(&self.bytes, id, offset),
        }
    }
}

/// Writes records one behind the other into a new file.
#[derive(Debug)]
pub struct BlobWriter {
    file: File,
    number: FileNumber,
    id: u64,
    /// Where the buffer goes.
    written: u64,
    buffer: Vec<u8>,
    /// It is written once it would have more bytes.
    most: usize,
}

impl BlobWriter {
    /// Begins the empty `file`.
    pub fn new(file: File, number: FileNumber, id: u64) -> BlobWriter {
        BlobWriter::with_buffer(file, number, id, STRIDE as usize)
    }

    /// Writes to `file` through a buffer of about `bytes` at most.
    pub fn with_buffer(file: File, number: FileNumber, id: u64, bytes: usize) -> BlobWriter {
        BlobWriter {
            file,
            number,
            id,
            written: 0,
            buffer: blob_header(id),
            most: bytes.clamp(2 * CHUNK as usize, STRIDE as usize),
        }
    }

    /// Appends the value of a key.
    pub fn add(&mut self, user: UserKey<'_>, value: &[u8]) -> Result<BlobRef> {
        let head = BlobHead::new(user, value);
        let reference = head.at(self.number, self.id, self.size());
        self.reserve(head.bytes.len());
        self.buffer.extend_from_slice(&head.bytes);
        if self.buffer.len() + value.len() > self.most {
            self.flush()?;
        }
        if value.len() > self.most {
            self.file.write_all_at(value, self.written)?;
            self.written += value.len() as u64;
        } else {
            self.reserve(value.len());
            self.buffer.extend_from_slice(value);
        }
        Ok(reference)
    }

    /// Makes room for `more` bytes, which fit or are a head: the buffer doubles, but not beyond
    /// what it may have.
    fn reserve(&mut self, more: usize) {
        let (len, capacity) = (self.buffer.len(), self.buffer.capacity());
        if len + more > capacity {
            let capacity = (2 * capacity).min(self.most).max(len + more);
            self.buffer.reserve_exact(capacity - len);
        }
    }

    /// Bytes of the file so far.
    pub fn size(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes all of it durable, but for its name; number, id and size of the file.
    pub fn finish(mut self) -> Result<(FileNumber, u64, u64)> {
        self.flush()?;
        self.file.sync()?;
        Ok((self.number, self.id, self.written))
    }
}

/// Reads the values of one blob file, which may still grow.
#[derive(Debug)]
pub struct BlobReader {
    file: File,
    id: u64,
    /// Length of the file when it was last looked up, in bytes.
    len: AtomicU64,
}

impl BlobReader {
    /// Opens a file that is to have this id.
    pub fn open(file: File, id: u64) -> Result<BlobReader> {
        let mut header = [0; BLOB_HEADER_LEN as usize];
        file.read_exact_at(&mut header, 0)?;
        if header != *blob_header(id) {
            return Err(BlobReader::wrong_header(&header).in_file(file.path(), 0));
        }
        Ok(BlobReader {
            file,
            id,
            len: AtomicU64::new(0),
        })
    }

    /// Sees to it that the file is read even if it loses its name.
    pub fn keep(&self) -> Result<()> {
        self.file.keep()
    }

    fn wrong_header(header: &[u8]) -> Error {
        let version = || {
            let mut d = Decoder::new(header);
            let magic = d.bytes(MAGIC.len()).ok()? == MAGIC;
            let (version, _, id) = (d.u32().ok()?, d.u32().ok()?, d.u64().ok()?);
            // Else it is a number like any other that was damaged.
            let front = header.get(..header.len() - d.rest().len())?;
            let whole = d.u32().ok()? == checksum(front, id, 0);
            (magic && whole && version > VERSION).then_some(version)
        };
        match version() {
            Some(version) => Error::unsupported(format!(
                "the blob file has format {version}, of a newer terrace; open it with that version"
            )),
            None => Error::corruption("the blob file has another header than the manifest says"),
        }
    }

    fn damage(&self, offset: u64, text: &str) -> Error {
        Error::corruption(text).in_file(self.file.path(), offset)
    }

    /// `Corruption` unless the file has the whole record: what a reference says is not to be
    /// allocated before.
    fn check_bounds(&self, user: UserKey<'_>, at: &BlobRef) -> Result<()> {
        let end = at.offset.saturating_add(at.record_len(user.bytes.len()));
        if end > self.len.load(Ordering::Relaxed) {
            let len = self.file.len()?;
            self.len.fetch_max(len, Ordering::Relaxed);
            if end > len {
                return Err(self.damage(len, "the blob file ends within a value"));
            }
        }
        Ok(())
    }

    /// Verifies a head; the checksums in it.
    fn checksums<'h>(&self, head: &'h [u8], user: UserKey<'_>, at: &BlobRef) -> Result<&'h [u8]> {
        let wrong = |text| Err(self.damage(at.offset, text));
        if checksum(head, self.id, at.offset) != at.crc {
            return wrong("the head of a large value does not verify");
        }
        let mut d = Decoder::new(head);
        let (key_len, value_len, keyspace) = (d.u32()?, d.u32()?, d.u32()?);
        let same = key_len as usize == user.bytes.len()
            && value_len == at.len
            && keyspace == user.keyspace.0
            && d.bytes(user.bytes.len())? == user.bytes;
        if !same {
            return wrong("a large value is of another key");
        }
        let checksums = head.get(FIXED as usize + user.bytes.len()..);
        Ok(checksums.unwrap_or_default())
    }

    /// Verifies chunks from the one with the number `first` on.
    fn check_chunks(&self, sums: &[u8], first: u64, chunks: &[u8], at: &BlobRef) -> Result<()> {
        let sums = sums.chunks_exact(4).skip(first as usize);
        for (chunk, sum) in chunks.chunks(CHUNK as usize).zip(sums) {
            if crc32(chunk).to_le_bytes() != sum {
                return Err(self.damage(at.offset, "a large value does not verify"));
            }
        }
        Ok(())
    }

    /// The value at `at`, which is of the key `user`.
    pub fn read(&self, user: UserKey<'_>, at: &BlobRef) -> Result<Bytes> {
        self.check_bounds(user, at)?;
        let head_len = head_len(user.bytes.len(), u64::from(at.len)) as usize;
        let mut record = vec![0; head_len + at.len as usize];
        self.file.read_exact_at(&mut record, at.offset)?;
        let (head, value) = record.split_at_checked(head_len).unwrap_or_default();
        let sums = self.checksums(head, user, at)?;
        self.check_chunks(sums, 0, value, at)?;
        Ok(Bytes::from(record).slice(head_len..))
    }

    fn read_head(&self, user: UserKey<'_>, at: &BlobRef) -> Result<Vec<u8>> {
        self.check_bounds(user, at)?;
        let mut head = vec![0; head_len(user.bytes.len(), u64::from(at.len)) as usize];
        self.file.read_exact_at(&mut head, at.offset)?;
        Ok(head)
    }

    /// The bytes `part` of the value, as far as it has them. Only the chunks that hold them are
    /// read.
    pub fn read_part(&self, user: UserKey<'_>, at: &BlobRef, part: Range<u64>) -> Result<Bytes> {
        let len = u64::from(at.len);
        let (start, end) = (part.start.min(len), part.end.min(len));
        let head = self.read_head(user, at)?;
        let sums = self.checksums(&head, user, at)?;
        if start >= end {
            return Ok(Bytes::new());
        }
        let first = start / CHUNK;
        let from = first * CHUNK;
        let to = end.next_multiple_of(CHUNK).min(len);
        let mut chunks = vec![0; (to - from) as usize];
        let place = at.offset + head.len() as u64 + from;
        self.file.read_exact_at(&mut chunks, place)?;
        self.check_chunks(sums, first, &chunks, at)?;
        Ok(Bytes::from(chunks).slice((start - from) as usize..(end - from) as usize))
    }

    /// `Corruption` unless the value can be read whole.
    pub fn verify(&self, user: UserKey<'_>, at: &BlobRef) -> Result<()> {
        let len = u64::from(at.len);
        let mut from = 0;
        loop {
            let to = (from + STRIDE).min(len);
            self.read_part(user, at, from..to)?;
            if to == len {
                return Ok(());
            }
            from = to;
        }
    }
}

#[cfg(test)]
#[path = "blob_tests.rs"]
mod tests;
