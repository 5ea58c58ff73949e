//! A file system in memory, plain or with a model of what a crash leaves behind.
//!
//! [`MemVfs::new`] makes a plain one for databases that live in memory: files are byte vectors,
//! each under its own lock, and syncs do nothing. [`MemVfs::crashable`] makes one for tests: it
//! keeps, per file and per name, what is durable and what is not yet, and [`MemVfs::image`] gives
//! the file system as it may be found after a crash at this moment. A hook sees every call that
//! changes something before it does, so that a test can crash at each of them.
//!
//! - `mem/node.rs`: one file and its persistence; `mem/pages.rs`: its bytes, shared between images
//! - `mem/names.rs`: the directory tree and its persistence
//! - `mem/crash.rs`: policies and images
//!
//! Locks are taken in this order: `world`, `names`, one file. Every changing call holds `world`
//! shared and an image takes it alone, so that an image is one moment of all files; a plain file
//! system skips it.

mod crash;
mod names;
mod node;
mod pages;
mod random;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::{fmt, io};

use bytes::Bytes;
pub use crash::{CrashPolicy, ImageKind};
use names::{Entry, Names};
use node::{Node, Tracked, lock};
use random::{Random, SharedRandom, mix};
use twox_hash::XxHash3_64;

use super::{LockGuard, Metadata, OpenMode, Vfs, VfsFile};

/// Called with the file system and the number of the changing call that is about to take effect.
pub type MutationHook = Arc<dyn Fn(&MemVfs, u64) + Send + Sync>;

/// A file system in memory.
pub struct MemVfs {
    inner: Arc<Inner>,
}

struct Inner {
    names: Mutex<Names>,
    /// Held shared while a call changes something and alone while an image is taken.
    world: RwLock<()>,
    crashable: bool,
    next_node: AtomicU64,
    random: SharedRandom,
    /// What becomes of bytes whose sync failed. Apart from `random`, so that a fault leaves salts
    /// alone.
    fates: SharedRandom,
    mutations: AtomicU64,
    hook: Mutex<Option<MutationHook>>,
    /// How many bytes the files may have in all. Not atomic with anything: tests set it between
    /// calls.
    capacity: AtomicU64,
}

impl Inner {
    fn new(names: Names, crashable: bool, next_node: u64, seed: u64) -> Inner {
        Inner {
            names: Mutex::new(names),
            world: RwLock::new(()),
            crashable,
            next_node: AtomicU64::new(next_node),
            random: SharedRandom::new(seed),
            fates: SharedRandom::new(mix(!seed)),
            mutations: AtomicU64::new(0),
            hook: Mutex::new(None),
            capacity: AtomicU64::new(u64::MAX),
        }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        lock(&self.names)
    }
}

fn used(names: &Names) -> u64 {
    let files = names.walk().into_iter().filter_map(|(_, node)| node);
    let lens = files.map(|node| (node.id, node.len()));
    lens.collect::<HashMap<_, _>>().values().sum()
}

/// A changing call in progress: no image is taken meanwhile.
struct Turn<'a> {
    number: u64,
    _world: Option<RwLockReadGuard<'a, ()>>,
}

impl MemVfs {
    /// A plain one. `seed` fixes its random numbers.
    pub fn new(seed: u64) -> Arc<MemVfs> {
        MemVfs::with(seed, false)
    }

    /// One that knows what a crash would leave behind. `seed` fixes its random numbers.
    pub fn crashable(seed: u64) -> Arc<MemVfs> {
        MemVfs::with(seed, true)
    }

    fn with(seed: u64, crashable: bool) -> Arc<MemVfs> {
        let inner = Inner::new(Names::new(crashable), crashable, 1, seed);
        Arc::new(MemVfs {
            inner: Arc::new(inner),
        })
    }

    /// How many changing calls there were: `write_at`, `sync_data`, `sync_dir`, `rename`,
    /// `remove_file`,
    /// `hard_link`, `create_dir`, and an `open` or `lock` that may create or empty a file.
    pub fn mutations(&self) -> u64 {
        self.inner.mutations.load(Ordering::Relaxed)
    }

    /// Has `hook` called before each changing call takes effect, with its number: 1 for the first
    /// since this file system was made. No lock is held, so the hook may take images; it must not
    /// change anything here.
    pub fn set_hook(&self, hook: Option<MutationHook>) {
        *lock(&self.inner.hook) = hook;
    }

