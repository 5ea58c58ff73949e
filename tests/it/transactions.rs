//! Transactions: what they read, what they see of others, and what becomes of them.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use terrace::vfs::{MemVfs, Vfs};
use terrace::{
    Batch, Bytes, Db, Error, ErrorKind, Expiry, Isolation, Iter, Keyspace, Readable, Transaction,
};
use terrace_kit::{Mode, Random, Scenario};

fn open(seed: u64, mode: Mode) -> Db {
    let vfs: Arc<dyn Vfs> = MemVfs::new(seed);
    Scenario::on(vfs, mode).open(seed).unwrap()
}

/// Iterators that outlive what they were made for. Forgetting them would be a leak like any other.
static KEPT: Mutex<Vec<Iter>> = Mutex::new(Vec::new());

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(r: &mut Random) -> Vec<u8> {
    vec![b'a' + r.below(6) as u8; 1 + r.below(3)]
}

/// Everything that can be read of a keyspace says what `map` says.
fn compare(tx: &impl Readable, map: &Map, r: &mut Random) {
    let pair = |(k, v): (&Vec<u8>, &Vec<u8>)| (Bytes::from(k.clone()), Bytes::from(v.clone()));
    let expected: Vec<_> = map.iter().map(pair).collect();
    let all: Vec<_> = tx.iter().map(Result::unwrap).collect();
    assert_eq!(all, expected);
    let mut back: Vec<_> = tx.iter().rev().map(Result::unwrap).collect();
    back.reverse();
    assert_eq!(back, expected);
    // From both ends at once.
    let (mut iter, mut front, mut rear) = (tx.iter(), Vec::new(), Vec::new());
    loop {
        let next = match r.one_in(2) {
            true => iter.next().map(|entry| front.push(entry.unwrap())),
            false => iter.next_back().map(|entry| rear.push(entry.unwrap())),
        };
        if next.is_none() {
            break;
        }
    }
    rear.reverse();
    front.extend(rear);
    assert_eq!(front, expected);
    // A cursor that turns as it likes.
    let mut cursor = tx.cursor();
    let mut at: Option<usize> = None;
    for _ in 0..20 {
        let probe = key(r);
        let place = |found: Option<usize>| found.filter(|i| *i < expected.len());
        at = match r.below(6) {
            0 => {
                cursor.seek(&probe).unwrap();
                place(Some(expected.partition_point(|(k, _)| *k < probe[..])))
            }
            1 => {
                cursor.seek_for_prev(&probe).unwrap();
                place(
                    expected
                        .partition_point(|(k, _)| *k <= probe[..])
                        .checked_sub(1),
                )
            }
            2 => {
                cursor.first().unwrap();
                place(Some(0))
            }
            3 => {
                cursor.last().unwrap();
                expected.len().checked_sub(1)
            }
            4 => {
                cursor.next().unwrap();
                at.and_then(|at| place(Some(at + 1)))
            }
            _ => {
                cursor.prev().unwrap();
                at.and_then(|at| at.checked_sub(1))
            }
        };
        assert_eq!(cursor.valid(), at.is_some());
        if let Some(at) = at {
            assert_eq!(cursor.key(), expected[at].0);
            assert_eq!(cursor.value().unwrap(), expected[at].1);
        }
    }
    let probe = key(r);
    let expected = map.get(&probe).cloned().map(Bytes::from);
    assert_eq!(tx.get(&probe).unwrap(), expected);
    assert_eq!(
        tx.get_with(&probe, <[u8]>::to_vec)
            .unwrap()
            .map(Bytes::from),
        expected
    );
    assert_eq!(tx.multi_get([&probe]).unwrap()[0], expected);
    assert_eq!(tx.contains_key(&probe).unwrap(), expected.is_some());
    assert_eq!(
        tx.get_entry(&probe).unwrap().map(|entry| entry.value),
        expected
    );
    assert_eq!(tx.is_empty().unwrap(), map.is_empty());
    assert_eq!(
        tx.count(&probe[..]..).unwrap(),
        map.range(probe.clone()..).count() as u64
    );
    let prefix = tx.prefix(&probe[..1]).count();
    assert_eq!(
        prefix,
        map.keys().filter(|k| k.starts_with(&probe[..1])).count()
    );
    let ends = |pair: Option<(&Vec<u8>, _)>| pair.map(|(k, _)| k.clone());
    assert_eq!(
        tx.first().unwrap().map(|(k, _)| k.to_vec()),
        ends(map.first_key_value())
    );
    assert_eq!(
        tx.last().unwrap().map(|(k, _)| k.to_vec()),
        ends(map.last_key_value())
    );
}

