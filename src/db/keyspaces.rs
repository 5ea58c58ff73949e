//! Changes of the catalogue: keyspaces are created, dropped, renamed and given options. Each is a
//! write in the log, in commit order; the catalogue notes it under the commit lock.

use std::sync::Arc;

use terrace_base::{Error, ErrorKind, Result, SeqNo};
use terrace_compaction::KeyspaceRecord;

use crate::engine::Engine;
use crate::jobs::pacing::pace_drop;
use crate::jobs::space::check_space;
use crate::keyspace::catalogue::Change;
use crate::keyspace::state::{DEFAULT_NAME, KeyspaceState, check_name};
use crate::options::keyspace::KeyspaceOptions;
use crate::sync::MutexGuard;
use crate::write::payload::{encode_create, encode_drop, encode_rename, encode_set_options};
use crate::write::prepared::{Entries, Write};

fn no_keyspace(name: &str) -> Error {
    let text = format!("there is no keyspace `{name}`");
    Error::new(ErrorKind::NotFound, text)
}

fn keyspace_exists(name: &str) -> Error {
    let text = format!("there is a keyspace `{name}` already");
    Error::new(ErrorKind::AlreadyExists, text)
}

/// The keyspace `name`, created if there is none.
///
/// Looks it up again under the lock of catalogue changes: until that is held, other threads can
/// create and drop the keyspace.
pub(crate) fn keyspace(engine: &Engine, name: &str) -> Result<Arc<KeyspaceState>> {
    engine.check_open()?;
    if let Some(found) = engine.catalogue.get(name) {
        return Ok(found);
    }
    check_name(name)?;
    let changing = engine.catalogue.lock_for_change();
    if let Some(found) = engine.catalogue.get(name) {
        return Ok(found);
    }
    create_under(engine, &changing, name, &KeyspaceOptions::default())
}

pub(crate) fn create_keyspace(
    engine: &Engine,
    name: &str,
    options: &KeyspaceOptions,
) -> Result<Arc<KeyspaceState>> {
    engine.check_open()?;
    check_name(name)?;
    engine.context.policies.registered.check(options)?;
    let changing = engine.catalogue.lock_for_change();
    if engine.catalogue.get(name).is_some() {
        return Err(keyspace_exists(name));
    }
    create_under(engine, &changing, name, options)
}

/// Creates a keyspace of a name that was found free under the lock of changes.
fn create_under(
    engine: &Engine,
    _changing: &MutexGuard<'_, ()>,
    name: &str,
    options: &KeyspaceOptions,
) -> Result<Arc<KeyspaceState>> {
    let id = engine.catalogue.new_id()?;
    let mut payload = Vec::new();
    let encoded = options.encode();
    encode_create(&mut payload, id, name, &encoded);
    change_catalogue(engine, &payload, &[], |seq| {
        let options = encoded.clone();
        Change::Create(KeyspaceRecord {
            id,
            name: name.into(),
            created: seq,
            options,
        })
    })?;
    let state = KeyspaceState::new(engine.id, id, name, options.clone());
    engine.catalogue.add(state.clone());
    Ok(state)
}

pub(crate) fn drop_keyspace(engine: &Engine, name: &str) -> Result<()> {
    engine.check_open()?;
    if name == DEFAULT_NAME {
        return Err(Error::invalid(
            "the default keyspace cannot be dropped; delete its keys",
        ));
    }
    pace_drop(engine, engine.catalogue.dropped_len());
    let _changing = engine.catalogue.lock_for_change();
    let state = engine
        .catalogue
        .get(name)
        .ok_or_else(|| no_keyspace(name))?;
    let mut payload = Vec::new();
    encode_drop(&mut payload, state.id);
    change_catalogue(engine, &payload, std::slice::from_ref(&state), |_| {
        Change::Drop(state.id)
    })
}

pub(crate) fn set_keyspace_options(
    engine: &Engine,
    state: &Arc<KeyspaceState>,
    options: KeyspaceOptions,
) -> Result<()> {
    engine.check_open()?;
    engine.context.policies.registered.check(&options)?;
    let _changing = engine.catalogue.lock_for_change();
    state.options().check_change(&options)?;
    let mut payload = Vec::new();
    encode_set_options(&mut payload, state.id, &options.encode());
    change_catalogue(engine, &payload, std::slice::from_ref(state), |_| {
        Change::Options(state.id, options.clone())
    })
}

pub(crate) fn rename_keyspace(engine: &Engine, from: &str, to: &str) -> Result<()> {
    engine.check_open()?;
    check_name(to)?;
    if from == DEFAULT_NAME {
        return Err(Error::invalid("the default keyspace keeps its name"));
    }
    let _changing = engine.catalogue.lock_for_change();
    let state = engine
        .catalogue
        .get(from)
        .ok_or_else(|| no_keyspace(from))?;
    if from == to {
        return Ok(());
    }
    if engine.catalogue.get(to).is_some() {
        return Err(keyspace_exists(to));
    }
    let mut payload = Vec::new();
    encode_rename(&mut payload, state.id, to);
    change_catalogue(engine, &payload, std::slice::from_ref(&state), |_| {
        Change::Rename(state.id, to.into())
    })
}

/// Commits a change of the catalogue; it is noted under the commit lock.
fn change_catalogue(
    engine: &Engine,
    payload: &[u8],
    keyspaces: &[Arc<KeyspaceState>],
    change: impl Fn(SeqNo) -> Change,
) -> Result<()> {
    let parts = [payload];
    let write = Write::new(&parts, 1, Entries::None);
    if engine.space.full().is_some() {
        check_space(engine, &write)?;
    }
    let durability = engine.options.durability;
    let receipt = engine
        .committer
        .append(&write, durability, keyspaces, &mut |seq| {
            engine.catalogue.note(seq, change(seq));
        })?;
    engine.committer.wait_visible(receipt.last)
}
