//! The ways to open a database

use std::path::Path;

use terrace_base::Result;

use crate::db::Db;
use crate::open::salvage::{Salvage, salvage};
use crate::options::Options;

impl Options {
    /// Opens the database in `dir`, creating it if need be.
    ///
    /// # Errors
    /// `Locked` while another handle or process has it open, `Corruption` with file and offset if
    /// stored bytes that were promised are damaged or missing, `Invalid` for options out of range,
    /// `Unsupported` for what this build has no feature for. A failed open changes no file that
    /// existed.
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<Db> {
        Db::open_with(self.clone(), dir.as_ref())
    }

    /// Opens what is left of a damaged database, and reports what is lost: for when
    /// [`Options::open`] answers `Corruption` and there is no backup. A database that is not
    /// damaged is opened as it is.
    ///
    /// Every block of a table and every batch of the log stands alone: those that verify are kept,
    /// also after damage. For each key the newest of the versions kept is there. What a
    /// [`Loss`](crate::Loss) covers may be gone, or older, or, if it had been deleted, back; what
    /// none covers is as it was. With a hole in the log the result may be a state that the database
    /// never had, since what came after is kept: see [`Salvage`].
    ///
    /// No file is deleted: what is no part of the database any more lies in a new directory
    /// `salvaged-NNNNNN` in `dir`, which is yours to remove. A crash on the way leaves what was
    /// there, and salvage can be run again. Damaged tables are written anew; if the manifest is
    /// lost, all are. That takes as much space again.
    ///
    /// ```no_run
    /// # fn main() -> terrace::Result<()> {
    /// let (db, report) = terrace::Options::new().salvage("my.db")?;
    /// println!("{report}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `NotFound` where there is no file of a database, `Locked` while it is open, `Invalid` if
    /// read-only, `Unsupported` for files of a newer version, and those of writing files.
    pub fn salvage(&self, dir: impl AsRef<Path>) -> Result<(Db, Salvage)> {
        let (engine, report) = salvage(self.clone(), dir.as_ref())?;
        Ok((Db::of_engine(engine), report))
    }

    /// A database in memory, gone with its last handle.
    pub fn open_in_memory(&self) -> Result<Db> {
        let vfs = terrace_base::vfs::MemVfs::new(self.vfs.random());
        let mut options = Options {
            vfs,
            ..self.clone()
        };
        options.tuning.reserve_bytes = Some(0); // Memory has no room to spare for it.
        Db::open_with(options, Path::new("/terrace"))
    }
}
