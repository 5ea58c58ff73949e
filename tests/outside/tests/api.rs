//! Every signature of the public API, as a user would call it; those of expiry, ranges, blobs and bulk load: `data.rs`.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use outside::{Table, sum};
use terrace::{
    AsKey, AsValue, Batch, Bytes, Compression, Cursor, Db, Durability, Entry, Error, ErrorKind,
    Expiry, IoMode, Isolation, Iter, Json, Kept, Key, KeyBounds, Keys, Keyspace, KeyspaceOptions,
    LevelStats, Loss, LossKind, LostKeys, MAX_BATCH_LEN, MAX_KEY_LEN, MAX_KEYSPACE_NAME_LEN,
    MAX_VALUE_LEN, Options, Place, Readable, Salvage, Savepoint, SeqNo, Snapshot, Stats, Swap,
    Ticket, Transaction, TxKeyspace, Typed, TypedBounds, TypedIter, Value,
};

type AnyError = Box<dyn StdError + Send + Sync>;

#[test]
fn handles_go_wherever_threads_do() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    fn sent<T: Send + std::fmt::Debug + 'static>() {}
    fn plain<T: Send + Sync + Clone + std::fmt::Debug>() {}
    shared::<Db>();
    shared::<Keyspace>();
    shared::<Snapshot>();
    shared::<Error>();
    shared::<Options>();
    sent::<Iter>();
    sent::<Keys>();
    sent::<Cursor>();
    sent::<Ticket>();
    sent::<Transaction>();
    plain::<Batch>();
    plain::<Stats>();
    plain::<LevelStats>();
    plain::<Entry>();
    plain::<Salvage>();
    plain::<Loss>();
    plain::<LossKind>();
    plain::<LostKeys>();
    plain::<Kept>();
    plain::<SeqNo>();
    plain::<ErrorKind>();
    plain::<KeyspaceOptions>();
    plain::<Durability>();
    plain::<Compression>();
    plain::<IoMode>();
    plain::<Isolation>();
    plain::<Savepoint>();
    plain::<Swap>();
    assert_eq!(size_of::<Error>(), size_of::<usize>());
}

#[test]
fn options_are_built_kept_and_shown() -> Result<(), AnyError> {
    let dir = tempfile::tempdir()?;
    let options = Options::new()
        .durability(Durability::Interval(Duration::from_millis(100)))
        .memory(16 << 20)
        .compression(Compression::None)
        .io(IoMode::Pread)
        .create(true)
        .read_only(false);
    assert!(format!("{:?}", options.clone()).contains("Pread"));
    let db = options.open(dir.path())?;
    assert!(format!("{:?}", db.options()).contains("16777216"));
    db.put("k", "v")?;
    let locked = Options::default().open(dir.path()).map(|_| ());
    assert_eq!(locked.map_err(|error| error.kind()), Err(ErrorKind::Locked));
    db.close()?;
    let reader = Options::new().read_only(true).open(dir.path())?;
    assert_eq!(reader.get("k")?.as_deref(), Some(&b"v"[..]));
    assert_eq!(kind(reader.put("k", "w")), ErrorKind::ReadOnly);
    drop(reader);
    let nowhere = dir.path().join("nowhere");
    assert_eq!(
        kind(Options::new().create(false).open(nowhere)),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind(Options::new().memory(1).open_in_memory()),
        ErrorKind::Invalid
    );
    assert_eq!(Durability::default(), Durability::Sync);
    assert_eq!(Compression::default(), Compression::Lz4);
    // This crate does not ask for feature `zstd`.
    let zstd = Options::new().compression(Compression::Zstd);
    assert_eq!(kind(zstd.open_in_memory()), ErrorKind::Unsupported);
    assert_eq!(IoMode::default(), IoMode::Mmap);
    Ok(())
}

fn kind<T>(result: terrace::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it worked"),
        Err(error) => error.kind(),
    }
}

