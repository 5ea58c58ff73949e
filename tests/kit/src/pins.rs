//! What a test keeps open while a database changes: snapshots, iterators and cursors, each with what it must go
//! on to answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use terrace::{Db, ErrorKind, Keyspace, Snapshot};

use crate::model::{Map, State};
use crate::op::{End, Move, Range, Read};
use crate::reads::{self, KeptCursor, KeptIter};
use crate::runner::expect;
use crate::trouble::{Outcome, Trouble};

/// Most of each kind; then the oldest go.
const MOST: usize = 12;

/// What is kept open.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    snapshots: Vec<Kept>,
    iters: Vec<KeptIter>,
    cursors: Vec<KeptCursor>,
}

#[derive(Debug)]
struct Kept {
    snapshot: Snapshot,
    state: State,
    handles: BTreeMap<String, Keyspace>,
}

impl Pins {
    pub(crate) fn take_snapshot(
        &mut self,
        db: &Db,
        state: &State,
        handles: &BTreeMap<String, Keyspace>,
    ) {
        keep(
            &mut self.snapshots,
            Kept {
                snapshot: db.snapshot(),
                state: state.clone(),
                handles: handles.clone(),
            },
        );
    }

    pub(crate) fn read_snapshot(&self, at: usize, name: &str, read: &Read) -> Outcome {
        match pick(&self.snapshots, at) {
            Some(kept) => kept.look(name, |snapshot, map| reads::check(snapshot, map, read)),
            None => Ok(()),
        }
    }

    pub(crate) fn check_snapshot(&self, at: usize) -> Outcome {
        pick(&self.snapshots, at).map_or(Ok(()), Kept::check)
    }

    pub(crate) fn check_snapshots(&self) -> Outcome {
        self.snapshots.iter().try_for_each(Kept::check)
    }

    pub(crate) fn drop_snapshot(&mut self, at: usize) {
        take(&mut self.snapshots, at);
    }

    pub(crate) fn keep_iter(&mut self, keyspace: &Keyspace, map: &Map, range: &Range) {
        let kept = KeptIter::new(keyspace.range(range), map, range);
        keep(&mut self.iters, kept);
    }

    pub(crate) fn keep_cursor(&mut self, keyspace: &Keyspace, map: &Arc<Map>) {
        keep(&mut self.cursors, KeptCursor::new(keyspace.cursor(), map));
    }

    pub(crate) fn step_iter(&mut self, at: usize, steps: usize, bits: u64) -> Outcome {
        if let Some(mut iter) = take(&mut self.iters, at) {
            iter.step(steps, bits)
                .map_err(|trouble: Trouble| trouble.within("a kept iterator"))?;
            self.iters.push(iter);
        }
        Ok(())
    }

    pub(crate) fn move_cursor(&mut self, at: usize, moves: &[Move]) -> Outcome {
        if let Some(mut cursor) = take(&mut self.cursors, at) {
            cursor
                .make(moves)
                .map_err(|trouble: Trouble| trouble.within("a kept cursor"))?;
            self.cursors.push(cursor);
        }
        Ok(())
    }

    /// Snapshots end with their database; iterators and cursors go on.
    pub(crate) fn closed(&self) -> Outcome {
        let mut snapshots = self.snapshots.iter();
        snapshots
            .try_for_each(|kept| expect("a snapshot", kept.snapshot.get("k"), ErrorKind::Closed))
    }

    pub(crate) fn drop_snapshots(&mut self) {
        self.snapshots.clear();
    }
}

impl Kept {
    fn look(&self, name: &str, with: impl FnOnce(&Snapshot, &Arc<Map>) -> Outcome) -> Outcome {
        match self.handles.get(name) {
            Some(handle) => {
                let snapshot = self.snapshot.keyspace(handle);
                with(&snapshot, &self.state.map(name)).map_err(|trouble: Trouble| {
                    trouble.within(format_args!("a snapshot, at {name:?}"))
                })
            }
            None => Ok(()),
        }
    }

    fn check(&self) -> Outcome {
        for name in self.handles.keys() {
            self.look(name, |snapshot, map| {
                reads::check(snapshot, map, &Read::Scan(Range::ALL, End::Front))?;
                reads::check(snapshot, map, &Read::Scan(Range::ALL, End::Back))?;
                map.keys()
                    .try_for_each(|key| reads::check(snapshot, map, &Read::Get(key.clone())))
            })?;
        }
        Ok(())
    }
}

fn keep<T>(all: &mut Vec<T>, one: T) {
    if all.len() >= MOST {
        all.remove(0);
    }
    all.push(one);
}

fn pick<T>(all: &[T], at: usize) -> Option<&T> {
    all.get(at % all.len().max(1))
}

fn take<T>(all: &mut Vec<T>, at: usize) -> Option<T> {
    match all.len() {
        0 => None,
        len => Some(all.remove(at % len)),
    }
}
