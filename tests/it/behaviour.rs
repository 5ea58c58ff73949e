//! What callers may rely on beside the answers: what goes on after `close`, what is deleted when, what runs under
//! no lock.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs};
use terrace::{Batch, Db, Durability, ErrorKind, Options, Ticket};
use terrace_kit::{Mode, Scenario};

fn kind<T: std::fmt::Debug>(result: terrace::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Waits for what happens in the background.
fn soon(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn batch(key: &str, value: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(key, value);
    batch
}

#[test]
fn a_closure_over_a_value_may_use_the_database() {
    for flushed in [false, true] {
        let db = Db::in_memory().unwrap();
        db.put("k", "old").unwrap();
        if flushed {
            db.compact_all().unwrap();
        }
        let seen = db
            .get_with("k", |value| {
                db.put("k", "new").unwrap();
                db.flush().unwrap();
                db.compact_all().unwrap();
                assert_eq!(db.get("k").unwrap().unwrap(), "new");
                let inner = db.get_with("k", <[u8]>::to_vec).unwrap().unwrap();
                assert_eq!(inner, b"new");
                db.close().unwrap();
                assert_eq!(kind(db.get("k")), ErrorKind::Closed);
                value.to_vec()
            })
            .unwrap();
        assert_eq!(seen.unwrap(), b"old");
    }
}

#[test]
fn a_closure_may_panic_and_the_database_goes_on() {
    let db = Db::in_memory().unwrap();
    db.put("k", "v").unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        db.get_with("k", |_| panic!("the user's own"))
    }));
    assert!(panicked.is_err());
    db.put("k", "w").unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "w");
    db.health().unwrap();
}

#[test]
fn close_is_final_idempotent_and_spares_what_is_being_read() {
    let db = Db::in_memory().unwrap();
    let users = db.keyspace("users").unwrap();
    for i in 0..100 {
        users.put([i], [i; 2000]).unwrap();
    }
    db.compact_all().unwrap();
    for i in 100..200 {
        users.put([i], [i; 2000]).unwrap();
    }
    let (mut begun, fresh) = (users.iter(), users.range([50]..));
    begun.next().unwrap().unwrap();
    let (mut cursor, unused) = (users.cursor(), users.cursor());
    cursor.seek([120]).unwrap();
    let (old, new) = (
        users.get([7]).unwrap().unwrap(),
        users.get([170]).unwrap().unwrap(),
    );
    let (snapshot, clone, ticket) = (users.snapshot(), db.clone(), db.submit(batch("k", "v")));

    db.close().unwrap();
    db.close().unwrap();
    clone.close().unwrap();
    assert_eq!(kind(clone.health()), ErrorKind::Closed);
    assert_eq!(kind(clone.keyspaces()), ErrorKind::Closed);
    assert_eq!(kind(clone.keyspace("users")), ErrorKind::Closed);
    assert_eq!(kind(clone.keyspace("new")), ErrorKind::Closed);
    assert_eq!(kind(clone.drop_keyspace("users")), ErrorKind::Closed);
    assert_eq!(kind(clone.write(batch("k", "v"))), ErrorKind::Closed);
    assert_eq!(kind(clone.write(Batch::new())), ErrorKind::Closed);
    assert_eq!(kind(clone.submit(batch("k", "v"))), ErrorKind::Closed);
    assert_eq!(kind(clone.submit(Batch::new())), ErrorKind::Closed);
    assert_eq!(kind(clone.sync()), ErrorKind::Closed);
    assert_eq!(kind(clone.flush()), ErrorKind::Closed);
    assert_eq!(kind(clone.wait_idle()), ErrorKind::Closed);
    assert_eq!(kind(clone.compact_all()), ErrorKind::Closed);
    assert_eq!(kind(users.compact(..)), ErrorKind::Closed);
    assert_eq!(kind(users.put("k", "v")), ErrorKind::Closed);
    assert_eq!(kind(users.get("k")), ErrorKind::Closed);
    assert_eq!(kind(users.cursor().first()), ErrorKind::Closed);
    let mut iter = snapshot.iter();
    assert_eq!(kind(iter.next().unwrap()), ErrorKind::Closed);
    assert!(iter.next().is_none());
    assert_eq!(kind(users.snapshot().get("k")), ErrorKind::Closed);
    drop((clone.options(), clone.stats()));

    assert_eq!(begun.map(Result::unwrap).count(), 199);
    assert_eq!(fresh.rev().map(Result::unwrap).count(), 150);
    assert!(cursor.prev().unwrap() && cursor.value().unwrap() == [119; 2000]);
    assert!({ unused }.last().unwrap());
    assert_eq!(
        (old.as_ref(), new.as_ref()),
        (&[7; 2000][..], &[170; 2000][..])
    );
    ticket.unwrap().wait().unwrap();
}

