//! The manifest: the log of version edits, and `CURRENT`, which names it.
//!
//! ```text
//! MANIFEST-NNNNNN := header | frame*                       frames: `terrace_wal::format`; one edit a frame
//! header          := magic "TRCEMANI" | version: u32 | crc: u32 | salt: u64 | database: u64 | number: u64
//!                    | zeroes up to 64 bytes
//! CURRENT         := magic "TRCECURR" | manifest: u64 | salt: u64 | crc: u32
//! ```
//!
//! Integers are little-endian. Both checksums are [`checksum`] of all other bytes at offset 0: of
//! the header under its salt, of `CURRENT` under 0. The salt seeds the frames' checksums. Edits are
//! numbered from 1 over the life of the database; a new manifest starts with one edit that holds
//! the whole state.
//!
//! An edit counts once it is synced. A new manifest is written, synced, its name made durable, and
//! only then named by `CURRENT` (temporary file, sync, rename, directory sync); the old one goes
//! last. So if a manifest holds one edit only, that edit is durable, and a tail that is torn
//! belongs to an edit that nothing relies on. A manifest whose tail is torn is never appended to.
//!
//! Once `CURRENT` names a manifest durably a mark is added to it. So a manifest with a mark or a
//! second edit was in force, and if `CURRENT` names an earlier one, that is an old copy put back.
//! Closing a database whose log did not change adds another, so that the next open knows its edits
//! to be durable.
//!
//! Example: a `CURRENT` that names `MANIFEST-000001` with salt 2:
//!
//! ```text
//! 54 52 43 45 43 55 52 52  01 00 00 00 00 00 00 00  02 00 00 00 00 00 00 00  <crc>
//! ```

use std::path::Path;

use terrace_base::checksum::checksum;
use terrace_base::coding::{put_u32, put_u64};
use terrace_base::error::is_missing;
use terrace_base::vfs::{File, Fs, OpenMode};
use terrace_base::{Decoder, Error, ErrorKind, FileKind, FileNumber, Result, mutant};
use terrace_compaction::VersionEdit;
use terrace_wal::{FrameFile, read_frames};

const MANIFEST_MAGIC: [u8; 8] = *b"TRCEMANI";
const CURRENT_MAGIC: [u8; 8] = *b"TRCECURR";
/// Version of everything in the directory; a newer one is `Unsupported`.
const FORMAT_VERSION: u32 = 1;

const VERSION_OFFSET: usize = MANIFEST_MAGIC.len();
const CRC_OFFSET: usize = VERSION_OFFSET + size_of::<u32>();
const SALT_OFFSET: usize = CRC_OFFSET + size_of::<u32>();
const DATABASE_OFFSET: usize = SALT_OFFSET + size_of::<u64>();
const NUMBER_OFFSET: usize = DATABASE_OFFSET + size_of::<u64>();
const HEADER_END: usize = NUMBER_OFFSET + size_of::<u64>();
/// Where the first frame starts.
const HEADER_SIZE: usize = 64;
const _: () = assert!(HEADER_END <= HEADER_SIZE && HEADER_SIZE.is_multiple_of(8));

const CURRENT_SIZE: usize = CURRENT_MAGIC.len() + 2 * size_of::<u64>() + size_of::<u32>();

/// The manifest being written.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) number: FileNumber,
    salt: u64,
    frames: FrameFile,
    /// Number of the last edit.
    pub(crate) last_edit: u64,
    /// It was created here, and the edit that it began with is its only one.
    lone: bool,
    buffer: Vec<u8>,
}

/// A manifest read back.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) number: FileNumber,
    pub(crate) database: u64,
    pub(crate) last_edit: u64,
    /// How many edits it holds.
    pub(crate) edits: u64,
    /// Bytes of an unfinished edit follow the last one.
    pub(crate) torn: bool,
    /// It ends with a mark: all its edits are known to be durable.
    pub(crate) marked: bool,
    salt: u64,
    file: File,
    end: u64,
    synced: u64,
}

impl Recovered {
    /// What seeds the checksums of its frames.
    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }
}