fn change(r: &mut Random, map: &mut Map, put: impl Fn(&[u8], Option<&[u8]>)) {
    let key = key(r);
    match r.one_in(3) {
        true => {
            put(&key, None);
            map.remove(&key);
        }
        false => {
            let value = vec![b'0' + r.below(10) as u8; 1 + r.below(20)];
            put(&key, Some(&value));
            map.insert(key, value);
        }
    }
}

fn delete_range(r: &mut Random, map: &mut Map, delete: impl Fn((Bound<&[u8]>, Bound<&[u8]>))) {
    let (mut lower, mut upper) = (key(r), key(r));
    if lower > upper && !r.one_in(4) {
        std::mem::swap(&mut lower, &mut upper);
    }
    let bound = |r: &mut Random, key| match r.below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(key),
        _ => Bound::Excluded(key),
    };
    let range = (bound(r, lower), bound(r, upper));
    delete((
        range.0.as_ref().map(Vec::as_slice),
        range.1.as_ref().map(Vec::as_slice),
    ));
    map.retain(|key, _| !range.contains(key));
}

fn write_db(keyspace: &Keyspace) -> impl Fn(&[u8], Option<&[u8]>) {
    |key, value| match value {
        Some(value) => ignore(keyspace.put(key, value).unwrap()),
        None => ignore(keyspace.delete(key).unwrap()),
    }
}

/// One transaction after another, against a model of two keyspaces, with savepoints, while others
/// write elsewhere, and over lists, tables and both.
#[test]
fn a_transaction_reads_its_moment_and_its_own_writes() {
    for seed in 0..40 {
        println!("seed {seed}");
        let db = open(seed, Mode::Manual);
        let users = db.keyspace("users").unwrap();
        let noise = db.keyspace("noise").unwrap();
        let r = &mut Random::new(seed);
        let mut maps = [Map::new(), Map::new()];
        for _ in 0..30 {
            for _ in 0..r.below(8) {
                change(r, &mut maps[0], write_db(&db));
                change(r, &mut maps[1], write_db(&users));
            }
            match r.below(6) {
                0 => db.flush().unwrap(),
                1 => db.compact_all().unwrap(),
                _ => {}
            }
            let tx = db.transaction();
            let of_users = tx.keyspace(&users);
            let mut after = maps.clone();
            let mut points = Vec::new();
            for _ in 0..r.below(12) {
                match r.below(11) {
                    0 => points.push((tx.savepoint(), after.clone())),
                    1 if !points.is_empty() => {
                        let at = r.below(points.len());
                        tx.rollback_to(&points[at].0).unwrap();
                        after = points[at].1.clone();
                        for (gone, _) in points.drain(at + 1..) {
                            assert_eq!(
                                tx.rollback_to(&gone).unwrap_err().kind(),
                                ErrorKind::Invalid
                            );
                        }
                    }
                    2 => compare(&tx, &after[0], r),
                    3 => compare(&of_users, &after[1], r),
                    4 => {
                        noise.put(key(r), "x").unwrap();
                        db.flush().unwrap();
                    }
                    5 => delete_range(r, &mut after[0], |range| tx.delete_range(range).unwrap()),
                    6 => delete_range(r, &mut after[1], |range| {
                        of_users.delete_range(range).unwrap();
                    }),
                    7 => change(r, &mut after[0], |key, value| match value {
                        Some(value) => {
                            let hour = Expiry::In(Duration::from_secs(3600));
                            tx.put_expiring(key, value, hour).unwrap();
                            let entry = tx.get_entry(key).unwrap().unwrap();
                            assert!(entry.expires_at.is_some() && entry.value == value);
                        }
                        None => {
                            let past = Expiry::At(SystemTime::UNIX_EPOCH);
                            tx.put_expiring(key, "gone", past).unwrap();
                        }
                    }),
                    8 => change(r, &mut after[1], |key, value| match value {
                        Some(value) => of_users.put(key, value).unwrap(),
                        None => of_users.delete(key).unwrap(),
                    }),
                    _ => change(r, &mut after[0], |key, value| match value {
                        Some(value) => tx.put(key, value).unwrap(),
                        None => tx.delete(key).unwrap(),
                    }),
                }
            }
            compare(&tx, &after[0], r);
            compare(&*db, &maps[0], r);
            match r.below(4) {
                0 => drop(tx),
                1 => tx.rollback(),
                _ => {
                    tx.commit().unwrap();
                    maps = after;
                }
            }
            compare(&*db, &maps[0], r);
            compare(&users, &maps[1], r);
        }
    }
}

