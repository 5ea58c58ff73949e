//! Range deletes: what they hide, from whom, how long, and at what cost.

use std::ops::Bound;
use std::sync::Arc;

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Batch, Db, Durability, ErrorKind, Expiry, KeyBounds, Options, SeqNo};

fn keys(db: &Db) -> Vec<String> {
    let forwards: Vec<String> = db
        .iter()
        .keys()
        .map(|key| String::from_utf8(key.unwrap().to_vec()).unwrap())
        .collect();
    let mut backwards: Vec<String> = db
        .iter()
        .keys()
        .rev()
        .map(|key| String::from_utf8(key.unwrap().to_vec()).unwrap())
        .collect();
    backwards.reverse();
    assert_eq!(forwards, backwards);
    for key in &forwards {
        assert!(db.contains_key(key).unwrap());
    }
    forwards
}

/// Deletes a range as a range, however few keys lie in it: in a batch nobody looks.
fn delete_whole(db: &Db, range: impl KeyBounds) -> terrace::Result<SeqNo> {
    let mut batch = Batch::new();
    batch.delete_range(range);
    db.write(batch)
}

fn filled(options: &Options) -> Db {
    let db = options.open_in_memory().unwrap();
    for key in ["a", "b", "c", "d", "e"] {
        db.put(key, key).unwrap();
    }
    db
}

#[test]
fn bounds_mean_what_they_say() {
    type Delete = fn(&Db) -> terrace::Result<terrace::SeqNo>;
    let cases: [(Delete, &str); 14] = [
        (|db| db.delete_range("b".."d"), "ade"),
        (|db| delete_whole(db, "b".."d"), "ade"),
        (|db| delete_whole(db, "b"..="d"), "ae"),
        (|db| delete_whole(db, "b"..), "a"),
        (|db| delete_whole(db, .."b"), "bcde"),
        (|db| delete_whole(db, "d".."b"), "abcde"),
        (
            |db| delete_whole(db, (Bound::Excluded("b"), Bound::Excluded("d"))),
            "abde",
        ),
        (|db| delete_whole(db, ..), ""),
        (|db| db.delete_range("b"..="d"), "ae"),
        (|db| db.delete_range("b"..), "a"),
        (|db| db.delete_range(.."b"), "bcde"),
        (|db| db.delete_range("d".."b"), "abcde"),
        (
            |db| db.delete_range((Bound::Excluded("b"), Bound::Excluded("d"))),
            "abde",
        ),
        (|db| db.clear(), ""),
    ];
    for (delete, left) in cases {
        for stage in 0..3 {
            let db = filled(&Options::new());
            if stage == 2 {
                db.flush().unwrap();
            }
            delete(&db).unwrap();
            if stage == 1 {
                db.flush().unwrap();
            }
            assert_eq!(keys(&db).concat(), left, "stage {stage}");
            db.compact_all().unwrap();
            assert_eq!(keys(&db).concat(), left, "stage {stage}, compacted");
        }
    }
}

#[test]
fn what_is_put_later_stays_also_within_a_batch() {
    let db = filled(&Options::new());
    let mut batch = Batch::new();
    batch.put("bb", "1").delete_range("b".."d").put("c", "2");
    db.write(batch).unwrap();
    assert_eq!(keys(&db), ["a", "c", "d", "e"]);
    assert_eq!(db.get("c").unwrap().unwrap(), "2");
    db.put("b", "3").unwrap();
    assert_eq!(keys(&db), ["a", "b", "c", "d", "e"]);
}

#[test]
fn other_keyspaces_are_untouched() {
    let db = filled(&Options::new());
    let other = db.keyspace("other").unwrap();
    other.put("b", "1").unwrap();
    delete_whole(&db, ..).unwrap();
    assert_eq!(other.get("b").unwrap().unwrap(), "1");
    db.put("b", "2").unwrap();
    other.clear().unwrap();
    assert_eq!(db.get("b").unwrap().unwrap(), "2");
    assert!(other.is_empty().unwrap());
    assert!(other.last().unwrap().is_none());
}

