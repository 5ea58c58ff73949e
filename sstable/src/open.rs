//! Opens a table: reads and checks everything but the blocks.

use std::path::Path;

use bytes::Bytes;
use terrace_base::checksum::checksum;
use terrace_base::error::{Error, Result, is_out_of_memory};
use terrace_base::mutant;
use terrace_base::vfs::File;

use crate::block;
use crate::fence::Fences;
use crate::filter::Filter;
use crate::format::{self, Footer, MAX_FOOTER_LEN, decode_footer};
use crate::options::IoMode;
use crate::paged_index::PagedIndex;
use crate::point_index::PointIndex;
use crate::properties::{self, TableInfo};
use crate::reader::IN_MEMORY;

/// What an open table consists of.
pub(crate) struct Parts {
    pub info: TableInfo,
    pub fences: Fences,
    pub index: Option<PointIndex>,
    /// In place of an index.
    pub paged: Option<PagedIndex>,
    pub filter: Option<Filter>,
    /// The map or the image.
    pub memory: Option<Bytes>,
    /// `None` for an image.
    pub file: Option<File>,
}

/// Where the bytes of a table come from while it is opened.
pub(crate) enum Source {
    File(File),
    Image(Bytes),
}

impl Source {
    fn read(&self, offset: u64, len: u64) -> Result<Bytes> {
        match self {
            Source::File(file) => read_file(file, offset, len),
            Source::Image(image) => {
                let end = offset.saturating_add(len).min(image.len() as u64);
                Ok(image.slice(offset.min(end) as usize..end as usize))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Source::File(file) => file.path(),
            Source::Image(_) => Path::new(IN_MEMORY),
        }
    }
}

pub(crate) fn read_file(file: &File, offset: u64, len: u64) -> Result<Bytes> {
    let len = usize::try_from(len).map_err(|_| Error::corruption("a length is out of range"))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

/// Opens the table `id` of `size` bytes. With `lean` a point index that does not lie in a map stays
/// in the file.
pub(crate) fn open(source: Source, id: u64, size: u64, io: IoMode, lean: bool) -> Result<Parts> {
    let tail_len = size.min(MAX_FOOTER_LEN as u64);
    let tail = source.read(size - tail_len, tail_len)?;
    let footer = decode_footer(&tail, id, size)
        .map_err(|error| error.in_file(source.path(), size - tail_len))?;
    let section = |tag| read_section(&source, &footer, id, tag);
    let (fences_at, fences) = section(format::FENCES)?.ok_or_else(|| missing(&source))?;
    let (info_at, properties) = section(format::PROPERTIES)?.ok_or_else(|| missing(&source))?;
    let index = section(format::POINT_INDEX)?;
    let memory = match (&source, io) {
        (Source::Image(image), _) => Some(image.clone()),
        (Source::File(file), IoMode::Mmap) => map(file, size)?,
        (Source::File(_), IoMode::Pread) => None,
    };
    // What was read is let go where the same lies in memory anyway.
    let placed = |at: u64, read: &Bytes| -> Option<Bytes> {
        let memory = memory.as_ref()?;
        let part = memory.get(at as usize..at as usize + read.len())?;
        Some(memory.slice_ref(part))
    };
    let in_place = placed(fences_at, &fences);
    let section_of = in_place.as_ref().unwrap_or(&fences);
    let fences = Fences::decode(section_of, footer.data_end, in_place.is_some())
        .map_err(|error| error.in_file(source.path(), fences_at))?;
    let info = properties::decode(&properties, id, size)
        .and_then(|info| agree(&info, &fences).map(|()| info))
        .map_err(|error| error.in_file(source.path(), info_at))?;
    let stays = lean && memory.is_none();
    let has_index = index.is_some();
    let paged = index.as_ref().filter(|_| stays).map(|(at, read)| {
        PagedIndex::new(read, *at, fences.len()).map_err(|e| e.in_file(source.path(), *at))
    });
    let paged = paged.transpose()?;
    // The part of the map that is a section, if there is one. The buckets of an image are not whole
    // cache lines.
    let in_place = |at: u64, read: &Bytes| match &source {
        Source::File(_) => placed(at, read),
        Source::Image(_) => None,
    };
    let index = index.filter(|_| !stays).map(|(at, read)| {
        let mapped = in_place(at, &read);
        let section = mapped.as_ref().unwrap_or(&read);
        PointIndex::decode(section, fences.len(), mapped.is_some())
            .map_err(|error| error.in_file(source.path(), at))
    });
    let index = index.transpose()?;
    let filter = match has_index {
        true => None, // The index says as much and more.
        false => section(format::FILTER)?,
    };
    let filter = filter.map(|(at, read)| {
        let mapped = in_place(at, &read);
        let section = mapped.as_ref().unwrap_or(&read);
        Filter::decode(section, mapped.is_some()).map_err(|error| error.in_file(source.path(), at))
    });
    let filter = filter.transpose()?;
    Ok(Parts {
        info,
        fences,
        index,
        paged,
        filter,
        memory,
        file: match source {
            Source::File(file) => Some(file),
            Source::Image(_) => None,
        },
    })
}

/// Maps a table, and lets its descriptor go: only whole scans need one from now on. Without room
/// for a further map the table is read by system calls instead.
fn map(file: &File, size: u64) -> Result<Option<Bytes>> {
    match file.map(size) {
        Ok(map) => {
            file.rest();
            Ok(Some(map))
        }
        Err(error) if is_out_of_memory(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The random number that a file of `size` bytes has by its footer; none if the footer does not
/// verify.
pub fn stated_id(file: &File, size: u64) -> Result<Option<u64>> {
    let tail_len = size.min(MAX_FOOTER_LEN as u64);
    let tail = read_file(file, size - tail_len, tail_len)?;
    let id = format::id_in_footer(&tail);
    Ok(id.filter(|id| decode_footer(&tail, *id, size).is_ok()))
}

fn missing(source: &Source) -> Error {
    Error::corruption("a section of the table is missing").in_file(source.path(), 0)
}

/// Reads a section and checks its checksum.
fn read_section(
    source: &Source,
    footer: &Footer,
    id: u64,
    tag: u32,
) -> Result<Option<(u64, Bytes)>> {
    let Some(section) = footer.section(tag) else {
        return Ok(None);
    };
    let bytes = source.read(section.offset, section.len)?;
    if checksum(&bytes, id, section.offset) != section.crc && !mutant("bad-index") {
        let error = Error::corruption(format!("section {tag} does not verify"));
        return Err(error.in_file(source.path(), section.offset));
    }
    Ok(Some((section.offset, bytes)))
}

/// Checks that properties and fences tell the same.
fn agree(info: &TableInfo, fences: &Fences) -> Result<()> {
    let (entries, tombstones) = fences.totals();
    let kind = info.compression as u8; // Blocks have the number of their compression as their kind.
    let mut kinds = fences.kinds().iter();
    let strange = kinds.any(|found| *found != block::RAW && *found != kind);
    if info.blocks != fences.len() as u64
        || info.entries != entries
        || info.tombstones != tombstones
        || info.smallest.as_ref() != fences.key(0)
        || info.largest.as_ref() < fences.key(fences.len() - 1)
        || strange
    {
        return Err(Error::corruption(
            "the properties do not agree with the fences",
        ));
    }
    Ok(())
}
