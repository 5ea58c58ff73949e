//! Damage to the files of a database: every outcome is an error that names it, or the right answers.
//!
//! The log is held against its own frames: the test reads their lengths and promises, and so knows
//! what any damage must lead to. The other files are held against the state that the database had.
//! Single bits, bytes and lengths of all files are the matter of `tests/torture/src/corrupt.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Compression, Db, Durability, ErrorKind, IoMode, Options, Result};
use terrace_kit::{Contents, Generator, Op, Oracle, Profile, Runner, Scenario};

const DIR: &str = "/data/db";

/// The files of a database, by name.
type Disk = BTreeMap<PathBuf, Vec<u8>>;

fn disk_of(vfs: &MemVfs) -> Disk {
    let files = vfs.files().into_iter();
    let read = |(path, _): (PathBuf, u64)| {
        let bytes = vfs.read_file(&path).unwrap();
        (path, bytes)
    };
    files.map(read).collect()
}

fn vfs_of(disk: &Disk) -> Arc<MemVfs> {
    let vfs = MemVfs::new(7);
    for (path, bytes) in disk {
        vfs.write_file(path, bytes);
    }
    vfs
}

fn read(db: &Db) -> Result<Contents> {
    Oracle::read(db).map_err(|trouble| match trouble.error() {
        Some(error) => error.clone(),
        None => panic!("{trouble}"),
    })
}

fn options() -> Options {
    Options::new()
        .memory(4 << 20)
        .compression(Compression::None)
        .io(IoMode::Pread)
        .tune(|t| {
            t.manual = true;
            t.list_entries = 8;
            t.segment_bytes = (4096, Some(4096));
            t.table_bytes = 4096;
        })
}

/// Opens and reads a copy of `disk`. A failed open leaves every file as it was.
fn outcome(disk: &Disk, options: &Options) -> Result<Contents> {
    let vfs = vfs_of(disk);
    let shared: Arc<dyn Vfs> = vfs.clone();
    let db = match options.clone().vfs(shared).open(Path::new(DIR)) {
        Ok(db) => db,
        Err(error) => {
            let after = disk_of(&vfs);
            let same = disk
                .iter()
                .all(|(path, bytes)| after.get(path) == Some(bytes));
            assert!(same, "a failed open has changed files: {error}");
            return Err(error);
        }
    };
    read(&db)
}

/// True for an error that names damage, false for the right answers, a panic for anything else.
fn refused(disk: &Disk, options: &Options, wanted: &Contents, what: &str) -> bool {
    match outcome(disk, options) {
        Ok(found) => {
            assert!(found == *wanted, "{what}: wrong answers");
            false
        }
        Err(error) => {
            let fits = matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Unsupported);
            assert!(fits, "{what}: {error}");
            true
        }
    }
}

/// A database with a log of one segment, states and all; `close`: it ended well.
fn small_log(close: bool) -> (Disk, Vec<Contents>) {
    let vfs = MemVfs::crashable(11);
    let shared: Arc<dyn Vfs> = vfs.clone();
    let db = options().vfs(shared).open(Path::new(DIR)).unwrap();
    let mut states = vec![read(&db).unwrap()];
    for n in 0..20u32 {
        let mut batch = terrace::Batch::new();
        batch.put(format!("key{n:02}"), format!("value {n}"));
        if n % 3 == 1 {
            batch
                .put("both", format!("{n}"))
                .delete(format!("key{:02}", n - 1));
        }
        let sync = n % 4 == 2;
        batch.durability(if sync {
            Durability::Sync
        } else {
            Durability::Buffered
        });
        db.write(batch).unwrap();
        states.push(read(&db).unwrap());
    }
    if close {
        db.close().unwrap();
        return (disk_of(&vfs), states);
    }
    (
        disk_of(&vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1)),
        states,
    )
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    at: usize,
    end: usize,
    data: bool,
    /// As an offset in the file.
    promise: u64,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(word)
}

