//! Frames below the public API, for fuzzing. Not part of the API.

use terrace_base::{Result, SeqNo};

use crate::format::{self, Close, Fields, FrameKind, Link};

/// A frame that verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// What it is.
    pub kind: FrameKind,
    /// How many sequence numbers it takes.
    pub count: u32,
    /// The first of them.
    pub first_seq: SeqNo,
    /// Its promise.
    pub synced: u64,
    /// Its payload.
    pub payload: &'a [u8],
}

/// The frame that is all of `bytes`; `None` if it does not verify.
///
/// # Errors
/// If it verifies and is of an unknown kind.
pub fn decode(bytes: &[u8], salt: u64, offset: u64) -> Result<Option<Parts<'_>>> {
    let verified = format::decode(bytes, salt, offset)?;
    Ok(verified.map(|frame| Parts {
        kind: frame.fields.kind,
        count: frame.fields.count,
        first_seq: frame.fields.first_seq,
        synced: frame.fields.synced,
        payload: frame.payload,
    }))
}

/// The bytes of a frame.
///
/// # Errors
/// If it is too long.
pub fn encode(parts: &Parts<'_>, salt: u64, offset: u64) -> Result<Vec<u8>> {
    let fields = Fields {
        kind: parts.kind,
        count: parts.count,
        first_seq: parts.first_seq,
        synced: parts.synced,
    };
    let mut out = Vec::new();
    format::encode(&mut out, fields, &[parts.payload], salt, offset)?;
    Ok(out)
}

/// The payload of a link or of a close frame, decoded and encoded again; that of another frame as
/// it is.
///
/// # Errors
/// If it does not decode.
pub fn recode(kind: FrameKind, payload: &[u8]) -> Result<Vec<u8>> {
    Ok(match kind {
        FrameKind::Link => Link::decode(payload)?.encode().to_vec(),
        FrameKind::Close => Close::decode(payload)?.encode().to_vec(),
        FrameKind::Data | FrameKind::Mark => payload.to_vec(),
    })
}
