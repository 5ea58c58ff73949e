//! The ways to damage a database, each with a name that reproduces it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::check::Allowed;
use super::subject::{Disk, Ending, Subject};

/// One damage. Files are named by their places among the files of the disk.
#[derive(Clone, Debug)]
pub enum Damage {
    /// Nothing: what is not damaged must be right.
    None,
    /// A bit is flipped.
    Flip(usize, usize),
    /// A byte is zeroed.
    Zero(usize, usize),
    /// A file is cut to a length.
    Cut(usize, usize),
    /// So many bytes, of a kind, are appended.
    Append(usize, usize, u8),
    /// A file is missing.
    Remove(usize),
    /// A file holds what another one of the same kind holds.
    Copy(usize, usize),
    /// Two files have changed places.
    Swap(usize, usize),
    /// A file is as it was at an earlier moment.
    Earlier(usize, usize),
    /// `CURRENT` and the manifests are as they were at an earlier moment.
    EarlierManifest(usize),
    /// A file is of another database.
    Foreign(usize),
    /// `CURRENT` and the manifest are of another database.
    ForeignManifest,
    /// Two stretches of a file, which are blocks, have changed places; or the second is a copy of
    /// the first.
    Blocks(usize, [usize; 4], bool),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{self:?}").to_lowercase();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        f.write_str(&words.join("."))
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The kind of a file: how its name ends, or begins.
pub fn kind_of(path: &Path) -> &'static str {
    let name = name_of(path);
    let kinds = [
        "CURRENT", "MANIFEST", ".wal", ".sst", ".blob", "LOCK", "RESERVE",
    ];
    kinds
        .into_iter()
        .find(|kind| name.contains(kind))
        .unwrap_or("other")
}

fn file(disk: &Disk, n: usize) -> (PathBuf, Vec<u8>) {
    disk.iter()
        .nth(n)
        .map(|(p, b)| (p.clone(), b.clone()))
        .unwrap_or_default()
}

fn is_of_manifest(path: &Path) -> bool {
    matches!(kind_of(path), "CURRENT" | "MANIFEST")
}

impl Damage {
    /// The damaged files; `None` if the damage changes nothing.
    pub fn apply(&self, subject: &Subject, other: &Subject) -> Option<Disk> {
        let mut disk = subject.disk.clone();
        match *self {
            Damage::None => return Some(disk),
            Damage::Flip(n, bit) => *self.byte(&mut disk, n, bit / 8)? ^= 1 << (bit % 8),
            Damage::Zero(n, at) => *self.byte(&mut disk, n, at)? = 0,
            Damage::Cut(n, len) => disk.values_mut().nth(n)?.truncate(len),
            Damage::Append(n, len, byte) => {
                let bytes = disk.values_mut().nth(n)?;
                bytes.resize(bytes.len() + len, byte);
            }
            Damage::Remove(n) => drop(disk.remove(&file(&subject.disk, n).0)),
            Damage::Copy(n, m) => *disk.values_mut().nth(m)? = file(&subject.disk, n).1,
            Damage::Swap(n, m) => {
                *disk.values_mut().nth(m)? = file(&subject.disk, n).1;
                *disk.values_mut().nth(n)? = file(&subject.disk, m).1;
            }
            Damage::Earlier(moment, n) => {
                let path = file(&subject.disk, n).0;
                disk.insert(
                    path.clone(),
                    subject.earlier.get(moment)?.get(&path)?.clone(),
                );
            }
            Damage::EarlierManifest(moment) => {
                let old = subject.earlier.get(moment)?.iter();
                let old = old.filter(|(path, _)| is_of_manifest(path));
                disk.extend(old.map(|(path, bytes)| (path.clone(), bytes.clone())));
            }
            Damage::Foreign(n) => {
                let path = file(&subject.disk, n).0;
                let same = |p: &&PathBuf| kind_of(p) == kind_of(&path);
                let from = other.disk.keys().find(|p| **p == path);
                let from = from.or(other.disk.keys().find(same))?;
                disk.insert(path, other.disk.get(from)?.clone());
            }
            Damage::ForeignManifest => {
                disk.retain(|path, _| !is_of_manifest(path));
                let others = other.disk.iter().filter(|(path, _)| is_of_manifest(path));
                disk.extend(others.map(|(path, bytes)| (path.clone(), bytes.clone())));
            }
            Damage::Blocks(n, [a, a_end, b, b_end], both) => {
                let bytes = disk.values_mut().nth(n)?;
                let (first, second) =
                    (bytes.get(a..a_end)?.to_vec(), bytes.get(b..b_end)?.to_vec());
                let len = first.len().min(second.len());
                bytes[b..b + len].copy_from_slice(&first[..len]);
                if both {
                    bytes[a..a + len].copy_from_slice(&second[..len]);
                }
            }
        }
        (disk != subject.disk).then_some(disk)
    }

