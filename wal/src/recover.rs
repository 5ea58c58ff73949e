//! Reads the log back after whatever happened: the chain of segments and the tail rule.
//!
//! # The chain
//!
//! The manifest lists the segments with the salts of their present uses, and the position `flushed`
//! below which tables hold everything. The first frame of each is read; where it is a link that
//! verifies, it says which positions the segment holds and which use it follows. Replay begins at
//! `flushed`, in the segment whose link begins at or below it and is the greatest of these; nothing
//! below is read, and the log may be torn or gone there.
//!
//! ```text
//!            flushed
//!               v
//!   A [link . . . . . . . . e]   B [link . . . . . . . p ~ ~ f ~ ~]   C [listed, link lost ~ ~ g ~ ~]
//!                            ^         |
//!                            +---------+ "my predecessor is A, and it ends at e"
//! ```
//!
//! # The tail rule
//!
//! A segment ends where the link of a verified successor says so. Without one, or where a frame
//! before that end does not verify, the log ends at that place `p`. Then everything after it is
//! searched for frames that verify alone (`f`, `g`): the rest of the segment, and every other
//! listed segment that was not replayed. A frame that promises a position above `p` proves that
//! durable bytes are gone: `Corruption`, at `p`. Without such a frame nothing after `p` was ever
//! promised, and it is dropped, whole segments with it: replay never continues after a hole.
//!
//! Some cases that this decides:
//!
//! - `flushed` lies in a segment whose link was lost: the log ends at `flushed`, unless a promise
//!   says that more was durable. The same where it lies just at the end of one segment and the next
//!   one's link is lost.
//! - All links that verify lie above `flushed`: their frames were never promised only if the
//!   segment before them is listed and may have lost its link in the same crash; else the log
//!   begins above `flushed`, which is `Corruption`.
//! - The log ends with a close frame that names the manifest's last edit: nothing was written after
//!   it, for the next life begins with an edit, and no segment is searched.
//! - The first frame of a segment is the link of another listed use: files were exchanged.
//!   `Corruption`.
//! - A frame's first sequence number leaves some out that no edit names ([`Known::last_seq`]): the
//!   manifest is older than the log. `Corruption`.
//!
//! Damage that takes the last promise with it cannot be told from a tear, and ends the log there.

use std::path::Path;

use terrace_base::vfs::Fs;
use terrace_base::{Error, Result, SeqNo, mutant};

use crate::chain::{Segment, open_all};
use crate::format::{Close, Frame, FrameKind, Link, Lsn, MAX_LSN};
use crate::log::{Predecessor, Sealed, last_of};
use crate::segment::SegmentMeta;

/// What the close frame at the end of a log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseInfo {
    /// The last sequence number in use.
    pub last_seq: SeqNo,
    /// Number of the manifest's last edit.
    pub manifest_edit: u64,
}

/// What [`recover`] found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Where the log ends; never below the flushed position.
    pub end: Lsn,
    /// The last sequence number found in frames and links; zero if there are none.
    pub last_seq: SeqNo,
    /// The highest promise that verifies: what lies between it and `end` may be in memory only.
    pub synced: Lsn,
    /// The log was closed: it ends with a close frame, and no frame lies behind that.
    pub close: Option<CloseInfo>,
    /// The segments that hold the log, the oldest first, those below the flushed position included.
    pub used: Vec<Sealed>,
    /// Listed segments that were never written under their salt.
    pub unused: Vec<SegmentMeta>,
    /// Listed segments that held only frames behind the end: to be unlisted, or given a fresh salt.
    pub dropped: Vec<SegmentMeta>,
    /// How many frames behind the end verify. None of them was promised.
    pub dropped_frames: u64,
    /// No frame of a listed segment that is known to have been written reaches above this: new
    /// positions start here.
    pub highest_seen: Lsn,
    /// Where the next log continues. Only for a log that was closed: after any other end what was
    /// found must be written again, so the old segments are not gone on from.
    pub predecessor: Option<Predecessor>,
}

