//! Snapshots: the database at one moment.

use std::fmt;
use std::sync::Arc;

use terrace_base::{Error, SeqNo};

use crate::db::Handle;
use crate::db::keyspace::Keyspace;
use crate::db::readable::Reader;
use crate::keyspace::state::KeyspaceState;
use crate::read::context::ReadPoint;

/// The whole database at one moment, looking at one keyspace. Cheap to clone; keeps the database
/// open, and keeps compaction from dropping what it sees, so drop it when done.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// let db = terrace::Db::in_memory()?;
/// db.put("k", "old")?;
/// let before = db.snapshot();
/// db.put("k", "new")?;
/// assert_eq!(before.get("k")?.unwrap(), "old");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Snapshot {
    moment: Arc<Moment>,
    keyspace: Arc<KeyspaceState>,
    /// The keyspace asked for is of another database: every read says so.
    wrong: Option<Error>,
}

/// A registered read point.
struct Moment {
    handle: Arc<Handle>,
    at: ReadPoint,
}

impl Drop for Moment {
    fn drop(&mut self) {
        self.handle
            .engine()
            .committer
            .snapshots
            .release(self.at.seq);
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Snapshot({:?} at {:?})",
            self.keyspace.name(),
            self.moment.at.seq
        )
    }
}

impl Snapshot {
    pub(crate) fn new(keyspace: &Keyspace) -> Snapshot {
        let handle = keyspace.handle.clone();
        let engine = handle.engine();
        let visible = engine.committer.visible_cell();
        let now = || engine.context.now();
        let (seq, time) = engine.committer.snapshots.register(visible, now);
        let at = ReadPoint {
            seq,
            now: Some(time),
        };
        Snapshot {
            moment: Arc::new(Moment { handle, at }),
            keyspace: keyspace.state().clone(),
            wrong: None,
        }
    }

    /// A snapshot of `keyspace` at the moment of this one. If `keyspace` belongs to another
    /// database, every read is `Invalid`.
    pub fn keyspace(&self, keyspace: &Keyspace) -> Snapshot {
        let engine = self.moment.handle.engine();
        let wrong = (keyspace.state().owner != engine.id).then(|| {
            Error::invalid(format!(
                "keyspace `{}` is of another database",
                keyspace.name()
            ))
        });
        Snapshot {
            moment: self.moment.clone(),
            keyspace: keyspace.state().clone(),
            wrong,
        }
    }

    /// The last sequence number that it sees.
    pub fn seq(&self) -> SeqNo {
        self.moment.at.seq
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.moment.handle
    }

    /// The keyspace that it looks at; `None` if that is of another database.
    pub(crate) fn state(&self) -> Option<&Arc<KeyspaceState>> {
        self.wrong.is_none().then_some(&self.keyspace)
    }

    #[inline]
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader {
            engine: self.moment.handle.engine(),
            keyspace: &self.keyspace,
            at: Some(self.moment.at),
            wrong: self.wrong.as_ref(),
        }
    }
}