impl Manifest {
    /// Writes a manifest whose first edit, numbered `edit_number`, is `edit`; synced, but for its
    /// name. It is in force after [`Manifest::publish`].
    pub(crate) fn create(
        fs: &Fs,
        dir: &Path,
        number: FileNumber,
        database: u64,
        edit_number: u64,
        edit: &VersionEdit,
    ) -> Result<Manifest> {
        let salt = fs.random();
        let path = FileKind::Manifest(number).path(dir);
        let file = fs.open(&path, OpenMode::CreateNew)?;
        file.write_all_at(&encode_header(salt, database, number), 0)?;
        let frames = FrameFile::create(file, salt, HEADER_SIZE as u64)?;
        let mut manifest = Manifest {
            number,
            salt,
            frames,
            last_edit: edit_number - 1,
            lone: false,
            buffer: Vec::new(),
        };
        manifest.append(edit)?;
        manifest.lone = true;
        Ok(manifest)
    }

    /// Goes on with a manifest that was read back whole.
    pub(crate) fn resume(recovered: Recovered) -> Result<Manifest> {
        let Recovered {
            number,
            salt,
            file,
            end,
            synced,
            last_edit,
            ..
        } = recovered;
        let frames = FrameFile::resume(file, salt, end, synced)?;
        Ok(Manifest {
            number,
            salt,
            frames,
            last_edit,
            lone: false,
            buffer: Vec::new(),
        })
    }

    /// Writes the `CURRENT` to be, under its temporary name: what needs space before
    /// [`Manifest::publish`]. Nothing is in force yet, so a failure changes nothing.
    pub(crate) fn stage(&self, fs: &Fs, dir: &Path) -> Result<()> {
        let temporary = FileKind::CurrentTemporary.path(dir);
        // One that is there already may be a link to anything: it is not to be written through.
        match fs.remove_file(&temporary) {
            Err(error) if !is_missing(&error) => return Err(error),
            _ => {}
        }
        let file = fs.open(&temporary, OpenMode::CreateNew)?;
        file.write_all_at(&encode_current(self.number, self.salt), 0)?;
        if !mutant("skip-current-sync") {
            file.sync()?;
        }
        Ok(())
    }

    /// Makes the manifest's name durable and then `CURRENT` name it. A mark says so in the end: see
    /// [`was_in_force`]. REQUIRES: it is staged.
    pub(crate) fn publish(&mut self, fs: &Fs, dir: &Path) -> Result<()> {
        fs.sync_dir(dir)?;
        let temporary = FileKind::CurrentTemporary.path(dir);
        fs.rename(&temporary, &FileKind::Current.path(dir))?;
        if !mutant("skip-rename-sync") {
            fs.sync_dir(dir)?;
        }
        self.mark()
    }

    /// Says after the last edit that it is durable.
    fn mark(&mut self) -> Result<()> {
        self.frames.mark()
    }

    /// Says after the last edit that the database was closed. The mark after a lone edit only
    /// says that `CURRENT` names the manifest, so it gets an empty one for company.
    pub(crate) fn mark_closed(&mut self) -> Result<()> {
        if self.lone {
            self.append(&VersionEdit::default())?;
        }
        self.mark()
    }

    /// Appends an edit and makes it durable; its number. After an error nothing may be appended any
    /// more, unless the manifest [is alive](Manifest::is_alive): then there was no room, and
    /// nothing was appended.
    pub(crate) fn append(&mut self, edit: &VersionEdit) -> Result<u64> {
        self.buffer.clear();
        edit.encode(&mut self.buffer);
        self.frames.append(self.last_edit + 1, &self.buffer)?;
        if !mutant("skip-manifest-sync") {
            self.frames.sync()?;
        }
        self.last_edit += 1;
        self.lone = false;
        Ok(self.last_edit)
    }

    /// Sees to it that edits of `bytes` bytes in all find their space zeroed.
    pub(crate) fn take_ahead(&mut self, bytes: u64) -> Result<()> {
        self.frames.take_ahead(bytes)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.frames.is_alive()
    }

    /// Bytes in use.
    pub(crate) fn size(&self) -> u64 {
        self.frames.end()
    }
}

/// Reads the manifest that `CURRENT` names and gives each edit to `sink`.
pub(crate) fn read(
    fs: &Fs,
    dir: &Path,
    sink: &mut dyn FnMut(&VersionEdit) -> Result<()>,
) -> Result<Recovered> {
    let (number, salt) = read_current(fs, dir)?;
    read_named(fs, dir, number, salt, sink)
}

