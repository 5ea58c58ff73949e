use proptest::prelude::*;

use super::*;

fn range(keyspace: u32, lower: &str, upper: Option<&str>, seq: u64) -> DeletedRange {
    DeletedRange {
        keyspace: KeyspaceId(keyspace),
        lower: lower.as_bytes().into(),
        upper: upper.map(|upper| upper.as_bytes().into()),
        seq: SeqNo::new(seq),
    }
}

#[test]
fn the_worked_example() {
    let set = RangeSet::default()
        .with(range(0, "b", Some("f"), 5))
        .with(range(0, "d", Some("k"), 9))
        .with(range(0, "m", Some("p"), 7));
    let newest = |key: &str, at| {
        let key = UserKey::new(KeyspaceId(0), key.as_bytes());
        set.newest(key, SeqNo::new(at)).get()
    };
    assert_eq!(
        [newest("a", 99), newest("b", 99), newest("d", 99)],
        [0, 5, 9]
    );
    assert_eq!([newest("d", 8), newest("d", 4), newest("k", 99)], [5, 0, 0]);
    assert_eq!([newest("m", 99), newest("p", 99)], [7, 0]);
}

#[test]
fn a_range_without_end_ends_with_its_keyspace() {
    let set = RangeSet::default()
        .with(range(1, "x", None, 3))
        .with(range(1, "", Some("a"), 4))
        .with(range(2, "", None, 5));
    let newest =
        |id, key: &str| set.newest(UserKey::new(KeyspaceId(id), key.as_bytes()), SeqNo::MAX);
    assert_eq!([newest(1, "zz").get(), newest(1, "b").get()], [3, 0]);
    assert_eq!([newest(2, "zz").get(), newest(3, "").get()], [5, 0]);
}

/// Panics unless the invariants of the tree hold; how many deletes it has.
fn check(tree: &Tree) -> usize {
    let Some(node) = tree else { return 0 };
    let again = Node::new(node.range.clone(), node.left.clone(), node.right.clone());
    assert_eq!(
        (again.oldest, again.newest, &again.furthest),
        (node.oldest, node.newest, &node.furthest)
    );
    for (child, wanted) in [
        (&node.left, Ordering::Less),
        (&node.right, Ordering::Greater),
    ] {
        if let Some(child) = child {
            assert_eq!(cmp_starts(&child.range, &node.range), wanted);
            assert!(priority(&child.range) <= priority(&node.range));
        }
    }
    1 + check(&node.left) + check(&node.right)
}

#[derive(Clone, Debug)]
enum Op {
    Delete(u32, u8, Option<u8>),
    /// Of those that are there, the one at this place.
    Forget(usize),
    /// Into one set with what the other holds.
    Unite,
    Clean(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (0u32..2, 0u8..12, prop::option::weighted(0.8, 1u8..13))
            .prop_map(|(id, lower, upper)| Op::Delete(id, lower, upper)),
        // A head that is deleted again and again.
        6 => (1u8..13).prop_map(|upper| Op::Delete(0, 0, Some(upper))),
        3 => any::<usize>().prop_map(Op::Forget),
        1 => Just(Op::Unite),
        1 => (0u64..80).prop_map(Op::Clean),
    ];
    prop::collection::vec(op, 1..80)
}

/// What the tests compare with: each delete looked at by itself.
fn covering(naive: &[DeletedRange], key: UserKey<'_>) -> Vec<SeqNo> {
    let covering = naive.iter().filter(|range| range.covers_keys(key, key));
    covering.map(|range| range.seq).collect()
}

