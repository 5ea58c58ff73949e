//! What a crash leaves behind.
//!
//! A *cut* is a loss of power: of what was not synced, a [`CrashPolicy`] and a seed choose what had
//! reached the disk; afterwards that is all there is, and durable. A *kill* is the end of the
//! process alone: the page cache lives on, so all is still readable, nothing more is durable, and
//! what a failed sync lost is still lost.
//!
//! A cut takes each unsynced store apart into the blocks (4096 bytes) or sectors (512 bytes) of the
//! file that it touches, keeps or loses each piece on its own, and applies the kept ones in their
//! order. The length is metadata: it may have grown over bytes that were lost (they read as zeros,
//! or garbage), or not have grown, and then kept bytes beyond it are out of reach. A lost
//! truncation loses all later stores of its file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::names::{Change as NameChange, Dir, DirId, Entries, Entry, Names, Set, settle};
use super::node::{Change, Node, Store, Tracked, lock};
use super::pages::{PAGE, Pages};
use super::random::{Random, mix};
use super::{Inner, MemVfs};

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;
const ZEROS: [u8; PAGE] = [0; PAGE];

/// What had reached the disk when the power went.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CrashPolicy {
    /// Everything.
    KeepAll,
    /// What was synced.
    DropAll,
    /// A random subset of the 4096-byte blocks of unsynced stores.
    RandomBlocks,
    /// A random subset of their 512-byte sectors.
    TornSectors {
        /// Where a store was to go, a lost sector may hold garbage, or else zeros, and not only the
        /// old bytes.
        garbage: bool,
    },
    /// Everything, but the newest store of all is cut off at a random byte.
    TornNewest,
    /// Of each file a random number of its unsynced stores, oldest first.
    PrefixPerFile,
    /// Each unsynced name at random, and random data.
    RandomEntries,
    /// Every name and length, and no unsynced byte.
    SizeWithoutData,
    /// Every name, and no unsynced byte or length.
    MetadataFirst,
    /// Every byte, and no unsynced name.
    DataFirst,
}

impl CrashPolicy {
    /// All of them.
    pub const ALL: &[CrashPolicy] = &[
        CrashPolicy::KeepAll,
        CrashPolicy::DropAll,
        CrashPolicy::RandomBlocks,
        CrashPolicy::TornSectors { garbage: false },
        CrashPolicy::TornSectors { garbage: true },
        CrashPolicy::TornNewest,
        CrashPolicy::PrefixPerFile,
        CrashPolicy::RandomEntries,
        CrashPolicy::SizeWithoutData,
        CrashPolicy::MetadataFirst,
        CrashPolicy::DataFirst,
    ];
}

/// What ended: the machine or the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageKind {
    /// The power went: what was kept is durable, the rest is gone.
    Cut,
    /// The process died: everything written is readable, and as unsynced as it was.
    Kill,
}

impl MemVfs {
    /// The file system as the next process finds it. `policy` says what a cut keeps; a kill keeps
    /// everything.
    ///
    /// The same state, policy and seed give the same image. Locks are free in it; its random
    /// numbers go other ways than here. It counts its own mutations, and has no hook.
    pub fn image(&self, kind: ImageKind, policy: CrashPolicy, seed: u64) -> Arc<MemVfs> {
        let inner = &self.inner;
        let _alone = inner.world.write().unwrap_or_else(PoisonError::into_inner);
        let names = lock(&inner.names);
        let names = match kind {
            ImageKind::Kill => kill(&names),
            ImageKind::Cut => cut(&names, policy, seed),
        };
        let seed = mix(seed ^ inner.random.peek());
        let next_node = inner.next_node.load(Ordering::Relaxed);
        let image = MemVfs {
            inner: Arc::new(Inner::new(names, true, next_node, seed)),
        };
        let capacity = inner.capacity.load(Ordering::Relaxed);
        image.inner.capacity.store(capacity, Ordering::Relaxed);
        Arc::new(image)
    }
}

/// Copies of the files of an image: one for each file, whatever its names.
struct Copies<F> {
    nodes: HashMap<u64, Arc<Node>>,
    copy: F,
}

impl<F: FnMut(&Node) -> Tracked> Copies<F> {
    fn new(copy: F) -> Copies<F> {
        Copies {
            nodes: HashMap::new(),
            copy,
        }
    }

    fn entry(&mut self, entry: &Entry) -> Entry {
        match entry {
            Entry::Dir(id) => Entry::Dir(*id),
            Entry::File(node) => {
                let copy = &mut self.copy;
                let make = || Arc::new(Node::tracked(node.id, copy(node)));
                Entry::File(self.nodes.entry(node.id).or_insert_with(make).clone())
            }
        }
    }

