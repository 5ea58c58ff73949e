//! What one round of `endure` does: drawn from a seed, and written as one argument that repeats it

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use terrace_kit::Random;

/// What half of the threads do; the others do a bit of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Focus {
    /// All threads do everything.
    Mixed,
    /// Random puts at full speed.
    Fill,
    /// A few keys that are overwritten all the time.
    Overwrite,
    /// Queues: appended at one end, popped at the other.
    Queue,
    /// Large values that are overwritten.
    Blobs,
    /// Range deletes, alone and in batches.
    Ranges,
    /// Keyspaces that are created, filled and dropped.
    Names,
    /// Many small ingests.
    Ingest,
    /// `compact_all`, `flush` and `wait_idle` beside writers at full speed.
    Compact,
    /// Large read sets in transactions.
    Transactions,
}

/// Every focus with its name.
const FOCUSES: [(&str, Focus); 10] = [
    ("mixed", Focus::Mixed),
    ("fill", Focus::Fill),
    ("overwrite", Focus::Overwrite),
    ("queue", Focus::Queue),
    ("blobs", Focus::Blobs),
    ("ranges", Focus::Ranges),
    ("names", Focus::Names),
    ("ingest", Focus::Ingest),
    ("compact", Focus::Compact),
    ("transactions", Focus::Transactions),
];

/// How fast the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speed {
    /// As it is.
    Plain,
    /// Each sync and each new file takes some milliseconds more.
    Slow,
    /// Now and then one call stalls for a second.
    Stall,
}

const SPEEDS: [(&str, Speed); 3] = [
    ("plain", Speed::Plain),
    ("slow", Speed::Slow),
    ("stall", Speed::Stall),
];

/// How durable writes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sync,
    Interval,
    Buffered,
}

const KINDS: [(&str, Kind); 3] = [
    ("sync", Kind::Sync),
    ("interval", Kind::Interval),
    ("buffered", Kind::Buffered),
];

/// The interval of [`Kind::Interval`].
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// One round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// `Options::memory`, in MiB.
    pub(crate) memory: u64,
    /// Threads that work, over all databases.
    pub(crate) threads: usize,
    pub(crate) databases: usize,
    pub(crate) focus: Focus,
    pub(crate) disk: Speed,
    pub(crate) durability: Kind,
    /// Tables are cut at this size, in KiB.
    pub(crate) table: u64,
    /// `RLIMIT_NOFILE`; 0: as it is.
    pub(crate) nofile: u64,
    /// For how many more threads `RLIMIT_NPROC` has room at first; 99: as it is.
    pub(crate) spare: u64,
    /// 1: databases are closed and opened again under load.
    pub(crate) reopens: u64,
    /// Seconds of load.
    pub(crate) seconds: u64,
    /// 1: bounds are checked; 0: only measured.
    pub(crate) bounds: u64,
    /// 1: the databases are watched without load at the end.
    pub(crate) idle: u64,
}

impl Scenario {
    /// The round that `seed` draws, with `seconds` of load.
    pub(crate) fn of(seed: u64, seconds: u64) -> Scenario {
        let mut random = Random::new(seed ^ 0x656e_6475_7265);
        let r = &mut random;
        r.number();
        Scenario {
            memory: [4, 16, 64][r.below(3)],
            threads: 1 << r.below(7),
            databases: [1, 1, 2, 3][r.below(4)],
            focus: FOCUSES[(seed as usize).wrapping_add(r.below(2)) % FOCUSES.len()].1,
            disk: [Speed::Plain, Speed::Plain, Speed::Slow, Speed::Stall][r.below(4)],
            durability: KINDS[r.below(3)].1,
            table: [256, 4096, 32 << 10][r.below(3)],
            nofile: [0, 0, 0, 128][r.below(4)],
            spare: [99, 99, 99, 0, 1, 2][r.below(6)],
            reopens: u64::from(!r.one_in(3)),
            seconds,
            bounds: 1,
            idle: 1,
        }
    }

    /// Changes what `at` names: parts such as `memory=4,threads=32`.
    pub(crate) fn with(mut self, at: &str) -> Result<Scenario, String> {
        for part in at.split(',').filter(|part| !part.is_empty()) {
            let wrong = || format!("--at {part}: not a part of a scenario such as `{self}`");
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let number = |at_least: u64| {
                let parsed = value.parse().ok();
                parsed.filter(|n| *n >= at_least).ok_or_else(wrong)
            };
            let count = || number(1).map(|n| n as usize);
            match name {
                "memory" => self.memory = number(4)?,
                "threads" => self.threads = count()?,
                "databases" => self.databases = count()?,
                "focus" => self.focus = named(&FOCUSES, value).ok_or_else(wrong)?,
                "disk" => self.disk = named(&SPEEDS, value).ok_or_else(wrong)?,
                "durability" => self.durability = named(&KINDS, value).ok_or_else(wrong)?,
                "table" => self.table = number(16)?,
                "nofile" => self.nofile = number(0)?,
                "spare" => self.spare = number(0)?,
                "reopens" => self.reopens = number(0)?,
                "seconds" => self.seconds = number(1)?,
                "bounds" => self.bounds = number(0)?,
                "idle" => self.idle = number(0)?,
                _ => return Err(wrong()),
            }
        }
        Ok(self)
    }

    /// True if `RLIMIT_NPROC` keeps the engine from starting threads at first.
    pub(crate) fn few_threads(&self) -> bool {
        self.spare < 99
    }
}

fn named<T: Copy>(names: &[(&str, T)], name: &str) -> Option<T> {
    let found = names.iter().find(|(other, _)| *other == name);
    found.map(|(_, value)| *value)
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    let found = names.iter().find(|(_, other)| other == value);
    found.map_or("?", |(name, _)| name)
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (focus, disk) = (name_of(&FOCUSES, &self.focus), name_of(&SPEEDS, &self.disk));
        let durability = name_of(&KINDS, &self.durability);
        write!(
            f,
            "memory={},threads={},databases={},focus={focus},disk={disk},durability={durability},\
             table={},nofile={},spare={},reopens={},seconds={},bounds={},idle={}",
            self.memory,
            self.threads,
            self.databases,
            self.table,
            self.nofile,
            self.spare,
            self.reopens,
            self.seconds,
            self.bounds,
            self.idle,
        )
    }
}

impl FromStr for Scenario {
    type Err = String;

    /// Reads what a [`Scenario`] prints.
    fn from_str(text: &str) -> Result<Scenario, String> {
        Scenario::of(0, 1).with(text)
    }
}

#[cfg(test)]
mod tests {
    use super::Scenario;

    #[test]
    fn what_is_printed_is_read_back() {
        for seed in 0..50 {
            let drawn = Scenario::of(seed, 10);
            assert_eq!(drawn.to_string().parse(), Ok(drawn));
        }
        assert!("memory=1".parse::<Scenario>().is_err());
        assert!("focus=nothing".parse::<Scenario>().is_err());
    }
}
