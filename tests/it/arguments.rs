//! Whatever a caller passes in is an answer or an error that says what to do: nothing panics, and what is refused
//! has changed nothing.

use std::ops::Bound;
use std::time::Duration;

use terrace::vfs::MemVfs;
use terrace::{
    Batch, Bytes, Db, Durability, Error, ErrorKind, Keyspace, KeyspaceOptions, MAX_KEY_LEN,
    MAX_KEYSPACE_NAME_LEN, MAX_VALUE_LEN, Options, Readable, Result,
};

fn memory() -> Db {
    Db::in_memory().unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn the_empty_key_is_a_key_like_any_other() {
    let db = memory();
    assert_eq!(db.get("").unwrap(), None);
    db.put("", "first").unwrap();
    db.put([0], "second").unwrap();
    for round in 0..3 {
        assert_eq!(db.get("").unwrap().unwrap(), "first");
        assert_eq!(db.first().unwrap().unwrap().1, "first");
        assert_eq!(db.range(..="").count(), 1);
        assert_eq!(db.range(.."").count(), 0);
        assert_eq!(db.range("".."").count(), 0);
        assert_eq!(db.range(""..).count(), 2);
        let behind = (Bound::Excluded(""), Bound::Unbounded::<&str>);
        assert_eq!(db.range(behind).count(), 1);
        assert_eq!(db.prefix("").count(), 2);
        let mut cursor = db.cursor();
        assert!(cursor.seek_for_prev("").unwrap() && cursor.key().is_empty());
        assert!(!cursor.prev().unwrap() && !cursor.next().unwrap());
        match round {
            0 => db.flush().unwrap(),
            _ => db.compact_all().unwrap(),
        }
    }
    db.delete("").unwrap();
    assert_eq!(db.first().unwrap().unwrap().1, "second");
}

#[test]
fn a_key_has_a_greatest_length() {
    let db = memory();
    let longest = vec![0xff; MAX_KEY_LEN];
    let over = vec![0xff; MAX_KEY_LEN + 1];
    db.put(&longest, "v").unwrap();
    assert_eq!(kind(db.put(&over, "v")), ErrorKind::Invalid);
    assert_eq!(kind(db.delete(&over)), ErrorKind::Invalid);
    assert!(
        db.put(&over, "v")
            .unwrap_err()
            .to_string()
            .contains("65531")
    );
    for _ in 0..2 {
        // To ask for what cannot be there is no mistake.
        assert_eq!(db.get(&over).unwrap(), None);
        assert_eq!(db.multi_get([&over, &longest]).unwrap()[0], None);
        assert_eq!(db.range(&over..).count(), 0);
        assert_eq!(db.range(..&over).count(), 1);
        assert_eq!(db.prefix(&over).count(), 0);
        let mut cursor = db.cursor();
        assert!(!cursor.seek(&over).unwrap());
        assert!(cursor.seek_for_prev(&over).unwrap() && cursor.key() == longest);
        assert_eq!(db.get(&longest).unwrap().unwrap(), "v");
        assert_eq!(db.prefix(&longest).count(), 1);
        db.compact(&over..).unwrap();
        db.compact_all().unwrap();
    }
}

/// Peak resident memory in KiB.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The value is a GiB of pages that nobody ever touches: a copy of it would.
#[cfg(target_os = "linux")]
#[test]
fn a_value_that_is_too_large_is_refused_before_it_is_copied() {
    let db = memory();
    db.put("before", "1").unwrap();
    let value = vec![0u8; MAX_VALUE_LEN as usize + 1];
    let before = peak();
    assert_eq!(kind(db.put("k", &value)), ErrorKind::Invalid);
    let mut batch = Batch::new();
    batch.put("a", "1").put("k", &value).put("b", "2");
    assert_eq!(batch.len(), 1);
    assert_eq!(kind(db.write(batch.clone())), ErrorKind::Invalid);
    assert_eq!(kind(db.submit(batch)), ErrorKind::Invalid);
    // A value of the greatest length alone makes a batch too long.
    let mut batch = Batch::new();
    batch.put("a", "1").put("k", &value[1..]);
    assert_eq!(kind(db.write(batch)), ErrorKind::Invalid);
    assert!(peak() - before < 512 << 10, "{} KiB", peak() - before);
    assert_eq!(db.iter().count(), 1);
    assert_eq!(db.put("after", "1").unwrap().get(), 2, "no number was used");
}

#[test]
fn a_batch_with_a_wrong_argument_is_not_written_at_all() {
    let db = memory();
    let users = db.keyspace("users").unwrap();
    let mut batch = Batch::new();
    batch.put("a", "1");
    batch
        .keyspace(&users)
        .put(vec![1; MAX_KEY_LEN + 1], "")
        .put("b", "2");
    batch.delete("c");
    assert_eq!(kind(db.write(batch.clone())), ErrorKind::Invalid);
    assert!(db.is_empty().unwrap() && users.is_empty().unwrap());
    batch.clear();
    assert!(batch.is_empty());
    batch.put("a", "1").put("a", "2").delete("a").put("a", "3");
    let last = db.write(batch).unwrap();
    let entry = db.get_entry("a").unwrap().unwrap();
    assert_eq!((entry.value, entry.version), (Bytes::from("3"), last));
    let empty = db.write(Batch::new()).unwrap();
    assert_eq!(empty, last, "an empty batch takes no number");
    assert_eq!(db.submit(Batch::default()).unwrap().wait().unwrap(), last);
}

#[test]
fn a_keyspace_may_have_any_name_of_1_to_255_bytes() {
    let vfs = MemVfs::new(1);
    let options = Options::new().vfs(vfs);
    let db = options.open("/db").unwrap();
    let longest = "n".repeat(MAX_KEYSPACE_NAME_LEN);
    let wide = format!("{}x", "\u{20ac}".repeat(84)); // 253 bytes
    let names = [
        "/",
        "..",
        "../../etc",
        "a/b",
        "\0",
        "a\0b",
        "\n",
        " ",
        "Default",
        "\u{1F980}",
        "\u{feff}",
        "CURRENT",
        &longest,
        &wide,
    ];
    for name in names {
        let keyspace = db.create_keyspace(name, KeyspaceOptions::new()).unwrap();
        keyspace.put("name", name).unwrap();
        assert_eq!(keyspace.name(), name);
    }
    for name in ["", &format!("{longest}n"), &"\u{20ac}".repeat(86)] {
        assert_eq!(kind(db.keyspace(name)), ErrorKind::Invalid, "{name:?}");
        let created = db.create_keyspace(name, KeyspaceOptions::new());
        assert_eq!(kind(created), ErrorKind::Invalid, "{name:?}");
        assert_eq!(
            kind(db.drop_keyspace(name)),
            ErrorKind::NotFound,
            "{name:?}"
        );
    }
    db.close().unwrap();
    for flush in [true, false] {
        let db = options.open("/db").unwrap();
        let mut want: Vec<&str> = [&names[..], &["default"]].concat();
        want.sort_unstable();
        assert_eq!(db.keyspaces().unwrap(), want);
        for name in names {
            let keyspace = db.keyspace(name).unwrap();
            assert_eq!(keyspace.get("name").unwrap().unwrap(), name);
        }
        if flush {
            db.flush().unwrap();
        }
        db.close().unwrap();
    }
}

#[test]
fn the_default_keyspace_is_the_database_and_stays() {
    let db = memory();
    let default = db.keyspace("default").unwrap();
    default.put("k", "v").unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
    assert_eq!(kind(db.drop_keyspace("default")), ErrorKind::Invalid);
    let created = db.create_keyspace("default", KeyspaceOptions::new());
    assert_eq!(kind(created), ErrorKind::AlreadyExists);
    let mut batch = Batch::new();
    batch.put("k", "1");
    batch.keyspace(&default).put("k", "2");
    db.write(batch).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "2");
    assert_eq!(default.db().get("k").unwrap().unwrap(), "2");
}

