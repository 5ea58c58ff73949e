//! Large values in what the log holds above the tables.
//!
//! The log's frames say up to where it was synced when they were written, and a sync of the log
//! comes after that of the blob files. So what a frame below the last promise refers to is on disk.
//! Above it a frame counts as whole only if the values that it refers to verify: else the log ends
//! in front of it, as in front of a frame that is torn itself. What verifies may still be in the
//! page cache alone, or not even be written by the next sync after one that failed; so it is
//! copied, as the entries of the log are, into a file that is synced before the new manifest names
//! it.

use terrace_base::vfs::{Fs, OpenMode};
use terrace_base::{ErrorKind, FileKind, FileNumber, KeyspaceId, Result, UserKey, mutant};
use terrace_compaction::{BlobFiles, BlobMeta};
use terrace_sstable::{BlobRef, BlobWriter};
use terrace_wal::Lsn;

use crate::open::replay::Replay;
use crate::read::blob::{Want, file_of, read};

/// What there was of a replay in front of a frame that refers to blob files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) lsn: Lsn,
    pub(crate) notes: usize,
    pub(crate) changes: usize,
    pub(crate) ranges: usize,
    pub(crate) clock: u64,
}

/// A reference found in the log: its key, and where it stands in the replay's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundRef {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key_at: usize,
    pub(crate) key_len: usize,
    pub(crate) ref_at: usize,
}

impl Replay {
    /// Ends the replay in front of the first frame above `synced` that refers to a value which does
    /// not verify; true if there is one.
    pub(crate) fn check_large(&mut self, synced: Lsn, blobs: &BlobFiles) -> Result<bool> {
        let doubtful = self.first_doubtful(synced, blobs)?;
        if let Some(mark) = &doubtful {
            self.cut(mark);
        }
        Ok(doubtful.is_some())
    }

    /// What there is in front of the first frame above `synced` that refers to a value which does
    /// not verify, if there is one. Notes which values are to be copied because they may not be on
    /// disk.
    pub(crate) fn first_doubtful(
        &mut self,
        synced: Lsn,
        blobs: &BlobFiles,
    ) -> Result<Option<Mark>> {
        if mutant("trust-unsynced-blob") {
            return Ok(None);
        }
        let unsynced: Vec<Mark> = self
            .marks
            .iter()
            .copied()
            .filter(|mark| mark.lsn >= synced)
            .collect();
        self.copy_from = unsynced.first().map(|mark| mark.notes);
        for (n, mark) in unsynced.iter().enumerate() {
            let end = unsynced.get(n + 1).map_or(usize::MAX, |next| next.notes);
            if !self.verify(mark.notes..end, blobs)? {
                return Ok(Some(*mark));
            }
        }
        Ok(None)
    }

    /// `Corruption` if an entry refers to a file that the manifest does not list. Each is listed
    /// durably before a frame refers to it, promised or not: so the manifest is older than the log.
    pub(crate) fn check_listed(&self, blobs: &BlobFiles) -> Result<()> {
        let mut all = self.references(0..usize::MAX);
        all.try_for_each(|found| {
            file_of(blobs, &BlobRef::decode(self.reference(&found).1)?).map(|_| ())
        })
    }

    fn verify(&self, notes: std::ops::Range<usize>, blobs: &BlobFiles) -> Result<bool> {
        for found in self.references(notes) {
            let (user, reference) = self.reference(&found);
            let at = BlobRef::decode(reference)?;
            let verified = file_of(blobs, &at)
                .and_then(|file| file.reader())
                .and_then(|reader| reader.verify(user, &at));
            match verified {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Corruption => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn reference(&self, found: &FoundRef) -> (UserKey<'_>, &[u8]) {
        let slice = |at: usize, len: usize| self.bytes.get(at..at + len).unwrap_or_default();
        let key = slice(found.key_at, found.key_len);
        let reference = slice(found.ref_at, terrace_base::key::BLOB_REF_LEN);
        (UserKey::new(found.keyspace, key), reference)
    }

    /// Copies the values that may not be on disk into the new file `number`, and refers to those;
    /// what the file is, if there is anything to copy.
    pub(crate) fn copy_large(
        &mut self,
        fs: &Fs,
        dir: &std::path::Path,
        number: FileNumber,
        blobs: &BlobFiles,
    ) -> Result<Option<BlobMeta>> {
        let Some(from) = self.copy_from else {
            return Ok(None);
        };
        let found: Vec<FoundRef> = self.references(from..usize::MAX).collect();
        if found.is_empty() {
            return Ok(None);
        }
        let file = fs.open(&FileKind::Blob(number).path(dir), OpenMode::CreateNew)?;
        let mut writer = BlobWriter::new(file, number, fs.random());
        for found in found {
            let (user, reference) = self.reference(&found);
            let value = read(blobs, user, reference, Want::Whole)?;
            let copied = writer.add(user, &value)?.encode();
            if let Some(place) = self
                .bytes
                .get_mut(found.ref_at..found.ref_at + copied.len())
            {
                place.copy_from_slice(&copied);
            }
        }
        let (number, id, size) = writer.finish()?;
        Ok(Some(BlobMeta { number, id, size }))
    }
}
