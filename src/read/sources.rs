//! What a walk goes over: the pieces of the memtable and the runs that can hold its range, merged,
//! without what range deletes hide.

use std::sync::Arc;

use bytes::Bytes;
use terrace_base::{InternalIterator, KeyRef, KeyspaceId, MergingIterator, Result, SeqNo, UserKey};
use terrace_compaction::{Run, RunIter};
use terrace_sstable::TableIter;

use crate::memtable::iter::MemIter;
use crate::memtable::tx_buffer::{Own, OwnIter};
use crate::memtable::{List, MemRun};
use crate::read::iter::Scan;
use crate::read::range_delete_iter::Undeleted;
use crate::read::range_deletes::Deleted;

/// One sorted source.
#[derive(Debug)]
pub(crate) enum Source {
    Mem(MemIter),
    Run(RunIter),
}

macro_rules! internal_iterator {
    ($enum:ident, $($variant:ident),+) => {
        impl InternalIterator for $enum {
            fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
                match self { $($enum::$variant(it) => it.seek(target)),+ }
            }
            fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
                match self { $($enum::$variant(it) => it.seek_for_prev(target)),+ }
            }
            fn first(&mut self) -> Result<()> {
                match self { $($enum::$variant(it) => it.first()),+ }
            }
            fn last(&mut self) -> Result<()> {
                match self { $($enum::$variant(it) => it.last()),+ }
            }
            #[inline]
            fn next(&mut self) -> Result<()> {
                match self { $($enum::$variant(it) => it.next()),+ }
            }
            #[inline]
            fn prev(&mut self) -> Result<()> {
                match self { $($enum::$variant(it) => it.prev()),+ }
            }
            #[inline]
            fn valid(&self) -> bool {
                match self { $($enum::$variant(it) => it.valid()),+ }
            }
            #[inline]
            fn key(&self) -> KeyRef<'_> {
                match self { $($enum::$variant(it) => it.key()),+ }
            }
            #[inline]
            fn value(&self) -> &[u8] {
                match self { $($enum::$variant(it) => it.value()),+ }
            }
            fn key_bytes(&self) -> Bytes {
                match self { $($enum::$variant(it) => it.key_bytes()),+ }
            }
            fn value_bytes(&self) -> Bytes {
                match self { $($enum::$variant(it) => it.value_bytes()),+ }
            }
        }
    };
}

internal_iterator!(Source, Mem, Run);

/// All sources: without a merge if there is but one.
#[derive(Debug)]
pub(crate) enum Sources {
    One(Source),
    Many(MergingIterator<Source>),
    /// Where range deletes touch the range.
    Undeleted(MergingIterator<Undeleted>),
}

internal_iterator!(Sources, One, Many, Undeleted);

