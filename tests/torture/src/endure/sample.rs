//! Samples: what the databases say of themselves, what lies in their directories, and what the process uses

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use terrace::{Db, Stats, internals};

use super::bounds::{Database, KIB, Process, Sizes};

/// How long a file that left the database may stay when nothing pins it.
const OBSOLETE: Duration = Duration::from_secs(10);
/// How long a file may be no part of the database yet: an ingest or a merge may be writing it.
const STRAY: Duration = Duration::from_secs(60);
/// How many samples back a size counts as one that the database had a moment ago.
const RECENT: usize = 15;
/// How many samples back what was written may still be pinned, or wait to be removed.
const WRITTEN: usize = 11;

/// What is remembered of one database from sample to sample.
#[derive(Debug)]
pub(crate) struct Sampler {
    dir: PathBuf,
    sizes: Sizes,
    tree: Vec<u64>,
    large: Vec<u64>,
    live: Vec<u64>,
    written: Vec<u64>,
    stored: Vec<u64>,
    files: BTreeMap<String, Known>,
}

/// What is known of a file.
#[derive(Debug)]
struct Known {
    seen: Instant,
    was_listed: bool,
    /// When it left the database, and since when nothing has pinned it.
    left: Option<(Instant, Instant)>,
}

/// What the load says at the moment of a sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Bytes of keys and values that it keeps alive, and of large values.
    pub(crate) live: u64,
    pub(crate) large: u64,
    /// When the oldest of its iterators and snapshots was made.
    pub(crate) pinned_since: Option<Instant>,
    /// What the simulated disk has added since the last sample.
    pub(crate) disk: Duration,
}

impl Sampler {
    pub(crate) fn new(dir: &Path, sizes: Sizes) -> Sampler {
        Sampler {
            dir: dir.to_path_buf(),
            sizes,
            tree: Vec::new(),
            large: Vec::new(),
            live: Vec::new(),
            written: Vec::new(),
            stored: Vec::new(),
            files: BTreeMap::new(),
        }
    }

    /// The database was closed and is open again: what it holds on to is new.
    pub(crate) fn reopened(&mut self) {
        self.files.clear();
        self.written.clear(); // Counts begin again.
        self.stored.clear();
    }

    /// One sample. `db` is `None` while the database is being opened or closed.
    pub(crate) fn sample(&mut self, db: &Db, stats: Stats, load: Load) -> Database {
        // Listed first: what is on disk afterwards and not listed is either new or has left.
        let listed: BTreeSet<String> = internals::listed_files(db).into_iter().collect();
        let (mut wal, mut sst, mut blobs) = (0, 0, 0);
        let mut there = BTreeSet::new();
        let dir = std::fs::read_dir(&self.dir);
        for entry in dir.into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Ok(found) = entry.metadata() else {
                continue; // It is gone meanwhile.
            };
            match name.rsplit_once('.').map(|(_, kind)| kind) {
                Some("wal") => wal += found.len(),
                Some("sst") => sst += found.len(),
                Some("blob") => blobs += found.len(),
                _ => continue,
            }
            if !name.ends_with(".wal") {
                there.insert(name);
            }
        }
        let (obsolete, strays) = self.unlisted(&there, &listed, load);
        Database {
            sizes: self.sizes,
            tree: recent(&mut self.tree, stats.table_bytes),
            large: recent(&mut self.large, load.large.max(stats.blob_live_bytes)),
            live: recent(&mut self.live, load.live),
            written: since(
                &mut self.written,
                stats.bytes_flushed + stats.bytes_compacted,
            ),
            stored: since(&mut self.stored, stats.bytes_stored + stats.bytes_collected),
            pinned: internals::pinned_bytes(db),
            stats,
            wal,
            sst,
            blobs,
            obsolete,
            strays,
        }
    }

    /// Files that have left the database and should be gone, and files that never were part of it.
    fn unlisted(
        &mut self,
        there: &BTreeSet<String>,
        listed: &BTreeSet<String>,
        load: Load,
    ) -> (u64, u64) {
        let now = Instant::now();
        self.files.retain(|name, _| there.contains(name));
        let (mut obsolete, mut strays) = (0, 0);
        for name in there {
            let known = self.files.entry(name.clone()).or_insert(Known {
                seen: now,
                was_listed: false,
                left: None,
            });
            // What the disk adds counts for nobody.
            known.seen += load.disk.min(now - known.seen);
            if listed.contains(name) {
                (known.was_listed, known.left) = (true, None);
                continue;
            }
            if !known.was_listed {
                strays += u64::from(now - known.seen > STRAY);
                continue;
            }
            let (left, free) = known.left.get_or_insert((now, now));
            if load.pinned_since.is_some_and(|since| since <= *left) {
                *free = now;
            }
            *free += load.disk.min(now - *free);
            obsolete += u64::from(now - *free > OBSOLETE);
        }
        (obsolete, strays)
    }
}