#[test]
fn a_handle_of_another_database_is_invalid() {
    let (db, other) = (memory(), memory());
    let (ours, theirs) = (
        db.keyspace("same").unwrap(),
        other.keyspace("same").unwrap(),
    );
    let theirs_default = other.keyspace("default").unwrap();
    for foreign in [&theirs, &theirs_default, &*other] {
        let mut batch = Batch::new();
        batch.put("k", "v");
        batch.keyspace(&ours).put("k", "v");
        batch.keyspace(foreign).put("k", "v");
        assert_eq!(kind(db.write(batch.clone())), ErrorKind::Invalid);
        assert_eq!(kind(db.submit(batch)), ErrorKind::Invalid);
        let snapshot = db.snapshot().keyspace(foreign);
        assert_eq!(kind(snapshot.get("k")), ErrorKind::Invalid);
        assert_eq!(kind(snapshot.multi_get(["k"])), ErrorKind::Invalid);
        assert_eq!(kind(snapshot.count(..)), ErrorKind::Invalid);
        assert_eq!(kind(snapshot.first()), ErrorKind::Invalid);
        let mut iter = snapshot.iter();
        assert_eq!(kind(iter.next().unwrap()), ErrorKind::Invalid);
        assert!(iter.next().is_none() && iter.next_back().is_none());
        let mut cursor = snapshot.cursor();
        for _ in 0..2 {
            assert_eq!(kind(cursor.first()), ErrorKind::Invalid);
            assert_eq!(kind(cursor.next()), ErrorKind::Invalid);
            assert!(!cursor.valid() && cursor.key().is_empty());
        }
        // From the wrong one, the right one can be had again.
        assert_eq!(snapshot.keyspace(&ours).get("k").unwrap(), None);
    }
    assert!(db.is_empty().unwrap() && ours.is_empty().unwrap());
    assert!(other.is_empty().unwrap() && theirs.is_empty().unwrap());
}

