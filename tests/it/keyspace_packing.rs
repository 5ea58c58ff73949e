//! Keyspaces with a compression and a block size of their own: what their tables are, how they follow when it changes,
//! that no table is written again for nothing, and that no entry is lost where two of them meet.

use std::collections::BTreeMap;
use std::sync::Arc;

use Compression::{Lz4, None as Raw};
use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Compression, Db, Durability, ErrorKind, Keyspace, KeyspaceOptions, Options};

const DIR: &str = "/db";

fn options(vfs: &Arc<MemVfs>, compression: Compression) -> Options {
    let vfs: Arc<dyn Vfs> = vfs.clone();
    Options::new()
        .compression(compression)
        .tune(|tuning| tuning.manual = true)
        .vfs(vfs)
}

fn packed(compression: Compression) -> KeyspaceOptions {
    KeyspaceOptions::new().compression(Some(compression))
}

/// The other one.
fn other(compression: Compression) -> Compression {
    match compression {
        Raw => Lz4,
        _ => Raw,
    }
}

fn value(n: u32) -> String {
    format!("value {n}, and the same words again, again, again, again, and once more again")
}

fn fill(keyspace: &Keyspace) {
    for n in 0..1000u32 {
        keyspace.put(n.to_be_bytes(), value(n)).unwrap();
    }
}

fn check(keyspace: &Keyspace) {
    let entries: Vec<_> = keyspace.iter().map(Result::unwrap).collect();
    let wanted = (0..1000u32).map(|n| (n.to_be_bytes(), value(n)));
    assert!(
        entries.iter().map(|(k, v)| (&k[..], &v[..])).eq(wanted
            .clone()
            .collect::<Vec<_>>()
            .iter()
            .map(|(k, v)| (&k[..], v.as_bytes())))
    );
    for (key, value) in wanted.step_by(7) {
        assert_eq!(keyspace.get(key).unwrap().unwrap(), value);
    }
}

/// The kinds of the first blocks of all tables, in the order in which they were made: 0 raw, 1 LZ4,
/// 2 zstd.
fn kinds(vfs: &MemVfs) -> Vec<u8> {
    let mut tables: Vec<_> = vfs.files().into_iter().map(|(path, _)| path).collect();
    tables.retain(|path| path.extension().is_some_and(|end| end == "sst"));
    tables.retain(|path| {
        path.parent()
            .is_some_and(|dir| dir == std::path::Path::new(DIR))
    });
    tables.sort();
    let kinds = tables.iter().map(|path| vfs.read_file(path).unwrap()[12]);
    kinds.collect()
}

/// Bytes that `work` has compactions write.
fn compacted(db: &Db, work: impl FnOnce()) -> u64 {
    let before = db.stats().bytes_compacted;
    work();
    db.stats().bytes_compacted - before
}

#[test]
fn a_keyspace_is_compressed_as_it_says_whatever_the_database_says() {
    for default in [Lz4, Raw] {
        let vfs = MemVfs::new(1);
        let db = options(&vfs, default).open(DIR).unwrap();
        let names = ["a", "own", "own too", "z", "same"];
        let create = |name: &str| match name {
            "own" | "own too" => packed(other(default)),
            "same" => packed(default),
            _ => KeyspaceOptions::new(),
        };
        for name in names {
            fill(&db.create_keyspace(name, create(name)).unwrap());
        }
        db.flush().unwrap();
        assert_eq!(
            kinds(&vfs),
            [0],
            "above the last level nothing is compressed, nor cut"
        );
        db.compact_all().unwrap();
        let (rest, own) = (default as u8, other(default) as u8);
        assert_eq!(kinds(&vfs), [rest, own, rest], "a; the two; z and same");
        db.close().unwrap();
        let db = options(&vfs, default).open(DIR).unwrap();
        for name in names {
            let keyspace = db.keyspace(name).unwrap();
            assert_eq!(keyspace.options(), create(name));
            check(&keyspace);
        }
        let again = compacted(&db, || {
            db.compact_all().unwrap();
            db.wait_idle().unwrap();
        });
        assert_eq!(again, 0, "all is as it should be");
        db.close().unwrap();
        // The database's own is that of the others only.
        let db = options(&vfs, other(default)).open(DIR).unwrap();
        db.compact_all().unwrap();
        let mut found = kinds(&vfs);
        found.sort_unstable();
        let mut wanted = [own, own, own, rest];
        wanted.sort_unstable();
        assert_eq!(found, wanted, "what says nothing changes, `same` does not");
        names
            .iter()
            .for_each(|name| check(&db.keyspace(name).unwrap()));
    }
}