impl Sources {
    /// The table that the entry is in, if no other source has to be asked.
    #[inline]
    pub(crate) fn table(&self) -> Option<&TableIter> {
        match self {
            Sources::One(Source::Run(run)) => run.inner(),
            Sources::One(Source::Mem(MemIter::Image(table))) => Some(table),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn table_mut(&mut self) -> Option<&mut TableIter> {
        match self {
            Sources::One(Source::Run(run)) => run.inner_mut(),
            Sources::One(Source::Mem(MemIter::Image(table))) => Some(table),
            _ => None,
        }
    }

    /// The user key of the entry.
    #[inline]
    pub(crate) fn user_key(&self) -> &[u8] {
        match self.table() {
            Some(table) => table.user_key(),
            None => self.key().user.bytes,
        }
    }

    /// The stored value of the entry.
    #[inline]
    pub(crate) fn stored(&self) -> &[u8] {
        match self.table() {
            Some(table) => table.value(),
            None => self.value(),
        }
    }
}

/// All versions of the keys of a range, without what range deletes hide.
pub(crate) fn versions(scan: &Scan) -> impl InternalIterator {
    sources(scan)
}

/// What can hold an entry of a range.
#[derive(Clone, Copy)]
enum Piece<'a> {
    Own(&'a Arc<Own>),
    List(&'a Arc<List>),
    Sealed(&'a MemRun),
    Run(&'a Arc<Run>),
}

impl Piece<'_> {
    fn open(self, keyspace: KeyspaceId) -> Source {
        match self {
            Piece::Own(own) => Source::Mem(MemIter::Own(OwnIter::new(own.clone(), keyspace))),
            Piece::List(list) => Source::Mem(MemIter::List(list.cursor())),
            Piece::Sealed(run) => Source::Mem(run.iter()),
            Piece::Run(run) => Source::Run(RunIter::new(run.clone())),
        }
    }

    /// The sequence number that none of its entries is above.
    fn newest(self) -> SeqNo {
        match self {
            Piece::Own(_) | Piece::List(_) => SeqNo::MAX,
            Piece::Sealed(run) => run.last_seq,
            Piece::Run(run) => run.max_seq(),
        }
    }
}

/// The pieces and runs that can hold an entry from `smallest` to `largest`, newest first.
fn pieces<'a>(
    scan: &'a Scan,
    smallest: UserKey<'a>,
    largest: UserKey<'a>,
) -> impl Iterator<Item = Piece<'a>> {
    let view = &scan.view;
    let own = scan.overlay.as_ref().and_then(|o| o.own.as_ref());
    let active = (!view.active.is_empty()).then_some(Piece::List(&view.active));
    // A queue's older pieces hold nothing from its head on, and there are the more of them the
    // longer it is used.
    let sealed = view.sealed.iter().map(|run| &**run);
    let sealed = sealed.filter(move |run| run.may_touch(smallest, largest));
    let runs = view.version.runs().iter();
    let runs = runs.filter(move |run| smallest <= largest && run.touches(smallest, largest));
    let memory = active.into_iter().chain(sealed.map(Piece::Sealed));
    own.map(Piece::Own)
        .into_iter()
        .chain(memory)
        .chain(runs.map(Piece::Run))
}

/// The pieces and runs that can hold an entry of the range, without what range deletes hide.
pub(crate) fn sources(scan: &Scan) -> Sources {
    let (view, keyspace) = (&scan.view, scan.keyspace);
    let (smallest, largest) = scan.bounds.closed(keyspace);
    let mut deleted = Deleted::within(view, smallest, largest, scan.at.seq);
    if let Some(overlay) = &scan.overlay {
        deleted.put_on_top(&overlay.ranges, smallest, largest);
    }
    let mut pieces = pieces(scan, smallest, largest);
    if !deleted.is_empty() {
        let deleted = Arc::new(deleted);
        let children = pieces.map(|piece| {
            let (source, newest) = (piece.open(keyspace), piece.newest());
            Undeleted::new(source, newest, deleted.clone())
        });
        return Sources::Undeleted(MergingIterator::new(children.collect()));
    }
    match (pieces.next(), pieces.next()) {
        (Some(only), None) => Sources::One(only.open(keyspace)),
        (first, second) => {
            let all = first.into_iter().chain(second).chain(pieces);
            let children = all.map(|piece| piece.open(keyspace));
            Sources::Many(MergingIterator::new(children.collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use terrace_base::vfs::MemVfs;

    use super::*;
    use crate::bounds::{KeyBounds, OwnedBounds};
    use crate::jobs::flush::tend_memtable;
    use crate::read::context::ReadPoint;
    use crate::read::db_iter::Walk;
    use crate::{Db, Options};

    fn scan(db: &Db, range: impl KeyBounds) -> Scan {
        let engine = db.shared();
        Scan {
            view: engine.views.cell.load_full(),
            keyspace: db.state().id,
            at: ReadPoint::newest(engine.committer.visible()),
            context: engine.context.clone(),
            bounds: OwnedBounds::new(&range),
            overlay: None,
        }
    }

    /// A pop from a queue once went into every image after the head: it cost the more the longer
    /// the queue was used.
    #[test]
    fn images_without_a_key_of_the_range_are_left_out() {
        let options = Options::new().vfs(MemVfs::new(1)).tune(|tuning| {
            tuning.manual = true;
            tuning.list_entries = 4;
        });
        let db = options.open("/db").unwrap();
        for letter in ["a", "c", "e"] {
            for n in 0..4 {
                db.put(format!("{letter}{n}"), "").unwrap();
            }
            assert!(tend_memtable(db.shared()).unwrap(), "an image");
        }
        db.put("z", "").unwrap();
        // Whether the list alone is gone over.
        for (first, last, alone) in [
            ("e4", "z", true),
            ("b", "b9", true),
            ("a0", "a0", false),
            ("a3", "a3", false),
            ("a3", "c0", false),
            ("c", "d", false),
            ("c3", "e0", false),
        ] {
            let scan = scan(&db, first..=last);
            let one = matches!(sources(&scan), Sources::One(_));
            assert_eq!(one, alone, "{first} to {last}");
            let mut walk = Walk::new(&scan);
            walk.first().unwrap();
            let within = |key: &Bytes| (first.as_bytes()..=last.as_bytes()).contains(&&key[..]);
            let wanted = db.iter().map(|entry| entry.unwrap().0).find(within);
            assert_eq!(walk.valid().then(|| walk.key_bytes()), wanted);
        }
    }

    /// A piece with range deletes alone was never merged with others: each get and each scan asked
    /// all of them.
    #[test]
    fn pieces_with_range_deletes_alone_are_merged() {
        let options = Options::new()
            .vfs(MemVfs::new(1))
            .tune(|tuning| tuning.manual = true);
        let db = options.open("/db").unwrap();
        let engine = db.shared();
        for n in 0..100u8 {
            let mut batch = crate::Batch::new();
            batch.delete_range([n]..[n + 1]);
            if n % 30 == 0 {
                batch.put([n], "1");
            }
            db.write(batch).unwrap();
            engine.committer.seal();
            while tend_memtable(engine).unwrap() {}
        }
        let stats = db.stats();
        assert!(stats.memtable_pieces < 20, "{}", stats.memtable_pieces);
        assert_eq!((stats.range_deletes, db.iter().count()), (100, 4));
    }
}