#[test]
fn snapshots_and_iterators_from_before_see_what_was_there() {
    let db = filled(&Options::new());
    let before = db.snapshot();
    let iter = db.iter();
    delete_whole(&db, "b".."e").unwrap();
    let between = db.snapshot();
    db.put("c", "again").unwrap();
    for _ in 0..2 {
        assert_eq!(before.iter().count(), 5);
        assert_eq!(before.iter().rev().count(), 5);
        assert_eq!(before.get("c").unwrap().unwrap(), "c");
        assert_eq!(between.iter().count(), 2);
        assert!(between.get("c").unwrap().is_none());
        assert_eq!(keys(&db).concat(), "ace");
        db.compact_all().unwrap();
    }
    assert_eq!(iter.count(), 5);
}

#[test]
fn space_and_the_delete_itself_are_given_back() {
    let db = Options::new()
        .tune(|tuning| tuning.manual = true)
        .open_in_memory()
        .unwrap();
    for n in 0..20_000u32 {
        db.put(n.to_be_bytes(), [7; 100]).unwrap();
    }
    db.compact_all().unwrap();
    let full = db
        .stats()
        .levels
        .iter()
        .map(|level| level.bytes)
        .sum::<u64>();
    let snapshot = db.snapshot();
    db.delete_range(100u32.to_be_bytes()..19_900u32.to_be_bytes())
        .unwrap();
    db.wait_idle().unwrap();
    assert_eq!(db.count(..).unwrap(), 200);
    assert_eq!(
        snapshot.count(..).unwrap(),
        20_000,
        "nothing may go while a snapshot sees it"
    );
    drop(snapshot);
    db.wait_idle().unwrap();
    let left = db
        .stats()
        .levels
        .iter()
        .map(|level| level.bytes)
        .sum::<u64>();
    assert!(left * 50 < full, "{left} of {full} bytes are left");
    assert_eq!(db.count(..).unwrap(), 200);
    assert_eq!(db.stats().range_deletes, 0);
}

#[test]
fn many_deletes_of_the_same_range_are_one_to_keep() {
    let db = filled(&Options::new());
    for n in 0..600 {
        db.put("c", n.to_string()).unwrap();
        delete_whole(&db, ..).unwrap();
    }
    assert!(db.is_empty().unwrap());
    db.wait_idle().unwrap();
    assert_eq!(db.stats().range_deletes, 0);
    db.put("c", "x").unwrap();
    assert_eq!(keys(&db), ["c"]);
}

#[test]
fn deletes_are_kept_in_the_log_and_in_the_manifest() {
    for flushed in [false, true] {
        let vfs = MemVfs::crashable(1);
        let open = |vfs: &Arc<MemVfs>| {
            let vfs: Arc<dyn Vfs> = vfs.clone();
            Options::new().vfs(vfs).open("/db").unwrap()
        };
        let db = open(&vfs);
        for key in ["a", "b", "c"] {
            db.put(key, "1").unwrap();
        }
        db.flush().unwrap();
        delete_whole(&db, "b".."c").unwrap();
        if flushed {
            db.flush().unwrap();
        }
        let cut = vfs.image(ImageKind::Cut, CrashPolicy::DropAll, 3);
        db.close().unwrap();
        for vfs in [cut, vfs] {
            for _ in 0..2 {
                let db = open(&vfs);
                assert_eq!(keys(&db).concat(), "ac");
                db.close().unwrap();
            }
            let db = open(&vfs);
            db.compact_all().unwrap();
            assert_eq!(keys(&db).concat(), "ac");
        }
    }
}

