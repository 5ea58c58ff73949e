//! Operations that read, decide and write as one step, and transactions, beside the model.
//!
//! What each must do follows from the model alone; only then the database is asked.

use std::sync::Arc;

use terrace::{Batch, Bytes, ErrorKind, SeqNo, Swap};

use crate::model::{Change, Expires};
use crate::op::{Action, End, Read, Step, Write, expiry};
use crate::runner::{Runner, change, name_of};
use crate::spaces::default_of;
use crate::trouble::{Outcome, failed};
use crate::{KEYSPACES, reads};

/// What a step must do: the new values of keys, in order; and what it answers.
struct Due {
    changes: Vec<Change>,
    answer: String,
}

fn counter(value: Option<&Bytes>, delta: i64) -> Option<i64> {
    let now = match value {
        None => 0,
        Some(value) => i64::from_le_bytes(value[..].try_into().ok()?),
    };
    now.checked_add(delta)
}

fn joined(value: Option<&Bytes>, more: &Bytes) -> Bytes {
    let old = value.map_or(&[][..], |value| value);
    [old, more].concat().into()
}

fn set(name: &str, key: &Bytes, value: Option<Bytes>, expires: Expires) -> Change {
    match value {
        Some(value) => Change::Put(name.into(), key.clone(), value, expires),
        None => Change::Delete(name.into(), key.clone()),
    }
}

/// What an action makes of a key.
fn made(action: &Action) -> Option<Bytes> {
    match action {
        // Steps and transactions write plain values of single keys.
        Action::Put(value) | Action::PutExpiring(value, _) | Action::Merge(value) => {
            Some(value.bytes())
        }
        Action::Delete | Action::DeleteRange(_) => None,
    }
}

fn swap(swap: Swap) -> String {
    match swap {
        Swap::Done(_) => "done".into(),
        other => format!("{other:?}"),
    }
}

impl Runner {
    pub(crate) fn step(&mut self, name: &str, key: &Bytes, step: &Step) -> Outcome {
        let keyspace = self.handle(name)?;
        let map = self.model().now().map(name);
        let held = map.get(key).map(|entry| entry.value.clone());
        let due = due(name, key, step, &map, default_of(&keyspace));
        drop(map); // Else the model would have to copy it.
        let writes = !due.changes.is_empty();
        if writes {
            self.begin(due.changes);
        }
        let answer = match step {
            Step::PutIfAbsent(value) => keyspace.put_if_absent(key, value.bytes()).map(swap),
            Step::Swap(right, action) => {
                let other = Bytes::from_static(b"something else");
                let expected = if *right { held } else { Some(other) };
                keyspace
                    .compare_and_swap(key, expected.as_deref(), made(action).as_deref())
                    .map(swap)
            }
            Step::Update(action) => {
                let made = made(action);
                let f = |_: Option<&[u8]>| made.as_ref().map(|made| made.to_vec());
                keyspace.update(key, f).map(|now| format!("{now:?}"))
            }
            Step::Add(delta) => match keyspace.add_i64(key, *delta) {
                Err(error) if error.kind() == ErrorKind::Invalid => Ok("invalid".into()),
                sum => sum.map(|sum| sum.to_string()),
            },
            Step::Append(value) => {
                let appended = keyspace.append(key, value.bytes());
                appended.map(|_| "appended".into())
            }
            Step::Take => keyspace.take(key).map(|taken| format!("{taken:?}")),
            Step::Pop(End::Front) => keyspace.pop_first().map(|popped| format!("{popped:?}")),
            Step::Pop(End::Back) => keyspace.pop_last().map(|popped| format!("{popped:?}")),
            Step::Batch(right, value) => {
                let version = keyspace.get_entry(key);
                let version = failed("get_entry", version)?.map(|entry| entry.version);
                let mut batch = Batch::new();
                let mut part = batch.keyspace(&keyspace);
                match (version, right) {
                    (None, true) => part.require_absent(key),
                    (Some(version), true) => part.require_version(key, version),
                    (None, false) => part.require_version(key, SeqNo::new(1)),
                    (Some(_), false) => part.require_absent(key),
                };
                part.delete(key).add_i64(key, 5).add_i64(key, -7);
                part.append(key, value.bytes());
                match self.db()?.write(batch) {
                    Err(error) if error.kind() == ErrorKind::Conflict => {
                        Ok(format!("{:?}", error.key()))
                    }
                    done => done.map(|_| "done".into()),
                }
            }
        };
        let answer = failed("a step", answer)?;
        if answer != due.answer {
            return Err(format!("{answer} instead of {}", due.answer).into());
        }
        match writes {
            true => self.end(Some(self.db()?.stats().visible), self.default_durability),
            false => Ok(()),
        }
    }

