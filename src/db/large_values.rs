//! Takes the large values out of a write.
//!
//! A write whose largest value is below every threshold is not looked at: one comparison. Of any
//! other the puts of large values become entries with a reference, and the rest stays as it is, in
//! the same order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use terrace_base::key::split_expiry;
use terrace_base::{FileKind, Result, UserKey, ValueKind};
use terrace_compaction::{BlobMeta, VersionEdit};
use terrace_sstable::{BLOB_HEADER_LEN, BlobHead, BlobRef};

use crate::engine::Engine;
use crate::jobs::blob_gc::wait_for_blobs;
use crate::jobs::flush::flush_soon;
use crate::jobs::space::check_space;
use crate::read::blob::file_of;
use crate::storage::blob_files::{Active, Made, Open, Placed};
use crate::sync::{Mutex, Rank, lock};
use crate::write::payload::{Framing, Operation, Operations, encode_delete_range};
use crate::write::prepared::{Entries, Entry, Write};

/// Values up to this length are written together with their heads.
const JOINED: usize = 1 << 20;
/// Maximum number of full blob files with unflushed references before a flush is requested.
const FILES_AHEAD: u64 = 4;

/// The operations of a write with references in place of large values.
struct Separated {
    payload: Vec<u8>,
    placed: Vec<Placed>,
}

/// True if `write` may hold a value that is to go into a blob file.
#[inline]
pub(crate) fn may_be_large(engine: &Engine, write: &Write<'_>) -> bool {
    write.largest >= engine.context.policies.large_from()
}

