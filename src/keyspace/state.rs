//! What all handles of a keyspace share: its id, its names, its options

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use terrace_base::clock::millis;
use terrace_base::{Error, ErrorKind, KeyspaceId, Result, SeqNo};

use crate::options::keyspace::KeyspaceOptions;
use crate::sync::{Mutex, Rank, lock};

/// Longest name of a keyspace in bytes.
pub const MAX_KEYSPACE_NAME_LEN: usize = 255;

/// Name of the keyspace that a [`Db`] itself is.
pub(crate) const DEFAULT_NAME: &str = "default";

/// The names that a keyspace has had since the open. Handles lend out the last of them, so those
/// before stay.
#[derive(Debug)]
struct Names {
    name: String,
    next: OnceLock<Box<Names>>,
}

impl Names {
    fn last(&self) -> &Names {
        let mut last = self;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // One by one: a long row must not go by recursion.
        let mut next = self.next.take();
        while let Some(mut names) = next {
            next = names.next.take();
        }
    }
}

/// What all handles of a keyspace share.
#[derive(Debug)]
pub(crate) struct KeyspaceState {
    pub(crate) id: KeyspaceId,
    names: Names,
    /// Which open database it belongs to.
    pub(crate) owner: u64,
    /// Sequence number at which it was dropped; 0 while it lives.
    dropped: AtomicU64,
    options: Mutex<KeyspaceOptions>,
    /// Milliseconds after which plain puts expire; `u64::MAX` is never.
    expiry: AtomicU64,
    /// It may hold an entry that expires, as far as the tables, the log and the writes since say.
    expiring: AtomicBool,
}

impl KeyspaceState {
    pub(crate) fn new(
        owner: u64,
        id: KeyspaceId,
        name: &str,
        options: KeyspaceOptions,
    ) -> Arc<KeyspaceState> {
        let state = KeyspaceState {
            id,
            names: Names {
                name: name.into(),
                next: OnceLock::new(),
            },
            owner,
            dropped: AtomicU64::new(0),
            options: Mutex::new(Rank::KeyspaceOptions, KeyspaceOptions::default()),
            expiry: AtomicU64::new(u64::MAX),
            expiring: AtomicBool::new(false),
        };
        state.set_options(options);
        Arc::new(state)
    }

    pub(crate) fn name(&self) -> &str {
        &self.names.last().name
    }

    /// REQUIRES: one rename at a time.
    pub(super) fn rename(&self, name: &str) {
        self.names.last().next.get_or_init(|| {
            Box::new(Names {
                name: name.into(),
                next: OnceLock::new(),
            })
        });
    }

    pub(crate) fn options(&self) -> KeyspaceOptions {
        lock(&self.options).clone()
    }

    pub(super) fn set_options(&self, options: KeyspaceOptions) {
        let expiry = options.expiry.map_or(u64::MAX, millis);
        *lock(&self.options) = options;
        self.expiry.store(expiry, Ordering::Release);
    }

    /// Milliseconds after which plain puts expire.
    #[inline]
    pub(crate) fn expiry(&self) -> Option<u64> {
        match self.expiry.load(Ordering::Relaxed) {
            u64::MAX => None,
            time => Some(time),
        }
    }

    /// Notes that it gets an entry that expires: before that is appended, or while the database is
    /// opened.
    pub(crate) fn note_expiring(&self) {
        self.expiring.store(true, Ordering::Release);
    }

    /// True if it may hold an entry that expires, or has a default expiry. Then a merge reads; see
    /// [`crate::write::expiry`].
    #[inline]
    pub(crate) fn may_expire(&self) -> bool {
        self.expiry().is_some() || self.expiring.load(Ordering::Acquire)
    }

    /// `NotFound` once it has been dropped.
    #[inline]
    pub(crate) fn check_alive(&self) -> Result<()> {
        match self.dropped.load(Ordering::Acquire) {
            0 => Ok(()),
            _ => Err(self.gone()),
        }
    }

    /// `NotFound` if it had been dropped by `at`.
    #[inline]
    pub(crate) fn check_alive_at(&self, at: SeqNo) -> Result<()> {
        match self.dropped.load(Ordering::Acquire) {
            0 => Ok(()),
            seq if at.get() < seq => Ok(()),
            _ => Err(self.gone()),
        }
    }

    #[cold]
    fn gone(&self) -> Error {
        Error::new(
            ErrorKind::NotFound,
            format!("keyspace `{}` was dropped", self.name()),
        )
    }

    pub(crate) fn set_dropped(&self, at: SeqNo) {
        self.dropped.store(at.get().max(1), Ordering::Release);
    }
}

/// `Invalid` unless `name` may name a keyspace: any UTF-8 of 1 to 255 bytes.
pub(crate) fn check_name(name: &str) -> Result<()> {
    match name.len() {
        1..=MAX_KEYSPACE_NAME_LEN => Ok(()),
        len => Err(Error::invalid(format!(
            "the keyspace's name has {len} bytes; 1 to {MAX_KEYSPACE_NAME_LEN} are allowed"
        ))),
    }
}