/// The frames of a segment file; positions are made offsets.
fn frames_of(segment: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let (mut at, mut first) = (0, 0);
    loop {
        let len = number::<4>(segment, at) as usize;
        if len == 0 {
            return frames;
        }
        let kind = segment[at + 16];
        if kind == 2 {
            first = number::<8>(segment, at + 32 + 40);
        }
        let end = (at + len).next_multiple_of(8);
        let promise = number::<8>(segment, at + 24).saturating_sub(first);
        frames.push(Frame {
            at,
            end,
            data: kind == 1,
            promise,
        });
        at = end;
    }
}

fn the_segment(disk: &Disk) -> PathBuf {
    let mut segments = disk
        .keys()
        .filter(|path| path.extension().is_some_and(|e| e == "wal"));
    let segment = segments.next().unwrap().clone();
    assert_eq!(
        segments.next(),
        None,
        "one segment is meant to hold the log"
    );
    segment
}

/// What damage that leaves only the frames `whole` must lead to: how many data frames, or damage.
fn expected(frames: &[Frame], whole: impl Fn(&Frame) -> bool) -> Option<usize> {
    let broken = frames
        .iter()
        .position(|frame| !whole(frame))
        .unwrap_or(frames.len());
    let end = frames.get(broken).map_or(usize::MAX, |frame| frame.at) as u64;
    let promised = frames[broken..]
        .iter()
        .filter(|frame| whole(frame))
        .any(|f| f.promise > end);
    let data = frames[..broken].iter().filter(|frame| frame.data).count();
    (!promised).then_some(data)
}

fn check_log_damage(
    disk: &Disk,
    states: &[Contents],
    segment: &Path,
    wanted: Option<usize>,
    what: &str,
) {
    let _ = segment;
    match (outcome(disk, &options()), wanted) {
        (Ok(found), Some(data)) => {
            let at = states.iter().position(|state| *state == found);
            assert!(
                found == states[data],
                "{what}: state {at:?} instead of {data}"
            );
        }
        (Err(error), None) => assert_eq!(error.kind(), ErrorKind::Corruption, "{what}: {error}"),
        (Ok(_), None) => panic!("{what}: damage below a promise was taken for a tear"),
        (Err(error), Some(_)) => panic!("{what}: a tear was taken for damage: {error}"),
    }
}

#[test]
fn a_damaged_log_gives_what_its_promises_allow() {
    for close in [false, true] {
        let (disk, states) = small_log(close);
        let segment = the_segment(&disk);
        let frames = frames_of(&disk[&segment]);
        assert!(frames.len() > 20 && frames.iter().any(|frame| frame.promise > 0));
        let used = frames.last().unwrap().end;
        let mut bad = disk.clone();
        for from in 0..used + 9 {
            let bytes = bad.get_mut(&segment).unwrap();
            bytes.clone_from(&disk[&segment]);
            bytes[from..].fill(0);
            let same = bytes[..used] == disk[&segment][..used];
            let wanted = expected(&frames, |frame| {
                frame.end <= from || same || {
                    // Zeroes over the padding, or over zeroes, are no damage.
                    bytes[frame.at..frame.end] == disk[&segment][frame.at..frame.end]
                }
            });
            check_log_damage(
                &bad,
                &states,
                &segment,
                wanted,
                &format!("closed {close}, zero from {from}"),
            );
        }
    }
}

