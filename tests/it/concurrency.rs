//! Many threads at once: what readers see, and how writers fare.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use terrace::vfs::{MemVfs, Vfs};
use terrace::{Batch, Durability, ErrorKind};
use terrace_kit::{Mode, Scenario};

/// Readers see whole batches in order, whoever writes and how.
#[test]
fn no_reader_sees_half_a_batch_or_time_run_backwards() {
    for seed in 0..4 {
        let vfs: Arc<dyn Vfs> = MemVfs::new(seed);
        let db = Scenario::on(vfs, Mode::Threads).open(seed).unwrap();
        let users = db.keyspace("users").unwrap();
        let stop = AtomicBool::new(false);
        let interval = Durability::Interval(Duration::from_millis(2));
        let durabilities = [
            Durability::Sync,
            Durability::Buffered,
            interval,
            Durability::Sync,
        ];
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let (db, users) = (&db, &users);
                    scope.spawn(move || {
                        let mut last = terrace::SeqNo::ZERO;
                        for i in 0..600u32 {
                            let value = format!("{writer} {i} ").repeat(1 + (i % 7) as usize);
                            let mut batch = Batch::new();
                            batch.put("a", &value).put(format!("w{writer}"), &value);
                            batch.keyspace(users).put("b", &value);
                            batch.durability(durabilities[writer]);
                            let seq = match i % 3 {
                                0 => db.submit(batch).unwrap().wait().unwrap(),
                                _ => db.write(batch).unwrap(),
                            };
                            assert!(seq > last);
                            last = seq;
                            // One's own write is seen, unless somebody wrote over it since.
                            let entry = db.get_entry(format!("w{writer}")).unwrap().unwrap();
                            assert_eq!(entry.value, value);
                            assert!(users.get_entry("b").unwrap().unwrap().version >= seq);
                        }
                    })
                })
                .collect();
            for reader in 0..2 {
                let (db, users, stop) = (&db, &users, &stop);
                scope.spawn(move || {
                    let mut seen = terrace::SeqNo::ZERO;
                    while !stop.load(Ordering::Relaxed) {
                        let snapshot = db.snapshot();
                        let a = snapshot.get_entry("a").unwrap();
                        let b = snapshot.keyspace(users).get_entry("b").unwrap();
                        match (a, b) {
                            (Some(a), Some(b)) => {
                                assert_eq!(a.value, b.value);
                                assert_eq!(a.version.get() + 2, b.version.get());
                                let writer = &a.value[..1];
                                let key = [b"w", writer].concat();
                                assert_eq!(snapshot.get(key).unwrap(), Some(a.value.clone()));
                                assert!(a.version >= seen, "time runs backwards");
                                seen = a.version;
                            }
                            (None, None) => {}
                            half => panic!("half a batch: {half:?}"),
                        }
                        let all = match reader {
                            0 => db.iter().collect::<Result<Vec<_>, _>>().unwrap(),
                            _ => db.iter().rev().collect::<Result<Vec<_>, _>>().unwrap(),
                        };
                        let a = all.iter().find(|(key, _)| key == "a");
                        if let Some((_, a)) = a {
                            let key = [b"w", &a[..1]].concat();
                            assert!(all.iter().any(|(k, v)| *k == key && v == a));
                        }
                        let got = db.multi_get(["a", "w0", "w1", "w2", "w3"]).unwrap();
                        assert!(got[0].is_none() || got[1..].contains(&got[0]));
                    }
                });
            }
            let failed = writers.into_iter().map(|writer| writer.join().is_err());
            let failed = failed.filter(|failed| *failed).count();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(failed, 0);
        });
        db.health().unwrap();
        assert_eq!(db.count(..).unwrap(), 5);
        db.close().unwrap();
    }
}

#[test]
fn writers_are_paced_under_load_and_never_fail() {
    let vfs: Arc<dyn Vfs> = MemVfs::new(9);
    let mut options = Scenario::on(vfs, Mode::Threads).options(3);
    options = options.durability(Durability::Buffered).memory(4 << 20);
    let db = options
        .tune(|tuning| tuning.memtable_bytes = Some(32 << 10))
        .open("/db")
        .unwrap();
    let most_runs = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for writer in 0..4u32 {
            let (db, most_runs) = (&db, &most_runs);
            scope.spawn(move || {
                for i in 0..2500u32 {
                    let key = (i.wrapping_mul(2_654_435_761) ^ writer << 30).to_be_bytes();
                    db.put(key, [i as u8; 300]).unwrap();
                    if i % 50 == 0 {
                        let runs = db.stats().levels[0].runs;
                        most_runs.fetch_max(runs, Ordering::Relaxed);
                        db.health().unwrap();
                    }
                }
            });
        }
    });
    let most_runs = most_runs.into_inner();
    assert!(
        most_runs < 100,
        "{most_runs} runs in level 0: compaction was left behind"
    );
    db.wait_idle().unwrap();
    assert_eq!(db.iter().map(Result::unwrap).count(), 10_000);
    assert!(db.stats().levels[0].runs <= 1);
}

/// Threads open, fill and drop one name. Opening or creating it never fails, and a handle whose
/// keyspace another thread has dropped says `NotFound`.
#[test]
fn a_name_is_opened_or_created_whoever_else_creates_and_drops_it() {
    let db = Scenario::on(MemVfs::new(5), Mode::Threads)
        .options(5)
        .durability(Durability::Buffered)
        .open("/db")
        .unwrap();
    let gone_or = |result: Result<(), terrace::Error>| {
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..3000u32 {
                    let keyspace = db.keyspace("shared").unwrap();
                    gone_or(keyspace.put(n.to_be_bytes(), "v").map(|_| ()));
                    gone_or(db.drop_keyspace("shared"));
                }
            });
        }
    });
    let keyspace = db.keyspace("shared").unwrap();
    assert!(keyspace.is_empty().unwrap());
    db.health().unwrap();
}
