//! The merge job: sorted entries in, new tables out. It knows no locks and publishes nothing.
//!
//! Tables are cut between user keys only, so that the output is a run: at the target size, where a
//! point index could not name more blocks, or would take more memory than the job has, and where
//! the keyspace changes once a table is half full, or where the next is compressed otherwise. Each
//! table is finished and synced; its directory, the reading back and the edit are the caller's, and
//! so is removing what was created if the job fails.
//!
//! What came in must equal what went out plus what was dropped for a reason. That is checked here
//! in every build; [`Compaction::edit`](crate::Compaction::edit) then compares what came in with
//! what the manifest says the inputs hold, so that an input that ended early cannot pass for a
//! short one.

use terrace_base::vfs::File;
use terrace_base::{
    Error, ErrorKind, FileNumber, InternalIterator, KeyRef, KeyspaceId, Result, UserKey, ValueKind,
    mutant,
};
use terrace_sstable::{FileSink, TableWriter, WriterOptions};

use crate::blob_file::BlobMeta;
use crate::iterator::{CompactionIter, DropCounts, Rules, Step};
use crate::packing::{Packing, Packings};
use crate::table_file::TableMeta;

/// How many entries go by between two looks at [`MergeOptions::should_stop`].
const STOP_INTERVAL: u64 = 256;

/// What a merge needs to know.
pub struct MergeOptions<'a> {
    /// What decides which entries go.
    pub rules: Rules<'a>,
    /// Tables are cut at this size.
    pub target_size: u64,
    /// What a table that is being written may hold in memory: half for bytes that are not in the
    /// file yet, half for its index. A table is cut where the index would take more.
    pub memory: u64,
    /// Of the new tables.
    pub packings: &'a Packings,
    /// True once the job should give up; it then fails with `Closed`.
    pub should_stop: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for MergeOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MergeOptions")
            .field("rules", &self.rules)
            .field("target_size", &self.target_size)
            .field("memory", &self.memory)
            .field("packings", &self.packings)
            .finish_non_exhaustive()
    }
}

/// Where a merge gets its files from.
pub trait Outputs {
    /// A new file: its number, a random id, a random seed, and the file, open for writing.
    fn create(&mut self) -> Result<(FileNumber, u64, u64, File)>;
    /// Minimum length of the values that are offered to [`Outputs::place`], in bytes.
    fn large_from(&self) -> usize {
        usize::MAX
    }
    /// True if entries whose value is in a blob file are to be offered to [`Outputs::place`].
    fn moves_blobs(&self) -> bool {
        false
    }
    /// Puts the value of an entry into a new blob file: the kind and the stored value that the
    /// entry has then. `None`: it stays as it is.
    fn place(&mut self, _key: KeyRef<'_>, _value: &[u8]) -> Result<Option<(ValueKind, Vec<u8>)>> {
        Ok(None)
    }
    /// Makes the bytes of the new blob files durable.
    fn finish_blobs(&mut self) -> Result<Vec<BlobMeta>> {
        Ok(Vec::new())
    }
}

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MergeResult {
    /// The new tables, by rising key. Perhaps none.
    pub tables: Vec<TableMeta>,
    /// Entries read.
    pub read: u64,
    /// Entries written.
    pub written: u64,
    /// Entries dropped, by reason.
    pub dropped: DropCounts,
    /// Bytes of the new tables and blob files.
    pub bytes_written: u64,
    /// The new blob files.
    pub blobs: Vec<BlobMeta>,
}

/// Writes what can still be seen of `input` into new tables.
pub fn merge<I: InternalIterator>(
    input: I,
    options: &MergeOptions<'_>,
    outputs: &mut dyn Outputs,
) -> Result<MergeResult> {
    let mut entries = CompactionIter::new(input, options.rules);
    let (large_from, moves_blobs) = (outputs.large_from(), outputs.moves_blobs());
    let mut writer = RunWriter {
        options,
        outputs,
        open: None,
        keyspace: KeyspaceId(0),
        packing: options.packings.of(KeyspaceId(0)),
        result: MergeResult::default(),
    };
    let (mut kept, mut steps) = (0u64, 0u64);
    loop {
        steps += 1;
        match entries.advance()? {
            Step::Kept => {
                let (key, value) = entries.entry();
                if value.len() >= large_from || (moves_blobs && key.kind.in_blob()) {
                    writer.add_large(key, value)?;
                } else {
                    writer.add(key, value)?;
                }
                kept += 1;
            }
            Step::Dropped(_) => {}
            Step::End => break,
        }
        if steps % STOP_INTERVAL == 1 && (options.should_stop)() {
            return Err(Error::new(ErrorKind::Closed, "the merge was told to stop"));
        }
    }
    writer.close()?;
    let blobs = writer.outputs.finish_blobs()?;
    let mut result = writer.result;
    result.bytes_written += blobs.iter().map(|blob| blob.size).sum::<u64>();
    result.blobs = blobs;
    result.read = entries.read();
    result.dropped = entries.counts();
    check_counts(&result, kept)?;
    Ok(result)
}

