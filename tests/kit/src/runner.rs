//! A database and its model side by side.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use terrace::vfs::{OsVfs, Vfs};
use terrace::{Batch, Db, Durability, ErrorKind, Keyspace, Options, SeqNo, Ticket};

use crate::crash::Allowed;
use crate::model::{Change, Commit, Expires, Model};
use crate::op::{Action, How, Op, Write, expiry};
use crate::oracle::Oracle;
use crate::pins::Pins;
use crate::progress::Progress;
use crate::scenario::{Mode, Scenario};
use crate::spaces::{default_of, with_operator};
use crate::ticket::block_on;
use crate::trouble::{Outcome, Trouble, failed};
use crate::{KEYSPACES, reads};

/// A database and its model side by side.
pub struct Runner {
    pub(crate) scenario: Scenario,
    db: Option<Db>,
    /// The durability that the open database has by default.
    pub(crate) default_durability: Durability,
    model: Model,
    pub(crate) progress: Arc<Progress>,
    pub(crate) handles: BTreeMap<String, Keyspace>,
    /// Handles of keyspaces that were dropped.
    pub(crate) stale: Vec<Keyspace>,
    pins: Pins,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runner({:?}, {} commits)", self.db, self.model.len())
    }
}

pub(crate) fn name_of(keyspace: usize) -> &'static str {
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
        let mut runner = Runner::closed(scenario);
        runner.open(seed)?;
        Ok(runner)
    }

    /// One whose database, which must be new, is yet to be opened.
    pub fn closed(scenario: Scenario) -> Runner {
        Runner {
            scenario,
            db: None,
            default_durability: Durability::Sync,
            model: Model::new(),
            progress: Arc::default(),
            handles: BTreeMap::new(),
            stale: Vec::new(),
            pins: Pins::default(),
        }
    }

    /// Opens the database with options that follow from `seed`, and takes the handles of its
    /// keyspaces.
    ///
    /// # Errors
    /// The database's, and other keyspaces than there must be.
    pub fn open(&mut self, seed: u64) -> Outcome {
        let db = failed("open", self.scenario.open(seed))?;
        self.begin_life(db, self.scenario.durability(seed))
    }

    /// Opens the database with options of the caller's, which must have this durability by default.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_as(
        &mut self,
        mode: Mode,
        durability: Durability,
        change: impl FnOnce(Options) -> Options,
    ) -> Outcome {
        self.scenario.mode = mode;
        let options = change(self.scenario.options(0));
        let db = failed("open", options.open(&self.scenario.dir))?;
        self.begin_life(db, durability)
    }

    fn begin_life(&mut self, db: Db, durability: Durability) -> Outcome {
        self.default_durability = durability;
        let names = failed("keyspaces", db.keyspaces())?;
        let want: Vec<String> = self.model.now().keyspaces.keys().cloned().collect();
        if names != want {
            return Err(format!("after opening: {names:?}, not {want:?}").into());
        }
        for name in names {
            let handle = failed("keyspace", db.keyspace(&name))?;
            self.handles.insert(name, handle);
        }
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

    /// Where and how it is opened.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Does all of them.
    ///
    /// # Errors
    /// That of the first that fails or answers wrongly, with its number.
    pub fn run(&mut self, ops: impl IntoIterator<Item = Op>) -> Outcome {
        for (i, op) in ops.into_iter().enumerate() {
            self.apply(&op).map_err(|trouble| {
                let op = crate::oracle::brief(&op);
                trouble.within(format_args!("operation {i}, {op}"))
            })?;
        }
        Ok(())
    }

    /// Does one operation and compares what it answers. After an error of the database what was to
    /// be written may or may not be there if it is read-only now; else it must not be.
    ///
    /// # Errors
    /// The database's, and differences from the model.
    pub fn apply(&mut self, op: &Op) -> Outcome {
        let before = self.model.len();
        let done = self.do_one(op);
        if let Err(trouble) = &done
            && trouble.kind().is_some_and(|k| k != ErrorKind::ReadOnly)
        {
            let kept = self.progress.returned().max(before);
            if self.model.len() > kept {
                self.model.truncate(kept);
                self.progress.begin(kept);
            }
        }
        done
    }

    fn do_one(&mut self, op: &Op) -> Outcome {
        match op {
            Op::One(write) => self.one(write),
            Op::Batch(writes, durability, how) => self.batch(writes, *durability, *how),
            Op::Step(n, key, step) => self.step(name_of(*n), key, step),
            Op::Transaction(writes, undone, read, commit) => {
                self.transaction(writes, *undone, read, *commit)
            }
            Op::Ingest(n, entries, memory) => self.ingest(name_of(*n), entries, *memory),
            Op::CreateKeyspace(n) => self.create(name_of(*n)),
            Op::DropKeyspace(n) => self.drop_keyspace(name_of(*n)),
            Op::RenameKeyspace(from, to) => self.rename(name_of(*from), name_of(*to)),
            Op::SetOptions(n, bits) => self.set_options(name_of(*n), *bits),
            Op::Approximate(n, range) => self.about(name_of(*n), range),
            Op::Read(n, read) => match self.handles.get(name_of(*n)) {
                Some(keyspace) => {
                    reads::check(keyspace, &self.model.now().map(keyspace.name()), read)
                }
                None => self.stale_handles(),
            },
            Op::Flush => self.work("flush", Db::flush),
            Op::Compact(n, range) => match self.handles.get(name_of(*n)).cloned() {
                Some(keyspace) => self.work("compact", |_| keyspace.compact(range)),
                None => Ok(()),
            },
            Op::CompactAll => self.work("compact_all", Db::compact_all),
            Op::WaitIdle => self.work("wait_idle", Db::wait_idle),
            Op::Sync => self.work("sync", Db::sync),
            Op::Checkpoint(seed) => self.checkpoint(*seed),
            Op::Check => self.check(),
            Op::Reopen(seed) => self.reopen(*seed),
            _ => self.pin(op),
        }
    }

    /// What makes all that returned durable.
    fn work(&mut self, what: &str, work: impl FnOnce(&Db) -> terrace::Result<()>) -> Outcome {
        failed(what, work(self.db()?))?;
        self.progress.all_durable();
        Ok(())
    }

    fn checkpoint(&mut self, seed: u64) -> Outcome {
        let copy = self.scenario.dir.with_extension("copy");
        self.work("checkpoint", |db| db.checkpoint(&copy))?;
        let options = self.scenario.options(seed).create(false);
        let db = failed("opening a checkpoint", options.open(&copy))?;
        let all = self.model.len();
        Oracle::check(&db, &self.model, all..=all)
            .map_err(|trouble| trouble.within("a checkpoint"))?;
        failed("closing a checkpoint", db.close())?;
        let os: Arc<dyn Vfs> = Arc::new(OsVfs);
        let vfs = self.scenario.vfs.as_ref().unwrap_or(&os);
        let removed = vfs.read_dir(&copy).and_then(|names| {
            let mut names = names.iter();
            names.try_for_each(|name| vfs.remove_file(&copy.join(name)))
        });
        removed.map_err(|error| format!("removing a checkpoint: {error}").into())
    }

    fn pin(&mut self, op: &Op) -> Outcome {
        let now = self.model.now();
        match op {
            Op::TakeSnapshot => {
                let db = self.db.as_ref().ok_or("the database is not open")?;
                self.pins.take_snapshot(db, now, &self.handles);
            }
            Op::ReadSnapshot(at, n, read) => {
                return self.pins.read_snapshot(*at, name_of(*n), read);
            }
            Op::CheckSnapshot(at) => return self.pins.check_snapshot(*at),
            Op::DropSnapshot(at) => self.pins.drop_snapshot(*at),
            Op::KeepIter(n, range) => {
                if let Some(keyspace) = self.handles.get(name_of(*n)) {
                    self.pins
                        .keep_iter(keyspace, &now.map(keyspace.name()), range);
                }
            }
            Op::KeepCursor(n) => {
                if let Some(keyspace) = self.handles.get(name_of(*n)) {
                    self.pins.keep_cursor(keyspace, &now.map(keyspace.name()));
                }
            }
            Op::StepIter(at, steps, bits) => return self.pins.step_iter(*at, *steps, *bits),
            Op::MoveCursor(at, moves) => return self.pins.move_cursor(*at, moves),
            _ => {}
        }
        Ok(())
    }

    /// Notes a commit that is about to be handed over.
    pub(crate) fn begin(&mut self, changes: Vec<Change>) {
        self.model.commit(Commit {
            changes,
            last: None,
        });
        self.progress.begin(self.model.len());
    }

    /// Notes that the last commit returned.
    pub(crate) fn end(&mut self, last: Option<SeqNo>, durability: Durability) -> Outcome {
        let visible = self.db()?.stats().visible;
        if let Some(last) = last {
            self.model.confirm(last);
            if visible < last {
                return Err(format!("{last:?} returned, and only {visible:?} is visible").into());
            }
        }
        self.progress.end(self.model.len(), visible.get());
        if durability == Durability::Sync {
            self.progress.all_durable();
        }
        Ok(())
    }

    fn one(&mut self, write: &Write) -> Outcome {
        let keyspace = self.handle(name_of(write.keyspace))?;
        if let Action::Merge(_) = &write.action {
            with_operator(&keyspace)?;
        }
        self.begin(vec![change(write, default_of(&keyspace))]);
        let last = match &write.action {
            Action::Put(value) => keyspace.put(&write.key, value.bytes()),
            Action::PutExpiring(value, at_once) => {
                keyspace.put_expiring(&write.key, value.bytes(), expiry(*at_once))
            }
            Action::Merge(operand) => keyspace.merge(&write.key, operand.bytes()),
            Action::Delete => keyspace.delete(&write.key),
            Action::DeleteRange(Some(end)) => keyspace.delete_range(&write.key..end),
            Action::DeleteRange(None) => keyspace.delete_range(&write.key..),
        };
        let last = failed("a write", last)?;
        self.end(Some(last), self.default_durability)
    }

    fn batch(&mut self, writes: &[Write], durability: Option<Durability>, how: How) -> Outcome {
        let mut batch = Batch::new();
        if let Some(durability) = durability {
            batch.durability(durability);
        }
        let mut changes = Vec::with_capacity(writes.len());
        for write in writes {
            let keyspace = self.handle(name_of(write.keyspace))?;
            changes.push(change(write, default_of(&keyspace)));
            if write.keyspace % KEYSPACES.len() == 0 {
                match &write.action {
                    Action::Put(value) => batch.put(&write.key, value.bytes()),
                    Action::PutExpiring(value, at_once) => {
                        batch.put_expiring(&write.key, value.bytes(), expiry(*at_once))
                    }
                    Action::Merge(operand) => {
                        with_operator(self.db()?)?;
                        batch.merge(&write.key, operand.bytes())
                    }
                    Action::Delete => batch.delete(&write.key),
                    Action::DeleteRange(Some(end)) => batch.delete_range(&write.key..end),
                    Action::DeleteRange(None) => batch.delete_range(&write.key..),
                };
                continue;
            }
            let mut part = batch.keyspace(&keyspace);
            match &write.action {
                Action::Put(value) => part.put(&write.key, value.bytes()),
                Action::PutExpiring(value, at_once) => {
                    part.put_expiring(&write.key, value.bytes(), expiry(*at_once))
                }
                Action::Merge(operand) => {
                    with_operator(&keyspace)?;
                    part.merge(&write.key, operand.bytes())
                }
                Action::Delete => part.delete(&write.key),
                Action::DeleteRange(Some(end)) => part.delete_range(&write.key..end),
                Action::DeleteRange(None) => part.delete_range(&write.key..),
            };
        }
        if batch.len() != writes.len() {
            return Err(format!("a batch of {} says {}", writes.len(), batch.len()).into());
        }
        let durability = durability.unwrap_or(self.default_durability);
        if !writes.is_empty() {
            self.begin(changes);
        }
        let last = self.hand_over(batch, how)?;
        match writes.is_empty() {
            true => Ok(()),
            false => self.end(Some(last), durability),
        }
    }

    fn hand_over(&self, batch: Batch, how: How) -> Outcome<SeqNo> {
        let db = self.db()?;
        match how {
            How::Write => failed("write", db.write(batch)),
            How::Wait => failed("wait", failed("submit", db.submit(batch))?.wait()),
            How::Poll => self.poll(failed("submit", db.submit(batch))?),
            How::Forget => {
                drop(failed("submit", db.submit(batch))?);
                // It comes by itself; the model goes on when it is there.
                failed("sync", db.sync())?;
                Ok(db.stats().visible)
            }
        }
    }

    /// Polls until the ticket is done. In manual mode nobody completes it: somebody has to sync.
    fn poll(&self, ticket: Ticket) -> Outcome<SeqNo> {
        let manual = self.scenario.mode == Mode::Manual;
        let db = self.db()?;
        let help = || match manual {
            true => failed("sync", db.sync()),
            false => Ok(()),
        };
        failed("a ticket", block_on(ticket, help)?)
    }

    /// Compares everything, snapshots included.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self) -> Outcome {
        let all = self.model.len();
        let db = self.db()?;
        Oracle::check(db, &self.model, all..=all)?;
        self.pins.check_snapshots()?;
        failed("health", db.health())
    }

    /// Closes the database, by `close` or by dropping its handles, and opens it with options that
    /// follow from `seed`. Iterators and cursors stay.
    ///
    /// # Errors
    /// The database's.
    pub fn reopen(&mut self, seed: u64) -> Outcome {
        self.close(seed.is_multiple_of(2))?;
        self.open(seed)?;
        self.check()
    }

    /// Closes the database, by `close` or by dropping its handles.
    ///
    /// # Errors
    /// The database's, and calls that still answer.
    pub fn close(&mut self, by_call: bool) -> Outcome {
        let Some(db) = self.leave() else {
            return Ok(());
        };
        if by_call {
            failed("close", db.close())?;
            expect("a put after close", db.put("k", "v"), ErrorKind::Closed)?;
            expect("a get after close", db.get("k"), ErrorKind::Closed)?;
            self.pins.closed()?;
            failed("a second close", db.close())?;
        }
        self.pins.drop_snapshots();
        drop(db);
        self.progress.all_durable();
        Ok(())
    }

    /// Goes on with what a crash left in `vfs`, and `allowed`: the commits that are not found there
    /// never were, nor were the sequence numbers given out since.
    ///
    /// # Errors
    /// The database's, and a state that is not allowed.
    pub fn survive(&mut self, vfs: Arc<dyn Vfs>, allowed: &Allowed, seed: u64) -> Outcome {
        drop(self.leave());
        self.pins.drop_snapshots();
        self.scenario = self.scenario.elsewhere(vfs);
        let db = failed("open", self.scenario.open(seed))?;
        let found = Oracle::check(&db, &self.model, allowed.now.clone())?;
        self.model.truncate(found);
        self.progress.restart(found, allowed.last_seq);
        self.begin_life(db, self.scenario.durability(seed))
    }

    /// Lets go of the database and its keyspaces and returns the last handle, snapshots apart.
    pub fn leave(&mut self) -> Option<Db> {
        self.handles.clear();
        self.stale.clear();
        self.db.take()
    }
}

/// What a write does to a keyspace with this default expiry.
pub(crate) fn change(write: &Write, default: Expires) -> Change {
    let (name, key) = (name_of(write.keyspace).to_string(), write.key.clone());
    match &write.action {
        Action::Put(value) => Change::Put(name, key, value.bytes(), default),
        Action::PutExpiring(value, false) => Change::Put(name, key, value.bytes(), Expires::Later),
        Action::Merge(operand) => Change::Merge(name, key, operand.bytes(), default),
        Action::PutExpiring(_, true) => Change::Delete(name, key),
        Action::Delete => Change::Delete(name, key),
        Action::DeleteRange(end) => Change::DeleteRange(name, key, end.clone()),
    }
}

pub(crate) fn expect<T: fmt::Debug>(
    what: &str,
    got: terrace::Result<T>,
    kind: ErrorKind,
) -> Outcome {
    match got {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(Trouble::failed(
            format_args!("{what}, where {kind:?} was due,"),
            error,
        )),
        Ok(got) => Err(format!("{what}: {got:?} instead of {kind:?}").into()),
    }
}
