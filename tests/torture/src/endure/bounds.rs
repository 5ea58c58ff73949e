//! What a database may use while it runs: one table of bounds, each a formula with a name
//!
//! `docs/limits.md` states the same formulas for users, in the same order; a test compares the two.
//! `endure` takes a sample each second and checks every bound. A value over its bound in one sample
//! is a failure.

use std::{fmt, thread};

use terrace::Stats;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// The sizes of a database that the formulas refer to, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// `Options::memory`.
    pub(crate) memory: u64,
    /// Where tables are cut.
    pub(crate) table: u64,
    /// The largest frame that the load writes to the log.
    pub(crate) write: u64,
}

impl Sizes {
    /// What may be written and not flushed: a quarter of `memory`.
    pub(crate) fn budget(&self) -> u64 {
        (self.memory / 4).min(256 * MIB)
    }

    /// Where a flush is due: a third of that.
    pub(crate) fn memtable(&self) -> u64 {
        (self.budget() / 3).min(64 * MIB)
    }

    /// Log above the tables at which a flush is due, however little is in memory.
    pub(crate) fn log(&self) -> u64 {
        (2 * self.memtable()).max(4 * MIB)
    }

    /// The largest log segment.
    pub(crate) fn segment(&self) -> u64 {
        (16 * MIB).min((self.memory / 4).next_power_of_two() / 2)
    }

    /// What blocks and open tables share.
    pub(crate) fn cache(&self) -> u64 {
        self.memory - self.budget() * 3 / 2
    }

    /// How many keys a table may have: a job holds 16 bytes for each in half of its memory.
    pub(crate) fn keys(&self) -> u64 {
        let jobs = 1 + compactors();
        (self.budget() / 2 / jobs).max(128 * KIB) / 2 / 16
    }
}

/// Threads of a database that compact.
pub(crate) fn compactors() -> u64 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    cores.saturating_sub(1).clamp(1, 4) as u64
}

/// What a thread that makes calls takes beside the memory of the databases: four copies of a large
/// value of 64 KiB (what it writes, the frame of that, what was there before, and what it makes of
/// it), its stack of 24 KiB, and the blocks that its iterators stand in.
pub(crate) const THREAD: u64 = 384 * KIB;

/// One database at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) sizes: Sizes,
    pub(crate) stats: Stats,
    /// Bytes of files in its directory.
    pub(crate) wal: u64,
    pub(crate) sst: u64,
    pub(crate) blobs: u64,
    /// The most bytes of tables that the tree had in the last seconds.
    pub(crate) tree: u64,
    /// The most bytes of live large values in the last seconds.
    pub(crate) large: u64,
    /// Bytes of keys and values that the load keeps alive, and the most in the last seconds.
    pub(crate) live: u64,
    /// Bytes of tables that jobs wrote in the last seconds.
    pub(crate) written: u64,
    /// Bytes of large values that were stored in the last seconds.
    pub(crate) stored: u64,
    /// Bytes in memory that only iterators and snapshots hold.
    pub(crate) pinned: u64,
    /// Files that left the database longer ago than allowed and that nothing pins.
    pub(crate) obsolete: u64,
    /// Tables and blob files that never were part of the database, and are older than allowed.
    pub(crate) strays: u64,
}

/// The process at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    /// Anonymous memory, descriptors, maps and threads.
    pub(crate) anonymous: u64,
    pub(crate) descriptors: u64,
    pub(crate) maps: u64,
    pub(crate) threads: u64,
    /// The same without any database, and with what the load itself needs.
    pub(crate) own: [u64; 4],
    /// `RLIMIT_NOFILE` and `vm.max_map_count`.
    pub(crate) most_files: u64,
    pub(crate) most_maps: u64,
}

/// A value and what it may be at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) value: u64,
    pub(crate) limit: u64,
}

/// What a bound is about.
#[derive(Clone, Copy)]
enum Of {
    Database(fn(&Database) -> Measured),
    Process(fn(&Process, &[Database]) -> Measured),
}

