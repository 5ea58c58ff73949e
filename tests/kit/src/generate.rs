//! Operations from numbers. Keys collide on purpose, and are of every shape that has a special case somewhere:
//! empty, zero and 0xff bytes, one a prefix of the other, long ones that differ late.

use std::ops::Bound;
use std::time::Duration;

use terrace::{Bytes, Durability, MAX_KEY_LEN};

use crate::KEYSPACES;
use crate::op::{Action, End, How, Move, Op, Range, Read, Step, Value, Write};

/// Random numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers that follow from `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `n`; 0 if that is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % (n as u64).max(1)) as usize
    }

    /// True one time in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What is made how often.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Profile {
    /// Keys of the common shape.
    pub keys: usize,
    /// Keyspaces used, the default one included.
    pub keyspaces: usize,
    /// Weight of writes, against 40 for reads.
    pub writes: usize,
    /// Weight of flushes, compactions and the like.
    pub maintenance: usize,
    /// Weight of snapshots, kept iterators and kept cursors.
    pub pins: usize,
    /// Weight of reads.
    pub reads: usize,
    /// Weight of closing and opening again.
    pub reopens: usize,
    /// Weight of ingests, and of new names and options of keyspaces.
    pub rare: usize,
    /// Operations of the longest batch.
    pub batch: usize,
    /// Bytes of the longest value, large ones apart.
    pub longest: usize,
    /// One value in so many is large.
    pub large_one_in: usize,
    /// Bytes of a large value.
    pub large: usize,
    /// One key in so many has the greatest length.
    pub longest_key_one_in: usize,
    /// Whether everything is compared now and then.
    pub checks: bool,
    /// Whether checkpoints are made.
    pub copies: bool,
    /// Whether writes may be Buffered or Interval.
    pub mixed_durability: bool,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile {
            keys: 80,
            keyspaces: KEYSPACES.len(),
            writes: 60,
            maintenance: 5,
            pins: 10,
            reads: 24,
            reopens: 1,
            rare: 2,
            batch: 80,
            longest: 8800,
            large_one_in: 300,
            large: 100 << 10,
            longest_key_one_in: 2000,
            checks: true,
            copies: true,
            mixed_durability: true,
        }
    }
}

impl Profile {
    /// Writes and maintenance only: for tests that look at what a crash or a fault leaves.
    pub fn changes_only() -> Profile {
        Profile {
            pins: 0,
            reads: 0,
            reopens: 0,
            longest_key_one_in: 1 << 40,
            large_one_in: 1000,
            maintenance: 4,
            copies: false,
            ..Profile::default()
        }
    }

    /// For crashes at every call: a few dozen operations go through everything, and large values
    /// are larger than a log segment.
    pub fn crashes() -> Profile {
        Profile {
            keys: 16,
            keyspaces: 3,
            writes: 66,
            maintenance: 20,
            pins: 6,
            reads: 3,
            reopens: 5,
            rare: 6,
            batch: 80,
            longest: 8800,
            large_one_in: 64,
            large: 20_000,
            longest_key_one_in: 1 << 40,
            copies: false,
            checks: true,
            mixed_durability: true,
        }
    }

    /// The operation that follows from `seed`.
    pub fn op(&self, seed: u64) -> Op {
        let r = &mut Random::new(seed);
        let kinds = [
            self.writes,
            self.maintenance,
            self.pins,
            self.reads,
            self.reopens,
            self.rare,
        ];
        let mut at = r.below(kinds.iter().sum());
        let mut kind = 0;
        for weight in kinds {
            if at < weight {
                break;
            }
            at -= weight;
            kind += 1;
        }
        match kind {
            0 => self.write(r),
            1 => self.maintain(r),
            2 => self.pin(r),
            3 if r.one_in(24) => Op::Approximate(self.keyspace(r), self.range(r)),
            3 => Op::Read(self.keyspace(r), self.read(r)),
            4 => Op::Reopen(r.number()),
            _ => self.rare(r),
        }
    }

