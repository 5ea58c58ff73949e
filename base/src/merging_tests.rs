use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::error::Error;

/// The obviously right source: a sorted vector.
#[derive(Debug, Default)]
struct Sorted {
    entries: Vec<OwnedKey>,
    at: Option<usize>,
    /// Moves left until one fails.
    fuse: Option<usize>,
    /// How often its key was looked at.
    looks: Cell<usize>,
}

impl Sorted {
    fn new(mut entries: Vec<OwnedKey>) -> Sorted {
        entries.sort_by(|a, b| a.as_ref().cmp(&b.as_ref()));
        Sorted {
            entries,
            at: None,
            fuse: None,
            looks: Cell::new(0),
        }
    }

    fn burn(&mut self) -> Result<()> {
        match &mut self.fuse {
            Some(0) => Err(Error::corruption("fuse")),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl InternalIterator for Sorted {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.burn()?;
        let i = self.entries.partition_point(|e| e.as_ref() < target);
        self.at = (i < self.entries.len()).then_some(i);
        Ok(())
    }
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.burn()?;
        self.at = self
            .entries
            .partition_point(|e| e.as_ref() <= target)
            .checked_sub(1);
        Ok(())
    }
    fn first(&mut self) -> Result<()> {
        self.at = (!self.entries.is_empty()).then_some(0);
        self.burn()
    }
    fn last(&mut self) -> Result<()> {
        self.at = self.entries.len().checked_sub(1);
        self.burn()
    }
    fn next(&mut self) -> Result<()> {
        self.burn()?;
        self.at = self.at.map(|i| i + 1).filter(|&i| i < self.entries.len());
        Ok(())
    }
    fn prev(&mut self) -> Result<()> {
        self.burn()?;
        self.at = self.at.and_then(|i| i.checked_sub(1));
        Ok(())
    }
    fn valid(&self) -> bool {
        self.at.is_some()
    }
    fn key(&self) -> KeyRef<'_> {
        self.looks.set(self.looks.get() + 1);
        self.at.map_or(EMPTY, |i| self.entries[i].as_ref())
    }
    fn value(&self) -> &[u8] {
        self.at.map_or(&[], |i| &self.entries[i].user.bytes)
    }
}

#[derive(Clone, Debug)]
enum Move {
    First,
    Last,
    Next,
    Prev,
    Seek(Vec<u8>, u64),
    SeekForPrev(Vec<u8>, u64),
}

/// Some are longer than a head, one begins with another, and some part late.
const PREFIXES: [&str; 4] = [
    "commonprefix",
    "commonprefixcommonprefix",
    "commonprefixcommonpreface",
    "commonprefiy",
];

fn tail(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b')], len)
}

fn prefixed((prefix, tail): (usize, Vec<u8>)) -> Vec<u8> {
    [PREFIXES[prefix].as_bytes(), &tail].concat()
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few letters and shared long prefixes, so that heads tie often.
    prop_oneof![
        prop::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(255u8)], 0..4),
        (0..PREFIXES.len(), tail(0..3)).prop_map(prefixed),
        (0..PREFIXES.len(), tail(0..20)).prop_map(prefixed),
    ]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        1 => Just(Move::First),
        1 => Just(Move::Last),
        4 => Just(Move::Next),
        4 => Just(Move::Prev),
        1 => (key(), 0..200u64).prop_map(|(k, s)| Move::Seek(k, s)),
        1 => (key(), 0..200u64).prop_map(|(k, s)| Move::SeekForPrev(k, s)),
    ];
    prop::collection::vec(one, 1..60)
}

fn apply(iterator: &mut impl InternalIterator, step: &Move) -> Result<()> {
    let lookup = |k, s| KeyRef::lookup(UserKey::new(KeyspaceId(0), k), SeqNo::new(s));
    match step {
        Move::First => iterator.first(),
        Move::Last => iterator.last(),
        Move::Next => iterator.next(),
        Move::Prev => iterator.prev(),
        Move::Seek(k, s) => iterator.seek(lookup(k, *s)),
        Move::SeekForPrev(k, s) => iterator.seek_for_prev(lookup(k, *s)),
    }
}