#[test]
fn options_that_change_while_the_database_is_open_change_what_lies_on_disk() {
    for manual in [true, false] {
        let vfs = MemVfs::new(2);
        let db = options(&vfs, Lz4)
            .tune(|tuning| tuning.manual = manual)
            .open(DIR)
            .unwrap();
        let (a, b) = (db.keyspace("a").unwrap(), db.keyspace("b").unwrap());
        fill(&a);
        fill(&b);
        db.compact_all().unwrap();
        let small = db.stats().table_bytes;
        a.set_options(packed(Raw)).unwrap();
        let idle = compacted(&db, || db.wait_idle().unwrap());
        assert_eq!(idle, 0, "tables follow as compaction meets them");
        assert_eq!(db.stats().table_bytes, small);
        // The table that both lie in is cut; from then on each is left alone by the other.
        let cut = compacted(&db, || b.compact(..).unwrap());
        let large = db.stats().table_bytes;
        assert!(
            large > small * 2 && cut == large,
            "{small}, then {large}, {cut} written"
        );
        assert_eq!(kinds(&vfs), [0, 1]);
        let again = compacted(&db, || {
            a.compact(..).unwrap();
            db.compact_all().unwrap();
            db.wait_idle().unwrap();
        });
        assert_eq!(again, 0);
        b.set_options(packed(Raw)).unwrap();
        a.compact(..).unwrap();
        assert_eq!(db.stats().table_bytes, large, "b was not asked for");
        b.compact(..).unwrap();
        assert_eq!(kinds(&vfs), [0, 0]);
        // Taken back, it is once more as the database says; and a crash keeps that.
        a.set_options(KeyspaceOptions::new()).unwrap();
        b.set_options(KeyspaceOptions::new()).unwrap();
        let killed = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 5);
        db.compact_all().unwrap();
        assert!(db.stats().table_bytes < small + small / 8);
        check(&a);
        check(&b);
        let again = options(&killed, Lz4).open(DIR).unwrap();
        again.compact_all().unwrap();
        assert_eq!(
            again.keyspace("a").unwrap().options(),
            KeyspaceOptions::new()
        );
        check(&again.keyspace("a").unwrap());
        check(&again.keyspace("b").unwrap());
        assert_eq!(again.stats().table_bytes, db.stats().table_bytes);
    }
}

#[test]
fn a_table_moves_into_the_last_level_only_if_it_is_packed_as_its_keyspace_says() {
    for (default, own) in [(Lz4, Raw), (Raw, Lz4)] {
        let vfs = MemVfs::new(3);
        let db = options(&vfs, default).open(DIR).unwrap();
        let keyspace = db.create_keyspace("own", packed(own)).unwrap();
        fill(&keyspace);
        let written = compacted(&db, || db.wait_idle().unwrap());
        assert_eq!(written == 0, own == Raw, "{own:?} in {default:?}");
        assert_eq!(kinds(&vfs), [own as u8]);
        // What lies there in another way is met by what comes down, and follows.
        keyspace.set_options(packed(default)).unwrap();
        keyspace.put(0u32.to_be_bytes(), value(0)).unwrap();
        keyspace.put(999u32.to_be_bytes(), value(999)).unwrap();
        db.wait_idle().unwrap();
        assert_eq!(kinds(&vfs), [default as u8]);
        check(&keyspace);
    }
}

/// How far the estimate for one key is beyond the truth, at worst: it counts the blocks that the
/// key may lie in.
fn in_blocks(keyspace: &Keyspace) -> u64 {
    let at = |n: u32| {
        let key = n.to_be_bytes();
        keyspace.approximate_count(key..=key).unwrap()
    };
    (0..1000).map(at).max().unwrap()
}

