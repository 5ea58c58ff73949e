//! How much a range holds, as callers ask for it

use terrace_base::Result;

use crate::bounds::{KeyBounds, half_open};
use crate::db::keyspace::Keyspace;
use crate::logging::damage;
use crate::read::estimate::Estimate;
use crate::read::range_deletes::Deleted;

impl Keyspace {
    /// About how many entries a range has, without reading them; never less than it has.
    ///
    /// On a settled database the estimate is above the exact [`count`](Keyspace::count) by less
    /// than the entries of two blocks (8 KiB, or what the keyspace says). Before merges have been
    /// done, it also counts older versions, and values that were deleted or have expired; a range
    /// delete takes effect at once if it covers the range. It costs some microseconds for each run,
    /// however long the range is, and up to some milliseconds for what is in memory.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// let db = terrace::Db::in_memory()?;
    /// db.ingest((0..10_000u32).map(|n| (n.to_be_bytes(), "value")))?;
    /// let about = db.approximate_count(1_000u32.to_be_bytes()..6_000u32.to_be_bytes())?;
    /// assert!((5_000..7_000).contains(&about), "{about}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `NotFound` if the keyspace was dropped, `Corruption` or `Io` if a table at an end of the
    /// range cannot be opened, `Closed` after `close`.
    pub fn approximate_count(&self, range: impl KeyBounds) -> Result<u64> {
        self.estimate(&range).map(|(entries, _)| entries)
    }

    /// About how many bytes a range takes: in tables as they are stored, and in memory what is not
    /// in tables yet. It is as exact as [`approximate_count`](Keyspace::approximate_count): whole
    /// blocks.
    ///
    /// # Errors
    /// As for [`approximate_count`](Keyspace::approximate_count).
    pub fn approximate_size(&self, range: impl KeyBounds) -> Result<u64> {
        self.estimate(&range).map(|(_, bytes)| bytes)
    }

    fn estimate(&self, range: &impl KeyBounds) -> Result<(u64, u64)> {
        let engine = self.handle.engine();
        engine.check_open()?;
        self.state.check_alive()?;
        let Some((lower, upper)) = half_open(range) else {
            return Ok((0, 0));
        };
        // The view comes first and the sequence number second: see `crate::read::view`.
        let view = engine.views.cell.load_full();
        let mut estimate = Estimate {
            keyspace: self.state.id,
            lower: &lower,
            upper: upper.as_deref(),
            at: engine.committer.visible(),
            deleted: Deleted::default(),
            entries: 0,
            bytes: 0,
        };
        estimate.add_view(&view).inspect_err(damage)?;
        Ok((estimate.entries, estimate.bytes))
    }
}
