//! Waiting for a ticket as a runtime does: by polling it when it has been woken, and only then.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use terrace::{SeqNo, Ticket};

use crate::Outcome;

/// A waker that remembers.
#[derive(Debug, Default)]
struct Flag {
    woken: AtomicBool,
    lock: Mutex<()>,
    signal: Condvar,
}

impl Wake for Flag {
    fn wake(self: Arc<Flag>) {
        self.woken.store(true, Ordering::SeqCst);
        drop(self.lock.lock());
        self.signal.notify_all();
    }
}

/// Polls until the ticket is done, and only when woken.
pub(crate) fn block_on(
    mut ticket: Ticket,
    help: impl Fn() -> Outcome,
) -> Outcome<terrace::Result<SeqNo>> {
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(flag.clone());
    loop {
        let mut context = Context::from_waker(&waker);
        if let Poll::Ready(result) = Pin::new(&mut ticket).poll(&mut context) {
            return Ok(result);
        }
        help()?;
        let guard = flag.lock.lock().map_err(|error| error.to_string())?;
        let waited = flag
            .signal
            .wait_timeout_while(guard, Duration::from_secs(20), |()| {
                !flag.woken.load(Ordering::SeqCst)
            })
            .map_err(|error| error.to_string())?;
        if waited.1.timed_out() {
            return Err("a ticket was never woken".into());
        }
        flag.woken.store(false, Ordering::SeqCst);
    }
}
