//! Merge operators: operands are part of the value wherever they lie, and whatever lies between and below them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use terrace::clock::ManualClock;
use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Batch, Bytes, Db, ErrorKind, Expiry, Keyspace, KeyspaceOptions, Options};

const START: Duration = Duration::from_secs(1_790_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn append(_: &[u8], older: &[u8], newer: &[u8]) -> Vec<u8> {
    [older, newer].concat()
}

fn with_append() -> Options {
    Options::new()
        .merge_operator("append", append)
        .tune(|tuning| tuning.manual = true)
}

fn appending() -> KeyspaceOptions {
    KeyspaceOptions::new().merge_operator("append")
}

fn opened() -> (Db, Keyspace) {
    let db = with_append().open_in_memory().unwrap();
    let lists = db.create_keyspace("lists", appending()).unwrap();
    (db, lists)
}

/// The value of `key`, asked in every way.
fn value(keyspace: &Keyspace, key: &str) -> Option<String> {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let got = keyspace.get(key).unwrap().map(text);
    let entry = |entry: terrace::Result<(Bytes, Bytes)>| text(entry.unwrap().1);
    let mut others = vec![
        keyspace
            .get_entry(key)
            .unwrap()
            .map(|entry| text(entry.value)),
        keyspace
            .get_with(key, |value| text(value.to_vec().into()))
            .unwrap(),
        keyspace.multi_get([key]).unwrap().remove(0).map(text),
        keyspace.range(key..=key).next().map(entry),
        keyspace.range(key..=key).next_back().map(entry),
        keyspace
            .iter()
            .map(Result::unwrap)
            .find(|(k, _)| k == key)
            .map(|(_, v)| text(v)),
        keyspace
            .iter()
            .rev()
            .map(Result::unwrap)
            .find(|(k, _)| k == key)
            .map(|(_, v)| text(v)),
        keyspace.snapshot().get(key).unwrap().map(text),
    ];
    let mut cursor = keyspace.cursor();
    let on = cursor.seek(key).unwrap() && cursor.key() == key.as_bytes();
    others.push(on.then(|| text(cursor.value().unwrap().to_vec().into())));
    let on = cursor.seek_for_prev(key).unwrap() && cursor.key() == key.as_bytes();
    others.push(on.then(|| text(cursor.value().unwrap().to_vec().into())));
    assert_eq!(
        others,
        vec![got.clone(); others.len()],
        "ways to read {key} differ"
    );
    assert_eq!(keyspace.contains_key(key).unwrap(), got.is_some());
    got
}

type Stage = fn(&Db);
const STAGES: [(&str, Stage); 4] = [
    ("in the list", |_| ()),
    ("flushed", |db| db.flush().unwrap()),
    ("idle", |db| db.wait_idle().unwrap()),
    ("compacted", |db| db.compact_all().unwrap()),
];

#[test]
fn operands_count_wherever_they_and_their_base_lie() {
    for (below, first) in STAGES {
        for (above, second) in STAGES {
            let (db, lists) = opened();
            let at = format!("base {below}, operands {above}");
            lists.put("put", "a").unwrap();
            lists.put("deleted", "a").unwrap();
            lists.delete("deleted").unwrap();
            lists.put("range", "a").unwrap();
            lists.delete_range("range"..="range").unwrap();
            lists.merge("range after", "a").unwrap();
            lists.merge("merged", "a").unwrap();
            first(&db);
            for key in [
                "put",
                "deleted",
                "range",
                "merged",
                "nothing",
                "range after",
                "again",
            ] {
                lists.merge(key, "b").unwrap();
            }
            second(&db);
            lists.delete_range("range after"..="range after").unwrap();
            lists.delete("again").unwrap();
            for key in [
                "put",
                "deleted",
                "range",
                "merged",
                "nothing",
                "range after",
                "again",
            ] {
                lists.merge(key, "c").unwrap();
            }
            for (_, last) in STAGES {
                for (key, wanted) in [
                    ("put", "abc"),
                    ("deleted", "bc"),
                    ("range", "bc"),
                    ("merged", "abc"),
                    ("nothing", "bc"),
                    ("range after", "c"),
                    ("again", "c"),
                ] {
                    assert_eq!(value(&lists, key).as_deref(), Some(wanted), "{key}, {at}");
                }
                assert_eq!(lists.count(..).unwrap(), 7, "{at}");
                last(&db);
            }
            let stats = db.stats();
            let entries: u64 = stats.levels.iter().map(|level| level.entries).sum();
            assert_eq!((entries, stats.range_deletes), (7, 0), "{at}: {stats:?}");
        }
    }
}

#[test]
fn both_directions_walk_over_operands() {
    let (db, lists) = opened();
    let mut wanted = Vec::new();
    for n in 0..40u32 {
        let key = format!("k{n:02}");
        let mut text = String::new();
        for part in 0..=n % 4 {
            if part == 0 && n % 3 == 0 {
                lists.put(&key, "-").unwrap();
                text.push('-');
            } else {
                lists.merge(&key, part.to_string()).unwrap();
                text.push_str(&part.to_string());
            }
            if n % 7 == part {
                db.flush().unwrap();
            }
        }
        wanted.push((Bytes::from(key), Bytes::from(text)));
    }
    let all = |lists: &Keyspace| lists.iter().collect::<terrace::Result<Vec<_>>>().unwrap();
    assert_eq!(all(&lists), wanted);
    let mut back: Vec<_> = lists.iter().rev().map(Result::unwrap).collect();
    back.reverse();
    assert_eq!(back, wanted);
    // From every entry one step either way, however it was reached.
    let mut cursor = lists.cursor();
    for (n, (key, text)) in wanted.iter().enumerate() {
        for turn in 0..4 {
            let on = match turn % 2 {
                0 => cursor.seek(key).unwrap(),
                _ => cursor.seek_for_prev(key).unwrap(),
            };
            assert!(on && cursor.key() == key && cursor.value().unwrap() == text);
            let next = match turn / 2 {
                0 => cursor.next().unwrap().then(|| n + 1),
                _ => cursor.prev().unwrap().then(|| n - 1),
            };
            let Some((key, text)) = next.map(|n| &wanted[n]) else {
                continue;
            };
            assert!(cursor.key() == key && cursor.value().unwrap() == text);
            let back = match turn / 2 {
                0 => cursor.prev().unwrap(),
                _ => cursor.next().unwrap(),
            };
            assert!(back && cursor.key() == wanted[n].0 && cursor.value().unwrap() == wanted[n].1);
        }
    }
    db.compact_all().unwrap();
    assert_eq!(all(&lists), wanted);
}

#[test]
fn a_snapshot_sees_the_operands_of_its_time() {
    for (name, stage) in STAGES {
        let (db, lists) = opened();
        lists.put("k", "0").unwrap();
        let mut snapshots = vec![lists.snapshot()];
        for part in 1..6 {
            lists.merge("k", part.to_string()).unwrap();
            lists.merge("k", "x").unwrap();
            snapshots.push(lists.snapshot());
        }
        stage(&db);
        stage(&db);
        let all = "01x2x3x4x5x";
        for (n, snapshot) in snapshots.iter().enumerate() {
            let wanted = &all[..1 + 2 * n];
            assert_eq!(snapshot.get("k").unwrap().unwrap(), wanted, "{name}");
            assert_eq!(snapshot.first().unwrap().unwrap().1, wanted, "{name}");
            assert_eq!(snapshot.last().unwrap().unwrap().1, wanted, "{name}");
        }
        drop(snapshots);
        db.compact_all().unwrap();
        assert_eq!(value(&lists, "k").unwrap(), all);
    }
}

/// What is merged into a value that expires goes with it, and that whenever entries were combined.
/// Then it begins anew.
#[test]
fn what_is_merged_into_a_value_that_expires_goes_with_it() {
    for (name, stage) in STAGES {
        let clock = Arc::new(ManualClock::new(START));
        let db = with_append().clock(clock.clone()).open_in_memory().unwrap();
        let lists = db.create_keyspace("lists", appending()).unwrap();
        lists.put("k", "older").unwrap();
        let end = UNIX_EPOCH + START + SECOND;
        lists.put_expiring("k", "a", Expiry::At(end)).unwrap();
        lists.merge("k", "b").unwrap();
        stage(&db);
        let before = lists.snapshot();
        assert_eq!(value(&lists, "k").unwrap(), "ab", "{name}");
        let entry = lists.get_entry("k").unwrap().unwrap();
        assert_eq!(entry.expires_at, Some(end), "{name}");
        clock.advance(SECOND);
        assert_eq!(lists.get("k").unwrap(), None, "{name}");
        lists.merge("k", "c").unwrap();
        stage(&db);
        assert_eq!(value(&lists, "k").unwrap(), "c", "{name}");
        assert_eq!(lists.get_entry("k").unwrap().unwrap().expires_at, None);
        assert_eq!(before.get("k").unwrap().unwrap(), "ab", "{name}");
        drop(before);
        db.compact_all().unwrap();
        assert_eq!(value(&lists, "k").unwrap(), "c", "{name}");
    }
}

#[test]
fn operands_survive_reopening_and_kills() {
    let vfs = MemVfs::new(3);
    let open = |vfs: &Arc<MemVfs>| {
        with_append()
            .vfs(vfs.clone() as Arc<dyn Vfs>)
            .open("/db")
            .unwrap()
    };
    let db = open(&vfs);
    let lists = db.create_keyspace("lists", appending()).unwrap();
    let mut wanted = String::new();
    for round in 0..12 {
        lists.merge("k", round.to_string()).unwrap();
        wanted.push_str(&round.to_string());
        if round % 5 == 3 {
            db.flush().unwrap();
        }
        let killed = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, round);
        let after = open(&killed);
        let found = after.keyspace("lists").unwrap();
        assert_eq!(found.options(), appending());
        assert_eq!(value(&found, "k").unwrap(), wanted);
        found.merge("k", "!").unwrap();
        after.close().unwrap();
        let after = open(&killed);
        let found = after.keyspace("lists").unwrap();
        assert_eq!(value(&found, "k").unwrap(), format!("{wanted}!"));
    }
    db.close().unwrap();
    let db = open(&vfs);
    assert_eq!(value(&db.keyspace("lists").unwrap(), "k").unwrap(), wanted);
}

