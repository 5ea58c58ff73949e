//! The rest of the data model, as a user would call it: values that expire, deleted ranges, large values, bulk load,
//! and the keys and values of the typed layer.

use std::ops::Bound;
use std::time::{Duration, SystemTime};

use outside::Table;
use terrace::{
    Batch, BatchKeyspace, Bytes, Compression, Db, Entry, ErrorKind, Expiry, IngestProgress,
    Isolation, Json, Key, Keyspace, KeyspaceOptions, Place, Readable, Result, SeqNo, Stats,
    TxKeyspace, Typed, TypedIter, Value,
};

const HOUR: Duration = Duration::from_secs(3600);

fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it worked"),
        Err(error) => error.kind(),
    }
}

/// The keys of whatever can be read, in order and joined.
fn keys(from: &impl Readable) -> Result<String> {
    let key = |key: Result<Bytes>| Ok(String::from_utf8_lossy(&key?).into_owned());
    from.iter().keys().map(key).collect()
}

fn letters() -> Result<Db> {
    let db = Db::in_memory()?;
    for key in ["a", "b", "c", "d", "e"] {
        db.put(key, key.to_uppercase())?;
    }
    Ok(db)
}

#[test]
fn types_are_what_types_should_be() {
    fn plain<T: Send + Sync + Clone + std::fmt::Debug + PartialEq>() {}
    fn copied<T: Copy + Default + std::fmt::Debug>() {}
    fn shown<T: Send + std::fmt::Debug>() {}
    plain::<Expiry>();
    plain::<IngestProgress>();
    plain::<KeyspaceOptions>();
    plain::<Json<u8>>();
    plain::<Entry>();
    copied::<Expiry>();
    copied::<IngestProgress>();
    shown::<TxKeyspace<'_>>();
    shown::<BatchKeyspace<'_>>();
    shown::<Typed<String, u64>>();
    shown::<TypedIter<String, u64>>();
    assert_eq!(Expiry::default(), Expiry::Never);
}

#[test]
fn values_hold_until_a_time() -> Result<()> {
    let db = Db::in_memory()?;
    let long_ago = Expiry::At(SystemTime::UNIX_EPOCH + HOUR);
    let version: SeqNo = db.put_expiring("in", "1", Expiry::In(HOUR))?;
    db.put_expiring(
        "at",
        String::from("2"),
        Expiry::At(SystemTime::now() + HOUR),
    )?;
    db.put_expiring(b"never", [3], Expiry::Never)?;
    db.put_expiring("past", "4", long_ago)?;
    assert_eq!(keys(&*db)?, "atinnever");
    let entry: Entry = db.get_entry("in")?.unwrap();
    assert_eq!((&entry.value[..], entry.version), (&b"1"[..], version));
    let left = entry.expires_at.unwrap().duration_since(SystemTime::now());
    assert!(left.unwrap() <= HOUR);
    assert_eq!(db.get_entry("never")?.unwrap().expires_at, None);

    let there: bool = db.set_expiry("never", Expiry::In(HOUR))?;
    assert!(there && !db.set_expiry("nothing", Expiry::In(HOUR))?);
    assert!(!db.set_expiry("past", Expiry::Never)?); // It is gone for good.
    assert!(db.get_entry("never")?.unwrap().expires_at.is_some());
    assert!(db.set_expiry("in", Expiry::Never)? && db.set_expiry("at", long_ago)?);
    assert_eq!((db.get("at")?, db.count(..)?), (None, 2));
    assert_eq!(db.get_entry("in")?.unwrap().expires_at, None);
    Ok(())
}