/// Adds a count; how far it has risen in the last samples.
fn since(counts: &mut Vec<u64>, count: u64) -> u64 {
    counts.push(count);
    if counts.len() > WRITTEN {
        counts.remove(0);
    }
    count.saturating_sub(match counts.len() {
        WRITTEN => counts[0],
        _ => 0,
    })
}

/// Adds `value`; the most of the last samples.
fn recent(values: &mut Vec<u64>, value: u64) -> u64 {
    values.push(value);
    if values.len() > RECENT {
        values.remove(0);
    }
    values.iter().copied().max().unwrap_or(0)
}

/// What the process uses now: anonymous memory, descriptors, maps, threads. What the allocator
/// keeps of memory that was given back is not the databases', so it is returned first.
pub(crate) fn process() -> [u64; 4] {
    crate::sys::return_free_memory();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or(0)
    };
    let count = |dir: &str| std::fs::read_dir(dir).map_or(0, |dir| dir.count() as u64);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    [
        field("RssAnon:") * KIB,
        count("/proc/self/fd"),
        maps.lines().count() as u64,
        field("Threads:"),
    ]
}

/// A sample of the process beside `own`, what it would use without any database.
pub(crate) fn process_with(own: [u64; 4]) -> Process {
    let [anonymous, descriptors, maps, threads] = process();
    let most_maps = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    let most_maps = most_maps.ok().and_then(|text| text.trim().parse().ok());
    Process {
        anonymous,
        descriptors,
        maps,
        threads,
        own,
        most_files: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        most_maps: most_maps.unwrap_or(65_530),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endure::bounds::MIB;

    /// A file that stays after it has left the database is counted, unless something pins it.
    #[test]
    fn an_obsolete_file_is_counted_once_nothing_pins_it() {
        let sizes = Sizes {
            memory: 4 * MIB,
            table: MIB,
            write: MIB,
        };
        let mut sampler = Sampler::new(Path::new("/nonexistent"), sizes);
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let load = |pinned_since| Load {
            live: 0,
            large: 0,
            pinned_since,
            disk: Duration::ZERO,
        };
        let before = Instant::now();
        let both = names(&["1.sst", "2.sst"]);
        sampler.unlisted(&both, &both, load(None));
        let one = names(&["2.sst"]);
        assert_eq!(sampler.unlisted(&both, &one, load(None)), (0, 0));
        let longer_ago = |sampler: &mut Sampler, by: Duration| {
            let known = sampler.files.get_mut("1.sst").unwrap();
            let (left, free) = known.left.unwrap();
            known.left = Some((left, free - by));
        };
        longer_ago(&mut sampler, OBSOLETE);
        assert_eq!(sampler.unlisted(&both, &one, load(Some(before))), (0, 0));
        longer_ago(&mut sampler, OBSOLETE);
        assert_eq!(sampler.unlisted(&both, &one, load(None)), (1, 0));
        sampler.files.get_mut("2.sst").unwrap().was_listed = false;
        sampler.files.get_mut("2.sst").unwrap().seen -= 2 * STRAY;
        assert_eq!(sampler.unlisted(&both, &names(&[]), load(None)), (1, 1));
    }
}
