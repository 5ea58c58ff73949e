//! Many transactions at once, and whether any order of them, one after another, explains what they saw.
//!
//! Threads run random transactions over few keys. Each value names the transaction that wrote it,
//! so that a read tells whose write it saw; a range read is a read of each key that it could have
//! held, absent ones included. The order of a key's versions is that of their commits. From this
//! follow all dependencies (Adya, "Weak consistency", 1999):
//!
//! ```text
//! ww  who wrote a version  -> who wrote the next       wr  who wrote it -> who read it
//! rw  who read a version   -> who wrote the next
//! ```
//!
//! The transactions are serializable if these make no cycle. Beside that each read must be of the
//! version that was newest at the sequence number that its transaction began at.

#![allow(clippy::unwrap_used)] // What fails here is the database's doing: it ends the test.

use std::collections::{BTreeMap, HashMap};

use terrace::{Batch, Bytes, Db, ErrorKind, Isolation, Keyspace, Transaction};

use crate::Random;

/// Keys of each of the two keyspaces.
const KEYS: u8 = 12;

/// A key: 0 or 1 for the keyspace, and its one byte.
type Key = (u8, u8);

/// A transaction that was committed.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Its values name it so.
    pub id: u64,
    /// It saw what was committed up to here.
    pub began: u64,
    /// The sequence number of its last write; none if it wrote nothing.
    pub committed: Option<u64>,
    /// What it read, its own writes aside: the key, and whose value it had.
    pub reads: Vec<(Key, Option<u64>)>,
    /// What it wrote: the key, and false for a delete.
    pub writes: BTreeMap<Key, bool>,
}

/// What a search has found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Transactions committed.
    pub committed: u64,
    /// Transactions that were not: commits refused, and some rolled back.
    pub given_up: u64,
    /// Dependencies between transactions.
    pub dependencies: u64,
    /// What cannot be explained; empty if all is well.
    pub anomalies: Vec<String>,
}

/// Runs `each` transactions on each of `threads` threads, and looks at what they saw.
pub fn round(db: &Db, seed: u64, threads: u64, each: u64, isolation: Isolation) -> Findings {
    let other = db.keyspace("other").unwrap();
    let (mut history, mut given_up) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let (db, other) = (db, &other);
                scope.spawn(move || {
                    let r = &mut Random::new(seed.wrapping_mul(1000) + thread);
                    let mut done = Vec::new();
                    for n in 0..each {
                        done.extend(one(db, other, 1 + n * threads + thread, r, isolation));
                    }
                    done
                })
            })
            .collect();
        for thread in running {
            let done = thread.join().unwrap();
            given_up += each - done.len() as u64;
            history.extend(done);
        }
    });
    let mut findings = search(&history);
    findings.given_up = given_up;
    let last = Done {
        id: u64::MAX,
        began: u64::MAX,
        reads: (0..2u8)
            .flat_map(|space| (0..KEYS).map(move |byte| (space, byte)))
            .map(|(space, byte)| {
                let value = [&**db, &other][space as usize].get([byte]).unwrap();
                ((space, byte), value.map(id_of))
            })
            .collect(),
        ..Done::default()
    };
    history.push(last);
    findings.anomalies.extend(search(&history).anomalies);
    findings.anomalies.dedup();
    findings
}

fn id_of(value: Bytes) -> u64 {
    u64::from_le_bytes(value[..8].try_into().unwrap())
}

/// One transaction; `None` if it was refused.
fn one(db: &Db, other: &Keyspace, id: u64, r: &mut Random, isolation: Isolation) -> Option<Done> {
    let mut done = Done {
        id,
        ..Done::default()
    };
    if r.one_in(8) {
        return Some(blind(db, other, done, r));
    }
    let tx = db.transaction().isolation(isolation);
    done.began = tx.seq().get();
    for _ in 0..1 + r.below(5) {
        let key = (r.below(2) as u8, r.below(KEYS as usize) as u8);
        match r.below(9) {
            8 => delete_range(&tx, other, key, &mut done, r),
            0..=2 => get(&tx, other, key, &mut done),
            3 | 4 => scan(&tx, other, key, &mut done, r),
            5 => {
                done.writes.insert(key, false);
                match key.0 {
                    0 => tx.delete([key.1]).unwrap(),
                    _ => tx.keyspace(other).delete([key.1]).unwrap(),
                }
            }
            _ => {
                done.writes.insert(key, true);
                match key.0 {
                    0 => tx.put([key.1], id.to_le_bytes()).unwrap(),
                    _ => tx.keyspace(other).put([key.1], id.to_le_bytes()).unwrap(),
                }
            }
        }
        if r.one_in(2) {
            std::thread::yield_now(); // Others get in between.
        }
    }
    if r.one_in(10) {
        tx.rollback(); // Its values must never be seen.
        return None;
    }
    match tx.commit() {
        Ok(seq) => {
            done.committed = (!done.writes.is_empty()).then(|| seq.get());
            Some(done)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            None
        }
    }
}

