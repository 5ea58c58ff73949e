//! What keyspaces store beside their entries: options, names, filters. They come back after every kind of end, and are in
//! force from the write on that set them.

use std::sync::Arc;
use std::time::Duration;

use terrace::clock::ManualClock;
use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Batch, Compression, Db, ErrorKind, Expiry, Keyspace, KeyspaceOptions, Options};

const START: Duration = Duration::from_secs(1_790_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn manual() -> Options {
    let old = |_: &[u8], value: &[u8]| !value.starts_with(b"old");
    Options::new()
        .merge_operator("append", |_, older, newer| [older, newer].concat())
        .compaction_filter("old", old)
        .tune(|tuning| tuning.manual = true)
}

fn on(vfs: &Arc<MemVfs>) -> Db {
    let vfs: Arc<dyn Vfs> = vfs.clone();
    manual().vfs(vfs).open("/db").unwrap()
}

fn all() -> KeyspaceOptions {
    KeyspaceOptions::new()
        .expiry(Some(SECOND))
        .merge_operator("append")
        .compaction_filter(Some("old"))
        .compression(Some(Compression::None))
        .block_size(Some(1000))
}

#[test]
fn options_and_names_come_back_after_every_end() {
    let vfs = MemVfs::new(1);
    let mut db = on(&vfs);
    let a = db.create_keyspace("a", all()).unwrap();
    let b = db.keyspace("b").unwrap();
    b.put("k", "b").unwrap();
    db.rename_keyspace("b", "c").unwrap();
    b.set_options(KeyspaceOptions::new().expiry(Some(SECOND * 2)))
        .unwrap();
    db.set_options(KeyspaceOptions::new().compaction_filter(Some("old")))
        .unwrap();
    db.rename_keyspace("a", "b").unwrap();
    assert_eq!((a.name(), b.name()), ("b", "c"));
    drop((a, b));
    let check = |db: &Db| {
        assert_eq!(db.keyspaces().unwrap(), ["b", "c", "default"]);
        assert_eq!(db.keyspace("b").unwrap().options(), all());
        let c = db.keyspace("c").unwrap();
        assert_eq!(c.options(), KeyspaceOptions::new().expiry(Some(SECOND * 2)));
        assert_eq!(c.get("k").unwrap().unwrap(), "b");
        let filtered = KeyspaceOptions::new().compaction_filter(Some("old"));
        assert_eq!(Keyspace::options(db), filtered);
    };
    for round in 0..6 {
        check(&db);
        let killed = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, round);
        check(&on(&killed));
        check(&on(&killed));
        match round {
            0 | 3 => {}
            1 | 4 => db.flush().unwrap(),
            _ => db.compact_all().unwrap(),
        }
        if round >= 2 {
            db.close().unwrap();
            db = on(&vfs);
        }
    }
    // Taken back, for good.
    db.set_options(KeyspaceOptions::new()).unwrap();
    db.keyspace("c")
        .unwrap()
        .set_options(KeyspaceOptions::new())
        .unwrap();
    db.close().unwrap();
    let db = on(&vfs);
    assert_eq!(db.keyspace("c").unwrap().options(), KeyspaceOptions::new());
    assert_eq!(Keyspace::options(&db), KeyspaceOptions::new());
}

#[test]
fn a_new_name_must_be_free_and_the_old_one_is() {
    let db = manual().open_in_memory().unwrap();
    let a = db.keyspace("a").unwrap();
    a.put("k", "1").unwrap();
    let before = a.snapshot();
    db.keyspace("taken").unwrap();
    let kind = |from: &str, to: &str| db.rename_keyspace(from, to).unwrap_err().kind();
    assert_eq!(kind("a", "taken"), ErrorKind::AlreadyExists);
    assert_eq!(kind("a", "default"), ErrorKind::AlreadyExists);
    assert_eq!(kind("default", "a"), ErrorKind::Invalid);
    assert_eq!(kind("nothing", "b"), ErrorKind::NotFound);
    assert_eq!(kind("a", ""), ErrorKind::Invalid);
    assert_eq!(kind("a", &"n".repeat(256)), ErrorKind::Invalid);
    db.rename_keyspace("a", "a").unwrap();
    for n in 0..10_000 {
        let (from, to) = if n % 2 == 0 { ("a", "b") } else { ("b", "a") };
        db.rename_keyspace(from, to).unwrap();
    }
    db.rename_keyspace("a", "b").unwrap();
    assert_eq!(a.name(), "b");
    a.put("k", "2").unwrap();
    let other = db.create_keyspace("a", KeyspaceOptions::new()).unwrap();
    assert!(other.is_empty().unwrap());
    assert_eq!(before.get("k").unwrap().unwrap(), "1");
    assert_eq!(db.keyspace("b").unwrap().get("k").unwrap().unwrap(), "2");
    db.drop_keyspace("b").unwrap();
    assert_eq!(a.get("k").unwrap_err().kind(), ErrorKind::NotFound);
    let gone = a.set_options(KeyspaceOptions::new()).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(db.keyspaces().unwrap(), ["a", "default", "taken"]);
}

