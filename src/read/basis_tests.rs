use std::collections::BTreeMap;
use std::ops::Bound;

use terrace_base::hash::seeded;
use terrace_base::vfs::MemVfs;
use terrace_base::{KeyspaceId, UserKey};

use super::*;
use crate::read::read_set::in_order;
use crate::{Batch, Db, Options};

type Map = BTreeMap<Vec<u8>, u64>;

/// Numbers in no order.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 += 1;
        seeded(self.0, 7) % n
    }

    fn key(&mut self) -> Vec<u8> {
        let len = 1 + self.below(2);
        (0..len).map(|_| b'a' + self.below(8) as u8).collect()
    }

    fn bound(&mut self) -> Bound<Vec<u8>> {
        match self.below(5) {
            0 => Bound::Unbounded,
            1 | 2 => Bound::Included(self.key()),
            _ => Bound::Excluded(self.key()),
        }
    }
}

fn contains(bounds: &OwnedBounds, key: &[u8]) -> bool {
    bounds.above_lower(key) && bounds.below_upper(key)
}

/// A write: its number, and the keys that it concerns.
type Written = (u64, Bound<Vec<u8>>, Bound<Vec<u8>>);

fn write(db: &Db, dice: &mut Dice, map: &mut Map, written: &mut Vec<Written>) {
    let key = dice.key();
    let at = Bound::Included(key.clone());
    match dice.below(8) {
        0 => {
            let upper = dice.key();
            let mut batch = Batch::new(); // As a range also where few keys lie in it.
            batch.delete_range(key.clone()..upper.clone());
            if key < upper {
                let seq = db.write(batch).unwrap().get();
                let deleted = key..upper.clone();
                map.retain(|k, _| !deleted.contains(k));
                written.push((seq, at, Bound::Excluded(upper)));
            }
        }
        1 | 2 => {
            let seq = db.delete(&key).unwrap().get();
            map.remove(&key);
            written.push((seq, at.clone(), at));
        }
        _ => {
            let seq = db.put(&key, "").unwrap().get();
            map.insert(key, seq);
            written.push((seq, at.clone(), at));
        }
    }
}

/// What is found was written, and nothing that changes an answer is missed; wherever it lies, and
/// whichever side is the smaller.
#[test]
fn changes_are_those_that_a_list_of_all_writes_has() {
    for seed in 0..300 {
        let dice = &mut Dice(seed << 32);
        let options = Options::new().tune(|tuning| {
            tuning.manual = true;
            tuning.list_entries = 4;
        });
        let db = options.vfs(MemVfs::new(seed)).open("/db").unwrap();
        let (mut map, mut written) = (Map::new(), Vec::new());
        for _ in 0..dice.below(30) {
            write(&db, dice, &mut map, &mut written);
        }
        if dice.below(2) == 0 {
            db.compact_all().unwrap();
        }
        let snapshot = db.snapshot(); // Keeps what an older reader may ask for.
        let (since, before) = (snapshot.seq(), map.clone());
        for _ in 0..dice.below(12) {
            write(&db, dice, &mut map, &mut written);
            match dice.below(12) {
                0 => db.compact_all().unwrap(),
                1 => db.flush().unwrap(),
                _ => {}
            }
        }
        let (view, _) = db.shared().committer.newest();
        for _ in 0..20 {
            let mut keys: Vec<_> = (0..dice.below(30)).map(|_| dice.key()).collect();
            keys.sort();
            keys.dedup();
            let ranges = (0..dice.below(3)).map(|_| {
                let (lower, upper) = (dice.bound(), dice.bound());
                (KeyspaceId(0), OwnedBounds { lower, upper })
            });
            let ranges = in_order(ranges.collect());
            let checked = keys.iter().map(|key| UserKey::new(KeyspaceId(0), key));
            let checked: Vec<_> = checked.map(CheckedKey::new).collect();
            let basis = Basis {
                keys: &checked,
                ranges: &ranges,
            };
            let within = |key: &[u8]| {
                keys.iter().any(|known| known == key)
                    || ranges.iter().any(|(_, bounds)| contains(bounds, key))
            };
            let read = |map: &Map| -> Map {
                let read = map.iter().filter(|(key, _)| within(key));
                read.map(|(key, seq)| (key.clone(), *seq)).collect()
            };
            match view.changed(&basis, since).unwrap() {
                None => assert_eq!(read(&map), read(&before), "seed {seed}: {basis:?}"),
                Some((key, seq)) => {
                    assert!(seq > since, "seed {seed}: {key:?} at {seq}");
                    let is_it = |(number, lower, upper): &Written| {
                        let (lower, upper) = (lower.clone(), upper.clone());
                        *number == seq.get() && contains(&OwnedBounds { lower, upper }, &key)
                    };
                    assert!(written.iter().any(is_it), "seed {seed}: {key:?} at {seq}");
                    assert!(within(&key), "seed {seed}: {key:?} is not asked about");
                }
            }
        }
    }
}
