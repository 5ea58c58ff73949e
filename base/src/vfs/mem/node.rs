//! One file: its bytes, what of them is on the disk, and who holds its lock.
//!
//! A *plain* file is a byte vector. A *tracked* file knows three things: the bytes that a reader
//! sees, the bytes that are durable, and the stores in between, oldest first. While no sync has
//! failed, `visible = durable + pending`; a failed sync forgets pending stores, as a kernel marks
//! pages clean that it could not write, and from then on bytes may be visible that no later sync
//! makes durable.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

use super::crash::{CrashPolicy, cut_file};
use super::pages::Pages;
use super::random::Random;

/// No file is longer: a wild offset is an error, not an attempt to allocate it.
const MAX_LEN: u64 = 1 << 40;

/// A lock that stays usable after a panic elsewhere: what it guards is consistent between
/// statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file, whatever its names.
pub(super) struct Node {
    /// Number of the file, in every image too.
    pub(super) id: u64,
    /// How many visible names it has.
    pub(super) links: AtomicU64,
    /// -1: held exclusively; else how many hold it shared.
    pub(super) holders: Mutex<i64>,
    content: Content,
}

enum Content {
    Plain(RwLock<Plain>),
    Tracked(Mutex<Tracked>),
}

#[derive(Default)]
struct Plain {
    open: Vec<u8>,
    /// The bytes, and `open` is empty, since the file was mapped. A later write makes them `open`
    /// again, by a copy if a map is alive.
    sealed: Option<Bytes>,
}

impl Plain {
    fn bytes(&self) -> &[u8] {
        self.sealed.as_deref().unwrap_or(&self.open)
    }

    fn open(&mut self) -> &mut Vec<u8> {
        if let Some(bytes) = self.sealed.take() {
            self.open = Vec::from(bytes);
        }
        &mut self.open
    }

    fn seal(&mut self) -> &Bytes {
        let open = &mut self.open;
        self.sealed
            .get_or_insert_with(|| Bytes::from(std::mem::take(open)))
    }

    fn replace(&mut self, bytes: &[u8]) {
        *self = Plain {
            open: bytes.to_vec(),
            sealed: None,
        };
    }

    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        let bytes = self.open();
        let at = offset as usize; // Below `MAX_LEN`.
        let end = at + buf.len();
        if end > bytes.len() {
            bytes.try_reserve(end - bytes.len())?;
            bytes.resize(at.max(bytes.len()), 0);
        }
        let overwritten = buf.len().min(bytes.len() - at);
        let (old, new) = buf.split_at(overwritten);
        bytes[at..at + overwritten].copy_from_slice(old);
        bytes.extend_from_slice(new);
        Ok(())
    }
}

/// A change of a file that is not durable yet.
#[derive(Clone)]
pub(super) struct Store {
    /// The number of the mutating call that made it.
    pub(super) number: u64,
    pub(super) what: Change,
}

#[derive(Clone)]
pub(super) enum Change {
    Write { offset: u64, bytes: Bytes },
    Truncate,
}

/// The persistence state of a file.
#[derive(Clone, Default)]
pub(super) struct Tracked {
    pub(super) visible: Pages,
    pub(super) durable: Pages,
    pub(super) pending: Vec<Store>,
    /// A failed sync has forgotten stores: `visible` may hold what `durable + pending` does not.
    pub(super) forgotten: bool,
}

impl Tracked {
    /// A file that is on the disk as it is.
    pub(super) fn durable(pages: Pages) -> Tracked {
        Tracked {
            visible: pages.clone(),
            durable: pages,
            pending: Vec::new(),
            forgotten: false,
        }
    }

    /// Writes down what is durable and what is not, for a hash.
    pub(super) fn describe(&self, text: &mut Vec<u8>) {
        text.push(u8::from(self.forgotten));
        text.extend_from_slice(&self.durable.hash().to_le_bytes());
        for store in &self.pending {
            let (offset, len) = match &store.what {
                Change::Write { offset, bytes } => (*offset, bytes.len() as u64),
                Change::Truncate => (u64::MAX, 0),
            };
            text.extend_from_slice(&offset.to_le_bytes());
            text.extend_from_slice(&len.to_le_bytes());
        }
    }

    fn write_at(&mut self, buf: &[u8], offset: u64, number: u64) {
        self.visible.write_at(buf, offset);
        let bytes = Bytes::copy_from_slice(buf);
        let what = Change::Write { offset, bytes };
        self.pending.push(Store { number, what });
    }

    fn truncate(&mut self, number: u64) {
        self.visible = Pages::default();
        let what = Change::Truncate;
        self.pending.push(Store { number, what });
    }

