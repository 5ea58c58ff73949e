//! The commit path: from a validated write to one that is visible and as durable as asked.
//!
//! Under one lock a write takes its sequence numbers, is appended to the log and inserted into the
//! active list. Nothing of it can be seen yet: readers read at the *visible* sequence number, which
//! moves in commit order only. A Buffered write moves it at once, unless a Sync write before it is
//! not on disk yet; a Sync write waits for the log to be synced up to its end.
//!
//! ```text
//! appended    #1 sync  #2 buffered  #3 sync  #4 buffered
//! synced      #1
//! visible     #2 (it is behind no unsynced Sync write); #4 waits for #3
//! ```
//!
//! After a failed append or sync, or a panic in here, nothing is ever appended or made visible
//! again: the log's state is not known, and a second sync would prove nothing. Every waiting and
//! later write gets the cause.

mod group_sync;
mod newest;
mod segments;

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use terrace_base::{Clock, DeletedRange, Error, ErrorKind, KeyRef, Result, SeqNo, mutant};
use terrace_wal::{Log, Lsn, Room, SegmentMeta};

use crate::commit::checks::Checks;
use crate::commit::queue_bounds::Ends;
use crate::commit::snapshots::SnapshotList;
use crate::keyspace::state::KeyspaceState;
use crate::logging::{Plain, event};
use crate::memtable::{Form, ListWriter, MemRun, pin};
use crate::options::Durability;
use crate::read::dead_ranges::Stretches;
use crate::read::view::Views;
use crate::sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering, Rank, lock};
use crate::write::prepared::{Effect, Write};

/// What the commit path needs from the engine around it.
pub(crate) trait CommitEnv: fmt::Debug + Send + Sync {
    /// Makes a log segment of at least `min_size` bytes that the manifest lists under a fresh salt,
    /// durably; with the number of the manifest's last edit. Called without any lock of the commit
    /// path. `ahead`: no write waits for it, so it may take space on a disk that is full.
    fn make_segment(&self, min_size: u64, ahead: bool) -> Result<(SegmentMeta, u64)>;

    /// The log cannot take a segment that was made for it.
    fn return_segment(&self, segment: &SegmentMeta);
    /// Makes durable what entries of the log refer to in other files. Called before the log is
    /// synced.
    fn sync_blobs(&self) -> Result<()> {
        Ok(())
    }
    /// A list was sealed.
    fn list_sealed(&self);
    /// The log began its last segment, and has no spare one.
    fn spare_used(&self);
    /// A ticket or an interval waits for a sync by the log's thread.
    fn sync_due(&self);
    /// The database is read-only from now on.
    fn failed(&self, cause: &Error);
}

/// A write that is in the log and in the memtable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    pub(crate) last: SeqNo,
    pub(crate) end: Lsn,
    pub(crate) visible: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    first: SeqNo,
    end: Lsn,
}

struct State {
    log: Log,
    list: ListWriter,
    next_run: u64,
    appended: SeqNo,
    ends: Ends,
    /// Sync writes that are not on disk, in commit order.
    pending: VecDeque<Pending>,
    syncing: bool,
    /// Where the last write ends that returns before it is on disk.
    unsynced_end: Lsn,
    /// How many Sync writes the last sync served.
    last_group: usize,
    /// When the oldest write under `Interval` that no sync has begun to cover was appended.
    oldest_unsynced: Option<Duration>,
    /// Append time of the oldest write that the sync in flight covers.
    oldest_syncing: Option<Duration>,
    /// When such writes are due to be synced: the first that is half its interval old.
    sync_at: Option<Duration>,
    wakers: Vec<(SeqNo, Waker)>,
    /// Wakers whose ticket is done, to be called once the lock is free: they are the caller's code.
    woken: Vec<Waker>,
    failed: Option<Error>,
    /// The failure, to be logged once the lock is free: the logger is the caller's code.
    untold: Option<Error>,
    /// Writers wait: an ingest is being made a part of the database.
    gate_shut: bool,
    /// Why no write is taken although nothing failed: the database is closed, or was opened to be
    /// read only.
    refusal: Option<Error>,
}

/// The commit path.
pub(crate) struct Committer {
    state: Mutex<State>,
    /// Signalled when a sync has ended.
    synced: Condvar,
    /// Taken while a segment is being made, so that one is made and not one a writer.
    making_segment: Mutex<()>,
    visible: AtomicU64,
    /// Sync writes appended and not on disk: `State::pending.len()`, for the leader that gathers.
    waiting: AtomicU64,
    pub(crate) snapshots: SnapshotList,
    views: Arc<Views>,
    clock: Arc<dyn Clock>,
    list_entries: usize,
    list_bytes: usize,
    stretches: Arc<Stretches>,
    env: Arc<dyn CommitEnv>,
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Committer(visible {})", self.visible())
    }
}