#[test]
fn keys_and_values_are_whatever_is_bytes() -> terrace::Result<()> {
    let db = Db::in_memory()?;
    let key = String::from("string");
    db.put(&key, vec![1u8])?;
    db.put(key.clone() + "2", Bytes::from_static(b"bytes"))?;
    db.put(b"array", [7u8; 3])?;
    db.put(&b"slice"[..], "str")?;
    db.put(
        Box::<[u8]>::from(&b"box"[..]),
        std::borrow::Cow::Borrowed("cow".as_bytes()),
    )?;
    db.put("", "the empty key is a key")?;
    let version: SeqNo = db.delete(Bytes::from_static(b"box"))?;
    assert!(version > SeqNo::ZERO && version < SeqNo::MAX);
    assert_eq!(db.get(key)?.unwrap(), [1u8][..]);
    assert_eq!(db.get([0u8; 0])?.unwrap(), "the empty key is a key");
    assert_eq!(
        db.get_with("slice", |value| value.to_vec())?,
        Some(b"str".to_vec())
    );
    // The closure may use the database.
    let inside = db.get_with("slice", |_| db.contains_key("array"))?;
    assert!(inside.unwrap()?);
    let Entry { value, version, .. } = db.get_entry("array")?.unwrap();
    assert_eq!((value.as_ref(), version.get() > 0), (&[7u8; 3][..], true));
    let owned: Vec<String> = vec!["array".into(), "nothing".into()];
    assert_eq!(db.get_slice(&owned[0], 0..0)?, Some(Bytes::new()));
    let found: Vec<Option<Bytes>> = db.multi_get(&owned)?;
    assert!(found[0].is_some() && found[1].is_none());
    assert_eq!(db.multi_get(owned.iter().map(String::as_bytes))?.len(), 2);
    Ok(())
}

fn letters() -> terrace::Result<Db> {
    let db = Db::in_memory()?;
    for (i, key) in ["a", "b", "c", "d"].iter().enumerate() {
        db.put(key, [i as u8 + 1])?;
    }
    Ok(db)
}

#[test]
fn counts_and_sizes_without_reading() -> terrace::Result<()> {
    let db = letters()?;
    let keyspace: &Keyspace = &db;
    let about: u64 = keyspace.approximate_count("a".."c")?;
    let bytes: u64 = keyspace.approximate_size(..)?;
    assert_eq!((about, bytes), (2, 8));
    assert_eq!(db.approximate_count("c".."a")?, 0);
    Ok(())
}

/// A key of a stranger's own.
#[derive(Clone, Debug, PartialEq)]
struct Pair(u8, String);

impl Key for Pair {
    fn encode(&self, place: Place, out: &mut Vec<u8>) {
        self.0.encode(Place::Inside, out);
        self.1.encode(place, out);
    }

    fn decode(place: Place, bytes: &mut &[u8]) -> terrace::Result<Pair> {
        Ok(Pair(
            u8::decode(Place::Inside, bytes)?,
            String::decode(place, bytes)?,
        ))
    }
}

fn between<K: Key, V: Value>(
    typed: &Typed<K, V>,
    range: impl TypedBounds<K>,
) -> terrace::Result<Vec<(K, V)>> {
    typed.range(range).collect()
}

fn set<K: Key, V: Value>(
    typed: &Typed<K, V>,
    key: impl AsKey<K>,
    value: impl AsValue<V>,
) -> terrace::Result<SeqNo> {
    typed.put(key, value)
}

#[test]
fn typed_keys_and_values() -> terrace::Result<()> {
    let db = Db::in_memory()?;
    let own: Typed<Pair, u64> = db.keyspace("own")?.typed();
    let pair = Pair(1, "b".into());
    set(&own, &pair, 7)?;
    let borrowed: &u64 = &6;
    set(&own, Pair(1, "a".into()), borrowed)?;
    own.put(Pair(0, "z".into()), 5)?;
    assert_eq!(own.get(&pair)?, Some(7));
    assert_eq!(own.first()?.map(|(_, value)| value), Some(5));
    assert_eq!(own.last()?, Some((pair.clone(), 7)));
    assert_eq!(between(&own, Pair(1, String::new())..)?.len(), 2);
    assert_eq!(between(&own, ..&pair)?.len(), 2);
    assert_eq!(between(&own, ..=&pair)?.len(), 3);
    assert_eq!(between(&own, ..)?.len(), 3);
    let mut iter: TypedIter<Pair, u64> = own.iter();
    assert_eq!(iter.next_back().transpose()?, Some((pair.clone(), 7)));
    own.delete(&pair)?;
    assert!(!own.contains_key(&pair)?);
    assert_eq!(Pair::from_bytes(&pair.to_bytes())?, pair);
    assert_eq!(own.clone().keyspace().name(), "own");

    let names: Typed<String, Json<Vec<u8>>> = db.keyspace("names")?.typed();
    names.put("x", Json(vec![1, 2]))?;
    assert_eq!(names.range("a".."y").count(), 1);
    assert_eq!(names.keyspace().get("x")?.unwrap(), "[1,2]");
    let bound = (Bound::Excluded("x"), Bound::Included(String::from("z")));
    assert_eq!(names.range(bound).count(), 0);
    assert_eq!(
        kind(db.keyspace("names")?.typed::<u8, u8>().get(b'x')),
        ErrorKind::Invalid
    );
    let bytes: Typed<Vec<u8>, Bytes> = db.typed();
    bytes.put(b"raw", &b"value"[..])?;
    assert_eq!(bytes.get(&b"raw"[..])?.unwrap().to_value()?.len(), 5);
    assert_eq!(String::from_value(Bytes::from_static(b"text"))?, "text");
    Ok(())
}