/// What a transaction does, what others do meanwhile (`+k` puts, `-k` deletes, `*k` deletes from
/// there on), and the key of the conflict.
type Case = (fn(&Transaction), &'static str, Option<&'static str>);

fn ignore<T>(_: T) {}

const CASES: &[Case] = &[
    (|tx| ignore(tx.get("b").unwrap()), "+b", Some("b")),
    (|tx| ignore(tx.get("b").unwrap()), "-b", Some("b")),
    (|tx| ignore(tx.get("b").unwrap()), "+c", None),
    (|tx| ignore(tx.get("none").unwrap()), "+none", Some("none")),
    (|tx| ignore(tx.contains_key("b").unwrap()), "+b", Some("b")),
    (
        |tx| ignore(tx.multi_get(["a", "d"]).unwrap()),
        "+d",
        Some("d"),
    ),
    (|tx| ignore(tx.get("b").unwrap()), "*b", Some("b")),
    (|tx| ignore(tx.get("none").unwrap()), "*b", Some("none")),
    (|tx| ignore(tx.get("a").unwrap()), "*b", None),
    (|tx| ignore(tx.range("a".."c").count()), "*b", Some("b")),
    (|tx| ignore(tx.range("c"..).count()), "*b", Some("c")),
    (|tx| ignore(tx.range("a".."b").count()), "*b", None),
    // An own write is no read, and blind writes do not conflict.
    (|tx| tx.put("b", "x").unwrap(), "+b", None),
    (
        |tx| {
            tx.put("b", "x").unwrap();
            tx.get("b").unwrap();
        },
        "+b",
        None,
    ),
    // A stretch, as far as it was gone over.
    (|tx| ignore(tx.range("a".."c").count()), "+bb", Some("bb")),
    (|tx| ignore(tx.range("a".."c").count()), "+c", None),
    (|tx| ignore(tx.range("a"..="c").count()), "+c", Some("c")),
    (|tx| ignore(tx.iter().nth(1)), "+ab", Some("ab")),
    (|tx| ignore(tx.iter().nth(1)), "+bb", None),
    (|tx| ignore(tx.iter().next_back()), "+e", Some("e")),
    (|tx| ignore(tx.iter().next_back()), "-c", None),
    (|tx| ignore(tx.iter().rev().nth(1)), "-c", Some("c")),
    (
        |tx| ignore(tx.prefix("b").keys().count()),
        "+bz",
        Some("bz"),
    ),
    (|tx| ignore(tx.prefix("b").count()), "+c", None),
    (|tx| ignore(tx.first().unwrap()), "+A", Some("A")),
    (|tx| ignore(tx.first().unwrap()), "+aa", None),
    (|tx| ignore(tx.last().unwrap()), "-d", Some("d")),
    (|tx| ignore(tx.is_empty().unwrap()), "-a", Some("a")),
    (|tx| ignore(tx.count("b".."c").unwrap()), "+bc", Some("bc")),
    (|tx| ignore(tx.range("x".."c").count()), "+d", None),
    (|tx| ignore(tx.range("x"..).count()), "+y", Some("y")),
    (
        |tx| ignore(tx.cursor().seek("bb").unwrap()),
        "+bc",
        Some("bc"),
    ),
    (|tx| ignore(tx.cursor().seek("bb").unwrap()), "+ba", None),
    (|tx| ignore(tx.cursor().seek("bb").unwrap()), "+cc", None),
    (
        |tx| ignore(tx.cursor().seek_for_prev("bb").unwrap()),
        "+ba",
        Some("ba"),
    ),
    (
        |tx| ignore(tx.cursor().seek_for_prev("bb").unwrap()),
        "+bc",
        None,
    ),
    (
        |tx| {
            let mut cursor = tx.cursor();
            cursor.seek("c").unwrap();
            cursor.prev().unwrap();
        },
        "+bb",
        Some("bb"),
    ),
    (
        |tx| {
            let mut cursor = tx.cursor();
            cursor.seek("b").unwrap();
            cursor.next().unwrap();
            cursor.next().unwrap();
        },
        "+cc",
        Some("cc"),
    ),
    // An iterator that is still alive at the commit counts too.
    (
        |tx| {
            let mut iter = tx.range("b"..);
            iter.next();
            KEPT.lock().unwrap().push(iter);
        },
        "+b",
        Some("b"),
    ),
    // What was read counts, also if what was written on its account was undone.
    (
        |tx| {
            let before = tx.savepoint();
            tx.get("b").unwrap();
            tx.rollback_to(&before).unwrap();
        },
        "+b",
        Some("b"),
    ),
];