#[test]
fn plain_puts_take_the_expiry_of_their_keyspace() {
    let clock = Arc::new(ManualClock::new(START));
    let db = manual().clock(clock.clone()).open_in_memory().unwrap();
    let other = db.keyspace("other").unwrap();
    db.put("before", "1").unwrap();
    db.set_options(KeyspaceOptions::new().expiry(Some(SECOND)))
        .unwrap();
    db.put("one", "1").unwrap();
    db.put_expiring("never", "1", Expiry::Never).unwrap();
    db.put_expiring("long", "1", Expiry::In(SECOND * 3))
        .unwrap();
    let mut batch = Batch::new();
    batch
        .put("first", "1")
        .put_expiring("b never", "1", Expiry::Never)
        .put_expiring("b long", "1", Expiry::In(SECOND * 3))
        .put("gone", "1")
        .delete("gone")
        .put("in range", "1")
        .delete_range("in".."in s")
        .put("last", "1");
    batch
        .keyspace(&other)
        .put("k", "1")
        .put_expiring("soon", "1", Expiry::In(SECOND));
    assert_eq!(batch.len(), 10);
    let seq = db.write(batch.clone()).unwrap();
    assert_eq!(
        db.get_entry("last").unwrap().unwrap().version.get(),
        seq.get() - 2
    );
    let keys = |db: &Db| -> Vec<String> {
        let text = |key: terrace::Result<terrace::Bytes>| String::from_utf8(key.unwrap().to_vec());
        db.iter().keys().map(|key| text(key).unwrap()).collect()
    };
    assert_eq!(
        keys(&db),
        [
            "b long", "b never", "before", "first", "last", "long", "never", "one"
        ]
    );
    assert_eq!(other.count(..).unwrap(), 2);
    clock.advance(SECOND);
    assert_eq!(keys(&db), ["b long", "b never", "before", "long", "never"]);
    assert_eq!(other.count(..).unwrap(), 1);
    clock.advance(SECOND * 2);
    assert_eq!(keys(&db), ["b never", "before", "never"]);
    // Tickets too; and what is taken back concerns later writes.
    drop(db.submit(batch).unwrap());
    db.sync().unwrap();
    assert!(db.get_entry("first").unwrap().unwrap().expires_at.is_some());
    db.set_options(KeyspaceOptions::new()).unwrap();
    db.put("first", "1").unwrap();
    clock.advance(SECOND * 9);
    assert_eq!(keys(&db), ["b never", "before", "first", "never"]);
}

#[test]
fn a_filter_removes_for_good_and_only_what_nobody_sees() {
    let db = manual().open_in_memory().unwrap();
    let logs = db
        .create_keyspace(
            "logs",
            KeyspaceOptions::new().compaction_filter(Some("old")),
        )
        .unwrap();
    let plain = db.keyspace("plain").unwrap();
    for keyspace in [&logs, &plain] {
        keyspace.put("a", "new").unwrap();
        keyspace.put("b", "before").unwrap();
    }
    db.compact_all().unwrap();
    for keyspace in [&logs, &plain] {
        keyspace.put("b", "old").unwrap();
        keyspace.put("c", "old").unwrap();
        keyspace
            .put_expiring("d", "old", Expiry::In(SECOND * 1000))
            .unwrap();
    }
    db.flush().unwrap();
    assert_eq!(logs.count(..).unwrap(), 4, "a flush filters nothing");
    let before = logs.snapshot();
    db.compact_all().unwrap();
    assert_eq!(logs.count(..).unwrap(), 4, "a snapshot sees them");
    drop(before);
    logs.put("e", "new").unwrap(); // Something to merge.
    logs.put("b", "old").unwrap();
    db.compact_all().unwrap();
    let keys: Vec<_> = logs.iter().keys().map(Result::unwrap).collect();
    assert_eq!(
        keys,
        ["a", "d", "e"],
        "the older value of b does not come back"
    );
    assert_eq!(plain.count(..).unwrap(), 4);
    // Not below the names of the database that it is opened with: see the test of operators.
    let missing = KeyspaceOptions::new().compaction_filter(Some("no"));
    assert_eq!(
        logs.set_options(missing).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    logs.set_options(KeyspaceOptions::new()).unwrap();
    logs.put("f", "old").unwrap();
    db.compact_all().unwrap();
    assert!(logs.contains_key("f").unwrap());
}

#[test]
fn a_filter_that_panics_keeps_everything() {
    let options = Options::new()
        .compaction_filter("bad", |_, _| panic!("on purpose"))
        .tune(|tuning| tuning.manual = true);
    let db = options.open_in_memory().unwrap();
    db.set_options(KeyspaceOptions::new().compaction_filter(Some("bad")))
        .unwrap();
    for round in 0..3 {
        for n in 0..100u32 {
            db.put(n.to_be_bytes(), [round]).unwrap();
        }
        db.flush().unwrap();
    }
    db.compact_all().unwrap();
    assert_eq!(db.count(..).unwrap(), 100);
    assert_eq!(db.health().unwrap_err().kind(), ErrorKind::Other);
    db.put("k", "v").unwrap();
}
