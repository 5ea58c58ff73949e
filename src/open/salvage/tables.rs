//! Tables in a salvage: which are whole, and what is left of the others.

use std::ops::RangeInclusive;
use std::path::Path;

use terrace_base::{FileKind, FileNumber, KeyRef, OwnedUserKey, Result, SeqNo, ValueKind};
use terrace_compaction::{Outputs, TableMeta};
use terrace_sstable::{Compression, FileSink, Identity, Salvaged, TableWriter, WriterOptions};

use super::blobs::is_there;
use super::hints::is_damage;
use super::lenient::read_leniently;
use super::report::LossKind;
use super::{Lost, Survey};

/// What became of a table.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Every block verifies.
    Whole,
    /// Something does not verify or cannot be read.
    Broken,
    /// There is no such file.
    Missing,
    /// The file is another table.
    Foreign,
}

/// The parts of a table's file that matter when it is mended.
struct Wreck {
    bytes: bytes::Bytes,
    identity: Option<Identity>,
}

impl Survey<'_> {
    /// Reads all of a table.
    pub fn judge(&self, meta: &TableMeta) -> Result<Verdict> {
        let path = self.table_path(meta.number);
        if self.fs().metadata(&path)?.is_none() {
            return Ok(Verdict::Missing);
        }
        match self.opening.files.read_back(std::slice::from_ref(meta)) {
            Ok(()) if self.lacks_values(meta)? => return Ok(Verdict::Broken),
            Ok(()) => return Ok(Verdict::Whole),
            Err(error) if is_damage(error.kind()) => {}
            Err(error) => return Err(error),
        }
        let wreck = self.wreck(&path)?;
        let foreign = wreck.identity.is_some_and(|found| found.id != meta.info.id)
            && terrace_sstable::salvage(&wreck.bytes, meta.info.id, None, &mut |_, _| Ok(()))?
                .blocks
                == 0;
        Ok(match foreign {
            true => Verdict::Foreign,
            false => Verdict::Broken,
        })
    }

    pub fn table_path(&self, number: FileNumber) -> std::path::PathBuf {
        FileKind::Table(number).path(self.opening.dir())
    }

    fn wreck(&self, path: &Path) -> Result<Wreck> {
        let (bytes, _) = read_leniently(self.fs(), path, None)?;
        let identity = terrace_sstable::identify(&bytes)?;
        Ok(Wreck { bytes, identity })
    }

    /// The table of this number as it describes itself, if its properties verify.
    pub fn described(&self, number: FileNumber) -> Result<Option<TableMeta>> {
        let wreck = self.wreck(&self.table_path(number))?;
        let info = wreck.identity.and_then(|identity| identity.info);
        Ok(info.map(|info| TableMeta { number, info }))
    }

    /// Writes what verifies of a table into a new one, and notes the rest as lost. `known` is what
    /// is known of the table from elsewhere.
    pub fn mend(
        &mut self,
        number: FileNumber,
        known: Option<&TableMeta>,
    ) -> Result<Option<TableMeta>> {
        let path = self.table_path(number);
        let Wreck { bytes, identity } = self.wreck(&path)?;
        self.report.damaged.push(path.clone());
        let identity = identity.filter(|found| known.is_none_or(|known| known.info.id == found.id));
        let info = known
            .map(|known| known.info.clone())
            .or_else(|| identity.as_ref().and_then(|found| found.info.clone()));
        let Some(id) = known
            .map(|k| k.info.id)
            .or(identity.as_ref().map(|found| found.id))
        else {
            self.lose_table(
                &path,
                None,
                None,
                "neither the table's footer nor the manifest can be read",
            );
            return Ok(None);
        };
        let end = match (&identity, known) {
            (Some(found), _) => found.data_end,
            (None, Some(known)) => known.info.size,
            (None, None) => u64::MAX,
        };
        let data = bytes.slice(..bytes.len().min(usize::try_from(end).unwrap_or(usize::MAX)));
        let compression = info
            .as_ref()
            .map_or(Compression::None, |info| info.compression);
        // Where the footer says that the blocks end, nothing can lie behind them.
        let all = || info.as_ref().map(|info| info.blocks);
        let blocks = identity.is_none().then(all).flatten();
        let (meta, found) = self.rewrite(&data, id, blocks, compression)?;
        let sequences = info.as_ref().map(|info| info.min_seq..=info.max_seq);
        for lost in found.lost {
            let first = lost
                .after
                .or(info.as_ref().map(|info| info.smallest.clone()));
            let last = lost
                .before
                .or(info.as_ref().map(|info| info.largest.clone()));
            self.losses.push(Lost {
                bytes: Some(lost.bytes),
                keys: Some((first, last)),
                sequences: sequences.clone(),
                ..Lost::new(&path, LossKind::Table, "blocks of the table do not verify")
            });
        }
        self.report.kept.mended += u64::from(meta.is_some());
        self.report.kept.entries += found.entries;
        Ok(meta)
    }

    /// Notes a whole table as lost.
    pub fn lose_table(
        &mut self,
        path: &Path,
        keys: Option<(Option<OwnedUserKey>, Option<OwnedUserKey>)>,
        sequences: Option<RangeInclusive<SeqNo>>,
        what: &str,
    ) {
        self.losses.push(Lost {
            keys: Some(keys.unwrap_or_default()),
            sequences,
            ..Lost::new(path, LossKind::Table, what)
        });
    }

    /// Notes a listed table as lost with all that it held.
    pub fn lose_listed(&mut self, meta: &TableMeta, what: &str) {
        let path = self.table_path(meta.number);
        let info = &meta.info;
        let keys = (Some(info.smallest.clone()), Some(info.largest.clone()));
        self.report.damaged.push(path.clone());
        self.lose_table(&path, Some(keys), Some(info.min_seq..=info.max_seq), what);
    }

    /// Copies what verifies of `data` into a new table; none if that is nothing.
    fn rewrite(
        &mut self,
        data: &bytes::Bytes,
        id: u64,
        blocks: Option<u64>,
        compression: Compression,
    ) -> Result<(Option<TableMeta>, Salvaged)> {
        let mut open: Option<(FileNumber, TableWriter<FileSink>)> = None;
        let (outputs, blobs) = (&mut self.outputs, &self.blobs);
        let mut lost: Vec<(OwnedUserKey, SeqNo, ValueKind, Vec<u8>)> = Vec::new();
        let found = terrace_sstable::salvage(data, id, blocks, &mut |key, value| {
            if key.kind.in_blob() && !is_there(blobs, key, value)? {
                lost.push((key.user.to_owned(), key.seq, key.kind, value.to_vec()));
                return Ok(());
            }
            let (_, writer) = match &mut open {
                Some(open) => open,
                None => {
                    let (number, id, seed, file) = outputs.create()?;
                    let options = WriterOptions {
                        compression,
                        ..WriterOptions::new(id, seed)
                    };
                    open.insert((number, TableWriter::new(FileSink::new(file), options)))
                }
            };
            writer.add(key, value)
        })?;
        for (user, seq, kind, stored) in lost {
            self.lose_value(
                KeyRef::new(user.as_ref(), seq, kind),
                &stored,
                LossKind::Table,
            )?;
        }
        let Some((number, writer)) = open else {
            return Ok((None, found));
        };
        let (info, sink) = writer.finish()?;
        sink.file().sync()?;
        let meta = TableMeta { number, info };
        self.opening.files.read_back(std::slice::from_ref(&meta))?;
        Ok((Some(meta), found))
    }
}