#[test]
fn a_conflict_is_what_was_read_and_has_changed() {
    // Where the change lies when the transaction commits.
    let places: [fn(&Db); 4] = [
        |_| {},
        |db| {
            let elsewhere = db.keyspace("elsewhere").unwrap();
            for n in 0..200u8 {
                elsewhere.put([n], "x").unwrap();
            }
        },
        |db| db.flush().unwrap(),
        |db| db.compact_all().unwrap(),
    ];
    for (n, (read, change, key)) in CASES.iter().enumerate() {
        for (p, place) in places.iter().enumerate() {
            let db = open(n as u64, Mode::Manual);
            for key in ["a", "b", "c", "d"] {
                db.put(key, "1").unwrap();
            }
            let tx = db.transaction();
            read(&tx);
            tx.put("written", "1").unwrap();
            match change.split_at(1) {
                ("+", key) => ignore(db.put(key, "2").unwrap()),
                ("*", key) => {
                    let mut batch = Batch::new(); // As a range also where nothing lies in it.
                    batch.delete_range(key..);
                    ignore(db.write(batch).unwrap());
                }
                (_, key) => ignore(db.delete(key).unwrap()),
            }
            place(&db);
            match (tx.commit(), key) {
                (Ok(_), None) => assert!(db.contains_key("written").unwrap()),
                (Err(error), Some(key)) => {
                    assert_eq!(error.kind(), ErrorKind::Conflict);
                    assert_eq!(error.key(), Some(key.as_bytes()), "case {n}, place {p}");
                    assert!(!db.contains_key("written").unwrap());
                }
                (result, key) => panic!("case {n}, place {p}: {result:?}, though {key:?}"),
            }
        }
    }
}

