//! Merges: what readers see does not change, nothing needless stays, nothing gets lost unnoticed.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use terrace_base::{
    ErrorKind, InternalIterator, KeyspaceId, MergingIterator, OwnedKey, OwnedUserKey, RangeSet,
    SeqNo, UserKey, ValueKind,
};
use terrace_compaction::*;
use terrace_sstable::Compression;

use crate::store::{Files, Sorted, Store, Tree, packed};

/// Few keys, so that they have many versions. Keyspaces 1 and 3 are not there.
fn user(keyspace: u32, n: u8) -> OwnedUserKey {
    UserKey::new(KeyspaceId(keyspace), &[b'k', n]).to_owned()
}

#[derive(Clone, Debug)]
enum Op {
    Put(u32, u8),
    Delete(u32, u8),
    Flush,
    Snapshot,
    Release(prop::sample::Index),
    Step,
    Idle,
    Compact(Option<(u8, u8)>),
    DropKeyspace(u32),
    /// The keyspaces that want another packing than the rest, by bit, and which one.
    Pack(u8, bool, usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => (0..3u32, 0..12u8).prop_map(|(id, n)| Op::Put(2 * id, n)),
        15 => (0..3u32, 0..12u8).prop_map(|(id, n)| Op::Delete(2 * id, n)),
        10 => Just(Op::Flush),
        5 => Just(Op::Snapshot),
        4 => any::<prop::sample::Index>().prop_map(Op::Release),
        5 => Just(Op::Step),
        2 => Just(Op::Idle),
        2 => prop::option::of((0..12u8, 0..12u8)).prop_map(Op::Compact),
        1 => (1..3u32).prop_map(|id| Op::DropKeyspace(2 * id)),
        2 => (0..32u8, any::<bool>(), 100..2000usize).prop_map(|(own, lz4, size)| Op::Pack(own, lz4, size)),
    ]
}

fn tiny() -> PickOptions {
    PickOptions {
        base_bytes: 3_000,
        fan_out: 2,
        max_job_bytes: 6_000,
        ..PickOptions::default()
    }
}