/// What a commit path starts from.
pub(crate) struct CommitStart {
    pub(crate) log: Log,
    pub(crate) list: ListWriter,
    /// Everything up to here is visible; what is given out next lies above.
    pub(crate) last_seq: SeqNo,
    pub(crate) list_entries: usize,
    pub(crate) list_bytes: usize,
    /// Why no write is taken, if so.
    pub(crate) refusal: Option<Error>,
    pub(crate) stretches: Arc<Stretches>,
}

/// Turns a panic on the commit path into a database that refuses writes. It is made before the
/// state is locked, so that it goes after the lock.
struct PanicGuard<'a> {
    committer: &'a Committer,
    /// The thread unwinds already, from elsewhere: a handle is used, or dropped, on the way.
    unwinding: bool,
}

impl<'a> PanicGuard<'a> {
    fn new(committer: &'a Committer) -> PanicGuard<'a> {
        PanicGuard {
            committer,
            unwinding: std::thread::panicking(),
        }
    }
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.unwinding {
            let mut state = lock(&self.committer.state);
            state.syncing = false;
            let cause = Error::new(ErrorKind::Other, "a panic on the commit path");
            self.committer.fail_and_unlock(state, cause);
        }
    }
}

impl Committer {
    pub(crate) fn new(
        start: CommitStart,
        views: Arc<Views>,
        clock: Arc<dyn Clock>,
        env: Arc<dyn CommitEnv>,
    ) -> Committer {
        let state = State {
            log: start.log,
            list: start.list,
            next_run: 1,
            appended: start.last_seq,
            ends: Ends::default(),
            pending: VecDeque::new(),
            syncing: false,
            unsynced_end: Lsn(0),
            last_group: 0,
            oldest_unsynced: None,
            oldest_syncing: None,
            sync_at: None,
            wakers: Vec::new(),
            woken: Vec::new(),
            failed: None,
            gate_shut: false,
            untold: None,
            refusal: start.refusal,
        };
        Committer {
            state: Mutex::new(Rank::Commit, state),
            synced: Condvar::new(),
            making_segment: Mutex::new(Rank::MakingSegment, ()),
            visible: AtomicU64::new(start.last_seq.get()),
            waiting: AtomicU64::new(0),
            snapshots: SnapshotList::default(),
            views,
            clock,
            list_entries: start.list_entries,
            list_bytes: start.list_bytes,
            stretches: start.stretches,
            env,
        }
    }

    /// Everything at or below is visible.
    #[inline]
    pub(crate) fn visible(&self) -> SeqNo {
        SeqNo::new(self.visible.load(Ordering::Acquire))
    }

    pub(crate) fn visible_cell(&self) -> &AtomicU64 {
        &self.visible
    }

    /// Commits and waits until the write is visible and as durable as asked; its last sequence
    /// number.
    #[inline]
    pub(crate) fn commit(
        &self,
        write: &Write<'_>,
        durability: Durability,
        keyspaces: &[Arc<KeyspaceState>],
    ) -> Result<SeqNo> {
        let receipt = self.append(write, durability, keyspaces, &mut |_| {})?;
        if !receipt.visible {
            self.wait_visible(receipt.last)?;
        }
        Ok(receipt.last)
    }

    /// Appends to the log and inserts into the memtable; `appended` runs under the lock with the
    /// last sequence number. The write becomes visible by itself once it is as durable as asked.
    pub(crate) fn append(
        &self,
        write: &Write<'_>,
        durability: Durability,
        keyspaces: &[Arc<KeyspaceState>],
        appended: &mut dyn FnMut(SeqNo),
    ) -> Result<Receipt> {
        let receipt = self.append_if(write, durability, keyspaces, None, appended)?;
        receipt.ok_or_else(|| Error::bug("a write without checks was refused by one"))
    }

