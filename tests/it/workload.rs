//! Seeded workloads against a database whose background is driven by hand, with a model of what they wrote.
//!
//! The model is the list of all states that the commit order went through. Three places in it are kept: the
//! last state that is *durable* (acknowledged under `Sync`, or covered by a sync), the last that has
//! *returned*, and the last that was *issued*. Whatever happens, what is found later must be one of the states
//! between the first two and the last.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex};

use terrace::vfs::Vfs;
use terrace::{
    Batch, Compression, Db, Durability, Error, ErrorKind, IoMode, Keyspace, Options, Result,
    Snapshot,
};

pub const DIR: &str = "/data/db";
const NAMES: [&str; 3] = ["default", "left", "right"];
const KEYS: u64 = 18;

/// All keyspaces with all entries.
pub type State = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

pub fn hash_of(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// One change of a key: keyspace, key, new value.
pub type Part = (usize, Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug)]
pub enum Op {
    Open,
    /// Everything is read, and must be right.
    Read,
    Write(Vec<Part>, Option<Durability>),
    Sync,
    Flush,
    Idle,
    Compact,
    Create(usize),
    Drop(usize),
    Reopen,
    Snapshot,
    Release,
}

/// `count` operations that depend on `seed` alone. Every value is written once only.
pub fn operations(seed: u64, count: usize) -> Vec<Op> {
    let mut random = Random::new(seed);
    let mut written = 0;
    let long_log = seed.is_multiple_of(3);
    let mut ops = Vec::new();
    while ops.len() < count {
        let op = operation(&mut random, &mut written, long_log);
        let flushes = matches!(op, Op::Flush | Op::Idle | Op::Compact);
        // A long log: many segments are released at once.
        if !(long_log && flushes && random.below(4) > 0) {
            ops.push(op);
        }
    }
    ops
}

fn operation(random: &mut Random, written: &mut u64, long: bool) -> Op {
    let durability = match random.below(4) {
        0 => Some(Durability::Sync),
        1 => Some(Durability::Buffered),
        _ => None,
    };
    match random.below(100) {
        0..48 => Op::Write(vec![part(random, written, long)], durability),
        48..66 => {
            let len = 2 + random.below(5);
            Op::Write(
                (0..len).map(|_| part(random, written, long)).collect(),
                durability,
            )
        }
        66..70 => Op::Sync,
        70..79 => Op::Flush,
        79..84 => Op::Idle,
        84..86 => Op::Compact,
        86..90 => Op::Create(1 + random.below(2) as usize),
        90..92 => Op::Drop(1 + random.below(2) as usize),
        92..96 => Op::Reopen,
        96..98 => Op::Snapshot,
        _ => Op::Release,
    }
}

fn part(random: &mut Random, written: &mut u64, long: bool) -> Part {
    let keyspace = [0, 0, 1, 2][random.below(4) as usize];
    let key = format!("key{:02}", random.below(KEYS)).into_bytes();
    *written += 1;
    let len = match random.below(64) {
        0 => 20_000, // Larger than a segment.
        1..10 => 1 + random.below(2500) as usize,
        10..40 if long => 2000 + random.below(3000) as usize,
        _ => random.below(60) as usize,
    };
    let value = (random.below(4) > 0).then(|| {
        let mut value = format!("{written}:").into_bytes();
        value.resize(value.len() + len, b'a' + (*written % 26) as u8);
        value
    });
    (keyspace, key, value)
}

/// What was written.
#[derive(Debug)]
pub struct History {
    pub states: Vec<Arc<State>>,
    hashes: Vec<u64>,
    pub durable: usize,
    pub returned: usize,
    /// The last sequence number that a caller got to see.
    pub last_seq: u64,
}

/// Which states may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub low: usize,
    pub high: usize,
}

impl History {
    fn new() -> History {
        let mut history = History {
            states: Vec::new(),
            hashes: Vec::new(),
            durable: 0,
            returned: 0,
            last_seq: 0,
        };
        history.issue(State::from([("default".into(), BTreeMap::new())]));
        history
    }

    pub fn issued(&self) -> usize {
        self.states.len() - 1
    }

    pub fn latest(&self) -> &Arc<State> {
        &self.states[self.issued()]
    }

    fn issue(&mut self, state: State) {
        self.hashes.push(hash_of(&state));
        self.states.push(Arc::new(state));
    }

    fn retract(&mut self) {
        self.hashes.pop();
        self.states.pop();
    }

    pub fn after_cut(&self) -> Bounds {
        Bounds {
            low: self.durable,
            high: self.issued(),
        }
    }

    pub fn after_kill(&self) -> Bounds {
        Bounds {
            low: self.returned,
            high: self.issued(),
        }
    }

    /// The states within `bounds` that have this hash: the last of them.
    pub fn find(&self, hash: u64, bounds: Bounds) -> Option<usize> {
        (bounds.low..=bounds.high)
            .rev()
            .find(|&at| self.hashes[at] == hash)
    }