fn compare(set: &RangeSet, naive: &[DeletedRange]) {
    assert_eq!(check(&set.root), naive.len());
    assert!(set.ranges().map(|range| &**range).eq(naive.iter()));
    let bytes =
        |range: &DeletedRange| range.lower.len() + range.upper.as_ref().map_or(0, |u| u.len());
    assert_eq!(
        set.key_bytes(),
        naive.iter().map(bytes).sum::<usize>() as u64
    );
    assert_eq!((set.len(), set.is_empty()), (naive.len(), naive.is_empty()));
    let keys = |id| (0u8..14).map(move |key| (KeyspaceId(id), [key]));
    for (id, key) in (0..3).flat_map(keys) {
        let key = UserKey::new(id, &key);
        let seqs = covering(naive, key);
        for at in (0..90).step_by(3).map(SeqNo::new) {
            let newest = seqs.iter().filter(|seq| **seq <= at).max();
            assert_eq!(
                set.covering(key, at).map(|r| r.seq),
                newest.copied(),
                "{set:?} {key:?} {at}"
            );
            assert_eq!(set.newest(key, at), newest.copied().unwrap_or_default());
            let oldest = seqs.iter().filter(|seq| **seq > at).min();
            assert_eq!(
                set.oldest_above(key, at),
                oldest.copied(),
                "{set:?} {key:?} {at}"
            );
        }
        for last in [0, 1, 5].map(|more| [key.bytes[0] + more]) {
            let last = UserKey::new(id, &last);
            let touching = || naive.iter().filter(|range| range.touches(key, last));
            assert_eq!(set.touches(key, last), touching().count() > 0);
            for above in [10, 40].map(SeqNo::new) {
                let mut found = Vec::new();
                set.find_touching(key, last, above, |range| {
                    found.push(range.seq);
                    false
                });
                found.sort();
                let wanted = touching().map(|range| range.seq).filter(|seq| *seq > above);
                assert_eq!(found, wanted.collect::<Vec<_>>());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn a_set_says_what_each_of_its_deletes_does(ops in ops()) {
        let (mut set, mut naive) = (RangeSet::default(), Vec::<DeletedRange>::new());
        let mut kept = Vec::new();
        for (n, op) in (1..).zip(ops) {
            match op {
                Op::Delete(id, lower, upper) if upper.is_none_or(|upper| upper > lower) => {
                    let range = DeletedRange {
                        keyspace: KeyspaceId(id),
                        lower: [lower].into(),
                        upper: upper.map(|upper| [upper].into()),
                        seq: SeqNo::new(n),
                    };
                    set = set.with(range.clone());
                    naive.push(range);
                }
                Op::Delete(..) => {}
                Op::Forget(_) if naive.is_empty() => prop_assert!(!set.remove(SeqNo::new(n))),
                Op::Forget(at) => {
                    let gone = naive.remove(at % naive.len());
                    prop_assert!(set.remove(gone.seq));
                }
                Op::Unite => {
                    let odd = |range: &&DeletedRange| range.seq.get() % 3 == 1;
                    let (a, b): (Vec<_>, Vec<_>) = naive.iter().partition(odd);
                    let [a, b] = [a, b].map(|part| {
                        RangeSet::new(part.into_iter().cloned().map(Arc::new).collect())
                    });
                    set = RangeSet::union([&a, &b]);
                }
                Op::Clean(settled) => {
                    let settled = SeqNo::new(settled);
                    let old = naive.clone();
                    naive.retain(|range| {
                        let newer = |r: &&DeletedRange| r.seq > range.seq && r.seq <= settled;
                        !old.iter().filter(newer).any(|newer| newer.covers(range))
                    });
                    for range in &old {
                        prop_assert_eq!(set.is_superseded(range, settled), !naive.contains(range));
                    }
                    let alike = |seq: SeqNo| if seq <= settled { settled } else { seq };
                    set = set.without_superseded(alike);
                }
            }
            kept.push((set.clone(), naive.clone()));
        }
        // Sets that were made on the way have not changed.
        for (set, naive) in kept.iter().step_by(17).chain(kept.last()) {
            compare(set, naive);
        }
    }
}

/// The depth of a tree.
fn depth(tree: &Tree) -> usize {
    tree.as_ref()
        .map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
}

#[test]
fn a_head_that_is_deleted_again_and_again_makes_no_deep_tree() {
    let mut set = RangeSet::default();
    for n in 1..=20_000u64 {
        set.insert(Arc::new(range(0, "", Some(&format!("{n:06}")), n)));
    }
    assert!(depth(&set.root) < 60, "{}", depth(&set.root));
    let key = UserKey::new(KeyspaceId(0), b"010000");
    assert_eq!(set.newest(key, SeqNo::MAX), SeqNo::new(20_000));
    assert_eq!(set.newest(key, SeqNo::new(10_001)), SeqNo::new(10_001));
    assert_eq!(set.newest(key, SeqNo::new(10_000)), SeqNo::ZERO);
    assert_eq!(set.without_superseded(|_| SeqNo::MAX).len(), 1);
}
