//! What writer threads write: step after step from numbers, so that whoever knows the seed, the life and how many
//! steps a thread has taken knows everything that it has stored.
//!
//! A *life* is one process that has the database open. Each of its threads has keys of its own, in
//! keyspaces that all share and in one that it drops and makes again. Most steps are batches across
//! keyspaces that also write the thread's *mark*: which step this is, and which steps of the other
//! threads had returned before it began. A step without a mark (a single operation, a dropped
//! keyspace) is told from its neighbours by what it changes.
//!
//! A new kind of step is a variant of [`Act`] with its effect in [`State::apply`] and its call in
//! `writer.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use terrace::{Bytes, Durability};
use terrace_kit::{Random, Value};

/// Writers in a process.
pub(crate) const THREADS: usize = 3;
/// Submitted batches that a thread leaves unwaited for.
pub(crate) const WINDOW: usize = 4;
/// Keyspaces as steps number them; each thread has the last one for itself.
pub(crate) const SPACES: usize = 3;
/// Keys of a thread in a keyspace.
const SLOTS: usize = 24;

/// A step: which life of the database, and which one of its thread there, from 1. (0, 0) is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StepId {
    pub(crate) life: u64,
    pub(crate) number: u64,
}

/// What a write does to a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Put(Value),
    /// A value that expires in the far future, or that has expired when it is written.
    PutExpiring(Value, bool),
    /// Sets it if there is nothing yet; alone only.
    PutIfAbsent(Value),
    /// Follows what is there, as an operand.
    Merge(Value),
    /// Follows what is there, which is read first.
    Append(Value),
    Delete,
    /// Deletes the range from it to another, which stays.
    DeleteTo(usize),
}

/// One operation of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) space: usize,
    pub(crate) slot: usize,
    pub(crate) change: Change,
}

/// What a step does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// A batch with the thread's mark; `submit` leaves it in flight.
    Batch {
        writes: Vec<Write>,
        durability: Option<Durability>,
        submit: bool,
    },
    /// A put, a delete or a range delete alone.
    One(Write),
    /// The thread's own keyspace goes. It comes back with the next write to it.
    Drop,
}

/// A step of a thread.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) id: StepId,
    pub(crate) act: Act,
}

impl Step {
    /// True if it writes the thread's mark.
    pub(crate) fn leaves_mark(&self) -> bool {
        matches!(self.act, Act::Batch { .. })
    }

    /// True if it writes nothing where there is nothing to do: then it has no sequence number of
    /// its own.
    pub(crate) fn may_write_nothing(&self) -> bool {
        let Act::One(write) = &self.act else {
            return false;
        };
        matches!(write.change, Change::DeleteTo(_) | Change::PutIfAbsent(_))
    }
}

/// What the threads of a life prefer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taste {
    Default,
    Mixed,
    Sync,
    Buffered,
}

/// One process that has the database open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// Which one, from 1.
    pub(crate) number: u64,
    seed: u64,
    taste: Taste,
    /// When it stops writing and closes the database, if nothing else ends it before.
    pub(crate) closes_after: Option<Duration>,
}