/// A scan over what was deleted in one piece costs some seeks, however much it was. Counted in
/// entries that sources step over is not possible from outside, so this compares times, generously.
#[test]
fn a_scan_over_a_deleted_range_does_not_walk_it() {
    let db = Options::new().memory(64 << 20).open_in_memory().unwrap();
    for n in 0..200_000u32 {
        db.put(n.to_be_bytes(), [7; 20]).unwrap();
    }
    db.put(u32::MAX.to_be_bytes(), "last").unwrap();
    let timed = || {
        let start = std::time::Instant::now();
        for _ in 0..20 {
            assert_eq!(db.first().unwrap().unwrap().1, "last");
            assert_eq!(db.iter().rev().count(), 1);
        }
        start.elapsed()
    };
    let whole = std::time::Instant::now();
    assert_eq!(db.count(..).unwrap(), 200_001);
    let whole = whole.elapsed();
    db.delete_range(..u32::MAX.to_be_bytes()).unwrap();
    let skipping = timed();
    assert!(
        skipping < whole * 20,
        "20 times both ways over deleted entries took {skipping:?}, once over them all {whole:?}"
    );
}

/// A log whose head is deleted again and again: each delete covers those before it, and together
/// they once cost their number squared with each scan, so that 10,000 of them never came to an end.
#[test]
fn a_head_that_is_deleted_again_and_again_costs_no_more_each_time() {
    let db = Options::new().open_in_memory().unwrap();
    let mut times = Vec::new();
    for round in 0..3_000u32 {
        for n in 0..20 {
            db.put((round * 20 + n).to_be_bytes(), [7; 20]).unwrap();
        }
        let start = std::time::Instant::now();
        db.delete_range(..(round * 20 + 18).to_be_bytes()).unwrap();
        assert_eq!(db.iter().count(), 2);
        times.push(start.elapsed());
    }
    assert_eq!(db.first().unwrap().unwrap().0[..], 59_998u32.to_be_bytes());
    let of = |part: &[std::time::Duration]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    let (early, late) = (of(&times[300..600]), of(&times[2_700..]));
    assert!(late < early * 10, "{early:?} at first and {late:?} later");
}

#[test]
fn a_range_of_few_keys_is_deleted_key_by_key() {
    for (flushed, keys) in [(false, 16), (true, 16), (false, 17), (true, 17), (false, 0)] {
        let db = Options::new().open_in_memory().unwrap();
        db.put("z", "1").unwrap();
        for n in 0..keys {
            db.put([b'k', n], "1").unwrap();
        }
        if flushed {
            db.flush().unwrap();
        }
        let visible = db.stats().visible;
        let last = db.delete_range("b".."z").unwrap();
        let ranges = usize::from(keys > 16);
        assert_eq!(db.stats().range_deletes, ranges, "{keys} keys");
        let written = if keys > 16 { 1 } else { u64::from(keys) };
        assert_eq!(last, db.stats().visible);
        assert_eq!(last.get(), visible.get() + written);
        assert_eq!(self::keys(&db), ["z"]);
    }
}

#[test]
fn a_look_at_a_range_is_short() {
    // More entries than it looks at, none of them alive.
    let db = Options::new().open_in_memory().unwrap();
    for n in 0..100u8 {
        db.put([n], "1").unwrap();
        db.delete([n]).unwrap();
    }
    db.clear().unwrap();
    assert_eq!(db.stats().range_deletes, 1);
    // What has expired may be among what it finds.
    let db = Options::new().open_in_memory().unwrap();
    let past = Expiry::At(std::time::SystemTime::UNIX_EPOCH);
    db.put_expiring("a", "1", past).unwrap();
    db.clear().unwrap();
    assert_eq!((db.stats().range_deletes, keys(&db).len()), (0, 0));
}