#[test]
fn without_the_operator_nothing_opens_and_nothing_changes() {
    let vfs = MemVfs::new(4);
    let on = |options: Options| options.vfs(vfs.clone() as Arc<dyn Vfs>);
    for flushed in [false, true] {
        let db = on(with_append()).open("/db").unwrap();
        let lists = db.keyspace("lists").unwrap();
        lists.set_options(appending()).unwrap();
        lists.merge("k", "a").unwrap();
        if flushed {
            db.flush().unwrap();
        }
        let error = db
            .create_keyspace("other", KeyspaceOptions::new().merge_operator("no"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let taken = lists.set_options(KeyspaceOptions::new()).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::Invalid);
        let killed = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1);
        db.close().unwrap();
        for vfs in [&vfs, &killed] {
            let plain = Options::new().vfs(vfs.clone() as Arc<dyn Vfs>);
            let names = vfs.read_dir("/db".as_ref()).unwrap();
            for options in [plain.clone(), plain.read_only(true)] {
                let error = options.open("/db").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains("`append`"), "{error}");
            }
            assert_eq!(vfs.read_dir("/db".as_ref()).unwrap(), names);
        }
    }
    // A keyspace that is gone needs none.
    let db = on(with_append()).open("/db").unwrap();
    db.drop_keyspace("lists").unwrap();
    db.close().unwrap();
    let db = on(Options::new()).open("/db").unwrap();
    assert_eq!(db.keyspaces().unwrap(), ["default"]);
    assert_eq!(db.merge("k", "v").unwrap_err().kind(), ErrorKind::Invalid);
    let mut batch = Batch::new();
    batch.put("k", "v").merge("k", "w");
    assert_eq!(db.write(batch).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(db.is_empty().unwrap());
}

