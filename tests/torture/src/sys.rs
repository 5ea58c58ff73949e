//! What no safe interface offers: shutting a file system down, mounts that only one thread and what it starts can
//! see, code in a forked process, and free memory returned to the system.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::ioctl::{self, Setter};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, Signal, getpid, kill_process};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN`, which are the same.
const SHUTDOWN: ioctl::Opcode = 0x8004_587d;

/// Shuts down the file system mounted at `mount`: every later call fails, and nothing that it has
/// in memory reaches the disk any more. Flags: 1 writes the journal out before, 2 does not.
pub(crate) fn shut_down(mount: &Path, flags: u32) -> io::Result<()> {
    const EIO: i32 = 5;
    let mount = match File::open(mount) {
        Err(error) if error.raw_os_error() == Some(EIO) => return Ok(()), // It is shut down.
        mount => mount?,
    };
    // SAFETY: the opcode says that the kernel reads four bytes through the pointer, and `Setter`
    // passes one to a u32. A file system that does not know it answers ENOTTY.
    unsafe { ioctl::ioctl(&mount, Setter::<SHUTDOWN, u32>::new(flags)) }?;
    Ok(())
}

/// Gives this thread, and the threads and processes that it starts, a table of mounts of their own.
/// The last of them to end takes the mounts with it, in whatever way it ends.
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: no table of file descriptors is unshared, which is what would hurt. The thread gets a
    // current directory of its own, and this program never changes one.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// Runs `code` in a fork of this process, which then becomes `program`.
pub(crate) fn fork_into(
    mut program: Command,
    code: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<std::process::Child> {
    // SAFETY: what is asked is whether the code gets by with whatever state the other threads,
    // which are not there any more, have left behind. A deadlock would be the answer no, and memory
    // is as sound as it was: glibc keeps its allocator usable across a fork.
    unsafe { program.pre_exec(code) };
    program.spawn()
}

/// Has the allocator return to the system what it keeps of memory that was given back.
pub(crate) fn return_free_memory() {
    // SAFETY: it takes no pointer, and may be called by any thread at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// SIGKILL for every process that this one has started.
pub(crate) fn kill_children() {
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten() {
        let children = task.and_then(|task| std::fs::read_to_string(task.path().join("children")));
        let children = children.unwrap_or_default();
        let pids = children
            .split_whitespace()
            .filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        for pid in pids {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// SIGKILL, now.
pub(crate) fn kill_self() {
    kill_process(getpid(), Signal::KILL).ok();
    loop {
        std::thread::park(); // The other threads are gone or going, and so is this one.
    }
}
