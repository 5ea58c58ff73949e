//! Which expiry a write has: one rule for whatever writes, on whatever is there

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use terrace::clock::ManualClock;
use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Batch, Db, Expiry, KeyspaceOptions};

use crate::expiry::{SECOND, START, is_there, manual};

const LATER: Duration = Duration::from_secs(50);
const DEFAULT: Duration = Duration::from_secs(100);

/// A database that merges by appending, whose default keyspace has this default expiry.
fn with_default(default: Option<Duration>) -> (Arc<ManualClock>, Db) {
    let clock = Arc::new(ManualClock::new(START));
    let append = |_: &[u8], older: &[u8], newer: &[u8]| [older, newer].concat();
    let options = manual(&clock).merge_operator("append", append);
    let db = options.open_in_memory().unwrap();
    let options = KeyspaceOptions::new().merge_operator("append");
    db.set_options(options.expiry(default)).unwrap();
    (clock, db)
}

/// What a write does to a key, and whether it keeps the expiry that the key's entry has.
type Kind = (&'static str, bool, fn(&Db));

fn batch(fill: impl FnOnce(&mut Batch) -> &mut Batch) -> Batch {
    let mut batch = Batch::new();
    fill(&mut batch);
    batch
}

const NEW: [u8; 8] = *b"newvalue";

const KINDS: [Kind; 15] = [
    ("put", false, |db| {
        db.put("k", NEW).unwrap();
    }),
    ("a put of a batch", false, |db| {
        db.write(batch(|batch| batch.put("k", NEW))).unwrap();
    }),
    ("a put of a transaction", false, |db| {
        let tx = db.transaction();
        tx.put("k", NEW).unwrap();
        let seen = tx.get_entry("k").unwrap().unwrap().expires_at;
        tx.commit().unwrap();
        assert_eq!(db.get_entry("k").unwrap().unwrap().expires_at, seen);
    }),
    ("ingest", false, |db| {
        db.ingest([("k", NEW)]).unwrap();
    }),
    ("ingest_unsorted", false, |db| {
        db.ingest_unsorted([("k", NEW)], 0, |_| ()).unwrap();
    }),
    ("put_if_absent", true, |db| {
        drop(db.put_if_absent("k", NEW).unwrap());
    }),
    ("compare_and_swap", true, |db| {
        let now = db.get("k").unwrap();
        let swap = db.compare_and_swap("k", now.as_deref(), Some(&NEW));
        assert!(swap.unwrap().is_done());
    }),
    ("update", true, |db| {
        db.update("k", |_| Some(NEW.to_vec())).unwrap();
    }),
    ("add_i64", true, |db| {
        db.add_i64("k", 1).unwrap();
    }),
    ("append", true, |db| {
        db.append("k", NEW).unwrap();
    }),
    ("merge", true, |db| {
        db.merge("k", NEW).unwrap();
    }),
    ("add_i64 of a batch", true, |db| {
        let batch = batch(|batch| batch.add_i64("k", 1).add_i64("k", 2));
        db.write(batch).unwrap();
    }),
    ("append of a batch", true, |db| {
        let batch = batch(|batch| batch.append("k", NEW).put("other", NEW));
        db.submit(batch).unwrap().wait().unwrap();
    }),
    ("merge of a batch", true, |db| {
        let batch = batch(|batch| batch.merge("k", NEW).merge("k", NEW));
        db.write(batch).unwrap();
    }),
    ("merge of a batch with another change", true, |db| {
        let batch = batch(|batch| batch.merge("k", NEW).append("k", NEW).add_i64("n", 1));
        db.submit(batch).unwrap().wait().unwrap();
    }),
];

/// A write without an expiry of its own gets the keyspace's default; a read-modify-write keeps the
/// expiry that the entry has. Wherever the entries lie, and whether or not a merge has been over
/// them.
#[test]
fn one_rule_says_when_what_is_written_expires() {
    let settle: [fn(&Db); 3] = [
        |_| (),
        |db| db.flush().unwrap(),
        |db| db.compact_all().unwrap(),
    ];
    let before = [
        None,
        Some(Expiry::Never),
        Some(Expiry::In(LATER)),
        Some(Expiry::In(SECOND)),
    ];
    for (name, keeps, write) in KINDS {
        for default in [None, Some(DEFAULT)] {
            for (before, settle) in before
                .iter()
                .flat_map(|b| settle.map(|settle| (*b, settle)))
            {
                let (clock, db) = with_default(default);
                if let Some(expiry) = before {
                    db.put_expiring("k", 7i64.to_le_bytes(), expiry).unwrap();
                    settle(&db);
                }
                clock.advance(SECOND); // The shortest has expired.
                write(&db);
                let fresh = default.map(|after| UNIX_EPOCH + START + SECOND + after);
                let due = match before {
                    Some(Expiry::Never) if keeps => None,
                    Some(Expiry::In(LATER)) if keeps => Some(UNIX_EPOCH + START + LATER),
                    _ => fresh,
                };
                for _ in 0..2 {
                    let found = db.get_entry("k").unwrap().unwrap();
                    assert_eq!(found.expires_at, due, "{name} on {before:?}, {default:?}");
                    settle(&db);
                }
                clock.advance(DEFAULT);
                assert_eq!(is_there(&db, "k"), due.is_none(), "{name} on {before:?}");
            }
        }
    }
}

/// A counter of what happened within a second, however it counts.
#[test]
fn a_rate_limit_begins_anew_when_its_time_is_over() {
    let count: [fn(&Db) -> usize; 4] = [
        |db| db.add_i64("k", 1).unwrap() as usize,
        |db| {
            db.merge("k", "x").unwrap();
            db.get("k").unwrap().unwrap().len()
        },
        |db| {
            db.append("k", "x").unwrap();
            db.get("k").unwrap().unwrap().len()
        },
        |db| {
            let longer = |old: Option<&[u8]>| Some(vec![b'x'; old.unwrap_or(&[]).len() + 1]);
            db.update("k", longer).unwrap().unwrap().len()
        },
    ];
    for count in count {
        let (clock, db) = with_default(Some(SECOND));
        for round in 0..3 {
            for n in 1..=5 {
                assert_eq!(count(&db), n, "round {round}");
                clock.advance(SECOND / 5);
                if n == 3 {
                    db.wait_idle().unwrap();
                }
            }
            assert!(!is_there(&db, "k"));
        }
    }
}

/// A batch that sets a key itself, and then changes it: the expiry is the one that it set.
#[test]
fn a_batch_keeps_the_expiry_that_it_sets_itself() {
    let (_, db) = with_default(Some(DEFAULT));
    let later = Expiry::In(LATER);
    let batch = batch(|batch| {
        batch
            .put("default", 5i64.to_le_bytes())
            .add_i64("default", 2);
        batch
            .put_expiring("later", "a", later)
            .append("later", "b")
            .merge("later", "c");
        batch
            .put_expiring("never", "a", Expiry::Never)
            .merge("never", "b");
        batch
            .put_expiring("past", "a", Expiry::At(UNIX_EPOCH))
            .append("past", "b");
        batch
            .put_expiring("deleted", "a", Expiry::Never)
            .delete("deleted")
            .merge("deleted", "b")
    });
    assert_eq!(batch.len(), 12);
    db.write(batch).unwrap();
    let found = |key: &str| {
        let entry = db.get_entry(key).unwrap().unwrap();
        (entry.value, entry.expires_at)
    };
    let after = |time: Duration| Some(UNIX_EPOCH + START + time);
    assert_eq!(
        found("default"),
        (7i64.to_le_bytes().to_vec().into(), after(DEFAULT))
    );
    assert_eq!(found("later"), ("abc".into(), after(LATER)));
    assert_eq!(found("never"), ("ab".into(), None));
    assert_eq!(found("past"), ("b".into(), after(DEFAULT)));
    assert_eq!(found("deleted"), ("b".into(), after(DEFAULT)));
}

/// What may expire is known again after each kind of end.
#[test]
fn merges_keep_the_expiry_of_values_from_before_the_open() {
    let vfs = MemVfs::crashable(7);
    let clock = Arc::new(ManualClock::new(START));
    let append = |_: &[u8], older: &[u8], newer: &[u8]| [older, newer].concat();
    let open = |vfs: &Arc<MemVfs>| {
        let vfs: Arc<dyn Vfs> = vfs.clone();
        let options = manual(&clock).vfs(vfs).merge_operator("append", append);
        options.open("/db").unwrap()
    };
    let db = open(&vfs);
    db.set_options(KeyspaceOptions::new().merge_operator("append"))
        .unwrap();
    db.put_expiring("table", "1", Expiry::In(LATER)).unwrap();
    db.flush().unwrap();
    db.put_expiring("log", "1", Expiry::In(LATER)).unwrap();
    db.sync().unwrap();
    let check = |db: &Db| {
        for key in ["table", "log"] {
            db.merge(key, "2").unwrap();
            let entry = db.get_entry(key).unwrap().unwrap();
            assert_eq!(entry.value, "12");
            assert_eq!(entry.expires_at, Some(UNIX_EPOCH + START + LATER), "{key}");
        }
    };
    check(&open(&vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1)));
    db.close().unwrap();
    check(&open(&vfs));
}