/// What the manifest says beside the segments.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Tables hold everything below this position.
    pub flushed: Lsn,
    /// The number of the last edit.
    pub edit: u64,
    /// The highest sequence number that an edit names. Only up to it numbers may be missing in the
    /// log: what takes numbers past the log says so in an edit first.
    pub last_seq: SeqNo,
}

/// Reads the log back from the flushed position on, and gives each data frame to `sink` in order.
///
/// `segments` are what the manifest lists, in any order. Nothing is written. After an error, of the
/// sink or not, what the sink got must be thrown away: damage may be found after frames that were
/// whole.
pub fn recover(
    fs: &Fs,
    dir: &Path,
    segments: &[SegmentMeta],
    known: Known,
    sink: &mut dyn FnMut(Frame<'_>) -> Result<()>,
) -> Result<Recovered> {
    let flushed = known.flushed;
    if flushed.0 > MAX_LSN {
        return Err(Error::corruption(format!(
            "{flushed} as the flushed position"
        )));
    }
    let segments = open_all(fs, dir, segments, known.edit)?;
    let mut replay = Replay {
        chain: Vec::new(),
        last_seq: SeqNo::ZERO,
        synced: Lsn(0),
        known,
        segments,
    };
    let stop = match replay.choose()? {
        Some(index) => replay.run(index, sink)?,
        None => Stop::nowhere(flushed),
    };
    replay.finish(stop)
}

/// Where replay ended.
struct Stop {
    /// The segment and the offset in it; none if no segment reaches there.
    place: Option<(usize, u64)>,
    lsn: Lsn,
    close: Option<(u64, CloseInfo)>,
}

impl Stop {
    fn nowhere(lsn: Lsn) -> Stop {
        Stop {
            place: None,
            lsn,
            close: None,
        }
    }
}

/// How the reading of one segment ended.
enum Ended {
    /// Where the successor's link says.
    AtLink,
    /// No frame verifies at this offset.
    Torn(u64),
    /// With a close frame, which begins and ends here.
    Closed(u64, u64, CloseInfo),
}

struct Replay {
    segments: Vec<Segment>,
    /// Those replayed, in order.
    chain: Vec<usize>,
    known: Known,
    last_seq: SeqNo,
    synced: Lsn,
}

impl Replay {
    /// The segment that replay begins in; `None` if none holds the flushed position.
    fn choose(&self) -> Result<Option<usize>> {
        let links = || {
            let linked = |(i, s): (usize, &Segment)| s.link.map(|link| (i, link));
            self.segments.iter().enumerate().filter_map(linked)
        };
        let below = links().filter(|(_, link)| link.from <= self.known.flushed);
        if let Some((index, _)) = below.max_by_key(|(_, link)| link.from) {
            return Ok(Some(index));
        }
        if let Some((index, link)) = links().min_by_key(|(_, link)| link.from) {
            let mut others = self.segments.iter();
            if !others.any(|other| other.link.is_none() && other.is_before(&link)) {
                let text = format!(
                    "the log begins at {}, above the flushed position {}",
                    link.from, self.known.flushed
                );
                return Err(self.segments.get(index).map_or_else(
                    || Error::corruption(text.clone()),
                    |segment| segment.corruption(0, text.clone()),
                ));
            }
        }
        Ok(None)
    }

    /// Follows the chain from the segment `index`.
    fn run(
        &mut self,
        mut index: usize,
        sink: &mut dyn FnMut(Frame<'_>) -> Result<()>,
    ) -> Result<Stop> {
        loop {
            let Some(link) = self.segments.get(index).and_then(|s| s.link) else {
                return Ok(Stop::nowhere(self.known.flushed));
            };
            let segment = &self.segments[index];
            let next = self.segments.iter().position(|other| {
                other
                    .link
                    .as_ref()
                    .is_some_and(|link| segment.is_before(link))
            });
            let end = next
                .and_then(|i| self.segments[i].link?.predecessor)
                .map(|p| p.end);
            if link.last_seq < self.last_seq {
                return Err(segment.corruption(0, "a link names an earlier sequence number"));
            }
            self.last_seq = link.last_seq;
            self.chain.push(index);
            let offset = self.known.flushed.0.saturating_sub(link.first.0);
            let at = |offset: u64| Lsn(link.first.0.saturating_add(offset));
            match self.read_segment(index, &link, offset, end, sink)? {
                Ended::AtLink => {
                    self.segments[index].scanner.forget();
                    index = next.unwrap_or(usize::MAX);
                }
                Ended::Torn(offset) => {
                    let lsn = at(offset).max(self.known.flushed);
                    return Ok(Stop {
                        place: Some((index, offset)),
                        lsn,
                        close: None,
                    });
                }
                Ended::Closed(start, offset, info) => {
                    let close = Some((start, info));
                    return Ok(Stop {
                        place: Some((index, offset)),
                        lsn: at(offset),
                        close,
                    });
                }
            }
        }
    }

    /// Reads the frames of one segment from `offset` to `end`, or as far as they verify.
    fn read_segment(
        &mut self,
        index: usize,
        link: &Link,
        mut offset: u64,
        end: Option<u64>,
        sink: &mut dyn FnMut(Frame<'_>) -> Result<()>,
    ) -> Result<Ended> {
        let Some(segment) = self.segments.get_mut(index) else {
            return Ok(Ended::Torn(offset));
        };
        let scanner = &mut segment.scanner;
        let path = scanner.file().path().to_path_buf();
        let wrong = |offset, text: &str| Err(Error::corruption(text).in_file(&path, offset));
        loop {
            if end == Some(offset) {
                return Ok(Ended::AtLink);
            }
            let Some(frame) = scanner.frame_at(offset)? else {
                return Ok(Ended::Torn(offset));
            };
            let behind = offset + frame.total;
            let lsn = Lsn(link.first.0 + offset);
            if end.is_some_and(|end| behind > end) {
                return wrong(offset, "a frame reaches beyond the end of its segment");
            }
            if frame.fields.synced > lsn.0 {
                return wrong(offset, "a frame promises what lies above it");
            }
            self.synced = self.synced.max(Lsn(frame.fields.synced));
            match frame.fields.kind {
                FrameKind::Data => {
                    let (first_seq, count) = (frame.fields.first_seq, frame.fields.count);
                    let before = first_seq.get().saturating_sub(1);
                    if before > self.last_seq.max(self.known.last_seq).get() {
                        return wrong(
                            offset,
                            "sequence numbers are missing: the manifest is older than the log",
                        );
                    }
                    match last_of(first_seq, count) {
                        Some(last) if first_seq > self.last_seq => self.last_seq = last,
                        _ => return wrong(offset, "sequence numbers do not rise"),
                    }
                    sink(Frame {
                        kind: FrameKind::Data,
                        count,
                        first_seq,
                        lsn,
                        end: Lsn(link.first.0 + behind),
                        synced: Lsn(frame.fields.synced),
                        payload: frame.payload,
                    })?;
                }
                FrameKind::Mark => {}
                FrameKind::Link if offset == 0 => {}
                FrameKind::Link => return wrong(offset, "a link inside of a segment"),
                FrameKind::Close if end.is_some() => {
                    return wrong(offset, "the log goes on behind its close");
                }
                FrameKind::Close => {
                    let close =
                        Close::decode(frame.payload).map_err(|e| e.in_file(&path, offset))?;
                    if close.last_seq < self.last_seq || close.manifest_edit > self.known.edit {
                        return wrong(offset, "the close frame names what is not there");
                    }
                    self.last_seq = close.last_seq;
                    let Close {
                        last_seq,
                        manifest_edit,
                    } = close;
                    let info = CloseInfo {
                        last_seq,
                        manifest_edit,
                    };
                    return Ok(Ended::Closed(offset, behind, info));
                }
            }
            offset = behind;
        }
    }

    /// Looks behind the end, and sums up.
    fn finish(mut self, stop: Stop) -> Result<Recovered> {
        let base = self.chain.first().and_then(|i| self.segments.get(*i)?.link);
        let older = |link: &Link| base.is_some_and(|base| link.from < base.from);
        let settled = stop
            .close
            .is_some_and(|(_, c)| c.manifest_edit == self.known.edit);
        let mut result = Recovered {
            end: stop.lsn,
            last_seq: self.last_seq,
            synced: self.synced,
            close: None,
            used: Vec::new(),
            unused: Vec::new(),
            dropped: Vec::new(),
            dropped_frames: 0,
            highest_seen: stop.lsn,
            predecessor: None,
        };
        let mut reach = stop.lsn.0;
        let mut unplaced = 0;
        for index in 0..self.segments.len() {
            let meta = self.segments[index].meta.clone();
            let link = self.segments[index].link;
            let here = stop
                .place
                .filter(|(i, _)| *i == index)
                .map(|(_, offset)| offset);
            let used = self.chain.contains(&index) || link.as_ref().is_some_and(older);
            let frames = match here {
                Some(offset) if !settled => self.search(index, offset, &stop, &mut result)?,
                None if !(used || settled && link.is_none()) => {
                    self.search(index, 0, &stop, &mut result)?
                }
                _ => 0,
            };
            result.dropped_frames += frames;
            match link {
                Some(link) => {
                    reach = reach.max(link.first.0.saturating_add(meta.size));
                    match used {
                        true => result.used.push(self.sealed(index, &link, &stop)),
                        false => result.dropped.push(meta),
                    }
                }
                None if frames > 0 => {
                    unplaced += meta.size;
                    result.dropped.push(meta);
                }
                None => result.unused.push(meta),
            }
        }
        result.used.sort_by_key(|sealed| sealed.first);
        match stop.close.filter(|_| result.dropped_frames == 0) {
            Some((start, info)) => {
                result.close = Some(info);
                result.predecessor = self.predecessor(&stop, start, info);
            }
            None => result.highest_seen = Lsn(reach.max(result.synced.0).saturating_add(unplaced)),
        }
        Ok(result)
    }

    /// Searches a segment from `offset` on; how many frames verify there. A promise above the end
    /// is `Corruption`.
    fn search(
        &mut self,
        index: usize,
        offset: u64,
        stop: &Stop,
        result: &mut Recovered,
    ) -> Result<u64> {
        let scanner = &mut self.segments[index].scanner;
        let path = scanner.file().path().to_path_buf();
        let mut frames = 0;
        let mut broken = None;
        scanner.search(offset, &mut |at, frame| {
            frames += 1;
            let promise = Lsn(frame.fields.synced);
            if promise > stop.lsn && broken.is_none() && !mutant("ignore-synced") {
                broken = Some((at, promise));
            }
            result.synced = result.synced.max(promise.min(stop.lsn));
            Ok(())
        })?;
        scanner.forget();
        let Some((at, promise)) = broken else {
            return Ok(frames);
        };
        let text = format!(
            "the log is damaged at {}: the frame at byte {at} of {} says that everything below \
             {promise} was durable",
            stop.lsn,
            path.display()
        );
        Err(match stop.place {
            Some((i, offset)) => {
                let segment = &self.segments[i];
                segment.corruption(offset.min(segment.scanner.size()), text)
            }
            None => Error::corruption(text).in_file(&path, 0),
        })
    }

    /// A segment that holds a part of the log, with the positions in it.
    fn sealed(&self, index: usize, link: &Link, stop: &Stop) -> Sealed {
        let meta = self.segments[index].meta.clone();
        let full = Lsn(link.first.0.saturating_add(meta.size));
        let here = stop.place.is_some_and(|(i, _)| i == index);
        let next = self.segments.iter().filter_map(|other| other.link);
        let next = next
            .map(|link| link.from)
            .filter(|from| *from > link.from)
            .min();
        let end = match next {
            _ if here => stop.lsn.min(full),
            Some(next) => next.min(full),
            None => full,
        };
        Sealed {
            meta,
            first: link.first,
            end: end.max(link.first),
        }
    }

    fn predecessor(&self, stop: &Stop, end: u64, info: CloseInfo) -> Option<Predecessor> {
        let segment = self.segments.get(stop.place?.0)?;
        Some(Predecessor {
            number: segment.meta.number,
            salt: segment.meta.salt,
            end,
            lsn: Lsn(segment.link?.first.0 + end),
            manifest_edit: info.manifest_edit,
        })
    }
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
