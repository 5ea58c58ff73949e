//! What is known of the writers' steps, and the oracle: whether a database that was opened again holds what it
//! must.
//!
//! - What each thread stored equals the state after some number of its steps: each batch whole or
//!   not at all, nothing that was never written, nothing that came back.
//! - A *kill* leaves every step that returned. A *cut* leaves everything up to the greatest
//!   sequence number that was durable by then.
//! - Threads agree on one commit order: if a step is there, so is every one with a smaller sequence
//!   number and every one that had returned before it began; and the key that all batches write has
//!   the value of the last of them.
//! - A version is what the write returned.
//! - What was found once is found again: after a cut it is on disk, after a kill it outlives the
//!   next kill.

use std::collections::{BTreeMap, VecDeque};

use terrace::{Bytes, Db};

use crate::steps::{self, HOT, Life, Mark, SPACES, State, Step, StepId, THREADS, WINDOW};
use crate::writer::Said;

/// What happened before the database was opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process died.
    Kill,
    /// The power went.
    Cut,
}

/// A step, and what is known of it.
#[derive(Clone, Debug)]
struct Known {
    step: Step,
    /// What its write returned.
    seq: Option<u64>,
    /// A sequence number that it is not above, where it has none of its own or did not get to say
    /// it.
    by: Option<u64>,
    /// It returned, or was found: a kill leaves it.
    kept: bool,
}

#[derive(Clone, Debug, Default)]
struct Thread {
    /// Nothing takes it away any more.
    base: State,
    /// The last step in it.
    last: StepId,
    /// Later steps, of which some prefix will be found.
    steps: VecDeque<Known>,
}

/// What is known of the steps of all threads.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    threads: [Thread; THREADS],
    /// Everything up to this sequence number survives a cut.
    durable: u64,
    /// Whether power cuts come: else nothing can take away what a kill left.
    cuts: bool,
}

/// What a life did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lived {
    /// The database was open before it ended.
    pub(crate) opened: bool,
    /// It ended by itself, and well.
    pub(crate) closed: bool,
    /// The database failed a call.
    pub(crate) failed: bool,
    /// Steps that had returned.
    pub(crate) returned: u64,
}

/// Where a thread was found.
struct Found {
    /// So many of its steps are there.
    steps: usize,
    mark: Mark,
    version: u64,
}

/// After an unclean end sequence numbers go on this much above the last that was found.
const LIFE_GAP: u64 = 1 << 32;

/// What is stored for a thread.
type Stored = BTreeMap<(usize, usize), Bytes>;

impl Ledger {
    pub(crate) fn new(cuts: bool) -> Ledger {
        Ledger {
            threads: Default::default(),
            durable: 0,
            cuts,
        }
    }

    /// Takes down what a life said before it ended.
    pub(crate) fn lived(&mut self, life: &Life, said: &[Said]) -> Result<Lived, String> {
        let mut lived = Lived::default();
        let mut last = [(0, 0); THREADS];
        for said in said {
            match *said {
                Said::Opened => lived.opened = true,
                Said::Closed => lived.closed = true,
                Said::Failed => lived.failed = true,
                Said::Durable { seq } => self.durable = self.durable.max(seq),
                Said::Done {
                    thread,
                    number,
                    seq,
                } => {
                    let (before, newest) = last[thread];
                    let step = life.step(thread, number);
                    let stale = seq <= newest;
                    let wrong = stale && seq > 0 && !step.may_write_nothing();
                    if number != before + 1 || wrong {
                        return Err(format!(
                            "thread {thread}: step {number} returned {seq} after step {before} and {newest}"
                        ));
                    }
                    last[thread] = (number, newest.max(seq));
                    let mut known = Known::new(step);
                    known.seq = (!stale).then_some(seq);
                    known.kept = true;
                    self.threads[thread].steps.push_back(known);
                    lived.returned += 1;
                }
            }
        }
        if lived.closed {
            return Ok(lived); // Everything had returned.
        }
        for (t, thread) in self.threads.iter_mut().enumerate() {
            let flying = (1..=WINDOW as u64 + 1).map(|more| last[t].0 + more);
            let flying = flying.map(|number| Known::new(life.step(t, number)));
            thread.steps.extend(flying);
        }
        Ok(lived)
    }

    /// The last life closed the database while the disk was well, so all that it did is durable.
    /// After a failure of the log `close` writes nothing and answers as always.
    pub(crate) fn closed_well(&mut self) {
        let steps = || self.threads.iter().flat_map(|thread| &thread.steps);
        self.durable = steps()
            .filter_map(|known| known.seq)
            .fold(self.durable, u64::max);
        for known in self.threads.iter_mut().flat_map(|t| &mut t.steps) {
            known.by = Some(self.durable);
        }
    }

