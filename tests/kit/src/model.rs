//! What a database must hold: a map per keyspace, and the commits in order, so that the state after any prefix
//! of them can be had.

use std::collections::BTreeMap;
use std::sync::Arc;

use terrace::{Bytes, SeqNo};

/// A value and the version that it must have, if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
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
}

impl Default for State {
    fn default() -> State {
        State {
            keyspaces: BTreeMap::from([("default".into(), Arc::default())]),
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
    /// A key is set.
    Put(String, Bytes, Bytes),
    /// A key is removed.
    Delete(String, Bytes),
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
    /// Takes a commit in.
    pub fn apply(&mut self, commit: &Commit) {
        let count = commit.changes.len() as u64;
        for (i, change) in commit.changes.iter().enumerate() {
            let behind = count - 1 - i as u64;
            let version = commit.last.map(|last| SeqNo::new(last.get() - behind));
            match change {
                Change::Create(name) => {
                    self.keyspaces.insert(name.clone(), Arc::default());
                }
                Change::Drop(name) => {
                    self.keyspaces.remove(name);
                }
                Change::Put(name, key, value) => {
                    let value = value.clone();
                    if let Some(map) = self.keyspaces.get_mut(name) {
                        Arc::make_mut(map).insert(key.clone(), Entry { value, version });
                    }
                }
                Change::Delete(name, key) => {
                    if let Some(map) = self.keyspaces.get_mut(name) {
                        Arc::make_mut(map).remove(key);
                    }
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
#[derive(Clone, Debug, Default)]
pub struct Model {
    log: Vec<Commit>,
    /// The state after `i * EVERY` commits.
    kept: Vec<State>,
    now: State,
}

impl Model {
    /// No commits.
    pub fn new() -> Model {
        Model {
            kept: vec![State::default()],
            ..Model::default()
        }
    }

    /// Appends a commit.
    pub fn commit(&mut self, commit: Commit) {
        self.now.apply(&commit);
        self.log.push(commit);
        if self.log.len().is_multiple_of(EVERY) {
            self.kept.push(self.now.clone());
        }
    }

    /// Says which sequence number the last commit got.
    pub fn confirm(&mut self, last: SeqNo) {
        let Some(mut commit) = self.log.pop() else {
            return;
        };
        commit.last = Some(last);
        // Applying it once more changes versions only: a commit's changes are idempotent, unless it creates.
        let creates = |change: &Change| matches!(change, Change::Create(_) | Change::Drop(_));
        if !commit.changes.iter().any(creates) {
            self.now.apply(&commit);
        }
        self.log.push(commit);
        if self.log.len().is_multiple_of(EVERY) {
            self.kept.pop();
            self.kept.push(self.now.clone());
        }
    }

    /// Forgets all commits but the first `len`, as a crash does.
    pub fn truncate(&mut self, len: usize) {
        let now = self.state_after(len);
        self.log.truncate(len);
        self.kept.truncate(self.log.len() / EVERY + 1);
        self.now = now;
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
            changes: vec![Change::Put("default".into(), bytes(key), bytes(value))],
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
        }
        model.truncate(130);
        assert_eq!((model.len(), model.now()), (130, &states[130]));
        model.commit(put(9, 9));
        assert_eq!(model.state_after(130), states[130]);
    }
}
