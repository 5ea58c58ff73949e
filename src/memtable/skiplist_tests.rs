use std::collections::BTreeMap;

use proptest::prelude::*;
use terrace_base::hash::key_hash;

use super::*;

fn user(id: u32, bytes: &[u8]) -> UserKey<'_> {
    UserKey::new(KeyspaceId(id), bytes)
}

fn fill(entries: &[(u32, Vec<u8>, Vec<u8>)]) -> ListWriter {
    let mut writer = ListWriter::new(1 << 20);
    let guard = pin();
    for (i, (id, key, value)) in entries.iter().enumerate() {
        let kind = if value.is_empty() {
            ValueKind::Tombstone
        } else {
            ValueKind::Put
        };
        let key = user(*id, key);
        writer.insert(
            KeyRef::new(key, SeqNo::new(i as u64), kind),
            key_hash(key),
            value,
            &guard,
        );
    }
    writer
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(255u8)], 0..20),
        prop::collection::vec(prop_oneof![Just(0u8), Just(b'b')], 0..4).prop_map(|tail| [
            b"sixteen bytes or".as_slice(),
            &tail
        ]
        .concat()),
    ]
}

proptest! {
    #[test]
    fn a_list_equals_a_sorted_map(
        entries in prop::collection::vec((0..2u32, keys(), prop::collection::vec(any::<u8>(), 0..4)), 0..150),
        probes in prop::collection::vec((0..2u32, keys(), 0..160u64), 0..20),
    ) {
        let writer = fill(&entries);
        let mut model = BTreeMap::new();
        for (i, (id, key, value)) in entries.iter().enumerate() {
            model.insert((*id, key.clone(), u64::MAX - i as u64), value.clone());
        }
        let list = writer.list();
        prop_assert_eq!(list.len(), entries.len());

        let mut cursor = list.cursor();
        cursor.first().unwrap();
        for ((id, key, _), value) in &model {
            prop_assert!(cursor.valid());
            prop_assert_eq!(cursor.key().user, user(*id, key));
            prop_assert_eq!(cursor.value(), value.as_slice());
            cursor.next().unwrap();
        }
        prop_assert!(!cursor.valid());
        cursor.last().unwrap();
        for ((id, key, _), value) in model.iter().rev() {
            prop_assert_eq!(cursor.key().user, user(*id, key));
            prop_assert_eq!(cursor.value(), value.as_slice());
            cursor.prev().unwrap();
        }
        prop_assert!(!cursor.valid());

        for (id, key, at) in &probes {
            let wanted = model.range((*id, key.clone(), u64::MAX - at)..).next();
            let here = wanted.filter(|((i, k, _), _)| (i, k) == (id, key)).map(|(_, v)| v.clone());
            let probe = user(*id, key);
            let found = list.get(&probe, key_hash(probe), SeqNo::new(*at)).unwrap().map(|(_, _, v)| v.to_vec());
            prop_assert_eq!(found, here);
            cursor.seek(KeyRef::lookup(probe, SeqNo::new(*at))).unwrap();
            prop_assert_eq!(cursor.valid(), wanted.is_some());
            if let Some(((i, k, _), v)) = wanted {
                prop_assert_eq!((cursor.key().user, cursor.value()), (user(*i, k), v.as_slice()));
            }
            cursor.seek_for_prev(KeyRef::lookup(probe, SeqNo::new(*at))).unwrap();
            let before = model.range(..=(*id, key.clone(), u64::MAX - at)).next_back();
            prop_assert_eq!(cursor.valid(), before.is_some());
            if let Some(((i, k, _), _)) = before {
                prop_assert_eq!(cursor.key().user, user(*i, k));
            }
        }
    }
}

#[test]
fn a_cursor_keeps_the_list_alive_while_others_insert() {
    let mut writer = ListWriter::new(1 << 20);
    let guard = pin();
    for i in 0..500u64 {
        let key = i.to_be_bytes();
        let key = user(0, &key);
        writer.insert(
            KeyRef::new(key, SeqNo::new(i), ValueKind::Put),
            key_hash(key),
            &[7; 100],
            &guard,
        );
    }
    let mut cursor = writer.list().cursor();
    cursor.first().unwrap();
    let reader = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut seen = 0;
            while cursor.valid() {
                assert_eq!(cursor.value(), &[7; 100]);
                seen += 1;
                cursor.next().unwrap();
            }
            (seen, cursor)
        });
        for i in 500..2000u64 {
            let key = (i % 700).to_be_bytes();
            let key = user(0, &key);
            writer.insert(
                KeyRef::new(key, SeqNo::new(i), ValueKind::Put),
                key_hash(key),
                &[7; 100],
                &guard,
            );
        }
        reader.join().unwrap()
    });
    assert!(reader.0 >= 500);
    drop(writer);
    let mut cursor = reader.1;
    cursor.first().unwrap();
    assert_eq!(cursor.value(), &[7; 100]);
    let huge = vec![1u8; 3 << 20];
    let mut writer = ListWriter::new(1 << 20);
    writer.insert(
        KeyRef::new(user(0, b"k"), SeqNo::new(1), ValueKind::Put),
        key_hash(user(0, b"k")),
        &huge,
        &guard,
    );
    assert!(writer.bytes() > 3 << 20);
}

/// A list of a few entries held a filter of 64 KiB and a chunk of 256 KiB that nothing counted.
#[test]
fn a_list_counts_all_that_it_holds() {
    let guard = pin();
    for most in [0, 128 << 10, 2 << 20] {
        let mut writer = ListWriter::new(most);
        assert!(writer.bytes() <= most / 32 + 1024);
        for i in 0..1000_u64 {
            let (key, value) = (i.to_be_bytes(), vec![7; [10, 10, 100_000][i as usize % 3]]);
            let before = writer.bytes();
            let key = user(0, &key);
            let entry = KeyRef::new(key, SeqNo::new(i), ValueKind::Put);
            writer.insert(entry, key_hash(key), &value, &guard);
            let grown = writer.bytes() - before;
            assert!(
                grown >= NODE_OVERHEAD && grown <= 8 + value.len() + (most / 8).max(4096) + 200
            );
        }
        assert_eq!(writer.bytes(), writer.list().bytes());
        // A large entry has a chunk of its own, and small ones go on filling the one before.
        let small = 667 * (18 + NODE_OVERHEAD) + writer.list().filter.bytes();
        let large = 333 * (100_008 + NODE_OVERHEAD);
        assert!(writer.bytes() <= small + large + (most / 8).max(4096) * 5 / 4);
        assert!(writer.is_full(usize::MAX));
    }
}

#[test]
fn an_empty_entry_may_come_first() {
    let writer = fill(&[(0, Vec::new(), Vec::new())]);
    let empty = user(0, b"");
    let found = writer
        .list()
        .get(&empty, key_hash(empty), SeqNo::MAX)
        .unwrap();
    assert_eq!(found, Some((SeqNo::ZERO, ValueKind::Tombstone, &[][..])));
    let mut cursor = writer.list().cursor();
    cursor.first().unwrap();
    assert!(cursor.valid() && cursor.key().user.bytes.is_empty() && cursor.value().is_empty());
}