#[test]
fn a_panic_of_the_operator_changes_nothing() {
    let sick = Arc::new(AtomicBool::new(true));
    let is_sick = sick.clone();
    let picky = move |key: &[u8], older: &[u8], newer: &[u8]| {
        assert!(
            key != b"bad" || !is_sick.load(Ordering::Relaxed),
            "on purpose"
        );
        append(key, older, newer)
    };
    let options = Options::new()
        .merge_operator("append", picky)
        .tune(|tuning| tuning.manual = true);
    let db = options.open_in_memory().unwrap();
    db.set_options(appending()).unwrap();
    db.put("bad", "a").unwrap();
    for part in ["b", "c"] {
        db.merge("bad", part).unwrap();
        db.merge("good", part).unwrap();
        db.flush().unwrap();
    }
    db.health().unwrap_err();
    db.compact_all().unwrap();
    assert_eq!(db.get("good").unwrap().unwrap(), "bc");
    assert_eq!(db.get("bad").unwrap_err().kind(), ErrorKind::Other);
    assert_eq!(
        db.iter().next().unwrap().unwrap_err().kind(),
        ErrorKind::Other
    );
    assert_eq!(db.health().unwrap_err().kind(), ErrorKind::Other);
    db.put("still", "writes").unwrap();
    sick.store(false, Ordering::Relaxed);
    assert_eq!(value(&db, "bad").unwrap(), "abc");
    db.compact_all().unwrap();
    assert_eq!(value(&db, "bad").unwrap(), "abc");
}

