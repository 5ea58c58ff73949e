//! An obviously right twin of the persistence state: whole copies of contents and name maps, and
//! all closed subsets of the unsynced name changes by enumeration.

use std::collections::{BTreeMap, BTreeSet};

use CrashPolicy::*;
use proptest::prelude::*;

use super::*;

const CUT: ImageKind = ImageKind::Cut;
const KILL: ImageKind = ImageKind::Kill;
const NAMES: [&str; 4] = ["/d/a", "/d/b", "/d/c", "/d/e"];

type NameMap = BTreeMap<&'static str, usize>;

#[derive(Clone, Debug)]
enum Store {
    Write(usize, Vec<u8>),
    Truncate,
}

fn apply(bytes: &mut Vec<u8>, store: &Store) {
    match store {
        Store::Truncate => bytes.clear(),
        Store::Write(offset, data) => {
            bytes.resize(bytes.len().max(offset + data.len()), 0);
            bytes[*offset..offset + data.len()].copy_from_slice(data);
        }
    }
}

#[derive(Debug, Default)]
struct TwinFile {
    id: u64,
    synced: Vec<u8>,
    pending: Vec<Store>,
}

impl TwinFile {
    fn after(&self, count: usize) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for store in &self.pending[..count] {
            apply(&mut bytes, store);
        }
        bytes
    }

    fn visible(&self) -> Vec<u8> {
        self.after(self.pending.len())
    }

    fn truncated(&self) -> bool {
        self.pending.iter().any(|s| matches!(s, Store::Truncate))
    }

    /// Each byte was synced, or stored there, or is zero beyond, or where it was stored is what
    /// `torn` may be.
    fn allows(&self, found: &[u8], torn: impl Fn(u8) -> bool) -> bool {
        let stored = |at: usize| {
            self.pending.iter().filter_map(move |store| match store {
                Store::Write(offset, data) => data.get(at.checked_sub(*offset)?).copied(),
                Store::Truncate => None,
            })
        };
        let longest = (0..=self.pending.len()).map(|n| self.after(n).len()).max();
        let allowed = |(at, byte): (usize, &u8)| {
            let old = self.synced.get(at).copied().unwrap_or(0);
            let zero = *byte == 0 && (self.truncated() || at >= self.synced.len());
            *byte == old || zero || stored(at).any(|b| b == *byte || torn(*byte))
        };
        found.len() <= longest.unwrap_or(0)
            && (self.truncated() || found.len() >= self.synced.len())
            && found.iter().enumerate().all(allowed)
    }
}

