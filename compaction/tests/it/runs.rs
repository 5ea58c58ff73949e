//! Runs, tables as files, and reading a run in order.

use std::sync::Arc;

use proptest::prelude::*;
use terrace_base::{
    Error, ErrorKind, FileNumber, InternalIterator, KeyRef, KeyspaceId, OwnedKey, SeqNo, UserKey,
    ValueKind,
};
use terrace_compaction::*;

use crate::store::{Sorted, Store, Tree, key};

fn run_of(text: &str) -> Arc<Run> {
    let store = Store::new().shared();
    let version = Version::parse(text, &store).unwrap();
    version.level(6).runs[0].clone()
}

#[test]
fn find_names_the_one_table_that_may_hold_a_key() {
    // Heads tie: the keys share their first 8 bytes.
    let run = run_of(
        "L6: run 0: 000001:[b#1-d#9] 000002:[prefix00a#1-prefix00c#9] 000003:[prefix00e#1-prefix00e#9] \
         000004:[prefix00g#1-prefix00i#9] 000005:[x#1-1:b#9]",
    );
    for (text, number) in [
        ("a", None),
        ("b", Some(1)),
        ("d", Some(1)),
        ("da", None),
        ("prefix00a", Some(2)),
        ("prefix00cc", None),
        ("prefix00e", Some(3)),
        ("prefix00f", None),
        ("prefix00h", Some(4)),
        ("prefix00j", None),
        ("z", Some(5)),
        ("1:a", Some(5)),
        ("1:c", None),
    ] {
        let found = run.find(key(text).as_ref()).map(|table| table.number().0);
        assert_eq!(found, number, "{text}");
    }
}

proptest! {
    #[test]
    fn find_and_overlapping_agree_with_a_linear_search(
        mut cuts in prop::collection::btree_set("(commonpr)?[ab]{0,3}", 2..20),
        a in "(commonpr)?[ab]{0,3}",
        b in "(commonpr)?[ab]{0,3}",
    ) {
        if cuts.len() % 2 == 1 {
            cuts.pop_first();
        }
        let cuts: Vec<String> = cuts.into_iter().collect();
        let tables: Vec<String> = cuts.chunks(2).enumerate()
            .map(|(i, pair)| format!("{:06}:[{}#1-{}#2]", i + 1, pair[0], pair[1])).collect();
        let run = run_of(&format!("L6: run 0: {}", tables.join(" ")));
        let (a, b) = (a.clone().min(b.clone()), a.max(b));
        let (first, last) = (key(&a), key(&b));
        let touches = |pair: &[String]| pair[0] <= b && a <= pair[1];
        let expected: Vec<usize> = (0..tables.len()).filter(|&i| touches(&cuts[2 * i..2 * i + 2])).collect();
        let found: Vec<usize> = run.overlapping(first.as_ref(), last.as_ref()).collect();
        prop_assert_eq!(found, expected);
        let holder = cuts.chunks(2).position(|pair| pair[0] <= a && a <= pair[1]);
        let found = run.find(first.as_ref()).map(|table| table.number().0 as usize - 1);
        prop_assert_eq!(found, holder);
    }
}

/// A tree with one run of several tables in the last level.
fn one_run(tables: u64) -> Tree {
    let mut tree = Tree::new(PickOptions::default(), 2000);
    for i in 0..tables * 20 {
        let user = UserKey::new(KeyspaceId(0), format!("key{:05}", i * 2).as_bytes()).to_owned();
        tree.write(user.clone(), Some(vec![b'v'; 90]));
        if i % 3 == 0 {
            tree.snapshots.push(tree.visible());
            tree.write(user, None);
        }
    }
    tree.flush();
    tree.compact(&KeyRange::ALL);
    assert!(tree.version.level(6).runs[0].tables().len() > 3);
    tree
}