#[test]
fn an_exchanged_or_cut_or_missing_segment_is_damage() {
    for seed in 0..6 {
        for close in [false, true] {
            let vfs = MemVfs::crashable(seed);
            let shared: Arc<dyn Vfs> = vfs.clone();
            let db = options().vfs(shared).open(Path::new(DIR)).unwrap();
            for n in 0..60u64 {
                db.put(
                    format!("key{:02}", n % 18),
                    vec![b'v'; (n * 37 % 900) as usize],
                )
                .unwrap();
                if n == 10 * seed {
                    db.flush().unwrap();
                }
            }
            let wanted = read(&db).unwrap();
            let disk = if close {
                db.close().unwrap();
                disk_of(&vfs)
            } else {
                disk_of(&vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1))
            };
            assert!(!refused(&disk, &options(), &wanted, "undamaged"));
            let is_segment = |path: &&PathBuf| path.extension().is_some_and(|e| e == "wal");
            let segments: Vec<&PathBuf> = disk.keys().filter(is_segment).collect();
            assert!(segments.len() > 2);
            let mut exchanged = 0;
            for one in &segments {
                let what = format!("seed {seed}, closed {close}, {one:?}");
                let mut bad = disk.clone();
                bad.remove(*one);
                assert!(refused(&bad, &options(), &wanted, &what), "{what} missing");
                let lens = [0, 1, 8, 95, 96, 4088, 4095]
                    .into_iter()
                    .chain((0..4096).step_by(61));
                for len in lens {
                    bad.insert((*one).clone(), disk[*one][..len].to_vec());
                    assert!(
                        refused(&bad, &options(), &wanted, &what),
                        "{what} cut to {len}"
                    );
                }
                for other in segments.iter().filter(|other| *other != one) {
                    let mut bad = disk.clone();
                    bad.insert((*one).clone(), disk[*other].clone());
                    exchanged += usize::from(refused(
                        &bad,
                        &options(),
                        &wanted,
                        &format!("{what} := {other:?}"),
                    ));
                    bad.insert((*other).clone(), disk[*one].clone());
                    exchanged += usize::from(refused(
                        &bad,
                        &options(),
                        &wanted,
                        &format!("{what} <> {other:?}"),
                    ));
                }
            }
            assert!(exchanged > 0);
        }
    }
}

fn closed_database() -> (Disk, Contents) {
    let vfs = MemVfs::crashable(3);
    let shared: Arc<dyn Vfs> = vfs.clone();
    let db = options().vfs(shared).open(Path::new(DIR)).unwrap();
    let right = db.keyspace("right").unwrap();
    for n in 0..30u64 {
        db.put(format!("key{:02}", n % 18), format!("value {n}"))
            .unwrap();
        right
            .put(format!("key{:02}", n % 7), format!("right {n}"))
            .unwrap();
        if n == 15 {
            db.flush().unwrap();
        }
    }
    let state = read(&db).unwrap();
    db.close().unwrap();
    (disk_of(&vfs), state)
}

fn named(disk: &Disk, part: &str) -> PathBuf {
    let mut paths = disk
        .keys()
        .filter(|path| path.to_string_lossy().contains(part));
    paths.next_back().unwrap().clone()
}

#[test]
fn a_manifest_or_current_that_ends_in_zeroes_is_never_a_wrong_answer() {
    let (disk, wanted) = closed_database();
    for name in ["CURRENT", "MANIFEST-"] {
        let path = named(&disk, name);
        let used = disk[&path].iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let mut bad = disk.clone();
        for from in (0..used).rev() {
            bad.get_mut(&path).unwrap()[from..].fill(0);
            let what = format!("{name} zero from {from}");
            refused(&bad, &options(), &wanted, &what);
        }
    }
}

#[test]
fn a_damaged_table_is_an_error_or_the_right_answer() {
    let (disk, wanted) = closed_database();
    let path = named(&disk, ".sst");
    let good = disk[&path].clone();
    let mut bad = disk.clone();
    let mut refusals = 0;
    for io in [IoMode::Pread, IoMode::Mmap] {
        let options = options().io(io);
        for bit in (0..good.len() * 8).step_by(if io == IoMode::Mmap { 7 } else { 1 }) {
            bad.get_mut(&path).unwrap()[bit / 8] ^= 1 << (bit % 8);
            refusals += usize::from(refused(
                &bad,
                &options,
                &wanted,
                &format!("table bit {bit}"),
            ));
            bad.get_mut(&path).unwrap()[bit / 8] ^= 1 << (bit % 8);
        }
    }
    assert!(refusals > good.len());
    for len in 0..good.len() {
        bad.insert(path.clone(), good[..len].to_vec());
        assert!(refused(
            &bad,
            &options(),
            &wanted,
            &format!("table cut to {len}")
        ));
    }
}