/// The operator may use the database: it runs under no lock.
#[test]
fn an_operator_may_read() {
    let inside: Arc<std::sync::Mutex<Option<Db>>> = Arc::default();
    let (seen, calls) = (inside.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = calls.clone();
    let curious = move |key: &[u8], older: &[u8], newer: &[u8]| {
        let db = seen.lock().unwrap().clone();
        if let Some(db) = db {
            counted.fetch_add(1, Ordering::Relaxed);
            assert!(
                db.contains_key("other").unwrap() && db.snapshot().get("other").unwrap().is_some()
            );
            assert!(db.stats().writes > 0 && db.health().is_ok());
        }
        append(key, older, newer)
    };
    let options = Options::new()
        .merge_operator("append", curious)
        .tune(|tuning| tuning.manual = true);
    let db = options.open_in_memory().unwrap();
    db.set_options(appending()).unwrap();
    db.put("other", "x").unwrap();
    *inside.lock().unwrap() = Some(db.clone());
    for part in 0..4 {
        db.merge("k", part.to_string()).unwrap();
        db.merge("k", "-").unwrap();
        assert!(db.get("k").unwrap().is_some());
        db.flush().unwrap();
    }
    db.compact_all().unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "0-1-2-3-");
    assert!(calls.load(Ordering::Relaxed) > 4);
    inside.lock().unwrap().take();
}

/// Many operands of one key do not pile up, and reads stay cheap: pieces of the memtable are
/// combined as they are sealed.
#[test]
fn a_hot_key_stays_short() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let add = move |_: &[u8], older: &[u8], newer: &[u8]| {
        counted.fetch_add(1, Ordering::Relaxed);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        (number(older) + number(newer)).to_le_bytes().to_vec()
    };
    let options = Options::new()
        .durability(terrace::Durability::Buffered)
        .merge_operator("add", add);
    let db = options.open_in_memory().unwrap();
    db.set_options(KeyspaceOptions::new().merge_operator("add"))
        .unwrap();
    const N: u64 = 40_000;
    for _ in 0..N {
        db.merge("n", 1u64.to_le_bytes()).unwrap();
    }
    let start = std::time::Instant::now();
    while db.stats().memtable_entries > 5000 {
        assert!(start.elapsed() < SECOND * 60, "{:?}", db.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(db.get("n").unwrap().unwrap(), N.to_le_bytes()[..]);
    db.compact_all().unwrap();
    calls.store(0, Ordering::Relaxed);
    assert_eq!(db.get("n").unwrap().unwrap(), N.to_le_bytes()[..]);
    assert_eq!(calls.load(Ordering::Relaxed), 0, "the value is made once");
}
