//! What the tests share: a model of a table as a sorted vector, and tables opened in every way.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use terrace_base::hash::key_hash;
use terrace_base::iterator::InternalIterator;
use terrace_base::key::{KeyRef, KeyspaceId, OwnedKey, SeqNo, UserKey, ValueKind};
use terrace_base::vfs::{File, Fs, OpenMode, OsVfs};

use crate::{
    BlockCache, Compression, FileSink, IoMode, Table, TableInfo, TableWriter, WriterOptions,
};

pub(crate) const ID: u64 = 0x1234_5678_9abc_def0;
pub(crate) const SEED: u64 = 42;

/// Entries in order.
pub(crate) type Model = Vec<(OwnedKey, Vec<u8>)>;

pub(crate) fn key(keyspace: u32, bytes: &[u8], seq: u64, kind: ValueKind) -> OwnedKey {
    KeyRef::new(
        UserKey::new(KeyspaceId(keyspace), bytes),
        SeqNo::new(seq),
        kind,
    )
    .to_owned()
}

pub(crate) fn put(bytes: &[u8], seq: u64, value: &[u8]) -> (OwnedKey, Vec<u8>) {
    (key(0, bytes, seq, ValueKind::Put), value.to_vec())
}

/// What this build can write and read.
pub(crate) fn compressions() -> Vec<Compression> {
    let mut all = vec![Compression::None, Compression::Lz4, Compression::Zstd];
    all.retain(|compression| compression.check().is_ok());
    all
}

pub(crate) fn options(compression: Compression, block_size: usize) -> WriterOptions {
    WriterOptions {
        id: ID,
        seed: SEED,
        compression,
        block_size,
    }
}

pub(crate) fn build(model: &Model, options: &WriterOptions) -> (TableInfo, Vec<u8>) {
    let mut writer = TableWriter::new(Vec::new(), options.clone());
    for (key, value) in model {
        writer.add(key.as_ref(), value).unwrap();
    }
    let (info, image) = writer.finish().unwrap();
    assert_eq!(info.size, image.len() as u64);
    assert_eq!(info.entries, model.len() as u64);
    (info, image)
}

pub(crate) fn fs() -> Fs {
    Fs::new(Arc::new(OsVfs))
}

pub(crate) fn write_file(path: &Path, image: &[u8]) -> File {
    let file = fs().open(path, OpenMode::CreateOrTruncate).unwrap();
    let mut sink = FileSink::new(file);
    crate::Sink::write(&mut sink, image).unwrap();
    crate::Sink::finish(&mut sink).unwrap();
    sink.file().clone()
}

pub(crate) fn open_image(image: &[u8]) -> terrace_base::Result<Arc<Table>> {
    let cache = BlockCache::new(1 << 20);
    Table::open_image(Bytes::copy_from_slice(image), ID, &cache).map(Arc::new)
}

/// The table in `image`, opened in memory, from a file in both modes, and with its index left
/// there.
pub(crate) fn open_all(image: &[u8]) -> Vec<Arc<Table>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.sst");
    let file = write_file(&path, image);
    let cache = BlockCache::new(64 << 10);
    let open = |mode| Table::open(file.clone(), ID, image.len() as u64, mode, &cache).unwrap();
    vec![
        open_image(image).unwrap(),
        Arc::new(open(IoMode::Mmap)),
        Arc::new(open(IoMode::Pread)),
        Arc::new(
            Table::open_lean(file.clone(), ID, image.len() as u64, IoMode::Pread, &cache).unwrap(),
        ),
    ]
}

fn entry<I: InternalIterator>(iter: &I) -> Option<(OwnedKey, Vec<u8>)> {
    if !iter.valid() {
        assert!(iter.value().is_empty() && iter.key().user.bytes.is_empty());
        return None;
    }
    assert_eq!(&iter.key_bytes()[..], iter.key().user.bytes);
    assert_eq!(&iter.value_bytes()[..], iter.value());
    Some((iter.key().to_owned(), iter.value().to_vec()))
}

/// The first entry at or after `user` at `seq`.
fn lower_bound(model: &Model, user: UserKey<'_>, seq: SeqNo) -> usize {
    model.partition_point(|(key, _)| {
        let at = key.user.as_ref();
        at < user || (at == user && key.seq > seq)
    })
}

