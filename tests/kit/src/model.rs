//! What a database must hold: a map per keyspace, and the commits in order, so that the state after any prefix
//! of them can be had.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use terrace::{Bytes, SeqNo};

use crate::digest;

/// When a value expires. A write without an expiry of its own gets the default of its keyspace; a
/// read-modify-write keeps what the entry has, and gets the default where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expires {
    /// It does not.
    #[default]
    Never,
    /// At the time that [`expiry`](crate::expiry) says, which is far away.
    Later,
    /// By the default of its keyspace, [`AGES`](crate::AGES) after its write.
    Default,
}

/// A value and the version that it must have, if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// When it expires.
    pub expires: Expires,
    /// The sequence number of its write.
    pub version: Option<SeqNo>,
}

/// The entries of a keyspace.
pub type Map = BTreeMap<Bytes, Entry>;

/// The state after some commits. Clones share maps until they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The keyspaces by name; the default one is always there.
    pub keyspaces: BTreeMap<String, Arc<Map>>,
    digest: u64,
}

impl Default for State {
    fn default() -> State {
        State {
            keyspaces: BTreeMap::from([("default".into(), Arc::default())]),
            digest: digest::name("default"),
        }
    }
}

/// One step of a commit.
#[derive(Clone, Debug)]
pub enum Change {
    /// A keyspace is created.
    Create(String),
    /// A keyspace is dropped.
    Drop(String),
    /// A keyspace gets another name.
    Rename(String, String),
    /// Keys are set, under one sequence number; all of them expire alike.
    Ingest(String, Vec<(Bytes, Bytes)>, Expires),
    /// A key is set.
    Put(String, Bytes, Bytes, Expires),
    /// A key's value is followed by more. Where there is none, a value is set that expires so.
    Merge(String, Bytes, Bytes, Expires),
    /// A key is removed.
    Delete(String, Bytes),
    /// All keys from one on are removed, up to before another one if it is given.
    DeleteRange(String, Bytes, Option<Bytes>),
}

/// What is there whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Its steps in order.
    pub changes: Vec<Change>,
    /// The sequence number of the last, once it is known.
    pub last: Option<SeqNo>,
}

impl State {
    /// A number that states with the same keyspaces, keys and values have in common, and no others.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Takes a commit in.
    pub fn apply(&mut self, commit: &Commit) {
        for change in &commit.changes {
            let before = self.digest;
            self.digest = match change {
                Change::Create(name) => {
                    self.keyspaces.insert(name.clone(), Arc::default());
                    before.wrapping_add(digest::name(name))
                }
                Change::Drop(name) => match self.keyspaces.remove(name) {
                    Some(map) => before.wrapping_sub(digest::keyspace(name, map.iter())),
                    None => before,
                },
                Change::Rename(from, to) => match self.keyspaces.remove(from) {
                    Some(map) => {
                        let gone = before.wrapping_sub(digest::keyspace(from, map.iter()));
                        let come = gone.wrapping_add(digest::keyspace(to, map.iter()));
                        self.keyspaces.insert(to.clone(), map);
                        come
                    }
                    None => before,
                },
                Change::Ingest(name, entries, expires) => {
                    for (key, value) in entries {
                        self.digest = self.set(name, key, Some((value, *expires)));
                    }
                    self.digest
                }
                Change::Put(name, key, value, expires) => {
                    self.set(name, key, Some((value, *expires)))
                }
                Change::Merge(name, key, operand, expires) => {
                    let older = self.keyspaces.get(name).and_then(|map| map.get(key));
                    let (value, expires) = match older {
                        Some(entry) => ([&entry.value, &operand[..]].concat(), entry.expires),
                        None => (operand.to_vec(), *expires),
                    };
                    self.set(name, key, Some((&value.into(), expires)))
                }
                Change::Delete(name, key) => self.set(name, key, None),
                Change::DeleteRange(name, lower, upper) => {
                    let map = self.map(name);
                    let keys = map.range(lower.clone()..).map(|(key, _)| key);
                    let within = keys.take_while(|key| upper.as_ref().is_none_or(|end| *key < end));
                    for key in within {
                        self.digest = self.set(name, key, None);
                    }
                    self.digest
                }
            };
        }
        self.number(commit);
    }

    /// Sets or removes a key, and returns the digest that follows.
    fn set(&mut self, name: &str, key: &Bytes, value: Option<(&Bytes, Expires)>) -> u64 {
        let Some(map) = self.keyspaces.get_mut(name) else {
            return self.digest;
        };
        let map = Arc::make_mut(map);
        let entry = |value: &Bytes| digest::entry(name, key, value);
        let old = match value {
            Some((value, expires)) => {
                let new = Entry {
                    value: value.clone(),
                    expires,
                    version: None,
                };
                map.insert(key.clone(), new)
            }
            None => map.remove(key),
        };
        let (old, new) = (
            old.map_or(0, |old| entry(&old.value)),
            value.map_or(0, |(value, _)| entry(value)),
        );
        self.digest.wrapping_sub(old).wrapping_add(new)
    }

    /// Gives the entries that the last commit set their versions.
    fn number(&mut self, commit: &Commit) {
        let Some(last) = commit.last else { return };
        for (behind, change) in commit.changes.iter().rev().enumerate().rev() {
            let (name, keys) = match change {
                Change::Put(name, key, ..) | Change::Merge(name, key, ..) => (name, vec![key]),
                Change::Ingest(name, entries, _) => {
                    (name, entries.iter().map(|(k, _)| k).collect())
                }
                _ => continue,
            };
            let Some(map) = self.keyspaces.get_mut(name) else {
                continue;
            };
            for key in keys {
                if let Some(entry) = Arc::make_mut(map).get_mut(key) {
                    entry.version = Some(SeqNo::new(last.get() - behind as u64));
                }
            }
        }
    }