#[test]
fn a_run_reads_as_one_sorted_list() {
    let tree = one_run(10);
    let run = tree.version.level(6).runs[0].clone();
    let mut all = Vec::new();
    let mut iter = RunIter::over(run.tables().to_vec(), true);
    iter.first().unwrap();
    while iter.valid() {
        all.push((iter.key().to_owned(), iter.value().to_vec()));
        assert_eq!(iter.key_bytes(), iter.key().user.bytes);
        assert_eq!(iter.value_bytes(), iter.value());
        iter.next().unwrap();
    }
    iter.prev().unwrap();
    assert!(!iter.valid(), "moving past the end leaves it invalid");
    let mut twin = Sorted::new(all.clone());
    let mut iter = RunIter::new(run);
    let mut state = 1u64;
    for _ in 0..20_000 {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let target = OwnedKey {
            user: UserKey::new(
                KeyspaceId(0),
                format!("key{:05}", (state >> 40) % 420).as_bytes(),
            )
            .to_owned(),
            seq: SeqNo::new((state >> 20) % 400),
            kind: ValueKind::Put,
        };
        let both: [&mut dyn InternalIterator; 2] = [&mut iter, &mut twin];
        for i in both {
            match state >> 60 {
                0 => i.first().unwrap(),
                1 => i.last().unwrap(),
                2 | 3 => i.seek(target.as_ref()).unwrap(),
                4 | 5 => i.seek_for_prev(target.as_ref()).unwrap(),
                6..=10 => i.next().unwrap(),
                _ => i.prev().unwrap(),
            }
        }
        assert_eq!(iter.valid(), twin.valid());
        if twin.valid() {
            assert_eq!(iter.key(), twin.key());
            assert_eq!(iter.value(), twin.value());
        }
    }
}

#[test]
fn a_table_that_cannot_be_read_is_an_error_that_names_it_and_not_an_end() {
    let tree = one_run(10);
    let tables = tree.version.level(6).runs[0].tables().to_vec();
    let damaged = tables[2].number();
    tree.store
        .memory
        .change(damaged, |bytes| bytes.truncate(bytes.len() / 2));
    let fresh: Vec<_> = tables
        .iter()
        .map(|table| TableFile::new(table.meta().clone(), tree.store.shared()))
        .collect();
    let mut iter = RunIter::over(fresh.clone(), true);
    iter.first().unwrap();
    let error = loop {
        assert!(iter.valid(), "the run ended early without an error");
        if let Err(error) = iter.next() {
            break error;
        }
    };
    assert!(!iter.valid());
    assert_eq!(damaged_table(&error), Some(damaged), "{error}");
    // The next seek starts afresh, on the far side of the damage too.
    iter.last().unwrap();
    assert!(iter.valid());
    let target = fresh[2].info().smallest.clone();
    let lookup = KeyRef::lookup(target.as_ref(), SeqNo::MAX);
    assert_eq!(iter.seek(lookup).unwrap_err().kind(), ErrorKind::Corruption);
    assert!(!iter.valid());
}

#[test]
fn a_table_opens_once_and_its_file_goes_with_the_last_reference() {
    let mut tree = one_run(4);
    let table = tree.version.tables().next().unwrap().2.clone();
    let number = table.number();
    let name = format!("{number}.sst");
    assert!(Arc::ptr_eq(
        &table.table().unwrap(),
        &table.table().unwrap()
    ));
    let edit = VersionEdit::parse(&format!("remove L6 {number}")).unwrap();
    let before = tree.version.clone();
    tree.install(&edit);
    drop(before);
    assert!(
        tree.store.memory.names().contains(&name),
        "still referred to"
    );
    assert_eq!(table.number(), FileNumber(number.0));
    drop(table);
    assert!(!tree.store.memory.names().contains(&name));
}

#[test]
fn damage_is_remembered_with_its_first_cause() {
    let run = run_of("L6: run 0: 000001:[b#1-d#9]");
    let table = run.tables().get(0).unwrap();
    assert!(!table.damaged());
    table.set_damaged(Error::corruption("first"));
    table.set_damaged(Error::corruption("second"));
    assert!(table.damaged());
    assert!(table.damage().unwrap().to_string().contains("first"));
    let missing = table.table().unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
    assert_eq!(damaged_table(&missing), None);
}
