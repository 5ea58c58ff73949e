//! A world for the tests: files in memory that can be damaged, a table store over them, and a tree that is
//! flushed into and compacted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use terrace_base::vfs::{File, Fs, LockGuard, Metadata, OpenMode, Vfs, VfsFile};
use terrace_base::{
    FileKind, FileNumber, InternalIterator, KeyRef, KeyspaceId, OwnedKey, OwnedUserKey, RangeSet,
    Result, SeqNo, UserKey, ValueKind,
};
use terrace_compaction::*;
use terrace_sstable::{BlockCache, Compression, IoMode, Table};

/// A key or table in text.
pub fn key(text: &str) -> OwnedUserKey {
    OwnedUserKey::parse(text).unwrap()
}

#[derive(Debug, Default)]
pub struct Memory {
    files: Mutex<HashMap<PathBuf, Arc<MemoryFile>>>,
    /// Reads left until one fails; `u64::MAX`: none does.
    pub fuse: Arc<AtomicU64>,
    /// How many reads failed.
    pub failed: Arc<AtomicU64>,
}

#[derive(Debug)]
pub struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
    fuse: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Memory {
    pub fn new() -> Arc<Memory> {
        let memory = Memory::default();
        memory.fuse.store(u64::MAX, Ordering::Relaxed);
        Arc::new(memory)
    }

    pub fn change(&self, number: FileNumber, change: impl FnOnce(&mut Vec<u8>)) {
        let path = PathBuf::from(FileKind::Table(number).name());
        let files = self.files.lock().unwrap();
        change(&mut files[&path].bytes.lock().unwrap());
    }

    pub fn names(&self) -> HashSet<String> {
        let files = self.files.lock().unwrap();
        let name = |path: &PathBuf| path.to_str().unwrap().to_string();
        files.keys().map(name).collect()
    }
}

impl Vfs for Memory {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut files = self.files.lock().unwrap();
        match (files.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Ok(file.clone()),
            (None, OpenMode::Read | OpenMode::ReadWrite) => Err(io::ErrorKind::NotFound.into()),
            (None, _) => {
                let file = Arc::new(MemoryFile {
                    bytes: Mutex::default(),
                    fuse: self.fuse.clone(),
                    failed: self.failed.clone(),
                });
                files.insert(path.to_path_buf(), file.clone());
                Ok(file)
            }
        }
    }
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn read_dir(&self, _: &Path) -> io::Result<Vec<OsString>> {
        Ok(Vec::new())
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn hard_link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let removed = self.files.lock().unwrap().remove(path);
        removed.map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn metadata(&self, _: &Path) -> io::Result<Metadata> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn lock(&self, _: &Path, _: bool) -> io::Result<Option<Box<dyn LockGuard>>> {
        Ok(None)
    }
    fn random(&self) -> u64 {
        7
    }
}

impl VfsFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.fuse.load(Ordering::Relaxed);
        match left {
            u64::MAX => {}
            0 => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                return Err(io::Error::other("the fuse has burnt"));
            }
            n => self.fuse.store(n - 1, Ordering::Relaxed),
        }
        let bytes = self.bytes.lock().unwrap();
        let rest = bytes.get(offset as usize..).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = self.bytes.lock().unwrap();
        let end = offset as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buf);
        Ok(buf.len())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }
    fn map(&self, len: u64) -> io::Result<Bytes> {
        let bytes = self.bytes.lock().unwrap();
        match bytes.get(..len as usize) {
            Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Opens tables from memory, and removes the obsolete ones.
#[derive(Debug)]
pub struct Store {
    pub memory: Arc<Memory>,
    pub fs: Fs,
    cache: Arc<BlockCache>,
    next: AtomicU64,
}

impl Store {
    pub fn new() -> Arc<Store> {
        let memory = Memory::new();
        Arc::new(Store {
            fs: Fs::new(memory.clone()),
            memory,
            cache: BlockCache::new(1 << 20),
            next: AtomicU64::new(1),
        })
    }

    pub fn shared(self: &Arc<Store>) -> Arc<dyn TableStore> {
        self.clone()
    }

    pub fn create(&self) -> (FileNumber, File) {
        let number = FileNumber(self.next.fetch_add(1, Ordering::Relaxed));
        let path = PathBuf::from(FileKind::Table(number).name());
        (number, self.fs.open(&path, OpenMode::CreateNew).unwrap())
    }
}

impl TableStore for Store {
    fn open(&self, meta: &TableMeta) -> Result<Table> {
        let path = PathBuf::from(FileKind::Table(meta.number).name());
        let file = self.fs.open(&path, OpenMode::Read)?;
        let (id, size) = (meta.info.id, meta.info.size);
        Table::open(file, id, size, IoMode::Pread, &self.cache)
    }

    fn obsolete(&self, number: FileNumber) {
        let path = PathBuf::from(FileKind::Table(number).name());
        self.fs.remove_file(&path).unwrap();
    }
}

pub struct Files<'a>(pub &'a Store);

impl Outputs for Files<'_> {
    fn create(&mut self) -> Result<(FileNumber, u64, u64, File)> {
        let (number, file) = self.0.create();
        Ok((number, number.0, number.0 ^ 0x5eed, file))
    }
}