    /// Appends a write if `checks` hold; `None` if they do not, and nothing is written then.
    pub(crate) fn append_if(
        &self,
        write: &Write<'_>,
        durability: Durability,
        keyspaces: &[Arc<KeyspaceState>],
        checks: Option<&Checks<'_>>,
        appended: &mut dyn FnMut(SeqNo),
    ) -> Result<Option<Receipt>> {
        let _guard = PanicGuard::new(self);
        let mut state = lock(&self.state);
        loop {
            state.check()?;
            if state.gate_shut {
                state = wait(&self.synced, state);
                continue;
            }
            for keyspace in keyspaces {
                keyspace.check_alive()?;
            }
            match state.log.room_for(write.len) {
                Room::Fits => break,
                Room::NeedsSegment { min_size } => {
                    drop(state);
                    self.make_segment(min_size, write.len)?;
                    state = lock(&self.state);
                }
            }
        }
        if let Some(checks) = checks {
            let appended = state.appended;
            if !checks.hold(&self.views.cell.load(), appended, &mut state.ends)? {
                return Ok(None);
            }
            if checks.proof.is_some() {
                self.stretches.keep_asking(); // For the end that was noted.
            }
        }
        let had_spare = state.log.has_spare();
        let first = state.appended.plus(1);
        let last = state.appended.plus(u64::from(write.count));
        if last == SeqNo::MAX {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "the sequence numbers are used up",
            ));
        }
        if write.range_deletes > 0 && write.hides_many(state.list.list())? {
            self.seal_locked(&mut state);
        }
        if mutant("visible-before-appended") {
            self.visible.store(last.get(), Ordering::Release);
        }
        let end = match state.log.append(write.count, first, write.parts) {
            Ok(end) => end,
            Err(error) if mutant("go-on-after-append") => return Err(error),
            Err(error) => return Err(self.fail_and_unlock(state, error)),
        };
        debug_assert!(last >= first, "a write without operations");
        debug_assert!(
            state.log.end() == end,
            "the log ends elsewhere than it said"
        );
        state.appended = last;
        if mutant("seal-mid-frame") && state.list.list().len() > 2 {
            self.seal_locked(&mut state);
        }
        let pin = pin();
        let asked = self.stretches.ask();
        let State { list, ends, .. } = &mut *state;
        let inserted = write.for_each(first, |seq, effect| match effect {
            Effect::Entry(entry) => {
                let key = KeyRef::new(entry.user, seq, entry.kind);
                list.insert(key, entry.hash, entry.value, &pin);
                if asked {
                    ends.wrote(entry.user, entry.kind);
                    self.stretches.wrote(entry.user, seq, entry.kind);
                }
            }
            Effect::DeletedRange { lower, upper } => list.delete_range(DeletedRange {
                keyspace: lower.keyspace,
                lower: lower.bytes.into(),
                upper: upper.map(Into::into),
                seq,
            }),
        });
        drop(pin);
        if let Err(error) = inserted {
            // Our own payload does not decode: stop.
            return Err(self.fail_and_unlock(state, error));
        }
        appended(last);
        if durability != Durability::Sync {
            state.unsynced_end = end;
        }
        match durability {
            Durability::Sync if mutant("ack-before-sync") => {}
            Durability::Sync => {
                state.pending.push_back(Pending { first, end });
                self.waiting
                    .store(state.pending.len() as u64, Ordering::Relaxed);
            }
            Durability::Interval(longest) => {
                let now = self.clock.monotonic();
                state.oldest_unsynced.get_or_insert(now);
                let due = now.saturating_add(longest / 2);
                if state.sync_at.is_none_or(|known| due < known) {
                    state.sync_at = Some(due);
                    self.env.sync_due();
                }
            }
            Durability::Buffered => {}
        }
        if state.list.is_full(self.list_entries) {
            self.seal_locked(&mut state);
        }
        self.publish(&mut state);
        if had_spare && !state.log.has_spare() {
            self.env.spare_used();
        }
        if let Durability::Interval(longest) = durability {
            self.wait_while_too_old(state, longest)?;
        }
        Ok(Some(Receipt {
            last,
            end,
            visible: self.visible() >= last,
        }))
    }

    /// Moves the visible sequence number as far as durability allows, and wakes who waited for it.
    fn publish(&self, state: &mut State) {
        let upto = match state.pending.front() {
            Some(first) if mutant("half-batch") => first.first,
            Some(first) => SeqNo::new(first.first.get() - 1),
            None => state.appended,
        };
        debug_assert!(upto <= state.appended, "visible before it is appended");
        if upto.get() > self.visible.load(Ordering::Relaxed) {
            self.visible.store(upto.get(), Ordering::Release);
        }
        if !state.wakers.is_empty() && !mutant("lost-wakeup") {
            let visible = self.visible();
            let done = state.wakers.extract_if(.., |(seq, _)| *seq <= visible);
            state.woken.extend(done.map(|(_, waker)| waker));
        }
    }

    /// No write happens from now on; the error that writers see.
    fn fail(&self, state: &mut State, cause: Error) -> Error {
        if state.failed.is_none() {
            state.failed = Some(cause.clone());
            state.untold = Some(cause.clone());
            self.env.failed(&cause);
        }
        let waiting = state.wakers.drain(..).map(|(_, waker)| waker);
        state.woken.extend(waiting);
        self.synced.notify_all();
        read_only(state.failed.as_ref().unwrap_or(&cause))
    }

    fn fail_and_unlock(&self, mut state: MutexGuard<'_, State>, cause: Error) -> Error {
        let error = self.fail(&mut state, cause);
        unlock(state);
        error
    }

    /// Stops all writes because of a failure elsewhere: the manifest, or a job that panicked.
    pub(crate) fn poison(&self, cause: Error) {
        self.fail_and_unlock(lock(&self.state), cause);
    }

    /// Why writes that returned may not be on disk: the log failed before it was synced up to them.
    pub(crate) fn loss(&self) -> Option<Error> {
        let state = lock(&self.state);
        let unsynced = state.unsynced_end > state.log.synced();
        state.failed.as_ref().filter(|_| unsynced).map(read_only)
    }

    /// Why writes fail, if they do.
    pub(crate) fn failure(&self) -> Option<Error> {
        lock(&self.state).failed.as_ref().map(read_only)
    }

    /// Everything up to `seq` is given out and visible. REQUIRES: the gate is shut, everything
    /// appended is visible, and a durable edit says that tables hold it.
    pub(crate) fn advance(&self, seq: SeqNo) {
        let mut state = lock(&self.state);
        debug_assert!(state.gate_shut, "numbers advance while writers may append");
        state.appended = state.appended.max(seq);
        state.ends = Ends::default(); // What came alive did not pass here.
        self.stretches.forget();
        self.publish(&mut state);
    }

    fn seal_locked(&self, state: &mut State) {
        let sealed = std::mem::replace(&mut state.list, ListWriter::new(self.list_bytes));
        let run = MemRun {
            id: state.next_run,
            entries: sealed.list().len() as u64,
            bytes: sealed.bytes() as u64,
            last_seq: state.appended,
            end_lsn: state.log.end(),
            ranges: sealed.list().ranges(),
            form: Form::List(sealed.list().clone()),
        };
        state.next_run += 1;
        let active = state.list.list().clone();
        self.views.install(|view| {
            view.active = active;
            let newest = usize::from(mutant("wrong-run-order")).min(view.sealed.len());
            view.sealed.insert(newest, Arc::new(run));
        });
        self.env.list_sealed();
    }

    /// Seals the active list if it holds anything, so that a flush can take it.
    pub(crate) fn seal(&self) {
        let _guard = PanicGuard::new(self);
        let mut state = lock(&self.state);
        if !state.list.list().is_empty() && state.failed.is_none() {
            self.seal_locked(&mut state);
        }
    }

    /// Begins a new active list: the one before holds nothing that is appended later.
    pub(crate) fn begin_list(&self) {
        let _guard = PanicGuard::new(self);
        let mut state = lock(&self.state);
        if !state.list.list().is_empty() {
            return self.seal_locked(&mut state);
        }
        state.list = ListWriter::new(self.list_bytes);
        let active = state.list.list().clone();
        self.views.install(|view| view.active = active);
    }

    /// A name for a merged piece of the memtable.
    pub(crate) fn next_run(&self) -> u64 {
        let mut state = lock(&self.state);
        state.next_run += 1;
        state.next_run - 1
    }
}

