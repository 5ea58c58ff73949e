//! A whole directory: whatever lies in it, opening it gives the database or an error that says what is wrong.
//!
//! Without repaired checksums the files hold nothing but what a database wrote: whatever opens is
//! one of the states that it had, readers and writers agree, and it goes on working. With them the
//! content may be nonsense that verifies (keys out of order, an index of another table); then there
//! is no right answer, only no wrong behaviour: errors are typed, an open that fails changes
//! nothing, and the same files give the same answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use terrace::vfs::MemVfs;
use terrace::{Error, ErrorKind, IoMode};

use super::disk::{BASES, Base, Disk, base, change, contents, disk_of, options, vfs_of};
use super::input::Input;
use super::log::DIR;
use super::{Outcome, REPAIR, expect};
use crate::oracle::{Contents, brief};

/// Tables are mapped instead of read.
const MAPPED: u8 = 2;

/// `flags | which database | changes`
pub(super) fn directory(data: &[u8]) -> Outcome {
    let input = &mut Input::new(data);
    let flags = input.u8();
    let base = base(usize::from(input.u8()) % BASES);
    expect(base.states.len() > 2, || "the database was not made".into())?;
    let repaired = flags & REPAIR != 0;
    let mut disk = base.disk.clone();
    change(&mut disk, base, input, repaired);
    let io = match flags & MAPPED {
        0 => IoMode::Pread,
        _ => IoMode::Mmap,
    };
    let vfs = vfs_of(&disk);
    let reader = read(&vfs, io, true)?;
    unchanged(&vfs, &disk, "a read-only open")?;
    allowed(&reader, base, repaired)?;
    let writer = write(&vfs, io, &disk, !repaired)?;
    allowed(&writer, base, repaired)?;
    if !repaired {
        agree(&reader, &writer, disk.contains_key("LOCK"))?;
    }
    again(&vfs, io, &writer, !repaired)
}

/// The keyspaces and entries that only one of both has.
fn differences(one: &Contents, other: &Contents) -> String {
    let flat = |all: &Contents| -> BTreeSet<String> {
        let entry =
            |name: &String, key: &_, value: &_| format!("{name} {key:?} = {}", brief(value));
        let entries = all.iter().flat_map(|(name, map)| {
            let entries = map.iter().map(move |(key, value)| entry(name, key, value));
            entries.chain([format!("keyspace {name}")])
        });
        entries.collect()
    };
    let (one, other) = (flat(one), flat(other));
    let lost: Vec<_> = one.difference(&other).collect();
    let new: Vec<_> = other.difference(&one).collect();
    format!(
        "{} gone {}, {} new {}",
        lost.len(),
        brief(&lost),
        new.len(),
        brief(&new)
    )
}

/// What a reader and then a writer find in the same files. A reader makes no file to lock.
fn agree(reader: &Found, writer: &Found, lockable: bool) -> Outcome {
    match (reader, writer) {
        (Err(error), Ok(_)) if error.kind() == ErrorKind::NotFound && !lockable => Ok(()),
        (Ok(reader), Ok(writer)) => expect(reader == writer, || {
            let text = differences(reader, writer);
            format!("a reader and a writer see different things: {text}")
        }),
        (Err(error), Ok(writer)) if error.kind() == ErrorKind::NotFound => {
            let empty = writer.values().all(|keyspace| keyspace.is_empty());
            expect(empty, || format!("nothing, and {}", brief(writer)))
        }
        (Err(error), Ok(_)) => Err(format!("only a writer can open it: {error:?}")),
        (_, Err(_)) => Ok(()),
    }
}

type Found = Result<Contents, Error>;

fn read(vfs: &Arc<MemVfs>, io: IoMode, read_only: bool) -> Outcome<Found> {
    let opened = options(vfs.clone(), io).read_only(read_only).open(DIR);
    match opened {
        Ok(db) => {
            let found = contents(&db);
            drop(db);
            Ok(found)
        }
        Err(error) => Ok(Err(error)),
    }
}

/// What may be found in a database that was changed behind its back.
fn allowed(found: &Found, base: &Base, repaired: bool) -> Outcome {
    match found {
        Ok(_) if repaired => {}
        Ok(found) => expect(base.states.contains(found), || {
            let names: Vec<_> = found.iter().map(|(name, map)| (name, map.len())).collect();
            format!("no state of the database: {names:?}, {}", brief(found))
        })?,
        Err(error) => {
            let kind = error.kind();
            let fits = matches!(
                kind,
                ErrorKind::Corruption | ErrorKind::Unsupported | ErrorKind::NotFound
            );
            expect(fits, || format!("damage is answered with {error:?}"))?;
        }
    }
    Ok(())
}

fn unchanged(vfs: &MemVfs, disk: &Disk, what: &str) -> Outcome {
    let after = disk_of(vfs);
    let other = disk
        .iter()
        .find(|(name, bytes)| after.get(*name) != Some(bytes));
    match other {
        None => Ok(()),
        Some((name, _)) => Err(format!("{what} has changed {name}")),
    }
}

/// Opens to write, reads, writes and closes. With `exact` what was written is there.
fn write(vfs: &Arc<MemVfs>, io: IoMode, disk: &Disk, exact: bool) -> Outcome<Found> {
    let db = match options(vfs.clone(), io).open(DIR) {
        Ok(db) => db,
        Err(error) => {
            unchanged(vfs, disk, &format!("an open that failed ({error:?})"))?;
            return Ok(Err(error));
        }
    };
    let found = contents(&db);
    let written = db.put("fuzz", "value").and_then(|_| db.sync());
    if exact && found.is_ok() {
        written.map_err(|error| format!("a write: {error:?}"))?;
        let got = db
            .get("fuzz")
            .map_err(|error| format!("a get: {error:?}"))?;
        expect(got.as_deref() == Some(b"value"), || {
            format!("what was written is {got:?}")
        })?;
    }
    // Merges meet what reads have met, and more.
    let settled = db.flush().and_then(|()| db.compact_all());
    expect(settled.is_ok() || !exact || found.is_err(), || {
        format!("settling: {settled:?}")
    })?;
    let closed = db.close();
    expect(closed.is_ok() || !exact || found.is_err(), || {
        format!("closing: {closed:?}")
    })?;
    Ok(found)
}

/// A second open agrees with the first, but for what was written in between.
fn again(vfs: &Arc<MemVfs>, io: IoMode, first: &Found, exact: bool) -> Outcome {
    let once = read(vfs, io, false)?;
    match (first, &once) {
        (Ok(first), Ok(found)) if exact => {
            let mut wanted = first.clone();
            let default = wanted.entry("default".into()).or_default();
            default.insert("fuzz".into(), "value".into());
            expect(*found == wanted, || {
                format!("opened again: {}, not {}", brief(found), brief(&wanted))
            })?;
        }
        (Ok(_), Err(error)) if exact => {
            return Err(format!("it cannot be read any more: {error:?}"));
        }
        (Err(error), Ok(_)) if exact => {
            return Err(format!("it can be read after all, once it was {error:?}"));
        }
        _ => {}
    }
    let twice = read(vfs, io, false)?;
    let kinds = |found: &Found| found.as_ref().err().map(Error::kind);
    let same = kinds(&once) == kinds(&twice) && once.as_ref().ok() == twice.as_ref().ok();
    expect(same, || {
        format!("a second open differs: {}, {}", brief(&once), brief(&twice))
    })
}