/// Entries in memory, in order.
#[derive(Debug, Default)]
pub struct Sorted {
    pub entries: Vec<(OwnedKey, Vec<u8>)>,
    at: Option<usize>,
}

impl Sorted {
    pub fn new(mut entries: Vec<(OwnedKey, Vec<u8>)>) -> Sorted {
        entries.sort_by(|a, b| a.0.as_ref().cmp(&b.0.as_ref()));
        Sorted { entries, at: None }
    }

    /// In the order given, be it wrong.
    pub fn raw(entries: Vec<(OwnedKey, Vec<u8>)>) -> Sorted {
        Sorted { entries, at: None }
    }

    fn go(&mut self, at: Option<usize>) -> Result<()> {
        self.at = at.filter(|&i| i < self.entries.len());
        Ok(())
    }
}

impl InternalIterator for Sorted {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        let i = self.entries.partition_point(|e| e.0.as_ref() < target);
        self.go(Some(i))
    }
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        let n = self.entries.partition_point(|e| e.0.as_ref() <= target);
        self.go(n.checked_sub(1))
    }
    fn first(&mut self) -> Result<()> {
        self.go(Some(0))
    }
    fn last(&mut self) -> Result<()> {
        self.go(self.entries.len().checked_sub(1))
    }
    fn next(&mut self) -> Result<()> {
        self.go(self.at.map(|i| i + 1))
    }
    fn prev(&mut self) -> Result<()> {
        self.go(self.at.and_then(|i| i.checked_sub(1)))
    }
    fn valid(&self) -> bool {
        self.at.is_some()
    }
    fn key(&self) -> KeyRef<'_> {
        const NONE: UserKey<'_> = UserKey::new(KeyspaceId(0), &[]);
        match self.at {
            Some(i) => self.entries[i].0.as_ref(),
            None => KeyRef::new(NONE, SeqNo::ZERO, ValueKind::Tombstone),
        }
    }
    fn value(&self) -> &[u8] {
        self.at.map_or(&[], |i| &self.entries[i].1)
    }
}

/// The same packing for all keyspaces.
pub fn packed(compression: Compression) -> Packings {
    let packing = Packing {
        compression,
        ..Packing::default()
    };
    Packings::new(packing, BTreeMap::new())
}

/// What a write left: a value, or nothing.
pub type Value = Option<Vec<u8>>;

/// A tree that is flushed into and compacted, with an oracle that forgets nothing.
pub struct Tree {
    pub store: Arc<Store>,
    pub version: Version,
    pub options: PickOptions,
    pub snapshots: Vec<SeqNo>,
    pub dropped: Vec<(KeyspaceId, SeqNo)>,
    pub seq: u64,
    pub target_size: u64,
    pub flushed_bytes: u64,
    pub written_bytes: u64,
    /// Every version ever written.
    pub history: BTreeMap<OwnedUserKey, Vec<(SeqNo, Value)>>,
    pending: Vec<(OwnedKey, Vec<u8>)>,
}