    /// Has writes that make the files longer than this in all fail with `StorageFull`, as on a full
    /// disk; the write that reaches the limit is short. Overwriting needs no space. Images take the
    /// limit over.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        let bytes = bytes.unwrap_or(u64::MAX);
        self.inner.capacity.store(bytes, Ordering::Relaxed);
    }

    /// How many bytes the files have in all, each counted once whatever its names.
    pub fn used(&self) -> u64 {
        used(&self.inner.names())
    }

    /// Writes what the capacity has room for.
    fn write_limited(
        &self,
        node: &Node,
        buf: &[u8],
        offset: u64,
        number: u64,
    ) -> io::Result<usize> {
        let capacity = self.inner.capacity.load(Ordering::Relaxed);
        if capacity == u64::MAX {
            return node.write_at(buf, offset, number);
        }
        let names = self.inner.names(); // Held, so that two writers do not take the same room.
        let end = node.len() + capacity.saturating_sub(used(&names));
        let room = end.saturating_sub(offset).min(buf.len() as u64) as usize;
        match buf.split_at(room) {
            ([], [_, ..]) => Err(io::ErrorKind::StorageFull.into()),
            (fits, _) => node.write_at(fits, offset, number),
        }
    }

    fn turn(&self) -> Turn<'_> {
        let number = self.inner.mutations.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.inner.crashable {
            let _world = None;
            return Turn { number, _world };
        }
        let hook = lock(&self.inner.hook).clone();
        if let Some(hook) = hook {
            hook(self, number);
        }
        let world = self.inner.world.read();
        let _world = Some(world.unwrap_or_else(PoisonError::into_inner));
        Turn { number, _world }
    }

    fn new_node(&self) -> Arc<Node> {
        let id = self.inner.next_node.fetch_add(1, Ordering::Relaxed);
        Arc::new(match self.inner.crashable {
            true => Node::tracked(id, Tracked::default()),
            false => Node::plain(id),
        })
    }

    fn node(&self, path: &Path) -> io::Result<Arc<Node>> {
        self.inner.names().place(path)?.file()
    }

    /// Behaves like a failed sync of the file `path`: a random part of its unsynced bytes has
    /// become durable, the rest stays readable, but no later sync makes it durable and a cut loses
    /// it.
    pub fn lose_unsynced(&self, path: &Path) {
        if let Ok(node) = self.node(path) {
            self.lose(&node);
        }
    }

    fn lose(&self, node: &Node) {
        let world = self.inner.world.read();
        let _world = world.unwrap_or_else(PoisonError::into_inner);
        node.lose(&mut Random::new(self.inner.fates.next()));
    }

    /// A hash of the names and visible bytes of all files, so that equal images need to be tried
    /// once.
    pub fn content_hash(&self) -> u64 {
        let names = self.inner.names();
        let mut text = Vec::new();
        for (path, node) in names.walk() {
            text.extend_from_slice(path.as_os_str().as_encoded_bytes());
            text.push(0);
            let hash = node.map_or(0, |node| node.hash());
            text.extend_from_slice(&hash.to_le_bytes());
        }
        XxHash3_64::oneshot(&text)
    }

    /// A hash of all that an open or another crash could tell apart: the content, and what of it is
    /// durable.
    pub fn state_hash(&self) -> u64 {
        let mut text = Vec::new();
        text.extend_from_slice(&self.content_hash().to_le_bytes());
        self.inner.names().describe(&mut text);
        XxHash3_64::oneshot(&text)
    }

    /// The names and lengths of all files, in order.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let names = self.inner.names();
        let files = names.walk().into_iter();
        let file = |(path, node): (_, Option<&Arc<Node>>)| Some((path, node?.len()));
        files.filter_map(file).collect()
    }

    /// The visible bytes of a file.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        Some(self.node(path.as_ref()).ok()?.to_vec())
    }

    /// Damages a file: puts `bytes` in place of its content, durable at once with its name. Creates
    /// it, and directories above it, if absent; does nothing where a directory has the name. Not a
    /// changing call.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let path = super::normalize(path.as_ref());
        let world = self.inner.world.read();
        let _world = world.unwrap_or_else(PoisonError::into_inner);
        let mut names = self.inner.names();
        let above: Vec<&Path> = path.ancestors().skip(1).collect();
        for dir in above.into_iter().rev() {
            // One that exists is left as it is.
            names.create_dir(dir).ok();
        }
        let Ok(place) = names.place(&path) else {
            return;
        };
        let node = match &place.entry {
            Some(Entry::File(node)) => node.clone(),
            Some(Entry::Dir(_)) => return,
            None => {
                let node = self.new_node();
                names.create(place, node.clone());
                node
            }
        };
        node.replace(bytes.as_ref());
        names.persist_path(&path);
    }

    /// Removes a file, durably at once; false if there is none. Not a changing call.
    pub fn remove(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        let world = self.inner.world.read();
        let _world = world.unwrap_or_else(PoisonError::into_inner);
        let mut names = self.inner.names();
        let removed = names.remove(path).is_ok();
        if removed {
            names.persist_path(path);
        }
        removed
    }
}