#[test]
fn ranges_of_every_shape() -> terrace::Result<()> {
    let db = letters()?;
    let keys = |iter: Iter| -> terrace::Result<String> {
        iter.keys()
            .map(|key| Ok(String::from_utf8_lossy(&key?).into_owned()))
            .collect()
    };
    assert_eq!(keys(db.range(..))?, "abcd");
    assert_eq!(keys(db.range("b"..))?, "bcd");
    assert_eq!(keys(db.range(.."c".to_string()))?, "ab");
    assert_eq!(keys(db.range(..=b"c"))?, "abc");
    assert_eq!(keys(db.range(vec![b'b']..vec![b'd']))?, "bc");
    assert_eq!(keys(db.range(&b"b"[..]..=&b"d"[..]))?, "bcd");
    assert_eq!(keys(db.range("d".."a"))?, "");
    let pair = (Bound::Excluded("a"), Bound::Included(String::from("c")));
    assert_eq!(keys(db.range(&pair))?, "bc");
    assert_eq!(keys(db.range(pair))?, "bc");
    assert_eq!(
        keys(db.range((Bound::Excluded("c"), Bound::<&str>::Unbounded)))?,
        "d"
    );
    assert_eq!(db.count("b"..)?, 3);
    assert_eq!(sum(&*db, ..)?, 10);
    assert_eq!(sum(&db.snapshot(), "a"..="b")?, 3);
    struct Mine;
    impl KeyBounds for Mine {
        fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
            (Bound::Included(b"c"), Bound::Unbounded)
        }
    }
    assert_eq!(sum(&*db, Mine)?, 7);
    Ok(())
}

#[test]
fn iterators_are_those_of_the_standard_library() -> terrace::Result<()> {
    let db = letters()?;
    let mut iter = db.iter();
    assert_eq!(iter.next().unwrap()?.0, "a");
    assert_eq!(iter.next_back().unwrap()?.0, "d");
    assert_eq!(iter.by_ref().count(), 2);
    assert!(iter.next().is_none() && iter.next_back().is_none());
    let map: HashMap<Bytes, Bytes> = db.iter().collect::<terrace::Result<_>>()?;
    assert_eq!(map.len(), 4);
    let reversed: Vec<Bytes> = db.iter().keys().rev().collect::<terrace::Result<_>>()?;
    assert_eq!(reversed[0], "d");
    let (first, last) = (db.first()?.unwrap(), db.last()?.unwrap());
    assert_eq!((&first.0[..], &last.0[..]), (&b"a"[..], &b"d"[..]));
    // An iterator is 'static: it goes to another thread and outlives the handle.
    let iter = db.prefix("b");
    db.close()?;
    drop(db);
    let count = thread::spawn(move || iter.fuse().count()).join();
    assert_eq!(count.ok(), Some(1));
    Ok(())
}

#[test]
fn a_cursor_moves_both_ways() -> terrace::Result<()> {
    let db = letters()?;
    let mut cursor: Cursor = db.cursor();
    assert!(!cursor.valid() && cursor.key().is_empty() && cursor.value()?.is_empty());
    assert!(cursor.first()? && cursor.next()?);
    assert_eq!((cursor.key(), cursor.value()?), (&b"b"[..], &[2u8][..]));
    assert!(cursor.last()? && cursor.prev()?);
    assert_eq!(cursor.key(), b"c");
    assert!(cursor.seek("bb")? && cursor.key() == b"c");
    assert!(cursor.seek_for_prev(String::from("bb"))? && cursor.key() == b"b");
    assert!(!cursor.seek("e")? && !cursor.valid());
    let moved = thread::spawn(move || cursor.first()).join();
    assert_eq!(moved.ok().map(|moved| moved.is_ok_and(|on| on)), Some(true));
    Ok(())
}