#[test]
fn two_threads_may_close_at_once() {
    for _ in 0..20 {
        let db = Db::in_memory().unwrap();
        db.put("k", "v").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| db.close().unwrap());
            }
            scope.spawn(|| while db.put("k", "v").is_ok() {});
            scope.spawn(|| while db.flush().is_ok() {});
            scope.spawn(|| while db.compact_all().is_ok() {});
        });
        assert_eq!(kind(db.put("k", "v")), ErrorKind::Closed);
    }
}

#[test]
fn two_databases_live_in_one_thread() {
    let (a, b) = (Db::in_memory().unwrap(), Db::in_memory().unwrap());
    for i in 0..100u8 {
        a.put([i], "a").unwrap();
        b.put([i], "b").unwrap();
    }
    let mut both = a.iter().zip(b.iter());
    assert!(both.all(|(a, b)| a.unwrap().1 == "a" && b.unwrap().1 == "b"));
    let nested = a.get_with([1], |_| b.get_with([2], |value| value.to_vec()).unwrap());
    assert_eq!(nested.unwrap().unwrap().unwrap(), b"b");
    a.close().unwrap();
    assert_eq!(b.iter().count(), 100);
    b.put("more", "").unwrap();
}

fn tables(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap();
    let is_table = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".sst");
    names
        .map(|entry| entry.unwrap().file_name())
        .filter(is_table)
        .count()
}

fn listed(db: &Db) -> usize {
    db.stats().levels.iter().map(|level| level.tables).sum()
}

/// Threads that have read keep nothing of what they read when they do nothing.
#[test]
fn replaced_tables_leave_the_directory_though_readers_still_live() {
    let home = tempfile::tempdir().unwrap();
    let scenario = Scenario::in_dir(home.path().join("db"), Mode::Threads);
    let db = scenario.open(4).unwrap();
    let dir = &scenario.dir;
    for round in 0..4 {
        for i in 0..500 {
            db.write(batch(&format!("{i:04}"), &format!("{round}").repeat(100)))
                .unwrap();
        }
        db.flush().unwrap();
    }
    let read = Barrier::new(4);
    std::thread::scope(|scope| {
        let mut ends = Vec::new();
        for _ in 0..3 {
            let (db, read) = (&db, &read);
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            scope.spawn(move || {
                assert_eq!(db.iter().map(Result::unwrap).count(), 500);
                assert!(db.get("0001").unwrap().is_some());
                db.get_with("0002", <[u8]>::len).unwrap();
                read.wait();
                ended.recv().unwrap_err(); // It lives on until `ends` is gone.
            });
        }
        read.wait();
        let kept = db.iter();
        for i in 0..500 {
            db.write(batch(&format!("{i:04}"), "new")).unwrap();
        }
        db.compact_all().unwrap();
        assert!(tables(dir) > listed(&db), "an iterator keeps its tables");
        assert_eq!(
            kept.map(Result::unwrap)
                .filter(|(_, v)| v.len() == 100)
                .count(),
            500
        );
        // It is gone now; the next job, or a moment, takes them away.
        soon("the files stay", || tables(dir) == listed(&db));

        for i in 0..500 {
            db.delete(format!("{i:04}")).unwrap();
        }
        db.compact_all().unwrap();
        // A look at blob files in the background may hold the tables for a moment.
        soon("tables stay without an iterator", || {
            (tables(dir), listed(&db)) == (0, 0)
        });
        drop(ends);
    });
}

#[test]
fn a_large_value_outlives_its_table_and_its_database() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path().join("db")).unwrap();
    db.put("k", vec![9; 100_000]).unwrap();
    db.compact_all().unwrap();
    let value = db.get("k").unwrap().unwrap();
    db.delete("k").unwrap();
    db.compact_all().unwrap();
    db.close().unwrap();
    drop(db);
    std::fs::remove_dir_all(home.path().join("db")).unwrap();
    assert!(value.iter().all(|&byte| byte == 9));
}

