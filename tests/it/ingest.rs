//! Bulk loads: whole or not at all, in their place among other writes, over what was there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Db, ErrorKind, IngestProgress, Options};

fn tiny() -> Options {
    Options::new().tune(|tuning| {
        tuning.table_bytes = 16 << 10;
        tuning.manual = true;
    })
}

fn entry(n: u32, round: u32) -> ([u8; 4], String) {
    (
        n.to_be_bytes(),
        format!("value {n} of round {round} {}", "x".repeat(50)),
    )
}

fn check(db: &Db, count: u32, round_of: impl Fn(u32) -> Option<u32>) {
    let wanted: Vec<_> = (0..count)
        .filter_map(|n| round_of(n).map(|round| entry(n, round)))
        .map(|(key, value)| (key.to_vec(), value.into_bytes()))
        .collect();
    let forwards: Vec<_> = db
        .iter()
        .map(|entry| {
            entry
                .map(|(key, value)| (key.to_vec(), value.to_vec()))
                .unwrap()
        })
        .collect();
    assert_eq!(forwards.len(), wanted.len());
    assert!(forwards == wanted, "a scan differs");
    for (key, value) in wanted.iter().step_by(17) {
        assert_eq!(db.get(key).unwrap().unwrap(), *value);
    }
    assert_eq!(db.iter().rev().count(), wanted.len());
}

#[test]
fn entries_come_over_what_was_there_and_under_what_comes_later() {
    let db = tiny().open_in_memory().unwrap();
    for n in (0..2000).step_by(2) {
        let (key, value) = entry(n, 0);
        db.put(key, value).unwrap();
    }
    db.compact_all().unwrap();
    for n in (0..2000).step_by(3) {
        let (key, value) = entry(n, 1);
        db.put(key, value).unwrap(); // In memory.
    }
    let before = db.snapshot();
    let seq = db.ingest((0..1000).map(|n| entry(n, 2))).unwrap();
    assert_eq!(
        db.get_entry(5u32.to_be_bytes()).unwrap().unwrap().version,
        seq
    );
    let (key, value) = entry(7, 3);
    assert!(db.put(key, value).unwrap() > seq);
    let older = |n: u32| match (n % 3, n % 2) {
        (0, _) => Some(1),
        (_, 0) => Some(0),
        _ => None,
    };
    let now = |n: u32| match n {
        7 => Some(3),
        0..1000 => Some(2),
        _ => older(n),
    };
    for _ in 0..3 {
        check(&db, 2000, now);
        let seen: usize = (0..2000).filter(|n| older(*n).is_some()).count();
        assert_eq!(before.iter().count(), seen);
        assert!(before.get(1u32.to_be_bytes()).unwrap().is_none());
        db.wait_idle().unwrap();
        db.compact_all().unwrap();
    }
}