fn apply(tree: &mut Tree, op: &Op, n: usize) {
    match *op {
        Op::Put(id, _) | Op::Delete(id, _) if tree.dropped.iter().any(|d| d.0.0 == id) => {}
        Op::Put(id, key) => tree.write(user(id, key), Some(vec![n as u8; n % 60])),
        Op::Delete(id, key) => tree.write(user(id, key), None),
        Op::Flush => tree.flush(),
        Op::Snapshot => {
            tree.flush(); // The oracle of this test reads tables only.
            tree.snapshots.push(tree.visible());
        }
        Op::Release(i) => {
            if !tree.snapshots.is_empty() {
                tree.snapshots.swap_remove(i.index(tree.snapshots.len()));
            }
        }
        Op::Step => drop(tree.step()),
        Op::Idle => {
            tree.options.idle = true;
            tree.settle();
            tree.options.idle = false;
        }
        Op::Compact(None) => tree.compact(&KeyRange::ALL),
        Op::Compact(Some((a, b))) => {
            use std::ops::Bound::{Excluded, Included};
            let (start, end) = ([b'k', a], [b'k', b]);
            let range = KeyRange::new(KeyspaceId(0), Included(&start), Excluded(&end));
            tree.compact(&range);
        }
        Op::Pack(own, lz4, block_size) => {
            let compression = match lz4 {
                true => Compression::Lz4,
                false => Compression::None,
            };
            let packing = Packing {
                compression,
                block_size,
            };
            let own = (0..5).filter(|id| own >> id & 1 == 1);
            let own: BTreeMap<_, _> = own.map(|id| (KeyspaceId(id), packing)).collect();
            let default = Packing {
                compression: tree.options.packings.default_compression(),
                ..Packing::default()
            };
            tree.options.packings = Packings::new(default, own);
        }
        Op::DropKeyspace(id) => {
            if tree.dropped.iter().all(|d| d.0.0 != id) {
                tree.seq += 1;
                tree.dropped.push((KeyspaceId(id), tree.visible()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_reader_sees_a_merge(
        ops in prop::collection::vec(op(), 1..150),
        lz4 in any::<bool>(),
        // Tables of one keyspace, and of several.
        target_size in prop::sample::select(vec![700u64, 3_000]),
    ) {
        let mut tree = Tree::new(tiny(), target_size);
        if lz4 {
            tree.options.packings = packed(Compression::Lz4);
        }
        for (n, op) in ops.iter().enumerate() {
            apply(&mut tree, op, n);
            if !matches!(op, Op::Put(..) | Op::Delete(..)) {
                tree.flush();
                tree.check();
            }
        }
        // Without snapshots a full compaction leaves one run of what is alive, and nothing else.
        tree.flush();
        tree.snapshots.clear();
        tree.compact(&KeyRange::ALL);
        tree.check();
        let now = tree.visible();
        prop_assert!(tree.version.runs_newest_first().count() <= 1);
        let packings = &tree.options.packings;
        for (level, _, table) in tree.version.tables() {
            prop_assert!(level == LEVELS - 1 && table.info().tombstones == 0);
            let mut entries = RunIter::over(vec![table.clone()], false);
            entries.first().unwrap();
            while entries.valid() {
                let wanted = packings.of(entries.key().user.keyspace).compression;
                prop_assert_eq!(table.info().compression, wanted, "{:?}", table.meta());
                entries.next().unwrap();
            }
        }
        // Versions that only a snapshot kept may still lie there, and keyspaces that are gone:
        // never seen, they cost space. A merge of everything takes out both, and not a key more.
        let all: Vec<_> = tree.version.runs_newest_first()
            .map(|(_, run)| RunIter::new(run.clone())).collect();
        let older = OlderRuns::default();
        let stripes = Stripes::new(&[], now);
        let may_exist = |key: UserKey<'_>| older.may_hold(key);
        let rules = Rules {
            stripes: &stripes,
            dropped_keyspaces: &tree.dropped,
            deleted: &RangeSet::default(),
            oldest_snapshot: None,
            may_exist_below: &may_exist,
            folding: None,
            keeps: None,
            fetch: None,
        };
        let mut iter = CompactionIter::new(MergingIterator::new(all), rules);
        let mut seen = HashSet::new();
        while let Some((key, value)) = iter.next_kept().unwrap() {
            prop_assert_eq!(key.kind, ValueKind::Put);
            prop_assert!(seen.insert(key.user.to_owned()), "two versions of {:?}", key);
            let expected = tree.expect(key.user, now);
            prop_assert_eq!(expected.as_deref(), Some(value));
        }
        let alive = tree.history.keys().filter(|key| tree.expect(key.as_ref(), now).is_some());
        prop_assert_eq!(seen.len(), alive.count());
    }

    #[test]
    fn a_bottommost_merge_keeps_exactly_what_some_reader_needs(
        versions in prop::collection::vec((0..4u8, any::<bool>()), 1..40),
        snapshots in prop::collection::btree_set(0..40u64, 0..4),
    ) {
        let entry = |(i, &(n, put)): (usize, &(u8, bool))| {
            let kind = if put { ValueKind::Put } else { ValueKind::Tombstone };
            (OwnedKey { user: user(0, n), seq: SeqNo::new(i as u64 + 1), kind }, Vec::new())
        };
        let entries: Vec<_> = versions.iter().enumerate().map(entry).collect();
        let visible = SeqNo::new(entries.len() as u64);
        let snapshots: Vec<SeqNo> = snapshots.into_iter().map(SeqNo::new).filter(|s| *s <= visible).collect();
        let stripes = Stripes::new(&snapshots, visible);
        let never = |_: UserKey<'_>| false;
        let rules = Rules {
            stripes: &stripes,
            dropped_keyspaces: &[],
            deleted: &RangeSet::default(),
            oldest_snapshot: snapshots.first().copied(),
            may_exist_below: &never,
            folding: None,
            keeps: None,
            fetch: None,
        };
        let mut iter = CompactionIter::new(Sorted::new(entries.clone()), rules);
        let mut kept = Vec::new();
        while let Some((key, _)) = iter.next_kept().unwrap() {
            kept.push(key.to_owned());
        }
        // A reader sees the newest version up to its point. Needed are: the puts that some reader
        // sees, and the tombstones that hide from some reader a put that another one needs.
        let points: Vec<SeqNo> = snapshots.iter().copied().chain([visible]).collect();
        let seen = |at: SeqNo, n: u8| entries.iter().rev()
            .find(|(key, _)| key.user == user(0, n) && key.seq <= at).map(|(key, _)| key.clone());
        for n in 0..4 {
            for &at in &points {
                let found = kept.iter().find(|key| key.user == user(0, n) && key.seq <= at);
                let found = found.filter(|key| key.kind == ValueKind::Put);
                let expected = seen(at, n).filter(|key| key.kind == ValueKind::Put);
                prop_assert_eq!(found, expected.as_ref(), "{} at {}", n, at);
            }
        }
        for key in &kept {
            let n = key.user.bytes[1];
            prop_assert!(points.iter().any(|&at| seen(at, n).as_ref() == Some(key)), "needless {key:?}");
            let oldest = points.first().copied().unwrap();
            prop_assert!(key.kind == ValueKind::Put || key.seq > oldest, "needless {key:?}");
        }
    }
}

/// Every version is in a stripe of its own.
fn apart() -> Stripes {
    let snapshots: Vec<SeqNo> = (0..2000).map(SeqNo::new).collect();
    Stripes::new(&snapshots, SeqNo::new(2000))
}

fn rules<'a>(
    stripes: &'a Stripes,
    deleted: &'a RangeSet,
    may_exist_below: &'a dyn Fn(UserKey<'_>) -> bool,
) -> Rules<'a> {
    Rules {
        stripes,
        dropped_keyspaces: &[],
        deleted,
        oldest_snapshot: Some(SeqNo::ZERO),
        may_exist_below,
        folding: None,
        keeps: None,
        fetch: None,
    }
}

fn options<'a>(
    target_size: u64,
    packings: &'a Packings,
    rules: Rules<'a>,
    should_stop: &'a dyn Fn() -> bool,
) -> MergeOptions<'a> {
    MergeOptions {
        rules,
        target_size,
        memory: u64::MAX,
        packings,
        should_stop,
    }
}