/// Has `then` write what `write` is without its large values, which are stored first.
#[cold]
#[inline(never)]
pub(crate) fn separate<R>(
    engine: &Engine,
    write: &Write<'_>,
    then: impl FnOnce(&Write<'_>) -> Result<R>,
) -> Result<R> {
    let operations = match write.entries {
        Entries::One(Entry {
            user, kind, value, ..
        }) => vec![Operation::Entry { user, kind, value }],
        Entries::Payload(bytes) => {
            let count = write.count.saturating_sub(write.lead);
            Operations::new(bytes, count).collect::<Result<_>>()?
        }
        Entries::None => Vec::new(),
    };
    if !operations
        .iter()
        .any(|operation| is_large(engine, operation))
    {
        return then(&Write {
            largest: 0,
            ..*write
        });
    }
    engine.check_writable()?;
    if engine.space.full().is_some() {
        check_space(engine, write)?;
    }
    let separated = store_all(engine, &operations)?;
    let lead = match (write.lead, write.parts) {
        (0, _) | (_, []) => &[],
        (_, [lead, ..]) => *lead,
    };
    let parts = [lead, &separated.payload];
    let small = Write {
        largest: 0,
        range_deletes: write.range_deletes,
        ..Write::of_payload(write.count.saturating_sub(write.lead), &parts)
    };
    let result = then(&small);
    drop(separated.placed);
    result
}

fn is_large(engine: &Engine, operation: &Operation<'_>) -> bool {
    let Operation::Entry { user, kind, value } = operation else {
        return false;
    };
    let bare = match kind {
        ValueKind::Put => Ok(*value),
        ValueKind::PutExpiring => split_expiry(value).map(|(_, value)| value),
        _ => return false,
    };
    bare.is_ok_and(|value| value.len() >= engine.context.policies.threshold(user.keyspace))
}

fn store_all(engine: &Engine, operations: &[Operation<'_>]) -> Result<Separated> {
    let mut separated = Separated {
        payload: Vec::new(),
        placed: Vec::new(),
    };
    for operation in operations {
        match *operation {
            Operation::Entry { user, kind, value } if is_large(engine, operation) => {
                let (kind, time, value) = match kind {
                    ValueKind::PutExpiring => {
                        let (_, bare) = split_expiry(value)?;
                        let time = value.get(..value.len() - bare.len());
                        (ValueKind::BlobExpiring, time.unwrap_or_default(), bare)
                    }
                    _ => (ValueKind::Blob, &[][..], value),
                };
                let placed = store_large(engine, user, value)?;
                let stored = [time, &placed.at.encode()].concat();
                put_entry(&mut separated.payload, user, kind, &stored);
                separated.placed.push(placed);
            }
            Operation::Entry { user, kind, value } => {
                put_entry(&mut separated.payload, user, kind, value);
            }
            Operation::DeleteRange { lower, upper } => {
                encode_delete_range(&mut separated.payload, lower, upper);
            }
            // Writes of the catalogue do not come here.
            Operation::CreateKeyspace { .. }
            | Operation::DropKeyspace { .. }
            | Operation::SetOptions { .. }
            | Operation::RenameKeyspace { .. }
            | Operation::Clock(_) => {}
        }
    }
    Ok(separated)
}

fn put_entry(out: &mut Vec<u8>, user: UserKey<'_>, kind: ValueKind, stored: &[u8]) {
    let framing = Framing::new(user, kind, stored.len());
    out.extend_from_slice(framing.before_key());
    out.extend_from_slice(user.bytes);
    out.extend_from_slice(framing.before_value());
    out.extend_from_slice(stored);
}

/// Stores a value; its reference is to be committed while the answer lives.
pub(crate) fn store_large(engine: &Engine, user: UserKey<'_>, value: &[u8]) -> Result<Placed> {
    let mut head = BlobHead::new(user, value);
    let (file, offset) = loop {
        if let Some(place) = engine.blobs.reserve(head.record_len()) {
            break place;
        }
        wait_for_blobs(engine);
        begin_blob_file(engine, head.record_len())?;
    };
    let meta = file.meta;
    let placed = Placed {
        at: head.at(meta.number, meta.id, offset),
        file,
    };
    let open = &placed.file;
    let mut at = offset;
    let mut written = Ok(());
    let rest = match value.len() <= JOINED {
        true => {
            head.bytes.extend_from_slice(value);
            &[]
        }
        false => value,
    };
    for part in [&head.bytes, rest] {
        let file = written.and_then(|()| open.file());
        written = file.and_then(|file| file.write_all_at(part, at));
        at += part.len() as u64;
    }
    if let Err(error) = written {
        engine.blobs.retire(meta.number);
        return engine.space.note(Err(error));
    }
    engine.blobs.note_written(open);
    engine
        .blobs
        .unflushed
        .fetch_add(at - offset, Ordering::Relaxed);
    engine.counters.stored(at - offset);
    Ok(placed)
}

/// Has a new file to write to, which the manifest lists, and which every view knows that may
/// come to hold a reference to it.
fn begin_blob_file(engine: &Engine, len: u64) -> Result<()> {
    let _making = lock(&engine.blobs.making);
    let has_room = |active: &Active| {
        let end = active.end.saturating_add(len);
        end <= engine.blobs.target() || active.end == BLOB_HEADER_LEN
    };
    if lock(&engine.blobs.active).as_ref().is_some_and(has_room) {
        return Ok(()); // Another writer was faster.
    }
    engine.check_writable()?;
    let number = engine.versions.new_file_number()?;
    let id = engine.fs().random();
    let created = engine.space.note(engine.blobs.create(number, id));
    let file = match created {
        Ok(file) => file,
        Err(error) => {
            // Not listed yet; what cannot be removed now, the next open removes.
            engine.files.remove(FileKind::Blob(number)).ok();
            return Err(error);
        }
    };
    let synced = engine.fs().sync_dir(&engine.files.dir);
    synced.map_err(|error| {
        engine.committer.poison(error.clone());
        engine.versions.directory_failed(error)
    })?;
    let meta = BlobMeta {
        number,
        id,
        size: 0,
    };
    let edit = VersionEdit {
        blobs_added: vec![meta],
        ..VersionEdit::default()
    };
    let listed = engine.space.note(engine.heed(engine.install(&edit)));
    if let Err(error) = listed {
        let is_listed = engine
            .versions
            .lock()
            .state
            .version
            .blobs()
            .contains_key(&number);
        if !is_listed && !engine.files.frozen() {
            engine.files.remove(FileKind::Blob(number)).ok();
        }
        return Err(error);
    }
    let version = engine.views.cell.load().version.clone();
    let listed = file_of(
        version.blobs(),
        &BlobRef {
            file: number,
            offset: 0,
            len: 0,
            crc: 0,
        },
    )?;
    let open = Arc::new(Open {
        meta,
        file: Mutex::new(Rank::Leaf, Some(file)),
        listed: listed.clone(),
        dirty: AtomicBool::new(false),
        writers: AtomicU64::new(0),
    });
    engine.committer.begin_list();
    lock(&engine.blobs.made).push(Made {
        file: open.clone(),
        last_seq: None,
    });
    *lock(&engine.blobs.active) = Some(Active {
        file: open,
        end: BLOB_HEADER_LEN,
    });
    engine.blobs.close_full();
    if engine.blobs.unflushed.load(Ordering::Relaxed) > FILES_AHEAD * engine.blobs.target() {
        flush_soon(engine);
    }
    Ok(())
}
