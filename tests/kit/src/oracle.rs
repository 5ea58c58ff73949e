//! Reading a whole database every way there is, and saying which prefix of the commits it holds.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use terrace::{Bytes, Db, Keyspace};

use crate::digest::digest;
use crate::model::{Model, State};
use crate::trouble::{Outcome, Trouble, failed};

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
        let mut contents = Contents::new();
        for name in failed("keyspaces", db.keyspaces())? {
            let place = |trouble: Trouble| trouble.within(format_args!("keyspace {name:?}"));
            let keyspace = failed("keyspace", db.keyspace(&name)).map_err(place)?;
            let map = read_keyspace(&keyspace).map_err(place)?;
            contents.insert(name, map);
        }
        Ok(contents)
    }

    /// Reads everything and says after how many commits of `model` it is what must be there; the
    /// most, if it is so after several.
    ///
    /// # Errors
    /// Those of [`Oracle::read`]; and if it equals no state after `allowed` many commits, how it
    /// differs from the nearest.
    pub fn check(db: &Db, model: &Model, allowed: RangeInclusive<usize>) -> Outcome<usize> {
        let contents = Oracle::read(db)?;
        absent_keys(db, model, &contents)?;
        Oracle::place(&contents, model, allowed)
    }

    /// Says after how many commits of `model` these contents are what must be there; the most, if
    /// they are so after several.
    ///
    /// # Errors
    /// If they are no state after `allowed` many commits: how they differ from the nearest.
    pub fn place(
        contents: &Contents,
        model: &Model,
        allowed: RangeInclusive<usize>,
    ) -> Outcome<usize> {
        let digest = digest(contents);
        if let Some(n) = model.find(digest, allowed.clone()) {
            return Ok(n);
        }
        let (least, most) = (*allowed.start(), (*allowed.end()).min(model.len()));
        let against = |n: usize| (n, differences(contents, &model.state_after(n)));
        let nearest = (least..=most).rev().map(against);
        let nearest = nearest.min_by_key(|(_, differences)| differences.len());
        let (n, differences) = nearest.unwrap_or_default();
        let shown: Vec<String> = differences.iter().take(8).cloned().collect();
        Err(format!(
            "not the state after {least} to {most} commits (after {:?} of {}); from that after {n} it \
             differs in {} places: {}",
            model.find(digest, 0..=model.len()),
            model.len(),
            differences.len(),
            shown.join("; ")
        )
        .into())
    }
}

fn read_keyspace(keyspace: &Keyspace) -> Outcome<BTreeMap<Bytes, Bytes>> {
    let forwards: Result<Vec<_>, _> = keyspace.iter().collect();
    let forwards = failed("a scan", forwards)?;
    if let Some(pair) = forwards.windows(2).find(|pair| match pair {
        [a, b] => a.0 >= b.0,
        _ => false,
    }) {
        return Err(format!("a scan is out of order: {}", brief(&pair)).into());
    }
    let backwards: Result<Vec<_>, _> = keyspace.iter().rev().collect();
    let mut backwards = failed("a backward scan", backwards)?;
    backwards.reverse();
    if forwards != backwards {
        let at = forwards.iter().zip(&backwards).position(|(a, b)| a != b);
        return Err(format!(
            "{} entries forwards and {} backwards; they differ from number {at:?} on",
            forwards.len(),
            backwards.len()
        )
        .into());
    }
    for (key, value) in &forwards {
        let got = failed("get", keyspace.get(key))?;
        if got.as_ref() != Some(value) {
            return Err(
                format!("get {key:?} says {}, a scan {}", brief(&got), brief(value)).into(),
            );
        }
    }
    Ok(forwards.into_iter().collect())
}

/// What scans do not show, gets must not either.
fn absent_keys(db: &Db, model: &Model, contents: &Contents) -> Outcome {
    for (name, map) in contents {
        let keyspace = failed("keyspace", db.keyspace(name))?;
        for key in model.keys(name).filter(|key| !map.contains_key(*key)) {
            let got = failed("get", keyspace.get(key))?;
            if got.is_some() {
                return Err(format!(
                    "get {key:?} in {name:?} says {}, a scan that there is none",
                    brief(&got)
                )
                .into());
            }
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
