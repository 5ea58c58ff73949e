//! A database and its model side by side.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use terrace::{
    Batch, Db, Durability, ErrorKind, Keyspace, KeyspaceOptions, SeqNo, Snapshot, Ticket,
};

use crate::model::{Change, Commit, Model, State};
use crate::op::{How, Op, Write};
use crate::oracle::Oracle;
use crate::reads::{self, KeptCursor, KeptIter};
use crate::scenario::Scenario;
use crate::ticket::block_on;
use crate::{KEYSPACES, Outcome};

/// How far the commits have come: what a crash at this moment may and must leave. A hook of the file system
/// may read it while an operation runs.
#[derive(Debug, Default)]
pub struct Progress {
    begun: AtomicUsize,
    returned: AtomicUsize,
    durable: AtomicUsize,
}

impl Progress {
    /// Commits handed to the database: no more may be found.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    /// Commits that returned: those survive the death of the process.
    pub fn returned(&self) -> usize {
        self.returned.load(Ordering::SeqCst)
    }

    /// Commits acknowledged as durable: those survive a power cut.
    pub fn durable(&self) -> usize {
        self.durable.load(Ordering::SeqCst)
    }
}

struct Kept {
    snapshot: Snapshot,
    state: State,
    handles: BTreeMap<String, Keyspace>,
}

/// A database and its model side by side.
pub struct Runner {
    scenario: Scenario,
    db: Option<Db>,
    /// The durability that the open database has by default.
    default_durability: Durability,
    model: Model,
    progress: Arc<Progress>,
    handles: BTreeMap<String, Keyspace>,
    /// Handles of keyspaces that were dropped.
    stale: Vec<Keyspace>,
    snapshots: Vec<Kept>,
    iters: Vec<KeptIter>,
    cursors: Vec<KeptCursor>,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runner({:?}, {} commits)", self.db, self.model.len())
    }
}

fn failed<T>(what: &str, result: terrace::Result<T>) -> Outcome<T> {
    result.map_err(|error| format!("{what} failed: {error:?}"))
}

fn name_of(keyspace: usize) -> &'static str {
    KEYSPACES
        .get(keyspace % KEYSPACES.len())
        .copied()
        .unwrap_or("default")
}

impl Runner {
    /// Opens a database, which must be new, with options that follow from `seed`.
    ///
    /// # Errors
    /// The database's.
    pub fn new(scenario: Scenario, seed: u64) -> Outcome<Runner> {
        let mut runner = Runner {
            scenario,
            db: None,
            default_durability: Durability::Sync,
            model: Model::new(),
            progress: Arc::default(),
            handles: BTreeMap::new(),
            stale: Vec::new(),
            snapshots: Vec::new(),
            iters: Vec::new(),
            cursors: Vec::new(),
        };
        runner.open(seed)?;
        Ok(runner)
    }

    fn open(&mut self, seed: u64) -> Outcome {
        let db = failed("open", self.scenario.open(seed))?;
        self.default_durability = self.scenario.durability(seed);
        self.handles.insert(name_of(0).into(), Keyspace::clone(&db));
        self.db = Some(db);
        Ok(())
    }

    /// The database.
    ///
    /// # Errors
    /// If it is not open.
    pub fn db(&self) -> Outcome<&Db> {
        self.db
            .as_ref()
            .ok_or_else(|| "the database is not open".into())
    }

    /// What it must hold.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How far the commits have come.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Does all of them.
    ///
    /// # Errors
    /// That of the first that fails or answers wrongly, with its number.
    pub fn run(&mut self, ops: impl IntoIterator<Item = Op>) -> Outcome {
        for (i, op) in ops.into_iter().enumerate() {
            self.apply(&op).map_err(|error| {
                let op = crate::oracle::brief(&op);
                format!("operation {i}, {op}: {error}")
            })?;
        }
        Ok(())
    }