fn puts(keyspaces: u32, keys: u8, versions: u64, value: usize) -> Sorted {
    let mut entries = Vec::new();
    for seq in 1..=versions {
        for id in 0..keyspaces {
            for n in 0..keys {
                let seq = SeqNo::new(seq);
                let (user, kind) = (user(id, n), ValueKind::Put);
                entries.push((OwnedKey { user, seq, kind }, vec![n; value]));
            }
        }
    }
    Sorted::new(entries)
}

#[test]
fn tables_are_cut_between_user_keys() {
    let (store, packings) = (Store::new(), Packings::default());
    let (stripes, deleted) = (apart(), RangeSet::default());
    let all = |_: UserKey<'_>| true;
    let options = options(1_000, &packings, rules(&stripes, &deleted, &all), &|| false);
    let result = merge(puts(1, 10, 50, 100), &options, &mut Files(&store)).unwrap();
    assert_eq!((result.read, result.written), (500, 500));
    assert_eq!(result.tables.len(), 10, "each key fills a table by itself");
    assert_eq!(
        result.bytes_written,
        result.tables.iter().map(|t| t.info.size).sum::<u64>()
    );
    for pair in result.tables.windows(2) {
        assert!(pair[0].info.largest < pair[1].info.smallest);
    }
    let none = merge(Sorted::new(Vec::new()), &options, &mut Files(&store)).unwrap();
    assert_eq!(none, MergeResult::default());
}

/// Without an end by size a table ends before it has more blocks than its point index can name, but
/// never within a key.
#[test]
fn a_table_ends_while_its_index_can_name_all_blocks() {
    let (store, deleted) = (Store::new(), RangeSet::default());
    let packings = Packings::new(
        Packing {
            block_size: 512,
            ..Packing::default()
        },
        BTreeMap::new(),
    );
    let all = |_: UserKey<'_>| true;
    // Each entry fills a block.
    for (keys, versions) in [(200, 100), (3, 9000)] {
        let snapshots: Vec<SeqNo> = (0..=versions).map(SeqNo::new).collect();
        let stripes = Stripes::new(&snapshots, SeqNo::new(versions));
        let rules = rules(&stripes, &deleted, &all);
        let options = options(u64::MAX, &packings, rules, &|| false);
        let result = merge(puts(1, keys, versions, 400), &options, &mut Files(&store)).unwrap();
        let blocks = || result.tables.iter().map(|table| table.info.blocks);
        assert_eq!(blocks().sum::<u64>(), u64::from(keys) * versions);
        match versions {
            100 => assert!(blocks().len() == 3 && blocks().all(|n| n <= 8192)),
            _ => assert_eq!(blocks().collect::<Vec<_>>(), [9000; 3]),
        }
    }
}