#[test]
fn a_handle_from_before_the_database_was_opened_again_is_invalid() {
    let options = Options::new().vfs(MemVfs::new(1));
    let db = options.open("/db").unwrap();
    let old = db.keyspace("users").unwrap();
    db.close().unwrap();
    let db = options.open("/db").unwrap();
    let mut batch = Batch::new();
    batch.keyspace(&old).put("k", "v");
    assert_eq!(kind(db.write(batch)), ErrorKind::Invalid);
    assert_eq!(
        kind(db.snapshot().keyspace(&old).get("k")),
        ErrorKind::Invalid
    );
    assert_eq!(kind(old.put("k", "v")), ErrorKind::Closed);
}

fn reads_say(keyspace: &impl Readable, want: ErrorKind) {
    assert_eq!(kind(keyspace.get("k")), want);
    assert_eq!(kind(keyspace.get_with("k", <[u8]>::len)), want);
    assert_eq!(kind(keyspace.get_entry("k")), want);
    assert_eq!(kind(keyspace.contains_key("k")), want);
    assert_eq!(kind(keyspace.multi_get(["k"])), want);
    assert_eq!(kind(keyspace.multi_get([""; 0])), want);
    assert_eq!(kind(keyspace.count(..)), want);
    assert_eq!(kind(keyspace.is_empty()), want);
    assert_eq!(kind(keyspace.first()), want);
    assert_eq!(kind(keyspace.last()), want);
    assert_eq!(kind(keyspace.iter().next_back().unwrap()), want);
    assert_eq!(kind(keyspace.prefix("k").keys().next().unwrap()), want);
    assert_eq!(kind(keyspace.cursor().seek("k")), want);
}