    fn entries(&mut self, entries: &Entries) -> Entries {
        let copy = |(name, entry)| (OsString::clone(name), self.entry(entry));
        entries.iter().map(copy).collect()
    }

    fn set(&mut self, set: &Set) -> Set {
        Set {
            dir: set.dir,
            name: set.name.clone(),
            entry: set.entry.as_ref().map(|entry| self.entry(entry)),
        }
    }
}

fn kill(names: &Names) -> Names {
    let mut copies = Copies::new(|node| node.state(Tracked::clone));
    let dirs = names.dirs.iter().map(|(id, dir)| {
        let visible = copies.entries(&dir.visible);
        let durable = copies.entries(names.durable(dir));
        (*id, Dir { visible, durable })
    });
    let dirs = dirs.collect();
    let pending = names.pending.iter().map(|change| NameChange {
        home: change.home,
        sets: change.sets.iter().map(|set| copies.set(set)).collect(),
    });
    let pending = pending.collect();
    names.successor(dirs, pending)
}

fn cut(names: &Names, policy: CrashPolicy, seed: u64) -> Names {
    let mut on_disk = names.durable_dirs();
    for change in kept_changes(names, policy, &mut Random::new(seed)) {
        settle(&mut on_disk, change.clone());
    }
    let newest = match policy {
        CrashPolicy::TornNewest => newest_store(&on_disk),
        _ => u64::MAX,
    };
    let mut copies = Copies::new(|node| {
        // Of seed and file alone, so that one file's fate does not hang on the number of others.
        let mut random = Random::new(mix(seed) ^ node.id);
        node.state(|file| Tracked::durable(cut_file(file, policy, newest, &mut random)))
    });
    let dirs = on_disk.iter().map(|(id, dir)| {
        let durable = copies.entries(&dir.durable);
        let visible = durable.clone();
        (*id, Dir { visible, durable })
    });
    let dirs = dirs.collect();
    names.successor(dirs, Vec::new())
}

/// The newest unsynced store of any file in these directories.
fn newest_store(dirs: &BTreeMap<DirId, Dir>) -> u64 {
    let newest = |entry: &Entry| match entry {
        Entry::File(node) => node.state(|file| Some(file.pending.last()?.number)),
        Entry::Dir(_) => None,
    };
    let entries = dirs.values().flat_map(|dir| dir.durable.values());
    entries.filter_map(newest).max().unwrap_or(u64::MAX)
}

/// The unsynced changes of names that had reached the disk.
fn kept_changes<'a>(
    names: &'a Names,
    policy: CrashPolicy,
    random: &mut Random,
) -> Vec<&'a NameChange> {
    let count = names.pending.len();
    let (prefix, coins) = match policy {
        CrashPolicy::DropAll | CrashPolicy::DataFirst => (0, false),
        CrashPolicy::RandomEntries => (count, true),
        CrashPolicy::RandomBlocks
        | CrashPolicy::TornSectors { .. }
        | CrashPolicy::PrefixPerFile => match random.below(4) {
            0 => (random.below(count as u64 + 1) as usize, false),
            1 => (count, true),
            _ => (count, false), // Torn bytes show only where the name is there.
        },
        _ => (count, false),
    };
    // Whatever touches a name after a lost change of it is lost as well.
    let mut lost = HashSet::new();
    let mut kept = Vec::new();
    for change in names.pending.iter().take(prefix) {
        let key = |set: &'a Set| (set.dir, &set.name);
        let rests_on_lost = change.sets.iter().any(|set| lost.contains(&key(set)));
        if rests_on_lost || (coins && random.coin()) {
            lost.extend(change.sets.iter().map(key));
        } else {
            kept.push(change);
        }
    }
    kept
}

/// What becomes of a piece of a store.
enum Fate {
    Kept,
    Lost,
    Zeroed,
    Garbage,
}

/// The bytes of `file` after a cut. `newest` is the number of the store that `TornNewest` tears.
pub(super) fn cut_file(
    file: &Tracked,
    policy: CrashPolicy,
    newest: u64,
    random: &mut Random,
) -> Pages {
    use CrashPolicy::*;
    if file.pending.is_empty() {
        return file.durable.clone();
    }
    let policy = match policy {
        RandomEntries => match random.below(4) {
            0 => KeepAll,
            1 => DropAll,
            2 => PrefixPerFile,
            _ => RandomBlocks,
        },
        policy => policy,
    };
    let cut = Cut::new(file);
    match policy {
        KeepAll | DataFirst => cut.prefix(file.pending.len()),
        DropAll => file.durable.clone(),
        MetadataFirst => cut.truncated(true).pages,
        SizeWithoutData => {
            let mut cut = cut.truncated(true);
            cut.pages.resize(cut.longest());
            cut.pages
        }
        PrefixPerFile => {
            let stores = random.below(file.pending.len() as u64 + 1);
            cut.prefix(stores as usize)
        }
        TornNewest => cut.torn(newest, random),
        TornSectors { garbage } => cut.pieces(SECTOR, random, |random| match random.below(4) {
            0 | 1 => Fate::Kept,
            2 if garbage => Fate::Garbage,
            2 => Fate::Zeroed,
            _ => Fate::Lost,
        }),
        _ => cut.pieces(PAGE, random, |random| match random.coin() {
            true => Fate::Kept,
            false => Fate::Lost,
        }),
    }
}