#[test]
fn a_table_that_is_half_full_ends_with_its_keyspace() {
    let (store, packings) = (Store::new(), Packings::default());
    let size_of = |entries| {
        let (stripes, deleted) = (apart(), RangeSet::default());
        let all = |_: UserKey<'_>| true;
        let options = options(
            u64::MAX,
            &packings,
            rules(&stripes, &deleted, &all),
            &|| false,
        );
        merge(entries, &options, &mut Files(&store))
            .unwrap()
            .bytes_written
    };
    let one = size_of(puts(1, 100, 1, 200));
    let keyspaces = |target| {
        let (stripes, deleted) = (apart(), RangeSet::default());
        let all = |_: UserKey<'_>| true;
        let options = options(target, &packings, rules(&stripes, &deleted, &all), &|| {
            false
        });
        let result = merge(puts(3, 100, 1, 200), &options, &mut Files(&store)).unwrap();
        let ids =
            |table: &TableMeta| [&table.info.smallest, &table.info.largest].map(|k| k.keyspace.0);
        result.tables.iter().map(ids).collect::<Vec<_>>()
    };
    assert_eq!(keyspaces(one * 3 / 2), [[0, 0], [1, 1], [2, 2]]);
    assert_eq!(keyspaces(one * 8), [[0, 2]]);
}

#[test]
fn keyspaces_share_tables_if_they_are_compressed_alike_and_blocks_have_their_sizes() {
    use Compression::{Lz4, None as Raw};
    let packing = |compression, block_size| Packing {
        compression,
        block_size,
    };
    let written = |packings: &Packings, gone: &[u32]| {
        let store = Store::new();
        let (stripes, deleted) = (apart(), RangeSet::default());
        let all = |_: UserKey<'_>| true;
        let options = options(u64::MAX, packings, rules(&stripes, &deleted, &all), &|| {
            false
        });
        let mut entries = puts(4, 100, 1, 200);
        let there = |(key, _): &(OwnedKey, Vec<u8>)| !gone.contains(&key.user.keyspace.0);
        entries.entries.retain(there);
        let result = merge(entries, &options, &mut Files(&store)).unwrap();
        let of = |table: &TableMeta| {
            let ids = [&table.info.smallest, &table.info.largest].map(|k| k.keyspace.0);
            (ids, table.info.compression, table.info.blocks)
        };
        result.tables.iter().map(of).collect::<Vec<_>>()
    };
    let own = |ids: &[u32], packing| {
        let ids = ids.iter().map(|id| (KeyspaceId(*id), packing));
        ids.collect::<BTreeMap<_, _>>()
    };
    let default = packing(Raw, 8192);
    // 100 entries of some 210 bytes: 3 blocks of 8 KiB, or 6 of 4 KiB, or 50 of 512 bytes.
    assert_eq!(written(&Packings::default(), &[]), [([0, 3], Raw, 12)]);
    let some = Packings::new(default, own(&[1, 2], packing(Lz4, 4096)));
    let cut = [([0, 0], Raw, 3), ([1, 2], Lz4, 12), ([3, 3], Raw, 3)];
    assert_eq!(written(&some, &[]), cut);
    assert_eq!(written(&some.plain(), &[]), [([0, 3], Raw, 3 + 12 + 3)]);
    let small = Packings::new(default, own(&[0, 2], packing(Raw, 512)));
    assert_eq!(written(&small, &[]), [([0, 3], Raw, 50 + 3 + 50 + 3)]);
    // Nothing is written of keyspaces that are not there, and still they are between.
    let sparse = Packings::new(default, own(&[0, 2], packing(Lz4, 8192)));
    let cut = [([0, 0], Lz4, 3), ([2, 2], Lz4, 3)];
    assert_eq!(written(&sparse, &[1, 3]), cut);
    assert_eq!(
        written(&sparse, &[0, 2]),
        [([1, 1], Raw, 3), ([3, 3], Raw, 3)]
    );
}