    fn sync(&mut self) {
        for store in std::mem::take(&mut self.pending) {
            match store.what {
                Change::Truncate => self.durable = Pages::default(),
                Change::Write { offset, bytes } if self.forgotten => {
                    self.durable.write_at(&bytes, offset);
                }
                // The page is shared, not copied. A file truncated since then may be shorter.
                Change::Write { offset, bytes } => {
                    let end = self.visible.len().saturating_sub(offset);
                    let len = end.min(bytes.len() as u64) as usize;
                    self.durable.adopt(&self.visible, offset, len);
                }
            }
        }
    }

    fn lose(&mut self, random: &mut Random) {
        if self.pending.is_empty() {
            return;
        }
        let policy = match random.below(3) {
            0 => CrashPolicy::DropAll,
            1 => CrashPolicy::KeepAll,
            _ => CrashPolicy::RandomBlocks,
        };
        self.durable = cut_file(self, policy, u64::MAX, random);
        self.pending.clear();
        self.forgotten = true;
    }
}

impl Node {
    pub(super) fn plain(id: u64) -> Node {
        Node::new(id, Content::Plain(RwLock::default()))
    }

    pub(super) fn tracked(id: u64, tracked: Tracked) -> Node {
        Node::new(id, Content::Tracked(Mutex::new(tracked)))
    }

    fn new(id: u64, content: Content) -> Node {
        Node {
            id,
            links: AtomicU64::new(0),
            holders: Mutex::new(0),
            content,
        }
    }

    /// Reads through `read`, which gets the bytes of a plain or the pages of a tracked file.
    fn look<T>(&self, plain: impl FnOnce(&[u8]) -> T, tracked: impl FnOnce(&Tracked) -> T) -> T {
        match &self.content {
            Content::Plain(file) => {
                plain(file.read().unwrap_or_else(PoisonError::into_inner).bytes())
            }
            Content::Tracked(file) => tracked(&lock(file)),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.look(|bytes| bytes.len() as u64, |file| file.visible.len())
    }

    pub(super) fn hash(&self) -> u64 {
        self.look(
            |bytes| Pages::from_bytes(bytes).hash(),
            |file| file.visible.hash(),
        )
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.look(<[u8]>::to_vec, |file| file.visible.to_vec(u64::MAX))
    }

    /// The persistence state; a plain file counts as durable.
    pub(super) fn state<T>(&self, look: impl FnOnce(&Tracked) -> T) -> T {
        match &self.content {
            Content::Tracked(file) => look(&lock(file)),
            Content::Plain(_) => look(&Tracked::durable(Pages::from_bytes(&self.to_vec()))),
        }
    }

    pub(super) fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset > i64::MAX as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match &self.content {
            Content::Plain(file) => {
                let file = file.read().unwrap_or_else(PoisonError::into_inner);
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let bytes = file.bytes().get(from..).unwrap_or_default();
                let n = buf.len().min(bytes.len());
                buf[..n].copy_from_slice(&bytes[..n]);
                Ok(n)
            }
            Content::Tracked(file) => Ok(lock(file).visible.read_at(buf, offset)),
        }
    }

    pub(super) fn write_at(&self, buf: &[u8], offset: u64, number: u64) -> io::Result<usize> {
        if offset > i64::MAX as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if offset + buf.len() as u64 > MAX_LEN {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if buf.is_empty() {
            return Ok(0);
        }
        match &self.content {
            Content::Plain(file) => {
                let mut file = file.write().unwrap_or_else(PoisonError::into_inner);
                file.write_at(buf, offset)?;
            }
            Content::Tracked(file) => lock(file).write_at(buf, offset, number),
        }
        Ok(buf.len())
    }

    pub(super) fn truncate(&self, number: u64) {
        match &self.content {
            Content::Plain(file) => {
                file.write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .replace(&[]);
            }
            Content::Tracked(file) => lock(file).truncate(number),
        }
    }

    /// Puts `bytes` in place of the content, durably.
    pub(super) fn replace(&self, bytes: &[u8]) {
        match &self.content {
            Content::Plain(file) => {
                file.write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .replace(bytes);
            }
            Content::Tracked(file) => *lock(file) = Tracked::durable(Pages::from_bytes(bytes)),
        }
    }

    pub(super) fn sync(&self) {
        if let Content::Tracked(file) = &self.content {
            lock(file).sync();
        }
    }

    /// Forgets what is not durable, as a kernel does after a failed sync.
    pub(super) fn lose(&self, random: &mut Random) {
        if let Content::Tracked(file) = &self.content {
            lock(file).lose(random);
        }
    }

    pub(super) fn map(&self, len: u64) -> io::Result<Bytes> {
        let actual = self.len();
        if actual < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file has {actual} bytes where {len} are to be mapped"),
            ));
        }
        if len == 0 {
            return Ok(Bytes::new());
        }
        match &self.content {
            Content::Plain(file) => {
                let mut file = file.write().unwrap_or_else(PoisonError::into_inner);
                let bytes = file.seal();
                Ok(bytes.slice(..bytes.len().min(len as usize)))
            }
            Content::Tracked(file) => Ok(lock(file).visible.to_vec(len).into()),
        }
    }
}