/// A batch beside the transactions.
fn blind(db: &Db, other: &Keyspace, mut done: Done, r: &mut Random) -> Done {
    let mut batch = Batch::new();
    for _ in 0..1 + r.below(3) {
        let key = (r.below(2) as u8, r.below(KEYS as usize) as u8);
        done.writes.insert(key, true);
        match key.0 {
            0 => drop(batch.put([key.1], done.id.to_le_bytes())),
            _ => drop(batch.keyspace(other).put([key.1], done.id.to_le_bytes())),
        }
    }
    let seq = db.write(batch).unwrap().get();
    (done.committed, done.began) = (Some(seq), seq);
    done
}

/// Checks a read against the own writes; what is not of them is noted.
fn saw(done: &mut Done, key: Key, value: Option<u64>) {
    match done.writes.get(&key) {
        Some(true) => assert_eq!(value, Some(done.id), "an own write is not seen"),
        Some(false) => assert_eq!(value, None, "an own delete is not seen"),
        None => done.reads.push((key, value)),
    }
}

fn get(tx: &Transaction, other: &Keyspace, key: Key, done: &mut Done) {
    let value = match key.0 {
        0 => tx.get([key.1]).unwrap(),
        _ => tx.keyspace(other).get([key.1]).unwrap(),
    };
    saw(done, key, value.map(id_of));
}

/// A range from `key` on, gone over from either end, wholly or for a few steps.
fn scan(tx: &Transaction, other: &Keyspace, key: Key, done: &mut Done, r: &mut Random) {
    let (space, lower) = key;
    let upper = lower + 1 + r.below((KEYS - lower) as usize) as u8;
    let range = [lower]..[upper];
    let mut iter = match space {
        0 => tx.range(range),
        _ => tx.keyspace(other).range(range),
    };
    let (back, most) = (r.one_in(2), 1 + r.below(KEYS as usize));
    let mut found = BTreeMap::new();
    let mut end = None;
    for _ in 0..most {
        let next = if back { iter.next_back() } else { iter.next() };
        let Some(entry) = next else {
            end = None;
            break;
        };
        let (key, value) = entry.unwrap();
        found.insert(key[0], id_of(value));
        end = Some(key[0]);
    }
    // As far as it went, every key is there or was seen to be absent.
    let seen = match (end, back) {
        (None, _) => lower..upper,
        (Some(end), false) => lower..end + 1,
        (Some(end), true) => end..upper,
    };
    for byte in seen {
        saw(done, (space, byte), found.get(&byte).copied());
    }
}

/// Deletes a range from `key` on, which is a delete of each key that it could hold.
fn delete_range(tx: &Transaction, other: &Keyspace, key: Key, done: &mut Done, r: &mut Random) {
    let (space, lower) = key;
    let upper = lower + 1 + r.below(4.min(KEYS - lower) as usize) as u8;
    let range = [lower]..[upper];
    match space {
        0 => tx.delete_range(range).unwrap(),
        _ => tx.keyspace(other).delete_range(range).unwrap(),
    }
    let keys = (lower..upper).map(|byte| ((space, byte), false));
    done.writes.extend(keys);
}

/// A version of a key: when it was committed, by which transaction of the history, and whether it
/// is a value.
type Version = (u64, usize, bool);

