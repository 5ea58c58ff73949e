//! A tree under load: flushes, and jobs that run side by side and end in any order. Whatever happens, the
//! invariants hold after every edit, jobs never meet, and the tree settles into its shape.

use std::collections::HashSet;

use proptest::prelude::*;
use terrace_base::{FileNumber, KeyspaceId, SeqNo, UserKey};
use terrace_compaction::*;
use terrace_sstable::Compression;

use crate::store::{Store, Tree, key, packed};

fn rng(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn one_in(n: u64, state: &mut u64) -> bool {
    rng(state).is_multiple_of(n)
}

/// Sizes in proportion to the real ones: flushes of 1, base of 4, a table of half a flush.
const FLUSH: u64 = 16 << 10;

fn small() -> PickOptions {
    PickOptions {
        base_bytes: 4 * FLUSH,
        max_job_bytes: 8 * FLUSH,
        ..PickOptions::default()
    }
}

fn load(tree: &mut Tree, state: &mut u64, keys: u64, sequential: bool) {
    for _ in 0..FLUSH / 120 {
        let n = if sequential {
            tree.seq
        } else {
            rng(state) % keys
        };
        let name = format!(
            "key{:013}",
            n.wrapping_mul(if sequential { 1 } else { 0x9e37_79b9 })
        );
        let user = UserKey::new(KeyspaceId(0), name.as_bytes()).to_owned();
        let value = if one_in(16, state) {
            None
        } else {
            Some(vec![rng(state) as u8; 100])
        };
        tree.write(user, value);
    }
    tree.flush();
}

/// The shape that must hold once nothing is due.
fn check_shape(tree: &Tree) {
    let targets = targets(&tree.version, &tree.options);
    let due = if tree.options.idle {
        1
    } else {
        tree.options.level0_runs
    };
    assert!(tree.version.level(0).runs.len() < due);
    for n in 1..LEVELS - 1 {
        let size = tree.version.level(n).size();
        assert!(
            size <= targets.of(n),
            "level {n} holds {size} of {}",
            targets.of(n)
        );
    }
    assert_eq!(debt(&tree.version, &tree.options), 0);
}

fn amplification(keys: u64, flushes: u64, sequential: bool, lz4: bool) -> (f64, Tree) {
    let mut options = small();
    if lz4 {
        options.packings = packed(Compression::Lz4);
    }
    let mut tree = Tree::new(options, FLUSH / 2);
    let mut state = 88172645463325252;
    for _ in 0..flushes {
        load(&mut tree, &mut state, keys, sequential);
        tree.settle();
        check_shape(&tree);
    }
    let amplification = tree.written_bytes as f64 / tree.flushed_bytes as f64;
    (amplification, tree)
}

#[test]
fn write_amplification_stays_within_bounds() {
    for (name, keys, flushes, sequential, lz4, limit) in [
        ("sequential", 0, 150, true, false, 1.0),
        ("sequential, compressed", 0, 150, true, true, 1.5),
        ("random, fits the base", 300, 100, false, false, 2.5),
        (
            "random, 150 flushes of new keys",
            1 << 40,
            150,
            false,
            false,
            9.0,
        ),
        (
            "overwrites of 40 flushes",
            40 * FLUSH / 120,
            200,
            false,
            false,
            9.0,
        ),
    ] {
        let (written, tree) = amplification(keys, flushes, sequential, lz4);
        let sizes: Vec<u64> = (0..LEVELS)
            .map(|n| tree.version.level(n).size() >> 10)
            .collect();
        println!("{name}: {written:.2} bytes written for each flushed; KiB by level {sizes:?}");
        assert!(written <= limit, "{name}: {written:.2}");
    }
}

#[test]
fn an_idle_tree_has_an_empty_level_0() {
    let (_, mut tree) = amplification(1 << 40, 30, false, false);
    load(&mut tree, &mut 7, 1 << 40, false);
    tree.options.idle = true;
    tree.settle();
    check_shape(&tree);
    assert!(tree.version.level(0).is_empty());
    assert!(tree.version.runs_newest_first().count() <= 3);
    tree.check();
}

#[test]
fn a_large_level_is_not_rewritten_for_a_flush() {
    let store = Store::new().shared();
    let tables = |level: usize, size: u64, count: usize, seq: u64| {
        let one = |i: usize| {
            let (a, b) = (i * 1000 / count, (i + 1) * 1000 / count - 1);
            let number = level * 1000 + i + 1;
            format!(
                " {number:06}:[{a:03}#{seq}-{b:03}#{}](size={size}M)",
                seq + 9
            )
        };
        format!(
            "L{level}: run 0:{}\n",
            (0..count).map(one).collect::<String>()
        )
    };
    let text = tables(5, 32, 40, 100) + &tables(6, 32, 320, 1);
    let version = Version::parse(&text, &store).unwrap();
    let compaction = pick(&version, &PickOptions::default(), &HashSet::new()).unwrap();
    assert!(
        compaction.input_bytes() <= 12 * (32 << 20),
        "{compaction:?}"
    );
}

/// Jobs that were picked and have not ended.
struct Running {
    compaction: Compaction,
    edit: VersionEdit,
}

fn output_hull(compaction: &Compaction) -> (Vec<u8>, Vec<u8>) {
    let infos = || compaction.inputs.iter().map(|(_, table)| table.info());
    let first = infos().map(|info| info.smallest.clone()).min().unwrap();
    let last = infos().map(|info| info.largest.clone()).max().unwrap();
    (first.bytes.to_vec(), last.bytes.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn jobs_side_by_side_never_meet(seed in 1u64.., keys in 50u64..5_000, lz4 in any::<bool>()) {
        let mut state = seed;
        let mut options = PickOptions { fan_out: 3, max_job_bytes: 2 * FLUSH, ..small() };
        if lz4 {
            options.packings = packed(Compression::Lz4);
        }
        let mut tree = Tree::new(options, FLUSH / 8);
        let mut running: Vec<Running> = Vec::new();
        for round in 0..150 {
            let choice = rng(&mut state) % 10;
            match choice {
                0..=2 if round < 120 => load(&mut tree, &mut state, keys, false),
                3 => tree.snapshots.push(tree.visible()),
                4 => drop(tree.snapshots.pop()),
                5 if !running.is_empty() => {
                    let i = rng(&mut state) as usize % running.len();
                    let ended = running.swap_remove(i);
                    if !one_in(8, &mut state) {
                        tree.install(&ended.edit);
                    } // else it failed, and its inputs are free again
                }
                6 if round % 5 == 0 => tree.check(),
                _ => start(&mut tree, &mut running, &mut state),
            }
        }
        for ended in running {
            tree.install(&ended.edit);
        }
        tree.check();
        tree.settle();
        check_shape(&tree);
        tree.check();
        tree.compact(&KeyRange::ALL);
        tree.check();
        prop_assert!(tree.version.runs_newest_first().count() <= 1);
    }
}

/// Picks a job, runs it, and keeps its edit for later.
fn start(tree: &mut Tree, running: &mut Vec<Running>, state: &mut u64) {
    let busy: HashSet<FileNumber> = running
        .iter()
        .flat_map(|job| job.compaction.numbers())
        .collect();
    tree.options.idle = one_in(4, state);
    tree.options.settled = tree
        .snapshots
        .iter()
        .min()
        .copied()
        .unwrap_or(tree.visible());
    let picked = if one_in(3, state) {
        pick_range(
            &tree.version,
            &KeyRange::ALL,
            &|_, _| true,
            &tree.options,
            &busy,
        )
    } else {
        pick(&tree.version, &tree.options, &busy)
    };
    tree.options.idle = false;
    let Some(compaction) = picked else { return };
    assert!(compaction.numbers().all(|number| !busy.contains(&number)));
    let (first, last) = output_hull(&compaction);
    for other in running.iter() {
        // Runs of level 0 overlap; each job makes one of its own.
        let same_run =
            compaction.output_level > 0 || other.compaction.output_run == compaction.output_run;
        if other.compaction.output_level == compaction.output_level && same_run {
            let (other_first, other_last) = output_hull(&other.compaction);
            assert!(
                last < other_first || other_last < first,
                "{compaction:?} and {:?} write across each other",
                other.compaction
            );
        }
    }
    let edit = tree.run(&compaction).unwrap();
    running.push(Running { compaction, edit });
}

#[test]
fn a_manifest_replays_at_once_as_edit_by_edit() {
    let store = Store::new().shared();
    let edits: Vec<VersionEdit> = [
        "add L0 run 1 000001:[a#1-z#9]",
        "add L0 run 2 000002:[a#10-z#19]",
        "remove L0 000001\nadd L6 run 0 000003:[a#1-z#9]",
        "move L6 L5 run 0 000003",
        "remove L0 000002\nremove L5 000003\nadd L6 run 0 000004:[a#1-m#19]\n\
         add L6 run 0 000005:[n#1-z#9]",
    ]
    .iter()
    .map(|text| VersionEdit::parse(text).unwrap())
    .collect();
    let mut one_by_one = Version::empty();
    for edit in &edits {
        one_by_one = one_by_one.apply(edit, &store).unwrap();
    }
    let at_once = Version::empty().apply_all(&edits, &store).unwrap();
    assert_eq!(format!("{at_once:?}"), format!("{one_by_one:?}"));
    let again = Version::empty().apply(&at_once.as_edit(), &store).unwrap();
    assert_eq!(format!("{again:?}"), format!("{at_once:?}"));
    let text = format!("{at_once:?}");
    assert_eq!(
        format!("{:?}", Version::parse(&text, &store).unwrap()),
        text
    );
    assert_eq!(again.level(6).runs[0].max_seq(), SeqNo::new(19));
    assert!(again.level(6).runs[0].find(key("mm").as_ref()).is_none());
}