/// One bound.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) name: &'static str,
    /// As the documents state it.
    pub(crate) formula: &'static str,
    bytes: bool,
    of: Of,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.formula)
    }
}

const fn database(
    name: &'static str,
    formula: &'static str,
    bytes: bool,
    of: fn(&Database) -> Measured,
) -> Bound {
    let of = Of::Database(of);
    Bound {
        name,
        formula,
        bytes,
        of,
    }
}

const fn process(
    name: &'static str,
    formula: &'static str,
    bytes: bool,
    of: fn(&Process, &[Database]) -> Measured,
) -> Bound {
    let of = Of::Process(of);
    Bound {
        name,
        formula,
        bytes,
        of,
    }
}

/// Every bound.
pub(crate) const BOUNDS: &[Bound] = &[
    database(
        "log",
        "2 x log above the tables + write budget + 4 x segment + 2 x largest write",
        true,
        |db| Measured {
            value: db.wal,
            limit: 2 * db.sizes.log()
                + db.sizes.budget()
                + 4 * db.sizes.segment()
                + 2 * db.sizes.write,
        },
    ),
    database(
        "table files",
        "2 x tables of the tree + tables written in 10 s + 4 x table size + 16 MiB",
        true,
        |db| Measured {
            value: db.sst,
            limit: 2 * db.tree + db.written + 4 * db.sizes.table.min(db.tree) + 16 * MIB,
        },
    ),
    database(
        "tables of the tree",
        "4 x live data + 4 x write budget + 32 MiB",
        true,
        |db| Measured {
            value: db.stats.table_bytes,
            limit: 4 * db.live + 4 * db.sizes.budget() + 32 * MIB,
        },
    ),
    database(
        "blob files",
        "3 x live large values + large values written in 10 s + 17 x blob file",
        true,
        |db| Measured {
            value: db.blobs,
            limit: 3 * db.large + db.stored + 17 * (db.large / 4).clamp(16 * MIB, 64 * MIB),
        },
    ),
    database(
        "obsolete files",
        "0 older than 10 s that nothing pins",
        false,
        |db| Measured {
            value: db.obsolete,
            limit: 0,
        },
    ),
    database(
        "stray files",
        "0 older than 60 s that are no part of the database",
        false,
        |db| Measured {
            value: db.strays,
            limit: 0,
        },
    ),
    database("memtable pieces", "64", false, |db| Measured {
        value: db.stats.memtable_pieces as u64,
        limit: 64,
    }),
    database("level-0 runs", "56", false, |db| Measured {
        value: db.stats.levels.first().map_or(0, |level| level.runs as u64),
        limit: 56,
    }),
    database(
        "tables",
        "128 + 4 x tables of the tree / table size + 2 x entries / keys of a table",
        false,
        |db| {
            let levels = || db.stats.levels.iter();
            let entries: u64 = levels().map(|level| level.entries).sum();
            Measured {
                value: levels().map(|level| level.tables as u64).sum(),
                limit: 128
                    + 4 * db.stats.table_bytes / db.sizes.table
                    + 2 * entries / db.sizes.keys(),
            }
        },
    ),
    database("block cache", "shared memory", true, |db| Measured {
        value: db.stats.cache_bytes,
        limit: db.sizes.cache(),
    }),
    database("open tables", "shared memory / 2", true, |db| Measured {
        value: db.stats.open_table_bytes,
        limit: db.sizes.cache() / 2,
    }),
    process(
        "anonymous memory",
        "1.1 x memory of all databases + what readers pin + 384 KiB a thread that makes calls",
        true,
        |process, dbs| {
            let memory: u64 = dbs.iter().map(|db| db.sizes.memory).sum();
            let pinned: u64 = dbs.iter().map(|db| db.pinned).sum();
            Measured {
                value: process.anonymous,
                limit: process.own[0] + memory * 11 / 10 + pinned,
            }
        },
    ),
    process(
        "descriptors",
        "64 a database, and RLIMIT_NOFILE / 4 for tables and blob files",
        false,
        |process, dbs| {
            let files = |db: &Database| {
                let tables = db.stats.levels.iter().map(|level| level.tables as u64);
                let files = tables.sum::<u64>() + db.stats.blob_files as u64;
                64 + files.min((process.most_files / 4).max(8))
            };
            Measured {
                value: process.descriptors,
                limit: process.own[1] + dbs.iter().map(files).sum::<u64>(),
            }
        },
    ),
    process(
        "memory maps",
        "vm.max_map_count / 2, in the process",
        false,
        |process, _| Measured {
            value: process.maps,
            limit: process.own[2] + process.most_maps / 2,
        },
    ),
    process(
        "threads",
        "3 and the compactors a database",
        false,
        |process, dbs| Measured {
            value: process.threads,
            limit: process.own[3] + (3 + compactors()) * dbs.len() as u64,
        },
    ),
];