    /// What is wrong with `found`, in words.
    pub fn explain(&self, found: &State, bounds: Bounds) -> String {
        let hash = hash_of(found);
        let whole = Bounds {
            low: 0,
            high: self.issued(),
        };
        if let Some(at) = self.find(hash, whole) {
            return format!("state {at} was found, not one of {bounds:?}");
        }
        let distance = |at: usize| difference(&self.states[at], found).len();
        let nearest = (bounds.low..=bounds.high)
            .min_by_key(|&at| distance(at))
            .unwrap_or(0);
        let lines = difference(&self.states[nearest], found);
        let shown = lines.iter().take(8).cloned().collect::<Vec<_>>().join("; ");
        format!("no state of {bounds:?} was found; against state {nearest}: {shown}")
    }
}

fn difference(wanted: &State, found: &State) -> Vec<String> {
    let mut lines = Vec::new();
    let empty = BTreeMap::new();
    let names: std::collections::BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    for name in names {
        let (a, b) = (wanted.get(name), found.get(name));
        if a.is_some() != b.is_some() {
            let is = if b.is_some() { "there" } else { "missing" };
            lines.push(format!("keyspace {name} is {is}"));
        }
        let (a, b) = (a.unwrap_or(&empty), b.unwrap_or(&empty));
        let keys: std::collections::BTreeSet<&Vec<u8>> = a.keys().chain(b.keys()).collect();
        for key in keys.into_iter().filter(|key| a.get(*key) != b.get(*key)) {
            let show = |value: Option<&Vec<u8>>| {
                value.map(|v| String::from_utf8_lossy(&v[..v.len().min(8)]).into_owned())
            };
            let key_text = String::from_utf8_lossy(key);
            lines.push(format!(
                "{name}/{key_text} {:?} -> {:?}",
                show(a.get(key)),
                show(b.get(key))
            ));
        }
    }
    lines
}

/// Everything that `db` holds, read in three ways that must agree.
pub fn dump(db: &Db) -> Result<State> {
    let mut state = State::new();
    for name in db.keyspaces()? {
        let keyspace = db.keyspace(&name)?;
        let forward: Vec<_> = keyspace.iter().collect::<Result<_>>()?;
        let mut backward: Vec<_> = keyspace.iter().rev().collect::<Result<_>>()?;
        backward.reverse();
        if forward != backward {
            return Err(Error::corruption("forwards and backwards differ"));
        }
        let entries: BTreeMap<Vec<u8>, Vec<u8>> = forward
            .into_iter()
            .map(|(key, value)| (key.to_vec(), value.to_vec()))
            .collect();
        let all = (0..KEYS).map(|n| format!("key{n:02}").into_bytes());
        for key in all.chain(entries.keys().cloned().collect::<Vec<_>>()) {
            let got = keyspace.get(&key)?;
            if got.as_deref() != entries.get(&key).map(Vec::as_slice) {
                return Err(Error::corruption("get and iter differ"));
            }
        }
        state.insert(name, entries);
    }
    Ok(state)
}

/// Small sizes, so that a few dozen operations go through everything. Follow from `seed`.
pub fn small_options(vfs: Arc<dyn Vfs>, seed: u64) -> Options {
    let mut random = Random::new(seed ^ 0x5eed);
    let sync = random.below(2) == 0;
    let (pread, plain) = (random.below(2) == 0, random.below(2) == 0);
    let list_entries = 4 + random.below(30) as usize;
    let level0_runs = 1 + random.below(3) as usize;
    let manifest_bytes = [1 << 10, 4 << 10, 1 << 20][random.below(3) as usize];
    Options::new()
        .memory(4 << 20)
        .durability(if sync {
            Durability::Sync
        } else {
            Durability::Buffered
        })
        .io(if pread { IoMode::Pread } else { IoMode::Mmap })
        .compression(if plain {
            Compression::None
        } else {
            Compression::Lz4
        })
        .vfs(vfs)
        .tune(|t| {
            t.manual = true;
            t.list_entries = list_entries;
            t.segment_bytes = (16 << 10, Some(16 << 10));
            t.table_bytes = 8 << 10;
            t.base_level_bytes = 16 << 10;
            t.level0_runs = level0_runs;
            t.manifest_bytes = manifest_bytes;
        })
}

/// A workload under way.
#[derive(Debug)]
pub struct Run {
    pub options: Options,
    pub history: Arc<Mutex<History>>,
    pub db: Option<Db>,
    snapshot: Option<(Snapshot, Arc<State>)>,
    sync_by_default: bool,
}

impl Run {
    pub fn new(options: Options, sync_by_default: bool) -> Run {
        Run {
            options,
            history: Arc::new(Mutex::new(History::new())),
            db: None,
            snapshot: None,
            sync_by_default,
        }
    }

