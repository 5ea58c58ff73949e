//! The sources of a walk without what range deletes hide.
//!
//! A walk over a range that no delete touches does not come here. Else each source is wrapped in an
//! [`Undeleted`], which steps on while its entry is hidden. Where all that lies around is older
//! than the delete, which is how a range that was deleted in one piece looks until compaction has
//! been there, it does not step but jumps: past the delete, or past the table if that ends first.
//! So a scan over a million deleted keys costs a few seeks.

use std::sync::Arc;

use bytes::Bytes;
use terrace_base::{DeletedRange, InternalIterator, KeyRef, KeyspaceId, Result, SeqNo, UserKey};

use crate::read::db_iter::Source;
use crate::read::range_deletes::Deleted;

/// A source without the entries that range deletes hide from a reader.
#[derive(Debug)]
pub(crate) struct Undeleted {
    source: Source,
    /// No entry of the source is newer; a run says it of each table.
    newest: SeqNo,
    deleted: Arc<Deleted>,
}

/// Where a jump leads: to the other end of the deleted stretch.
enum Jump {
    Step,
    /// To this key, or to the end if there is none.
    To(Option<(KeyspaceId, Vec<u8>)>),
    /// Out of the table.
    Table,
}

impl Undeleted {
    pub(crate) fn new(source: Source, newest: SeqNo, deleted: Arc<Deleted>) -> Undeleted {
        Undeleted {
            source,
            newest,
            deleted,
        }
    }

    /// The delete that hides the source's entry.
    fn hidden(&self) -> Option<&DeletedRange> {
        if !self.source.valid() {
            return None;
        }
        let key = self.source.key();
        let delete = self.deleted.covering(key.user)?;
        (delete.seq > key.seq).then_some(delete)
    }

    fn jump_ahead(&self, delete: &DeletedRange) -> Jump {
        let keyspace = self.source.key().user.keyspace;
        let target = match delete.upper.as_deref() {
            Some(upper) => Some(UserKey::new(keyspace, upper)),
            None => keyspace
                .0
                .checked_add(1)
                .map(|next| UserKey::new(KeyspaceId(next), &[])),
        };
        if let Source::Run(run) = &self.source
            && let Some(table) = run.table()
        {
            let info = table.info();
            return match target {
                _ if info.max_seq > delete.seq => Jump::Step,
                Some(target) if target <= info.largest.as_ref() => jump_to(target),
                _ => Jump::Table,
            };
        }
        match target {
            _ if self.newest > delete.seq => Jump::Step,
            Some(target) => jump_to(target),
            None => Jump::To(None),
        }
    }

    fn jump_back(&self, delete: &DeletedRange) -> Jump {
        let target = UserKey::new(self.source.key().user.keyspace, &delete.lower);
        if let Source::Run(run) = &self.source
            && let Some(table) = run.table()
        {
            let info = table.info();
            return match info.max_seq > delete.seq {
                true => Jump::Step,
                false if target > info.smallest.as_ref() => jump_to(target),
                false => Jump::Table,
            };
        }
        match self.newest > delete.seq {
            true => Jump::Step,
            false => jump_to(target),
        }
    }

    /// From where the source stands, onwards to an entry that is not hidden.
    fn settle_ahead(&mut self) -> Result<()> {
        while let Some(delete) = self.hidden() {
            match (self.jump_ahead(delete), &mut self.source) {
                (Jump::Table, Source::Run(run)) => run.next_table()?,
                (Jump::To(Some((keyspace, key))), source) => {
                    source.seek(KeyRef::lookup(UserKey::new(keyspace, &key), SeqNo::MAX))?;
                }
                (Jump::To(None), source) => {
                    source.last()?;
                    source.next()?;
                }
                (_, source) => source.next()?,
            }
        }
        Ok(())
    }

    /// From where the source stands, backwards to an entry that is not hidden.
    fn settle_back(&mut self) -> Result<()> {
        while let Some(delete) = self.hidden() {
            match (self.jump_back(delete), &mut self.source) {
                (Jump::Table, Source::Run(run)) => run.prev_table()?,
                (Jump::To(Some((keyspace, key))), source) => {
                    // No entry has the highest number: this is before all versions of the key.
                    source
                        .seek_for_prev(KeyRef::lookup(UserKey::new(keyspace, &key), SeqNo::MAX))?;
                }
                (_, source) => source.prev()?,
            }
        }
        Ok(())
    }
}

fn jump_to(key: UserKey<'_>) -> Jump {
    Jump::To(Some((key.keyspace, key.bytes.to_vec())))
}

impl InternalIterator for Undeleted {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.source.seek(target)?;
        self.settle_ahead()
    }
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.source.seek_for_prev(target)?;
        self.settle_back()
    }
    fn first(&mut self) -> Result<()> {
        self.source.first()?;
        self.settle_ahead()
    }
    fn last(&mut self) -> Result<()> {
        self.source.last()?;
        self.settle_back()
    }
    fn next(&mut self) -> Result<()> {
        self.source.next()?;
        self.settle_ahead()
    }
    fn prev(&mut self) -> Result<()> {
        self.source.prev()?;
        self.settle_back()
    }
    fn valid(&self) -> bool {
        self.source.valid()
    }
    fn key(&self) -> KeyRef<'_> {
        self.source.key()
    }
    fn value(&self) -> &[u8] {
        self.source.value()
    }
    fn key_bytes(&self) -> Bytes {
        self.source.key_bytes()
    }
    fn value_bytes(&self) -> Bytes {
        self.source.value_bytes()
    }
}