impl fmt::Debug for MemVfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemVfs")
            .field("crashable", &self.inner.crashable)
            .field("mutations", &self.mutations())
            .finish_non_exhaustive()
    }
}

impl Vfs for MemVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let node = match mode {
            OpenMode::Read | OpenMode::ReadWrite => self.node(path)?,
            OpenMode::CreateNew => self.create(path, true)?,
            OpenMode::CreateOrTruncate => self.create(path, false)?,
        };
        let vfs = MemVfs {
            inner: self.inner.clone(),
        };
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(MemFile {
            vfs,
            node,
            writable,
        }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let _turn = self.turn();
        self.inner.names().create_dir(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let names = self.inner.names();
        let (_, dir) = names.dir(path)?;
        Ok(dir.visible.keys().cloned().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _turn = self.turn();
        self.inner.names().rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _turn = self.turn();
        self.inner.names().link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let _turn = self.turn();
        self.inner.names().remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let _turn = self.turn();
        self.inner.names().sync(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        Ok(match self.inner.names().place(path)?.found()? {
            Entry::File(node) => Metadata {
                len: node.len(),
                is_dir: false,
                links: node.links.load(Ordering::Relaxed),
            },
            Entry::Dir(_) => Metadata {
                len: 0,
                is_dir: true,
                links: 1,
            },
        })
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        let node = match self.node(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && exclusive => {
                self.create_or_open(path)?
            }
            found => found?,
        };
        let mut holders = lock(&node.holders);
        match (*holders, exclusive) {
            (0, true) => *holders = -1,
            (0.., false) => *holders += 1,
            _ => return Ok(None),
        }
        drop(holders);
        Ok(Some(Box::new(MemLock { node, exclusive })))
    }

    fn random(&self) -> u64 {
        self.inner.random.next()
    }
}

impl MemVfs {
    fn create(&self, path: &Path, new: bool) -> io::Result<Arc<Node>> {
        let turn = self.turn();
        let mut names = self.inner.names();
        let place = names.place(path)?;
        if place.entry.is_none() {
            let node = self.new_node();
            names.create(place, node.clone());
            return Ok(node);
        }
        if new {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = place.file()?;
        node.truncate(turn.number);
        Ok(node)
    }

    fn create_or_open(&self, path: &Path) -> io::Result<Arc<Node>> {
        match self.create(path, true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.node(path),
            created => created,
        }
    }
}

/// An open file. It lives on when its names are gone.
struct MemFile {
    vfs: MemVfs,
    node: Arc<Node>,
    writable: bool,
}

impl fmt::Debug for MemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemFile({})", self.node.id)
    }
}

impl VfsFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.node.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let turn = self.vfs.turn();
        self.vfs.write_limited(&self.node, buf, offset, turn.number)
    }

    fn sync_data(&self) -> io::Result<()> {
        let _turn = self.vfs.turn();
        self.node.sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.node.len())
    }

    fn map(&self, len: u64) -> io::Result<Bytes> {
        self.node.map(len)
    }

    fn lose_unsynced(&self) {
        self.vfs.lose(&self.node);
    }
}

struct MemLock {
    node: Arc<Node>,
    exclusive: bool,
}

impl LockGuard for MemLock {}

impl fmt::Debug for MemLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemLock({})", self.node.id)
    }
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut holders = lock(&self.node.holders);
        *holders -= if self.exclusive { -1 } else { 1 };
    }
}

#[cfg(test)]
#[path = "mem_tests.rs"]
mod tests;