/// The highest share of each bound that was seen, and the first violation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checked {
    pub(crate) most: Vec<Measured>,
}

impl Checked {
    /// Checks every bound of one sample.
    pub(crate) fn check(&mut self, process: &Process, dbs: &[Database]) -> Result<(), String> {
        self.most.resize(BOUNDS.len(), Measured::default());
        let mut result = Ok(());
        for (bound, most) in BOUNDS.iter().zip(&mut self.most) {
            match bound.of {
                Of::Database(of) => {
                    for (n, db) in dbs.iter().enumerate() {
                        result = result.and(one(bound, &format!("database {n}"), of(db), most));
                    }
                }
                Of::Process(of) => {
                    result = result.and(one(bound, "process", of(process, dbs), most));
                }
            }
        }
        result
    }

    /// The highest share of each bound.
    pub(crate) fn shares(&self) -> Vec<Share> {
        let share = |(bound, most): (&Bound, &Measured)| Share {
            name: bound.name.to_owned(),
            unit: if bound.bytes {
                Unit::Bytes
            } else {
                Unit::Count
            },
            most: *most,
        };
        BOUNDS.iter().zip(&self.most).map(share).collect()
    }
}

/// What figures are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Count,
    /// Microseconds.
    Time,
}

const UNITS: [(&str, Unit); 3] = [
    ("bytes", Unit::Bytes),
    ("count", Unit::Count),
    ("time", Unit::Time),
];

/// The highest share of a bound that a round has seen, as its process says it: one line of
/// `share UNIT VALUE LIMIT NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) most: Measured,
}

impl Share {
    pub(crate) fn line(&self) -> String {
        let unit = UNITS.iter().find(|(_, unit)| *unit == self.unit);
        let (unit, Measured { value, limit }) = (unit.map_or("?", |(name, _)| name), self.most);
        format!("share {unit} {value} {limit} {}", self.name)
    }

    pub(crate) fn parse(line: &str) -> Option<Share> {
        let mut words = line.strip_prefix("share ")?.splitn(4, ' ');
        let unit = words.next()?;
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let most = Measured {
            value: words.next()?.parse().ok()?,
            limit: words.next()?.parse().ok()?,
        };
        Some(Share {
            name: words.next()?.to_owned(),
            unit: *unit,
            most,
        })
    }

    /// How much of what is allowed it is.
    pub(crate) fn of_one(&self) -> f64 {
        self.most.share()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |n: u64| match self.unit {
            Unit::Bytes => format!("{:.1} MiB", n as f64 / MIB as f64),
            Unit::Count => n.to_string(),
            Unit::Time => format!("{:.2} s", n as f64 / 1e6),
        };
        let (value, limit) = (shown(self.most.value), shown(self.most.limit));
        let percent = 100.0 * self.of_one();
        write!(
            f,
            "{:<24} {percent:>4.0} %  {value:>14} of {limit}",
            self.name
        )
    }
}

impl Measured {
    fn share(&self) -> f64 {
        self.value as f64 / self.limit.max(1) as f64
    }
}

