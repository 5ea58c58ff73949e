//! The databases that are damaged: small, with a file of each kind, and with everything known that was ever written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Batch, Compression, Db, Durability, IoMode, KeyspaceOptions, Options};
use terrace_kit::{APPEND, expiry, registered};

/// Where the database lies.
pub const DIR: &str = "/data/db";
/// Its keyspaces, in the order of their ids.
pub const NAMES: [&str; 4] = ["default", "left", "right", "late"];
const KEYS: u64 = 12;
/// Values from this length on go into a blob file.
const LARGE: usize = 100;

/// The files of a database, by name.
pub type Disk = BTreeMap<PathBuf, Vec<u8>>;
/// A place for a value: keyspace and key.
pub type Place = (usize, Vec<u8>);
/// For each place the last write: its sequence number, and the value unless it was deleted.
pub type State = BTreeMap<Place, (u64, Option<Vec<u8>>)>;

/// One write to a place.
#[derive(Clone, Debug)]
pub struct Written {
    pub seq: u64,
    pub place: Place,
    /// What the place has then, unless that is nothing.
    pub value: Option<Vec<u8>>,
    /// What was written is only the end of it, from here on.
    pub operand_at: Option<usize>,
}

/// How a database ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was closed.
    Closed,
    /// Its process was killed.
    Killed,
}

/// One database and its history.
#[derive(Debug)]
pub struct Subject {
    pub name: &'static str,
    pub ending: Ending,
    pub disk: Disk,
    /// Copies of earlier moments.
    pub earlier: Vec<Disk>,
    /// Everything written, in order.
    pub writes: Vec<Written>,
    /// Writes up to here are in tables.
    pub flushed: u64,
    pub frames: Vec<Frame>,
}

/// A frame of the log.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Number of the segment among the files of the disk.
    pub file: usize,
    pub at: usize,
    pub end: usize,
    pub lsn: u64,
    pub promise: u64,
    pub link: bool,
    /// For data, the last sequence number.
    pub data: Option<u64>,
}

pub fn options(seed: u64) -> Options {
    let io = [IoMode::Pread, IoMode::Mmap][seed as usize % 2];
    registered(Options::new())
        .memory(4 << 20)
        .compression(Compression::Lz4)
        .io(io)
        .tune(|tuning| {
            tuning.manual = true;
            tuning.list_entries = 16;
            tuning.segment_bytes = (4096, Some(4096));
            tuning.level0_runs = 100;
            tuning.blob_threshold = LARGE;
        })
}

pub fn disk_of(vfs: &MemVfs) -> Disk {
    let read = |(path, _): (PathBuf, u64)| {
        let bytes = vfs.read_file(&path).unwrap_or_default();
        (path, bytes)
    };
    vfs.files().into_iter().map(read).collect()
}