    /// What was found is durable: the database was closed after it.
    pub(crate) fn closed(&mut self) {
        for thread in &mut self.threads {
            thread.settle();
        }
    }

    /// There is no database. That is well if nothing has to be found.
    pub(crate) fn check_nothing(&mut self) -> Result<(), String> {
        for thread in &mut self.threads {
            if thread.last != StepId::default() || thread.steps.iter().any(|known| known.kept) {
                return Err("the database is gone".to_owned());
            }
            thread.steps.clear();
        }
        Ok(())
    }

    /// Checks a database that was opened again, and from then on goes by what it holds.
    pub(crate) fn check(&mut self, db: &Db, crash: Crash) -> Result<(), String> {
        let stored = read(db)?;
        let mut found = Vec::with_capacity(THREADS);
        for (thread, stored) in stored.iter().enumerate() {
            let one = self.find(db, thread, stored);
            found.push(one.map_err(|e| format!("thread {thread}: {e}"))?);
        }
        let newest = found.iter().map(|found| found.version).max().unwrap_or(0);
        for (thread, found) in found.iter().enumerate() {
            self.check_missing(thread, found.steps, newest, crash)
                .map_err(|e| format!("thread {thread}: {e}"))?;
        }
        self.check_seen(&found)?;
        check_hot(db, &found)?;
        self.go_on_from(&found, newest, crash);
        Ok(())
    }

    /// How many steps of a thread are there.
    fn find(&self, db: &Db, thread: usize, stored: &Stored) -> Result<Found, String> {
        let known = &self.threads[thread];
        let entry = db.get_entry(steps::mark_key(thread)).map_err(text)?;
        let (mark, version) = match &entry {
            None => (Mark::default(), 0),
            Some(entry) => {
                let mark = Mark::parse(&entry.value).ok_or("its mark is no mark")?;
                (mark, entry.version.get())
            }
        };
        let mut at = 0;
        if mark.id != known.base.mark {
            let found = known
                .steps
                .iter()
                .position(|known| known.step.id == mark.id);
            at =
                found.ok_or_else(|| format!("{:?} was never written, or is long gone", mark.id))?;
            let returned = known.steps[at].seq;
            if returned.is_some_and(|seq| seq != version) {
                let id = mark.id;
                return Err(format!(
                    "{id:?} returned {returned:?} and has version {version}"
                ));
            }
            at += 1;
        }
        // The steps behind it that leave no mark are there or not.
        let mut state = known.base.clone();
        let mut later = known.steps.iter();
        later
            .by_ref()
            .take(at)
            .for_each(|known| state.apply(&known.step));
        let (mut fits, mut first) = (None, None);
        loop {
            match difference(thread, &state, stored) {
                None => fits = Some(at),
                Some(what) => first = first.or(Some(what)),
            }
            match later.next() {
                Some(next) if !next.step.leaves_mark() => state.apply(&next.step),
                _ => break,
            }
            at += 1;
        }
        match (fits, first) {
            (None, Some(what)) => Err(format!("after {:?}: {what}", mark.id)),
            (fits, _) => Ok(Found {
                steps: fits.unwrap_or(at),
                mark,
                version,
            }),
        }
    }

    /// What is not there was not promised, and nothing later is.
    fn check_missing(&self, t: usize, at: usize, newest: u64, crash: Crash) -> Result<(), String> {
        for missing in self.threads[t].steps.range(at..) {
            let id = missing.step.id;
            let seq = missing.seq.or(missing.by);
            let below = |limit: u64| seq.is_some_and(|seq| seq <= limit);
            let why = match crash {
                Crash::Kill if missing.kept => "had returned".to_owned(),
                _ if below(self.durable) => format!("all up to {} was durable", self.durable),
                _ if below(newest) => format!("the later {newest} is there"),
                _ => continue,
            };
            return Err(format!(
                "{id:?}, sequence number {seq:?}, is gone, and {why}"
            ));
        }
        Ok(())
    }

    /// What had returned when a step began is there if the step is.
    fn check_seen(&self, found: &[Found]) -> Result<(), String> {
        for (t, one) in found.iter().enumerate() {
            for (other, seen) in one.mark.seen.iter().enumerate().filter(|(_, n)| **n > 0) {
                let thread = &self.threads[other];
                let there = match found[other].steps.checked_sub(1) {
                    Some(at) => thread.steps[at].step.id,
                    None => thread.last,
                };
                let began_after = StepId {
                    life: one.mark.id.life,
                    number: *seen,
                };
                if there < began_after {
                    return Err(format!(
                        "thread {t} is at {:?}, which began after {began_after:?} of thread {other} had \
                         returned; that thread is at {there:?}",
                        one.mark.id
                    ));
                }
            }
        }
        Ok(())
    }