/// Nothing may get lost on the way, and nothing may come from nowhere.
fn check_counts(result: &MergeResult, kept: u64) -> Result<()> {
    let dropped = result.dropped.total();
    if result.written == kept && result.read == kept + dropped {
        return Ok(());
    }
    Err(Error::bug(format!(
        "a merge read {} entries, dropped {dropped}, kept {kept} and wrote {}",
        result.read, result.written
    )))
}

/// Writes entries into as many tables as they need.
struct RunWriter<'a, 'b> {
    options: &'a MergeOptions<'a>,
    outputs: &'b mut dyn Outputs,
    open: Option<(FileNumber, TableWriter<FileSink>)>,
    /// Of the last entry, and how it is packed.
    keyspace: KeyspaceId,
    packing: Packing,
    result: MergeResult,
}

impl RunWriter<'_, '_> {
    #[inline]
    fn add(&mut self, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        if key.user.keyspace != self.keyspace {
            self.enter(key.user.keyspace)?;
        }
        if let Some((_, table)) = &self.open
            && self.cut_before(table, key.user)
        {
            self.close()?;
        }
        match &mut self.open {
            Some((_, table)) => table.add(key, value),
            None => self.create()?.add(key, value),
        }
    }

    /// Adds an entry whose value may go into a blob file.
    #[cold]
    fn add_large(&mut self, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        match self.outputs.place(key, value)? {
            Some((kind, stored)) => self.add(KeyRef::new(key.user, key.seq, kind), &stored),
            None => self.add(key, value),
        }
    }

    /// From here on entries are of another keyspace, which may want a table of its own.
    #[cold]
    fn enter(&mut self, keyspace: KeyspaceId) -> Result<()> {
        let packings = self.options.packings;
        self.packing = packings.of(keyspace);
        if packings.common(self.keyspace, keyspace).is_none() {
            self.close()?;
        }
        if let Some((_, table)) = &mut self.open {
            table.set_block_size(self.packing.block_size);
        }
        self.keyspace = keyspace;
        Ok(())
    }

    /// True if a new table begins with `key`.
    #[inline]
    fn cut_before(&self, table: &TableWriter<FileSink>, key: UserKey<'_>) -> bool {
        let (size, target) = (table.estimated_size(), self.options.target_size);
        let full = (table.is_full() && !mutant("table-without-end"))
            || (table.index_memory() >= self.options.memory / 2 && !mutant("index-without-end"));
        if size < target / 2 && !full {
            return false;
        }
        let Some(last) = table.last_user_key() else {
            return false;
        };
        last.keyspace != key.keyspace || ((size >= target || full) && last != key)
    }

    #[cold]
    fn create(&mut self) -> Result<&mut TableWriter<FileSink>> {
        let (number, id, seed, file) = self.outputs.create()?;
        let options = WriterOptions {
            id,
            seed,
            compression: self.packing.compression,
            block_size: self.packing.block_size,
        };
        let buffer = usize::try_from(self.options.memory / 2).unwrap_or(usize::MAX);
        let table = TableWriter::new(FileSink::with_buffer(file, buffer), options);
        Ok(&mut self.open.insert((number, table)).1)
    }

    /// Finishes the open table, if there is one, and makes its bytes durable.
    fn close(&mut self) -> Result<()> {
        let Some((number, table)) = self.open.take() else {
            return Ok(());
        };
        let (info, sink) = table.finish()?;
        sink.file().sync()?;
        self.result.written += info.entries;
        self.result.bytes_written += info.size;
        self.result.tables.push(TableMeta { number, info });
        Ok(())
    }
}
