//! What a database may use while it runs: one table of bounds, each a formula with a name
//!
//! `docs/limits.md` states the same formulas for users, in the same order; a test compares the two. `endure` takes
//! a sample each second and checks every bound. A value over its bound in one sample is a failure.

use std::fmt;

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
    /// Where blob files are full.
    pub(crate) blob: u64,
}

impl Sizes {
    /// What may be written and not flushed: a quarter of `memory`.
    pub(crate) fn budget(&self) -> u64 {
        (self.memory / 4).min(256 * MIB)
    }

    /// The largest log segment.
    pub(crate) fn segment(&self) -> u64 {
        (16 * MIB).min((self.memory / 4).next_power_of_two() / 2)
    }
}

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
        "4 x write budget + 4 x segment + 4 MiB",
        true,
        |db| Measured {
            value: db.wal,
            limit: 4 * db.sizes.budget() + 4 * db.sizes.segment() + 4 * MIB,
        },
    ),
    database(
        "table files",
        "3 x tables of the tree + 4 x table size + write budget + 16 MiB",
        true,
        |db| Measured {
            value: db.sst,
            limit: 3 * db.tree + 4 * db.sizes.table.min(db.tree) + db.sizes.budget() + 16 * MIB,
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
        "3 x live large values + 3 x blob file size",
        true,
        |db| Measured {
            value: db.blobs,
            limit: 3 * db.large + 3 * db.sizes.blob,
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
    database("level-0 runs", "32", false, |db| Measured {
        value: db.stats.levels.first().map_or(0, |level| level.runs as u64),
        limit: 32,
    }),
    database(
        "tables",
        "128 + 4 x tables of the tree / table size",
        false,
        |db| Measured {
            value: db.stats.levels.iter().map(|l| l.tables as u64).sum(),
            limit: 128 + 4 * db.stats.table_bytes / db.sizes.table,
        },
    ),
    database("block cache", "memory", true, |db| Measured {
        value: db.stats.cache_bytes,
        limit: db.sizes.memory,
    }),
    process(
        "anonymous memory",
        "1.1 x memory of all databases",
        true,
        |process, dbs| Measured {
            value: process.anonymous,
            limit: process.own[0] + dbs.iter().map(|db| db.sizes.memory).sum::<u64>() * 11 / 10,
        },
    ),
    process("descriptors", "64 a database", false, |process, dbs| {
        Measured {
            value: process.descriptors,
            limit: process.own[1] + 64 * dbs.len() as u64,
        }
    }),
    process("memory maps", "1,024 a database", false, |process, dbs| {
        Measured {
            value: process.maps,
            limit: process.own[2] + 1024 * dbs.len() as u64,
        }
    }),
    process("threads", "6 a database", false, |process, dbs| Measured {
        value: process.threads,
        limit: process.own[3] + 6 * dbs.len() as u64,
    }),
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

    /// One line for each bound.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |(bound, most): (&Bound, &Measured)| {
            let (value, limit) = (shown(bound, most.value), shown(bound, most.limit));
            format!(
                "{:<20} {value:>12} of {limit:>12}   {}",
                bound.name, bound.formula
            )
        };
        BOUNDS.iter().zip(&self.most).map(line).collect()
    }
}

fn one(bound: &Bound, who: &str, now: Measured, most: &mut Measured) -> Result<(), String> {
    let share = |m: &Measured| m.value as f64 / m.limit.max(1) as f64;
    if share(&now) > share(most) || most.limit == 0 {
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
            ("wake-ups when idle", "1 a second".to_owned()),
        ];
        let checked = bounds
            .chain(calls)
            .map(|(name, formula)| (name.to_owned(), formula));
        assert_eq!(stated(), checked.collect::<Vec<_>>());
    }

    fn quiet() -> Database {
        Database {
            sizes: Sizes {
                memory: 4 * MIB,
                table: 32 * MIB,
                blob: 64 * MIB,
            },
            stats: Stats::default(),
            wal: 0,
            sst: 0,
            blobs: 0,
            tree: 0,
            large: 0,
            live: 0,
            obsolete: 0,
            strays: 0,
        }
    }

    /// Each bound fails when its own figure is too high, and names itself.
    #[test]
    fn each_bound_can_fail() {
        type Change = fn(&mut Database, &mut Process);
        let changes: [Change; 14] = [
            |db, _| db.wal = 1 << 40,
            |db, _| db.sst = 1 << 40,
            |db, _| db.stats.table_bytes = 1 << 40,
            |db, _| db.blobs = 1 << 40,
            |db, _| db.obsolete = 1,
            |db, _| db.strays = 1,
            |db, _| db.stats.memtable_pieces = 65,
            |db, _| {
                db.stats.levels.push(terrace::LevelStats::default());
                db.stats.levels[0].runs = 33;
            },
            |db, _| {
                db.stats.levels.push(terrace::LevelStats::default());
                db.stats.levels[0].tables = 129;
            },
            |db, _| db.stats.cache_bytes = u64::MAX,
            |_, process| process.anonymous = 5 * MIB,
            |_, process| process.descriptors = 65,
            |_, process| process.maps = 1025,
            |_, process| process.threads = 7,
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
