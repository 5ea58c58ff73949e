//! Keyspaces and what is done with a whole one, beside the model: created, dropped, renamed, given options, loaded in bulk,
//! and asked how large it is.

use std::collections::BTreeMap;

use terrace::{Bytes, Compression, ErrorKind, Keyspace, KeyspaceOptions};

use crate::model::{Change, Expires};
use crate::op::{AGES, Range, Value};
use crate::runner::{Runner, expect, name_of};
use crate::scenario::Mode;
use crate::trouble::{Outcome, failed};
use crate::{APPEND, KEEP_ALL};

impl Runner {
    /// The handle of a keyspace, created if it is not there.
    pub(crate) fn handle(&mut self, name: &str) -> Outcome<Keyspace> {
        if !self.handles.contains_key(name) {
            self.create(name)?;
        }
        let handle = self.handles.get(name).cloned();
        handle.ok_or_else(|| format!("no handle of {name:?}").into())
    }

    pub(crate) fn create(&mut self, name: &str) -> Outcome {
        let db = self.db()?.clone();
        if self.model().now().keyspaces.contains_key(name) {
            let again = db.create_keyspace(name, KeyspaceOptions::new());
            expect("creating it twice", again, ErrorKind::AlreadyExists)?;
            let found = failed("keyspace", db.keyspace(name))?;
            self.handles.insert(name.into(), found);
            return Ok(());
        }
        self.begin(vec![Change::Create(name.into())]);
        // Either way creates it.
        let created = match self.model().len() % 2 {
            0 => db.keyspace(name),
            _ => db.create_keyspace(name, KeyspaceOptions::new()),
        };
        let created = failed("creating a keyspace", created)?;
        self.handles.insert(name.into(), created);
        self.end(None, self.default_durability)
    }

    pub(crate) fn drop_keyspace(&mut self, name: &str) -> Outcome {
        let db = self.db()?.clone();
        if name == name_of(0) {
            let dropped = db.drop_keyspace(name);
            return expect("dropping the default keyspace", dropped, ErrorKind::Invalid);
        }
        if !self.model().now().keyspaces.contains_key(name) {
            let dropped = db.drop_keyspace(name);
            return expect("dropping what is not there", dropped, ErrorKind::NotFound);
        }
        self.begin(vec![Change::Drop(name.into())]);
        failed("dropping a keyspace", db.drop_keyspace(name))?;
        if let Some(handle) = self.handles.remove(name) {
            self.stale.push(handle);
        }
        self.end(None, self.default_durability)?;
        self.stale_handles()
    }

    pub(crate) fn stale_handles(&self) -> Outcome {
        for stale in &self.stale {
            expect("a put", stale.put("k", "v"), ErrorKind::NotFound)?;
            expect("a get", stale.get("k"), ErrorKind::NotFound)?;
            expect("a count", stale.count(..), ErrorKind::NotFound)?;
            let mut iter = stale.iter();
            let first = iter.next().unwrap_or(Ok(Default::default()));
            expect("an iterator", first, ErrorKind::NotFound)?;
            if iter.next().is_some() {
                return Err("an iterator went on after its error".into());
            }
        }
        Ok(())
    }

    /// Gives a keyspace another name, where that may be done.
    pub(crate) fn rename(&mut self, from: &str, to: &str) -> Outcome {
        let db = self.db()?.clone();
        let there = |name: &str| self.model().now().keyspaces.contains_key(name);
        if from == name_of(0) {
            let renamed = db.rename_keyspace(from, to);
            return expect("renaming the default keyspace", renamed, ErrorKind::Invalid);
        }
        if !there(from) {
            let renamed = db.rename_keyspace(from, to);
            return expect("renaming what is not there", renamed, ErrorKind::NotFound);
        }
        if from != to && there(to) {
            let renamed = db.rename_keyspace(from, to);
            return expect("a name that is taken", renamed, ErrorKind::AlreadyExists);
        }
        if from == to {
            return failed("the same name again", db.rename_keyspace(from, to));
        }
        self.begin(vec![Change::Rename(from.into(), to.into())]);
        failed("renaming a keyspace", db.rename_keyspace(from, to))?;
        if let Some(handle) = self.handles.remove(from) {
            if handle.name() != to {
                return Err(format!("{:?} instead of {to:?}", handle.name()).into());
            }
            self.handles.insert(to.into(), handle);
        }
        expect("the old name", db.drop_keyspace(from), ErrorKind::NotFound)?;
        self.end(None, self.default_durability)
    }

