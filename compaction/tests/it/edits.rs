//! Edits: encoding, hostile bytes, text.

use proptest::prelude::*;
use terrace_base::{DeletedRange, ErrorKind, FileNumber, KeyspaceId, OwnedUserKey, SeqNo, UserKey};
use terrace_compaction::*;
use terrace_sstable::{Compression, Expiries, TableInfo};

fn user_key() -> impl Strategy<Value = OwnedUserKey> {
    let bytes = prop::collection::vec(any::<u8>(), 0..6);
    (0u32..3, bytes).prop_map(|(id, bytes)| UserKey::new(KeyspaceId(id), &bytes).to_owned())
}

fn seq() -> impl Strategy<Value = SeqNo> {
    prop_oneof![0..1000u64, Just(SeqNo::MAX.get())].prop_map(SeqNo::new)
}

/// What this build can read back.
fn compression() -> impl Strategy<Value = Compression> {
    let mut all = vec![Compression::None, Compression::Lz4, Compression::Zstd];
    all.retain(|compression| compression.check().is_ok());
    prop::sample::select(all)
}

fn meta() -> impl Strategy<Value = TableMeta> {
    let counts = (any::<u64>(), any::<u64>(), 0..9u64, any::<u64>(), 0..9u64);
    let rest = (seq(), seq(), user_key(), user_key(), compression());
    (0..1u64 << 40, any::<u64>(), counts, rest).prop_map(|(number, id, counts, rest)| TableMeta {
        number: FileNumber(number),
        info: TableInfo {
            id,
            size: counts.0,
            entries: counts.1,
            tombstones: counts.2,
            raw_bytes: counts.3,
            blocks: counts.4,
            min_seq: rest.0,
            max_seq: rest.1,
            smallest: rest.2,
            largest: rest.3,
            compression: rest.4,
            expiries: (counts.2 % 2 == 1).then_some(Expiries {
                entries: 1 + counts.2,
                first: 5,
                median: 5 + counts.4,
                last: u64::MAX,
            }),
            blobs: (0..counts.2 % 3)
                .map(|n| (FileNumber(n), counts.1 >> n))
                .collect(),
        },
    })
}

fn numbers() -> impl Strategy<Value = FileNumber> {
    (0..1u64 << 50).prop_map(FileNumber)
}

prop_compose! {
    fn range()(
        keyspace in any::<u32>(),
        lower in prop::collection::vec(any::<u8>(), 0..4),
        more in prop::option::of(prop::collection::vec(any::<u8>(), 1..4)),
        seq in seq(),
    ) -> DeletedRange {
        let upper = more.map(|more| [&lower[..], &more].concat().into());
        DeletedRange { keyspace: KeyspaceId(keyspace), lower: lower.into(), upper, seq }
    }
}

prop_compose! {
    fn edit()(
        added in prop::collection::vec((0..LEVELS, any::<u64>(), meta()), 0..4),
        removed in prop::collection::vec((0..LEVELS, numbers()), 0..4),
        moved in prop::collection::vec((0..LEVELS, 0..LEVELS, any::<u64>(), numbers()), 0..4),
        segments in prop::collection::vec((numbers(), any::<u64>(), any::<u64>()), 0..3),
        segments_removed in prop::collection::vec(numbers(), 0..3),
        flushed in prop::option::of((any::<u64>(), seq())),
        file_ceiling in prop::option::of(any::<u64>()),
        keyspaces in prop::collection::vec((any::<u32>(), ".{0,5}", seq(), prop::collection::vec(any::<u8>(), 0..4)), 0..3),
        dropped in prop::collection::vec((any::<u32>(), seq()), 0..3),
        next_keyspace in prop::option::of(any::<u32>()),
        last_seq in prop::option::of(seq()),
        ranges_deleted in prop::collection::vec(range(), 0..3),
        ranges_forgotten in prop::collection::vec(seq(), 0..3),
        keyspaces_forgotten in prop::collection::vec(any::<u32>().prop_map(KeyspaceId), 0..3),
        (clock, changed, renamed, blobs, blobs_removed) in (
            prop::option::of(any::<u64>()),
            prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..4)), 0..3),
            prop::collection::vec((any::<u32>(), ".{0,5}"), 0..3),
            prop::collection::vec((numbers(), any::<u64>(), any::<u64>()), 0..3),
            prop::collection::vec(numbers(), 0..3),
        ),
    ) -> VersionEdit {
        VersionEdit {
            added: added.into_iter().map(|(level, run, meta)| AddedTable { level, run, meta }).collect(),
            removed: removed.into_iter().map(|(level, number)| RemovedTable { level, number }).collect(),
            moved: moved.into_iter().map(|(from_level, to_level, run, number)| MovedTable { from_level, to_level, run, number }).collect(),
            segments_added: segments.into_iter().map(|(number, salt, size)| SegmentRecord { number, salt, size }).collect(),
            segments_removed,
            flushed: flushed.map(|(lsn, seq)| Flushed { lsn, seq }),
            file_ceiling,
            keyspaces_created: keyspaces.into_iter().map(|(id, name, created, options)| KeyspaceRecord { id: KeyspaceId(id), name, created, options }).collect(),
            keyspaces_dropped: dropped.into_iter().map(|(id, seq)| (KeyspaceId(id), seq)).collect(),
            keyspaces_changed: changed.into_iter().map(|(id, options)| (KeyspaceId(id), options)).collect(),
            keyspaces_renamed: renamed.into_iter().map(|(id, name)| (KeyspaceId(id), name)).collect(),
            next_keyspace,
            last_seq,
            blobs_added: blobs.into_iter().map(|(number, id, size)| BlobMeta { number, id, size }).collect(),
            blobs_removed,
            ranges_deleted,
            ranges_forgotten,
            keyspaces_forgotten,
            clock,
        }
    }
}