impl Life {
    /// Life `number` of the database of `seed`.
    pub(crate) fn new(seed: u64, number: u64) -> Life {
        let r = &mut Random::new(seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        Life {
            number,
            seed: r.number(),
            taste: [Taste::Default, Taste::Mixed, Taste::Sync, Taste::Buffered][r.below(4)],
            closes_after: r
                .one_in(6)
                .then(|| Duration::from_millis(r.below(12) as u64)),
        }
    }

    /// What the options of this life follow from.
    pub(crate) fn options_seed(&self) -> u64 {
        self.seed ^ 1
    }

    fn random(&self, thread: usize, number: u64, what: u64) -> Random {
        let mut r = Random::new(self.seed ^ number.wrapping_mul(0x9e6c_63d0_876a_3f6b));
        Random::new(r.number() ^ ((thread as u64) << 8) ^ what)
    }

    /// Step `number` of a thread.
    pub(crate) fn step(&self, thread: usize, number: u64) -> Step {
        let r = &mut self.random(thread, number, 0);
        let id = StepId {
            life: self.number,
            number,
        };
        let act = match r.below(40) {
            0..=5 => Act::One(write(r, true)),
            6 => Act::Drop,
            _ => Act::Batch {
                writes: (0..r.below(7)).map(|_| write(r, false)).collect(),
                durability: self.durability(r),
                submit: r.one_in(6),
            },
        };
        Step { id, act }
    }

    fn durability(&self, r: &mut Random) -> Option<Durability> {
        match self.taste {
            Taste::Default => None,
            Taste::Sync => Some(Durability::Sync),
            Taste::Buffered if r.one_in(30) => Some(Durability::Sync),
            Taste::Buffered => Some(Durability::Buffered),
            Taste::Mixed => match r.below(8) {
                0..=2 => Some(Durability::Sync),
                3..=4 => Some(Durability::Interval(Duration::from_millis(
                    1 + r.below(8) as u64,
                ))),
                5..=6 => Some(Durability::Buffered),
                _ => None,
            },
        }
    }

    /// A number that says whether a thread does something else than writing before a step, and
    /// what.
    pub(crate) fn chore(&self, thread: usize, number: u64) -> usize {
        self.random(thread, number, 1).below(400)
    }
}

fn write(r: &mut Random, alone: bool) -> Write {
    let len = match r.below(40) {
        0..=3 => 0,
        4..=26 => 1 + r.below(100),
        27..=32 => 500 + r.below(30),
        33..=38 => 1000 + r.below(3000),
        _ if r.one_in(4) => 20_000, // More than the smallest segment holds.
        _ => 8000 + r.below(800),
    };
    let value = Value {
        len,
        seed: r.number() | 1,
    };
    let more = Value {
        len: r.below(60),
        ..value
    };
    let slot = r.below(SLOTS);
    Write {
        space: r.below(SPACES),
        slot,
        change: match r.below(30) {
            0..=4 => Change::Delete,
            5 => Change::DeleteTo(slot + 1 + r.below(SLOTS - slot)),
            6..=7 => Change::PutExpiring(value, r.one_in(3)),
            8..=9 => Change::Merge(more),
            10 => Change::Append(more),
            11 if alone => Change::PutIfAbsent(value),
            _ => Change::Put(value),
        },
    }
}

/// The name of a keyspace.
pub(crate) fn space_name(thread: usize, space: usize) -> String {
    match space {
        0 => "default".to_owned(),
        1 => "users".to_owned(),
        _ => format!("own/{thread}"),
    }
}

/// The key of a slot; one in eight is long.
pub(crate) fn key(thread: usize, slot: usize) -> String {
    let pad = if slot % 8 == 7 { 300 } else { 0 };
    format!("{thread}/{slot:02}{:p<pad$}", "")
}

/// The key of a thread's mark, in the default keyspace.
pub(crate) fn mark_key(thread: usize) -> String {
    format!("mark/{thread}")
}

/// A key in keyspace `users` that every batch of every thread writes.
pub(crate) const HOT: &str = "hot";

/// What a batch stores under its thread's mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) id: StepId,
    /// The last step of each thread in this life that had returned when this one began.
    pub(crate) seen: [u64; THREADS],
}

impl Mark {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let numbers = [self.id.life, self.id.number];
        let all = numbers.iter().chain(&self.seen);
        all.flat_map(|number| number.to_le_bytes()).collect()
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Mark> {
        let mut numbers = bytes.chunks(8).map(|part| part.try_into().ok());
        let mut next = || Some(u64::from_le_bytes(numbers.next()??));
        let id = StepId {
            life: next()?,
            number: next()?,
        };
        let mut seen = [0; THREADS];
        for one in &mut seen {
            *one = next()?;
        }
        (bytes.len() == 8 * (2 + THREADS)).then_some(Mark { id, seen })
    }
}

/// What a thread has stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// By keyspace and slot.
    pub(crate) entries: BTreeMap<(usize, usize), Bytes>,
    /// The step of its last batch.
    pub(crate) mark: StepId,
}

impl State {
    /// One step further.
    pub(crate) fn apply(&mut self, step: &Step) {
        let mut write = |write: &Write| {
            let place = (write.space, write.slot);
            match write.change {
                Change::Put(value) | Change::PutExpiring(value, false) => {
                    self.entries.insert(place, value.bytes());
                }
                Change::PutIfAbsent(value) => {
                    self.entries.entry(place).or_insert_with(|| value.bytes());
                }
                Change::Merge(more) | Change::Append(more) => {
                    let old = self.entries.entry(place).or_default();
                    *old = [&old[..], &more.bytes()].concat().into();
                }
                Change::Delete | Change::PutExpiring(_, true) => {
                    self.entries.remove(&place);
                }
                Change::DeleteTo(end) => {
                    let gone =
                        |at: &(usize, usize)| at.0 == place.0 && (place.1..end).contains(&at.1);
                    self.entries.retain(|at, _| !gone(at));
                }
            }
        };
        match &step.act {
            Act::Batch { writes, .. } => {
                writes.iter().for_each(&mut write);
                self.mark = step.id;
            }
            Act::One(one) => write(one),
            Act::Drop => self.entries.retain(|(space, _), _| *space != SPACES - 1),
        }
    }
}