#[test]
fn what_is_not_sorted_is_refused_and_leaves_nothing() {
    let vfs = MemVfs::crashable(1);
    let shared: Arc<dyn Vfs> = vfs.clone();
    let db = tiny().vfs(shared).open("/db").unwrap();
    db.put("k", "v").unwrap();
    let files = |vfs: &Arc<MemVfs>| {
        let mut names = vfs.read_dir(std::path::Path::new("/db")).unwrap();
        names.sort();
        names
            .iter()
            .filter(|name| name.to_string_lossy().ends_with(".sst"))
            .count()
    };
    for keys in [["a", "b", "b"], ["b", "c", "a"]] {
        let error = db.ingest(keys.map(|key| (key, "x"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    let error = db.ingest([(vec![0; 70_000], "x")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let many = (0..2000).map(|n| entry(n, 0)).chain([entry(3, 0)]);
    assert_eq!(db.ingest(many).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(db.count(..).unwrap(), 1);
    assert_eq!(files(&vfs), 0, "tables of refused ingests are left");
    let nothing: [(&str, &str); 0] = [];
    db.ingest(nothing).unwrap();
    assert_eq!(db.count(..).unwrap(), 1);
}

#[test]
fn input_in_any_order_is_sorted_within_the_memory_given() {
    let db = tiny().open_in_memory().unwrap();
    let mut calls: Vec<IngestProgress> = Vec::new();
    // Each key twice, the later round last.
    let shuffled = (0..6000u32).map(|i| entry(i.wrapping_mul(7919) % 3000, i / 3000));
    db.ingest_unsorted(shuffled, 64 << 10, |progress| calls.push(progress))
        .unwrap();
    check(&db, 3000, |_| Some(1));
    assert!(calls.len() > 3, "{} pieces", calls.len());
    assert_eq!(calls.last().unwrap().entries, 6000);
    db.compact_all().unwrap();
    check(&db, 3000, |_| Some(1));
}

#[test]
fn writers_go_on_meanwhile_and_nothing_of_theirs_is_lost() {
    let db = Options::new()
        .durability(terrace::Durability::Buffered)
        .open_in_memory()
        .unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=2u8)
            .map(|writer| {
                let (db, done) = (&db, &done);
                scope.spawn(move || {
                    let mut count = 0u32;
                    while !done.load(Ordering::Acquire) {
                        let key = [&[writer][..], &count.to_be_bytes()].concat();
                        db.put(key, count.to_string()).unwrap();
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for round in 0..10u32 {
            let prefix = [0u8, round as u8];
            let entries = (0..500u32).map(|n| ([&prefix[..], &n.to_be_bytes()].concat(), "x"));
            db.ingest(entries).unwrap();
        }
        done.store(true, Ordering::Release);
        for (writer, count) in (1..=2u8).zip(writers) {
            let count = count.join().unwrap();
            let found = db.prefix([writer]).map(|entry| entry.unwrap().1);
            let wanted: Vec<String> = (0..count).map(|n| n.to_string()).collect();
            assert_eq!(found.collect::<Vec<_>>(), wanted);
        }
    });
    assert_eq!(db.prefix([0]).count(), 5000);
}

/// Crashes at every changing call of an ingest: all of it is there or nothing, and what was written
/// before always.
#[test]
fn a_crash_leaves_all_of_an_ingest_or_nothing() {
    for flushed in [false, true] {
        crash_an_ingest(flushed);
    }
}

/// With or without something in memory, which a flush would take along, its sync of the directory
/// too.
fn crash_an_ingest(flushed: bool) {
    let vfs = MemVfs::crashable(7);
    let shared: Arc<dyn Vfs> = vfs.clone();
    let db = tiny().vfs(shared).open("/db").unwrap();
    db.put(entry(5000, 0).0, entry(5000, 0).1).unwrap();
    if flushed {
        db.flush().unwrap();
    }
    let images = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = images.clone();
    vfs.set_hook(Some(Arc::new(move |vfs, call| {
        let mut kept = kept.lock().unwrap();
        for (kind, policy) in [
            (ImageKind::Cut, CrashPolicy::DropAll),
            (ImageKind::Cut, CrashPolicy::RandomBlocks),
            (ImageKind::Kill, CrashPolicy::KeepAll),
        ] {
            kept.push(vfs.image(kind, policy, call));
        }
    })));
    db.ingest((0..1000).map(|n| entry(n, 0))).unwrap();
    let after = [
        vfs.image(ImageKind::Cut, CrashPolicy::DropAll, 1),
        vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1),
    ];
    vfs.set_hook(None);
    let counted = |image: &Arc<MemVfs>| {
        let image: Arc<dyn Vfs> = image.clone();
        let db = tiny().vfs(image).open("/db").unwrap();
        assert_eq!(db.get(entry(5000, 0).0).unwrap().unwrap(), entry(5000, 0).1);
        let count = db.count(..).unwrap();
        db.put("later", "x").unwrap();
        db.compact_all().unwrap();
        assert_eq!(db.count(..).unwrap(), count + 1);
        count
    };
    let images = std::mem::take(&mut *images.lock().unwrap());
    assert!(images.len() > 20, "{} images", images.len());
    for image in &images {
        let count = counted(image);
        assert!(count == 1 || count == 1001, "{count} entries after a crash");
    }
    for image in &after {
        assert_eq!(counted(image), 1001, "an ingest that returned is lost");
    }
}

/// Each took 2^32 of the 2^56 there are, also one of a single entry: after 16.7 million ingests
/// there were none left.
#[test]
fn ingests_take_few_sequence_numbers() {
    let db = tiny().open_in_memory().unwrap();
    for n in 0..100 {
        db.ingest([entry(n, 0)]).unwrap();
    }
    let used = db.stats().visible.get();
    assert!(used <= 100 << 17, "100 small ingests used {used} numbers");
    for round in 1..=3 {
        db.ingest((0..3000).map(|n| entry(n, round))).unwrap();
    }
    let more = db.stats().visible.get() - used;
    assert!(more <= 3 << 27, "3 ingests used {more} numbers");
    check(&db, 3000, |_| Some(3));
}

/// Each that was overtaken reached 16 times as far, which overtook all others: 32 threads with
/// small ingests used all numbers up within 10 s, and the database took no more writes.
#[test]
fn ingests_of_many_threads_do_not_outbid_each_other() {
    const THREADS: u64 = 16;
    const ROUNDS: u64 = 8;
    let db = Db::in_memory().unwrap();
    let begin = std::sync::Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (db, begin) = (&db, &begin);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    begin.wait();
                    let first = (thread * 100) as u32;
                    let entries = (first..first + 100).map(|n| entry(n, round as u32));
                    db.ingest(entries).unwrap();
                }
            });
        }
    });
    let used = db.stats().visible.get();
    assert!(used <= (THREADS * ROUNDS) << 17, "{used} numbers");
    check(&db, 100 * THREADS as u32, |_| Some(ROUNDS as u32 - 1));
}

#[test]
fn an_ingest_whose_number_is_overtaken_comes_over_what_overtook_it() {
    let db = tiny().open_in_memory().unwrap();
    db.put(1u32.to_be_bytes(), "before").unwrap();
    let overtaking = (0..3000).map(|n| {
        if n == 2500 {
            // As far ahead as this one, and further.
            for round in [7, 8] {
                db.ingest((0..2600).map(|n| entry(n, round))).unwrap();
            }
        }
        entry(n, 9)
    });
    let seq = db.ingest(overtaking).unwrap();
    check(&db, 3000, |_| Some(9));
    assert_eq!(db.stats().visible, seq.plus(1), "the log took one more");
    db.put(1u32.to_be_bytes(), "after").unwrap();
    assert_eq!(db.get(1u32.to_be_bytes()).unwrap().unwrap(), "after");
}

/// The tables in the directory of a database.
fn files(vfs: &MemVfs) -> usize {
    let names = vfs.read_dir("/db".as_ref()).unwrap().into_iter();
    let tables = names.filter(|name| name.to_string_lossy().ends_with(".sst"));
    tables.count()
}

/// It answered that its own table could not be opened, which the next opener had removed.
#[test]
fn an_ingest_that_outlives_its_database_answers_closed() {
    for unsorted in [false, true] {
        let options = tiny().vfs(MemVfs::new(1));
        let db = options.open("/db").unwrap();
        let next = std::cell::OnceCell::new();
        let input = (0..3000).map(|n| {
            if n == 2500 {
                db.put("k", "v").unwrap();
                db.close().unwrap();
                next.set(options.open("/db").unwrap()).unwrap();
            }
            entry(n, 1)
        });
        let result = match unsorted {
            true => db.ingest_unsorted(input, 20 << 10, |_| {}),
            false => db.ingest(input),
        };
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
        let next = next.get().unwrap();
        next.put("l", "w").unwrap();
        next.compact_all().unwrap();
        assert_eq!(next.iter().count(), 2);
        next.health().unwrap();
    }
}

/// The tables of such an ingest stayed until the next open.
#[test]
fn an_ingest_whose_input_panics_or_fails_leaves_nothing() {
    let vfs = MemVfs::new(1);
    let db = tiny().vfs(vfs.clone()).open("/db").unwrap();
    db.put("k", "1").unwrap();
    db.flush().unwrap();
    let before = files(&vfs);
    let panics = || {
        (0..4000).map(|n| {
            if n < 3900 {
                entry(n, 0)
            } else {
                panic!("as it must")
            }
        })
    };
    let fails = || {
        let error = || std::io::Error::other("the disk of the input is gone");
        (0..4000).map(move |n| {
            if n < 3900 {
                Ok(entry(n, 0))
            } else {
                Err(error())
            }
        })
    };
    let caught = |ingest: &dyn Fn()| {
        let ingest = std::panic::AssertUnwindSafe(ingest);
        assert!(std::panic::catch_unwind(ingest).is_err());
    };
    for _ in 0..5 {
        caught(&|| drop(db.ingest(panics())));
        assert_eq!(files(&vfs), before, "after a panic");
        caught(&|| drop(db.ingest_unsorted(panics(), 20 << 10, |_| {})));
        assert_eq!(files(&vfs), before, "after a panic of unsorted input");
        let sorted = db.try_ingest(fails());
        let unsorted = db.try_ingest_unsorted(fails(), 20 << 10, |_| {});
        for error in [sorted.unwrap_err(), unsorted.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Other);
            let source = std::error::Error::source(&error).unwrap();
            assert!(source.is::<std::io::Error>(), "{source}");
        }
        assert_eq!(files(&vfs), before, "after an error");
    }
    let whole = || (0..4000).map(|n| Ok::<_, std::io::Error>(entry(n, 1)));
    db.try_ingest(whole()).unwrap();
    db.try_ingest_unsorted(whole(), 20 << 10, |_| {}).unwrap();
    db.delete("k").unwrap();
    check(&db, 4000, |_| Some(1));
}