#[test]
fn a_dropped_keyspace_is_gone_and_a_new_one_of_its_name_is_another() {
    let db = memory();
    let old = db.keyspace("users").unwrap();
    old.put("k", "old").unwrap();
    let before = old.snapshot();
    db.drop_keyspace("users").unwrap();
    assert_eq!(kind(db.drop_keyspace("users")), ErrorKind::NotFound);
    reads_say(&old, ErrorKind::NotFound);
    reads_say(&old.snapshot(), ErrorKind::NotFound);
    assert_eq!(kind(old.put("k", "v")), ErrorKind::NotFound);
    assert_eq!(kind(old.delete("k")), ErrorKind::NotFound);
    assert_eq!(kind(old.compact(..)), ErrorKind::NotFound);
    let mut batch = Batch::new();
    batch.put("k", "v");
    batch.keyspace(&old).put("k", "v");
    assert_eq!(kind(db.write(batch)), ErrorKind::NotFound);
    assert!(db.is_empty().unwrap());

    let new = db.keyspace("users").unwrap();
    assert!(new.is_empty().unwrap());
    new.put("k", "new").unwrap();
    reads_say(&old, ErrorKind::NotFound);
    let look = |before: &terrace::Snapshot| {
        assert_eq!(before.get("k").unwrap().unwrap(), "old");
        assert_eq!(before.keyspace(&old).iter().count(), 1);
        assert_eq!(before.keyspace(&new).iter().count(), 0, "it came later");
    };
    look(&before);
    db.compact_all().unwrap();
    look(&before);
    assert_eq!(new.get("k").unwrap().unwrap(), "new");
    drop(before);
    db.compact_all().unwrap();
    assert_eq!(new.iter().count(), 1);
}

/// Tables of the last level are merged only when something comes down, so the space of a dropped
/// keyspace is sought out: tables of nothing else go whole, others are written again without it.
#[test]
fn a_dropped_keyspace_gives_its_space_back() {
    let db = memory();
    let users = db.keyspace("users").unwrap();
    for i in 0..100 {
        users.put([i], [0; 1000]).unwrap();
    }
    db.compact_all().unwrap();
    db.drop_keyspace("users").unwrap();
    db.compact_all().unwrap();
    assert_eq!(db.stats().table_bytes, 0);

    let [first, second] = ["first", "second"].map(|name| db.keyspace(name).unwrap());
    for i in 0..100 {
        db.put([i], "kept").unwrap();
        first.put([i], [0; 1000]).unwrap();
        second.put([i], "kept too").unwrap();
    }
    let entries = || -> u64 { db.stats().levels.iter().map(|level| level.entries).sum() };
    let before = first.snapshot();
    db.drop_keyspace("first").unwrap();
    db.wait_idle().unwrap();
    assert_eq!((before.count(..).unwrap(), entries()), (100, 300));
    drop(before);
    db.wait_idle().unwrap();
    assert_eq!(entries(), 200, "{:?}", db.stats());
    assert_eq!(
        (db.count(..).unwrap(), second.count(..).unwrap()),
        (100, 100)
    );
}

#[test]
fn ranges_may_be_inverted_open_or_anything_else() {
    let db = memory();
    for key in ["a", "b", "c"] {
        db.put(key, key).unwrap();
    }
    let keys = |iter: terrace::Iter| -> Vec<Bytes> { iter.keys().map(Result::unwrap).collect() };
    for round in 0..2 {
        assert_eq!(keys(db.range("c".."a")).len(), 0);
        assert_eq!(keys(db.range("c"..="a")).len(), 0);
        assert_eq!(keys(db.range("b".."b")).len(), 0);
        assert_eq!(keys(db.range("b"..="b")), ["b"]);
        assert_eq!(keys(db.range("b"..)), ["b", "c"]);
        assert_eq!(keys(db.range(..="b")), ["a", "b"]);
        assert_eq!(keys(db.range(..)), ["a", "b", "c"]);
        let open = (Bound::Excluded("b"), Bound::Excluded("b"));
        assert_eq!(keys(db.range(open)).len(), 0);
        let open = (Bound::Excluded("a"), Bound::Excluded("c"));
        assert_eq!(keys(db.range(open)), ["b"]);
        let mixed = (
            Bound::Excluded(Bytes::from("a")),
            Bound::Included(b"c".to_vec()),
        );
        assert_eq!(keys(db.range(&mixed)), ["b", "c"]);
        for mut inverted in [db.range("c".."a"), db.range("z".."")] {
            assert!(inverted.next_back().is_none() && inverted.next().is_none());
        }
        assert_eq!(db.count("c".."a").unwrap(), 0);
        db.compact("c".."a").unwrap();
        db.compact(open).unwrap();
        assert_eq!(db.snapshot().range("c".."a").rev().count(), 0);
        if round == 0 {
            db.compact_all().unwrap();
        }
    }
}