#[test]
fn values_expire_in_batches_transactions_and_keyspaces() -> Result<()> {
    let db = Db::in_memory()?;
    let sessions = db.create_keyspace("sessions", KeyspaceOptions::new().expiry(Some(HOUR)))?;
    assert_eq!(sessions.options().expiry, Some(HOUR));
    sessions.put("plain", "")?;
    let mut batch = Batch::new();
    batch.put_expiring("batch", "", Expiry::In(HOUR));
    let mut part: BatchKeyspace<'_> = batch.keyspace(&sessions);
    part.put_expiring("lasting", "", Expiry::Never)
        .put_expiring("batch", "", Expiry::In(2 * HOUR));
    db.write(batch)?;
    let tx = db.transaction();
    tx.put_expiring("tx", "", Expiry::In(HOUR))?;
    tx.put_expiring("gone", "", Expiry::In(Duration::ZERO))?;
    tx.keyspace(&sessions)
        .put_expiring(b"tx", vec![], Expiry::At(SystemTime::now() + HOUR))?;
    assert!(tx.get_entry("tx")?.unwrap().expires_at.is_some() && !tx.contains_key("gone")?);
    tx.commit()?;
    let expires = |keyspace: &Keyspace, key: &str| -> Result<bool> {
        Ok(keyspace.get_entry(key)?.unwrap().expires_at.is_some())
    };
    assert!(expires(&sessions, "plain")? && expires(&sessions, "batch")?);
    assert!(expires(&sessions, "tx")? && !expires(&sessions, "lasting")?);
    assert!(expires(&db, "batch")? && expires(&db, "tx")? && !db.contains_key("gone")?);
    Ok(())
}

#[test]
fn ranges_are_deleted_in_one_piece() -> Result<()> {
    let db = letters()?;
    let before = db.snapshot();
    let version: SeqNo = db.delete_range("b".."d")?;
    assert!(version > before.seq());
    assert_eq!(
        (keys(&*db)?, keys(&before)?),
        ("ade".into(), "abcde".into())
    );
    db.delete_range((Bound::Excluded("d"), Bound::<&[u8]>::Unbounded))?;
    db.delete_range("z".."a")?; // No range at all.
    assert_eq!(keys(&*db)?, "ad");
    db.delete_range(..=String::from("a"))?;
    assert_eq!(keys(&*db)?, "d");
    let cleared: SeqNo = db.clear()?;
    assert!(cleared > version && db.is_empty()?);
    let _unworked: usize = db.stats().range_deletes;

    let other = db.keyspace("other")?;
    for key in ["x", "y", "z"] {
        other.put(key, "")?;
        db.put(key, "")?;
    }
    let mut batch = Batch::new();
    batch.delete_range("y"..).put("yy", "after it");
    batch.keyspace(&other).delete_range(..="y").put("a", "");
    db.write(batch)?;
    assert_eq!((keys(&*db)?, keys(&other)?), ("xyy".into(), "az".into()));

    let tx = db.transaction().isolation(Isolation::Snapshot);
    tx.delete_range(..)?;
    tx.put("new", "")?;
    let of_other: TxKeyspace<'_> = tx.keyspace(&other);
    of_other.delete_range(b"b"..=b"z")?;
    assert_eq!((keys(&tx)?, keys(&of_other)?), ("new".into(), "a".into()));
    assert_eq!(keys(&*db)?, "xyy");
    tx.commit()?;
    assert_eq!((keys(&*db)?, keys(&other)?), ("new".into(), "a".into()));
    Ok(())
}

#[test]
fn a_part_of_a_large_value_is_read() -> Result<()> {
    let db = Db::in_memory()?;
    let films = KeyspaceOptions::new().blob_threshold(Some(1 << 10));
    let films = db.create_keyspace("films", films)?;
    assert_eq!(films.options().blob_threshold, Some(1 << 10));
    let value: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
    films.put("large", &value)?;
    films.put("small", "0123456789")?;
    let slice: Option<Bytes> = films.get_slice("large", 70_000..70_003)?;
    assert_eq!(slice.unwrap(), value[70_000..70_003]);
    assert_eq!(films.get_slice("small", 8..u64::MAX)?.unwrap(), "89");
    assert_eq!(films.get_slice("large", 1 << 20..1 << 21)?.unwrap(), "");
    assert_eq!(films.get_slice(b"none", 0..1)?, None);
    let snapshot = films.snapshot();
    films.delete("large")?;
    assert_eq!(snapshot.get_slice("large", 7..9)?.unwrap(), value[7..9]);
    let tx = db.transaction();
    tx.put("own", "abc")?;
    assert_eq!(tx.get_slice("own", 1..2)?.unwrap(), "b");
    assert_eq!(tx.keyspace(&films).get_slice("small", 0..1)?.unwrap(), "0");
    let seen = Table::new(films.clone()).describe("small")?;
    assert_eq!(seen.start.unwrap(), "0123");

    let stats: Stats = db.stats();
    assert!(stats.blob_files == 1 && stats.bytes_stored >= 100_000);
    let _ = (
        stats.blob_live_bytes,
        stats.blob_other_bytes,
        stats.bytes_collected,
    );
    films.set_options(KeyspaceOptions::new().blob_threshold(None))?;
    assert_eq!(films.options(), KeyspaceOptions::default());
    Ok(())
}