    /// Sets options that follow from the number. None of them changes what is read, so this is no
    /// step of the model.
    pub(crate) fn set_options(&mut self, name: &str, bits: u64) -> Outcome {
        let Some(keyspace) = self.handles.get(name) else {
            return self.stale_handles();
        };
        let threshold = [None, Some(100), Some(600), Some(u64::MAX)];
        let compression = [None, None, Some(Compression::None), Some(Compression::Lz4)];
        let block_size = [None, None, Some(512), Some(1 << 16)];
        let options = keyspace
            .options()
            .expiry((bits & 1 == 1).then_some(AGES))
            .compaction_filter((bits & 2 == 2).then_some(KEEP_ALL))
            .blob_threshold(threshold[(bits >> 2) as usize % 4])
            .compression(compression[(bits >> 4) as usize % 4])
            .block_size(block_size[(bits >> 6) as usize % 4]);
        failed("set_options", keyspace.set_options(options.clone()))?;
        match keyspace.options() == options {
            true => Ok(()),
            false => Err(format!("{:?} instead of {options:?}", keyspace.options()).into()),
        }
    }

    /// Entries straight into tables. They and all that returned before are durable then.
    pub(crate) fn ingest(
        &mut self,
        name: &str,
        entries: &[(Bytes, Value)],
        memory: Option<usize>,
    ) -> Outcome {
        let keyspace = self.handle(name)?;
        let given = entries
            .iter()
            .map(|(key, value)| (key.clone(), value.bytes()));
        let sorted: BTreeMap<Bytes, Bytes> = given.clone().collect();
        let any = !sorted.is_empty();
        if any {
            let entries = sorted.clone().into_iter().collect();
            let expires = default_of(&keyspace);
            self.begin(vec![Change::Ingest(name.into(), entries, expires)]);
        }
        let last = match memory {
            None => keyspace.ingest(sorted),
            Some(memory) => {
                let mut taken = 0;
                let last = keyspace.ingest_unsorted(given, memory, |progress| {
                    taken = progress.entries;
                });
                if last.is_ok() && taken != entries.len() as u64 {
                    return Err(format!("{taken} entries taken, not {}", entries.len()).into());
                }
                last
            }
        };
        let last = failed("an ingest", last)?;
        if any {
            self.end(Some(last), self.default_durability)?;
            self.progress.all_durable();
        }
        Ok(())
    }

    /// An estimate is never below what there is, and never above that of everything.
    pub(crate) fn about(&self, name: &str, range: &Range) -> Outcome {
        let Some(keyspace) = self.handles.get(name) else {
            return self.stale_handles();
        };
        let exact = failed("count", keyspace.count(range))?;
        let about = failed("approximate_count", keyspace.approximate_count(range))?;
        let bytes = failed("approximate_size", keyspace.approximate_size(range))?;
        let all = failed("approximate_count", keyspace.approximate_count(..))?;
        let all_bytes = failed("approximate_size", keyspace.approximate_size(..))?;
        // Beside threads, merges come between the questions.
        let still = self.scenario.mode == Mode::Manual;
        let wrong = about < exact;
        if wrong || (still && (about > all || bytes > all_bytes)) {
            return Err(format!(
                "{exact} entries of {range:?} are about {about} with {bytes} bytes, and all {all} with {all_bytes}"
            )
            .into());
        }
        Ok(())
    }
}

/// When a write to the keyspace expires that does not say so.
pub(crate) fn default_of(keyspace: &Keyspace) -> Expires {
    match keyspace.options().expiry {
        Some(_) => Expires::Default,
        None => Expires::Never,
    }
}

/// Gives the keyspace the operator, unless it has it: no step of the model.
pub(crate) fn with_operator(keyspace: &Keyspace) -> Outcome {
    let mut options = keyspace.options();
    if options.merge_operator.is_none() {
        options = options.merge_operator(APPEND);
        failed("set_options", keyspace.set_options(options))?;
    }
    Ok(())
}