/// A file on its way from its durable bytes to those of an image.
struct Cut<'a> {
    pages: Pages,
    /// The stores that may still be applied.
    stores: &'a [Store],
}

impl<'a> Cut<'a> {
    fn new(file: &'a Tracked) -> Cut<'a> {
        Cut {
            pages: file.durable.clone(),
            stores: &file.pending,
        }
    }

    /// The first `count` stores, whole.
    fn prefix(mut self, count: usize) -> Pages {
        for store in self.stores.iter().take(count) {
            match &store.what {
                Change::Truncate => self.pages = Pages::default(),
                Change::Write { offset, bytes } => self.pages.write_at(bytes, *offset),
            }
        }
        self.pages
    }

    /// Decides about truncations: a kept one takes along what was before it, a lost one what comes
    /// after.
    fn truncated(mut self, kept: bool) -> Cut<'a> {
        let truncation = |store: &Store| matches!(store.what, Change::Truncate);
        if let Some(last) = self.stores.iter().rposition(truncation) {
            if kept {
                self.pages = Pages::default();
                self.stores = self.stores.get(last + 1..).unwrap_or_default();
            } else {
                let first = self.stores.iter().position(truncation).unwrap_or(last);
                self.stores = self.stores.get(..first).unwrap_or_default();
            }
        }
        self
    }

    /// The length after all stores.
    fn longest(&self) -> u64 {
        let lens = self.stores.iter().map(|store| match &store.what {
            Change::Write { offset, bytes } => offset + bytes.len() as u64,
            Change::Truncate => 0,
        });
        lens.max().unwrap_or(0).max(self.pages.len())
    }

    /// Everything, but of the store `newest` only the bytes before a random place.
    fn torn(self, newest: u64, random: &mut Random) -> Pages {
        let Some((last, earlier)) = self.stores.split_last() else {
            return self.pages;
        };
        let mut pages = self.pages;
        for store in earlier {
            match &store.what {
                Change::Truncate => pages = Pages::default(),
                Change::Write { offset, bytes } => pages.write_at(bytes, *offset),
            }
        }
        match &last.what {
            Change::Truncate if last.number == newest => {}
            Change::Truncate => pages = Pages::default(),
            Change::Write { offset, bytes } if last.number == newest => {
                let kept = random.below(bytes.len() as u64) as usize;
                pages.write_at(&bytes[..kept], *offset);
                if random.coin() {
                    pages.resize(pages.len().max(offset + bytes.len() as u64));
                }
            }
            Change::Write { offset, bytes } => pages.write_at(bytes, *offset),
        }
        pages
    }

    /// Each piece of `grain` bytes by its own fate, and a length to go with it.
    fn pieces(
        self,
        grain: usize,
        random: &mut Random,
        fate: impl Fn(&mut Random) -> Fate,
    ) -> Pages {
        let cut = self.truncated(random.coin());
        let (longest, mut pages) = (cut.longest(), cut.pages);
        let mut lens = vec![pages.len(), longest];
        for store in cut.stores {
            let Change::Write { offset, bytes } = &store.what else {
                continue;
            };
            lens.push(lens[0].max(offset + bytes.len() as u64));
            let mut done = 0;
            while done < bytes.len() {
                let at = offset + done as u64;
                let n = (grain - (at % grain as u64) as usize).min(bytes.len() - done);
                match fate(random) {
                    Fate::Kept => pages.write_at(&bytes[done..done + n], at),
                    Fate::Lost => {}
                    Fate::Zeroed => pages.write_at(&ZEROS[..n], at),
                    Fate::Garbage => pages.write_at(&garbage(n, random), at),
                }
                done += n;
            }
        }
        match random.below(3) {
            0 => {} // As long as the bytes that arrived.
            1 => pages.resize(longest),
            _ => pages.resize(lens[random.below(lens.len() as u64) as usize]),
        }
        pages
    }
}

fn garbage(len: usize, random: &mut Random) -> Vec<u8> {
    let words = std::iter::repeat_with(|| random.next().to_le_bytes());
    words.flatten().take(len).collect()
}
