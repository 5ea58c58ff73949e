//! Jobs against those who depend on them: snapshots, dropped keyspaces, a second compaction,
//! segments that are used again, and tickets that nobody leads a sync for.

use std::sync::{Arc, Mutex as StdMutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use shuttle::thread;
use terrace_base::{ErrorKind, SeqNo};

use super::{Hands, World, check, options, value};
use crate::jobs::compact::compact_once;
use crate::jobs::flush::{flush_catalogue, flush_once, tend_memtable};
use crate::jobs::log_segments::trim_log;
use crate::jobs::reclaim::reclaim_once;
use crate::{Batch, Durability, Expiry, KeyspaceOptions, Options};

impl Hands {
    /// What the flush and the compaction thread do, once each.
    fn jobs(&self) {
        let engine = self.db.shared();
        engine.committer.seal();
        tend_memtable(engine).unwrap();
        flush_once(engine, true).unwrap();
        compact_once(engine, true).unwrap();
    }
}

fn snapshots() {
    let mut world = World::new(|options| options, 256 << 10);
    // A key that is gone: its tombstone is in memory, and what it hides in a table.
    world.db.put("gone", "1").unwrap();
    world.db.flush().unwrap();
    world.db.delete("gone").unwrap();
    let first = world.hands().pair(b"first", Durability::Buffered);
    world.db.write(first).unwrap();
    world.writer(|hands| {
        for n in 0..4 {
            let batch = hands.pair(&value(0, n, 1), Durability::Buffered);
            hands.wrote(hands.db.write(batch).unwrap());
        }
    });
    world.thread(|hands| (0..3).for_each(|_| hands.jobs()));
    for _ in 0..2 {
        world.thread(|hands| {
            let snapshot = hands.db.snapshot();
            let clone = snapshot.clone();
            let seen = snapshot.get_entry("a").unwrap().expect("a key is missing");
            assert!(seen.version <= snapshot.seq(), "a snapshot sees the future");
            drop(snapshot); // The other one keeps the moment.
            for _ in 0..3 {
                thread::yield_now();
                let pair = clone.multi_get(["a", "b"]).unwrap();
                let same = pair.iter().all(|found| found.as_ref() == Some(&seen.value));
                assert!(same, "a snapshot has changed: {pair:?}");
                assert_eq!(clone.iter().count(), 2);
            }
        });
    }
    world.join();
}

#[test]
fn a_snapshot_registered_beside_jobs_keeps_what_it_sees() {
    check(3000, snapshots);
}

/// Puts `value` into `keyspace`, which may be dropped meanwhile; false if it was.
fn put(keyspace: &crate::Keyspace, key: &str, value: &[u8]) -> bool {
    match keyspace.put(key, value) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            false
        }
    }
}

/// A power cut may take the drop along, and then the keyspace has its entries.
fn whole_or_gone(hands: &Hands) {
    let cut = options(hands.disk.cut(), 4096).open("/db").unwrap();
    if cut.keyspaces().unwrap().len() > 1 {
        let found = cut.keyspace("doomed").unwrap().get("k").unwrap();
        assert!(found.is_some(), "it has come back without its entries");
    }
}

fn dropped_keyspace() {
    let mut world = World::new(|options| options.durability(Durability::Buffered), 4096);
    let doomed = world.db.keyspace("doomed").unwrap();
    doomed.put("k", "before").unwrap();
    world.db.put("k", "stays").unwrap();
    world.db.sync().unwrap();
    let keyspace = doomed.clone();
    world.writer(move |_| {
        // What is refused once is refused for ever.
        let accepted: Vec<bool> = (0..4)
            .map(|n| put(&keyspace, "k", &value(0, n, 60)))
            .collect();
        assert!(accepted.is_sorted_by(|a, b| a >= b), "{accepted:?}");
    });
    world.writer(|hands| hands.db.drop_keyspace("doomed").unwrap());
    world.thread(|hands| {
        for _ in 0..2 {
            hands.jobs();
            whole_or_gone(hands);
        }
        flush_catalogue(&hands.db.shared()).unwrap();
        reclaim_once(&hands.db.shared()).unwrap();
    });
    let keyspace = doomed.clone();
    world.thread(move |hands| {
        let snapshot = hands.db.snapshot().keyspace(&keyspace);
        let first = snapshot.get("k");
        for _ in 0..2 {
            thread::yield_now();
            match (&first, snapshot.get("k")) {
                (Ok(first), Ok(now)) => assert_eq!(*first, now, "a snapshot has changed"),
                (first, now) => assert_eq!(first.is_err(), now.is_err(), "{first:?}, {now:?}"),
            }
        }
    });
    world.join();
    assert_eq!(doomed.get("k").unwrap_err().kind(), ErrorKind::NotFound);
    drop(doomed);
    let disk = world.disk.clone();
    drop(world);
    let db = options(disk, 4096).open("/db").unwrap();
    assert_eq!(db.keyspaces().unwrap(), ["default"], "it has come back");
    assert_eq!(db.get("k").unwrap().unwrap(), "stays");
    assert!(db.keyspace("doomed").unwrap().is_empty().unwrap());
}

#[test]
fn a_keyspace_dropped_beside_jobs_is_gone_and_stays_in_snapshots() {
    check(700, dropped_keyspace);
}

fn opened_or_created() {
    let mut world = World::new(
        |options| options.durability(Durability::Buffered),
        256 << 10,
    );
    for _ in 0..2 {
        world.thread(|hands| {
            for _ in 0..2 {
                let keyspace = hands.db.keyspace("both").unwrap();
                put(&keyspace, "k", b"v");
            }
        });
    }
    world.thread(|hands| {
        for _ in 0..3 {
            match hands.db.drop_keyspace("both") {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
            }
        }
    });
    world.join();
}