#[test]
fn a_range_that_a_transaction_deletes_is_deleted_when_it_commits() {
    let db = Db::in_memory().unwrap();
    for key in ["a", "b", "c"] {
        db.put(key, "old").unwrap();
    }
    let tx = db.transaction();
    tx.delete_range("b"..).unwrap();
    tx.put("c", "new").unwrap();
    db.put("bb", "of another").unwrap();
    tx.commit().unwrap(); // It read nothing.
    let left: Vec<_> = db.iter().keys().collect::<Result<_, _>>().unwrap();
    assert_eq!(left, ["a", "c"]);
    assert_eq!(db.get("c").unwrap().unwrap(), "new");

    let tx = db.transaction().isolation(Isolation::Snapshot);
    tx.delete_range("b".."d").unwrap();
    db.put("bb", "of another").unwrap();
    let error = tx.commit().unwrap_err();
    assert_eq!(
        (error.kind(), error.key()),
        (ErrorKind::Conflict, Some(&b"bb"[..]))
    );
}

/// A transaction's puts once lasted for ever where their keyspace gives values a time.
#[test]
fn a_put_of_a_transaction_gets_its_keyspaces_expiry() {
    let db = Db::in_memory().unwrap();
    let brief = db.keyspace("brief").unwrap();
    let mut options = brief.options();
    options.expiry = Some(Duration::from_secs(3600));
    brief.set_options(options).unwrap();
    let tx = db.transaction();
    tx.keyspace(&brief).put("a", "1").unwrap();
    tx.keyspace(&brief)
        .put_expiring("b", "1", Expiry::Never)
        .unwrap();
    tx.put("c", "1").unwrap();
    tx.commit().unwrap();
    let expires = |keyspace: &Keyspace, key: &str| {
        let entry = keyspace.get_entry(key).unwrap().unwrap();
        entry.expires_at.is_some()
    };
    assert!(expires(&brief, "a") && !expires(&brief, "b") && !expires(&db, "c"));
}

#[test]
fn under_snapshot_isolation_only_what_is_written_conflicts() {
    let db = open(1, Mode::Manual);
    let begin = || db.transaction().isolation(Isolation::Snapshot);
    let (first, second) = (begin(), begin());
    assert_eq!(
        (first.get("a").unwrap(), second.count(..).unwrap()),
        (None, 0)
    );
    first.put("b", "1").unwrap();
    second.put("a", "1").unwrap();
    first.commit().unwrap();
    second.commit().unwrap(); // Write skew.
    let (first, second) = (begin(), begin());
    first.put("a", "2").unwrap();
    second.delete("a").unwrap();
    second.commit().unwrap();
    assert_eq!(first.commit().unwrap_err().key(), Some(&b"a"[..]));
}

/// Fekete, O'Neil, O'Neil: "A read-only transaction anomaly under snapshot isolation" (2004).
#[test]
fn a_transaction_that_only_reads_sees_a_state_that_was() {
    let db = open(2, Mode::Manual);
    let balance = |tx: &Transaction, key: &str| tx.get(key).unwrap().map_or(0, |v| v[0]);
    let withdraw = db.transaction();
    let total = balance(&withdraw, "savings") + balance(&withdraw, "checking");
    let deposit = db.transaction();
    assert_eq!(balance(&deposit, "savings"), 0);
    deposit.put("savings", [20]).unwrap();
    deposit.commit().unwrap();
    let report = db.transaction();
    assert_eq!(
        (balance(&report, "savings"), balance(&report, "checking")),
        (20, 0)
    );
    assert_eq!(report.commit().unwrap(), db.snapshot().seq());
    assert_eq!(total, 0);
    withdraw.put("checking", [1]).unwrap(); // With a fee, since the total is below zero.
    assert_eq!(withdraw.commit().unwrap_err().key(), Some(&b"savings"[..]));
}