/// Whichever way a delete goes, what was written before it is gone, and what was written after it
/// is there.
#[test]
fn deletes_of_few_keys_have_their_place_among_other_writes() {
    let (mut by_key, mut by_range) = (0, 0);
    for round in 0..1500u32 {
        let db = Options::new().open_in_memory().unwrap();
        db.put([0], "1").unwrap();
        let (cleared, written) = std::thread::scope(|scope| {
            let writers = [1u8, 2].map(|thread| {
                let db = &db;
                let put = move |n: u8| {
                    let key = [thread, n];
                    (key, db.put(key, "1").unwrap())
                };
                scope.spawn(move || (0..7).map(put).collect::<Vec<_>>())
            });
            if round % 3 == 0 {
                db.flush().unwrap();
            }
            std::iter::repeat_n((), round as usize % 40).for_each(|()| std::hint::spin_loop());
            let cleared = db.clear().unwrap();
            let written = writers.map(|writer| writer.join().unwrap());
            (cleared, written.concat())
        });
        for (key, seq) in written {
            let there = db.contains_key(key).unwrap();
            assert_eq!(there, seq > cleared, "{round}: {key:?} {seq:?} {cleared:?}");
        }
        match db.stats().range_deletes {
            0 => by_key += 1,
            _ => by_range += 1,
        }
    }
    assert!(
        by_key > 0 && by_range + by_key == 1500,
        "{by_key} {by_range}"
    );
}

/// It found nothing and wrote nothing; but the delete that it relied on was not durable, and a
/// power cut brought the key back.
#[test]
fn a_range_without_keys_is_as_durable_as_its_delete() {
    let vfs = MemVfs::crashable(1);
    let options = Options::new().tune(|tuning| tuning.manual = true);
    let db = options.clone().vfs(vfs.clone()).open("/db").unwrap();
    db.put("k", "1").unwrap();
    let mut batch = Batch::new();
    batch.durability(Durability::Buffered).delete("k");
    db.write(batch).unwrap();
    let before = db.stats().visible;
    assert_eq!(db.delete_range("a".."z").unwrap(), before);
    let cut = vfs.image(ImageKind::Cut, CrashPolicy::DropAll, 1);
    let db = options.vfs(cut).open("/db").unwrap();
    assert_eq!(db.get("k").unwrap(), None);
}

/// A scan stepped over every entry that lay in one list with the delete: 16 K of them, at a hundred
/// times the cost of an empty scan.
#[test]
fn many_entries_in_memory_are_set_apart_from_their_delete() {
    for (entries, set_apart) in [(100, 0), (1000, 1)] {
        let options = Options::new().tune(|tuning| tuning.manual = true);
        let db = options.open_in_memory().unwrap();
        for n in 0..entries {
            db.put(format!("k{n:04}"), "1").unwrap();
        }
        let before = db.stats().memtable_pieces;
        let mut batch = Batch::new();
        batch.put("a", "1").delete_range("k".."l").put("k", "2");
        db.write(batch).unwrap();
        assert_eq!(db.stats().memtable_pieces, before + set_apart, "{entries}");
        assert_eq!(keys(&db), ["a", "k"]);
    }
}

/// Each delete made a new set of all while no other thread could write: 8,000 of them in a batch
/// held every writer for six seconds, and twice as many took four times as long.
#[test]
fn many_range_deletes_in_a_batch_cost_what_each_does() {
    let db = Options::new().open_in_memory().unwrap();
    let mut batch = Batch::new();
    for n in 0..40_000u32 {
        batch.delete_range(n.to_be_bytes()..(n + 2).to_be_bytes());
    }
    let start = std::time::Instant::now();
    db.write(batch).unwrap();
    let took = start.elapsed();
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    db.put(7u32.to_be_bytes(), "1").unwrap();
    assert_eq!(db.iter().count(), 1);
}

/// Each list of 256 range deletes became a piece of the memtable that stayed as it was, and each
/// get asked all of them.
#[test]
fn range_deletes_do_not_pile_up_in_pieces_and_leave_with_the_flush() {
    let options = Options::new().tune(|tuning| tuning.manual = true);
    let db = options.open_in_memory().unwrap();
    for n in 0..40u32 {
        let mut batch = Batch::new();
        for m in 0..1_000u32 {
            let key = (n * 1_000 + m) * 2;
            batch.delete_range(key.to_be_bytes()..(key + 1).to_be_bytes());
        }
        db.write(batch).unwrap();
    }
    let stats = db.stats();
    assert!(stats.memtable_pieces <= 8, "{}", stats.memtable_pieces);
    assert_eq!(stats.range_deletes, 40_000);
    // They touch no table: none is kept.
    db.flush().unwrap();
    assert_eq!(db.stats().range_deletes, 0);
}