/// As [`read`], of the manifest `number` under the salt that `CURRENT` gives it.
pub(crate) fn read_named(
    fs: &Fs,
    dir: &Path,
    number: FileNumber,
    salt: u64,
    sink: &mut dyn FnMut(&VersionEdit) -> Result<()>,
) -> Result<Recovered> {
    let path = FileKind::Manifest(number).path(dir);
    let file = fs.open(&path, OpenMode::ReadWrite).or_else(|error| {
        if fs.metadata(&path)?.is_none() {
            return Err(
                Error::corruption("the manifest that CURRENT names is missing").in_file(&path, 0),
            );
        }
        // A read-only directory: reading is enough, an append would fail.
        fs.open(&path, OpenMode::Read).map_err(|_| error)
    })?;
    let mut header = [0; HEADER_SIZE];
    file.read_exact_at(&mut header, 0)?;
    let database = decode_header(&header, salt, number).map_err(|e| e.in_file(&path, 0))?;
    let (mut last_edit, mut edits) = (0, 0);
    let tail = read_frames(
        &file,
        salt,
        HEADER_SIZE as u64,
        &mut |edit_number, payload| {
            let edit = VersionEdit::decode(payload).map_err(|e| {
                e.wrap_as(format!("edit {edit_number} does not decode"))
                    .in_file(&path, 0)
            })?;
            sink(&edit).map_err(|e| e.in_file(&path, 0))?;
            (last_edit, edits) = (edit_number, edits + 1);
            Ok(())
        },
    )?;
    if edits == 0 {
        return Err(Error::corruption("the manifest holds no edit").in_file(&path, 0));
    }
    let (end, synced, torn, marked) = (tail.end, tail.synced, tail.torn, tail.marked);
    Ok(Recovered {
        number,
        database,
        last_edit,
        edits,
        torn,
        marked,
        salt,
        file,
        end,
        synced,
    })
}

/// True if `CURRENT` has named the manifest `number`: its frames promise more than its header.
/// False for what an unfinished rewriting of the manifest leaves.
pub(crate) fn was_in_force(fs: &Fs, dir: &Path, number: FileNumber) -> Result<bool> {
    let file = fs.open(&FileKind::Manifest(number).path(dir), OpenMode::Read)?;
    let mut header = [0; HEADER_SIZE];
    if file.read_at(&mut header, 0)? < HEADER_SIZE {
        return Ok(false);
    }
    let Ok(Some((salt, _))) = identity_of(&header, number) else {
        return Ok(false);
    };
    match read_frames(&file, salt, HEADER_SIZE as u64, &mut |_, _| Ok(())) {
        Ok(tail) => Ok(tail.synced > HEADER_SIZE as u64),
        Err(error) if error.kind() == ErrorKind::Corruption => Ok(false),
        Err(error) => Err(error),
    }
}

/// The salt and the database that the header of the manifest `number` names, if it verifies under
/// that salt; of a newer format it is `Unsupported`.
pub(crate) fn identity_of(bytes: &[u8], number: FileNumber) -> Result<Option<(u64, u64)>> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER_SIZE>() else {
        return Ok(None);
    };
    let salt = Decoder::new(header.get(SALT_OFFSET..).unwrap_or(&[])).u64()?;
    match decode_header(header, salt, number) {
        Ok(database) => Ok(Some((salt, database))),
        Err(error) if error.kind() == ErrorKind::Unsupported => Err(error),
        Err(_) => Ok(None),
    }
}

/// Gives every edit to `sink` that verifies alone in `bytes`, a manifest with this salt, with its
/// number.
pub(crate) fn edits_in(
    bytes: &[u8],
    salt: u64,
    sink: &mut dyn FnMut(u64, &VersionEdit),
) -> Result<()> {
    terrace_wal::frames_in(bytes, salt, HEADER_SIZE as u64, &mut |frame| {
        if frame.count == 0 {
            return Ok(());
        }
        match VersionEdit::decode(frame.payload) {
            Ok(edit) => sink(frame.first_seq.get(), &edit),
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
            Err(_) => {}
        }
        Ok(())
    })
}

