//! Opens the listed segments and checks that their links agree: what [`recover`](crate::recover)
//! begins with.
//!
//! Each file must be there with its size; no number and no salt is listed twice; a first frame that
//! verifies is a link of this use; a segment begins where its predecessor ended; no use has two
//! successors. A file whose first frame is the link of *another* listed use was exchanged. All this
//! is `Corruption`; a segment without a link that verifies is not: it may be unused, or have lost
//! its link.

use std::collections::HashSet;
use std::path::Path;

use terrace_base::vfs::{Fs, OpenMode};
use terrace_base::{Error, FileKind, Result};

use crate::format::{FrameKind, HEADER_LEN, LINK_LEN, Link, Use, Verified};
use crate::scan::Scanner;
use crate::segment::SegmentMeta;

/// A listed segment.
pub(crate) struct Segment {
    pub meta: SegmentMeta,
    pub scanner: Scanner,
    pub link: Option<Link>,
}

impl Segment {
    fn path(&self) -> &Path {
        self.scanner.file().path()
    }

    pub(crate) fn corruption(&self, offset: u64, text: impl Into<String>) -> Error {
        Error::corruption(text).in_file(self.path(), offset)
    }

    /// True if `link` says that its segment follows this one.
    pub(crate) fn is_before(&self, link: &Link) -> bool {
        let named = |p: &Use| p.number == self.meta.number && p.salt == self.meta.salt;
        link.predecessor.as_ref().is_some_and(named)
    }
}

/// Opens the files that `metas` list, reads their links, and checks that these can be one log.
pub(crate) fn open_all(
    fs: &Fs,
    dir: &Path,
    metas: &[SegmentMeta],
    manifest_edit: u64,
) -> Result<Vec<Segment>> {
    let mut segments = Vec::with_capacity(metas.len());
    for meta in metas {
        let path = FileKind::Segment(meta.number).path(dir);
        let missing = || Error::corruption("a listed segment is missing").in_file(&path, 0);
        let found = fs.metadata(&path)?.ok_or_else(missing)?;
        if found.len != meta.size {
            let text = format!("a segment of {} bytes has {}", meta.size, found.len);
            return Err(Error::corruption(text).in_file(&path, found.len.min(meta.size)));
        }
        let file = fs.open(&path, OpenMode::Read)?;
        let mut scanner = Scanner::new(file, meta.salt, meta.size);
        let link = match scanner.frame_at(0)? {
            Some(frame) => {
                Some(check_link(&frame, meta, manifest_edit).map_err(|e| e.in_file(&path, 0))?)
            }
            None => None,
        };
        segments.push(Segment {
            meta: meta.clone(),
            scanner,
            link,
        });
    }
    check_uses(&mut segments)?;
    check_chain(&segments)?;
    Ok(segments)
}

/// Decodes the first frame of a segment, which verifies.
fn check_link(frame: &Verified<'_>, meta: &SegmentMeta, manifest_edit: u64) -> Result<Link> {
    if frame.fields.kind != FrameKind::Link {
        return Err(Error::corruption("the first frame of a segment is no link"));
    }
    let link = Link::decode(frame.payload)?;
    if link.salt != meta.salt {
        return Err(Error::corruption("a link of another use of the segment"));
    }
    if link.manifest_edit > manifest_edit {
        return Err(Error::corruption(format!(
            "the log names edit {} where the manifest ends with {manifest_edit}",
            link.manifest_edit
        )));
    }
    if frame.fields.synced > link.first.0 {
        return Err(Error::corruption("a link promises what lies above it"));
    }
    Ok(link)
}

/// No file is listed twice, and none holds what another one is listed for.
fn check_uses(segments: &mut [Segment]) -> Result<()> {
    let mut numbers = HashSet::new();
    let mut salts = HashSet::new();
    for segment in segments.iter() {
        if !numbers.insert(segment.meta.number) || !salts.insert(segment.meta.salt) {
            return Err(segment.corruption(0, "a segment is listed twice"));
        }
    }
    for segment in segments
        .iter_mut()
        .filter(|s| s.link.is_none() && s.meta.size >= LINK_LEN)
    {
        let mut salt = [0; size_of::<u64>()];
        let file = segment.scanner.file().clone();
        file.read_exact_at(&mut salt, HEADER_LEN as u64)?;
        let salt = u64::from_le_bytes(salt);
        if salt == segment.meta.salt || !salts.contains(&salt) {
            continue;
        }
        if Scanner::new(file, salt, segment.meta.size)
            .frame_at(0)?
            .is_some()
        {
            return Err(segment.corruption(0, "the file holds another segment of this log"));
        }
    }
    Ok(())
}

/// Links agree with each other about where segments begin and end.
fn check_chain(segments: &[Segment]) -> Result<()> {
    let mut places = HashSet::new();
    let mut followed = HashSet::new();
    for segment in segments {
        let Some(link) = &segment.link else { continue };
        if !places.insert(link.from) {
            return Err(segment.corruption(0, "two segments begin at the same position"));
        }
        let Some(before) = segments.iter().find(|other| other.is_before(link)) else {
            continue;
        };
        let end = link.predecessor.map_or(0, |p| p.end);
        if !followed.insert(before.meta.number) || end > before.meta.size {
            return Err(segment.corruption(0, "a link names a wrong predecessor"));
        }
        let expected = before.link.as_ref().map(|l| l.first.0.saturating_add(end));
        if expected.is_some_and(|expected| expected != link.from.0) {
            return Err(segment.corruption(0, "a link disagrees with its predecessor"));
        }
    }
    Ok(())
}