#[test]
fn code_is_generic_over_where_it_reads() -> terrace::Result<()> {
    let db = letters()?;
    let table = Table::new(Keyspace::clone(&db));
    let seen = Table::new(db.snapshot()).describe("a")?;
    assert_eq!(table.describe("a")?, seen);
    assert!(seen.there && !seen.empty && seen.count == 4 && seen.entries == 4);
    assert_eq!(
        (seen.with_prefix, seen.length, seen.at_cursor),
        (1, Some(1), b"a".to_vec())
    );
    assert_eq!(seen.both, [seen.value.clone(), seen.value]);
    fn dynless<R: Readable + ?Sized>(_: &R) {}
    dynless::<Keyspace>(&db); // A `Db` serves where a keyspace does.
    Ok(())
}

#[test]
fn batches_and_keyspaces() -> terrace::Result<()> {
    let db = Db::in_memory()?;
    let users: Keyspace = db.keyspace("users")?;
    let posts = db.create_keyspace("posts", KeyspaceOptions::new())?;
    assert_eq!(
        kind(db.create_keyspace("posts", KeyspaceOptions::default())),
        ErrorKind::AlreadyExists
    );
    assert_eq!(db.keyspaces()?, ["default", "posts", "users"]);
    assert_eq!(
        (users.name(), users.options()),
        ("users", KeyspaceOptions::new())
    );
    let mut batch = Batch::new();
    assert!(batch.is_empty());
    batch
        .put("x", "1")
        .delete("y")
        .durability(Durability::Buffered);
    batch
        .keyspace(&users)
        .put("ada", "1815")
        .put("alan", "1912")
        .delete("bob");
    batch.keyspace(&posts).put(1u32.to_be_bytes(), "first");
    assert_eq!(batch.len(), 6);
    let last: SeqNo = db.write(batch.clone())?;
    assert_eq!(db.snapshot().seq(), last);
    batch.clear();
    assert!(batch.is_empty());
    db.write(batch)?;
    assert_eq!(users.db().get("x")?.unwrap(), "1");
    let snapshot = users.snapshot();
    users.put("ada", "later")?;
    assert_eq!(snapshot.get("ada")?.unwrap(), "1815");
    assert_eq!(snapshot.clone().keyspace(&posts).count(..)?, 1);
    assert_eq!(snapshot.keyspace(&db).get("x")?.unwrap(), "1");
    db.drop_keyspace("posts")?;
    assert_eq!(kind(posts.get("1")), ErrorKind::NotFound);
    assert_eq!(kind(posts.put("1", "")), ErrorKind::NotFound);
    let other = Db::in_memory()?;
    let mut foreign = Batch::default();
    foreign.keyspace(&users).put("k", "v");
    assert_eq!(kind(other.write(foreign)), ErrorKind::Invalid);
    assert_eq!(
        kind(other.snapshot().keyspace(&users).get("ada")),
        ErrorKind::Invalid
    );
    Ok(())
}

