//! Questions, asked of whatever can be read and compared with a map.

use std::ops::Bound;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use terrace::{Bytes, Cursor, Iter, Readable, Result};

use crate::model::{Entry, Expires, Map};
use crate::op::{End, LATER, Move, Range, Read};
use crate::oracle::brief;
use crate::trouble::{Outcome, Trouble, failed};

type Pair = (Bytes, Bytes);

fn same<T: PartialEq + std::fmt::Debug>(what: impl FnOnce() -> String, got: T, want: T) -> Outcome {
    if got == want {
        return Ok(());
    }
    let (got, want) = (brief(&got), brief(&want));
    Err(format!("{}: got {got}, want {want}", what()).into())
}

/// The entries of `map` within `range`, in order.
fn within<'a>(map: &'a Map, range: &'a Range) -> impl DoubleEndedIterator<Item = Pair> + 'a {
    // A map would panic over a range that is turned round.
    let is_empty = match (&range.lower, &range.upper) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
        (
            Bound::Included(lower) | Bound::Excluded(lower),
            Bound::Included(upper) | Bound::Excluded(upper),
        ) => lower >= upper,
    };
    let inside =
        (!is_empty).then(|| map.range::<Bytes, _>((range.lower.as_ref(), range.upper.as_ref())));
    let inside = inside.into_iter().flatten();
    inside.map(|(key, entry)| (key.clone(), entry.value.clone()))
}

/// Asks `read` of `db`, which must answer as `map` does.
pub(crate) fn check<R: Readable>(db: &R, map: &Arc<Map>, read: &Read) -> Outcome {
    match read {
        Read::Get(key) => get(db, map, key),
        Read::MultiGet(keys) => {
            let got = failed("multi_get", db.multi_get(keys))?;
            let want = keys.iter().map(|key| map.get(key).map(|e| e.value.clone()));
            same(|| "multi_get".into(), got, want.collect())
        }
        Read::Scan(range, end) => scan(db.range(range), within(map, range).collect(), *end, || {
            format!("{range:?}")
        }),
        Read::Prefix(prefix, end) => {
            let from = map.range::<Bytes, _>((Bound::Included(prefix), Bound::Unbounded));
            let starts = from.take_while(|(key, _)| key.starts_with(prefix));
            let want = starts.map(|(key, entry)| (key.clone(), entry.value.clone()));
            let want = want.collect();
            scan(db.prefix(prefix), want, *end, || {
                format!("prefix {prefix:?}")
            })
        }
        Read::Meet(range, bits) => {
            let mut kept = KeptIter::new(db.range(range), map, range);
            kept.step(usize::MAX, *bits)
        }
        Read::Keys(range, bits) => keys(db, map, range, *bits),
        Read::Count(range) => {
            let got = failed("count", db.count(range))?;
            same(
                || format!("count {range:?}"),
                got,
                within(map, range).count() as u64,
            )?;
            let got = db.range(range).count() as u64;
            same(
                || format!("Iter::count {range:?}"),
                got,
                within(map, range).count() as u64,
            )
        }
        Read::Ends => {
            let pair = |(key, entry): (&Bytes, &Entry)| (key.clone(), entry.value.clone());
            let first = failed("first", db.first())?;
            same(|| "first".into(), first, map.first_key_value().map(pair))?;
            let last = failed("last", db.last())?;
            same(|| "last".into(), last, map.last_key_value().map(pair))?;
            let empty = failed("is_empty", db.is_empty())?;
            same(|| "is_empty".into(), empty, map.is_empty())
        }
        Read::Cursor(moves) => KeptCursor::new(db.cursor(), map).make(moves),
    }
}

fn get<R: Readable>(db: &R, map: &Map, key: &Bytes) -> Outcome {
    let want = map.get(key);
    let value = want.map(|entry| entry.value.clone());
    let got = failed("get", db.get(key))?;
    same(|| format!("get {key:?}"), got, value.clone())?;
    let len = value.as_ref().map_or(0, |value| value.len()) as u64;
    let (from, to) = (
        len / 3,
        len - len / 4 + u64::from(len.is_multiple_of(2)) * 5,
    );
    let part = |value: &Bytes| value.slice(from.min(len) as usize..to.min(len) as usize);
    let got = failed("get_slice", db.get_slice(key, from..to))?;
    same(
        || format!("get_slice {key:?}"),
        got,
        value.as_ref().map(part),
    )?;
    let got = failed("get_with", db.get_with(key, Bytes::copy_from_slice))?;
    same(|| format!("get_with {key:?}"), got, value.clone())?;
    let got = failed("contains_key", db.contains_key(key))?;
    same(|| format!("contains_key {key:?}"), got, want.is_some())?;
    let got = failed("get_entry", db.get_entry(key))?;
    same(
        || format!("get_entry {key:?}"),
        got.as_ref().map(|entry| entry.value.clone()),
        value,
    )?;
    if let (Some(got), Some(want)) = (&got, want) {
        let after = got.expires_at.map(|at| at.duration_since(UNIX_EPOCH));
        let expires = match after {
            None => Expires::Never,
            Some(Ok(LATER)) => Expires::Later,
            Some(_) => Expires::Default, // It depends on when the write was.
        };
        same(|| format!("the expiry of {key:?}"), expires, want.expires)?;
    }
    match (got, want.and_then(|entry| entry.version)) {
        (Some(got), Some(version)) => {
            same(|| format!("the version of {key:?}"), got.version, version)
        }
        _ => Ok(()),
    }
}

