//! The newest appended state: what a decision rests on, before it is published

use std::sync::Arc;

use terrace_base::{KeyspaceId, SeqNo};
use terrace_wal::Lsn;

use crate::commit::committer::Committer;
use crate::commit::queue_bounds::Side;
use crate::commit::snapshots::ReadPin;
use crate::read::view::View;
use crate::sync::{lock, try_lock};

impl Committer {
    /// The newest appended state, published or not: a view, and the sequence number to read it at.
    /// Nothing that a reader there may see is missing from the view; what becomes of it later, only
    /// [`Checks`] tell.
    pub(crate) fn newest(&self) -> (Arc<View>, SeqNo) {
        let state = lock(&self.state);
        (self.views.cell.load_full(), state.appended)
    }

    /// The newest appended state as [`Committer::newest`] gives it, and a guard that keeps what is
    /// deleted above it: for a decision that was overtaken by jobs more than once.
    pub(crate) fn newest_pinned(&self) -> (Arc<View>, SeqNo, ReadPin<'_>) {
        let state = lock(&self.state);
        let pin = ReadPin::new(&self.snapshots, state.appended);
        (self.views.cell.load_full(), state.appended, pin)
    }

    /// The newest appended state as [`Committer::newest`] gives it, with the key beyond which
    /// nothing is alive at one end of a keyspace, if that is known.
    pub(crate) fn newest_end(
        &self,
        keyspace: KeyspaceId,
        side: Side,
        pins: bool,
    ) -> (Arc<View>, SeqNo, Option<Vec<u8>>, Option<ReadPin<'_>>) {
        let mut state = lock(&self.state);
        self.stretches.watch(state.appended);
        let end = state.ends.get(keyspace, side);
        let pin = pins.then(|| ReadPin::new(&self.snapshots, state.appended));
        (self.views.cell.load_full(), state.appended, end, pin)
    }

    /// Begins to watch the stretches that wait for it, unless a write is under way, which does so
    /// itself.
    #[cold]
    pub(crate) fn watch_stretches(&self) {
        if let Some(state) = try_lock(&self.state) {
            self.stretches.watch(state.appended);
        }
    }

    /// Where the log ends, and the last sequence number given out.
    pub(crate) fn end(&self) -> (Lsn, SeqNo) {
        let state = lock(&self.state);
        (state.log.end(), state.appended)
    }

    /// Where the log ends, if everything in it is in sealed pieces of which `newest` names the
    /// newest (`None`: there is none): what a flush of them covers. Changes of the catalogue may
    /// lie after the last entry.
    pub(crate) fn boundary(&self, newest: Option<u64>) -> Option<(Lsn, SeqNo)> {
        let state = lock(&self.state);
        let sealed = self.views.cell.load().sealed.first().map(|run| run.id);
        let whole = state.list.list().is_empty() && sealed == newest;
        (whole && self.visible() >= state.appended).then(|| (state.log.end(), state.appended))
    }

    /// Bytes of the active list.
    pub(crate) fn active_bytes(&self) -> u64 {
        let state = lock(&self.state);
        if state.list.list().is_empty() {
            0
        } else {
            state.list.bytes() as u64
        }
    }
}