proptest! {
    #[test]
    fn a_merge_equals_one_sorted_list(
        entries in prop::collection::vec((key(), 0..6usize), 0..60),
        moves in moves(),
    ) {
        let mut children: Vec<Vec<OwnedKey>> = vec![Vec::new(); 6];
        let mut all = Vec::new();
        for (i, (bytes, child)) in entries.into_iter().enumerate() {
            let keyspace = KeyspaceId(u32::from(i % 4 == 3));
            let user = UserKey::new(keyspace, &bytes).to_owned();
            let entry = OwnedKey { user, seq: SeqNo::new(i as u64), kind: ValueKind::Put };
            children[child].push(entry.clone());
            all.push(entry);
        }
        let mut merged = MergingIterator::new(children.into_iter().map(Sorted::new).collect());
        let mut twin = Sorted::new(all);
        for step in &moves {
            apply(&mut merged, step).unwrap();
            apply(&mut twin, step).unwrap();
            prop_assert_eq!(merged.valid(), twin.valid(), "{:?}", step);
            if twin.valid() {
                prop_assert_eq!(merged.key(), twin.key(), "{:?}", step);
                prop_assert_eq!(merged.value(), twin.value());
            }
        }
    }
}

#[test]
fn a_child_that_fails_is_an_error_and_not_an_end() {
    let entry = |text| OwnedKey::parse(text).unwrap();
    for fuse in 0..4 {
        let mut broken = Sorted::new(vec![entry("b#2,PUT"), entry("d#4,PUT"), entry("f#5,PUT")]);
        broken.fuse = Some(fuse);
        let sound = Sorted::new(vec![entry("a#1,PUT"), entry("c#3,PUT")]);
        let mut merged = MergingIterator::new(vec![sound, broken]);
        let mut result = merged.first();
        while result.is_ok() && merged.valid() {
            result = merged.next();
        }
        assert!(result.is_err(), "fuse {fuse}");
        assert!(!merged.valid());
    }
}

/// Keys dealt out in stretches: within one only the child that has it is looked at, and how often
/// does not depend on how much the keys share.
#[test]
fn keys_with_a_common_prefix_gallop_like_others() {
    let looks = |name: &dyn Fn(usize) -> String, backward: bool| {
        let mut children = vec![Vec::new(); 4];
        for n in 0..8000 {
            let user = UserKey::new(KeyspaceId(0), name(n).as_bytes()).to_owned();
            let (seq, kind) = (SeqNo::new(1), ValueKind::Put);
            children[n / 50 % 4].push(OwnedKey { user, seq, kind });
        }
        let mut merged = MergingIterator::new(children.into_iter().map(Sorted::new).collect());
        match backward {
            true => merged.last().unwrap(),
            false => merged.first().unwrap(),
        }
        let mut steps = 0;
        while merged.valid() {
            match backward {
                true => merged.prev().unwrap(),
                false => merged.next().unwrap(),
            }
            steps += 1;
        }
        assert_eq!(steps, 8000);
        let looks = merged.children().iter().map(|child| child.looks.get());
        looks.sum::<usize>()
    };
    for backward in [false, true] {
        let plain = looks(&|n| format!("{n:08}"), backward);
        let padded = looks(&|n| format!("{n:024}"), backward);
        let url = looks(
            &|n| format!("https://example.org/item/{:03}/{:05}", n / 1000, n),
            backward,
        );
        assert!(plain < 10_000, "{plain} looks at 8,000 plain keys");
        assert!(padded < 11_000, "{padded} looks at 8,000 padded keys");
        assert!(url < 11_000, "{url} looks at 8,000 urls");
    }
}
