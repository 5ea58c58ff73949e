//! Small valid databases, and what an input makes of their files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Compression, Db, Durability, ErrorKind, IoMode, Options, Result};
use terrace_base::{FileKind, FileNumber};

use super::input::Input;
use super::log::DIR;
use super::repair;
use crate::oracle::Contents;

/// Files by name.
pub(super) type Disk = BTreeMap<FileKey, Vec<u8>>;

/// A file's name, in an order.
pub(super) type FileKey = String;

/// How many valid databases there are.
pub(super) const BASES: usize = 4;
/// So many changes are made to one.
const MOST_CHANGES: usize = 24;
/// No file grows beyond this.
const LONGEST: usize = 128 << 10;

/// A valid database, and how it came to be.
pub(super) struct Base {
    /// Its files.
    pub disk: Disk,
    /// Its files at an earlier time.
    earlier: Disk,
    /// What it held after each commit, nothing first.
    pub states: Vec<Contents>,
}

pub(super) fn base(n: usize) -> &'static Base {
    static BASE: [OnceLock<Base>; BASES] = [const { OnceLock::new() }; BASES];
    let n = n % BASES;
    let make = || {
        make(n).unwrap_or_else(|_| Base {
            disk: Disk::new(),
            earlier: Disk::new(),
            states: Vec::new(),
        })
    };
    match BASE.get(n) {
        Some(base) => base.get_or_init(make),
        None => base(0),
    }
}

pub(super) fn options(vfs: Arc<MemVfs>, io: IoMode) -> Options {
    Options::new()
        .memory(4 << 20)
        .compression(Compression::Lz4)
        .io(io)
        .vfs(vfs)
        .tune(|tuning| {
            tuning.manual = true;
            tuning.list_entries = 8;
            tuning.segment_bytes = (4096, Some(4096));
            tuning.table_bytes = 2048;
            tuning.base_level_bytes = 8192;
        })
}

/// Reads everything, forwards and backwards.
pub(super) fn contents(db: &Db) -> Result<Contents> {
    let mut all = Contents::new();
    for name in db.keyspaces()? {
        let keyspace = db.keyspace(&name)?;
        let forwards = keyspace.iter().collect::<Result<BTreeMap<_, _>>>()?;
        let backwards = keyspace.iter().rev().collect::<Result<BTreeMap<_, _>>>()?;
        if forwards != backwards {
            let text = "a scan differs from the one backwards";
            return Err(terrace_base::Error::new(ErrorKind::Other, text));
        }
        all.insert(name, forwards);
    }
    Ok(all)
}

fn make(n: usize) -> Result<Base> {
    let vfs = MemVfs::crashable(n as u64 + 1);
    let db = options(vfs.clone(), IoMode::Pread).open(DIR)?;
    let mut states = vec![Contents::new(), contents(&db)?];
    let writes = [40u64, 36, 30, 3][n % BASES];
    let mut earlier = Disk::new();
    for i in 0..writes {
        write(&db, i)?;
        states.push(contents(&db)?);
        match i {
            9 | 21 => {
                let other = db.keyspace("other")?;
                states.push(contents(&db)?);
                other.put("key", format!("{i}"))?;
            }
            14 if n != 1 => db.drop_keyspace("other")?,
            17 => earlier = disk_of(&vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1)),
            19 => db.flush()?,
            26 if n != 2 => db.compact_all()?,
            _ => {}
        }
        states.push(contents(&db)?);
    }
    let disk = match n % BASES {
        0 => {
            db.close()?;
            disk_of(&vfs)
        }
        2 => disk_of(&vfs.image(ImageKind::Cut, CrashPolicy::KeepAll, 1)),
        _ => disk_of(&vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1)),
    };
    states.dedup();
    Ok(Base {
        disk,
        earlier,
        states,
    })
}

fn write(db: &Db, i: u64) -> Result<()> {
    let mut batch = terrace::Batch::new();
    let len = (i * 37 % 200) as usize;
    batch.put(
        format!("key{:02}", i % 17),
        vec![b'a' + (i % 26) as u8; len],
    );
    if i % 3 == 1 {
        batch.put("both", format!("{i}"));
        batch.delete(format!("key{:02}", (i + 16) % 17));
    }
    if !i.is_multiple_of(4) {
        batch.durability(Durability::Buffered);
    }
    db.write(batch).map(|_| ())
}