    fn write(&self, r: &mut Random) -> Op {
        match r.below(40) {
            0..=19 => Op::One(self.one(r)),
            20..=23 => Op::Step(self.keyspace(r), self.key(r), self.step(r)),
            24..=25 => {
                let mut writes: Vec<Write> = (0..r.below(8)).map(|_| self.one(r)).collect();
                for write in &mut writes {
                    if let Action::Merge(value) = write.action {
                        write.action = Action::Put(value); // Transactions have no operands.
                    }
                }
                let undone = r.below(writes.len() + 1);
                Op::Transaction(writes, undone, self.read(r), !r.one_in(5))
            }
            26 => Op::CreateKeyspace(self.keyspace(r)),
            27 => Op::DropKeyspace(self.keyspace(r)),
            _ => {
                let len = match r.below(10) {
                    0 => 0,
                    1..=7 => 1 + r.below(8),
                    _ => 20 + r.below(60),
                };
                let len = len.min(self.batch);
                let writes = (0..len).map(|_| self.one(r)).collect();
                let durability = match r.below(if self.mixed_durability { 8 } else { 1 }) {
                    0..=3 => None,
                    4 => Some(Durability::Sync),
                    5 => Some(Durability::Interval(Duration::from_millis(
                        1 + r.below(50) as u64,
                    ))),
                    _ => Some(Durability::Buffered),
                };
                let how = match r.below(8) {
                    0..=4 => How::Write,
                    5 => How::Wait,
                    6 => How::Poll,
                    _ => How::Forget,
                };
                Op::Batch(writes, durability, how)
            }
        }
    }

    fn step(&self, r: &mut Random) -> Step {
        let action = |r: &mut Random| match r.one_in(3) {
            true => Action::Delete,
            false => Action::Put(self.value(r)),
        };
        match r.below(16) {
            0..=1 => Step::PutIfAbsent(self.value(r)),
            2..=3 => Step::Swap(!r.one_in(3), action(r)),
            4..=5 => Step::Update(action(r)),
            6..=7 => Step::Add(r.number() as i64 >> r.below(60)),
            8..=9 => Step::Append(Value {
                len: r.below(30),
                seed: r.number() | 1,
            }),
            10 => Step::Take,
            11..=12 => Step::Pop(if r.one_in(3) { End::Back } else { End::Front }),
            _ => Step::Batch(!r.one_in(3), self.value(r)),
        }
    }

    fn maintain(&self, r: &mut Random) -> Op {
        match r.below(16) {
            0..=5 => Op::Flush,
            6..=7 => Op::Compact(self.keyspace(r), self.range(r)),
            8 => Op::CompactAll,
            9..=10 => Op::WaitIdle,
            13 if self.copies => Op::Checkpoint(r.number()),
            14..=15 if self.checks => Op::Check,
            _ => Op::Sync,
        }
    }

    fn rare(&self, r: &mut Random) -> Op {
        match r.below(4) {
            0..=1 => {
                let len = match r.below(6) {
                    0 => 0,
                    1..=4 => 1 + r.below(12),
                    _ => self.batch,
                };
                let entries = (0..len).map(|_| (self.key(r), self.value(r))).collect();
                let memory = [None, Some(0), Some(1 << r.below(16))][r.below(3)];
                Op::Ingest(self.keyspace(r), entries, memory)
            }
            2 => Op::RenameKeyspace(r.below(self.keyspaces), r.below(self.keyspaces)),
            _ => Op::SetOptions(self.keyspace(r), r.number()),
        }
    }

    fn pin(&self, r: &mut Random) -> Op {
        match r.below(16) {
            0..=2 => Op::TakeSnapshot,
            3..=5 => Op::ReadSnapshot(r.below(64), self.keyspace(r), self.read(r)),
            6 if self.checks => Op::CheckSnapshot(r.below(64)),
            6..=8 => Op::DropSnapshot(r.below(64)),
            9 => Op::KeepIter(self.keyspace(r), self.range(r)),
            10..=12 => Op::StepIter(r.below(64), r.below(40), r.number()),
            13 => Op::KeepCursor(self.keyspace(r)),
            _ => Op::MoveCursor(r.below(64), self.moves(r)),
        }
    }

    fn read(&self, r: &mut Random) -> Read {
        let end = |r: &mut Random| if r.one_in(2) { End::Front } else { End::Back };
        match r.below(12) {
            0..=2 => Read::Get(self.key(r)),
            3 => Read::MultiGet((0..r.below(12)).map(|_| self.key(r)).collect()),
            4..=5 => Read::Scan(self.range(r), end(r)),
            6 => Read::Meet(self.range(r), r.number()),
            7 => {
                let key = self.key(r);
                Read::Prefix(key.slice(..r.below(key.len() + 1)), end(r))
            }
            8 => Read::Keys(self.range(r), r.number()),
            9 => Read::Count(self.range(r)),
            10 => Read::Ends,
            _ => Read::Cursor(self.moves(r)),
        }
    }

