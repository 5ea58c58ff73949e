//! What a test does to a database. Operations are small numbers and bytes: they can be printed, left out and put
//! in another order, and each still means something.

use std::fmt;
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use terrace::{Bytes, Durability, Expiry, KeyBounds};

/// A value, as its length and what its bytes follow from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Bytes.
    pub len: usize,
    /// What the bytes follow from.
    pub seed: u64,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{:x}", self.len, self.seed)
    }
}

impl Value {
    /// The bytes: half compressible, no two seeds alike from 8 bytes on.
    pub fn bytes(self) -> Bytes {
        let mut out = Vec::with_capacity(self.len + 8);
        let mut x = self.seed;
        while out.len() < self.len {
            out.extend_from_slice(&x.to_le_bytes());
            if out.len() % 64 < 32 {
                x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ self.seed;
            }
        }
        out.truncate(self.len);
        Bytes::from(out)
    }
}

/// A range of keys.
#[derive(Clone, Debug)]
pub struct Range {
    /// Where it begins.
    pub lower: Bound<Bytes>,
    /// Where it ends.
    pub upper: Bound<Bytes>,
}

impl Range {
    /// All keys.
    pub const ALL: Range = Range {
        lower: Bound::Unbounded,
        upper: Bound::Unbounded,
    };

    /// True if `key` lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        let above = match &self.lower {
            Bound::Unbounded => true,
            Bound::Included(lower) => key >= lower.as_ref(),
            Bound::Excluded(lower) => key > lower.as_ref(),
        };
        let below = match &self.upper {
            Bound::Unbounded => true,
            Bound::Included(upper) => key <= upper.as_ref(),
            Bound::Excluded(upper) => key < upper.as_ref(),
        };
        above && below
    }
}

impl KeyBounds for Range {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (
            self.lower.as_ref().map(AsRef::as_ref),
            self.upper.as_ref().map(AsRef::as_ref),
        )
    }
}

/// What becomes of a key.
#[derive(Clone, Debug)]
pub enum Action {
    /// It gets a value.
    Put(Value),
    /// It gets a value that expires: in the far future, or at once.
    PutExpiring(Value, bool),
    /// Its value, or nothing, is followed by this: the operator is [`APPEND`](crate::APPEND).
    Merge(Value),
    /// It is removed.
    Delete,
    /// It is removed, and all keys up to before another one: to the end, if none is given.
    DeleteRange(Option<Bytes>),
}

/// When values expire that do so in the far future.
pub(crate) const LATER: Duration = Duration::from_secs(9_000_000_000);
/// How long values hold by the default of a keyspace that has one.
pub const AGES: Duration = Duration::from_secs(1 << 33);

/// The time of a value that expires in the far future, or that has expired when it is written.
pub fn expiry(at_once: bool) -> Expiry {
    Expiry::At(match at_once {
        true => SystemTime::UNIX_EPOCH,
        false => SystemTime::UNIX_EPOCH + LATER,
    })
}

/// One write of a batch.
#[derive(Clone, Debug)]
pub struct Write {
    /// Index into [`KEYSPACES`](crate::KEYSPACES).
    pub keyspace: usize,
    /// The key.
    pub key: Bytes,
    /// What becomes of it.
    pub action: Action,
}

/// Something read, decided and written as one step.
#[derive(Clone, Debug)]
pub enum Step {
    /// `put_if_absent`
    PutIfAbsent(Value),
    /// `compare_and_swap`, expecting what is there or something else
    Swap(bool, Action),
    /// `update`
    Update(Action),
    /// `add_i64`
    Add(i64),
    /// `append`
    Append(Value),
    /// `take`
    Take,
    /// `pop_first` or `pop_last`, whatever the key
    Pop(End),
    /// A batch of two counters and an appendix, on condition of the key's version or absence: the
    /// right one, or another
    Batch(bool, Value),
}

/// How a batch is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `write`
    Write,
    /// `submit`, and the ticket is waited for.
    Wait,
    /// `submit`, and the ticket is polled as a future.
    Poll,
    /// `submit`, and the ticket is dropped.
    Forget,
}

/// An end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first entries.
    Front,
    /// The last entries.
    Back,
}

/// A move of a cursor.
#[derive(Clone, Debug)]
pub enum Move {
    /// `seek`
    Seek(Bytes),
    /// `seek_for_prev`
    SeekForPrev(Bytes),
    /// `first`
    First,
    /// `last`
    Last,
    /// `next`, so many times
    Next(usize),
    /// `prev`, so many times
    Prev(usize),
}

/// A question.
#[derive(Clone, Debug)]
pub enum Read {
    /// `get`, `get_with`, `get_entry` and `contains_key`
    Get(Bytes),
    /// `multi_get`
    MultiGet(Vec<Bytes>),
    /// All entries of a range from one end
    Scan(Range, End),
    /// The entries of a range from both ends until they meet: a bit says which end, over and over.
    Meet(Range, u64),
    /// `prefix`, from one end
    Prefix(Bytes, End),
    /// `range(..).keys()`, from both ends
    Keys(Range, u64),
    /// `count`
    Count(Range),
    /// `first`, `last` and `is_empty`
    Ends,
    /// Moves of one cursor, compared after each
    Cursor(Vec<Move>),
}

/// What a test does to a database.
#[derive(Clone, Debug)]
pub enum Op {
    /// One put or delete through the keyspace.
    One(Write),
    /// Several writes at once, perhaps across keyspaces.
    Batch(Vec<Write>, Option<Durability>, How),
    /// A step on a key of a keyspace.
    Step(usize, Bytes, Step),
    /// A transaction of these writes and a question behind them, with the writes from one to the
    /// last but so many undone by a savepoint; committed, unless that is false.
    Transaction(Vec<Write>, usize, Read, bool),
    /// `ingest` of these entries into a keyspace, sorted first; or `ingest_unsorted` as they are,
    /// with so many bytes of memory.
    Ingest(usize, Vec<(Bytes, Value)>, Option<usize>),
    /// Creates a keyspace, or finds it there.
    CreateKeyspace(usize),
    /// Drops a keyspace, or finds none.
    DropKeyspace(usize),
    /// Gives the first keyspace the name of the second.
    RenameKeyspace(usize, usize),
    /// Gives a keyspace options that follow from the number. None of them changes what is read.
    SetOptions(usize, u64),
    /// Asks about how much a range of a keyspace holds.
    Approximate(usize, Range),
    /// Asks the present.
    Read(usize, Read),
    /// Takes a snapshot.
    TakeSnapshot,
    /// Asks one of the snapshots.
    ReadSnapshot(usize, usize, Read),
    /// Compares all of one of the snapshots.
    CheckSnapshot(usize),
    /// Lets go of one of the snapshots.
    DropSnapshot(usize),
    /// Begins to iterate and keeps the iterator.
    KeepIter(usize, Range),
    /// Takes a few steps with one of the iterators kept, from both ends.
    StepIter(usize, usize, u64),
    /// Begins a cursor and keeps it.
    KeepCursor(usize),
    /// Moves one of the cursors kept.
    MoveCursor(usize, Vec<Move>),
    /// `flush`
    Flush,
    /// `compact`
    Compact(usize, Range),
    /// `compact_all`
    CompactAll,
    /// `wait_idle`
    WaitIdle,
    /// `sync`
    Sync,
    /// `checkpoint`; the copy is opened with options that follow from the number, compared, and
    /// removed.
    Checkpoint(u64),
    /// Compares everything.
    Check,
    /// Closes and opens again with options that follow from the number.
    Reopen(u64),
}
