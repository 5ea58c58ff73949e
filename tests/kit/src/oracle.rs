//! Reading a whole database every way there is, and saying which prefix of the commits it holds.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use terrace::{Bytes, Db, Keyspace};

use crate::Outcome;
use crate::model::{Model, State};

/// What a database holds: the entries of each keyspace.
pub type Contents = BTreeMap<String, BTreeMap<Bytes, Bytes>>;

/// Reads whole databases.
#[derive(Clone, Copy, Debug)]
pub struct Oracle;

impl Oracle {
    /// Reads everything: each keyspace forwards, backwards and key by key. These must agree.
    ///
    /// # Errors
    /// Any error of the database, and any two answers that differ.
    pub fn read(db: &Db) -> Outcome<Contents> {
        let names = db
            .keyspaces()
            .map_err(|error| format!("keyspaces: {error:?}"))?;
        let mut contents = Contents::new();
        for name in names {
            let keyspace = db
                .keyspace(&name)
                .map_err(|error| format!("keyspace {name:?}: {error:?}"))?;
            let map = read_keyspace(&keyspace).map_err(|e| format!("keyspace {name:?}: {e}"))?;
            contents.insert(name, map);
        }
        Ok(contents)
    }

    /// Reads everything and says after how many commits of `model` it is what must be there; the most, if it
    /// is so after several.
    ///
    /// # Errors
    /// Those of [`Oracle::read`]; and if it equals no state after `allowed` many commits, how it differs
    /// from the nearest.
    pub fn check(db: &Db, model: &Model, allowed: RangeInclusive<usize>) -> Outcome<usize> {
        let contents = Oracle::read(db)?;
        absent_keys(db, model, &contents)?;
        let (least, most) = (*allowed.start(), (*allowed.end()).min(model.len()));
        let mut nearest: Option<(usize, Vec<String>)> = None;
        for n in (least..=most).rev() {
            let differences = differences(&contents, &model.state_after(n));
            if differences.is_empty() {
                return Ok(n);
            }
            if nearest
                .as_ref()
                .is_none_or(|(_, best)| differences.len() < best.len())
            {
                nearest = Some((n, differences));
            }
        }
        let elsewhere = (0..=model.len())
            .rev()
            .find(|&n| differences(&contents, &model.state_after(n)).is_empty());
        let (n, differences) = nearest.unwrap_or_default();
        let shown: Vec<String> = differences.iter().take(8).cloned().collect();
        Err(format!(
            "not the state after {least} to {most} commits (after {elsewhere:?} of {}); from that after {n} it \
             differs in {} places: {}",
            model.len(),
            differences.len(),
            shown.join("; ")
        ))
    }
}

fn read_keyspace(keyspace: &Keyspace) -> Outcome<BTreeMap<Bytes, Bytes>> {
    let forwards: Result<Vec<_>, _> = keyspace.iter().collect();
    let forwards = forwards.map_err(|error| format!("a scan failed: {error:?}"))?;
    if let Some(pair) = forwards.windows(2).find(|pair| match pair {
        [a, b] => a.0 >= b.0,
        _ => false,
    }) {
        return Err(format!("a scan is out of order: {}", brief(&pair)));
    }
    let backwards: Result<Vec<_>, _> = keyspace.iter().rev().collect();
    let mut backwards = backwards.map_err(|error| format!("a backward scan failed: {error:?}"))?;
    backwards.reverse();
    if forwards != backwards {
        let at = forwards.iter().zip(&backwards).position(|(a, b)| a != b);
        return Err(format!(
            "{} entries forwards and {} backwards; they differ from number {at:?} on",
            forwards.len(),
            backwards.len()
        ));
    }
    for (key, value) in &forwards {
        let got = keyspace
            .get(key)
            .map_err(|error| format!("get {key:?}: {error:?}"))?;
        if got.as_ref() != Some(value) {
            return Err(format!(
                "get {key:?} says {}, a scan {}",
                brief(&got),
                brief(value)
            ));
        }
    }
    Ok(forwards.into_iter().collect())
}

/// What scans do not show, gets must not either.
fn absent_keys(db: &Db, model: &Model, contents: &Contents) -> Outcome {
    use crate::model::Change;
    let mut asked = std::collections::BTreeSet::new();
    for change in model.log().iter().flat_map(|commit| &commit.changes) {
        let (Change::Put(name, key, _) | Change::Delete(name, key)) = change else {
            continue;
        };
        let Some(map) = contents.get(name) else {
            continue;
        };
        if map.contains_key(key) || !asked.insert((name, key)) {
            continue;
        }
        let keyspace = db.keyspace(name).map_err(|error| format!("{error:?}"))?;
        let got = keyspace
            .get(key)
            .map_err(|error| format!("get {key:?}: {error:?}"))?;
        if got.is_some() {
            return Err(format!(
                "get {key:?} in {name:?} says {}, a scan that there is none",
                brief(&got)
            ));
        }
    }
    Ok(())
}

fn differences(contents: &Contents, state: &State) -> Vec<String> {
    let mut found = Vec::new();
    for name in state.keyspaces.keys() {
        if !contents.contains_key(name) {
            found.push(format!("keyspace {name:?} is missing"));
        }
    }
    for (name, got) in contents {
        let Some(want) = state.keyspaces.get(name) else {
            found.push(format!("there is a keyspace {name:?}"));
            continue;
        };
        for (key, value) in got {
            match want.get(key) {
                None => found.push(format!("{name:?} has {key:?}")),
                Some(entry) if entry.value != *value => found.push(format!(
                    "{name:?}: {key:?} is {}, not {}",
                    brief(value),
                    brief(&entry.value)
                )),
                Some(_) => {}
            }
        }
        let missing = want.keys().filter(|key| !got.contains_key(*key));
        found.extend(missing.map(|key| format!("{name:?} lacks {key:?}")));
    }
    found
}

/// The beginning of how a thing prints.
pub(crate) fn brief(thing: &impl Debug) -> String {
    let text = format!("{thing:?}");
    match text.char_indices().nth(400) {
        None => text,
        Some((at, _)) => format!(
            "{}... ({} characters)",
            text.get(..at).unwrap_or(""),
            text.len()
        ),
    }
}
