//! Parts below the public API, for benches and fuzzing. Not part of the API.

use terrace_base::hash::key_hash;
use terrace_base::{Error, FileKind, KeyRef, KeyspaceId, Result, SeqNo, UserKey, ValueKind};

use crate::db::Db;
use crate::memtable::{ListWriter, pin};
use crate::options::LIST_BYTES;
use crate::write::payload::{
    Framing, Operation, Operations, encode_clock, encode_create, encode_delete_range, encode_drop,
    encode_rename, encode_set_options,
};

/// A list of the memtable.
#[derive(Debug)]
pub struct MemList(ListWriter);

impl Default for MemList {
    fn default() -> MemList {
        MemList(ListWriter::new(LIST_BYTES))
    }
}

impl MemList {
    /// Inserts a put; `seq` rises from call to call.
    #[inline]
    pub fn insert(&mut self, key: &[u8], seq: u64, value: &[u8]) {
        let user = UserKey::new(KeyspaceId(0), key);
        let key = KeyRef::new(user, SeqNo::new(seq), ValueKind::Put);
        self.0.insert(key, key_hash(user), value, &pin());
    }

    /// Length of the newest value of `key`.
    ///
    /// # Errors
    /// If the entry is of an unknown kind.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        let user = UserKey::new(KeyspaceId(0), key);
        let found = self.0.list().get(&user, key_hash(user), SeqNo::MAX)?;
        Ok(found.map(|(_, _, value)| value.len()))
    }
}

/// The names of the tables and blob files that the database consists of now.
pub fn listed_files(db: &Db) -> Vec<String> {
    let view = db.shared().views.cell.load();
    let tables = view.version.tables();
    let tables = tables.map(|(_, _, table)| FileKind::Table(table.meta().number));
    let blobs = view.version.blobs().keys().copied().map(FileKind::Blob);
    tables.chain(blobs).map(FileKind::name).collect()
}

/// Bytes of the memtable's pieces that the database has let go of, and that iterators and snapshots
/// still read.
pub fn pinned_bytes(db: &Db) -> u64 {
    db.shared().views.pinned_bytes()
}

/// The operations of a log frame's payload, decoded and encoded again, and how many they were.
///
/// # Errors
/// If they do not decode.
pub fn recode_operations(payload: &[u8], count: u32) -> Result<(Vec<u8>, u32)> {
    let mut out = Vec::new();
    let mut read = 0;
    for operation in Operations::new(payload, count) {
        read += 1;
        match operation? {
            Operation::Entry { user, kind, value } => {
                let framing = Framing::new(user, kind, value.len());
                for part in [
                    framing.before_key(),
                    user.bytes,
                    framing.before_value(),
                    value,
                ] {
                    out.extend_from_slice(part);
                }
            }
            Operation::DeleteRange { lower, upper } => encode_delete_range(&mut out, lower, upper),
            Operation::CreateKeyspace { id, name, options } => {
                let name = str::from_utf8(name).map_err(Error::other)?;
                encode_create(&mut out, id, name, options);
            }
            Operation::DropKeyspace { id } => encode_drop(&mut out, id),
            Operation::SetOptions { id, options } => encode_set_options(&mut out, id, options),
            Operation::RenameKeyspace { id, name } => {
                let name = str::from_utf8(name).map_err(Error::other)?;
                encode_rename(&mut out, id, name);
            }
            Operation::Clock(time) => out.extend_from_slice(&encode_clock(time)),
        }
    }
    Ok((out, read))
}
