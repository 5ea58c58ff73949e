//! Where and how a database is opened for a test: sizes so small that a few hundred operations cross seals,
//! images, folds, flushes, several levels and the recycling of log segments.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use terrace::clock::{Clock, ManualClock};
use terrace::vfs::Vfs;
use terrace::{Compression, Db, Durability, IoMode, Options};

use crate::generate::Random;
use crate::registered;

/// Who does the background's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Its threads.
    Threads,
    /// The caller of `flush`, `wait_idle` and `compact_all`: everything follows from the
    /// operations.
    Manual,
}

/// A compression that this build has, by a number below how many there are.
fn some_compression(below: impl FnOnce(usize) -> usize) -> Compression {
    let mut all = vec![Compression::Lz4, Compression::None, Compression::Zstd];
    all.retain(|compression| compression.check().is_ok());
    let chosen = below(all.len());
    all.get(chosen).copied().unwrap_or_default()
}

/// Where and how a database is opened.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The directory.
    pub dir: PathBuf,
    /// The file system; the operating system's if `None`.
    pub vfs: Option<Arc<dyn Vfs>>,
    /// The clock; the operating system's if `None`.
    pub clock: Option<Arc<dyn Clock>>,
    /// Who does the background's work.
    pub mode: Mode,
    /// Whether the default durability may be another than `Sync`.
    pub mixed_durability: bool,
    /// Whether recovery may hold so little of the log that it goes into tables even after a clean
    /// end.
    pub short_replays: bool,
}

impl Scenario {
    /// A database at `/db` of a file system for tests.
    pub fn on(vfs: Arc<dyn Vfs>, mode: Mode) -> Scenario {
        Scenario {
            dir: "/db".into(),
            vfs: Some(vfs),
            clock: None,
            mode,
            mixed_durability: true,
            short_replays: true,
        }
    }

    /// A database at `/data/db` of which everything follows from the operations: driven by hand,
    /// and no time passes.
    pub fn by_hand(vfs: Arc<dyn Vfs>) -> Scenario {
        Scenario {
            dir: "/data/db".into(),
            clock: Some(Arc::new(ManualClock::new(Duration::from_secs(1 << 30)))),
            ..Scenario::on(vfs, Mode::Manual)
        }
    }

    /// The same on another file system.
    pub fn elsewhere(&self, vfs: Arc<dyn Vfs>) -> Scenario {
        Scenario {
            vfs: Some(vfs),
            ..self.clone()
        }
    }

    /// A database in a directory of the operating system's.
    pub fn in_dir(dir: impl Into<PathBuf>, mode: Mode) -> Scenario {
        Scenario {
            dir: dir.into(),
            vfs: None,
            clock: None,
            mode,
            mixed_durability: true,
            short_replays: true,
        }
    }

    /// The durability that a database opened with `seed` has by default.
    pub fn durability(&self, seed: u64) -> Durability {
        let r = &mut Random::new(!seed);
        match r.below(if self.mixed_durability { 4 } else { 1 }) {
            0 | 1 => Durability::Sync,
            2 => Durability::Buffered,
            _ => Durability::Interval(Duration::from_millis(1 + r.below(20) as u64)),
        }
    }

    /// Tiny sizes that follow from `seed`, as do durability, compression and the way of reading.
    pub fn options(&self, seed: u64) -> Options {
        let r = &mut Random::new(seed);
        let options = registered(Options::new())
            .memory(8 << 20)
            .durability(self.durability(seed))
            .io(if r.one_in(2) {
                IoMode::Mmap
            } else {
                IoMode::Pread
            })
            .compression(some_compression(|n| r.below(n)))
            .tune(|tuning| {
                tuning.list_entries = 4 << r.below(5);
                tuning.memtable_bytes = Some(4096 << r.below(5));
                tuning.segment_bytes = (16 << 10, Some(16 << (10 + r.below(3))));
                tuning.table_bytes = 16 << 10;
                tuning.base_level_bytes = 64 << 10;
                tuning.level0_runs = 2 + r.below(3);
                tuning.manifest_bytes = [1 << 10, 4 << 10, 1 << 20][r.below(3)];
                tuning.manual = self.mode == Mode::Manual;
                tuning.blob_threshold = [100, 600, 2000, usize::MAX][r.below(4)];
                tuning.blob_bytes = 8192 << r.below(3);
                tuning.log_bytes = Some(4096 << r.below(8));
                let replayed = Some(4096 << r.below(10));
                tuning.replay_bytes = replayed.filter(|_| self.short_replays);
            });
        let options = match &self.clock {
            Some(clock) => options.clock(clock.clone()),
            None => options,
        };
        match &self.vfs {
            Some(vfs) => options.vfs(vfs.clone()),
            None => options,
        }
    }

    /// Opens the database with options that follow from `seed`.
    ///
    /// # Errors
    /// The database's.
    pub fn open(&self, seed: u64) -> terrace::Result<Db> {
        self.options(seed).open(&self.dir)
    }
}