#[test]
fn blocks_have_the_size_that_their_keyspace_says() {
    let vfs = MemVfs::new(4);
    let db = options(&vfs, Raw).open(DIR).unwrap();
    let sized = |bytes| KeyspaceOptions::new().block_size(Some(bytes));
    let small = db.create_keyspace("small", sized(512)).unwrap();
    let plain = db.keyspace("plain").unwrap();
    let middle = db.create_keyspace("middle", sized(4000)).unwrap();
    let all = [&small, &plain, &middle];
    all.iter().for_each(|keyspace| fill(keyspace));
    for compact in [false, true] {
        match compact {
            false => db.flush().unwrap(),
            true => db.compact_all().unwrap(),
        }
        assert_eq!(kinds(&vfs), [0], "a table has blocks of several sizes");
        all.iter().for_each(|keyspace| check(keyspace));
        // Entries have some 100 bytes.
        assert_eq!(all.map(in_blocks), [4, 80, 38]);
    }
    // New tables follow.
    small.set_options(KeyspaceOptions::new()).unwrap();
    middle.set_options(sized(0)).unwrap();
    assert_eq!(middle.options().block_size, Some(512));
    let written = compacted(&db, || db.compact_all().unwrap());
    assert_eq!(written, 0, "not for the size of blocks alone");
    for keyspace in [&small, &middle] {
        keyspace.put(0u32.to_be_bytes(), value(0)).unwrap();
        keyspace.put(999u32.to_be_bytes(), value(999)).unwrap();
    }
    db.compact_all().unwrap();
    assert_eq!(all.map(in_blocks), [80, 80, 4]);
    all.iter().for_each(|keyspace| check(keyspace));
}

#[test]
fn large_blocks_are_for_large_values() {
    let vfs = MemVfs::new(4);
    let db = options(&vfs, Raw).open(DIR).unwrap();
    let inline = KeyspaceOptions::new().blob_threshold(Some(u64::MAX));
    let plain = db.create_keyspace("plain", inline.clone()).unwrap();
    let large = db.create_keyspace("large", inline.block_size(Some(u64::MAX)));
    let large = large.unwrap();
    assert_eq!(large.options().block_size, Some(65_536));
    for n in 0..50u32 {
        for keyspace in [&plain, &large] {
            keyspace.put(n.to_be_bytes(), vec![n as u8; 3000]).unwrap();
        }
    }
    db.compact_all().unwrap();
    assert_eq!([&plain, &large].map(in_blocks), [2, 3]);
}

#[test]
fn what_recovery_ingests_and_salvages_write_is_packed_so_too() {
    let vfs = MemVfs::new(5);
    let db = options(&vfs, Lz4).open(DIR).unwrap();
    let raw = packed(Raw).block_size(Some(512));
    let raw = db.create_keyspace("raw", raw).unwrap();
    let plain = db.keyspace("plain").unwrap();
    for keyspace in [&raw, &plain] {
        let entries = (0..1000u32).rev().map(|n| (n.to_be_bytes(), value(n)));
        keyspace.ingest_unsorted(entries, 10_000, |_| ()).unwrap();
        check(keyspace);
    }
    let fine = |raw: &Keyspace| in_blocks(raw) == 4;
    assert_eq!(kinds(&vfs), [0, 1]);
    assert!(fine(&raw));
    assert_eq!(compacted(&db, || db.wait_idle().unwrap()), 0, "they move");
    // Without CURRENT everything is merged, by what the manifest says of keyspaces.
    db.close().unwrap();
    let damaged = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1);
    assert!(damaged.remove("/db/CURRENT"));
    let (salvaged, _) = options(&damaged, Lz4).salvage(DIR).unwrap();
    assert_eq!(kinds(&damaged), [0, 1]);
    let found = salvaged.keyspace("raw").unwrap();
    check(&found);
    assert!(fine(&found));
    // And what is found in the log goes into tables as small as the others.
    let db = options(&vfs, Lz4).open(DIR).unwrap();
    let raw = db.keyspace("raw").unwrap();
    raw.clear().unwrap();
    db.compact_all().unwrap();
    fill(&raw);
    db.sync().unwrap();
    let killed = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 2);
    let db = options(&killed, Lz4).open(DIR).unwrap();
    assert_eq!(db.stats().levels[0].tables, 1);
    let raw = db.keyspace("raw").unwrap();
    check(&raw);
    assert!(fine(&raw));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let vfs = MemVfs::new(6);
    let db = options(&vfs, Lz4).open(DIR).unwrap();
    let mut wrong = Vec::new();
    for bytes in [0, 511, 65_537] {
        let mut options = KeyspaceOptions::new();
        options.block_size = Some(bytes);
        wrong.push((options, ErrorKind::Invalid));
    }
    if Compression::Zstd.check().is_err() {
        wrong.push((packed(Compression::Zstd), ErrorKind::Unsupported));
    }
    for (options, kind) in wrong {
        let created = db.create_keyspace("k", options.clone());
        assert_eq!(created.unwrap_err().kind(), kind);
        assert_eq!(db.set_options(options).unwrap_err().kind(), kind);
    }
    assert_eq!(db.keyspaces().unwrap(), ["default"]);
    assert_eq!(Keyspace::options(&db), KeyspaceOptions::new());
    assert_eq!(db.stats().writes, 0);
}

