//! The files of tables and large values: opening them lazily, making new ones, and removing those
//! that nothing refers to.
//!
//! A table leaves in two steps. The edit that removes it from the tree is synced; then, once the
//! last reader that pinned it is gone, its number lands in the list of the obsolete, and a worker
//! unlinks it. A running database deletes by edits only, never by listing the directory, and
//! nothing after a failure of the log or manifest: the edit may not be what the disk has.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use terrace_base::error::is_missing;
use terrace_base::vfs::{File, Fs, OpenFiles, OpenMode, parent_of};
use terrace_base::{Error, ErrorKind, FileKind, FileNumber, Result, mutant};
use terrace_compaction::{BlobFile, BlobMeta, Opened, TableMeta, TableStore};
use terrace_sstable::{BLOB_HEADER_LEN, BlobReader, BlockCache, IoMode, Table};

use crate::background::signals::{Background, Task};
use crate::storage::lent::Lent;

/// The files of one database's tables.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) fs: Fs,
    pub(crate) dir: PathBuf,
    io: IoMode,
    pub(crate) cache: Arc<BlockCache>,
    /// The tables and blob files that are open: not all of them need be.
    open: OpenFiles,
    /// Open tables that may be closed again.
    lent: Lent,
    obsolete: Mutex<Vec<FileKind>>,
    /// Held while files are removed, so that a second caller returns only when the first has
    /// removed what it took.
    removing: Mutex<()>,
    /// Has what is obsolete removed soon.
    background: OnceLock<Arc<Background>>,
    /// No deletion any more.
    frozen: AtomicBool,
}

impl Files {
    pub(crate) fn new(fs: Fs, dir: PathBuf, io: IoMode, cache: Arc<BlockCache>) -> Files {
        let (obsolete, frozen) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        Files {
            open: OpenFiles::new(most_open(fs.most_open_files())),
            lent: Lent::default(),
            fs,
            dir,
            io,
            cache,
            obsolete,
            removing: Mutex::new(()),
            background: OnceLock::new(),
            frozen,
        }
    }

    /// From now on, `background` is woken for every file that becomes obsolete.
    pub(crate) fn removed_by(&self, background: Arc<Background>) {
        // A second call would be of the same database.
        self.background.set(background).ok();
    }

    /// Checks that a listed table is there in its full size, without opening it.
    pub(crate) fn check_listed(&self, meta: &TableMeta) -> Result<()> {
        let path = FileKind::Table(meta.number).path(&self.dir);
        match self.fs.metadata(&path)? {
            Some(found) if found.len == meta.info.size => Ok(()),
            Some(found) => Err(Error::corruption(format!(
                "the table has {} bytes where the manifest lists {}",
                found.len, meta.info.size
            ))
            .in_file(&path, found.len.min(meta.info.size))),
            None => Err(
                Error::corruption("a table that the manifest lists is missing").in_file(&path, 0),
            ),
        }
    }

    /// Checks that a listed table is no other one. One that cannot be read is for its readers to
    /// find.
    pub(crate) fn check_identity(&self, meta: &TableMeta) -> Result<()> {
        let path = FileKind::Table(meta.number).path(&self.dir);
        let file = self.fs.open(&path, OpenMode::Read);
        match file.and_then(|file| terrace_sstable::stated_id(&file, meta.info.size)) {
            Ok(Some(id)) if id != meta.info.id => Err(Error::corruption(
                "the table is not the one that the manifest lists: one of them is of another \
                 database, or of another time",
            )
            .in_file(&path, 0)),
            _ => Ok(()),
        }
    }

    /// Checks that a listed blob file is there, and no shorter than when it was listed.
    pub(crate) fn check_blob(&self, file: &BlobFile) -> Result<()> {
        let meta = file.meta();
        let path = FileKind::Blob(meta.number).path(&self.dir);
        let Some(found) = self.fs.metadata(&path)? else {
            let text = "a blob file that the manifest lists is missing";
            return Err(Error::corruption(text).in_file(&path, 0));
        };
        if found.len < BLOB_HEADER_LEN || (meta.size > 0 && found.len != meta.size) {
            let text = format!("the blob file has {} bytes, not as listed", found.len);
            return Err(Error::corruption(text).in_file(&path, found.len));
        }
        file.grown_to(found.len);
        Ok(())
    }

    /// `Io` if the directory was removed, or `CURRENT` in it: then what is written here
    /// cannot be opened again.
    pub(crate) fn check_present(&self) -> Result<()> {
        let path = FileKind::Current.path(&self.dir);
        match self.fs.metadata(&path)? {
            Some(_) => Ok(()),
            None => Err(Error::new(
                ErrorKind::Io,
                "the directory of the database, or the file CURRENT in it, was removed while it \
                 was open; what was written is lost with it",
            )
            .in_file(&path, 0)),
        }
    }

