//! The entries of a piece of the memtable in order

use bytes::Bytes;
use terrace_base::{InternalIterator, KeyRef, Result, UserKey};
use terrace_sstable::TableIter;

use crate::memtable::tx_buffer::OwnIter;
use crate::memtable::{Form, ListCursor, MemRun};

/// Entries of a piece in order.
#[derive(Debug)]
pub(crate) enum MemIter {
    List(ListCursor),
    Image(TableIter),
    /// What a transaction has written: here, so that walks without one have no more sources to tell
    /// apart.
    Own(OwnIter),
}

impl MemRun {
    pub(crate) fn iter(&self) -> MemIter {
        match &self.form {
            Form::List(list) => MemIter::List(list.cursor()),
            Form::Image(table) => MemIter::Image(table.iter()),
        }
    }

    /// False if it has no entry from `smallest` to `largest`.
    pub(crate) fn may_touch(&self, smallest: UserKey<'_>, largest: UserKey<'_>) -> bool {
        match &self.form {
            Form::List(_) => true,
            Form::Image(table) => {
                let info = table.info();
                info.smallest.as_ref() <= largest && smallest <= info.largest.as_ref()
            }
        }
    }
}

macro_rules! each {
    ($self:ident, $it:ident => $call:expr) => {
        match $self {
            MemIter::List($it) => $call,
            MemIter::Image($it) => $call,
            MemIter::Own($it) => $call,
        }
    };
}

impl InternalIterator for MemIter {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        each!(self, it => it.seek(target))
    }
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        each!(self, it => it.seek_for_prev(target))
    }
    fn first(&mut self) -> Result<()> {
        each!(self, it => it.first())
    }
    fn last(&mut self) -> Result<()> {
        each!(self, it => it.last())
    }
    fn next(&mut self) -> Result<()> {
        each!(self, it => it.next())
    }
    fn prev(&mut self) -> Result<()> {
        each!(self, it => it.prev())
    }
    fn valid(&self) -> bool {
        each!(self, it => it.valid())
    }
    fn key(&self) -> KeyRef<'_> {
        each!(self, it => it.key())
    }
    fn value(&self) -> &[u8] {
        each!(self, it => it.value())
    }
    fn key_bytes(&self) -> Bytes {
        each!(self, it => it.key_bytes())
    }
    fn value_bytes(&self) -> Bytes {
        each!(self, it => it.value_bytes())
    }
}
