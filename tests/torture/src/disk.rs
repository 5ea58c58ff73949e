//! A real file system on a loop device over a file in memory, whose power can be cut.
//!
//! The thread that mounts it has a table of mounts of its own (`sys::own_mounts`): nobody else sees
//! it, and the kernel takes mounts, loop device and file away when the last process of the thread
//! has ended, even by SIGKILL.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{io, thread};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::sys;

/// A kind of file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    fs: &'static str,
    make: &'static [&'static str],
    options: &'static str,
    size: u64,
}

/// Each kind that is cut.
pub(crate) const KINDS: [Kind; 3] = [
    Kind {
        name: "ext4",
        fs: "ext4",
        make: &["mkfs.ext4", "-q", "-F"],
        options: "data=ordered",
        size: 64 << 20,
    },
    Kind {
        name: "XFS",
        fs: "xfs",
        make: &["mkfs.xfs", "-q"],
        options: "rw",
        size: 320 << 20, // Smaller ones are refused.
    },
    Kind {
        name: "ext4 with data=writeback",
        fs: "ext4",
        make: &["mkfs.ext4", "-q", "-F"],
        options: "data=writeback",
        size: 64 << 20,
    },
];

/// A file system that is mounted, or about to be again.
#[derive(Debug)]
pub(crate) struct Disk {
    kind: Kind,
    memory: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

/// Runs a program; what it said if it failed.
fn tool(program: &str, arguments: &[&str]) -> Result<(), String> {
    let run = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if run.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&run.stderr);
    Err(format!("{program}: {} ({})", said.trim(), run.status))
}

impl Disk {
    /// Makes and mounts a fresh file system under `home`, an empty directory.
    /// REQUIRES: this thread has mounts of its own.
    pub(crate) fn new(kind: Kind, home: &Path) -> Result<Disk, String> {
        let memory = home.to_path_buf();
        mount("tmpfs", home, "tmpfs", MountFlags::empty(), c"size=1g")
            .map_err(|error| format!("mounting a tmpfs: {error}"))?;
        let made = Disk::on_memory(kind, &memory);
        if made.is_err() {
            unmount(home, UnmountFlags::DETACH).ok();
        }
        made
    }

    fn on_memory(kind: Kind, memory: &Path) -> Result<Disk, String> {
        let (image, dir) = (memory.join("image"), memory.join("mount"));
        let text = |error: io::Error| format!("making an image: {error}");
        File::create_new(&image)
            .and_then(|image| image.set_len(kind.size))
            .map_err(text)?;
        std::fs::create_dir(&dir).map_err(text)?;
        let image = image.display().to_string();
        let (program, arguments) = kind.make.split_first().expect("a program");
        tool(program, &[arguments, &[image.as_str()]].concat())?;
        let mut disk = Disk {
            kind,
            memory: memory.to_path_buf(),
            mount: dir,
            mounted: false,
        };
        disk.on()?;
        Ok(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Unmounts and mounts: what was only in memory is gone if it was shut down before.
    pub(crate) fn again(&mut self) -> Result<(), String> {
        self.off()?;
        self.on()
    }

    /// The loop device is another one each time: with the old one, blocks in its cache that never
    /// reached the disk would be there again.
    fn on(&mut self) -> Result<(), String> {
        let image = self.memory.join("image").display().to_string();
        let mount = self.mount.display().to_string();
        let options = format!("loop,{}", self.kind.options);
        tool(
            "mount",
            &["-t", self.kind.fs, "-o", &options, &image, &mount],
        )?;
        self.mounted = true;
        Ok(())
    }

    fn off(&mut self) -> Result<(), String> {
        for attempt in 1.. {
            match unmount(&self.mount, UnmountFlags::empty()) {
                Ok(()) => break,
                // A process that was just killed may take a moment to let go of its files.
                Err(rustix::io::Errno::BUSY) if attempt < 500 => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(format!("unmounting {}: {error}", self.kind.name)),
            }
        }
        self.mounted = false;
        Ok(())
    }

    /// Cuts the power.
    pub(crate) fn cut(&self, flags: u32) -> Result<(), String> {
        sys::shut_down(&self.mount, flags).map_err(|error| format!("cutting: {error}"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            unmount(&self.mount, UnmountFlags::DETACH).ok();
        }
        unmount(&self.memory, UnmountFlags::DETACH).ok();
    }
}

/// Why no power can be cut here, if so.
pub(crate) fn missing() -> Option<String> {
    thread::spawn(|| {
        let home = tempfile::tempdir().map_err(|error| error.to_string())?;
        sys::own_mounts().map_err(|error| format!("mounts of its own (is this root?): {error}"))?;
        for kind in KINDS {
            let disk = Disk::new(kind, home.path())?;
            disk.cut(2).map_err(|why| format!("{}: {why}", kind.name))?;
        }
        Ok::<(), String>(())
    })
    .join()
    .unwrap()
    .err()
}