#[test]
fn keyspaces_have_options_operators_and_filters() -> terrace::Result<()> {
    let options = Options::new()
        .merge_operator("longest", |_key, older, newer| {
            match older.len() >= newer.len() {
                true => older.to_vec(),
                false => newer.to_vec(),
            }
        })
        .compaction_filter("no dots", |key, value| {
            !key.contains(&b'.') && !value.contains(&b'.')
        });
    assert!(format!("{options:?}").contains("longest"));
    let db = options.open_in_memory()?;
    let hour = Duration::from_secs(3600);
    let stored = KeyspaceOptions::new()
        .expiry(Some(hour))
        .merge_operator("longest")
        .compaction_filter(Some("no dots"));
    let words = db.create_keyspace("words", stored.clone())?;
    assert_eq!(words.options(), stored);
    let version: SeqNo = words.merge("t", "tree")?;
    words.merge("t", String::from("terrace"))?;
    assert!(version > SeqNo::ZERO);
    let mut batch = Batch::new();
    batch
        .keyspace(&words)
        .merge("t", b"tee")
        .put("u", "under")
        .put(".", "");
    batch.put_expiring("k", "v", Expiry::In(hour));
    db.write(batch)?;
    assert_eq!(words.get("t")?.unwrap(), "terrace");
    assert!(words.get_entry("u")?.unwrap().expires_at.is_some());
    words.set_options(
        KeyspaceOptions::new()
            .merge_operator("longest")
            .compaction_filter(Some("no dots")),
    )?;
    words.put("x.y", "")?;
    words.put("z", "")?;
    db.compact_all()?;
    assert!(words.contains_key("z")? && !words.contains_key("x.y")?);
    db.set_options(KeyspaceOptions::new().merge_operator("longest"))?;
    let mut batch = Batch::new();
    batch.merge("a", "b");
    db.write(batch)?;
    assert_eq!(
        kind(db.keyspace("plain")?.merge("a", "b")),
        ErrorKind::Invalid
    );
    let unknown = KeyspaceOptions::new().merge_operator("nobody knows");
    assert_eq!(
        kind(db.create_keyspace("other", unknown)),
        ErrorKind::Unsupported
    );
    db.rename_keyspace("words", "terms")?;
    assert_eq!((words.name(), db.keyspaces()?.len()), ("terms", 3));
    assert_eq!(kind(db.rename_keyspace("words", "x")), ErrorKind::NotFound);
    Ok(())
}

#[test]
fn limits_are_constants_and_errors() -> terrace::Result<()> {
    const _: () = assert!(MAX_KEY_LEN == 65_531 && MAX_KEYSPACE_NAME_LEN == 255);
    const _: () = assert!(MAX_VALUE_LEN == 1 << 30 && MAX_BATCH_LEN == 1 << 30);
    let db = Db::in_memory()?;
    db.put(vec![b'k'; MAX_KEY_LEN], "")?;
    assert_eq!(
        kind(db.put(vec![b'k'; MAX_KEY_LEN + 1], "")),
        ErrorKind::Invalid
    );
    let mut batch = Batch::new();
    batch.put("fine", "").delete(vec![0; MAX_KEY_LEN + 1]);
    assert_eq!(kind(db.write(batch)), ErrorKind::Invalid);
    assert!(!db.contains_key("fine")?);
    assert_eq!(kind(db.keyspace("")), ErrorKind::Invalid);
    db.keyspace(&"n".repeat(MAX_KEYSPACE_NAME_LEN))?;
    assert_eq!(
        kind(db.keyspace(&"n".repeat(MAX_KEYSPACE_NAME_LEN + 1))),
        ErrorKind::Invalid
    );
    Ok(())
}

/// A runtime in twenty lines.
struct Parker(Mutex<bool>, Condvar);

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let parker = Arc::new(Parker(Mutex::new(false), Condvar::new()));
    let waker = Waker::from(parker.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        let mut woken = parker.0.lock().unwrap();
        while !*woken {
            woken = parker.1.wait(woken).unwrap();
        }
        *woken = false;
    }
}

#[test]
fn a_ticket_is_awaited_or_waited_for() -> terrace::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path())?;
    let batch = |key: &str| {
        let mut batch = Batch::new();
        batch.put(key, "v");
        batch
    };
    let version = block_on(async { db.submit(batch("a"))?.await })?;
    assert_eq!(db.get_entry("a")?.unwrap().version, version);
    let tickets: Vec<Ticket> = (0..100)
        .map(|i| db.submit(batch(&format!("t{i}"))))
        .collect::<terrace::Result<_>>()?;
    for ticket in &tickets {
        ticket.wait()?;
        assert!(ticket.is_durable());
        assert_eq!(ticket.wait()?, ticket.wait()?);
    }
    assert_eq!(db.prefix("t").count(), 100);
    let ticket = db.submit(batch("dropped"))?;
    drop(ticket); // Cancels nothing.
    db.sync()?;
    assert!(db.contains_key("dropped")?);
    assert!(db.submit(Batch::new())?.wait().is_ok());
    let moved = db.submit(batch("moved"))?;
    assert!(
        thread::spawn(move || moved.wait())
            .join()
            .is_ok_and(|result| result.is_ok())
    );
    Ok(())
}

