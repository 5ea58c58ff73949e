//! A write that is on its way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use terrace_base::{Result, SeqNo};

use crate::commit::Receipt;
use crate::engine::Engine;

/// What [`Db::submit`](crate::Db::submit) gives: the write is in the log and not yet done. Wait for it, or await
/// it from any runtime; dropping it cancels nothing.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// let db = terrace::Db::in_memory()?;
/// let mut batch = terrace::Batch::new();
/// batch.put("k", "v");
/// let ticket = db.submit(batch)?;
/// let version = ticket.wait()?;
/// assert_eq!(db.get_entry("k")?.unwrap().version, version);
/// # Ok(()) }
/// ```
#[must_use = "a submitted write is done only when its ticket is"]
pub struct Ticket {
    engine: Arc<Engine>,
    receipt: Receipt,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:?})", self.receipt.last)
    }
}

impl Ticket {
    pub(crate) fn new(engine: Arc<Engine>, receipt: Receipt) -> Ticket {
        Ticket { engine, receipt }
    }

    /// Waits until the write is visible and as durable as asked; its last sequence number.
    ///
    /// # Errors
    /// `ReadOnly` if the log failed meanwhile: the write may or may not be there when the database is opened
    /// again.
    pub fn wait(&self) -> Result<SeqNo> {
        self.engine.committer.wait_visible(self.receipt.last)?;
        Ok(self.receipt.last)
    }

    /// True once the write would survive a power cut.
    pub fn is_durable(&self) -> bool {
        self.engine.committer.is_durable(self.receipt.end)
    }
}

impl Future for Ticket {
    type Output = Result<SeqNo>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<SeqNo>> {
        let last = self.receipt.last;
        match self.engine.committer.poll_visible(last, context.waker()) {
            Some(result) => Poll::Ready(result.map(|()| last)),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;
    use std::thread::{self, Thread};
    use std::time::Duration;

    use super::*;
    use crate::{Batch, Db};

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn a_ticket_alone_is_woken_by_the_log_thread() {
        let db = Db::in_memory().unwrap();
        let mut batch = Batch::new();
        batch.put("k", "v");
        let mut ticket = db.submit(batch).unwrap();
        let waker = Arc::new(Unpark(thread::current())).into();
        let mut context = Context::from_waker(&waker);
        for _ in 0..2 {
            if let Poll::Ready(done) = Pin::new(&mut ticket).poll(&mut context) {
                assert_eq!(db.get_entry("k").unwrap().unwrap().version, done.unwrap());
                return;
            }
            thread::park_timeout(Duration::from_secs(20));
        }
        panic!("not woken");
    }
}
