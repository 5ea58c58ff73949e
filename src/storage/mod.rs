//! The files on disk: tables, blob files, the manifest and the version set.

pub(crate) mod blob_files;
pub(crate) mod files;
pub(crate) mod lent;
pub(crate) mod manifest;
pub(crate) mod touched;
pub(crate) mod version_set;