    /// The entries of a keyspace; none if there is no such keyspace.
    pub fn map(&self, name: &str) -> Arc<Map> {
        self.keyspaces.get(name).cloned().unwrap_or_default()
    }
}

/// States are kept every so many commits.
const EVERY: usize = 64;

/// The commits in order.
#[derive(Clone, Debug)]
pub struct Model {
    log: Vec<Commit>,
    /// The state after `i * EVERY` commits.
    kept: Vec<State>,
    /// The digest of the state after `i` commits.
    digests: Vec<u64>,
    now: State,
    /// Every key that was ever set or removed, by keyspace.
    keys: BTreeMap<String, BTreeSet<Bytes>>,
}

impl Default for Model {
    fn default() -> Model {
        let now = State::default();
        Model {
            log: Vec::new(),
            kept: vec![now.clone()],
            digests: vec![now.digest()],
            now,
            keys: BTreeMap::new(),
        }
    }
}

impl Model {
    /// No commits.
    pub fn new() -> Model {
        Model::default()
    }

    /// Appends a commit.
    pub fn commit(&mut self, commit: Commit) {
        self.now.apply(&commit);
        for change in &commit.changes {
            match change {
                Change::Put(name, key, ..)
                | Change::Merge(name, key, ..)
                | Change::Delete(name, key) => {
                    if !self.keys.contains_key(name) {
                        self.keys.insert(name.clone(), BTreeSet::new());
                    }
                    if let Some(keys) = self.keys.get_mut(name)
                        && !keys.contains(key)
                    {
                        keys.insert(key.clone());
                    }
                }
                Change::Ingest(name, entries, _) => {
                    let keys = entries.iter().map(|(key, _)| key.clone());
                    self.keys.entry(name.clone()).or_default().extend(keys);
                }
                Change::Rename(from, to) => {
                    let keys = self.keys.get(from).cloned().unwrap_or_default();
                    self.keys.entry(to.clone()).or_default().extend(keys);
                }
                Change::Create(_) | Change::Drop(_) | Change::DeleteRange(..) => {}
            }
        }
        self.log.push(commit);
        self.digests.push(self.now.digest());
        self.keep();
    }

    fn keep(&mut self) {
        if self.log.len().is_multiple_of(EVERY) {
            self.kept.truncate(self.log.len() / EVERY);
            self.kept.push(self.now.clone());
        }
    }

    /// Says which sequence number the last commit got.
    pub fn confirm(&mut self, last: SeqNo) {
        if let Some(commit) = self.log.last_mut() {
            commit.last = Some(last);
            self.now.number(commit);
            self.keep();
        }
    }

    /// Forgets all commits but the first `len`, as a crash does.
    pub fn truncate(&mut self, len: usize) {
        let now = self.state_after(len);
        self.log.truncate(len);
        self.digests.truncate(self.log.len() + 1);
        self.kept.truncate(self.log.len() / EVERY + 1);
        self.now = now;
    }

    /// The most commits within `allowed` after which the state has this digest.
    pub fn find(&self, digest: u64, allowed: RangeInclusive<usize>) -> Option<usize> {
        let mut allowed = *allowed.start()..=(*allowed.end()).min(self.len());
        allowed.rfind(|&n| self.digests.get(n) == Some(&digest))
    }

    /// The digest of the state after the first `n` commits, or after all if there are fewer.
    pub fn digest_after(&self, n: usize) -> u64 {
        let digest = self.digests.get(n).copied();
        digest.unwrap_or(self.now.digest())
    }

    /// Every key that was ever set or removed in a keyspace.
    pub fn keys(&self, keyspace: &str) -> impl Iterator<Item = &Bytes> {
        self.keys.get(keyspace).into_iter().flatten()
    }

    /// How many commits there are.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// The commits in order.
    pub fn log(&self) -> &[Commit] {
        &self.log
    }

    /// The state after all commits.
    pub fn now(&self) -> &State {
        &self.now
    }

    /// The state after the first `n` commits, or after all if there are fewer.
    pub fn state_after(&self, n: usize) -> State {
        let n = n.min(self.log.len());
        let at = n / EVERY;
        let mut state = self.kept.get(at).cloned().unwrap_or_default();
        for commit in self.log.iter().take(n).skip(at * EVERY) {
            state.apply(commit);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: usize, value: usize) -> Commit {
        let bytes = |n: usize| Bytes::from(n.to_string());
        Commit {
            changes: vec![Change::Put(
                "default".into(),
                bytes(key),
                bytes(value),
                Expires::Never,
            )],
            last: None,
        }
    }

    #[test]
    fn every_prefix_can_be_had_again() {
        let mut model = Model::new();
        let mut states = vec![State::default()];
        for i in 0..300 {
            model.commit(put(i % 7, i));
            model.confirm(SeqNo::new(i as u64 + 1));
            states.push(model.now().clone());
        }
        for (n, state) in states.iter().enumerate() {
            assert_eq!(model.state_after(n), *state, "after {n}");
            assert_eq!(model.find(state.digest(), n..=n), Some(n));
            assert_eq!(model.find(state.digest(), n + 1..=300), None);
        }
        model.truncate(130);
        assert_eq!((model.len(), model.now()), (130, &states[130]));
        model.commit(put(9, 9));
        assert_eq!(model.state_after(130), states[130]);
    }
}
