//! A temporary directory that is removed after success, failure, panic, Ctrl-C and kill -9.
//!
//! A second process waits for the end of a pipe whose other end only this process holds. The pipe
//! ends when this process does, in whatever way; the second one then removes the folder. It runs in
//! a process group of its own, so that a Ctrl-C in the terminal does not reach it.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use crate::Failure;

#[derive(Debug)]
pub(crate) struct TempFolder {
    path: PathBuf,
    broom: Option<Child>,
}

impl TempFolder {
    pub(crate) fn new() -> Result<TempFolder, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("terrace-index-")
            .tempdir()?;
        let mut command = Command::new(env::current_exe()?);
        command
            .arg("--sweep-for-parent")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let broom = command.spawn()?;
        Ok(TempFolder {
            path: folder.keep(),
            broom: Some(broom),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder now and says if that went wrong.
    pub(crate) fn remove(mut self) -> Result<(), Failure> {
        match self.sweep() {
            Ok(()) => Ok(()),
            Err(error) => Err(format!("{} is left over: {error}", self.path.display()).into()),
        }
    }

    fn sweep(&mut self) -> io::Result<()> {
        if let Some(mut broom) = self.broom.take() {
            drop(broom.stdin.take()); // The pipe ends.
            broom.wait()?;
        }
        match self.path.try_exists()? {
            true => Err(io::Error::other("it is still there")),
            false => Ok(()),
        }
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if self.broom.is_some()
            && let Err(error) = self.sweep()
        {
            eprintln!("{} is left over: {error}", self.path.display());
        }
    }
}

/// The second process.
pub(crate) fn child(arguments: &[OsString]) -> Result<(), Failure> {
    let [_, folder] = arguments else {
        return Err("no folder to remove".into());
    };
    io::stdin().read_to_end(&mut Vec::new())?;
    // The loader may be about to end, and still be writing.
    for _ in 0..50 {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                thread::sleep(Duration::from_millis(100));
            }
            _ => return Ok(()),
        }
    }
    Err("the folder cannot be removed".into())
}