/// Compares a table with the model in every way there is.
pub(crate) fn check(table: &Arc<Table>, model: &Model) {
    table.verify().unwrap();
    for mut iter in [table.iter(), table.scan()] {
        assert!(entry(&iter).is_none());
        iter.first().unwrap();
        for (i, expected) in model.iter().enumerate() {
            assert_eq!(entry(&iter).as_ref(), Some(expected), "forward, {i}");
            check_plain(&iter);
            iter.next().unwrap();
        }
        assert!(entry(&iter).is_none());
        iter.next().unwrap();
        iter.prev().unwrap();
        assert!(!iter.valid());
        iter.last().unwrap();
        for expected in model.iter().rev() {
            assert_eq!(entry(&iter).as_ref(), Some(expected), "backward");
            iter.prev().unwrap();
        }
        assert!(!iter.valid());
    }
    let mut iter = table.iter();
    for (user, seq) in targets(model) {
        check_seek(&mut iter, model, user.as_ref(), seq);
        check_get(table, model, user.as_ref(), seq);
    }
}

/// What `plain_below` promises holds for the entry.
fn check_plain(iter: &crate::TableIter) {
    let keyspace = iter.key().user.keyspace;
    if iter.plain_below(keyspace, iter.key().seq) {
        assert_eq!(iter.key().kind, ValueKind::Put);
    }
    assert!(iter.key().seq == SeqNo::ZERO || !iter.plain_below(keyspace, SeqNo::ZERO));
}

fn check_seek(iter: &mut crate::TableIter, model: &Model, user: UserKey<'_>, seq: SeqNo) {
    let at = lower_bound(model, user, seq);
    let target = KeyRef::lookup(user, seq);
    iter.seek(target).unwrap();
    assert_eq!(entry(iter).as_ref(), model.get(at), "seek {target:?}");
    iter.prev().unwrap();
    if at < model.len() {
        let before = at.checked_sub(1).and_then(|i| model.get(i));
        assert_eq!(entry(iter).as_ref(), before, "prev of {target:?}");
    }
    let exact = model
        .get(at)
        .filter(|(key, _)| key.user.as_ref() == user && key.seq == seq);
    let expected = exact.or_else(|| at.checked_sub(1).and_then(|i| model.get(i)));
    iter.seek_for_prev(target).unwrap();
    assert_eq!(entry(iter).as_ref(), expected, "seek_for_prev {target:?}");
    iter.next().unwrap();
    if expected.is_some() {
        let next = at + usize::from(exact.is_some());
        assert_eq!(entry(iter).as_ref(), model.get(next), "next of {target:?}");
    }
}

fn check_get(table: &Table, model: &Model, user: UserKey<'_>, seq: SeqNo) {
    let hash = key_hash(user);
    let at = lower_bound(model, user, seq);
    let expected = model.get(at).filter(|(key, _)| key.user.as_ref() == user);
    table.prefetch(hash);
    let found = table.get(&user, hash, seq).unwrap();
    if expected.is_some() {
        assert!(table.may_contain(user, hash), "{user:?}");
    }
    match (found, expected) {
        (None, None) => {}
        (Some(found), Some((key, value))) => {
            assert_eq!((found.seq, found.kind), (key.seq, key.kind), "get {user:?}");
            assert_eq!(&found.value[..], &value[..], "get {user:?} at {seq:?}");
            assert_eq!(found.value.into_bytes(), value);
        }
        (found, expected) => panic!("get {user:?} at {seq:?}: {found:?}, not {expected:?}"),
    }
}

/// Keys and sequence numbers on, before, after and between the entries.
fn targets(model: &Model) -> Vec<(terrace_base::OwnedUserKey, SeqNo)> {
    let mut targets = Vec::new();
    let step = model.len() / 300 + 1;
    let mut add = |user: UserKey<'_>, seqs: &[u64]| {
        for seq in seqs {
            targets.push((user.to_owned(), SeqNo::new(*seq)));
        }
    };
    for (key, _) in model.iter().step_by(step) {
        let seq = key.seq.get();
        let user = key.user.as_ref();
        add(user, &[seq, seq.saturating_sub(1), seq + 1, 0, u64::MAX]);
        let mut longer = user.bytes.to_vec();
        longer.push(0);
        add(UserKey::new(user.keyspace, &longer), &[u64::MAX]);
        if let Some((last, rest)) = user.bytes.split_last() {
            add(UserKey::new(user.keyspace, rest), &[u64::MAX]);
            let mut other = rest.to_vec();
            other.push(last.wrapping_add(1));
            add(UserKey::new(user.keyspace, &other), &[u64::MAX, 0]);
        }
        for keyspace in [0, 1, user.keyspace.0.saturating_add(1), u32::MAX] {
            add(UserKey::new(KeyspaceId(keyspace), user.bytes), &[u64::MAX]);
        }
    }
    for keyspace in [0, 1, 2, 255, 256, u32::MAX] {
        add(UserKey::new(KeyspaceId(keyspace), b""), &[0, u64::MAX]);
        add(
            UserKey::new(KeyspaceId(keyspace), &[0xff; 9]),
            &[0, u64::MAX],
        );
    }
    targets
}

/// A generator of numbers for tests that need many.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