#[derive(Default)]
struct Twin {
    files: Vec<TwinFile>,
    visible: NameMap,
    durable: NameMap,
    pending: Vec<Vec<(&'static str, Option<usize>)>>,
}

fn set_all(names: &mut NameMap, change: &[(&'static str, Option<usize>)]) {
    for (name, file) in change {
        match file {
            Some(file) => names.insert(name, *file),
            None => names.remove(name),
        };
    }
}

impl Twin {
    fn change(&mut self, change: Vec<(&'static str, Option<usize>)>) {
        set_all(&mut self.visible, &change);
        self.pending.push(change);
    }

    fn visible_file(&mut self, name: &str) -> Option<&mut TwinFile> {
        self.visible.get(name).map(|file| &mut self.files[*file])
    }

    /// Every state of the names in which each kept change has all earlier ones of its names.
    fn possible_names(&self) -> BTreeSet<NameMap> {
        let touch =
            |a: &[(&str, _)], b: &[(&str, _)]| a.iter().any(|x| b.iter().any(|y| x.0 == y.0));
        let count = self.pending.len();
        let kept = |set: u32, i: usize| set >> i & 1 == 1;
        let closed = |set: &u32| {
            (0..count).all(|late| {
                !kept(*set, late)
                    || (0..late).all(|early| {
                        kept(*set, early) || !touch(&self.pending[early], &self.pending[late])
                    })
            })
        };
        let state = |set: u32| {
            let mut names = self.durable.clone();
            for (_, change) in self
                .pending
                .iter()
                .enumerate()
                .filter(|(i, _)| kept(set, *i))
            {
                set_all(&mut names, change);
            }
            names
        };
        (0..1u32 << count).filter(closed).map(state).collect()
    }
}

struct Pair {
    mem: Arc<MemVfs>,
    twin: Twin,
}

/// What is done with which name or names, at which offset, how long.
type Step = (u8, usize, usize, usize, usize);

impl Pair {
    fn new(seed: u64) -> Pair {
        let mem = MemVfs::crashable(seed);
        mem.create_dir(Path::new("/d")).unwrap();
        mem.sync_dir(Path::new("/")).unwrap();
        let twin = Twin::default();
        Pair { mem, twin }
    }

    fn file(&self, name: &str) -> Arc<dyn VfsFile> {
        self.mem.open(Path::new(name), OpenMode::ReadWrite).unwrap()
    }

    fn play(&mut self, (what, first, second, offset, len): Step) {
        let (name, other) = (NAMES[first], NAMES[second]);
        let (path, to) = (Path::new(name), Path::new(other));
        let (known, taken) = (
            self.twin.visible.get(name).copied(),
            self.twin.visible.get(other).copied(),
        );
        // Few unsynced changes of names, so that their subsets can be enumerated.
        let what = if self.twin.pending.len() >= 7 {
            11
        } else {
            what
        };
        match (what, known) {
            (0..3, None) => {
                self.mem.open(path, OpenMode::CreateNew).unwrap();
                let id = self.mem.node(path).unwrap().id;
                self.twin.files.push(TwinFile {
                    id,
                    ..TwinFile::default()
                });
                self.twin
                    .change(vec![(name, Some(self.twin.files.len() - 1))]);
            }
            (3, Some(_)) => {
                self.mem.open(path, OpenMode::CreateOrTruncate).unwrap();
                let file = self.twin.visible_file(name).unwrap();
                file.pending.push(Store::Truncate);
            }
            (4..8 | 0, Some(_)) => {
                let fill = (offset % 255 + 1) as u8;
                let data: Vec<u8> = (0..len).map(|i| fill ^ (i % 64) as u8).collect();
                self.file(name).write_at(&data, offset as u64).unwrap();
                let file = self.twin.visible_file(name).unwrap();
                if len > 0 {
                    file.pending.push(Store::Write(offset, data));
                }
            }
            (8, Some(_)) => {
                self.file(name).sync_data().unwrap();
                let file = self.twin.visible_file(name).unwrap();
                file.synced = file.visible();
                file.pending.clear();
            }
            (9, Some(file)) => {
                self.mem.rename(path, to).unwrap();
                if taken != Some(file) {
                    self.twin.change(vec![(name, None), (other, Some(file))]);
                }
            }
            (10, Some(file)) if taken.is_none() => {
                self.mem.hard_link(path, to).unwrap();
                self.twin.change(vec![(other, Some(file))]);
            }
            (12, Some(_)) => {
                self.mem.remove_file(path).unwrap();
                self.twin.change(vec![(name, None)]);
            }
            (11, _) => {
                self.mem.sync_dir(Path::new("/d")).unwrap();
                self.twin.durable = self.twin.visible.clone();
                self.twin.pending.clear();
            }
            _ => {}
        }
    }

    fn names_of(&self, image: &MemVfs) -> NameMap {
        let known = |name: &&'static str| {
            let id = image.node(Path::new(*name)).ok()?.id;
            let file = self.twin.files.iter().position(|file| file.id == id);
            Some((*name, file.unwrap()))
        };
        NAMES.iter().filter_map(known).collect()
    }

    fn check(&self, policy: CrashPolicy, seed: u64) {
        let image = self.mem.image(CUT, policy, seed);
        let twin = &self.twin;
        let names = self.names_of(&image);
        assert_eq!(image.files().len(), names.len());
        match policy {
            KeepAll | TornNewest | SizeWithoutData | MetadataFirst => {
                assert_eq!(names, twin.visible, "{policy:?}");
            }
            DropAll | DataFirst => assert_eq!(names, twin.durable, "{policy:?}"),
            _ => assert!(
                twin.possible_names().contains(&names),
                "{policy:?} {names:?}"
            ),
        }
        let mut torn = BTreeSet::new();
        for (name, index) in &names {
            let (file, found) = (&twin.files[*index], image.read_file(name).unwrap());
            let mut empty = file.synced.clone();
            if file.truncated() {
                empty.clear();
            }
            let fine = match policy {
                KeepAll | DataFirst => found == file.visible(),
                DropAll => found == file.synced,
                MetadataFirst => found == empty,
                SizeWithoutData => {
                    empty.resize(empty.len().max(file.visible().len()), 0);
                    found == empty
                }
                PrefixPerFile => (0..=file.pending.len()).any(|n| found == file.after(n)),
                TornSectors { garbage } => file.allows(&found, |byte| garbage || byte == 0),
                _ => file.allows(&found, |_| false),
            };
            assert!(fine, "{policy:?} {name} {file:?} {found:?}");
            if found != file.visible() {
                torn.insert(index);
            }
        }
        assert!(policy != TornNewest || torn.len() <= 1);

        let again = self.mem.image(CUT, policy, seed);
        assert_eq!(
            again.content_hash(),
            image.content_hash(),
            "by the seed alone"
        );
        for kind in [CUT, KILL] {
            let later = image.image(kind, DropAll, seed);
            assert_eq!(
                later.content_hash(),
                image.content_hash(),
                "a cut is durable"
            );
        }
        let killed = self.mem.image(KILL, policy, seed);
        assert_eq!(killed.content_hash(), self.mem.content_hash());
        let cut = killed.image(CUT, policy, seed);
        assert_eq!(
            cut.content_hash(),
            image.content_hash(),
            "a kill changes nothing"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_image_is_one_that_the_twin_allows(
        steps in proptest::collection::vec(
            (0u8..13, 0usize..4, 0usize..4, 0usize..9000, 0usize..5000), 1..60),
        seed: u64,
    ) {
        let mut pair = Pair::new(seed);
        for (at, step) in steps.iter().enumerate() {
            pair.play(*step);
            // Also mid-way, so that images share pages with what goes on.
            if at % 16 == 15 || at + 1 == steps.len() {
                for policy in CrashPolicy::ALL {
                    pair.check(*policy, seed ^ at as u64);
                }
            }
        }
        prop_assert_eq!(pair.names_of(&pair.mem), pair.twin.visible.clone());
    }
}

fn create(mem: &MemVfs, path: &str, bytes: &[u8]) -> Arc<dyn VfsFile> {
    let file = mem.open(Path::new(path), OpenMode::CreateNew).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

fn sync_root(mem: &MemVfs) {
    mem.sync_dir(Path::new("/")).unwrap();
}

/// What `look` sees in images of `mem` under `policy`, over many seeds.
fn outcomes<T: Ord>(mem: &MemVfs, policy: CrashPolicy, look: impl Fn(&MemVfs) -> T) -> BTreeSet<T> {
    (0..200)
        .map(|seed| look(&mem.image(CUT, policy, seed)))
        .collect()
}

#[test]
fn random_policies_reach_what_they_promise() {
    let mem = MemVfs::crashable(1);
    let file = create(&mem, "/a", &[1; 1024]);
    sync_root(&mem);
    file.sync_data().unwrap();
    file.write_at(&[2; 1024], 512).unwrap();
    let shape = |mem: &MemVfs| {
        let bytes = mem.read_file("/a").unwrap();
        let kinds = bytes.chunks(512).map(|sector| match sector[0] {
            _ if sector.iter().any(|b| *b != sector[0]) => 'x',
            0 => '0',
            1 => '1',
            2 => '2',
            _ => 'x',
        });
        kinds.collect::<String>()
    };
    let sectors = outcomes(&mem, TornSectors { garbage: false }, shape);
    assert_eq!(
        sectors,
        ["10", "100", "102", "11", "110", "112", "12", "120", "122"]
            .map(String::from)
            .into()
    );
    let garbage = outcomes(&mem, TornSectors { garbage: true }, shape);
    assert!(
        ["1x", "11x", "1xx", "12x"]
            .iter()
            .all(|s| garbage.contains(*s)),
        "{garbage:?}"
    );
    assert!(
        garbage.iter().all(|s| s.starts_with('1')),
        "synced bytes stay"
    );
    let blocks = outcomes(&mem, RandomBlocks, shape);
    assert_eq!(blocks, ["11", "110", "12", "122"].map(String::from).into());
    let lens = outcomes(&mem, TornNewest, |mem| {
        mem.read_file("/a")
            .unwrap()
            .iter()
            .filter(|b| **b == 2)
            .count()
    });
    assert!(
        lens.len() > 100 && lens.iter().all(|n| *n < 1024),
        "{lens:?}"
    );
}

#[test]
fn names_are_lost_one_by_one_and_synced_bytes_with_them() {
    let mem = MemVfs::crashable(1);
    for name in ["/a", "/b", "/c"] {
        create(&mem, name, b"synced").sync_data().unwrap();
    }
    let names = |mem: &MemVfs| {
        mem.files()
            .iter()
            .map(|(path, len)| {
                assert_eq!(*len, 6);
                path.to_str().unwrap().to_owned()
            })
            .collect::<String>()
    };
    assert_eq!(outcomes(&mem, RandomEntries, names).len(), 8);
    sync_root(&mem);
    assert_eq!(
        outcomes(&mem, RandomEntries, names),
        ["/a/b/c".to_owned()].into()
    );
}

#[test]
fn a_rename_is_one_unit_also_between_directories() {
    let mem = MemVfs::crashable(1);
    for dir in ["/x", "/y"] {
        mem.create_dir(Path::new(dir)).unwrap();
    }
    create(&mem, "/x/a", b"new").sync_data().unwrap();
    create(&mem, "/y/b", b"older").sync_data().unwrap();
    for dir in ["/", "/x", "/y"] {
        mem.sync_dir(Path::new(dir)).unwrap();
    }
    mem.rename(Path::new("/x/a"), Path::new("/y/b")).unwrap();
    let state = |mem: &MemVfs| (mem.read_file("/x/a"), mem.read_file("/y/b"));
    let old = (Some(b"new".to_vec()), Some(b"older".to_vec()));
    let new = (None, Some(b"new".to_vec()));
    for _ in 0..2 {
        let both = BTreeSet::from([old.clone(), new.clone()]);
        assert_eq!(outcomes(&mem, RandomEntries, state), both);
        mem.sync_dir(Path::new("/x")).unwrap(); // Not the directory of the new name.
    }
    mem.sync_dir(Path::new("/y")).unwrap();
    assert_eq!(outcomes(&mem, RandomEntries, state), BTreeSet::from([new]));
}

#[test]
fn a_sync_takes_along_earlier_changes_of_the_same_names() {
    let mem = MemVfs::crashable(1);
    for dir in ["/x", "/y"] {
        mem.create_dir(Path::new(dir)).unwrap();
    }
    sync_root(&mem);
    create(&mem, "/x/a", b"1").sync_data().unwrap();
    create(&mem, "/x/b", b"2").sync_data().unwrap();
    mem.sync_dir(Path::new("/x")).unwrap();
    mem.rename(Path::new("/x/a"), Path::new("/y/a")).unwrap();
    mem.rename(Path::new("/x/b"), Path::new("/y/b")).unwrap();
    create(&mem, "/x/a", b"3").sync_data().unwrap();
    mem.sync_dir(Path::new("/x")).unwrap();
    // The new /x/a cannot be there without the old one having moved; /x/b need not have.
    let cut = mem.image(CUT, DropAll, 0);
    let bytes = |name: &str| cut.read_file(name).unwrap_or_default();
    assert_eq!(
        (bytes("/x/a"), bytes("/y/a")),
        (b"3".to_vec(), b"1".to_vec())
    );
    assert_eq!(
        (bytes("/x/b"), bytes("/y/b")),
        (b"2".to_vec(), b"".to_vec())
    );
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let mem = MemVfs::crashable(1);
    create(&mem, "/a", b"1").sync_data().unwrap();
    mem.hard_link(Path::new("/a"), Path::new("/b")).unwrap();
    sync_root(&mem);
    mem.rename(Path::new("/a"), Path::new("/c")).unwrap();
    for kind in [CUT, KILL] {
        let image = mem.image(kind, KeepAll, 0);
        let links = image.metadata(Path::new("/b")).unwrap().links;
        let file = image.open(Path::new("/c"), OpenMode::ReadWrite).unwrap();
        file.write_at(b"2", 0).unwrap();
        assert_eq!((links, image.read_file("/b").unwrap()), (2, b"2".to_vec()));
        let later = image.image(CUT, DropAll, 0);
        assert_eq!(later.read_file("/b").unwrap(), b"1");
    }
}

#[test]
fn a_full_disk_takes_what_fits_and_frees_itself() {
    let mem = MemVfs::crashable(1);
    let file = create(&mem, "/a", &[1; 10]);
    mem.hard_link(Path::new("/a"), Path::new("/b")).unwrap();
    assert_eq!(mem.used(), 10);
    mem.set_capacity(Some(15));
    assert_eq!(file.write_at(&[2; 10], 8).unwrap(), 7);
    assert_eq!(
        file.write_at(&[3; 4], 0).unwrap(),
        4,
        "overwriting needs no space"
    );
    let full = |result: io::Result<usize>| result.unwrap_err().kind() == io::ErrorKind::StorageFull;
    assert!(full(file.write_at(&[2; 3], 15)));
    let other = mem.open(Path::new("/c"), OpenMode::CreateNew).unwrap();
    assert!(full(other.write_at(&[2; 3], 0)));
    let killed = mem.image(KILL, KeepAll, 0);
    let again = killed.open(Path::new("/c"), OpenMode::ReadWrite).unwrap();
    assert!(full(again.write_at(&[2; 3], 0)));
    for name in ["/a", "/b"] {
        mem.remove_file(Path::new(name)).unwrap();
    }
    assert_eq!(other.write_at(&[2; 3], 0).unwrap(), 3);
    mem.set_capacity(None);
    assert_eq!(other.write_at(&[2; 100], 0).unwrap(), 100);
}

#[test]
fn a_directory_that_was_not_synced_goes_with_all_that_is_in_it() {
    let mem = MemVfs::crashable(1);
    mem.create_dir(Path::new("/x")).unwrap();
    create(&mem, "/x/a", b"a").sync_data().unwrap();
    mem.sync_dir(Path::new("/x")).unwrap();
    let killed = mem.image(KILL, KeepAll, 0);
    assert_eq!(killed.files().len(), 1);
    for mem in [&mem, &killed] {
        assert!(mem.image(CUT, DropAll, 0).files().is_empty());
        assert!(
            mem.image(CUT, DropAll, 0)
                .read_dir(Path::new("/x"))
                .is_err()
        );
    }
    sync_root(&killed);
    assert_eq!(
        killed.image(CUT, DropAll, 0).files(),
        [(PathBuf::from("/x/a"), 1)]
    );
}

#[test]
fn a_later_sync_persists_later_bytes_but_not_forgotten_ones() {
    let mem = MemVfs::crashable(3);
    let file = create(&mem, "/a", b"0000");
    file.sync_data().unwrap();
    sync_root(&mem);
    let mut seen = BTreeSet::new();
    for seed in 0..50 {
        let mem = mem.image(CUT, KeepAll, seed);
        let file = mem.open(Path::new("/a"), OpenMode::ReadWrite).unwrap();
        file.write_at(b"11", 0).unwrap();
        mem.lose_unsynced(Path::new("/a"));
        file.write_at(b"2", 3).unwrap();
        file.sync_data().unwrap();
        assert_eq!(mem.read_file("/a").unwrap(), b"1102");
        let killed = mem.image(KILL, KeepAll, 1);
        assert_eq!(killed.read_file("/a").unwrap(), b"1102");
        for policy in CrashPolicy::ALL {
            let cut = killed.image(CUT, *policy, 1).read_file("/a").unwrap();
            assert_eq!(cut, mem.image(CUT, *policy, 2).read_file("/a").unwrap());
            seen.insert(cut);
        }
    }
    assert_eq!(seen, BTreeSet::from([b"0002".to_vec(), b"1102".to_vec()]));
}

#[test]
fn the_hook_sees_the_moment_before_each_change() {
    let mem = MemVfs::crashable(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    mem.set_hook(Some(Arc::new(move |mem: &MemVfs, number| {
        assert_eq!(mem.mutations(), number);
        let image = mem.image(CUT, DropAll, number);
        lock(&log).push((number, mem.files().len(), image.files().len()));
    })));
    let held = mem.lock(Path::new("/LOCK"), true).unwrap().unwrap();
    let file = create(&mem, "/a", b"x");
    file.sync_data().unwrap();
    sync_root(&mem);
    file.read_at(&mut [0; 4], 0).unwrap();
    file.write_at(b"y", 0).unwrap();
    mem.remove_file(Path::new("/a")).unwrap();
    let expected = [
        (1, 0, 0), // lock
        (2, 1, 0), // create
        (3, 2, 0), // write
        (4, 2, 0), // sync
        (5, 2, 0), // sync of the directory
        (6, 2, 2), // write
        (7, 2, 2), // remove
    ];
    assert_eq!(*lock(&seen), expected);
    mem.set_hook(None);
    assert!(mem.lock(Path::new("/LOCK"), true).unwrap().is_none());
    let image = mem.image(KILL, KeepAll, 0);
    assert!(
        image.lock(Path::new("/LOCK"), true).unwrap().is_some(),
        "locks die with a process"
    );
    drop(held);
    assert!(mem.lock(Path::new("/LOCK"), false).unwrap().is_some());
}

#[test]
fn an_image_is_one_moment_of_all_files() {
    let mem = MemVfs::crashable(1);
    let (a, b) = (create(&mem, "/a", &[0; 8]), create(&mem, "/b", &[0; 8]));
    for i in 0..300 {
        // An image takes its time from one to the other.
        create(&mem, &format!("/aa{i}"), b"between");
    }
    sync_root(&mem);
    let number = |mem: &MemVfs, name| {
        u64::from_le_bytes(mem.read_file(name).unwrap().try_into().unwrap_or_default())
    };
    let (written, enough) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                for file in [&a, &b] {
                    file.write_at(&u64::to_le_bytes(n), 0).unwrap();
                    file.sync_data().unwrap();
                }
                written.store(n, Ordering::SeqCst);
                if enough.load(Ordering::SeqCst) == 1 {
                    break;
                }
            }
        });
        let seen: Vec<_> = (0..30)
            .map(|_| {
                let before = written.load(Ordering::SeqCst);
                while written.load(Ordering::SeqCst) == before {
                    std::thread::yield_now();
                }
                let image = mem.image(CUT, DropAll, 0);
                (number(&image, "/a"), number(&image, "/b"))
            })
            .collect();
        enough.store(1, Ordering::SeqCst);
        assert!(seen.iter().all(|(a, b)| a == b || *a == b + 1), "{seen:?}");
    });
}

#[test]
fn random_numbers_follow_the_seed_and_never_repeat_after_a_crash() {
    let (one, two) = (MemVfs::crashable(7), MemVfs::new(7));
    assert_eq!(one.random(), two.random());
    let mut drawn = BTreeSet::from([one.random()]);
    for seed in [7, 7, 8] {
        for kind in [CUT, KILL] {
            one.random();
            assert!(drawn.insert(one.image(kind, KeepAll, seed).random()));
        }
    }
}

#[test]
fn a_map_of_a_plain_file_is_not_a_copy_and_keeps_its_bytes() {
    let mem = MemVfs::new(1);
    let file = create(&mem, "/a", &[1; 10_000]);
    let (one, two) = (file.map(10_000).unwrap(), file.map(5_000).unwrap());
    assert_eq!(one.as_ptr(), two.as_ptr());
    file.write_at(&[2; 10], 0).unwrap();
    assert_eq!(
        (one[0], mem.read_file("/a").unwrap()[..11].to_vec()),
        (1, vec![2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1])
    );
    let crashed = mem.image(CUT, DropAll, 0);
    assert_eq!(
        crashed.content_hash(),
        mem.content_hash(),
        "a plain one counts as durable"
    );
    assert_eq!(
        file.write_at(b"x", 1 << 50).unwrap_err().kind(),
        io::ErrorKind::FileTooLarge
    );
}

#[test]
fn tests_can_damage_files_durably() {
    let mem = MemVfs::crashable(1);
    create(&mem, "/a", b"a");
    create(&mem, "/b", b"b");
    mem.write_file("/a", b"damaged");
    mem.write_file("/x/y/new", b"new");
    assert!(!mem.remove("/none"));
    let cut = mem.image(CUT, DropAll, 0);
    assert_eq!(cut.read_file("/a").unwrap(), b"damaged");
    assert_eq!(cut.files().len(), 2, "/b was never durable");
    assert!(cut.remove("/x/y/new"));
    assert_eq!(cut.image(CUT, DropAll, 0).files().len(), 1);
    assert_eq!(mem.files().len(), 3);
    assert_ne!(cut.content_hash(), mem.content_hash());
}