#[test]
fn many_entries_come_in_at_once() -> Result<()> {
    let db = letters()?;
    let sorted = (0..1000u32).map(|n| (n.to_be_bytes(), n.to_string()));
    let version: SeqNo = db.ingest(sorted)?;
    assert_eq!(db.get_entry(7u32.to_be_bytes())?.unwrap().version, version);
    assert_eq!((db.count(..)?, db.get("a")?), (1005, Some("A".into())));
    assert_eq!(kind(db.ingest([("b", ""), ("a", "")])), ErrorKind::Invalid);

    let words = db.keyspace("words")?;
    let mut told = Vec::new();
    let unsorted = vec![("b", "1"), ("a", "2"), ("b", "3")];
    words.ingest_unsorted(unsorted, 1 << 20, |progress: IngestProgress| {
        told.push((progress.entries, progress.bytes, progress.pieces));
    })?;
    assert_eq!(words.get("b")?.unwrap(), "3");
    assert_eq!(words.count(..)?, 2);
    assert_eq!(
        told.last().map(|(entries, bytes, _)| (*entries, *bytes)),
        Some((3, 6))
    );
    words.ingest(Vec::<(Bytes, Bytes)>::new())?;
    Ok(())
}

#[test]
fn options_of_a_keyspace_are_stored_and_read_back()
-> std::result::Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let stored = KeyspaceOptions::new()
        .expiry(Some(HOUR))
        .blob_threshold(Some(u64::MAX))
        .compression(Some(Compression::None))
        .block_size(Some(16 << 10));
    let db = Db::open(dir.path())?;
    db.create_keyspace("old", KeyspaceOptions::new())?
        .set_options(stored.clone())?;
    db.rename_keyspace("old", "new")?;
    assert_eq!(
        kind(db.rename_keyspace("new", "default")),
        ErrorKind::AlreadyExists
    );
    db.close()?;
    let db = Db::open(dir.path())?;
    let KeyspaceOptions {
        expiry,
        merge_operator,
        compaction_filter,
        blob_threshold,
        compression,
        block_size,
        ..
    } = db.keyspace("new")?.options();
    assert_eq!((expiry, blob_threshold), (Some(HOUR), Some(u64::MAX)));
    assert_eq!((merge_operator, compaction_filter), (None, None));
    assert_eq!(
        (compression, block_size),
        (Some(Compression::None), Some(16 << 10))
    );
    let zstd = KeyspaceOptions::new().compression(Some(Compression::Zstd));
    assert_eq!(kind(db.create_keyspace("z", zstd)), ErrorKind::Unsupported);
    assert_eq!(db.keyspaces()?, ["default", "new"]);
    Ok(())
}

/// Values in rising order: their encodings rise too, and are read back as what they were.
fn in_order<K: Key + PartialEq + std::fmt::Debug>(rising: &[K]) -> Result<()> {
    let encoded: Vec<Vec<u8>> = rising.iter().map(Key::to_bytes).collect();
    assert!(encoded.is_sorted_by(|a, b| a < b), "{rising:?}");
    for (key, bytes) in rising.iter().zip(&encoded) {
        assert_eq!(&K::from_bytes(bytes)?, key);
        let mut out = Vec::new();
        key.encode(Place::Inside, &mut out);
        assert_eq!(&K::decode(Place::Inside, &mut &out[..])?, key);
    }
    Ok(())
}

