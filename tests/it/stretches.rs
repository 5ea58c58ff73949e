//! What walks have learned of dead keys, against a model: no live key is skipped

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use terrace::clock::ManualClock;
use terrace::vfs::MemVfs;
use terrace::{Batch, Bytes, Db, Durability, Expiry, Iter, Options, Readable, Snapshot};

const EPOCH: u64 = 1 << 30;

fn key(n: u16) -> [u8; 2] {
    n.to_be_bytes()
}

fn number(key: &[u8]) -> u16 {
    u16::from_be_bytes(key.try_into().unwrap())
}

fn at(seconds: u64) -> Expiry {
    Expiry::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn open(clock: &Arc<ManualClock>) -> Db {
    let options = Options::new().vfs(MemVfs::new(1)).clock(clock.clone());
    options
        .durability(Durability::Buffered)
        .tune(|tuning| {
            tuning.manual = true;
            tuning.list_entries = 64;
        })
        .open("/db")
        .unwrap()
}

fn keys(iter: Iter) -> Vec<u16> {
    iter.map(|entry| number(&entry.unwrap().0)).collect()
}

/// A walk that jumps over what had expired once had no time of its own. What it proved made a
/// stretch without a time longer, and a snapshot of before missed what lived then.
#[test]
fn what_expired_behind_another_stretch_is_alive_to_a_snapshot_of_before() {
    for backwards in [false, true] {
        let clock = Arc::new(ManualClock::new(Duration::from_secs(EPOCH)));
        let db = open(&clock);
        // Dead 100..200, one alive at 300, dead 400..500, until later 500..600, and ends that live
        // on.
        let order = |n: u16| key(if backwards { 1000 - n } else { n });
        for n in (100..200).chain(400..500) {
            db.delete(order(n)).unwrap();
        }
        for n in 500..600 {
            db.put_expiring(order(n), "v", at(EPOCH + 10)).unwrap();
        }
        for n in [300, 700] {
            db.put(order(n), "v").unwrap();
        }
        let walk = |from: u16| -> Option<Vec<u8>> {
            let found = match backwards {
                false => db.range(order(from)..).next(),
                true => db.range(..=order(from)).next_back(),
            };
            found.map(|entry| entry.unwrap().0.to_vec())
        };
        for _ in 0..2 {
            assert_eq!(walk(0), Some(order(300).to_vec()));
            assert_eq!(walk(400), Some(order(500).to_vec()));
            db.delete("nothing").unwrap(); // What they found is watched from here on.
        }
        db.delete(order(300)).unwrap();
        let before = db.snapshot();
        clock.advance(Duration::from_secs(20));
        assert_eq!(walk(400), Some(order(700).to_vec()));
        assert_eq!(walk(0), Some(order(700).to_vec()), "over both");
        let alive: Vec<_> = before.iter().map(|entry| entry.unwrap().0).collect();
        assert_eq!(alive.len(), 101, "forwards");
        assert_eq!(before.iter().rev().count(), 101, "backwards");
        let found = match backwards {
            false => before.range(order(400)..).next(),
            true => before.range(..=order(400)).next_back(),
        };
        assert_eq!(found.unwrap().unwrap().0, order(500)[..]);
    }
}

/// The keys that the model test uses, enough that stretches begin, grow and meet.
const KEYS: u16 = 400;

#[derive(Clone, Debug)]
enum Op {
    Put(u16, u16),
    Expiring(u16, u16, u64),
    Delete(u16, u16),
    DeleteRange(u16, u16),
    /// Deletes of several from one end, each after a look at it.
    Take(u16, bool),
    Pop(u16, bool),
    Clock(u64),
    Snapshot,
    Release(usize),
    /// An iterator of now that is continued later, from both ends.
    Hold(u16),
    GoOn(usize, u16, bool),
    Flush,
    Compact,
    Own(Vec<(u16, u16, bool)>, bool),
    Read(u16, u16, bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let from = || prop_oneof![0..KEYS, Just(0), Just(KEYS / 2)];
    let len = || prop_oneof![3 => 1..4u16, 2 => 30..KEYS];
    let op = prop_oneof![
        4 => (from(), prop_oneof![4 => 1..3u16, 1 => 30..KEYS]).prop_map(|(a, n)| Op::Put(a, n)),
        2 => (from(), len(), 1..30u64).prop_map(|(a, n, s)| Op::Expiring(a, n, s)),
        6 => (from(), len()).prop_map(|(a, n)| Op::Delete(a, n)),
        1 => (from(), len()).prop_map(|(a, n)| Op::DeleteRange(a, n)),
        2 => (1..60u16, any::<bool>()).prop_map(|(n, back)| Op::Take(n, back)),
        1 => (1..40u16, any::<bool>()).prop_map(|(n, back)| Op::Pop(n, back)),
        1 => (1..15u64).prop_map(Op::Clock),
        2 => Just(Op::Snapshot),
        1 => any::<prop::sample::Index>().prop_map(|n| Op::Release(n.index(4))),
        1 => (0..KEYS).prop_map(Op::Hold),
        2 => (0..4usize, 1..50u16, any::<bool>()).prop_map(|(n, by, back)| Op::GoOn(n, by, back)),
        1 => Just(Op::Flush),
        1 => Just(Op::Compact),
        2 => (prop::collection::vec((from(), 1..40u16, any::<bool>()), 1..4), any::<bool>())
            .prop_map(|(writes, commit)| Op::Own(writes, commit)),
        8 => (from(), 0..=KEYS, any::<bool>()).prop_map(|(a, b, back)| Op::Read(a, b, back)),
    ];
    prop::collection::vec(op, 20..140)
}

/// Until when each key lives.
type Rows = BTreeMap<u16, u64>;

struct Machine {
    db: Db,
    clock: Arc<ManualClock>,
    now: u64,
    rows: Rows,
    snapshots: Vec<(Snapshot, Rows, u64)>,
    held: Vec<(Iter, std::collections::VecDeque<u16>)>,
}

fn alive(rows: &Rows, now: u64) -> Vec<u16> {
    let alive = rows.iter().filter(|(_, until)| **until > now);
    alive.map(|(key, _)| *key).collect()
}

fn span(from: u16, len: u16) -> std::ops::Range<u16> {
    from..from.saturating_add(len).min(KEYS)
}

/// One read, so that what is learned differs from run to run: a range in one direction or, if it is
/// empty, an end.
fn read(reader: &impl Readable, want: &[u16], (from, to, back): (u16, u16, bool), what: &str) {
    if from >= to {
        let found = if back { reader.last() } else { reader.first() };
        let found = found.unwrap().map(|(key, _)| number(&key));
        let end = if back { want.last() } else { want.first() };
        assert_eq!(found, end.copied(), "{what}: an end, {back}");
        return;
    }
    let mut within: Vec<u16> = want.to_vec();
    within.retain(|n| (from..to).contains(n));
    let range = reader.range((Bound::Included(key(from)), Bound::Excluded(key(to))));
    let found = if back {
        within.reverse();
        range.rev().map(|entry| number(&entry.unwrap().0)).collect()
    } else {
        keys(range)
    };
    assert_eq!(found, within, "{what}: {from}..{to}, {back}");
}

impl Machine {
    fn new() -> Machine {
        let clock = Arc::new(ManualClock::new(Duration::from_secs(EPOCH)));
        Machine {
            db: open(&clock),
            clock,
            now: EPOCH,
            rows: Rows::new(),
            snapshots: Vec::new(),
            held: Vec::new(),
        }
    }

    fn alive(&self) -> Vec<u16> {
        alive(&self.rows, self.now)
    }

    fn end(&self, back: bool) -> Option<u16> {
        let alive = self.alive();
        if back { alive.last() } else { alive.first() }.copied()
    }

    fn take(&mut self, back: bool, pops: bool) {
        let db = &self.db;
        let found: Option<(Bytes, Bytes)> = match (pops, back) {
            (true, true) => db.pop_last(),
            (true, false) => db.pop_first(),
            (false, true) => db.last(),
            (false, false) => db.first(),
        }
        .unwrap();
        let found = found.map(|(key, _)| number(&key));
        assert_eq!(found, self.end(back), "taken from an end, {back} {pops}");
        if let Some(found) = found {
            if !pops {
                db.delete(key(found)).unwrap();
            }
            self.rows.remove(&found);
        }
    }

    fn own(&mut self, writes: &[(u16, u16, bool)], commit: bool) {
        let tx = self.db.transaction();
        let mut rows = self.rows.clone();
        for (from, len, puts) in writes {
            for n in span(*from, *len).step_by(3) {
                if *puts {
                    tx.put(key(n), "own").unwrap();
                    rows.insert(n, u64::MAX);
                } else {
                    tx.delete(key(n)).unwrap();
                    rows.remove(&n);
                }
            }
            let want = alive(&rows, self.now);
            for reads in [
                (0, KEYS, false),
                (0, KEYS, true),
                (0, 0, false),
                (0, 0, true),
            ] {
                read(&tx, &want, reads, "own");
            }
        }
        if commit {
            tx.commit().unwrap();
            self.rows = rows;
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Put(from, len) => span(from, len).for_each(|n| {
                self.db.put(key(n), "v").unwrap();
                self.rows.insert(n, u64::MAX);
            }),
            Op::Expiring(from, len, seconds) => span(from, len).for_each(|n| {
                let until = self.now + seconds;
                self.db.put_expiring(key(n), "v", at(until)).unwrap();
                self.rows.insert(n, until);
            }),
            Op::Delete(from, len) => span(from, len).for_each(|n| {
                self.db.delete(key(n)).unwrap();
                self.rows.remove(&n);
            }),
            Op::DeleteRange(from, len) => {
                let span = span(from, len);
                let mut batch = Batch::new();
                batch.delete_range(key(span.start)..key(span.end));
                // One key comes back in the same write.
                batch.put(key(span.start), "v");
                self.db.write(batch).unwrap();
                self.rows.retain(|n, _| !span.contains(n));
                self.rows.insert(span.start, u64::MAX);
            }
            Op::Take(times, back) => (0..times).for_each(|_| self.take(back, false)),
            Op::Pop(times, back) => (0..times).for_each(|_| self.take(back, true)),
            Op::Clock(seconds) => {
                self.clock.advance(Duration::from_secs(seconds));
                self.now += seconds;
            }
            Op::Snapshot if self.snapshots.len() < 4 => {
                let snapshot = self.db.snapshot();
                self.snapshots.push((snapshot, self.rows.clone(), self.now));
            }
            Op::Release(n) if n < self.snapshots.len() => drop(self.snapshots.remove(n)),
            Op::Hold(from) if self.held.len() < 4 => {
                // Of a snapshot: its time is fixed.
                let iter = self.db.snapshot().range(key(from)..);
                let want = self.alive().into_iter().filter(|n| *n >= from).collect();
                self.held.push((iter, want));
            }
            Op::GoOn(n, by, back) if n < self.held.len() => {
                let (iter, want) = &mut self.held[n];
                for _ in 0..by {
                    let (found, want) = match back {
                        true => (iter.next_back(), want.pop_back()),
                        false => (iter.next(), want.pop_front()),
                    };
                    let found = found.map(|entry| number(&entry.unwrap().0));
                    assert_eq!(found, want, "an iterator goes on, {back}");
                    if want.is_none() {
                        self.held.remove(n);
                        break;
                    }
                }
            }
            Op::Flush => self.db.flush().unwrap(),
            Op::Compact => self.db.compact_all().unwrap(),
            Op::Own(ref writes, commit) => self.own(writes, commit),
            Op::Read(from, to, back) => {
                let want = self.alive();
                read(&*self.db, &want, (from, to, back), "now");
                for (snapshot, rows, then) in &self.snapshots {
                    read(
                        snapshot,
                        &alive(rows, *then),
                        (from, to, back),
                        "a snapshot",
                    );
                }
            }
            Op::Snapshot | Op::Release(_) | Op::Hold(_) | Op::GoOn(..) => {}
        }
    }

    /// Everything once more, for what the steps did not ask.
    fn end_well(&self) {
        let reads = [
            (0, KEYS, false),
            (0, KEYS, true),
            (0, 0, false),
            (0, 0, true),
        ];
        for each in reads {
            read(&*self.db, &self.alive(), each, "in the end");
            for (snapshot, rows, then) in &self.snapshots {
                read(snapshot, &alive(rows, *then), each, "a snapshot in the end");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("TERRACE_CASES").map_or(150, |n| n.parse().unwrap()),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(std::env::var("TERRACE_SEED").map_or(1, |n| n.parse().unwrap())),
        ..ProptestConfig::default()
    })]
    #[test]
    fn no_walk_skips_what_lives_or_shows_what_is_dead(ops in ops()) {
        let mut machine = Machine::new();
        // A first look at rows of tombstones, so that stretches are there from the start.
        for n in (0..KEYS).filter(|n| n % 100 < 70) {
            machine.db.delete(key(n)).unwrap();
        }
        for op in &ops {
            machine.step(op);
        }
        machine.end_well();
    }
}