impl Tree {
    pub fn new(options: PickOptions, target_size: u64) -> Tree {
        Tree {
            store: Store::new(),
            version: Version::empty(),
            options,
            snapshots: Vec::new(),
            dropped: Vec::new(),
            seq: 0,
            target_size,
            flushed_bytes: 0,
            written_bytes: 0,
            history: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    pub fn visible(&self) -> SeqNo {
        SeqNo::new(self.seq)
    }

    /// Writes one version; `None` deletes.
    pub fn write(&mut self, user: OwnedUserKey, value: Option<Vec<u8>>) {
        self.seq += 1;
        let seq = self.visible();
        let kind = match value {
            Some(_) => ValueKind::Put,
            None => ValueKind::Tombstone,
        };
        let versions = self.history.entry(user.clone()).or_default();
        versions.push((seq, value.clone()));
        let entry = OwnedKey { user, seq, kind };
        self.pending.push((entry, value.unwrap_or_default()));
    }

    fn stripes(&self) -> Stripes {
        Stripes::new(&self.snapshots, self.visible())
    }

    fn merge(
        &self,
        input: impl InternalIterator,
        older: &OlderRuns,
        packings: &Packings,
    ) -> Result<MergeResult> {
        let stripes = self.stripes();
        let may_hold = |key: UserKey<'_>| older.may_hold(key);
        let options = MergeOptions {
            rules: Rules {
                stripes: &stripes,
                dropped_keyspaces: &self.dropped,
                deleted: &RangeSet::default(),
                oldest_snapshot: self.snapshots.iter().min().copied(),
                may_exist_below: &may_hold,
                folding: None,
                keeps: None,
                fetch: None,
            },
            target_size: self.target_size,
            memory: u64::MAX,
            packings,
            should_stop: &|| false,
        };
        merge(input, &options, &mut Files(&self.store))
    }

    /// What is written becomes a run of level 0.
    pub fn flush(&mut self) {
        let entries = Sorted::new(std::mem::take(&mut self.pending));
        let older = OlderRuns::all(&self.version);
        let result = self
            .merge(entries, &older, &self.options.packings.plain())
            .unwrap();
        self.flushed_bytes += result.bytes_written;
        let run = result.tables.first().map_or(0, |meta| meta.number.0);
        let added = result.tables.into_iter().map(|meta| AddedTable {
            level: 0,
            run,
            meta,
        });
        let edit = VersionEdit {
            added: added.collect(),
            ..VersionEdit::default()
        };
        self.install(&edit);
    }

    pub fn install(&mut self, edit: &VersionEdit) {
        // Through the manifest and back.
        let mut bytes = Vec::new();
        edit.encode(&mut bytes);
        let edit = VersionEdit::decode(&bytes).unwrap();
        let next = self.version.apply(&edit, &self.store.shared()).unwrap();
        for removed in &edit.removed {
            self.version.table(removed.number).unwrap().mark_obsolete();
        }
        self.version = next;
    }

    /// Runs the job without installing its outcome.
    pub fn run(&mut self, compaction: &Compaction) -> Result<VersionEdit> {
        if compaction.kind == CompactionKind::Move {
            return compaction.edit(&MergeResult::default());
        }
        let older = compaction.older_runs(&self.version);
        let result = self.merge(compaction.entries(), &older, &compaction.packings)?;
        self.written_bytes += result.bytes_written;
        compaction.edit(&result)
    }

    /// One step; false if there is none.
    pub fn step(&mut self) -> bool {
        self.options.settled = self.stripes().settled();
        let Some(compaction) = pick(&self.version, &self.options, &HashSet::new()) else {
            return false;
        };
        let edit = self.run(&compaction).unwrap();
        self.install(&edit);
        true
    }

    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the picker never ends:\n{:?}", self.version);
    }

    pub fn compact(&mut self, range: &KeyRange<'_>) {
        self.options.settled = self.stripes().settled();
        let mut rewritten = HashSet::new();
        for _ in 0..10_000 {
            let picked = pick_range(
                &self.version,
                range,
                &|_, _| true,
                &self.options,
                &HashSet::new(),
            );
            let Some(compaction) = picked else { return };
            let edit = self.run(&compaction).unwrap();
            if compaction.level == LEVELS - 1 {
                let again = compaction
                    .numbers()
                    .find(|number| rewritten.contains(number));
                assert_eq!(again, None, "rewritten twice: {compaction:?}");
                rewritten.extend(edit.added.iter().map(|added| added.meta.number));
            }
            self.install(&edit);
        }
        panic!("the range is never done:\n{:?}", self.version);
    }

    /// What a reader at `at` finds, newest run first.
    pub fn get(&self, user: UserKey<'_>, at: SeqNo) -> Option<Vec<u8>> {
        for (_, run) in self.version.runs_newest_first() {
            let Some(file) = run.find(user) else { continue };
            let mut iter = file.table().unwrap().iter();
            iter.seek(KeyRef::lookup(user, at)).unwrap();
            if iter.valid() && iter.key().user == user {
                let put = iter.key().kind == ValueKind::Put;
                return put.then(|| iter.value().to_vec());
            }
        }
        None
    }

    /// What the oracle says that it must find.
    pub fn expect(&self, user: UserKey<'_>, at: SeqNo) -> Option<Vec<u8>> {
        let dropped = self.dropped.iter().find(|(id, _)| *id == user.keyspace);
        if dropped.is_some_and(|&(_, seq)| at >= seq) {
            return None;
        }
        let versions = self.history.get(&user.to_owned())?;
        let seen = versions.iter().rev().find(|(seq, _)| *seq <= at);
        seen.and_then(|(_, value)| value.clone())
    }

    /// Every key at every snapshot reads as the oracle says.
    pub fn check(&self) {
        for &at in self.snapshots.iter().chain([&self.visible()]) {
            for user in self.history.keys() {
                let user = user.as_ref();
                let gone = |(id, seq): &(KeyspaceId, SeqNo)| *id == user.keyspace && at >= *seq;
                if self.dropped.iter().any(gone) {
                    continue; // The engine does not look into keyspaces that are gone.
                }
                let (found, expected) = (self.get(user, at), self.expect(user, at));
                assert_eq!(found, expected, "{user:?} at {at}\n{:?}", self.version);
            }
        }
    }
}