    /// A transaction alone: it must see its own writes, and nothing may be in its way.
    pub(crate) fn transaction(
        &mut self,
        writes: &[Write],
        undone: usize,
        read: &Read,
        commit: bool,
    ) -> Outcome {
        let keyspaces: Vec<_> = (0..KEYSPACES.len())
            .filter(|n| {
                writes
                    .iter()
                    .any(|write| write.keyspace % KEYSPACES.len() == *n)
            })
            .map(|n| self.handle(name_of(n)))
            .collect::<Outcome<_>>()?;
        let tx = self.db()?.transaction();
        let mut after = self.model().now().clone();
        let mut kept: std::collections::BTreeMap<(String, Bytes), Change> = Default::default();
        let mut ranges = Vec::new();
        for (i, write) in writes.iter().enumerate() {
            let name = name_of(write.keyspace);
            let keyspace = keyspaces.iter().find(|keyspace| keyspace.name() == name);
            let Some(keyspace) = keyspace else { continue };
            let point = tx.savepoint();
            let (part, key) = (tx.keyspace(keyspace), &write.key);
            let written = match &write.action {
                Action::Put(value) | Action::Merge(value) => part.put(key, value.bytes()),
                Action::PutExpiring(value, at_once) => {
                    part.put_expiring(key, value.bytes(), expiry(*at_once))
                }
                Action::Delete => part.delete(key),
                Action::DeleteRange(Some(end)) => part.delete_range(key..end),
                Action::DeleteRange(None) => part.delete_range(key..),
            };
            failed("a write of a transaction", written)?;
            if i < undone {
                failed("rollback_to", tx.rollback_to(&point))?;
                continue;
            }
            let change = change(write, default_of(keyspace));
            after.apply(&crate::Commit {
                changes: vec![change.clone()],
                last: None,
            });
            if let Action::DeleteRange(end) = &write.action {
                kept.retain(|(of, key), _| {
                    let behind = end.as_ref().is_some_and(|end| key >= end);
                    of != name || *key < write.key || behind
                });
                ranges.push(change);
                continue;
            }
            kept.insert((name.into(), write.key.clone()), change);
        }
        for keyspace in &keyspaces {
            // The versions of what it has not written itself are those of the model.
            let mut map = after.keyspaces.remove(keyspace.name()).unwrap_or_default();
            let own = kept.keys().filter(|(name, _)| name == keyspace.name());
            for (_, key) in own {
                if let Some(entry) = Arc::make_mut(&mut map).get_mut(key) {
                    entry.version = Some(SeqNo::MAX);
                }
            }
            reads::check(&tx.keyspace(keyspace), &map, read)?;
        }
        if !commit {
            tx.rollback();
            return Ok(());
        }
        // In which order keyspaces are written only the database knows, and so which version each
        // key gets.
        let mut names = kept.keys().map(|(name, _)| name);
        let first = names.next().cloned();
        let one = names.all(|name| first.as_ref() == Some(name));
        // Range deletes come first: what was written to them before is gone, and what came later is
        // not.
        let changes: Vec<Change> = ranges.into_iter().chain(kept.into_values()).collect();
        if changes.is_empty() {
            return failed("commit", tx.commit()).map(|_| ());
        }
        self.begin(changes);
        let last = failed("commit", tx.commit())?;
        self.end(one.then_some(last), self.default_durability)
    }
}

fn due(name: &str, key: &Bytes, step: &Step, map: &crate::Map, default: Expires) -> Due {
    let entry = map.get(key);
    let held = entry.map(|entry| &entry.value);
    let expires = entry.map_or(default, |entry| entry.expires);
    let to = |value: Option<Bytes>, answer: String| Due {
        changes: vec![set(name, key, value, expires)],
        answer,
    };
    let nothing = |answer: String| Due {
        changes: Vec::new(),
        answer,
    };
    let found = || nothing(format!("{:?}", Swap::Found(held.cloned())));
    match step {
        Step::PutIfAbsent(_) if held.is_some() => found(),
        Step::PutIfAbsent(value) => to(Some(value.bytes()), "done".into()),
        Step::Swap(true, action) => to(made(action), "done".into()),
        Step::Swap(false, _) => found(),
        Step::Update(action) => match made(action) {
            None if held.is_none() => nothing("None".into()),
            now => to(now.clone(), format!("{now:?}")),
        },
        Step::Add(delta) => match counter(held, *delta) {
            Some(sum) => to(Some(sum.to_le_bytes().to_vec().into()), sum.to_string()),
            None => nothing("invalid".into()),
        },
        Step::Append(value) => to(Some(joined(held, &value.bytes())), "appended".into()),
        Step::Take => match held {
            Some(_) => to(None, format!("{held:?}")),
            None => nothing("None".into()),
        },
        Step::Pop(end) => {
            let popped = match end {
                End::Front => map.first_key_value(),
                End::Back => map.last_key_value(),
            };
            let popped = popped.map(|(key, entry)| (key.clone(), entry.value.clone()));
            Due {
                answer: format!("{popped:?}"),
                changes: popped
                    .iter()
                    .map(|(key, _)| set(name, key, None, default))
                    .collect(),
            }
        }
        Step::Batch(false, _) => nothing(format!("{:?}", Some(&key[..]))),
        Step::Batch(true, value) => {
            let (five, two) = (5i64.to_le_bytes(), (-2i64).to_le_bytes());
            let last = [&two[..], &value.bytes()].concat();
            let steps = [None, Some(five.to_vec()), Some(two.to_vec()), Some(last)];
            Due {
                changes: steps
                    .map(|value| set(name, key, value.map(Bytes::from), default))
                    .into(),
                answer: "done".into(),
            }
        }
    }
}