#[test]
fn options_out_of_range_are_refused_and_extreme_ones_work() {
    let open = |options: Options| options.vfs(MemVfs::new(1)).open("/db");
    for bytes in [0, 1, (4 << 20) - 1] {
        assert_eq!(kind(open(Options::new().memory(bytes))), ErrorKind::Invalid);
    }
    let zero = Durability::Interval(Duration::ZERO);
    assert_eq!(
        kind(open(Options::new().durability(zero))),
        ErrorKind::Invalid
    );
    for bytes in [4 << 20, 1 << 40, u64::MAX] {
        let db = open(Options::new().memory(bytes)).unwrap();
        db.put("k", "v").unwrap();
        db.compact_all().unwrap();
        assert_eq!(db.get("k").unwrap().unwrap(), "v");
    }
    for interval in [Duration::MAX, Duration::from_nanos(1)] {
        let interval = Durability::Interval(interval);
        let db = open(Options::new().durability(interval)).unwrap();
        db.put("k", "v").unwrap();
        db.put("k", "w").unwrap();
        let mut batch = Batch::new();
        batch
            .put("k", "x")
            .durability(Durability::Interval(Duration::MAX));
        db.write(batch).unwrap();
        assert_eq!(db.get("k").unwrap().unwrap(), "x");
        db.close().unwrap();
    }
    // No shorter interval than zero: it is as good as `Sync`, or refused, and never a hang.
    let db = memory();
    let mut batch = Batch::new();
    batch.put("k", "x").durability(zero);
    match db.write(batch) {
        Ok(_) => assert!(db.contains_key("k").unwrap()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid),
    }
}

#[test]
fn a_path_that_is_no_database_is_an_error_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let missing = home.path().join("missing");
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();

    assert_eq!(kind(Db::open(&file)), ErrorKind::Invalid);
    assert!(Db::open(file.join("below")).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"not a directory");
    for options in [Options::new().create(false), Options::new().read_only(true)] {
        assert_eq!(kind(options.open(&missing)), ErrorKind::NotFound);
        assert_eq!(kind(options.open(&empty)), ErrorKind::NotFound);
        assert_eq!(kind(options.open(&file)), ErrorKind::Invalid);
        let both = options.clone().create(true).read_only(true);
        assert_eq!(kind(both.open(&missing)), ErrorKind::NotFound);
    }
    assert!(!missing.exists());
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
    assert!(Db::open(home.path().join("a\0b")).is_err());
    assert!(Options::new().create(false).open("").is_err());

    let nested = home.path().join("x/y/z");
    Db::open(&nested).unwrap().put("k", "v").unwrap();
    let db = Options::new().create(false).open(&nested).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
}

#[test]
fn errors_are_small_cloneable_and_say_where() {
    fn all<T: Clone + Send + Sync + std::error::Error + 'static>() {}
    all::<Error>();
    assert_eq!(size_of::<Error>(), size_of::<usize>());
    let error = Options::new()
        .create(false)
        .open("/no/such/place")
        .unwrap_err();
    assert_eq!(error.clone().to_string(), error.to_string());
    assert!(error.to_string().contains("/no/such/place"), "{error}");
    let io: std::io::Error = error.into();
    assert_eq!(io.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn handles_can_go_wherever_their_user_goes() {
    fn send<T: Send + 'static>() {}
    fn share<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    share::<Db>();
    share::<Keyspace>();
    share::<terrace::Snapshot>();
    share::<Batch>();
    share::<Options>();
    send::<terrace::Iter>();
    send::<terrace::Keys>();
    send::<terrace::Cursor>();
    send::<terrace::Ticket>();
}