#[test]
fn what_was_written_at_intervals_is_synced_by_itself() {
    let wait = Duration::from_millis(40);
    let vfs = MemVfs::crashable(1);
    let options = Options::new().vfs(vfs.clone());
    let lost = |key: &str| {
        let cut = vfs.image(ImageKind::Cut, CrashPolicy::DropAll, 1);
        let db = Options::new().vfs(cut).read_only(true).open("/db").unwrap();
        !db.contains_key(key).unwrap()
    };
    let db = options
        .clone()
        .durability(Durability::Interval(wait))
        .open("/db")
        .unwrap();
    for key in ["a", "b"] {
        db.put(key, "v").unwrap();
        let start = Instant::now();
        soon("no sync", || !lost(key));
        assert!(start.elapsed() < wait * 25, "{:?}", start.elapsed()); // Machines stall.
    }
    db.close().unwrap();

    // The same for a batch that asks for it where the default is another.
    for durability in [Durability::Sync, Durability::Buffered] {
        let db = options.clone().durability(durability).open("/db").unwrap();
        let key = format!("{durability:?}");
        let mut one = batch(&key, "v");
        one.durability(Durability::Interval(wait));
        db.write(one).unwrap();
        soon("no sync of a batch's own interval", || !lost(&key));
        db.close().unwrap();
    }
}

#[test]
fn buffered_writes_wait_for_a_sync_and_are_seen_at_once() {
    let vfs = MemVfs::crashable(1);
    let db = Options::new()
        .vfs(vfs.clone())
        .durability(Durability::Buffered)
        .open("/db")
        .unwrap();
    db.put("k", "v").unwrap();
    let ticket = db.submit(batch("l", "v")).unwrap();
    ticket.wait().unwrap();
    assert!(!ticket.is_durable());
    assert_eq!(db.iter().count(), 2);
    db.sync().unwrap();
    assert!(ticket.is_durable());
    let cut = vfs.image(ImageKind::Cut, CrashPolicy::DropAll, 1);
    assert_eq!(
        Options::new().vfs(cut).open("/db").unwrap().iter().count(),
        2
    );
}

/// A waker that does what wakers should not, and may.
struct Busy {
    db: Db,
    woken: AtomicUsize,
    done: mpsc::Sender<()>,
}

impl Wake for Busy {
    fn wake(self: Arc<Busy>) {
        self.db.stats();
        self.db.put("from", "a waker").unwrap();
        self.db.sync().unwrap();
        self.woken.fetch_add(1, Ordering::SeqCst);
        self.done.send(()).unwrap();
    }
}

fn poll(ticket: &mut Ticket, waker: &Waker) -> Poll<terrace::Result<terrace::SeqNo>> {
    std::pin::Pin::new(ticket).poll(&mut Context::from_waker(waker))
}

/// Nobody else has written, so no thread runs yet that could sync.
#[test]
fn a_ticket_completes_by_itself_though_it_is_the_first_write() {
    let db = Db::in_memory().unwrap();
    let (sender, woken) = mpsc::channel();
    struct Tell(mpsc::Sender<()>);
    impl Wake for Tell {
        fn wake(self: Arc<Tell>) {
            self.0.send(()).unwrap();
        }
    }
    let waker = Waker::from(Arc::new(Tell(sender)));
    let mut ticket = db.submit(batch("k", "v")).unwrap();
    let mut first = poll(&mut ticket, &waker);
    if first.is_pending() {
        woken.recv_timeout(Duration::from_secs(10)).unwrap();
        first = poll(&mut ticket, &waker);
    }
    assert!(matches!(first, Poll::Ready(Ok(_))));
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
}

#[test]
fn a_waker_runs_under_no_lock() {
    let db = Db::in_memory().unwrap();
    let (done, woken) = mpsc::channel();
    let busy = Arc::new(Busy {
        db: db.clone(),
        woken: AtomicUsize::new(0),
        done,
    });
    let waker = Waker::from(busy.clone());
    let mut tickets: Vec<Ticket> = (0..5)
        .map(|i| db.submit(batch(&format!("{i}"), "v")).unwrap())
        .collect();
    let pending = tickets
        .iter_mut()
        .map(|ticket| poll(ticket, &waker))
        .filter(Poll::is_pending);
    for _ in 0..pending.count() {
        woken
            .recv_timeout(Duration::from_secs(10))
            .expect("a waker hangs");
    }
    for mut ticket in tickets {
        assert!(matches!(poll(&mut ticket, &waker), Poll::Ready(Ok(_))));
    }
    assert!(busy.db.iter().count() >= 5);
}

#[test]
fn a_panic_in_a_waker_is_no_failure_of_the_write() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Panics>) {
            panic!("the user's own");
        }
    }
    let db = Db::in_memory().unwrap();
    let waker = Waker::from(Arc::new(Panics));
    for i in 0..20 {
        let mut ticket = db.submit(batch(&format!("{i}"), "v")).unwrap();
        drop(poll(&mut ticket, &waker));
        db.put("k", "v").unwrap();
        ticket.wait().unwrap();
    }
    db.health().unwrap();
    assert_eq!(db.count(..).unwrap(), 21);
}
