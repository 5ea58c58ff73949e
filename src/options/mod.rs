//! How a database is opened.

pub(crate) mod keyspace;
pub(crate) mod registry;
#[cfg(feature = "serde")]
mod serde;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use terrace_base::vfs::{OsVfs, Vfs};
use terrace_base::{Clock, Error, Result, SystemClock, mutant};
pub use terrace_sstable::{Compression, IoMode};

use crate::options::registry::Registered;

/// When a write counts as done.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the log has been synced: it survives a power cut. Concurrent writers share syncs.
    #[default]
    Sync,
    /// When the log has been written: it survives the death of the process at once, and a power cut
    /// once it is this old; the log is synced when its oldest unsynced write is half as old, and
    /// writers wait while it is older.
    Interval(Duration),
    /// When the log has been written: it survives the death of the process, and a power cut only
    /// after the next [`Db::sync`](crate::Db::sync) or write under `Sync`.
    Buffered,
}

/// Options of a database. The defaults are meant to be kept.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use terrace::{Durability, Options};
/// let db = Options::new().durability(Durability::Buffered).memory(64 << 20).open(dir.path())?;
/// db.put("k", "v")?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) durability: Durability,
    pub(crate) memory: Option<u64>,
    pub(crate) compression: Compression,
    pub(crate) io: IoMode,
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) registered: Registered,
    pub(crate) tuning: Tuning,
}

/// Sizes that follow from [`Options::memory`], or that a test makes small. Not part of the API.
#[doc(hidden)]
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Sealed memory at which a flush is due.
    pub memtable_bytes: Option<u64>,
    /// Memory for what has been written and not flushed; by default a quarter of all, at most 256
    /// MiB.
    pub write_budget: Option<u64>,
    /// Log above the tables at which a flush is due.
    pub log_bytes: Option<u64>,
    /// What recovery holds of the log at a time.
    pub replay_bytes: Option<u64>,
    /// Entries at which a list is sealed.
    pub list_entries: usize,
    /// Size of the first log segment, and of the largest; multiples of 4096.
    pub segment_bytes: (u64, Option<u64>),
    /// Size at which tables are cut.
    pub table_bytes: u64,
    /// Most bytes of the first level below level 0.
    pub base_level_bytes: u64,
    /// Level-0 runs at which compaction is due.
    pub level0_runs: usize,
    /// Size from which a manifest is written anew, once it is four times its first edit.
    pub manifest_bytes: u64,
    /// Most bytes of the reserve for a full disk; by default `memtable_bytes` and a list.
    pub reserve_bytes: Option<u64>,
    /// From how many bytes on values go into blob files, where a keyspace does not say.
    pub blob_threshold: usize,
    /// Size at which a blob file is full.
    pub blob_bytes: u64,
    /// No background threads: `flush`, `wait_idle` and `compact_all` do their work on the caller's
    /// thread, and nothing happens without them.
    pub manual: bool,
    /// How many more threads the database can start, as if the system allowed no more; `None`: no
    /// such limit.
    pub spare_threads: Option<&'static AtomicUsize>,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            memtable_bytes: None,
            write_budget: None,
            log_bytes: None,
            replay_bytes: None,
            list_entries: LIST_ENTRIES,
            segment_bytes: (64 << 10, None),
            table_bytes: 32 << 20,
            base_level_bytes: 256 << 20,
            level0_runs: 4,
            manifest_bytes: 1 << 20,
            reserve_bytes: None,
            blob_threshold: DEFAULT_THRESHOLD,
            blob_bytes: 64 << 20,
            manual: false,
            spare_threads: None,
        }
    }
}

/// Entries at which a list is sealed.
pub(crate) const LIST_ENTRIES: usize = 16 * 1024;
/// Bytes at which a list is sealed.
pub(crate) const LIST_BYTES: usize = 2 << 20;
/// Values from this length on go into blob files by default.
const DEFAULT_THRESHOLD: usize = 4096;

/// Least memory that a database can be given.
const MIN_MEMORY: u64 = 4 << 20;
const MAX_DEFAULT_MEMORY: u64 = 1 << 30;
/// A smaller list would be sealed after a few hundred entries, and then rewritten as an image.
const SMALLEST_LIST: u64 = 256 << 10;
/// With less for a job, tables would hold a few thousand keys, and be written in small pieces.
const SMALLEST_JOB: u64 = 128 << 10;
/// Log segments grow up to this. An idle database keeps two.
const LARGEST_SEGMENT: u64 = 16 << 20;