#[test]
fn errors_fit_into_what_programs_have() -> Result<(), AnyError> {
    fn with_question_mark(dir: &Path) -> Result<(), io::Error> {
        Options::new().create(false).open(dir)?;
        Ok(())
    }
    let dir = tempfile::tempdir()?;
    let missing = dir.path().join("missing");
    let error = with_question_mark(&missing).map_err(|error| error.kind());
    assert_eq!(error, Err(io::ErrorKind::NotFound));
    let error: Error = match Options::new().create(false).open(&missing) {
        Ok(_) => return Err("opened".into()),
        Err(error) => error,
    };
    let text = match error.kind() {
        ErrorKind::NotFound => "create it",
        ErrorKind::Locked | ErrorKind::Stalled => "wait",
        ErrorKind::Invalid | ErrorKind::AlreadyExists | ErrorKind::Unsupported => "fix the call",
        ErrorKind::Conflict => "retry",
        ErrorKind::Corruption => "restore",
        ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::ReadOnly => "see to the disk",
        ErrorKind::Closed | ErrorKind::Other => "hm",
        _ => "newer than this program",
    };
    assert_eq!(text, "create it");
    let _where: Option<(&Path, u64)> = error.file();
    assert_eq!((error.key(), error.ready_in()), (None, None));
    let boxed: AnyError = error.clone().into();
    assert_eq!(boxed.to_string(), error.to_string());
    let own = Error::other(io::Error::other("mine"));
    assert_eq!(own.kind(), ErrorKind::Other);
    assert!(StdError::source(&own).is_some_and(|source| source.to_string() == "mine"));
    assert!(Error::other("just text").to_string().contains("just text"));
    let kind: ErrorKind = own.kind();
    let copy = kind;
    assert_eq!(kind, copy);
    Ok(())
}

#[test]
fn work_can_be_asked_for_and_looked_at() -> terrace::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let db = Options::new()
        .durability(Durability::Buffered)
        .open(dir.path())?;
    let users = db.keyspace("users")?;
    for i in 0..1000u32 {
        users.put(i.to_be_bytes(), "v")?;
    }
    let stats: Stats = db.stats();
    assert!(stats.writes >= 1000 && stats.bytes_written > 0 && stats.visible.get() >= 1000);
    db.sync()?;
    db.flush()?;
    users.compact(..)?;
    users.compact("a".."b")?;
    db.compact_all()?;
    db.wait_idle()?;
    db.health()?;
    let copy = dir.path().join("copy");
    db.checkpoint(&copy)?;
    assert_eq!(Db::open(copy)?.keyspace("users")?.count(..)?, 1000);
    let stats = db.stats();
    assert_eq!(
        stats.levels.iter().map(|level| level.entries).sum::<u64>(),
        1000
    );
    assert!(stats.table_bytes > 0 && stats.log_bytes > 0 && stats.write_amplification() >= 1.0);
    let LevelStats {
        runs,
        tables,
        tombstones,
        bytes,
        ..
    } = stats.levels.last().unwrap().clone();
    assert!(runs == 1 && tables >= 1 && tombstones == 0 && bytes > 0);
    let _ = (
        stats.memtable_entries,
        stats.memtable_bytes,
        stats.memtable_pieces,
    );
    let _ = (
        stats.cache_bytes,
        stats.bytes_flushed,
        stats.bytes_compacted,
    );
    Ok(())
}

#[test]
fn close_is_the_end_for_every_handle() -> terrace::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path())?;
    let (clone, users, snapshot) = (db.clone(), db.keyspace("users")?, db.snapshot());
    users.put("k", "v")?;
    let value = users.get("k")?.unwrap();
    db.close()?;
    db.close()?;
    assert_eq!(kind(clone.get("k")), ErrorKind::Closed);
    assert_eq!(kind(clone.put("k", "v")), ErrorKind::Closed);
    assert_eq!(kind(users.get("k")), ErrorKind::Closed);
    assert_eq!(kind(snapshot.get("k")), ErrorKind::Closed);
    assert_eq!(kind(clone.keyspaces()), ErrorKind::Closed);
    assert_eq!(kind(clone.keyspace("new")), ErrorKind::Closed);
    assert_eq!(kind(clone.flush()), ErrorKind::Closed);
    assert_eq!(kind(clone.sync()), ErrorKind::Closed);
    assert_eq!(kind(clone.submit(Batch::new())), ErrorKind::Closed);
    let mut iter = clone.iter();
    assert_eq!(iter.next().map(kind), Some(ErrorKind::Closed));
    assert!(iter.next().is_none());
    let mut cursor = clone.cursor();
    assert_eq!(kind(cursor.next()), ErrorKind::Closed);
    assert_eq!(kind(cursor.first()), ErrorKind::Closed);
    assert_eq!(value, "v");
    let db = Db::open(dir.path())?; // The lock is free although handles are alive.
    assert!(db.keyspace("users")?.contains_key("k")?);
    Ok(())
}

