//! Tickets: who completes them, and what a waker may do.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::{Batch, Db};

/// Long enough for any machine; only a hang takes it.
const HANGS: Duration = Duration::from_secs(30);

struct Notify(Mutex<Sender<()>>);

impl Wake for Notify {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap().send(()).ok();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let (send, receive) = mpsc::channel();
    let waker = Waker::from(Arc::new(Notify(Mutex::new(send))));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => receive.recv_timeout(HANGS).expect("nobody woke the ticket"),
        }
    }
}

fn batch(key: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(key, "v");
    batch
}

#[test]
fn a_ticket_can_be_awaited_when_nothing_else_was_ever_written() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let ticket = db.submit(batch("k")).unwrap();
    let version = block_on(ticket).unwrap();
    assert_eq!(db.get_entry("k").unwrap().unwrap().version, version);
}

#[test]
fn a_ticket_outlives_the_handles_and_ends_with_close() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let tickets = [
        db.submit(batch("a")).unwrap(),
        db.submit(batch("b")).unwrap(),
    ];
    drop(db);
    for ticket in tickets {
        block_on(ticket).unwrap();
    }
    let db = Db::open(dir.path()).unwrap();
    assert!(db.contains_key("a").unwrap() && db.contains_key("b").unwrap());
}

/// A waker that uses the database right where it is called.
struct Inline {
    db: Db,
    done: Mutex<Sender<()>>,
    used: AtomicBool,
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        if !self.used.swap(true, Ordering::Relaxed) {
            self.db.put("from the waker", "v").unwrap();
            self.done.lock().unwrap().send(()).ok();
        }
    }
}

#[test]
fn a_waker_is_called_under_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let (send, receive) = mpsc::channel();
    let waker = Waker::from(Arc::new(Inline {
        db: db.clone(),
        done: Mutex::new(send),
        used: AtomicBool::new(false),
    }));
    loop {
        let mut ticket = pin!(db.submit(batch("k")).unwrap());
        match ticket.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => drop(result.unwrap()), // Somebody synced in between: again.
            Poll::Pending => break,
        }
    }
    receive.recv_timeout(HANGS).expect("the waker hangs");
    assert!(db.contains_key("from the waker").unwrap());
}