fn encode_header(salt: u64, database: u64, number: FileNumber) -> Vec<u8> {
    let mut rest = Vec::with_capacity(HEADER_SIZE);
    put_u64(&mut rest, salt);
    put_u64(&mut rest, database);
    put_u64(&mut rest, number.0);
    rest.resize(HEADER_SIZE - SALT_OFFSET, 0);
    let mut out = MANIFEST_MAGIC.to_vec();
    put_u32(&mut out, FORMAT_VERSION);
    let crc = header_crc(&out, &rest, salt);
    put_u32(&mut out, crc);
    out.extend_from_slice(&rest);
    out
}

fn header_crc(front: &[u8], rest: &[u8], salt: u64) -> u32 {
    checksum(&[front, rest].concat(), salt, 0)
}

fn decode_header(header: &[u8; HEADER_SIZE], salt: u64, number: FileNumber) -> Result<u64> {
    let mut d = Decoder::new(header);
    if d.bytes(MANIFEST_MAGIC.len())? != MANIFEST_MAGIC {
        return Err(Error::corruption("not a manifest of terrace"));
    }
    let version = d.u32()?;
    let crc = d.u32()?;
    let rest = d.rest();
    let front = header.get(..CRC_OFFSET).unwrap_or(&[]);
    if crc != header_crc(front, rest, salt) {
        return Err(Error::corruption("the header's checksum does not match"));
    }
    if version != FORMAT_VERSION {
        return Err(Error::unsupported(format!(
            "the database has format {version}, this terrace reads format {FORMAT_VERSION}"
        )));
    }
    let (stored_salt, database, stored_number) = (d.u64()?, d.u64()?, d.u64()?);
    if stored_salt != salt || stored_number != number.0 {
        return Err(Error::corruption(
            "the manifest is not the one that CURRENT names",
        ));
    }
    Ok(database)
}

fn encode_current(number: FileNumber, salt: u64) -> Vec<u8> {
    let mut out = CURRENT_MAGIC.to_vec();
    put_u64(&mut out, number.0);
    put_u64(&mut out, salt);
    let crc = checksum(&out, 0, 0);
    put_u32(&mut out, crc);
    out
}

/// The manifest that `CURRENT` names, and its salt.
pub(crate) fn read_current(fs: &Fs, dir: &Path) -> Result<(FileNumber, u64)> {
    let path = FileKind::Current.path(dir);
    let bytes = fs.open(&path, OpenMode::Read)?.read_to_end(1 << 12)?;
    decode_current(&bytes).map_err(|error| error.in_file(&path, 0))
}

fn decode_current(bytes: &[u8]) -> Result<(FileNumber, u64)> {
    if bytes.len() != CURRENT_SIZE {
        return Err(Error::corruption(format!(
            "CURRENT has {} bytes where {CURRENT_SIZE} belong",
            bytes.len()
        )));
    }
    let mut d = Decoder::new(bytes);
    let magic = d.bytes(CURRENT_MAGIC.len())?;
    let (number, salt, crc) = (d.u64()?, d.u64()?, d.u32()?);
    let covered = bytes.get(..CURRENT_SIZE - size_of::<u32>()).unwrap_or(&[]);
    if magic != CURRENT_MAGIC || crc != checksum(covered, 0, 0) {
        return Err(Error::corruption("CURRENT does not verify"));
    }
    Ok((FileNumber(number), salt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_is_refused_after_any_flip_or_cut() {
        let good = encode_current(FileNumber(1), 2);
        assert_eq!(good.len(), CURRENT_SIZE);
        assert_eq!(decode_current(&good).unwrap(), (FileNumber(1), 2));
        assert_eq!(good.get(..9).unwrap(), b"TRCECURR\x01");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_current(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(decode_current(&good[..len]).is_err());
        }
    }

    #[test]
    fn a_header_is_refused_after_any_flip() {
        let good: [u8; HEADER_SIZE] = encode_header(5, 6, FileNumber(7)).try_into().unwrap();
        assert_eq!(decode_header(&good, 5, FileNumber(7)).unwrap(), 6);
        assert!(decode_header(&good, 4, FileNumber(7)).is_err());
        assert!(decode_header(&good, 5, FileNumber(8)).is_err());
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&bad, 5, FileNumber(7)).is_err(), "bit {bit}");
        }
    }
}