fn encoded(edit: &VersionEdit) -> Vec<u8> {
    let mut bytes = Vec::new();
    edit.encode(&mut bytes);
    bytes
}

proptest! {
    #[test]
    fn edits_decode_and_parse_to_what_they_were(edit in edit()) {
        prop_assert_eq!(&VersionEdit::decode(&encoded(&edit)).unwrap(), &edit);
        let text = format!("{edit:?}");
        prop_assert_eq!(&VersionEdit::parse(&text).unwrap(), &edit, "{}", text);
    }

    #[test]
    fn mutated_edits_decode_to_an_edit_or_an_error(
        edit in edit(),
        at in any::<prop::sample::Index>(),
        change in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encoded(&edit);
        prop_assume!(!bytes.is_empty());
        let i = at.index(bytes.len());
        bytes[i] ^= change;
        if let Ok(again) = VersionEdit::decode(&bytes) {
            // Each edit has one form, but for optional fields that are skipped and the order of
            // fields.
            prop_assert_eq!(VersionEdit::decode(&encoded(&again)).unwrap(), again);
        }
        drop(VersionEdit::decode(&bytes[..cut.index(bytes.len())]));
    }

    #[test]
    fn any_bytes_decode_to_an_edit_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(VersionEdit::decode(&bytes));
    }

    #[test]
    fn any_text_parses_to_an_edit_or_an_error(
        text in "((add|remove|move|segment|flushed|keyspace) )?[L0-9a-f:#\\-\\[\\]()=%, ]{0,40}",
    ) {
        drop(VersionEdit::parse(&text));
        drop(TableMeta::parse(&text));
    }
}

#[test]
fn a_cut_edit_is_never_taken_for_a_whole_one() {
    let text = "add L0 run 12 000100:[a#5-j#9](size=4M)\nsegment 000007 salt=5eed size=64M";
    let edit = VersionEdit::parse(text).unwrap();
    let bytes = encoded(&edit);
    for cut in 0..bytes.len() {
        match VersionEdit::decode(&bytes[..cut]) {
            Ok(part) => assert!(part.segments_added.is_empty(), "cut at {cut}: {part:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corruption),
        }
    }
}

#[test]
fn unknown_fields_are_skipped_if_odd_and_unsupported_if_even() {
    let known = VersionEdit::parse("last-seq 20").unwrap();
    let mut bytes = encoded(&known);
    bytes.extend_from_slice(&[25, 2, 0xff, 0xff]);
    assert_eq!(VersionEdit::decode(&bytes).unwrap(), known);
    for reserved in [38, 40, 0] {
        let kind = VersionEdit::decode(&[reserved, 0]).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Unsupported);
    }
    // The same holds for the fields at the end of a table.
    let edit = VersionEdit::parse("add L0 run 1 000100:[a#5-j#9]").unwrap();
    let bytes = encoded(&edit);
    for (tag, known) in [(3, true), (2, false), (8, false)] {
        let mut longer = bytes.clone();
        longer[1] += 3;
        longer.extend_from_slice(&[tag, 1, 9]);
        match VersionEdit::decode(&longer) {
            Ok(again) => assert!(known && again == edit),
            Err(error) => assert!(!known && error.kind() == ErrorKind::Unsupported),
        }
    }
}

#[test]
fn what_may_come_once_comes_once() {
    let mut bytes = encoded(&VersionEdit::parse("ceiling 5").unwrap());
    bytes.extend(bytes.clone());
    let error = VersionEdit::decode(&bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
}

#[test]
fn a_table_packed_with_zstd_is_named_so_and_needs_the_feature() {
    let text = "000100:[a#5-j#9](size=32M,entries=2000,zstd)";
    let meta = TableMeta::parse(text).unwrap();
    assert_eq!(format!("{meta:?}"), text);
    let edit = VersionEdit {
        added: vec![AddedTable {
            level: 6,
            run: 1,
            meta,
        }],
        ..VersionEdit::default()
    };
    let mut bytes = Vec::new();
    edit.encode(&mut bytes);
    match (VersionEdit::decode(&bytes), Compression::Zstd.check()) {
        (Ok(again), Ok(())) => assert_eq!(again, edit),
        (Err(error), Err(_)) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("enable the feature `zstd`"));
        }
        (other, _) => panic!("{other:?}"),
    }
}