#[test]
fn a_merge_stops_when_told_to() {
    let (store, packings) = (Store::new(), Packings::default());
    let looks = Cell::new(0);
    let stop = || {
        looks.set(looks.get() + 1);
        looks.get() > 2
    };
    let (stripes, deleted) = (apart(), RangeSet::default());
    let all = |_: UserKey<'_>| true;
    let options = options(u64::MAX, &packings, rules(&stripes, &deleted, &all), &stop);
    let error = merge(puts(1, 200, 10, 1), &options, &mut Files(&store)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    // Also while everything it meets is dropped.
    looks.set(0);
    let stripes = Stripes::new(&[], SeqNo::MAX);
    let options = MergeOptions {
        rules: Rules {
            stripes: &stripes,
            dropped_keyspaces: &[(KeyspaceId(0), SeqNo::MAX)],
            oldest_snapshot: None,
            ..options.rules
        },
        ..options
    };
    let error = merge(puts(1, 200, 10, 1), &options, &mut Files(&store)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

/// A tree with overlapping runs of a few tables each.
fn overlapping_runs() -> Tree {
    let mut tree = Tree::new(tiny(), 1_500);
    for round in 0..4 {
        for n in 0..40 {
            tree.write(user(0, n), Some(vec![round; 100]));
        }
        tree.flush();
    }
    tree
}

fn only(tree: &Tree) -> Compaction {
    let options = PickOptions {
        packings: packed(Compression::Lz4),
        ..tree.options.clone()
    };
    pick(&tree.version, &options, &HashSet::new()).unwrap()
}

#[test]
fn a_read_error_in_an_input_fails_the_merge_wherever_it_strikes() {
    let mut failures = 0;
    for fuse in 0.. {
        let mut tree = overlapping_runs();
        let compaction = only(&tree);
        tree.store.memory.fuse.store(fuse, Ordering::Relaxed);
        let outcome = tree.run(&compaction);
        tree.store.memory.fuse.store(u64::MAX, Ordering::Relaxed);
        let failed = tree.store.memory.failed.load(Ordering::Relaxed);
        match outcome {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                failures += 1;
            }
            Ok(edit) => {
                assert!(failed == 0, "a failed read was taken for an end at {fuse}");
                tree.install(&edit);
                tree.check();
                break;
            }
        }
    }
    assert!(failures > 10, "{failures}");
}

#[test]
fn a_damaged_input_fails_the_merge_by_name_and_is_set_aside() {
    for at in [10usize, 700] {
        let mut tree = overlapping_runs();
        let compaction = only(&tree);
        let damaged = compaction.inputs[3].1.clone();
        tree.store
            .memory
            .change(damaged.number(), |bytes| bytes[at] ^= 4);
        let error = tree.run(&compaction).unwrap_err();
        assert_eq!(damaged_table(&error), Some(damaged.number()), "{error}");
        damaged.set_damaged(error);
        let next = pick(&tree.version, &tree.options, &HashSet::new());
        let uses = |compaction: Compaction| compaction.numbers().any(|n| n == damaged.number());
        assert!(!next.is_some_and(uses));
    }
}

#[test]
fn an_input_that_ends_early_is_not_taken_for_a_short_one() {
    let mut tree = overlapping_runs();
    let compaction = only(&tree);
    let mut entries = compaction.entries();
    entries.first().unwrap();
    let edit = tree.run(&compaction).unwrap();
    assert_eq!(edit.removed.len(), compaction.inputs.len());
    let mut short = MergeResult {
        read: compaction.input_entries() - 1,
        ..MergeResult::default()
    };
    let error = compaction.edit(&short).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    short.read += 1;
    compaction.edit(&short).unwrap();
}

#[test]
fn a_tombstone_stays_if_the_older_table_cannot_be_asked() {
    let mut tree = Tree::new(tiny(), 1_500);
    tree.write(user(0, 1), Some(vec![1]));
    tree.write(user(0, 3), Some(vec![1]));
    tree.flush();
    tree.write(user(0, 2), None);
    let older = OlderRuns::all(&tree.version);
    assert!(!older.may_hold(user(0, 2).as_ref()), "the filter says no");
    assert!(older.may_hold(user(0, 1).as_ref()));
    assert!(!older.may_hold(user(0, 0).as_ref()), "the range says no");
    let fresh = tree.version.as_edit();
    let version = Version::empty()
        .apply(&fresh, &tree.store.shared())
        .unwrap();
    tree.store
        .memory
        .change(version.tables().next().unwrap().2.number(), |bytes| {
            bytes.clear()
        });
    let older = OlderRuns::all(&version);
    assert!(older.may_hold(user(0, 2).as_ref()), "unsure is yes");
}
