//! The write-ahead log of terrace: frames of bytes in segment files, and how they are read back.
//!
//! An internal part of the `terrace` crate: its API changes without notice. It knows no keys: a
//! record is a [`Frame`] with a payload of bytes, the first sequence number in it and how many
//! there are.
//!
//! # What is promised
//!
//! The log is *one* sequence of positions ([`Lsn`]), cut into segment files of fixed size. After
//! [`SyncPoint::run`] returned, every frame appended before [`Log::sync_point`] survives a power
//! cut. Later frames carry that position along as their *promise*: everything below it was durable.
//!
//! # What a reader may find
//!
//! After a power cut any subset of the unsynced sectors may be there, in any segment. [`recover`]
//! gives back the longest run of whole frames from the flushed position on: a prefix of what was
//! appended, never with a hole, and with everything that was synced. It tells a torn tail from
//! damage by the promises: where the run of frames ends at `p`, and some frame further on verifies
//! and promises a position above `p`, bytes that were durable are gone, and that is `Corruption`.
//! Where no such frame is left, nothing after `p` was ever promised, and it is dropped. Reading
//! writes nothing.
//!
//! # The pieces
//!
//! - `format`: a frame as bytes, described with a grammar and an example
//! - `file`, `segment`: how frames reach a file, and how a segment file comes to be
//! - [`Log`]: append, switch segments, sync points, release
//! - [`recover`]: the chain of segments and the tail rule
//! - [`FrameFile`], [`read_frames`]: the same frames in one growing file, for the manifest
#![forbid(unsafe_code)]

mod chain;
mod file;
mod format;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod internals;
mod log;
#[cfg(test)]
mod model_tests;
mod recover;
mod salvage;
mod scan;
mod segment;
mod single;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_log;

pub use file::{LogFile, PwriteFile};
pub use format::{Frame, FrameKind, Lsn};
pub use log::{Log, Predecessor, Room, Sealed, Start, SyncPoint};
pub use recover::{CloseInfo, Known, Recovered, recover};
pub use salvage::{FoundFrame, LinkedUse, frames_in, use_in_link};
pub use segment::{SegmentMeta, create_segment, edit_named_by};
pub use single::{FrameFile, FrameFileTail, read_frames};
