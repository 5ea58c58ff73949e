//! What can still be read of a file of frames that is damaged: every frame that verifies alone.
//!
//! [`recover`](crate::recover) answers with a prefix or not at all; salvage also wants the frames
//! after a hole. A frame is a batch, so each is there whole or not at all, and its sequence numbers
//! say where it belongs: which segment it lies in, and what precedes it there, is not needed.
//!
//! The salt of a file's present use comes from the manifest. Where that is lost, the file's link
//! names it: the link is believed if it verifies under the salt that it names.
#![deny(clippy::indexing_slicing)]

use terrace_base::coding::align8;
use terrace_base::{FileNumber, Result, SeqNo};

use crate::format::{self, Close, FrameKind, HEADER_LEN, LINK_LEN, Link, Lsn};

/// Broken candidates may add up to this many times the size of the file,
const PATIENCE: u64 = 8;
/// and to this much in a small file.
const LEAST_PATIENCE: u64 = 8 << 20;

/// A frame that verifies, wherever it was found.
#[derive(Clone, Copy, Debug)]
pub struct FoundFrame<'a> {
    /// Where it begins in the file.
    pub start: u64,
    /// Where the next one would begin.
    pub end: u64,
    /// What it is.
    pub kind: FrameKind,
    /// How many sequence numbers it takes.
    pub count: u32,
    /// The first of them; of a frame without any, the last one in use.
    pub first_seq: SeqNo,
    /// The last sequence number in use behind it.
    pub last_seq: SeqNo,
    /// Number of the manifest edit that it names, if it is a link or a close frame.
    pub manifest_edit: Option<u64>,
    /// The position that the file begins with, if it is a link.
    pub first_lsn: Option<Lsn>,
    /// What it holds.
    pub payload: &'a [u8],
}

/// Calls `visit` with every frame of `bytes` from offset `from` on that verifies under `salt`. What
/// does not verify is passed over; a frame of an unknown kind is `Unsupported`.
pub fn frames_in(
    bytes: &[u8],
    salt: u64,
    from: u64,
    visit: &mut dyn FnMut(FoundFrame<'_>) -> Result<()>,
) -> Result<()> {
    let patience = (bytes.len() as u64)
        .saturating_mul(PATIENCE)
        .max(LEAST_PATIENCE);
    let (mut at, mut broken) = (align8(from), 0u64);
    while let Some(rest) = bytes.get(at as usize..).filter(|rest| !rest.is_empty()) {
        let claimed = format::claimed_len(rest, salt, rest.len() as u64);
        let whole = claimed.and_then(|total| rest.get(..total as usize));
        let Some(whole) = whole.filter(|_| broken <= patience) else {
            at += 8;
            continue;
        };
        let Some(frame) = format::decode(whole, salt, at)? else {
            broken += whole.len() as u64;
            at += 8;
            continue;
        };
        let fields = frame.fields;
        let mut found = FoundFrame {
            start: at,
            end: at + frame.total,
            kind: fields.kind,
            count: fields.count,
            first_seq: fields.first_seq,
            last_seq: fields.first_seq,
            manifest_edit: None,
            first_lsn: None,
            payload: frame.payload,
        };
        at = found.end;
        match fields.kind {
            FrameKind::Data => match crate::log::last_of(fields.first_seq, fields.count) {
                Some(last) => found.last_seq = last,
                None => continue,
            },
            FrameKind::Link => {
                let Ok(link) = Link::decode(frame.payload) else {
                    continue;
                };
                found.last_seq = link.last_seq;
                found.manifest_edit = Some(link.manifest_edit);
                found.first_lsn = Some(link.first);
            }
            FrameKind::Close => {
                let Ok(close) = Close::decode(frame.payload) else {
                    continue;
                };
                found.last_seq = close.last_seq;
                found.manifest_edit = Some(close.manifest_edit);
            }
            FrameKind::Mark => {}
        }
        visit(found)?;
    }
    Ok(())
}

/// The use of a segment as its own link names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkedUse {
    /// Its salt.
    pub salt: u64,
    /// The use that it follows.
    pub predecessor: Option<(FileNumber, u64)>,
}

/// What the link at the front of `bytes` says, if it verifies under the salt that it names.
pub fn use_in_link(bytes: &[u8]) -> Option<LinkedUse> {
    let link = bytes.get(..LINK_LEN as usize)?;
    let (salt, _) = link.get(HEADER_LEN..)?.split_first_chunk::<8>()?;
    let salt = u64::from_le_bytes(*salt);
    let frame = format::decode(link, salt, 0).ok().flatten()?;
    let link = Link::decode(frame.payload).ok()?;
    let named = frame.fields.kind == FrameKind::Link && link.salt == salt;
    named.then(|| LinkedUse {
        salt,
        predecessor: link.predecessor.map(|before| (before.number, before.salt)),
    })
}

#[cfg(test)]
#[path = "salvage_tests.rs"]
mod tests;