impl Default for Options {
    fn default() -> Options {
        Options {
            durability: Durability::default(),
            memory: None,
            compression: Compression::default(),
            io: IoMode::default(),
            create: true,
            read_only: false,
            vfs: Arc::new(OsVfs),
            clock: Arc::new(SystemClock::default()),
            registered: Registered::default(),
            tuning: Tuning::default(),
        }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Options {
        Options::default()
    }

    /// When a write counts as done; [`Durability::Sync`] by default.
    pub fn durability(mut self, durability: Durability) -> Options {
        self.durability = durability;
        self
    }

    /// Bytes of anonymous memory to use: a quarter for writes (at most 256 MiB), half as much for
    /// jobs at work, the rest for cached blocks and open tables. Beside it come what calls are
    /// given and give back, and what iterators pin; `docs/limits.md` has the figures. What open
    /// tables hold of their indexes is at most half of that rest, beside those that are being read:
    /// with [`IoMode::Pread`] and data of more than some fifty times this, a read may have to open
    /// its table first. By default a quarter of the machine's memory or of the control group's
    /// limit, at most 1 GiB. Below 4 MiB opening fails with `Invalid`.
    pub fn memory(mut self, bytes: u64) -> Options {
        self.memory = Some(bytes);
        self
    }

    /// Compression of the last level, where most data lies; LZ4 by default, and a keyspace may have
    /// its own ([`KeyspaceOptions::compression`](crate::KeyspaceOptions::compression)). Levels
    /// above are not compressed. It may differ from one opening to the next;
    /// [`Db::compact_all`](crate::Db::compact_all) packs anew what lies there otherwise.
    /// [`Compression::Zstd`] needs feature `zstd`, or opening fails with `Unsupported`.
    pub fn compression(mut self, compression: Compression) -> Options {
        self.compression = compression;
        self
    }

    /// How tables are read; mapped by default.
    pub fn io(mut self, mode: IoMode) -> Options {
        self.io = mode;
        self
    }

    /// Whether to create the database where there is none, which is the default; else opening fails
    /// with `NotFound`.
    pub fn create(mut self, yes: bool) -> Options {
        self.create = yes;
        self
    }

    /// Whether to open without changing any file: writes fail with `ReadOnly`, and what the log
    /// holds is read into memory. Several read-only handles may share a directory, but none with a
    /// writer.
    pub fn read_only(mut self, yes: bool) -> Options {
        self.read_only = yes;
        self
    }

    /// The merge operator `name`, for keyspaces whose options say that name. `f` gets key, older
    /// and newer, and returns what the two are together; older and newer are values or operands. It
    /// must be associative: `f(f(a, b), c)` is `f(a, f(b, c))`, for that is how operands are
    /// combined before the value below them is known. A key without a value has the first operand
    /// as its value.
    ///
    /// `f` runs in reads and in the background, under no lock; it may read, and must not write. If
    /// it panics, reads of that key are `Other`, what was written stays as it was, and
    /// [`Db::health`](crate::Db::health) reports it.
    ///
    /// Operators are not stored: every opening has to bring along those that keyspaces name, or
    /// fails with `Unsupported`.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// use terrace::{KeyspaceOptions, Options};
    /// let longest = |_: &[u8], a: &[u8], b: &[u8]| match a.len() >= b.len() {
    ///     true => a.to_vec(),
    ///     false => b.to_vec(),
    /// };
    /// let db = Options::new().merge_operator("longest", longest).open_in_memory()?;
    /// let words = db.create_keyspace("words", KeyspaceOptions::new().merge_operator("longest"))?;
    /// for word in ["terrace", "tree", "table"] {
    ///     words.merge(&word[..1], word)?;
    /// }
    /// assert_eq!(words.get("t")?.unwrap(), "terrace");
    /// # Ok(()) }
    /// ```
    pub fn merge_operator(
        mut self,
        name: &str,
        f: impl Fn(&[u8], &[u8], &[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Options {
        self.registered.operators.insert(name.into(), Arc::new(f));
        self
    }

    /// The compaction filter `name`, for keyspaces whose options say that name. `keep` gets key and
    /// value of entries that compactions come across; those for which it says false are removed
    /// then. That is sooner or later, and not at all while a snapshot lives: it is for entries that
    /// no reader needs any more. A snapshot that is taken while a compaction runs may see an entry
    /// go. Values that expire are not shown to it.
    ///
    /// If `keep` panics, the entry stays, and [`Db::health`](crate::Db::health) reports it.
    /// Filters are not stored: every opening has to bring along those that keyspaces name, or fails
    /// with `Unsupported`.
    pub fn compaction_filter(
        mut self,
        name: &str,
        keep: impl Fn(&[u8], &[u8]) -> bool + Send + Sync + 'static,
    ) -> Options {
        self.registered.filters.insert(name.into(), Arc::new(keep));
        self
    }

    /// The file system to use instead of the operating system's.
    #[cfg(feature = "testing")]
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> Options {
        self.vfs = vfs;
        self
    }

    /// The clock to use instead of the operating system's.
    #[cfg(feature = "testing")]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Options {
        self.clock = clock;
        self
    }

    /// Changes sizes that follow from the options, for tests. Not part of the API.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn tune(mut self, change: impl FnOnce(&mut Tuning)) -> Options {
        change(&mut self.tuning);
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.compression.check()?;
        if self.memory.is_some_and(|bytes| bytes < MIN_MEMORY) {
            return Err(Error::invalid(
                "Options::memory must be at least 4 MiB (4194304)",
            ));
        }
        if let Durability::Interval(interval) = self.durability
            && interval.is_zero()
        {
            return Err(Error::invalid(
                "Durability::Interval must be longer than zero; or use Sync",
            ));
        }
        Ok(())
    }

    /// The options as they are in force: what was left open is filled in.
    pub(crate) fn resolved(mut self) -> Options {
        let memory = self.memory.unwrap_or_else(default_memory);
        self.memory = Some(memory);
        let tuning = &mut self.tuning;
        let write_budget = tuning.write_budget.unwrap_or(write_budget(memory));
        let memtable = *tuning
            .memtable_bytes
            .get_or_insert((64 << 20).min(write_budget / 3));
        let piece = memtable.max(LIST_BYTES as u64);
        tuning.log_bytes.get_or_insert(2 * piece);
        tuning.replay_bytes.get_or_insert(piece);
        let largest = LARGEST_SEGMENT
            .min((memory / 4).next_power_of_two() / 2)
            .max(tuning.segment_bytes.0);
        tuning.segment_bytes.1.get_or_insert(largest);
        self
    }

    pub(crate) fn memory_in_force(&self) -> u64 {
        self.memory.unwrap_or(MAX_DEFAULT_MEMORY)
    }

    /// Memory for what has been written and not flushed.
    pub(crate) fn write_budget(&self) -> u64 {
        let budget = self.tuning.write_budget;
        budget.unwrap_or_else(|| write_budget(self.memory_in_force()))
    }

    pub(crate) fn memtable_bytes(&self) -> u64 {
        self.tuning.memtable_bytes.unwrap_or(64 << 20)
    }

    /// Log above the tables at which a flush is due, however little of it is in memory.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.tuning.log_bytes.unwrap_or(128 << 20)
    }

    /// What recovery holds of the log at a time.
    pub(crate) fn replay_bytes(&self) -> u64 {
        self.tuning.replay_bytes.unwrap_or(64 << 20)
    }

    /// Bytes at which a list is sealed: an eighth of the write budget, so that the list that takes
    /// writes and the one that becomes an image are a small part of it.
    pub(crate) fn list_bytes(&self) -> usize {
        let bytes = (self.write_budget() / 8).clamp(SMALLEST_LIST, LIST_BYTES as u64);
        match mutant("lists-without-end") {
            true => LIST_BYTES,
            false => bytes as usize,
        }
    }

    /// What one job may hold in memory: half of the write budget is for all of them.
    pub(crate) fn job_memory(&self) -> u64 {
        (self.write_budget() / 2 / job_threads()).max(SMALLEST_JOB)
    }

    pub(crate) fn largest_segment(&self) -> u64 {
        self.tuning.segment_bytes.1.unwrap_or(LARGEST_SEGMENT)
    }
}

/// Threads that compact.
pub(crate) fn compactors() -> usize {
    let cores = match cfg!(terrace_shuttle) {
        true => 2, // The same schedules on every machine.
        false => std::thread::available_parallelism().map_or(1, usize::from),
    };
    cores.saturating_sub(1).clamp(1, 4)
}

/// How many jobs that write tables run at once: flushes are one at a time.
fn job_threads() -> u64 {
    1 + compactors() as u64
}

fn write_budget(memory: u64) -> u64 {
    (memory / 4).min(256 << 20)
}

/// A quarter of the memory that this process may use, at most 1 GiB.
fn default_memory() -> u64 {
    let quarter = available_memory().map_or(MAX_DEFAULT_MEMORY, |bytes| bytes / 4);
    quarter.clamp(MIN_MEMORY, MAX_DEFAULT_MEMORY)
}

#[cfg(target_os = "linux")]
#[allow(clippy::disallowed_methods)] // Facts about the machine, not files of a database.
fn available_memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let total = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
    });
    let limit = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .into_iter()
    .filter_map(|path| read(path)?.trim().parse::<u64>().ok())
    .min();
    [total, limit].into_iter().flatten().min()
}

#[cfg(not(target_os = "linux"))]
fn available_memory() -> Option<u64> {
    None
}