fn scan(iter: Iter, mut want: Vec<Pair>, end: End, what: impl FnOnce() -> String) -> Outcome {
    let got: Result<Vec<Pair>> = match end {
        End::Front => iter.collect(),
        End::Back => {
            want.reverse();
            iter.rev().collect()
        }
    };
    let got = failed("a scan", got)?;
    let at = (0..got.len().max(want.len())).find(|&i| got.get(i) != want.get(i));
    let Some(at) = at else { return Ok(()) };
    Err(format!(
        "scan of {} from the {end:?}: {} entries, not {}; number {at} is {}, not {}",
        what(),
        got.len(),
        want.len(),
        brief(&got.get(at)),
        brief(&want.get(at))
    )
    .into())
}

fn keys<R: Readable>(db: &R, map: &Map, range: &Range, bits: u64) -> Outcome {
    let mut iter = db.range(range).keys();
    let mut want = within(map, range).map(|(key, _)| key);
    for i in 0.. {
        let front = bits >> (i % 64) & 1 == 0;
        let (got, want) = if front {
            (iter.next(), want.next())
        } else {
            (iter.next_back(), want.next_back())
        };
        let got = failed("a scan of keys", got.transpose())?;
        let done = want.is_none();
        same(|| format!("key {i} of {range:?} by {bits:b}"), got, want)?;
        if done {
            break;
        }
    }
    Ok(())
}

/// An iterator and what it has still to give.
#[derive(Debug)]
pub(crate) struct KeptIter {
    iter: Iter,
    want: std::collections::VecDeque<Pair>,
    range: Range,
}

impl KeptIter {
    pub(crate) fn new(iter: Iter, map: &Map, range: &Range) -> KeptIter {
        KeptIter {
            iter,
            want: within(map, range).collect(),
            range: range.clone(),
        }
    }

    /// Takes up to `steps` steps; a bit says from which end, over and over.
    pub(crate) fn step(&mut self, steps: usize, bits: u64) -> Outcome {
        for i in 0..steps {
            let front = bits >> (i % 64) & 1 == 0;
            let (got, want) = if front {
                (self.iter.next(), self.want.pop_front())
            } else {
                (self.iter.next_back(), self.want.pop_back())
            };
            let got = failed("an iterator", got.transpose())?;
            let done = want.is_none();
            let range = &self.range;
            same(
                || format!("step {i} (front: {front}) of {range:?} by {bits:b}"),
                got,
                want,
            )?;
            if done {
                let again = (self.iter.next().is_none(), self.iter.next_back().is_none());
                return same(|| "an iterator at its end".into(), again, (true, true));
            }
        }
        Ok(())
    }
}

/// A cursor and what it moves over.
#[derive(Debug)]
pub(crate) struct KeptCursor {
    cursor: Cursor,
    entries: Arc<Map>,
    at: Option<Bytes>,
}

impl KeptCursor {
    pub(crate) fn new(cursor: Cursor, map: &Arc<Map>) -> KeptCursor {
        KeptCursor {
            cursor,
            entries: map.clone(),
            at: None,
        }
    }

    /// Makes the moves and compares after each.
    pub(crate) fn make(&mut self, moves: &[Move]) -> Outcome {
        for (i, one) in moves.iter().enumerate() {
            let times = match one {
                Move::Next(n) | Move::Prev(n) => *n,
                _ => 1,
            };
            for time in 0..times {
                let place = || format!("move {i} ({one:?}, time {time}) of a cursor, {moves:?}");
                self.go(one)
                    .map_err(|trouble: Trouble| trouble.within(place()))?;
            }
        }
        Ok(())
    }

    fn go(&mut self, one: &Move) -> Outcome {
        let map = &self.entries;
        let first = |(key, _): (&Bytes, &Entry)| key.clone();
        let from = |bound: Bound<&Bytes>| map.range::<Bytes, _>((bound, Bound::Unbounded)).next();
        let upto =
            |bound: Bound<&Bytes>| map.range::<Bytes, _>((Bound::Unbounded, bound)).next_back();
        let (moved, at) = match one {
            Move::Seek(key) => (self.cursor.seek(key), from(Bound::Included(key)).map(first)),
            Move::SeekForPrev(key) => (
                self.cursor.seek_for_prev(key),
                upto(Bound::Included(key)).map(first),
            ),
            Move::First => (self.cursor.first(), map.first_key_value().map(first)),
            Move::Last => (self.cursor.last(), map.last_key_value().map(first)),
            Move::Next(_) => (
                self.cursor.next(),
                self.at
                    .as_ref()
                    .and_then(|at| from(Bound::Excluded(at)))
                    .map(first),
            ),
            Move::Prev(_) => (
                self.cursor.prev(),
                self.at
                    .as_ref()
                    .and_then(|at| upto(Bound::Excluded(at)))
                    .map(first),
            ),
        };
        self.at = at;
        let moved = failed("a move", moved)?;
        let want = self.at.as_ref().and_then(|at| map.get_key_value(at));
        same(|| "on an entry".into(), moved, want.is_some())?;
        same(|| "valid".into(), self.cursor.valid(), want.is_some())?;
        let got = (
            Bytes::copy_from_slice(self.cursor.key()),
            Bytes::copy_from_slice(failed("value", self.cursor.value())?),
        );
        let want = want.map_or_else(Default::default, |(key, e)| (key.clone(), e.value.clone()));
        same(|| "the entry".into(), got, want)
    }
}