pub(super) fn disk_of(vfs: &MemVfs) -> Disk {
    let mut disk = Disk::new();
    for (path, _) in vfs.files() {
        let name = path.file_name().map(|name| name.to_string_lossy().into());
        if let (Some(name), Some(bytes)) = (name, vfs.read_file(&path)) {
            disk.insert(name, bytes);
        }
    }
    disk
}

pub(super) fn vfs_of(disk: &Disk) -> Arc<MemVfs> {
    let vfs = MemVfs::new(7);
    for (name, bytes) in disk {
        vfs.write_file(Path::new(DIR).join(name), bytes);
    }
    if disk.is_empty() {
        // An empty directory is one, too.
        vfs.create_dir(Path::new(DIR)).ok();
    }
    vfs
}

/// The name of a file that an input names: one of those there, if there is any.
fn pick(disk: &Disk, input: &mut Input<'_>) -> FileKey {
    let at = usize::from(input.u8()) % disk.len().max(1);
    disk.keys().nth(at).cloned().unwrap_or_default()
}

/// A place in a file, most often one that is in use.
fn place(bytes: &[u8], input: &mut Input<'_>) -> usize {
    let at = usize::from(input.u16());
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    at % (used + 16)
}

fn new_name(input: &mut Input<'_>) -> FileKey {
    let (kind, number) = (input.u8() % 7, FileNumber(u64::from(input.u8())));
    let kind = match kind {
        0 => FileKind::Manifest(number),
        1 => FileKind::Segment(number),
        2 => FileKind::Table(number),
        3 => FileKind::Current,
        4 => FileKind::Blob(number),
        5 => FileKind::CurrentTemporary,
        _ => return format!("{}.sst", u64::MAX - number.0),
    };
    kind.name()
}

/// Makes the changes that `input` names; with `repairs` checksums are right afterwards.
pub(super) fn change(disk: &mut Disk, base: &Base, input: &mut Input<'_>, repairs: bool) {
    for _ in 0..MOST_CHANGES {
        if input.is_empty() {
            break;
        }
        let op = input.u8() % 14;
        let name = pick(disk, input);
        match op {
            0..=6 => {
                if let Some(bytes) = disk.get_mut(&name) {
                    overwrite(op, bytes, input);
                }
            }
            _ => rearrange(op, disk, &name, base, input),
        }
        disk.remove(""); // What is picked where there is no file is none.
    }
    if repairs {
        for (name, bytes) in disk {
            if let Some(kind) = FileKind::parse(name) {
                repair::file(kind, bytes);
            }
        }
    }
}

fn overwrite(op: u8, bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    let at = place(bytes, input);
    match op {
        0 => {
            let len = usize::from(input.u8() % 24) + 1;
            repair::put(bytes, at, input.bytes(len));
        }
        1 => {
            let mask = input.u8();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= mask;
            }
        }
        2 => {
            let more = i64::from(input.u8() as i8);
            let number = repair::u64_at(bytes, at).unwrap_or(0);
            let number = number.wrapping_add_signed(more);
            repair::put(bytes, at, &number.to_le_bytes());
        }
        3 => bytes.truncate(at),
        4 => {
            let len = (bytes.len() + at).min(LONGEST);
            bytes.resize(len.max(bytes.len()), 0);
        }
        5 => bytes.iter_mut().skip(at).for_each(|byte| *byte = 0),
        _ => {
            // Something of the file itself in another place.
            let (to, len) = (place(bytes, input), usize::from(input.u8()) * 8);
            let end = (at + len).min(bytes.len());
            let part = bytes.get(at..end).unwrap_or(&[]).to_vec();
            repair::put(bytes, to, &part);
        }
    }
}

fn rearrange(op: u8, disk: &mut Disk, name: &str, base: &Base, input: &mut Input<'_>) {
    let bytes = disk.get(name).cloned().unwrap_or_default();
    match op {
        7 => {
            disk.remove(name);
        }
        8 => {
            disk.insert(pick(disk, input), bytes);
        }
        9 => {
            let other = pick(disk, input);
            if let Some(theirs) = disk.insert(other, bytes) {
                disk.insert(name.into(), theirs);
            }
        }
        10 => {
            if let Some(earlier) = base.earlier.get(name) {
                disk.insert(name.into(), earlier.clone());
            }
        }
        11 => {
            let name = pick(&base.earlier, input);
            if let Some(earlier) = base.earlier.get(&name) {
                disk.insert(name, earlier.clone());
            }
        }
        12 => {
            disk.remove(name);
            disk.insert(new_name(input), bytes);
        }
        _ => {
            let len = usize::from(input.u8());
            disk.insert(new_name(input), input.bytes(len).to_vec());
        }
    }
}
