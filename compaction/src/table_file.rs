//! One table of the tree: what the manifest knows of it, and its file once somebody needs it.
//!
//! A [`TableFile`] is shared by every [`Version`](crate::Version) that lists the table. It opens
//! its file on first use and keeps it open, or the store lends it: see [`TableRef`]. Once an edit
//! that removed the table is durable, the engine marks it obsolete; the file goes when the last
//! Version, iterator or value that needs it has let go.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use terrace_base::{Error, ErrorKind, FileKind, FileNumber, Result};
use terrace_sstable::{BlobReader, Table, TableInfo};

use crate::blob_file::BlobMeta;

/// A table as the manifest lists it.
#[derive(Clone, PartialEq)]
pub struct TableMeta {
    /// Names the file.
    pub number: FileNumber,
    /// What its writer counted.
    pub info: TableInfo,
}

/// A table that was opened for the tree.
#[derive(Debug)]
pub enum Opened {
    /// It stays open for as long as it is in the tree.
    Kept(Arc<Table>),
    /// The store may close it once no reader has it.
    Lent(Arc<Table>),
}

/// An open table: kept by its [`TableFile`], or lent by the store to one reader.
#[derive(Debug)]
pub enum TableRef<'a> {
    /// It stays open for as long as it is in the tree.
    Kept(&'a Arc<Table>),
    /// It is open for as long as this lives.
    Lent(Arc<Table>),
}

impl Deref for TableRef<'_> {
    type Target = Arc<Table>;

    #[inline]
    fn deref(&self) -> &Arc<Table> {
        match self {
            TableRef::Kept(table) => table,
            TableRef::Lent(table) => table,
        }
    }
}

/// What opens tables and gets rid of their files. The engine implements it.
pub trait TableStore: fmt::Debug + Send + Sync {
    /// Opens the file of `meta`.
    fn open(&self, meta: &TableMeta) -> Result<Table>;
    /// Opens the file of `meta` for the tree. A store that bounds what is open lends a table that
    /// exceeds its bound.
    fn acquire(&self, meta: &TableMeta) -> Result<Opened> {
        self.open(meta).map(|table| Opened::Kept(Arc::new(table)))
    }
    /// The table `number`, if it is lent already.
    fn lent(&self, _number: FileNumber) -> Option<Arc<Table>> {
        None
    }
    /// The last reference to an obsolete table has gone: its file may be removed.
    fn obsolete(&self, number: FileNumber);
    /// Opens the blob file `meta`. A store that has none need not.
    fn open_blob(&self, meta: &BlobMeta) -> Result<BlobReader> {
        Err(Error::corruption(format!("there is no blob file {meta:?}")))
    }
    /// The last reference to an obsolete blob file has gone: it may be removed.
    fn obsolete_blob(&self, _number: FileNumber) {}
}

/// A table in the tree.
pub struct TableFile {
    meta: TableMeta,
    store: Arc<dyn TableStore>,
    table: OnceLock<Arc<Table>>,
    opening: Mutex<()>,
    obsolete: AtomicBool,
    damage: OnceLock<Error>,
}

impl TableFile {
    /// The table `meta`, to be opened through `store`.
    pub fn new(meta: TableMeta, store: Arc<dyn TableStore>) -> Arc<TableFile> {
        Arc::new(TableFile {
            meta,
            store,
            table: OnceLock::new(),
            opening: Mutex::new(()),
            obsolete: AtomicBool::new(false),
            damage: OnceLock::new(),
        })
    }

    /// As the manifest lists it.
    #[inline]
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// Names the file.
    #[inline]
    pub fn number(&self) -> FileNumber {
        self.meta.number
    }

    /// What its writer counted.
    #[inline]
    pub fn info(&self) -> &TableInfo {
        &self.meta.info
    }

    /// The table, if it is open to stay so.
    #[inline]
    pub fn kept(&self) -> Option<&Table> {
        Some(self.table.get()?)
    }

    /// The open table. The first caller opens it; a failure is not remembered.
    #[inline]
    pub fn table(&self) -> Result<TableRef<'_>> {
        match self.table.get() {
            Some(table) => Ok(TableRef::Kept(table)),
            None => self.open(),
        }
    }

    #[cold]
    fn open(&self) -> Result<TableRef<'_>> {
        if let Some(table) = self.store.lent(self.meta.number) {
            return Ok(TableRef::Lent(table));
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = self.table.get() {
            return Ok(TableRef::Kept(table)); // Another reader was faster.
        }
        let opened = self.store.acquire(&self.meta);
        match opened.map_err(|error| self.name(error))? {
            Opened::Kept(table) => Ok(TableRef::Kept(self.table.get_or_init(|| table))),
            Opened::Lent(table) => Ok(TableRef::Lent(table)),
        }
    }

    /// Opens the table to stay open, whatever the store's bound is, and to be read even if its file
    /// is removed.
    pub fn keep_open(&self) -> Result<()> {
        let table = match self.table.get() {
            Some(table) => table,
            None => {
                let table = self.store.open(&self.meta);
                let table = table.map_err(|error| self.name(error))?;
                self.table.get_or_init(|| Arc::new(table))
            }
        };
        table.keep()
    }

    /// What a read of the table ran into. Damage always names its file, and sets the table aside.
    pub(crate) fn name(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Corruption {
            return error;
        }
        let error = error.in_file(Path::new(&FileKind::Table(self.meta.number).name()), 0);
        self.set_damaged(error.clone());
        error
    }

    /// From now on the file goes with the last reference.
    pub fn mark_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// Sets the table aside until it is opened anew: it is read on request but never picked. The
    /// first error is kept.
    pub fn set_damaged(&self, error: Error) {
        self.damage.get_or_init(|| error);
    }

    /// True if the table was set aside.
    #[inline]
    pub fn damaged(&self) -> bool {
        self.damage.get().is_some()
    }

    /// Why the table was set aside.
    pub fn damage(&self) -> Option<&Error> {
        self.damage.get()
    }
}

impl Drop for TableFile {
    fn drop(&mut self) {
        if *self.obsolete.get_mut() {
            // Our handle goes first: some systems keep the space of an open file.
            self.table.take();
            self.store.obsolete(self.meta.number);
        }
    }
}

impl fmt::Debug for TableFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.meta.fmt(f)
    }
}

/// The table that `error` found damaged, if it is about one.
pub fn damaged_table(error: &Error) -> Option<FileNumber> {
    if error.kind() != ErrorKind::Corruption {
        return None;
    }
    let (path, _) = error.file()?;
    match FileKind::parse(path.file_name()?.to_str()?)? {
        FileKind::Table(number) => Some(number),
        _ => None,
    }
}
