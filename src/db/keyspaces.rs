//! Changes of the catalogue: keyspaces are created, dropped, renamed and given options. Each is a write in the log, in
//! commit order; the catalogue notes it under the commit lock.

use std::sync::Arc;

use terrace_base::{Error, ErrorKind, Result, SeqNo};
use terrace_compaction::KeyspaceRecord;

use crate::engine::Engine;
use crate::keyspace::catalogue::{Change, DEFAULT_NAME, KeyspaceState, check_name};
use crate::options::keyspace::KeyspaceOptions;
use crate::sync::MutexGuard;
use crate::write::payload::{encode_create, encode_drop, encode_rename, encode_set_options};
use crate::write::write::{Entries, Write};

fn no_keyspace(name: &str) -> Error {
    let text = format!("there is no keyspace `{name}`");
    Error::new(ErrorKind::NotFound, text)
}

fn keyspace_exists(name: &str) -> Error {
    let text = format!("there is a keyspace `{name}` already");
    Error::new(ErrorKind::AlreadyExists, text)
}

impl Engine {
    /// The keyspace `name`, created if there is none.
    ///
    /// The catalogue is asked again once nobody else can change it: what is seen before that may be
    /// created, and what is created may be dropped, until the lock is held.
    pub(crate) fn keyspace(&self, name: &str) -> Result<Arc<KeyspaceState>> {
        self.check_open()?;
        if let Some(found) = self.catalogue.get(name) {
            return Ok(found);
        }
        check_name(name)?;
        let changing = self.catalogue.lock_for_change();
        if let Some(found) = self.catalogue.get(name) {
            return Ok(found);
        }
        self.create_under(&changing, name, &KeyspaceOptions::default())
    }

    pub(crate) fn create_keyspace(
        &self,
        name: &str,
        options: &KeyspaceOptions,
    ) -> Result<Arc<KeyspaceState>> {
        self.check_open()?;
        check_name(name)?;
        self.context.policies.registered.check(options)?;
        let changing = self.catalogue.lock_for_change();
        if self.catalogue.get(name).is_some() {
            return Err(keyspace_exists(name));
        }
        self.create_under(&changing, name, options)
    }

    /// Creates a keyspace of a name that was found free under the lock of changes.
    fn create_under(
        &self,
        _changing: &MutexGuard<'_, ()>,
        name: &str,
        options: &KeyspaceOptions,
    ) -> Result<Arc<KeyspaceState>> {
        let id = self.catalogue.new_id()?;
        let mut payload = Vec::new();
        let encoded = options.encode();
        encode_create(&mut payload, id, name, &encoded);
        self.change_catalogue(&payload, &[], |seq| {
            let options = encoded.clone();
            Change::Create(KeyspaceRecord {
                id,
                name: name.into(),
                created: seq,
                options,
            })
        })?;
        let state = KeyspaceState::new(self.id, id, name, options.clone());
        self.catalogue.add(state.clone());
        Ok(state)
    }

    pub(crate) fn drop_keyspace(&self, name: &str) -> Result<()> {
        self.check_open()?;
        if name == DEFAULT_NAME {
            return Err(Error::invalid(
                "the default keyspace cannot be dropped; delete its keys",
            ));
        }
        self.views
            .pacer
            .pace_drop(self, self.catalogue.dropped_len());
        let _changing = self.catalogue.lock_for_change();
        let state = self.catalogue.get(name).ok_or_else(|| no_keyspace(name))?;
        let mut payload = Vec::new();
        encode_drop(&mut payload, state.id);
        self.change_catalogue(&payload, std::slice::from_ref(&state), |_| {
            Change::Drop(state.id)
        })
    }

    pub(crate) fn set_keyspace_options(
        &self,
        state: &Arc<KeyspaceState>,
        options: KeyspaceOptions,
    ) -> Result<()> {
        self.check_open()?;
        self.context.policies.registered.check(&options)?;
        let _changing = self.catalogue.lock_for_change();
        state.options().check_change(&options)?;
        let mut payload = Vec::new();
        encode_set_options(&mut payload, state.id, &options.encode());
        self.change_catalogue(&payload, std::slice::from_ref(state), |_| {
            Change::Options(state.id, options.clone())
        })
    }

    pub(crate) fn rename_keyspace(&self, from: &str, to: &str) -> Result<()> {
        self.check_open()?;
        check_name(to)?;
        if from == DEFAULT_NAME {
            return Err(Error::invalid("the default keyspace keeps its name"));
        }
        let _changing = self.catalogue.lock_for_change();
        let state = self.catalogue.get(from).ok_or_else(|| no_keyspace(from))?;
        if from == to {
            return Ok(());
        }
        if self.catalogue.get(to).is_some() {
            return Err(keyspace_exists(to));
        }
        let mut payload = Vec::new();
        encode_rename(&mut payload, state.id, to);
        self.change_catalogue(&payload, std::slice::from_ref(&state), |_| {
            Change::Rename(state.id, to.into())
        })
    }

    /// Commits a change of the catalogue; it is noted under the commit lock.
    fn change_catalogue(
        &self,
        payload: &[u8],
        keyspaces: &[Arc<KeyspaceState>],
        change: impl Fn(SeqNo) -> Change,
    ) -> Result<()> {
        let parts = [payload];
        let write = Write::new(&parts, 1, Entries::None);
        if self.space.full().is_some() {
            self.check_space(&write)?;
        }
        let durability = self.options.durability;
        let receipt = self
            .committer
            .append(&write, durability, keyspaces, &mut |seq| {
                self.catalogue.note(seq, change(seq));
            })?;
        self.committer.wait_visible(receipt.last)
    }
}
