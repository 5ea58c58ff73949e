use std::collections::BTreeMap;

use proptest::prelude::*;
use terrace_base::ErrorKind;
use terrace_base::key::{MAX_KEY_LEN, ValueKind};

use super::*;
use crate::Compression;
use crate::testing::*;

fn small_key() -> impl Strategy<Value = Vec<u8>> {
    let letter = prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(255u8)];
    let shared = prop_oneof![
        Just(Vec::new()),
        Just(b"shared-".to_vec()),
        Just(vec![7; 40])
    ];
    (shared, prop::collection::vec(letter, 0..7)).prop_map(|(mut key, rest)| {
        key.extend(rest);
        key
    })
}

prop_compose! {
    fn models()(entries in prop::collection::vec((
        prop_oneof![4 => Just(0u32), 1 => Just(1), 1 => Just(7), 1 => Just(u32::MAX)],
        small_key(),
        prop_oneof![0u64..20, 0u64..(1 << 56)],
        prop::bool::weighted(0.2),
        prop_oneof![8 => 0usize..120, 1 => 480usize..560, 1 => 3000usize..9000],
        any::<bool>(),
    ), 1..120)) -> Model {
        let mut sorted = BTreeMap::new();
        for (keyspace, user, seq, dead, len, random) in entries {
            let kind = if dead { ValueKind::Tombstone } else { ValueKind::Put };
            let mut source = Random(seq);
            let value: Vec<u8> = (0..len)
                .map(|_| if random { source.next() as u8 } else { b'v' })
                .collect();
            let value = if dead { Vec::new() } else { value };
            sorted.insert((keyspace, user, std::cmp::Reverse(seq)), (kind, value));
        }
        sorted
            .into_iter()
            .map(|((keyspace, user, seq), (kind, value))| (key(keyspace, &user, seq.0, kind), value))
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]
    #[test]
    fn a_table_answers_as_the_model_does(
        model in models(),
        compression in proptest::sample::select(compressions()),
        block_size in prop_oneof![Just(512usize), Just(1500), Just(8192), Just(32768)],
    ) {
        let (info, image) = build(&model, &options(compression, block_size));
        for table in open_all(&image) {
            prop_assert_eq!(table.info(), &info);
            check(&table, &model);
        }
    }
}

#[test]
fn huge_values_and_keys_have_blocks_of_their_own() {
    let mut random = Random(1);
    let noise: Vec<u8> = (0..1 << 20).map(|_| random.next() as u8).collect();
    let mut model = vec![
        put(b"", 3, b"empty key"),
        put(b"a", 9, &vec![b'x'; 1 << 20]),
        put(b"b", 9, &noise),
        put(b"b", 8, b"older"),
        put(b"b", 7, &noise),
        put(b"c", 1, b"small"),
    ];
    for last in [0, 1, 2] {
        let mut long = vec![b'k'; MAX_KEY_LEN];
        long[MAX_KEY_LEN - 1] = last;
        model.push(put(&long, 5, b"value of a long key"));
    }
    model.push(put(&[b'k'; 3], 4, b""));
    model.sort_by(|a, b| a.0.as_ref().cmp(&b.0.as_ref()));
    for compression in compressions() {
        let (_, image) = build(&model, &options(compression, 8192));
        for table in open_all(&image) {
            check(&table, &model);
        }
    }
}

#[test]
fn a_key_with_very_many_versions_spans_blocks() {
    let mut model = vec![put(b"cold", 1, b"v")];
    for seq in (1..=100_000).rev() {
        model.push(put(b"hot", seq, &seq.to_le_bytes()));
    }
    model.push(put(b"hot\0", 77, b"next"));
    for compression in compressions() {
        let (info, image) = build(&model, &options(compression, 8192));
        assert!(info.blocks > 300);
        for table in open_all(&image) {
            check(&table, &model);
        }
    }
}

#[test]
fn larger_tables_answer_from_the_index() {
    let mut random = Random(3);
    let mut model: Model = (0..20_000u64)
        .map(|i| {
            put(
                format!("{:016}", random.below(1 << 40)).as_bytes(),
                i,
                &[b'v'; 100],
            )
        })
        .collect();
    model.sort_by(|a, b| a.0.as_ref().cmp(&b.0.as_ref()));
    model.dedup_by(|a, b| a.0.user == b.0.user);
    let (_, image) = build(&model, &options(Compression::None, 8192));
    let table = open_image(&image).unwrap();
    assert!(table.index().is_some());
    check(&table, &model);
    let wrong = (0..10_000u64)
        .filter(|i| {
            let text = format!("absent{i}");
            let user = UserKey::new(terrace_base::KeyspaceId(0), text.as_bytes());
            let index = table.index().unwrap();
            index
                .probe(terrace_base::hash::key_hash(user))
                .next()
                .is_some()
        })
        .count();
    assert!(wrong < 50, "{wrong} of 10,000 absent keys need a look");
}

#[test]
fn a_file_of_another_size_or_id_is_refused() {
    let (_, image) = build(&vec![put(b"a", 1, b"x")], &options(Compression::None, 8192));
    let dir = tempfile::tempdir().unwrap();
    let file = write_file(&dir.path().join("t.sst"), &image);
    let cache = BlockCache::new(0);
    let size = image.len() as u64;
    for (id, size) in [(ID, size - 1), (ID, size + 1), (ID + 1, size)] {
        let error = Table::open(file.clone(), id, size, IoMode::Mmap, &cache).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(error.file().is_some());
    }
}

#[test]
fn a_table_of_too_many_blocks_has_a_filter_in_place_of_the_index() {
    let model: Model = (0..9000u64)
        .map(|i| put(format!("key{i:06}").as_bytes(), i + 5, &[b'v'; 300]))
        .collect();
    let (info, image) = build(&model, &options(Compression::None, 512));
    assert!(info.blocks > 8192);
    for table in open_all(&image) {
        assert!(table.index().is_none());
        check(&table, &model);
        table.verify().unwrap();
        let absent = |i: &u64| {
            let text = format!("key{i:06}x");
            let user = UserKey::new(terrace_base::KeyspaceId(0), text.as_bytes());
            table.may_contain(user, terrace_base::hash::key_hash(user))
        };
        let wrong = (0..8999).filter(absent).count();
        assert!(wrong < 250, "{wrong} of 9,000 absent keys need a look");
    }
}

#[test]
fn tables_are_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Table>();
    shared::<BlockCache>();
    sent::<TableIter>();
}

#[test]
fn a_key_of_another_keyspace_with_the_same_fingerprint_is_not_found() {
    let model = vec![
        put(b"a", 1, b"x"),
        (key(u32::MAX, b"a", 2, ValueKind::Put), b"y".to_vec()),
    ];
    let (_, image) = build(&model, &options(Compression::None, 8192));
    let table = open_image(&image).unwrap();
    let index = table.index().unwrap();
    let twin = (1..u32::MAX)
        .map(|id| UserKey::new(terrace_base::KeyspaceId(id), b"a"))
        .find(|user| {
            index
                .probe(terrace_base::hash::key_hash(*user))
                .next()
                .is_some()
        })
        .unwrap();
    let hash = terrace_base::hash::key_hash(twin);
    assert!(table.may_contain(twin, hash));
    assert!(
        table.get(&twin, hash, SeqNo::MAX).unwrap().is_none(),
        "{twin:?}"
    );
}
