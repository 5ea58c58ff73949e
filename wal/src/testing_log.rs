//! A model engine around a [`Log`]: a manifest that is always durable, and a record of what was
//! written.

use std::path::{Path, PathBuf};

use terrace_base::vfs::Fs;
use terrace_base::{FileKind, FileNumber, Result, SeqNo};

use crate::testing::TestVfs;
use crate::{Known, Log, Lsn, Recovered, Room, SegmentMeta, Start, create_segment, recover};

/// The end of a frame whose append failed.
const UNKNOWN: Lsn = Lsn(u64::MAX);

/// A frame as it was appended, or as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub seq: u64,
    pub end: Lsn,
    pub payload: Vec<u8>,
}

impl PartialEq for Written {
    fn eq(&self, other: &Written) -> bool {
        let ends = self.end == other.end || self.end == UNKNOWN || other.end == UNKNOWN;
        ends && self.seq == other.seq && self.payload == other.payload
    }
}

#[derive(Debug)]
pub(crate) struct Engine {
    pub vfs: TestVfs,
    pub fs: Fs,
    pub log: Log,
    /// What the manifest lists.
    pub listed: Vec<SegmentMeta>,
    pub flushed: Lsn,
    pub edit: u64,
    /// All frames of the log that are not flushed, in order.
    pub written: Vec<Written>,
    /// Every frame up to here survives.
    pub synced: Lsn,
    pub seq: u64,
    pub size: u64,
    free: Vec<(FileNumber, u64)>,
    next_number: u64,
    next_salt: u64,
}

pub(crate) fn dir() -> &'static Path {
    Path::new("/")
}

pub(crate) fn path_of(number: u64) -> PathBuf {
    FileKind::Segment(FileNumber(number)).path(dir())
}

fn new_log(fs: &Fs, next: Lsn, seq: u64) -> Log {
    let start = Start {
        next,
        last_seq: SeqNo::new(seq),
        predecessor: None,
        sealed: Vec::new(),
    };
    Log::new(fs.clone(), dir().into(), start)
}

impl Engine {
    pub(crate) fn new(size: u64) -> Engine {
        let vfs = TestVfs::new();
        let fs = vfs.fs();
        Engine {
            log: new_log(&fs, Lsn(0), 0),
            vfs,
            fs,
            listed: Vec::new(),
            flushed: Lsn(0),
            edit: 1,
            written: Vec::new(),
            synced: Lsn(0),
            seq: 0,
            size,
            free: Vec::new(),
            next_number: 1,
            next_salt: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn salt(&mut self) -> u64 {
        self.next_salt = self
            .next_salt
            .wrapping_mul(0xd134_2543_de82_ef95)
            .wrapping_add(1);
        self.next_salt ^ (self.next_salt >> 29)
    }

    /// Lists a file under a fresh salt, an old one if one is large enough.
    pub(crate) fn prepare(&mut self, min_size: u64) -> Result<()> {
        let size = min_size.max(self.size);
        let (number, size) = match self.free.iter().position(|(_, s)| *s >= size) {
            Some(index) => self.free.remove(index),
            None => {
                let number = FileNumber(self.next_number);
                self.next_number += 1;
                create_segment(&self.fs, dir(), number, size)?;
                (number, size)
            }
        };
        let meta = SegmentMeta {
            number,
            salt: self.salt(),
            size,
        };
        self.listed.push(meta.clone());
        self.edit += 1;
        self.log.put_spare(meta, self.edit)
    }

    pub(crate) fn append(&mut self, payload: &[u8], count: u32) -> Result<Lsn> {
        if let Room::NeedsSegment { min_size } = self.log.room_for(payload.len()) {
            self.prepare(min_size)?;
        }
        let seq = self.seq + 1;
        self.seq += u64::from(count);
        let (front, back) = payload.split_at(payload.len() / 3);
        let result = self.log.append(count, SeqNo::new(seq), &[front, back]);
        // A frame whose store failed may be there.
        let end = result.clone().unwrap_or(UNKNOWN);
        let payload = payload.to_vec();
        self.written.push(Written { seq, end, payload });
        result
    }

    pub(crate) fn put(&mut self, len: usize) -> Lsn {
        self.append(&vec![self.seq as u8 | 1; len], 1).unwrap()
    }

    pub(crate) fn sync(&mut self) -> Result<()> {
        let point = self.log.sync_point();
        point
            .run()
            .inspect_err(|error| self.log.fail(error.clone()))?;
        self.log.note_synced(point.upto);
        self.synced = self.synced.max(point.upto);
        Ok(())
    }

    /// Tables now hold everything below `upto`: the segments below it may be used again.
    pub(crate) fn flush(&mut self, upto: Lsn) {
        self.flushed = self.flushed.max(upto);
        self.written.retain(|frame| frame.end > self.flushed);
        self.edit += 1;
        for meta in self.log.release(self.flushed) {
            self.listed.retain(|other| other.number != meta.number);
            self.free.push((meta.number, meta.size));
        }
        assert_eq!(self.log.segments().len(), self.listed.len());
    }

    pub(crate) fn recover(&self) -> Result<(Recovered, Vec<Written>)> {
        let mut found = Vec::new();
        let result = recover(
            &self.fs,
            dir(),
            &self.listed,
            Known {
                flushed: self.flushed,
                edit: self.edit,
                last_seq: SeqNo::MAX,
            },
            &mut |frame| {
                found.push(Written {
                    seq: frame.first_seq.get(),
                    end: frame.end,
                    payload: frame.payload.to_vec(),
                });
                Ok(())
            },
        )?;
        Ok((result, found))
    }

    /// What recovery must give after a crash: a prefix with everything synced.
    pub(crate) fn check(&self) -> Recovered {
        let (result, found) = self.recover().unwrap();
        assert!(found.len() <= self.written.len(), "more than was written");
        assert_eq!(found, self.written[..found.len()], "a prefix");
        let synced = self
            .written
            .iter()
            .filter(|frame| frame.end <= self.synced)
            .count();
        assert!(
            found.len() >= synced,
            "{} of {synced} synced frames",
            found.len()
        );
        assert!(result.end >= self.flushed && result.synced <= result.end);
        assert!(result.highest_seen >= result.end);
        let last = found.last().map_or(self.flushed, |frame| frame.end);
        assert!(result.end >= last);
        let listed = result.used.len() + result.unused.len() + result.dropped.len();
        assert_eq!(listed, self.listed.len());
        result
    }

    /// Opens again as an engine does: continues after a close frame, else keeps what was found in
    /// tables and begins anew above it.
    pub(crate) fn reopen(&mut self) -> Recovered {
        let result = self.check();
        let found = self.recover().unwrap().1.len();
        self.written.truncate(found);
        self.seq = self.seq.max(result.last_seq.get());
        if result.close.is_some() && result.predecessor.is_some() {
            // Spares are listed anew before their first use.
            self.listed.retain(|meta| !result.unused.contains(meta));
            self.free
                .extend(result.unused.iter().map(|meta| (meta.number, meta.size)));
            let start = Start {
                next: result.highest_seen,
                last_seq: result.last_seq,
                predecessor: result.predecessor.clone(),
                sealed: result.used.clone(),
            };
            self.log = Log::new(self.fs.clone(), dir().into(), start);
        } else {
            self.written.clear();
            self.flushed = result.highest_seen;
            self.free
                .extend(self.listed.drain(..).map(|meta| (meta.number, meta.size)));
            self.seq += 1 << 32;
            self.edit += 1;
            self.log = new_log(&self.fs, self.flushed, self.seq);
        }
        self.synced = self.log.synced();
        result
    }
}