/// The head of a log, deleted further and further: a delete that a longer one covers is of no use
/// once everybody sees the longer one. Each of those that a snapshot keeps costs as much as the
/// first.
#[test]
fn deletes_that_cover_each_other_do_not_add_up() {
    let head = |n: u32| ..n.to_be_bytes();
    let db = Options::new().open_in_memory().unwrap();
    let put_all = || {
        let mut batch = Batch::new();
        for n in 0..4_000u32 {
            batch.put(n.to_be_bytes(), "1");
        }
        db.write(batch).unwrap();
    };
    let delete_all = |upto: u32| {
        for n in 1..=upto {
            let mut batch = Batch::new();
            batch.delete_range(head(n));
            db.write(batch).unwrap();
        }
    };
    put_all();
    db.flush().unwrap();
    let snapshot = db.snapshot();
    delete_all(3_000);
    assert_eq!((snapshot.iter().count(), db.iter().count()), (4_000, 1_000));
    let middle = db.snapshot();
    delete_all(3_990);
    db.flush().unwrap();
    assert_eq!((middle.iter().count(), db.iter().count()), (1_000, 10));
    assert_eq!(snapshot.iter().count(), 4_000);
    assert_eq!(db.stats().range_deletes, 2, "one for each snapshot");

    let tx = db.transaction();
    for n in 1..=3_000u32 {
        tx.savepoint();
        tx.delete_range(head(n)).unwrap();
        tx.put(n.to_be_bytes(), "2").unwrap();
    }
    assert_eq!(tx.iter().count(), 11);
    tx.commit().unwrap();
    assert_eq!(db.iter().count(), 11);
}

/// Old range deletes that hide something until a table is written again went one by one, each by an
/// edit.
#[test]
fn many_range_deletes_are_worked_off_together() {
    let options = Options::new().tune(|tuning| tuning.manual = true);
    let db = options.open_in_memory().unwrap();
    let mut batch = Batch::new();
    for n in 0..20_000u32 {
        batch.put(n.to_be_bytes(), [7; 50]);
    }
    db.write(batch).unwrap();
    db.compact_all().unwrap();
    let mut batch = Batch::new();
    for n in 0..9_000u32 {
        batch.delete_range((n * 2).to_be_bytes()..(n * 2 + 1).to_be_bytes());
    }
    db.write(batch).unwrap();
    db.flush().unwrap();
    assert_eq!(db.stats().range_deletes, 9_000);
    let start = std::time::Instant::now();
    db.wait_idle().unwrap();
    let took = start.elapsed();
    assert_eq!(db.stats().range_deletes, 0, "after {took:?}");
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    assert_eq!(db.iter().count(), 11_000);
}

/// A transaction finds that what it read was deleted since, also where the delete hid nothing and a
/// flush has seen that.
#[test]
fn a_flush_keeps_a_delete_of_nothing_for_older_transactions() {
    let db = Options::new()
        .tune(|tuning| tuning.manual = true)
        .open_in_memory()
        .unwrap();
    let tx = db.transaction();
    assert_eq!(tx.get("k").unwrap(), None);
    tx.put("other", "1").unwrap();
    let mut batch = Batch::new();
    batch.delete_range("a".."z");
    db.write(batch).unwrap();
    db.flush().unwrap();
    assert_eq!(tx.commit().unwrap_err().kind(), ErrorKind::Conflict);
    db.wait_idle().unwrap();
    assert_eq!(db.stats().range_deletes, 0);
}