#[test]
fn a_keyspace_is_opened_or_created_beside_others_who_create_and_drop_it() {
    check(1500, opened_or_created);
}

fn first_expiry() {
    let add = |_: &[u8], older: &[u8], newer: &[u8]| [older, newer].concat();
    let options = |options: Options| {
        let options = options.durability(Durability::Buffered);
        options.merge_operator("add", add)
    };
    let mut world = World::new(options, 256 << 10);
    let merging = KeyspaceOptions::new().merge_operator("add");
    world.db.set_options(merging).unwrap();
    world.thread(|hands| {
        let far = Expiry::In(Duration::from_secs(1000));
        hands.db.put_expiring("k", "base", far).unwrap();
    });
    for _ in 0..2 {
        world.thread(|hands| {
            hands.db.merge("k", "+").unwrap();
            let mut batch = Batch::new();
            batch.merge("k", "+").put("other", "1");
            hands.db.write(batch).unwrap();
        });
    }
    let db = world.db.clone();
    world.join();
    let entry = db.get_entry("k").unwrap().unwrap();
    assert!(entry.value.starts_with(b"base"), "{entry:?}");
    assert!(entry.expires_at.is_some(), "it holds for ever: {entry:?}");
}

#[test]
fn a_merge_beside_the_first_value_that_expires_keeps_its_time() {
    check(2000, first_expiry);
}

fn two_compactions() {
    let mut world = World::new(|options| options, 256 << 10);
    for n in 0..3 {
        let batch = world.hands().pair(&value(0, n, 1), Durability::Buffered);
        world.db.write(batch).unwrap();
        world.db.flush().unwrap();
    }
    for _ in 0..2 {
        world.thread(|hands| while compact_once(&hands.db.shared(), true).unwrap() {});
    }
    world.thread(|hands| {
        let batch = hands.pair(&value(0, 3, 1), Durability::Buffered);
        hands.wrote(hands.db.write(batch).unwrap());
        hands.db.flush().unwrap();
    });
    world.thread(|hands| {
        let mut seen = SeqNo::ZERO;
        (0..2).for_each(|_| hands.look(&mut seen));
    });
    world.join();
    world.db.wait_idle().unwrap();
    let found = world.db.multi_get(["a", "b"]).unwrap();
    assert!(
        found
            .iter()
            .all(|found| found.as_deref() == Some(&value(0, 3, 1)[..]))
    );
}

#[test]
fn two_compactions_never_take_the_same_table() {
    check(1500, two_compactions);
}

fn segments_used_again() {
    // Each write nearly fills a segment: what a flush releases is soon wanted again.
    let mut world = World::new(|options| options, 4096);
    for writer in 0..2u64 {
        world.writer(move |hands| {
            for n in 0..3u64 {
                let mut batch = Batch::new();
                let durability = [Durability::Sync, Durability::Buffered][n as usize % 2];
                batch
                    .put([writer as u8, n as u8], value(writer, n, 100))
                    .durability(durability);
                hands.wrote(hands.db.write(batch).unwrap());
            }
        });
    }
    world.thread(|hands| {
        for kept in [2, 0] {
            hands.db.shared().committer.seal();
            flush_once(&hands.db.shared(), true).unwrap();
            trim_log(&hands.db.shared(), kept).unwrap();
        }
    });
    world.log_thread();
    world.join();
    let disk = world.disk.clone();
    drop(world);
    let db = options(disk, 4096).open("/db").unwrap();
    for (writer, n) in (0..2u64).flat_map(|writer| (0..3u64).map(move |n| (writer, n))) {
        let found = db.get([writer as u8, n as u8]).unwrap();
        assert_eq!(
            found.as_deref(),
            Some(&value(writer, n, 100)[..]),
            "{writer} {n}"
        );
    }
}

#[test]
fn segments_are_made_ahead_and_used_again_beside_writers() {
    check(1500, segments_used_again);
}

fn tickets() {
    let mut world = World::new(|options| options, 256 << 10);
    let order = Arc::new(StdMutex::new(Vec::new()));
    for writer in 0..3u64 {
        let order = order.clone();
        world.writer(move |hands| {
            let durability = [Durability::Sync, Durability::Buffered][writer as usize % 2];
            let batch = hands.pair(&value(writer, 0, 1), durability);
            let mut ticket = hands.db.submit(batch).unwrap();
            // Somebody else asked first, and will not ask again.
            let mut context = Context::from_waker(Waker::noop());
            let first = std::pin::Pin::new(&mut ticket).poll(&mut context);
            let seq = match first {
                Poll::Ready(done) => done.unwrap(),
                Poll::Pending => shuttle::future::block_on(ticket).unwrap(),
            };
            hands.wrote(seq);
            order.lock().unwrap().push(seq);
            if durability == Durability::Sync {
                let stored = value(writer, 0, 1);
                assert!(
                    hands.disk.is_durable(&stored),
                    "acknowledged and not on disk"
                );
            }
        });
    }
    // Nobody waits for this one.
    world.writer(|hands| {
        drop(
            hands
                .db
                .submit(hands.pair(&value(9, 0, 1), Durability::Sync)),
        )
    });
    world.log_thread();
    world.join();
    assert_eq!(order.lock().unwrap().len(), 3);
    let mut seen = SeqNo::ZERO;
    world.hands().look(&mut seen);
}

#[test]
fn tickets_wake_whoever_asked_last() {
    check(3000, tickets);
}
