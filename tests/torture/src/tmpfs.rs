//! A small file system in memory, mounted for a test.

use std::path::Path;
use std::process::{Command, Stdio};

/// A mounted tmpfs; unmounted and gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    /// Mounts one of so many bytes; `None` where that is not allowed.
    pub(crate) fn mount(bytes: u64) -> Option<Tmpfs> {
        let dir = tempfile::tempdir().ok()?;
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "terrace-torture"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted.ok()?.success().then_some(Tmpfs { dir })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a database of a failed run may still be open.
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.path().display());
        }
    }
}