#[test]
fn keys_of_every_type_are_in_order() -> Result<()> {
    in_order(&[0u8, 1, u8::MAX])?;
    in_order(&[0u16, 256, u16::MAX])?;
    in_order(&[0u32, 1 << 20, u32::MAX])?;
    in_order(&[0u64, 1 << 40, u64::MAX])?;
    in_order(&[0u128, 1 << 80, u128::MAX])?;
    in_order(&[i8::MIN, -1, 0, i8::MAX])?;
    in_order(&[i16::MIN, -1, 0, i16::MAX])?;
    in_order(&[i32::MIN, -1, 0, i32::MAX])?;
    in_order(&[i64::MIN, -1, 0, i64::MAX])?;
    in_order(&[i128::MIN, -1, 0, i128::MAX])?;
    in_order(&[f32::NEG_INFINITY, -1.5, 0.0, 2.5, f32::INFINITY])?;
    in_order(&[f64::NEG_INFINITY, -1.5, 0.0, 2.5, f64::INFINITY])?;
    in_order(&[false, true])?;
    in_order(&["", "a", "a\0", "b"].map(String::from))?;
    in_order(&[vec![], vec![0u8], vec![0, 0], vec![1]])?;
    in_order(&[None, Some(0u8), Some(1)])?;
    in_order(&[
        ("a".to_string(), 2i8),
        ("a".to_string(), 3),
        ("a\0".to_string(), 1),
    ])?;
    in_order(&[(
        1u8,
        Some(true),
        vec![1u8],
        -2i64,
        0.5f32,
        String::from("end"),
    )])
}

#[test]
fn values_of_every_type_are_read_back() -> Result<()> {
    fn same<V: Value + PartialEq + std::fmt::Debug>(value: V) -> Result<()> {
        let typed: Typed<u8, V> = Db::in_memory()?.typed();
        typed.put(1, &value)?;
        assert_eq!(typed.get(1)?, Some(value));
        Ok(())
    }
    same(Bytes::from_static(b"bytes"))?;
    same(vec![1u8, 2])?;
    same(String::from("text"))?;
    same(7u8)?;
    same(u16::MAX)?;
    same(u32::MAX)?;
    same(u64::MAX)?;
    same(u128::MAX)?;
    same(i8::MIN)?;
    same(i16::MIN)?;
    same(i32::MIN)?;
    same(i64::MIN)?;
    same(i128::MIN)?;
    same(Json(vec![("a".to_string(), Some(1.5))]))
}

/// Every read without the trait in scope.
mod inherent {
    use terrace::{Bytes, Cursor, Db, Entry, Iter, Result};

    macro_rules! reads {
        ($from:expr) => {{
            let from = $from;
            let value: Option<Bytes> = from.get("b")?;
            let length: Option<usize> = from.get_with("b", <[u8]>::len)?;
            let entry: Option<Entry> = from.get_entry(String::from("b"))?;
            let slice: Option<Bytes> = from.get_slice(b"b", 0..1)?;
            let many: Vec<Option<Bytes>> = from.multi_get(["a", "x"])?;
            assert_eq!(
                (value, length, slice),
                (Some("B".into()), Some(1), Some("B".into()))
            );
            assert_eq!(entry.map(|entry| entry.value), Some("B".into()));
            assert_eq!(many, [Some("A".into()), None]);
            assert!(from.contains_key("b")? && !from.is_empty()?);
            let (first, last): (Option<(Bytes, Bytes)>, _) = (from.first()?, from.last()?);
            assert_eq!(first.map(|(key, _)| key), Some("a".into()));
            assert_eq!(last.map(|(key, _)| key), Some("e".into()));
            let iters: [Iter; 3] = [from.iter(), from.range("b".."d"), from.prefix("c")];
            assert_eq!(iters.map(Iterator::count), [5, 2, 1]);
            let count: u64 = from.count(..="c")?;
            let mut cursor: Cursor = from.cursor();
            assert!(count == 3 && cursor.seek("d")? && cursor.value()? == b"D");
        }};
    }

    #[test]
    fn reads_are_the_same_wherever_they_are() -> Result<()> {
        let db: Db = super::letters()?;
        let tx = db.transaction();
        reads!(&db);
        reads!(db.keyspace("default")?);
        reads!(db.snapshot());
        reads!(&tx);
        reads!(tx.keyspace(&db));
        Ok(())
    }
}
