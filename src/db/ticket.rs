//! A write that is on its way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use terrace_base::{Result, SeqNo};

use crate::commit::committer::Receipt;
use crate::engine::Engine;

/// What [`Db::submit`](crate::Db::submit) gives: the write is in the log and not yet done. Wait for
/// it, or await it from any runtime; dropping it cancels nothing.
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
    /// `ReadOnly` if the log failed meanwhile: the write may or may not be there when the database
    /// is opened again.
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
#[path = "ticket_tests.rs"]
mod tests;