#[test]
fn options_are_read_from_a_configuration_file() {
    let text = r#"{ "durability": { "interval_ms": 100 }, "memory": 67108864, "compression": "none", "io": "pread" }"#;
    let options: Options = serde_json::from_str(text).unwrap();
    let again = serde_json::to_string(&options).unwrap();
    let twice: Options = serde_json::from_str(&again).unwrap();
    assert_eq!(again, serde_json::to_string(&twice).unwrap());
    assert!(
        again.contains("\"interval_ms\":100") && again.contains("\"pread\""),
        "{again}"
    );
    let db = twice.open_in_memory().unwrap();
    db.put("k", "v").unwrap();
    let zstd: Options = serde_json::from_str(r#"{ "compression": "zstd" }"#).unwrap();
    assert!(serde_json::to_string(&zstd).unwrap().contains("\"zstd\""));
    assert_eq!(kind(zstd.open_in_memory()), ErrorKind::Unsupported);
    let defaults: Options = serde_json::from_str("{}").unwrap();
    assert_eq!(
        serde_json::to_string(&defaults).unwrap(),
        serde_json::to_string(&Options::new()).unwrap()
    );
    for wrong in [
        r#"{ "memori": 1 }"#,
        r#"{ "compression": "snappy" }"#,
        r#"{ "durability": 3 }"#,
    ] {
        assert!(serde_json::from_str::<Options>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn single_operations_are_atomic() -> Result<(), AnyError> {
    let db = Db::in_memory()?;
    let users: Keyspace = db.keyspace("users")?;
    let first: Swap = users.put_if_absent("ada", "1815")?;
    assert!(first.is_done());
    match users.put_if_absent(b"ada", vec![1])? {
        Swap::Found(Some(value)) => assert_eq!(value, "1815"),
        other => panic!("{other:?}"),
    }
    let swap = users.compare_and_swap("ada", Some(b"1815"), Some(b"1852"))?;
    assert!(matches!(swap, Swap::Done(seq) if seq > SeqNo::ZERO));
    assert_eq!(
        users.compare_and_swap("ada", None, None)?,
        Swap::Found(Some(Bytes::from("1852")))
    );
    let mut calls = 0;
    let longer: Option<Bytes> = users.update("ada", |old| {
        calls += 1;
        old.map(|old| [old, b"!"].concat())
    })?;
    assert_eq!((longer, calls), (Some("1852!".into()), 1));
    let sum: i64 = db.add_i64("n", -3)?;
    assert_eq!((sum, db.add_i64("n", 5)?), (-3, 2));
    let seq: SeqNo = db.append("text", "a")?;
    assert!(db.append("text", b"b")? > seq);
    let taken: Option<Bytes> = db.take("text")?;
    assert_eq!(taken, Some("ab".into()));
    let first: Option<(Bytes, Bytes)> = users.pop_first()?;
    assert_eq!(first, Some(("ada".into(), "1852!".into())));
    assert_eq!(users.pop_last()?, None);
    assert_eq!(kind(db.add_i64("n", i64::MAX)), ErrorKind::Invalid);
    Ok(())
}

#[test]
fn batches_have_conditions() -> Result<(), AnyError> {
    let db = Db::in_memory()?;
    let users = db.keyspace("users")?;
    let version = users.put("ada", "1")?;
    let mut batch = Batch::new();
    batch
        .require_absent("x")
        .require_version("none", SeqNo::ZERO)
        .add_i64("n", 1)
        .append("text", "a");
    assert_eq!(batch.len(), 2);
    batch.clear();
    batch
        .require_absent("x")
        .add_i64("n", 1)
        .append("text", "a");
    batch
        .keyspace(&users)
        .require_version("ada", version)
        .require_absent("bob")
        .add_i64("n", 2)
        .append("ada", "2");
    let before: SeqNo = db.write(batch.clone())?;
    assert_eq!(users.get("ada")?.unwrap(), "12");
    let refused: Error = db.submit(batch).map(|_| ()).unwrap_err();
    assert_eq!(
        (refused.kind(), refused.key()),
        (ErrorKind::Conflict, Some(&b"ada"[..]))
    );
    assert_eq!(db.snapshot().seq(), before);
    Ok(())
}

#[test]
fn transactions_read_write_and_conflict() -> Result<(), AnyError> {
    let db = Db::in_memory()?;
    let users = db.keyspace("users")?;
    users.put("ada", [7])?;
    let tx: Transaction = db.transaction().isolation(Isolation::Serializable);
    let of_users: TxKeyspace<'_> = tx.keyspace(&users);
    of_users.put("bob", vec![8])?;
    let point: Savepoint = tx.savepoint();
    of_users.delete(b"ada")?;
    tx.put("k", "v")?;
    tx.delete("none")?;
    assert_eq!((sum(&of_users, ..)?, sum(&tx, ..)?), (8, u64::from(b'v')));
    tx.rollback_to(&point)?;
    assert_eq!(sum(&of_users, "a"..)?, 15);
    assert_eq!(of_users.get_entry("bob")?.unwrap().version, SeqNo::MAX);
    let again = Table::new(db.transaction()).describe("k")?;
    assert_eq!((again.value, again.count), (None, 0));
    assert!(tx.seq() < tx.commit()?);
    let late = db.transaction();
    late.get("k")?;
    late.put("other", "1")?;
    db.put("k", "changed")?;
    let error: Error = late.commit().unwrap_err();
    assert_eq!(
        (error.kind(), error.key()),
        (ErrorKind::Conflict, Some(&b"k"[..]))
    );
    let length: usize = db.transact(|tx: &Transaction| {
        let length = tx.get("k")?.map_or(0, |value| value.len());
        tx.keyspace(&users).put("length", [length as u8])?;
        Ok(length)
    })?;
    assert_eq!(length, 7);
    let given_up: Result<(), Error> = db.transact(|_| Err(Error::other("no")));
    assert_eq!(kind(given_up), ErrorKind::Other);
    db.transaction().rollback();
    Ok(())
}

#[test]
fn what_is_left_of_a_damaged_database_is_salvaged() -> Result<(), AnyError> {
    let dir = tempfile::tempdir()?;
    let db = Db::open(dir.path())?;
    db.put("a", "1")?;
    db.compact_all()?;
    db.close()?;
    let (db, report) = Options::new().salvage(dir.path())?;
    assert!(report.is_clean() && !report.lost_something());
    assert_eq!(report.kept.tables, 1);
    db.close()?;
    for entry in std::fs::read_dir(dir.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            std::fs::remove_file(path)?;
        }
    }
    assert_eq!(kind(Db::open(dir.path())), ErrorKind::Corruption);
    let (db, report): (Db, Salvage) = Options::new().salvage(dir.path())?;
    let Kept {
        tables,
        mended,
        entries,
        batches,
        ..
    } = report.kept;
    assert_eq!((tables, mended, entries, batches), (0, 0, 0, 0));
    assert!(report.lost_something() && report.aside.as_ref().is_some_and(|aside| aside.is_dir()));
    assert!(report.damaged.len() == 1 && report.renamed.is_empty());
    let [
        Loss {
            file,
            kind,
            bytes: None,
            keys,
            sequences: Some(sequences),
            what,
            ..
        },
    ] = &report.losses[..]
    else {
        return Err(report.to_string().into());
    };
    assert_eq!(
        (kind, file, what.is_empty()),
        (&LossKind::Table, &report.damaged[0], false)
    );
    let [
        LostKeys {
            keyspace,
            first,
            last,
            ..
        },
    ] = &keys[..]
    else {
        return Err(report.to_string().into());
    };
    assert_eq!(
        (&keyspace[..], first, last),
        ("default", &Some("a".into()), &Some("a".into()))
    );
    assert!(
        keys[0].contains("default", b"a")
            && report.losses[0].covers("default", b"a", *sequences.start())
    );
    println!("{report} {} {}", report.losses[0], keys[0]);
    assert_eq!(db.get("a")?, None);
    Ok(())
}