    /// Does one operation and compares what it answers.
    ///
    /// # Errors
    /// The database's, and differences from the model.
    pub fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::One(write) => self.one(write),
            Op::Batch(writes, durability, how) => self.batch(writes, *durability, *how),
            Op::CreateKeyspace(n) => self.create(name_of(*n)),
            Op::DropKeyspace(n) => self.drop_keyspace(name_of(*n)),
            Op::Read(n, read) => match self.handles.get(name_of(*n)) {
                Some(keyspace) => {
                    reads::check(keyspace, &self.model.now().map(keyspace.name()), read)
                }
                None => self.stale_handles(),
            },
            Op::TakeSnapshot => self.take_snapshot(),
            Op::ReadSnapshot(at, n, read) => match pick(&self.snapshots, *at) {
                Some(kept) => kept.look(name_of(*n), |snapshot, map| {
                    reads::check(snapshot, map, read)
                }),
                None => Ok(()),
            },
            Op::CheckSnapshot(at) => pick(&self.snapshots, *at).map_or(Ok(()), Kept::check),
            Op::DropSnapshot(at) => {
                take(&mut self.snapshots, *at);
                Ok(())
            }
            Op::KeepIter(..) | Op::StepIter(..) | Op::KeepCursor(_) | Op::MoveCursor(..) => {
                self.kept(op)
            }
            Op::Flush => failed("flush", self.db()?.flush()).map(|()| self.all_durable()),
            Op::Compact(n, range) => match self.handles.get(name_of(*n)) {
                Some(keyspace) => {
                    failed("compact", keyspace.compact(range)).map(|()| self.all_durable())
                }
                None => Ok(()),
            },
            Op::CompactAll => {
                failed("compact_all", self.db()?.compact_all()).map(|()| self.all_durable())
            }
            Op::WaitIdle => {
                failed("wait_idle", self.db()?.wait_idle()).map(|()| self.all_durable())
            }
            Op::Sync => failed("sync", self.db()?.sync()).map(|()| self.all_durable()),
            Op::Check => self.check(),
            Op::Reopen(seed) => self.reopen(*seed),
        }
    }

    fn all_durable(&self) {
        let all = self.model.len();
        self.progress.durable.store(all, Ordering::SeqCst);
    }

    /// Notes a commit that is about to be handed over.
    fn begin(&mut self, changes: Vec<Change>) {
        self.model.commit(Commit {
            changes,
            last: None,
        });
        let begun = self.model.len();
        self.progress.begun.store(begun, Ordering::SeqCst);
    }

    /// Notes that the last commit returned.
    fn end(&mut self, last: Option<SeqNo>, durability: Durability) {
        if let Some(last) = last {
            self.model.confirm(last);
        }
        let returned = self.model.len();
        self.progress.returned.store(returned, Ordering::SeqCst);
        if durability == Durability::Sync {
            self.all_durable();
        }
    }

    fn one(&mut self, write: &Write) -> Outcome {
        let keyspace = self.handle(name_of(write.keyspace))?;
        self.begin(vec![change(write)]);
        let last = match write.value {
            Some(value) => keyspace.put(&write.key, value.bytes()),
            None => keyspace.delete(&write.key),
        };
        let last = failed("a write", last)?;
        self.end(Some(last), self.default_durability);
        let visible = self.db()?.stats().visible;
        if visible < last {
            return Err(format!(
                "{last:?} returned, and only {visible:?} is visible"
            ));
        }
        Ok(())
    }

    fn batch(&mut self, writes: &[Write], durability: Option<Durability>, how: How) -> Outcome {
        let mut batch = Batch::new();
        if let Some(durability) = durability {
            batch.durability(durability);
        }
        for write in writes {
            let value = write.value.map(crate::op::Value::bytes);
            let name = name_of(write.keyspace);
            match (write.keyspace % KEYSPACES.len(), value) {
                (0, Some(value)) => {
                    batch.put(&write.key, value);
                }
                (0, None) => {
                    batch.delete(&write.key);
                }
                (_, Some(value)) => {
                    batch.keyspace(&self.handle(name)?).put(&write.key, value);
                }
                (_, None) => {
                    batch.keyspace(&self.handle(name)?).delete(&write.key);
                }
            }
        }
        if batch.len() != writes.len() {
            return Err(format!("a batch of {} says {}", writes.len(), batch.len()));
        }
        let durability = durability.unwrap_or(self.default_durability);
        if !writes.is_empty() {
            self.begin(writes.iter().map(change).collect());
        }
        let db = self.db()?.clone();
        let last = match how {
            How::Write => failed("write", db.write(batch))?,
            How::Wait => failed("wait", failed("submit", db.submit(batch))?.wait())?,
            How::Poll => {
                let ticket = failed("submit", db.submit(batch))?;
                self.poll(ticket)?
            }
            How::Forget => {
                drop(failed("submit", db.submit(batch))?);
                // It comes by itself; the model goes on when it is there.
                failed("sync", db.sync())?;
                db.stats().visible
            }
        };
        if !writes.is_empty() {
            self.end(Some(last), durability);
        }
        Ok(())
    }

    /// Polls until the ticket is done. In manual mode nobody completes it: somebody has to sync.
    fn poll(&self, ticket: Ticket) -> Outcome<SeqNo> {
        let manual = self.scenario.mode == crate::Mode::Manual;
        let db = self.db()?.clone();
        let help = || match manual {
            true => failed("sync", db.sync()),
            false => Ok(()),
        };
        block_on(ticket, help)?.map_err(|error| format!("a ticket failed: {error:?}"))
    }

    /// The handle of a keyspace, created if it is not there.
    fn handle(&mut self, name: &str) -> Outcome<Keyspace> {
        if !self.handles.contains_key(name) {
            self.create(name)?;
        }
        self.handles
            .get(name)
            .cloned()
            .ok_or_else(|| format!("no handle of {name:?}"))
    }

    fn create(&mut self, name: &str) -> Outcome {
        let db = self.db()?.clone();
        if self.model.now().keyspaces.contains_key(name) {
            let again = db.create_keyspace(name, KeyspaceOptions::new());
            expect("creating it twice", again, ErrorKind::AlreadyExists)?;
            let found = failed("keyspace", db.keyspace(name))?;
            self.handles.insert(name.into(), found);
            return Ok(());
        }
        self.begin(vec![Change::Create(name.into())]);
        // Either way creates it.
        let created = match self.model.len() % 2 {
            0 => db.keyspace(name),
            _ => db.create_keyspace(name, KeyspaceOptions::new()),
        };
        let created = failed("creating a keyspace", created)?;
        self.handles.insert(name.into(), created);
        self.end(None, self.default_durability);
        Ok(())
    }

    fn drop_keyspace(&mut self, name: &str) -> Outcome {
        let db = self.db()?.clone();
        if name == name_of(0) {
            let dropped = db.drop_keyspace(name);
            return expect("dropping the default keyspace", dropped, ErrorKind::Invalid);
        }
        if !self.model.now().keyspaces.contains_key(name) {
            let dropped = db.drop_keyspace(name);
            return expect("dropping what is not there", dropped, ErrorKind::NotFound);
        }
        self.begin(vec![Change::Drop(name.into())]);
        failed("dropping a keyspace", db.drop_keyspace(name))?;
        self.end(None, self.default_durability);
        if let Some(handle) = self.handles.remove(name) {
            self.stale.push(handle);
        }
        self.stale_handles()
    }

    fn stale_handles(&self) -> Outcome {
        for stale in &self.stale {
            expect("a put", stale.put("k", "v"), ErrorKind::NotFound)?;
            expect("a get", stale.get("k"), ErrorKind::NotFound)?;
            expect("a count", stale.count(..), ErrorKind::NotFound)?;
            let mut iter = stale.iter();
            let first = iter.next().unwrap_or(Ok(Default::default()));
            expect("an iterator", first, ErrorKind::NotFound)?;
            if iter.next().is_some() {
                return Err("an iterator went on after its error".into());
            }
        }
        Ok(())
    }

    fn take_snapshot(&mut self) -> Outcome {
        if self.snapshots.len() >= 12 {
            self.snapshots.remove(0);
        }
        let snapshot = self.db()?.snapshot();
        self.snapshots.push(Kept {
            snapshot,
            state: self.model.now().clone(),
            handles: self.handles.clone(),
        });
        Ok(())
    }

    fn kept(&mut self, op: &Op) -> Outcome {
        match op {
            Op::KeepIter(n, range) => {
                if let Some(keyspace) = self.handles.get(name_of(*n)) {
                    let map = self.model.now().map(keyspace.name());
                    let kept = KeptIter::new(keyspace.range(range), &map, range);
                    self.iters.push(kept);
                }
            }
            Op::KeepCursor(n) => {
                if let Some(keyspace) = self.handles.get(name_of(*n)) {
                    let map = self.model.now().map(keyspace.name());
                    self.cursors.push(KeptCursor::new(keyspace.cursor(), &map));
                }
            }
            Op::StepIter(at, steps, bits) => {
                if let Some(mut iter) = take(&mut self.iters, *at) {
                    iter.step(*steps, *bits)
                        .map_err(|error| format!("a kept iterator: {error}"))?;
                    self.iters.push(iter);
                }
            }
            Op::MoveCursor(at, moves) => {
                if let Some(mut cursor) = take(&mut self.cursors, *at) {
                    cursor
                        .make(moves)
                        .map_err(|error| format!("a kept cursor: {error}"))?;
                    self.cursors.push(cursor);
                }
            }
            _ => {}
        }
        // Memory is bounded, and the oldest pins go.
        if self.iters.len() > 12 {
            self.iters.remove(0);
        }
        if self.cursors.len() > 12 {
            self.cursors.remove(0);
        }
        Ok(())
    }

    /// Compares everything, snapshots included.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self) -> Outcome {
        let all = self.model.len();
        let db = self.db()?;
        Oracle::check(db, &self.model, all..=all)?;
        for kept in &self.snapshots {
            kept.check()?;
        }
        failed("health", db.health())
    }

    /// Closes the database, by `close` or by dropping its handles, and opens it with options that follow from
    /// `seed`. Iterators and cursors stay.
    ///
    /// # Errors
    /// The database's.
    pub fn reopen(&mut self, seed: u64) -> Outcome {
        self.close(seed.is_multiple_of(2))?;
        self.open(seed)?;
        let names = failed("keyspaces", self.db()?.keyspaces())?;
        let want: Vec<String> = self.model.now().keyspaces.keys().cloned().collect();
        if names != want {
            return Err(format!("after opening again: {names:?}, not {want:?}"));
        }
        for name in names {
            let handle = failed("keyspace", self.db()?.keyspace(&name))?;
            self.handles.insert(name, handle);
        }
        self.check()
    }

    /// Closes the database, by `close` or by dropping its handles.
    ///
    /// # Errors
    /// The database's, and calls that still answer.
    pub fn close(&mut self, by_call: bool) -> Outcome {
        let Some(db) = self.db.take() else {
            return Ok(());
        };
        if by_call {
            failed("close", db.close())?;
            expect("a put after close", db.put("k", "v"), ErrorKind::Closed)?;
            expect("a get after close", db.get("k"), ErrorKind::Closed)?;
            for kept in &self.snapshots {
                expect("a snapshot", kept.snapshot.get("k"), ErrorKind::Closed)?;
            }
            failed("a second close", db.close())?;
        }
        drop(db);
        self.handles.clear();
        self.stale.clear();
        self.snapshots.clear();
        self.all_durable();
        Ok(())
    }
}

