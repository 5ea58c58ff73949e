//! The files of tables that a job writes, and who removes them if they are not wanted.
//!
//! While a job writes, code of the caller may run: the input of an ingest, a merge operator, a
//! filter. If it panics, the files go when the [`NewTables`] is dropped. Once they are written, the
//! job says so and decides itself: an edit that lists them may then be on disk, also if making it
//! failed.

use terrace_base::vfs::OpenMode;
use terrace_base::{FileKind, FileNumber, KeyRef, Result, ValueKind};
use terrace_compaction::{BlobMeta, Outputs};

use crate::engine::Engine;
use crate::jobs::blob_outputs::NewBlobs;

/// Makes the files of new tables, and remembers them so that a failed job leaves nothing behind.
#[derive(Debug)]
pub(crate) struct NewTables<'a> {
    engine: &'a Engine,
    pub(crate) numbers: Vec<FileNumber>,
    pub(crate) blobs: NewBlobs,
    /// Dropping this removes the files.
    writing: bool,
}

impl<'a> NewTables<'a> {
    pub(crate) fn new(engine: &'a Engine) -> NewTables<'a> {
        NewTables {
            engine,
            numbers: Vec::new(),
            blobs: NewBlobs::new(engine, false),
            writing: true,
        }
    }

    /// Those that were made before.
    pub(crate) fn made(engine: &'a Engine, numbers: Vec<FileNumber>) -> NewTables<'a> {
        let mut tables = NewTables::new(engine);
        tables.numbers = numbers;
        tables
    }

    /// All is written. From now on the files stay, unless they are discarded.
    pub(crate) fn written(&mut self) {
        self.writing = false;
    }

    /// Removes what was made; nothing if the edit may be on disk all the same. What cannot be
    /// removed now, the next open removes: no edit lists it.
    pub(crate) fn discard(mut self) {
        self.writing = true;
    }

    fn remove_all(&mut self) {
        let tables = self.numbers.drain(..).map(FileKind::Table);
        let blobs = self.blobs.numbers.drain(..).map(FileKind::Blob);
        for file in tables.chain(blobs) {
            if self.engine.files.frozen() || self.engine.files.remove(file).is_err() {
                return;
            }
        }
    }
}

impl Drop for NewTables<'_> {
    fn drop(&mut self) {
        if self.writing {
            self.remove_all();
        }
    }
}

impl Outputs for NewTables<'_> {
    fn create(&mut self) -> Result<(FileNumber, u64, u64, terrace_base::vfs::File)> {
        let engine = self.engine;
        let number = engine.versions.new_file_number()?;
        let path = FileKind::Table(number).path(&engine.files.dir);
        let file = engine.fs().open(&path, OpenMode::CreateNew)?;
        self.numbers.push(number);
        Ok((number, engine.fs().random(), engine.fs().random(), file))
    }

    fn large_from(&self) -> usize {
        match self.blobs.separates {
            true => self.engine.context.policies.large_from(),
            false => usize::MAX,
        }
    }

    fn moves_blobs(&self) -> bool {
        self.blobs.moves()
    }

    fn place(&mut self, key: KeyRef<'_>, value: &[u8]) -> Result<Option<(ValueKind, Vec<u8>)>> {
        self.blobs.place(self.engine, key, value)
    }

    fn finish_blobs(&mut self) -> Result<Vec<BlobMeta>> {
        self.blobs.finish()
    }
}