/// Small, fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn options(&mut self) -> KeyspaceOptions {
        let compression = [None, Some(Raw), Some(Lz4)][self.below(3) as usize];
        let sizes = [None, Some(512), Some(3000), Some(65_536)];
        let size = sizes[self.below(4) as usize];
        KeyspaceOptions::new()
            .compression(compression)
            .block_size(size)
            .blob_threshold(Some(400))
    }
}

type Model = BTreeMap<String, (KeyspaceOptions, BTreeMap<u64, String>)>;

fn agree(db: &Db, model: &Model, seed: u64) {
    for (name, (options, entries)) in model {
        let keyspace = db.keyspace(name).unwrap();
        assert_eq!(keyspace.options(), *options, "{name}, seed {seed}");
        let found = keyspace.iter().map(Result::unwrap);
        let wanted = entries
            .iter()
            .map(|(key, value)| (key.to_be_bytes(), value));
        let (mut found, mut wanted) = (found, wanted);
        loop {
            match (found.next(), wanted.next()) {
                (None, None) => break,
                (Some((key, value)), Some((k, v))) if key == k[..] && value == *v.as_bytes() => {}
                (found, wanted) => panic!("{name}: {found:?} for {wanted:?}, seed {seed}"),
            }
        }
    }
}

#[test]
fn nothing_is_lost_where_keyspaces_of_many_packings_meet() {
    for seed in 1..=12 {
        let mut random = Random(seed + 0x9e37_79b9_7f4a_7c15);
        let default = [Raw, Lz4][seed as usize % 2];
        let vfs = MemVfs::new(seed);
        let open = |vfs: &Arc<MemVfs>| {
            let options = options(vfs, default).durability(Durability::Buffered);
            let options = options.tune(|tuning| {
                tuning.table_bytes = 20_000;
                tuning.base_level_bytes = 60_000;
            });
            options.open(DIR).unwrap()
        };
        let mut db = open(&vfs);
        let mut model = Model::new();
        for _ in 0..250 {
            let name = format!("k{}", random.below(7));
            let keyspace = db.keyspace(&name).unwrap();
            let (options, entries) = model.entry(name.clone()).or_default();
            match random.below(40) {
                0..=5 => {
                    *options = random.options();
                    keyspace.set_options(options.clone()).unwrap();
                }
                6..=8 => db.flush().unwrap(),
                9..=10 => db.wait_idle().unwrap(),
                11 => keyspace.compact(..).unwrap(),
                12 => db.compact_all().unwrap(),
                13 => {
                    db.drop_keyspace(&name).unwrap();
                    model.remove(&name);
                }
                14 => {
                    let lower = random.below(300);
                    keyspace.delete_range(lower.to_be_bytes()..).unwrap();
                    entries.retain(|key, _| *key < lower);
                }
                15 => {
                    drop(keyspace);
                    db.close().unwrap();
                    db = open(&vfs);
                }
                16 => agree(
                    &open(&vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, seed)),
                    &model,
                    seed,
                ),
                _ => {
                    for _ in 0..random.below(60) {
                        let key = random.below(300);
                        let text = value(key as u32).repeat(1 + random.below(8) as usize);
                        keyspace.put(key.to_be_bytes(), &text).unwrap();
                        entries.insert(key, text);
                        let gone = random.below(300);
                        keyspace.delete(gone.to_be_bytes()).unwrap();
                        entries.remove(&gone);
                    }
                }
            }
        }
        agree(&db, &model, seed);
        db.compact_all().unwrap();
        let again = compacted(&db, || {
            db.compact_all().unwrap();
            db.wait_idle().unwrap();
        });
        assert_eq!(again, 0, "seed {seed}");
        agree(&db, &model, seed);
        db.close().unwrap();
        let db = open(&vfs);
        agree(&db, &model, seed);
        db.compact_all().unwrap();
        agree(&db, &model, seed);
    }
}