impl Kept {
    fn look(&self, name: &str, with: impl FnOnce(&Snapshot, &crate::Map) -> Outcome) -> Outcome {
        match self.handles.get(name) {
            Some(handle) => {
                let snapshot = self.snapshot.keyspace(handle);
                with(&snapshot, &self.state.map(name))
                    .map_err(|error| format!("a snapshot, at {name:?}: {error}"))
            }
            None => Ok(()),
        }
    }

    fn check(&self) -> Outcome {
        use crate::op::{End, Range, Read};
        for name in self.handles.keys() {
            self.look(name, |snapshot, map| {
                reads::check(snapshot, map, &Read::Scan(Range::ALL, End::Front))?;
                reads::check(snapshot, map, &Read::Scan(Range::ALL, End::Back))?;
                map.keys()
                    .try_for_each(|key| reads::check(snapshot, map, &Read::Get(key.clone())))
            })?;
        }
        Ok(())
    }
}

fn change(write: &Write) -> Change {
    let name = name_of(write.keyspace).to_string();
    match write.value {
        Some(value) => Change::Put(name, write.key.clone(), value.bytes()),
        None => Change::Delete(name, write.key.clone()),
    }
}

fn expect<T: fmt::Debug>(what: &str, got: terrace::Result<T>, kind: ErrorKind) -> Outcome {
    match got {
        Err(error) if error.kind() == kind => Ok(()),
        other => Err(format!("{what}: {other:?} instead of {kind:?}")),
    }
}

fn pick<T>(all: &[T], at: usize) -> Option<&T> {
    all.get(at % all.len().max(1))
}

fn take<T>(all: &mut Vec<T>, at: usize) -> Option<T> {
    match all.len() {
        0 => None,
        len => Some(all.remove(at % len)),
    }
}