#[test]
fn current_missing_beside_data_is_damage_and_removes_nothing() {
    let (mut disk, wanted) = closed_database();
    disk.remove(&named(&disk, "CURRENT"));
    assert!(refused(&disk, &options(), &wanted, "without CURRENT"));
    let all = disk.clone();
    for keep in [".sst", ".wal"] {
        disk = all.clone();
        disk.retain(|path, _| path.to_string_lossy().ends_with(keep));
        assert!(refused(&disk, &options(), &wanted, keep));
    }
    // Nothing but manifests: a creation that was not finished, begun again.
    disk = all;
    disk.retain(|path, _| {
        !path.to_string_lossy().ends_with(".sst") && !path.to_string_lossy().ends_with(".wal")
    });
    disk.insert(Path::new(DIR).join("CURRENT.tmp"), vec![1, 2, 3]);
    let found = outcome(&disk, &options()).unwrap();
    assert!(found.len() == 1 && found["default"].is_empty());
}

#[test]
fn names_with_absurd_numbers_are_leftovers() {
    let (mut disk, wanted) = closed_database();
    let name = format!("MANIFEST-{}", u64::MAX);
    disk.insert(Path::new(DIR).join(&name), vec![1, 2, 3]);
    disk.insert(Path::new(DIR).join(format!("{}.sst", u64::MAX)), vec![1]);
    disk.insert(
        Path::new(DIR).join(format!("{}.wal", u64::MAX - 1)),
        vec![1],
    );
    assert!(!refused(&disk, &options(), &wanted, "absurd numbers"));
    // Also where a database is begun.
    disk.retain(|path, _| path.ends_with(&name));
    assert!(outcome(&disk, &options()).unwrap()["default"].is_empty());
}

/// Manifest and `CURRENT` as they were after some operation, put back at the end.
#[test]
fn an_old_manifest_put_back_is_seen() {
    let (mut refusals, mut tried) = (0, 0);
    for seed in 100..130 {
        let vfs = MemVfs::crashable(seed);
        let scenario = Scenario::by_hand(vfs.clone());
        let mut runner = Runner::new(scenario.clone(), seed).unwrap();
        let mut copies: Vec<Disk> = Vec::new();
        for (n, op) in Generator::new(seed, Profile::crashes())
            .take(40)
            .enumerate()
        {
            runner.apply(&op).unwrap();
            if n % 13 == 12 {
                // The process is killed, and the next goes on from what it left.
                kill(&mut runner, &vfs, seed);
            }
            if !matches!(op, Op::TakeSnapshot | Op::DropSnapshot(_)) {
                copies.push(names_of_state(&vfs));
            }
        }
        let wanted = read(runner.db().unwrap()).unwrap();
        runner.close(true).unwrap();
        let disk = disk_of(&vfs);
        for (at, copy) in copies.iter().enumerate() {
            let mut bad = disk.clone();
            bad.extend(copy.clone());
            tried += 1;
            refusals += usize::from(refused(
                &bad,
                &scenario.options(seed),
                &wanted,
                &format!("seed {seed}, copy {at}"),
            ));
        }
    }
    println!("{refusals} of {tried} old manifests were refused, the others harmless");
    assert!(refusals > tried / 4);
}

fn names_of_state(vfs: &MemVfs) -> Disk {
    let mut disk = disk_of(vfs);
    disk.retain(|path, _| {
        let name = path.to_string_lossy();
        name.ends_with("CURRENT") || name.contains("MANIFEST-")
    });
    disk
}

/// Leaves the database without closing it, and opens what is found then in the same file system.
fn kill(runner: &mut Runner, vfs: &Arc<MemVfs>, seed: u64) {
    let image = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, seed);
    runner.close(true).unwrap();
    for (path, _) in vfs.files() {
        vfs.remove(path);
    }
    for (path, bytes) in disk_of(&image) {
        vfs.write_file(path, bytes);
    }
    runner.open(seed).unwrap();
}