    pub fn seeded(vfs: Arc<dyn Vfs>, seed: u64) -> Run {
        let options = small_options(vfs, seed);
        let sync = Random::new(seed ^ 0x5eed).below(2) == 0;
        Run::new(options, sync)
    }

    /// Lets go of handles, as the end of a process would.
    pub fn forget(&mut self) -> Option<Db> {
        self.snapshot = None;
        self.db.take()
    }

    pub fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(|p| p.into_inner())
    }

    pub fn open(&mut self) -> Result<()> {
        self.db = Some(self.options.open(Path::new(DIR))?);
        Ok(())
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("the database is open")
    }

    fn keyspace(&self, index: usize) -> Result<Keyspace> {
        self.db().keyspace(NAMES[index])
    }

    /// Runs one operation. After an error a write may or may not be there if the database is read-only now;
    /// else it must not be.
    pub fn apply(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Open => self.open(),
            Op::Read => {
                let found = dump(self.db())?;
                assert!(found == **self.history().latest(), "wrong answers");
                Ok(())
            }
            Op::Write(parts, durability) => self.write(parts, *durability),
            Op::Sync => {
                self.db().sync()?;
                self.all_durable();
                Ok(())
            }
            Op::Flush => self.working(|db| db.flush()),
            Op::Idle => self.working(|db| db.wait_idle()),
            Op::Compact => self.working(|db| db.compact_all()),
            Op::Create(index) => {
                let mut state = (**self.history().latest()).clone();
                if state.contains_key(NAMES[*index]) {
                    return Ok(());
                }
                state.insert(NAMES[*index].into(), BTreeMap::new());
                self.commit(state, None, |run| run.keyspace(*index).map(|_| ()))
            }
            Op::Drop(index) => {
                let mut state = (**self.history().latest()).clone();
                if state.remove(NAMES[*index]).is_none() {
                    return Ok(());
                }
                self.commit(state, None, |run| run.db().drop_keyspace(NAMES[*index]))
            }
            Op::Reopen => {
                self.check_snapshot()?;
                self.snapshot = None;
                if let Some(db) = self.db.take() {
                    db.close()?;
                }
                self.all_durable();
                self.open()
            }
            Op::Snapshot => {
                let state = self.history().latest().clone();
                self.snapshot = Some((self.db().snapshot(), state));
                Ok(())
            }
            Op::Release => {
                self.check_snapshot()?;
                self.snapshot = None;
                Ok(())
            }
        }
    }

    fn working(&mut self, work: impl Fn(&Db) -> Result<()>) -> Result<()> {
        work(self.db())?;
        self.all_durable();
        self.check_snapshot()
    }

    fn all_durable(&self) {
        let mut history = self.history();
        history.durable = history.returned;
    }

    fn check_snapshot(&self) -> Result<()> {
        let Some((snapshot, state)) = &self.snapshot else {
            return Ok(());
        };
        let found: BTreeMap<Vec<u8>, Vec<u8>> = snapshot
            .iter()
            .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect::<Result<_>>()?;
        assert!(found == state["default"], "a snapshot has changed");
        Ok(())
    }

    fn write(&mut self, parts: &[Part], durability: Option<Durability>) -> Result<()> {
        let mut state = (**self.history().latest()).clone();
        let alive: Vec<&Part> = parts
            .iter()
            .filter(|(index, ..)| state.contains_key(NAMES[*index]))
            .collect();
        if alive.is_empty() {
            return Ok(());
        }
        for (index, key, value) in &alive {
            let entries = state.entry(NAMES[*index].into()).or_default();
            match value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(key),
            };
        }
        self.commit(state, durability, |run| {
            if let ([(index, key, value)], None) = (&alive[..], durability) {
                let keyspace = run.keyspace(*index)?;
                return match value {
                    Some(value) => keyspace.put(key, value),
                    None => keyspace.delete(key),
                }
                .map(|_| ());
            }
            let mut batch = Batch::new();
            for (index, key, value) in &alive {
                let keyspace = run.keyspace(*index)?;
                let mut part = batch.keyspace(&keyspace);
                match value {
                    Some(value) => part.put(key, value),
                    None => part.delete(key),
                };
            }
            if let Some(durability) = durability {
                batch.durability(durability);
            }
            run.db().write(batch).map(|_| ())
        })
    }

    fn commit(
        &mut self,
        state: State,
        durability: Option<Durability>,
        write: impl FnOnce(&Run) -> Result<()>,
    ) -> Result<()> {
        self.history().issue(state);
        let result = write(self);
        let mut history = self.history();
        match &result {
            Ok(()) => {
                history.returned = history.issued();
                history.last_seq = self.db().stats().visible.get();
                let sync = durability.map_or(self.sync_by_default, |d| d == Durability::Sync);
                if sync {
                    history.durable = history.returned;
                }
            }
            Err(error) if error.kind() == ErrorKind::ReadOnly => {}
            Err(_) => history.retract(),
        }
        drop(history);
        result
    }
}