    fn byte<'d>(&self, disk: &'d mut Disk, n: usize, at: usize) -> Option<&'d mut u8> {
        disk.values_mut().nth(n)?.get_mut(at)
    }

    /// What may be answered then.
    pub fn allowed(&self, subject: &Subject) -> Allowed {
        let kind = |n: usize| kind_of(&file(&subject.disk, n).0);
        // What refers to large values that are not there, and was not promised, is taken for a
        // tear.
        let of_blobs = |n: usize| match (kind(n), subject.ending) {
            (".blob", Ending::Killed) => Some(Allowed::FromOrTold(subject.promised())),
            (".blob", Ending::Closed) => Some(Allowed::LastOrTold),
            _ => None,
        };
        let damaged = match *self {
            Damage::Flip(n, _)
            | Damage::Zero(n, _)
            | Damage::Cut(n, _)
            | Damage::Remove(n)
            | Damage::Copy(_, n)
            | Damage::Swap(n, _)
            | Damage::Earlier(_, n)
            | Damage::Foreign(n) => Some(n),
            _ => None,
        };
        if let Some(allowed) = damaged.and_then(of_blobs) {
            return allowed;
        }
        match *self {
            Damage::None => Allowed::Exactly(subject.last_seq()),
            Damage::Flip(n, bit) => self.allowed_at(subject, n, bit / 8),
            Damage::Zero(n, at) => self.allowed_at(subject, n, at),
            // The whole use of a segment is gone, and its promises with it: as if it had never been
            // written.
            Damage::Earlier(_, n) | Damage::Foreign(n) if kind(n) == ".wal" => {
                Allowed::FromOrTold(subject.flushed)
            }
            // It holds space and nothing else.
            Damage::Cut(n, _) if kind(n) == "RESERVE" => Allowed::LastOrTold,
            Damage::Cut(..) => Allowed::Told,
            _ => Allowed::LastOrTold,
        }
    }

    /// Damage to one byte. On a log that was not closed it may be taken for a tear, by its
    /// promises.
    fn allowed_at(&self, subject: &Subject, n: usize, at: usize) -> Allowed {
        if subject.ending == Ending::Closed || kind_of(&file(&subject.disk, n).0) != ".wal" {
            return Allowed::LastOrTold;
        }
        match subject.expected(&|frame| frame.file == n && (frame.at..frame.end).contains(&at)) {
            Some(seq) => Allowed::Exactly(seq),
            None => Allowed::Told,
        }
    }
}

/// How much of a file is in use: what lies behind is zeroes.
fn used(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1)
}

/// All single damages of one subject: every bit and byte in use and some behind, every length.
pub fn single(subject: &Subject) -> Vec<Damage> {
    let mut all = Vec::new();
    for (n, (path, bytes)) in subject.disk.iter().enumerate() {
        if kind_of(path) == "LOCK" {
            continue;
        }
        let used = used(bytes).next_multiple_of(8).min(bytes.len());
        all.extend((0..used * 8).map(|bit| Damage::Flip(n, bit)));
        all.extend(
            (used * 8..bytes.len() * 8)
                .step_by(509)
                .map(|bit| Damage::Flip(n, bit)),
        );
        all.extend((0..used).map(|at| Damage::Zero(n, at)));
        all.extend((0..used).map(|len| Damage::Cut(n, len)));
        all.extend(
            (used..bytes.len())
                .step_by(61)
                .map(|len| Damage::Cut(n, len)),
        );
    }
    all
}

/// Files and blocks that are swapped, stale, duplicated, missing, foreign, or have something
/// appended.
pub fn misplaced(subject: &Subject) -> Vec<Damage> {
    let mut all = Vec::new();
    for (n, (path, bytes)) in subject.disk.iter().enumerate() {
        if kind_of(path) == "LOCK" {
            continue;
        }
        all.extend([Damage::Remove(n), Damage::Foreign(n)]);
        for len in [1, 7, 8, 100, 4096] {
            all.extend([0, 0xA5].map(|byte| Damage::Append(n, len, byte)));
        }
        for (m, (other, _)) in subject.disk.iter().enumerate() {
            if m != n && kind_of(other) == kind_of(path) {
                all.push(Damage::Copy(n, m));
                all.extend((n < m).then_some(Damage::Swap(n, m)));
            }
        }
        all.extend((0..subject.earlier.len()).map(|moment| Damage::Earlier(moment, n)));
        if kind_of(path) == ".sst" {
            let blocks = blocks_of(bytes);
            for (i, a) in blocks.iter().enumerate() {
                for b in blocks.iter().skip(i + 1) {
                    let places = [a.0, a.1, b.0, b.1];
                    all.extend([true, false].map(|both| Damage::Blocks(n, places, both)));
                }
            }
        }
    }
    all.extend((0..subject.earlier.len()).map(Damage::EarlierManifest));
    all.push(Damage::ForeignManifest);
    all
}

/// Where the blocks of a table lie, by the fences, whose section the footer names first.
fn blocks_of(bytes: &[u8]) -> Vec<(usize, usize)> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).unwrap_or(&[0; 4]);
        u32::from_le_bytes(word.try_into().unwrap_or_default()) as usize
    };
    let footer = bytes.len() - 36 - 28 * word(bytes.len() - 20);
    let fences = word(footer + 8);
    let count = word(fences);
    let start = |i: usize| word(fences + 8 + 8 * count + 4 * i) * 8;
    (0..count).map(|i| (start(i), start(i + 1))).collect()
}
