//! Large values in a salvage: which blob files are there, and which entries have lost their value.
//!
//! An entry with a reference is worth something only together with what that refers to. So every
//! value that tables and log refer to is read and verified; entries whose value does not verify are
//! left out, and each is a loss of its own.

use terrace_base::vfs::OpenMode;
use terrace_base::{FileKind, FileNumber, InternalIterator, KeyRef, Result};
use terrace_compaction::{BlobFile, BlobFiles, BlobMeta, TableMeta, TableStore};
use terrace_sstable::{BLOB_HEADER_LEN, BlobRef, blob_id};

use super::hints::is_damage;
use super::report::LossKind;
use super::{Lost, Survey};
use crate::open::replay::Replay;
use crate::read::blob::file_of;

/// False if the value that an entry refers to cannot be had.
pub(super) fn is_there(blobs: &BlobFiles, key: KeyRef<'_>, stored: &[u8]) -> Result<bool> {
    let at = BlobRef::decode(stored)?;
    let verified = file_of(blobs, &at)
        .and_then(|file| file.reader())
        .and_then(|reader| reader.verify(key.user, &at));
    match verified {
        Ok(()) => Ok(true),
        Err(error) if is_damage(error.kind()) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Survey<'_> {
    /// Takes the blob files that the manifest lists for those that there are.
    pub(super) fn note_blobs(&mut self, listed: &BlobFiles) -> Result<()> {
        self.blobs = listed.clone();
        for (number, file) in listed.iter() {
            match self.opening.files.check_blob(file) {
                Ok(()) => {}
                Err(error) if is_damage(error.kind()) => {
                    let name = FileKind::Blob(file.meta().number);
                    if self.opening.names.contains(&name) {
                        // Of the length that it has. What it is to hold is verified value by value.
                        self.resized.push(BlobMeta {
                            size: 0,
                            ..*file.meta()
                        });
                    } else {
                        self.blobs.remove(number); // A reference to it is as one to no file.
                    }
                    self.report.damaged.push(self.path(name));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Finds the blob files in the directory, where nothing lists them.
    pub(super) fn find_blobs(&mut self) -> Result<Vec<BlobMeta>> {
        let mut found = Vec::new();
        for name in &self.opening.names {
            let FileKind::Blob(number) = *name else {
                continue;
            };
            let file = self.fs().open(&self.path(*name), OpenMode::Read)?;
            let mut header = [0; BLOB_HEADER_LEN as usize];
            let read = file.read_at(&mut header, 0);
            match read.ok().and_then(|_| blob_id(&header)) {
                Some(id) => found.push(BlobMeta {
                    number,
                    id,
                    size: 0,
                }),
                None => self.report.damaged.push(self.path(*name)),
            }
        }
        let store = &self.opening.store;
        let open = |meta: &BlobMeta| (meta.number, BlobFile::new(*meta, store.clone()));
        self.blobs = found.iter().map(open).collect();
        Ok(found)
    }

    /// True if a whole table refers to a value that cannot be had.
    pub(super) fn lacks_values(&self, meta: &TableMeta) -> Result<bool> {
        if meta.info.blobs.is_empty() {
            return Ok(false);
        }
        let table = std::sync::Arc::new(self.opening.files.open(meta)?);
        let mut entries = table.iter();
        entries.first()?;
        while entries.valid() {
            let key = entries.key();
            if key.kind.in_blob() && !is_there(&self.blobs, key, entries.value())? {
                return Ok(true);
            }
            entries.next()?;
        }
        Ok(false)
    }

    /// False if the log refers to a value that cannot be had.
    pub(super) fn has_values(&self, replay: &Replay) -> Result<bool> {
        for n in 0..replay.entries() {
            if let Some((key, stored)) = replay.entry(n)
                && key.kind.in_blob()
                && !is_there(&self.blobs, key, stored)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Notes the value of an entry as lost.
    pub(super) fn lose_value(
        &mut self,
        key: KeyRef<'_>,
        stored: &[u8],
        kind: LossKind,
    ) -> Result<()> {
        let file = self.path(FileKind::Blob(BlobRef::decode(stored)?.file));
        let user = key.user.to_owned();
        self.report.damaged.push(file.clone());
        self.losses.push(Lost {
            keys: Some((Some(user.clone()), Some(user))),
            sequences: Some(key.seq..=key.seq),
            ..Lost::new(&file, kind, "a large value cannot be read")
        });
        Ok(())
    }

    /// Copies the large values of a replay that goes into tables of the salvage's own.
    pub(super) fn copy_found(&mut self, replay: &mut Replay) -> Result<()> {
        let number = FileNumber(self.outputs.next_file);
        let copied = replay.copy_large(self.fs(), self.opening.dir(), number, &self.blobs)?;
        self.outputs.next_file += u64::from(copied.is_some());
        self.copied.extend(copied);
        Ok(())
    }

    /// Leaves out what the log refers to and cannot be had. The rest is to be copied: it need not
    /// be on disk.
    pub(super) fn mend_replay(&mut self, replay: &mut Replay) -> Result<()> {
        let mut lost = Vec::new();
        for n in 0..replay.entries() {
            let Some((key, stored)) = replay.entry(n) else {
                continue;
            };
            if key.kind.in_blob() && !is_there(&self.blobs, key, stored)? {
                self.lose_value(key, stored, LossKind::Log)?;
                lost.push(n);
            }
        }
        replay.leave_out(&lost);
        replay.copy_from = Some(0);
        Ok(())
    }
}