#[test]
fn a_transaction_that_cannot_be_says_why() {
    let db = open(3, Mode::Manual);
    let (gone, foreign) = (db.keyspace("gone").unwrap(), open(4, Mode::Manual));
    gone.put("k", "v").unwrap();
    let tx = db.transaction();
    let kind = |result: terrace::Result<()>| result.unwrap_err().kind();
    let elsewhere = tx.keyspace(&foreign);
    assert_eq!(kind(elsewhere.put("k", "v")), ErrorKind::Invalid);
    assert_eq!(elsewhere.get("k").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(
        kind(tx.put(vec![0; terrace::MAX_KEY_LEN + 1], "")),
        ErrorKind::Invalid
    );
    let of_gone = tx.keyspace(&gone);
    of_gone.put("k", "w").unwrap();
    tx.put("other", "1").unwrap();
    db.drop_keyspace("gone").unwrap();
    assert_eq!(of_gone.get("k").unwrap().unwrap(), "w");
    assert_eq!(tx.commit().unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!db.contains_key("other").unwrap());
    let tx = db.transaction();
    assert_eq!(kind(tx.keyspace(&gone).put("k", "v")), ErrorKind::NotFound);
    let other = db.transaction().savepoint();
    assert_eq!(kind(tx.rollback_to(&other)), ErrorKind::Invalid);
    let given_up: terrace::Result<()> = db.transact(|tx| {
        tx.put("given", "up").unwrap();
        Err(Error::other("no more"))
    });
    assert_eq!(given_up.unwrap_err().kind(), ErrorKind::Other);
    assert!(!db.contains_key("given").unwrap());
    let mut attempts = 0;
    let hopeless = db.transact(|tx| {
        attempts += 1;
        tx.get("k").unwrap();
        tx.put("other", "1").unwrap();
        db.put("k", "changes").map(|_| ())
    });
    assert_eq!(
        (hopeless.unwrap_err().kind(), attempts),
        (ErrorKind::Conflict, 64)
    );
    db.close().unwrap();
    assert_eq!(kind(tx.put("k", "v")), ErrorKind::Closed);
    assert_eq!(tx.commit().unwrap_err().kind(), ErrorKind::Closed);
}

/// Many threads move money about in two keyspaces; the total holds whenever somebody looks.
#[test]
fn a_bank_keeps_its_total() {
    for seed in 0..3 {
        let db = open(seed, Mode::Threads);
        let savings = db.keyspace("savings").unwrap();
        let moved = AtomicU64::new(0);
        let balance = |value: Option<Bytes>| value.map_or(100, |v| v[0] as i64);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (db, savings, moved) = (&db, &savings, &moved);
                scope.spawn(move || {
                    let r = &mut Random::new(seed * 10 + thread);
                    for n in 0..300 {
                        let (from, to) = ([r.below(6) as u8], [r.below(6) as u8]);
                        let amount = r.below(30) as i64;
                        let done = db.transact(|tx| {
                            let of_savings = tx.keyspace(savings);
                            let left = balance(tx.get(from)?) - amount;
                            let sum = balance(of_savings.get(to)?) + amount;
                            if left < 0 || sum > 250 {
                                return Err(Error::other("not covered"));
                            }
                            tx.put(from, [left as u8])?;
                            of_savings.put(to, [sum as u8])
                        });
                        match done {
                            Ok(()) => ignore(moved.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => assert_eq!(error.kind(), ErrorKind::Other, "{error}"),
                        }
                        if n % 20 == 0 {
                            let tx = db.transaction();
                            let of_savings = tx.keyspace(savings);
                            let total: i64 = (0..6u8)
                                .map(|n| {
                                    balance(tx.get([n]).unwrap())
                                        + balance(of_savings.get([n]).unwrap())
                                })
                                .sum();
                            assert_eq!(total, 1200, "seed {seed}");
                        }
                        if n == 150 {
                            db.flush().unwrap();
                        }
                    }
                });
            }
        });
        assert!(moved.into_inner() > 0);
    }
}