pub fn vfs_of(disk: &Disk) -> Arc<MemVfs> {
    let vfs = MemVfs::new(7);
    for (path, bytes) in disk {
        vfs.write_file(path, bytes);
    }
    vfs
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

struct Writer {
    db: Db,
    vfs: Arc<MemVfs>,
    random: Random,
    writes: Vec<Written>,
    now: BTreeMap<Place, Vec<u8>>,
    earlier: Vec<Disk>,
    keyspaces: usize,
}

impl Writer {
    fn batch(&mut self, durability: Durability) {
        let mut batch = Batch::new();
        batch.durability(durability);
        let len = 1 + self.random.below(3);
        let mut writes = Vec::new();
        let mut places = BTreeSet::new();
        for n in 0..len {
            let keyspace = self.random.below(self.keyspaces as u64) as usize;
            let key = format!("key{:02}", self.random.below(KEYS)).into_bytes();
            if !places.insert((keyspace, key.clone())) {
                continue;
            }
            // Every value is written once only; some do not pack well.
            let most = if self.random.below(14) == 0 { 150 } else { 24 };
            let noise: String = (0..self.random.below(most))
                .map(|_| (b'a' + self.random.below(26) as u8) as char)
                .collect();
            let (count, name) = (self.writes.len(), NAMES[keyspace]);
            let value = format!("value {count} {n} of {name} {noise}").into_bytes();
            let handle = self.db.keyspace(name).unwrap();
            let mut part = batch.keyspace(&handle);
            let place = (keyspace, key);
            let key = &place.1;
            let mut operand_at = None;
            let value = match self.random.below(20) {
                0..=3 => {
                    part.delete(key);
                    None
                }
                4 => {
                    part.put_expiring(key, &value, expiry(true));
                    None
                }
                5 => {
                    part.put_expiring(key, &value, expiry(false));
                    Some(value)
                }
                6..=8 => {
                    let operand = [b"+".as_slice(), &value].concat();
                    part.merge(key, &operand);
                    let base = self.now.get(&place).cloned().unwrap_or_default();
                    operand_at = Some(base.len());
                    Some([base, operand].concat())
                }
                _ => {
                    part.put(key, &value);
                    Some(value)
                }
            };
            writes.push((place, value, operand_at));
        }
        let last = self.db.write(batch).unwrap().get();
        let first = last + 1 - writes.len() as u64;
        for ((place, value, operand_at), seq) in writes.into_iter().zip(first..) {
            self.wrote(Written {
                seq,
                place,
                value,
                operand_at,
            });
        }
    }

    fn wrote(&mut self, written: Written) {
        match &written.value {
            Some(value) => self.now.insert(written.place.clone(), value.clone()),
            None => self.now.remove(&written.place),
        };
        self.writes.push(written);
    }

    /// Deletes a range of keys: a write of each of them.
    fn delete_range(&mut self) {
        let keyspace = self.random.below(self.keyspaces as u64) as usize;
        let first = self.random.below(KEYS);
        let last = first + self.random.below(4);
        let key = |n: u64| format!("key{n:02}").into_bytes();
        let handle = self.db.keyspace(NAMES[keyspace]).unwrap();
        // In a batch: alone, it would be a delete of each key that is there.
        let mut batch = Batch::new();
        batch.keyspace(&handle).delete_range(key(first)..=key(last));
        let seq = self.db.write(batch).unwrap().get();
        for n in first..=last.min(KEYS - 1) {
            self.wrote(Written {
                seq,
                place: (keyspace, key(n)),
                value: None,
                operand_at: None,
            });
        }
    }

    fn batches(&mut self, count: u64) {
        for n in 0..count {
            if self.random.below(10) == 0 {
                self.delete_range();
            }
            let durability = match self.random.below(3) {
                0 => Durability::Sync,
                _ => Durability::Buffered,
            };
            self.batch(durability);
            if n % 5 == 0 {
                self.earlier.push(disk_of(&self.vfs));
            }
        }
    }
}

impl Subject {
    /// A database made from `seed`: a packed table in the last level, a raw one above, and a log of
    /// several segments.
    pub fn new(seed: u64, ending: Ending) -> Subject {
        let vfs = MemVfs::crashable(seed);
        let shared: Arc<dyn Vfs> = vfs.clone();
        let db = options(seed).vfs(shared).open(Path::new(DIR)).unwrap();
        let mut writer = Writer {
            db: db.clone(),
            vfs: vfs.clone(),
            random: Random(seed),
            writes: Vec::new(),
            now: BTreeMap::new(),
            earlier: Vec::new(),
            keyspaces: 3,
        };
        let options = KeyspaceOptions::new().merge_operator(APPEND);
        db.set_options(options.clone()).unwrap();
        db.create_keyspace("left", options.clone()).unwrap();
        db.create_keyspace("right", options.clone()).unwrap();
        writer.batches(24);
        db.flush().unwrap();
        db.compact_all().unwrap();
        writer.batches(16);
        db.flush().unwrap();
        writer.earlier.push(disk_of(&vfs));
        let flushed = writer.writes.last().map_or(0, |written| written.seq);
        db.create_keyspace("late", options).unwrap();
        writer.keyspaces = 4;
        writer.batches(24);
        let Writer {
            writes, earlier, ..
        } = writer;
        let disk = if ending == Ending::Closed {
            db.close().unwrap();
            disk_of(&vfs)
        } else {
            let image = vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1);
            db.close().unwrap();
            disk_of(&image)
        };
        let frames = frames_of(&disk);
        Subject {
            name: match ending {
                Ending::Closed => "closed",
                Ending::Killed => "killed",
            },
            ending,
            disk,
            earlier,
            writes,
            flushed,
            frames,
        }
    }

    /// All places, each with what the writes numbered up to `seq` made of it.
    pub fn state_at(&self, seq: u64) -> State {
        let mut state = State::new();
        for keyspace in 0..NAMES.len() {
            for key in 0..KEYS {
                state.insert((keyspace, format!("key{key:02}").into_bytes()), (0, None));
            }
        }
        for written in self.writes.iter().filter(|written| written.seq <= seq) {
            state.insert(written.place.clone(), (written.seq, written.value.clone()));
        }
        state
    }

    pub fn last_seq(&self) -> u64 {
        self.writes.last().map_or(0, |written| written.seq)
    }

    /// True if `value` was written to `place` at some time, with operands that were: some of those
    /// between may be lost.
    pub fn was_written(&self, place: &Place, value: &[u8]) -> bool {
        let mut parts = value.split(|byte| *byte == b'+');
        let base = parts.next().unwrap_or_default();
        let to_place = || self.writes.iter().filter(|written| written.place == *place);
        let is_base = |written: &Written| {
            written.operand_at.is_none() && written.value.as_deref() == Some(base)
        };
        let is_operand = |part: &[u8]| {
            to_place().any(|written| match (&written.value, written.operand_at) {
                (Some(value), Some(at)) => value[at + 1..] == *part,
                _ => false,
            })
        };
        let any_base = base.is_empty() || to_place().any(is_base);
        any_base && parts.all(is_operand)
    }

    /// The sequence numbers of what the value of `place` consists of, the newest first, after the
    /// writes up to `last`.
    pub fn numbers(&self, place: &Place, last: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        let to_place = |written: &&Written| written.place == *place && written.seq <= last;
        for written in self.writes.iter().rev().filter(to_place) {
            numbers.push(written.seq);
            if written.operand_at.is_none() {
                break;
            }
        }
        numbers
    }

    /// The last sequence number that a frame which is there promises to be durable.
    pub fn promised(&self) -> u64 {
        let promise = self.frames.iter().map(|frame| frame.promise).max();
        let below = |frame: &&Frame| promise.is_some_and(|promise| frame.lsn < promise);
        let kept = self.frames.iter().filter(below);
        kept.filter_map(|frame| frame.data)
            .fold(self.flushed, u64::max)
    }

    /// What damage to some frames must lead to: the last sequence number of the state, or damage
    /// that is told.
    pub fn expected(&self, damaged: &dyn Fn(&Frame) -> bool) -> Option<u64> {
        let live = |frame: &&Frame| frame.data.is_some_and(|last| last > self.flushed);
        let Some(start) = self.frames.iter().find(live).map(|frame| frame.lsn) else {
            return Some(self.last_seq());
        };
        let counts = |frame: &&Frame| {
            let reaches = |other: &Frame| other.file == frame.file && other.lsn >= start;
            damaged(frame)
                && (frame.lsn >= start || (frame.link && self.frames.iter().any(reaches)))
        };
        let Some(end) = self
            .frames
            .iter()
            .filter(counts)
            .map(|f| f.lsn.max(start))
            .min()
        else {
            return Some(self.last_seq());
        };
        let mut intact = self.frames.iter().filter(|frame| !damaged(frame));
        if intact.any(|frame| frame.promise > end) {
            return None;
        }
        let kept = self.frames.iter().filter(|frame| frame.lsn < end);
        Some(
            kept.filter_map(|frame| frame.data)
                .max()
                .unwrap_or(0)
                .max(self.flushed),
        )
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(part) = bytes.get(at..at + N) {
        word[..N].copy_from_slice(part);
    }
    u64::from_le_bytes(word)
}

/// The frames of all segments, in the order of their positions. Read apart from the engine.
fn frames_of(disk: &Disk) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (file, (path, bytes)) in disk.iter().enumerate() {
        if path.extension().is_none_or(|extension| extension != "wal") {
            continue;
        }
        let (mut at, salt, first) = (0, number::<4>(bytes, 8), number::<8>(bytes, 32 + 40));
        loop {
            let len = number::<4>(bytes, at) as usize;
            let ours = len >= 32 && at + len <= bytes.len() && number::<4>(bytes, at + 8) == salt;
            if !ours || (at == 0 && bytes[16] != 2) {
                break;
            }
            let (kind, seq) = (bytes[at + 16], number::<8>(bytes, at + 16) >> 8);
            let end = (at + len).next_multiple_of(8);
            let count = number::<4>(bytes, at + 12);
            frames.push(Frame {
                file,
                at,
                end,
                lsn: first + at as u64,
                promise: number::<8>(bytes, at + 24),
                link: kind == 2,
                data: (kind == 1).then(|| seq + count - 1),
            });
            at = end;
        }
    }
    frames.sort_by_key(|frame| frame.lsn);
    frames
}