    fn moves(&self, r: &mut Random) -> Vec<Move> {
        let one = |r: &mut Random| match r.below(12) {
            0..=1 => Move::Seek(self.key(r)),
            2..=3 => Move::SeekForPrev(self.key(r)),
            4 => Move::First,
            5 => Move::Last,
            6..=8 => Move::Next(1 + r.below(6)),
            _ => Move::Prev(1 + r.below(6)),
        };
        (0..1 + r.below(12)).map(|_| one(r)).collect()
    }

    /// A keyspace, most often the default one.
    pub fn keyspace(&self, r: &mut Random) -> usize {
        if r.one_in(2) {
            0
        } else {
            r.below(self.keyspaces)
        }
    }

    fn one(&self, r: &mut Random) -> Write {
        let key = self.key(r);
        let action = match r.below(40) {
            0..10 => Action::Delete,
            10 => match self.key(r) {
                end if end > key => Action::DeleteRange(Some(end)),
                _ if r.one_in(4) => Action::DeleteRange(None),
                _ => Action::Delete,
            },
            11..14 => Action::PutExpiring(self.value(r), r.one_in(3)),
            14..20 => Action::Merge(self.operand(r)),
            _ => Action::Put(self.value(r)),
        };
        Write {
            keyspace: self.keyspace(r),
            key,
            action,
        }
    }

    /// A key.
    pub fn key(&self, r: &mut Random) -> Bytes {
        if r.one_in(self.longest_key_one_in) {
            let mut key = vec![b'L'; MAX_KEY_LEN];
            if let Some(last) = key.last_mut() {
                *last = r.below(2) as u8;
            }
            return key.into();
        }
        let common = |r: &mut Random| format!("k{:03}", r.below(self.keys)).into_bytes();
        let key = match r.below(20) {
            0 => Vec::new(),
            1..=2 => (0..1 + r.below(3))
                .map(|_| [0, 1, 0xfe, 0xff][r.below(4)])
                .collect(),
            3 => [common(r), vec![[0, 0xff][r.below(2)]; 1 + r.below(2)]].concat(),
            4 => format!("k{:02}", r.below(self.keys / 8)).into_bytes(),
            5..=6 => [vec![b'p'; 40], common(r)].concat(),
            7 => [vec![b'p'; 300 + 1000 * r.below(3)], common(r)].concat(),
            8 => [vec![0xff; 9], common(r)].concat(),
            _ => common(r),
        };
        key.into()
    }

    fn value(&self, r: &mut Random) -> Value {
        let len = match r.below(20) {
            _ if r.one_in(self.large_one_in) => self.large,
            0..=1 => 0,
            2..=13 => 1 + r.below(100),
            14..=16 => 500 + r.below(30),
            17..=18 => 1000 + r.below(3000),
            _ => 8000 + r.below(800),
        };
        let len = match len {
            len if len == self.large => len,
            len => len.min(self.longest),
        };
        Value {
            len,
            seed: r.number() | 1,
        }
    }

    /// Smaller than values: they add up.
    fn operand(&self, r: &mut Random) -> Value {
        let len = match r.below(20) {
            0 => 0,
            1..19 => 1 + r.below(40),
            _ => 300 + r.below(600),
        };
        Value {
            len,
            seed: r.number() | 1,
        }
    }

    /// A range, inverted now and then.
    pub fn range(&self, r: &mut Random) -> Range {
        let mut bound = || match r.below(7) {
            0..=1 => Bound::Unbounded,
            2..=4 => Bound::Included(self.key(r)),
            _ => Bound::Excluded(self.key(r)),
        };
        let (lower, upper) = (bound(), bound());
        let bytes = |bound: &Bound<Bytes>| match bound {
            Bound::Unbounded => None,
            Bound::Included(key) | Bound::Excluded(key) => Some(key.clone()),
        };
        match (bytes(&lower), bytes(&upper)) {
            (Some(a), Some(b)) if a > b && !r.one_in(6) => Range {
                lower: upper,
                upper: lower,
            },
            _ => Range { lower, upper },
        }
    }
}

/// Operations without end.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
    profile: Profile,
}

impl Generator {
    /// The operations that follow from `seed`.
    pub fn new(seed: u64, profile: Profile) -> Generator {
        Generator {
            random: Random::new(seed),
            profile,
        }
    }
}

impl Iterator for Generator {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        Some(self.profile.op(self.random.number()))
    }
}