/// Looks for what no serial order explains.
pub fn search(history: &[Done]) -> Findings {
    let mut versions: HashMap<Key, Vec<Version>> = HashMap::new();
    for (i, done) in history.iter().enumerate() {
        for (key, live) in &done.writes {
            let version = (done.committed.unwrap_or(0), i, *live);
            versions.entry(*key).or_default().push(version);
        }
    }
    let mut edges: Vec<Vec<usize>> = vec![Vec::new(); history.len()];
    for of_key in versions.values_mut() {
        of_key.sort_unstable();
        for pair in of_key.windows(2) {
            edges[pair[0].1].push(pair[1].1);
        }
    }
    let mut findings = Findings {
        committed: history.len() as u64,
        ..Findings::default()
    };
    for (i, done) in history.iter().enumerate() {
        for (key, value) in &done.reads {
            let of_key = versions.get(key).map_or(&[][..], |of_key| of_key);
            let behind = of_key.partition_point(|(seq, _, _)| *seq <= done.began);
            let seen = behind.checked_sub(1).map(|at| of_key[at]);
            let expected = seen.and_then(|(_, by, live)| live.then(|| history[by].id));
            if *value != expected {
                findings.anomalies.push(format!(
                    "{} read {value:?} of {key:?} at #{}, which has {expected:?}",
                    done.id, done.began
                ));
            }
            if let Some((_, by, _)) = seen {
                edges[by].push(i);
            }
            if let Some((_, next, _)) = of_key.get(behind)
                && *next != i
            {
                edges[i].push(*next);
            }
        }
    }
    findings.dependencies = edges.iter().map(|edges| edges.len() as u64).sum();
    findings.anomalies.extend(cycle(history, &edges));
    findings
}

/// A cycle, if there is one, as text.
fn cycle(history: &[Done], edges: &[Vec<usize>]) -> Option<String> {
    let mut before = vec![0; history.len()];
    for to in edges.iter().flatten() {
        before[*to] += 1;
    }
    let mut free: Vec<usize> = (0..history.len()).filter(|i| before[*i] == 0).collect();
    let mut left = history.len();
    while let Some(i) = free.pop() {
        left -= 1;
        for to in &edges[i] {
            before[*to] -= 1;
            if before[*to] == 0 {
                free.push(*to);
            }
        }
    }
    if left == 0 {
        return None;
    }
    // Each of those left has one of them before it: going from one to the next ends in a circle.
    let mut from = vec![None; history.len()];
    for (i, edges) in edges.iter().enumerate().filter(|(i, _)| before[*i] > 0) {
        edges.iter().for_each(|to| from[*to] = Some(i));
    }
    let mut at = before.iter().position(|n| *n > 0)?;
    let mut visited = Vec::new();
    while !visited.contains(&at) {
        visited.push(at);
        at = from[at]?;
    }
    let start = visited.iter().position(|i| *i == at)?;
    let circle = visited[start..].iter().rev();
    let told: Vec<String> = circle.map(|i| format!("{:?}", history[*i])).collect();
    Some(format!("a cycle of {}:\n{}", told.len(), told.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: Key = (0, 1);
    const Y: Key = (0, 2);

    fn done(
        id: u64,
        began: u64,
        committed: Option<u64>,
        reads: &[(Key, Option<u64>)],
        writes: &[Key],
    ) -> Done {
        Done {
            id,
            began,
            committed,
            reads: reads.to_vec(),
            writes: writes.iter().map(|key| (*key, true)).collect(),
        }
    }

    #[test]
    fn a_serial_history_has_no_cycle() {
        let history = [
            done(1, 0, Some(1), &[], &[X, Y]),
            done(2, 1, Some(2), &[(X, Some(1))], &[Y]),
            done(3, 1, None, &[(Y, Some(1))], &[]),
            done(4, 2, Some(3), &[(Y, Some(2))], &[X]),
        ];
        assert_eq!(search(&history).anomalies, [""; 0]);
        assert_eq!(search(&history).dependencies, 7);
    }

    #[test]
    fn every_anomaly_is_found() {
        let write_skew = [
            done(1, 0, Some(1), &[(X, None)], &[Y]),
            done(2, 0, Some(2), &[(Y, None)], &[X]),
        ];
        let lost_update = [
            done(1, 0, Some(1), &[(X, None)], &[X]),
            done(2, 0, Some(2), &[(X, None)], &[X]),
        ];
        let read_only = [
            done(1, 0, Some(9), &[(X, None), (Y, None)], &[X]),
            done(2, 0, Some(5), &[(Y, None)], &[Y]),
            done(3, 5, None, &[(X, None), (Y, Some(2))], &[]),
        ];
        for history in [&write_skew[..], &lost_update, &read_only] {
            let anomalies = search(history).anomalies;
            assert_eq!(anomalies.len(), 1, "{anomalies:?}");
            assert!(anomalies[0].starts_with("a cycle"), "{anomalies:?}");
        }
        let wrong_moment = [
            done(1, 0, Some(1), &[], &[X]),
            done(2, 1, None, &[(X, None)], &[]),
        ];
        assert!(search(&wrong_moment).anomalies[0].contains("which has Some(1)"));
    }
}