    fn open_file(&self, file: FileKind) -> Result<File> {
        self.open.open(&self.fs, &file.path(&self.dir))
    }

    fn push_obsolete(&self, file: FileKind) {
        let mut obsolete = self.obsolete.lock().unwrap_or_else(|p| p.into_inner());
        obsolete.push(file);
        drop(obsolete);
        if let Some(background) = self.background.get() {
            background.wake(Task::Space);
        }
    }

    /// Reads every block of new tables back, before anything relies on them.
    pub(crate) fn read_back(&self, tables: &[TableMeta]) -> Result<()> {
        for meta in tables {
            let table = self.open(meta)?;
            if *table.info() != meta.info {
                let path = FileKind::Table(meta.number).path(&self.dir);
                return Err(
                    Error::corruption("a new table does not say what was written")
                        .in_file(&path, 0),
                );
            }
            table.verify()?;
        }
        Ok(())
    }

    /// No file is removed from now on, and no edit made.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    pub(crate) fn frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// Removes the files that nothing refers to any more. One that cannot be removed stays in the
    /// list.
    pub(crate) fn remove_obsolete(&self) -> Result<()> {
        let _removing = self.removing.lock().unwrap_or_else(|p| p.into_inner());
        loop {
            let file = {
                let mut obsolete = self.obsolete.lock().unwrap_or_else(|p| p.into_inner());
                obsolete.pop()
            };
            let Some(file) = file else { return Ok(()) };
            if self.frozen() {
                return Ok(());
            }
            if let Err(error) = self.remove(file) {
                let mut obsolete = self.obsolete.lock().unwrap_or_else(|p| p.into_inner());
                obsolete.push(file); // Without a signal: the caller tries again after a while.
                return Err(error);
            }
        }
    }

    /// Unlinks a file that no edit lists. One that is gone already is fine: a crash may have kept
    /// the edit and lost nothing else.
    pub(crate) fn remove(&self, file: FileKind) -> Result<()> {
        if mutant("keep-obsolete") && matches!(file, FileKind::Table(_)) {
            return Ok(());
        }
        match self.fs.remove_file(&file.path(&self.dir)) {
            Err(error) if is_missing(&error) => Ok(()),
            result => result,
        }
    }
}

/// How many tables and blob files one database has open at most, of `limit` files that the process
/// may: a quarter, so that a program with a few databases, its own files and connections has
/// enough; never fewer than 8.
fn most_open(limit: u64) -> usize {
    usize::try_from(limit / 4)
        .unwrap_or(usize::MAX)
        .clamp(8, 1 << 20)
}

impl TableStore for Files {
    fn open(&self, meta: &TableMeta) -> Result<Table> {
        let file = self.open_file(FileKind::Table(meta.number))?;
        Table::open(file, meta.info.id, meta.info.size, self.io, &self.cache)
    }

    fn acquire(&self, meta: &TableMeta) -> Result<Opened> {
        // Another reader may have had it opened a moment ago.
        if let Some(table) = self.lent.get(meta.number) {
            return Ok(Opened::Lent(table));
        }
        let capacity = self.cache.capacity();
        let (kept, lent) = (capacity / 8 * 3, capacity / 2);
        let wanted = Table::memory_of(&meta.info, self.io);
        if self.cache.charged().saturating_add(wanted) <= kept {
            return Ok(Opened::Kept(Arc::new(self.open(meta)?)));
        }
        let file = self.open_file(FileKind::Table(meta.number))?;
        let (id, size) = (meta.info.id, meta.info.size);
        let table = Table::open_lean(file, id, size, self.io, &self.cache)?;
        let table = Arc::new(table);
        let is_full = || self.cache.charged() > lent;
        self.lent.insert(meta.number, table.clone(), is_full);
        Ok(Opened::Lent(table))
    }

    fn lent(&self, number: FileNumber) -> Option<Arc<Table>> {
        self.lent.get(number)
    }

    fn obsolete(&self, number: FileNumber) {
        self.lent.remove(number); // Some systems keep the space of an open file.
        self.push_obsolete(FileKind::Table(number));
    }

    fn open_blob(&self, meta: &BlobMeta) -> Result<BlobReader> {
        BlobReader::open(self.open_file(FileKind::Blob(meta.number))?, meta.id)
    }

    fn obsolete_blob(&self, number: FileNumber) {
        self.push_obsolete(FileKind::Blob(number));
    }
}

/// A process that was killed while it created the directory may have left a name that is not
/// durable: a power cut would take the directory with all that is acknowledged in it.
pub(crate) fn sync_ancestors(fs: &Fs, dir: &Path) -> Result<()> {
    let mut parent = parent_of(dir);
    fs.sync_dir(parent)?;
    while parent_of(parent) != parent && parent != Path::new(".") {
        parent = parent_of(parent);
        if fs.sync_dir(parent).is_err() {
            break; // Not ours to read, so not ours to have created.
        }
    }
    Ok(())
}