    fn go_on_from(&mut self, found: &[Found], newest: u64, crash: Crash) {
        for (thread, found) in self.threads.iter_mut().zip(found) {
            thread.steps.truncate(found.steps);
            for known in &mut thread.steps {
                known.kept = true;
                known.by = known.by.or(Some(newest + LIFE_GAP - 1));
            }
            if crash == Crash::Cut || !self.cuts {
                thread.settle();
            }
        }
    }
}

impl Thread {
    /// Nothing takes the steps away any more.
    fn settle(&mut self) {
        for known in self.steps.drain(..) {
            self.base.apply(&known.step);
            self.last = known.step.id;
        }
    }
}

impl Known {
    fn new(step: Step) -> Known {
        Known {
            step,
            seq: None,
            by: None,
            kept: false,
        }
    }
}

/// All that is stored, by thread; read forwards, backwards and key by key.
fn read(db: &Db) -> Result<[Stored; THREADS], String> {
    let mut out: [Stored; THREADS] = Default::default();
    for name in db.keyspaces().map_err(text)? {
        let keyspace = db.keyspace(&name).map_err(text)?;
        let entries = keyspace
            .iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(text)?;
        let mut back = keyspace
            .iter()
            .rev()
            .collect::<Result<Vec<_>, _>>()
            .map_err(text)?;
        back.reverse();
        if entries != back {
            return Err(format!("keyspace {name:?} is another backwards"));
        }
        for (i, (key, value)) in entries.into_iter().enumerate() {
            if i % 4 == 0 && keyspace.get(&key).map_err(text)?.as_ref() != Some(&value) {
                return Err(format!("{name:?}: get({key:?}) is not what the scan says"));
            }
            if let Some((thread, place)) = place(&name, &key) {
                out[thread].insert(place, value);
            } else if !is_special(&name, &key) {
                return Err(format!("{key:?} in {name:?} was never written"));
            }
        }
    }
    Ok(out)
}

/// Whose entry a key is, and which.
fn place(name: &str, key: &[u8]) -> Option<(usize, (usize, usize))> {
    let text = std::str::from_utf8(key).ok()?;
    let (thread, slot) = text.split_once('/')?;
    let thread = thread.parse::<usize>().ok().filter(|t| *t < THREADS)?;
    let slot = slot.get(..2)?.parse().ok()?;
    let space = (0..SPACES).find(|space| steps::space_name(thread, *space) == name)?;
    (steps::key(thread, slot) == text).then_some((thread, (space, slot)))
}

fn is_special(name: &str, key: &[u8]) -> bool {
    match name {
        "default" => (0..THREADS).any(|thread| steps::mark_key(thread).as_bytes() == key),
        "users" => key == HOT.as_bytes(),
        _ => false,
    }
}

/// The first difference between what should be stored and what is.
fn difference(thread: usize, state: &State, stored: &Stored) -> Option<String> {
    let name = |(space, slot): &(usize, usize)| {
        format!(
            "{:?} {}",
            steps::space_name(thread, *space),
            steps::key(thread, *slot)
        )
    };
    for (place, value) in &state.entries {
        match stored.get(place) {
            None => return Some(format!("{} is missing", name(place))),
            Some(there) if there != value => {
                let (is, due) = (there.len(), value.len());
                return Some(format!(
                    "{} has another value: {is} bytes, not {due}",
                    name(place)
                ));
            }
            Some(_) => {}
        }
    }
    let extra = stored
        .keys()
        .find(|place| !state.entries.contains_key(place));
    extra.map(|place| format!("{} should not be there", name(place)))
}

/// The key that all write has what the last batch of all wrote.
fn check_hot(db: &Db, found: &[Found]) -> Result<(), String> {
    let users = db
        .keyspaces()
        .map_err(text)?
        .iter()
        .any(|name| name == "users");
    let hot = match users {
        true => db.keyspace("users").and_then(|users| users.get_entry(HOT)),
        false => Ok(None),
    };
    let last = found
        .iter()
        .enumerate()
        .max_by_key(|(_, found)| found.version);
    let last = last.filter(|(_, found)| found.version > 0);
    let want = last.map(|(thread, found)| {
        let value = [steps::mark_key(thread).as_bytes(), &found.mark.bytes()].concat();
        (value, found.version - 1)
    });
    let there = hot
        .map_err(text)?
        .map(|hot| (hot.value.to_vec(), hot.version.get()));
    if there == want {
        return Ok(());
    }
    Err(format!(
        "the key that every batch writes is not that of the last batch, {:?}",
        last.map(|(thread, found)| (thread, found.mark.id, found.version))
    ))
}

fn text(error: terrace::Error) -> String {
    format!("{error:?}")
}