/// Keeps writers waiting.
#[derive(Debug)]
pub(crate) struct Gate<'a>(&'a Committer);

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).gate_shut = false;
        self.0.synced.notify_all();
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state)
}

impl State {
    #[inline]
    fn check(&self) -> Result<()> {
        match (&self.refusal, &self.failed) {
            (None, None) => Ok(()),
            (Some(refusal), _) => Err(refusal.clone()),
            (None, Some(cause)) => Err(read_only(cause)),
        }
    }
}

/// The error of every call after `close`.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the database is closed")
}

/// The error of every write to a database that was opened read-only.
pub(crate) fn opened_read_only() -> Error {
    Error::new(ErrorKind::ReadOnly, "the database was opened read-only")
}

/// Frees the lock, and then calls the wakers of the tickets that are done, and tells of a failure.
fn unlock(mut state: MutexGuard<'_, State>) {
    let woken = std::mem::take(&mut state.woken);
    let untold = state.untold.take();
    drop(state);
    if let Some(cause) = untold {
        event!(
            error,
            "a failure, and no writes from now on: {}",
            Plain(&cause)
        );
    }
    for waker in woken {
        if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
            // The caller's own panic, reported where it happened: it is no failure of the write.
        }
    }
}

/// The error of every write after `cause`.
fn read_only(cause: &Error) -> Error {
    match cause.kind() {
        ErrorKind::ReadOnly => cause.clone(),
        _ => cause.clone().wrap(
            ErrorKind::ReadOnly,
            "the database takes no writes since a failure; mend its cause and reopen",
        ),
    }
}

#[cfg(test)]
#[path = "committer_tests.rs"]
mod tests;