fn one(bound: &Bound, who: &str, now: Measured, most: &mut Measured) -> Result<(), String> {
    if now.share() > most.share() || most.limit == 0 {
        *most = now;
    }
    if now.value <= now.limit {
        return Ok(());
    }
    Err(format!(
        "bound `{}` of {who}: {} where {} are allowed ({})",
        bound.name,
        shown(bound, now.value),
        shown(bound, now.limit),
        bound.formula
    ))
}

fn shown(bound: &Bound, n: u64) -> String {
    match bound.bytes {
        true => format!("{:.1} MiB", n as f64 / MIB as f64),
        false => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endure::idle::{RESTING, WINDOW};
    use crate::endure::watch::{SHORT, WHOLE};

    /// The rows of the table in `docs/limits.md`: name and formula.
    fn stated() -> Vec<(String, String)> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/limits.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
        rows.filter(|row| !row.starts_with("what |"))
            .map(|row| {
                let mut cells = row.split('|').map(|cell| cell.trim().to_owned());
                (cells.next().unwrap(), cells.next().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_document_states_exactly_these_bounds() {
        let bounds = BOUNDS
            .iter()
            .map(|bound| (bound.name, bound.formula.to_owned()));
        let calls = [
            ("a call on keys", format!("{} s", SHORT.as_secs())),
            ("a call on the database", format!("{} s", WHOLE.as_secs())),
            (
                "wake-ups when idle",
                format!("{RESTING} a database in {} s", WINDOW.as_secs()),
            ),
        ];
        let checked = bounds
            .chain(calls)
            .map(|(name, formula)| (name.to_owned(), formula));
        assert_eq!(stated(), checked.collect::<Vec<_>>());
    }

    #[test]
    fn a_share_is_read_back() {
        for (n, (_, unit)) in UNITS.iter().enumerate() {
            let share = Share {
                name: "a call on keys".to_owned(),
                unit: *unit,
                most: Measured {
                    value: n as u64,
                    limit: 7,
                },
            };
            assert_eq!(Share::parse(&share.line()), Some(share));
        }
    }

    fn quiet() -> Database {
        Database {
            sizes: Sizes {
                memory: 4 * MIB,
                table: 32 * MIB,
                write: MIB,
            },
            stats: Stats::default(),
            wal: 0,
            sst: 0,
            blobs: 0,
            tree: 0,
            large: 0,
            live: 0,
            written: 0,
            stored: 0,
            pinned: 0,
            obsolete: 0,
            strays: 0,
        }
    }

    /// Each bound fails when its own figure is too high, and names itself.
    #[test]
    fn each_bound_can_fail() {
        type Change = fn(&mut Database, &mut Process);
        let changes: [Change; 15] = [
            |db, _| db.wal = 1 << 40,
            |db, _| db.sst = 1 << 40,
            |db, _| db.stats.table_bytes = 1 << 40,
            |db, _| db.blobs = 1 << 40,
            |db, _| db.obsolete = 1,
            |db, _| db.strays = 1,
            |db, _| db.stats.memtable_pieces = 65,
            |db, _| {
                db.stats.levels.push(terrace::LevelStats::default());
                db.stats.levels[0].runs = 57;
            },
            |db, _| {
                db.stats.levels.push(terrace::LevelStats::default());
                db.stats.levels[0].tables = 129;
            },
            |db, _| db.stats.cache_bytes = MIB * 5 / 2 + 1,
            |db, _| db.stats.open_table_bytes = MIB * 5 / 4 + 1,
            |_, process| process.anonymous = 5 * MIB,
            |_, process| process.descriptors = 65,
            |_, process| process.maps = 1,
            |_, process| process.threads = 4 + compactors(),
        ];
        assert_eq!(changes.len(), BOUNDS.len());
        for (bound, change) in BOUNDS.iter().zip(changes) {
            let (mut db, mut process) = (quiet(), Process::default());
            let sound = Checked::default().check(&process, std::slice::from_ref(&db));
            assert_eq!(sound, Ok(()));
            change(&mut db, &mut process);
            let over = Checked::default().check(&process, &[db]).unwrap_err();
            assert!(over.contains(&format!("bound `{}`", bound.name)), "{over}");
        }
    }
}
