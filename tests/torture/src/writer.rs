//! The process that writes until something ends it: its threads take the steps of `steps.rs` and say over a pipe
//! what has returned.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use terrace::{Batch, Db, Durability, Error, Keyspace, SeqNo, Swap, Ticket};
use terrace_kit::{APPEND, Mode, Scenario, expiry};

use crate::hook::{Place, Trap, TrapVfs};
use crate::steps::{self, Act, Change, HOT, Life, Mark, SPACES, Step, THREADS, WINDOW};
use crate::sys;

/// The argument that makes this program a writer.
pub(crate) const ARGUMENT: &str = "@writer";

/// What a writer says. All that it says fits a pipe's atomic write, so no lock is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The database is open.
    Opened,
    /// A step returned, with its sequence number; 0 if it has none.
    Done {
        thread: usize,
        number: u64,
        seq: u64,
    },
    /// Everything up to a sequence number survives a power cut.
    Durable { seq: u64 },
    /// The database was closed.
    Closed,
    /// The database failed a call; the text went to standard error.
    Failed,
}

/// Bytes of one message.
pub(crate) const SAID_LEN: usize = 24;

impl Said {
    fn bytes(self) -> [u8; SAID_LEN] {
        let (kind, number, seq) = match self {
            Said::Opened => (1, 0, 0),
            Said::Done {
                thread,
                number,
                seq,
            } => (2 + ((thread as u64) << 8), number, seq),
            Said::Durable { seq } => (3, 0, seq),
            Said::Closed => (4, 0, 0),
            Said::Failed => (5, 0, 0),
        };
        let mut out = [0; SAID_LEN];
        for (part, value) in out.chunks_mut(8).zip([kind, number, seq]) {
            part.copy_from_slice(&u64::to_le_bytes(value));
        }
        out
    }

    pub(crate) fn parse(bytes: &[u8; SAID_LEN]) -> Said {
        let [kind, number, seq] = [0, 8, 16].map(|at| {
            let part = bytes[at..at + 8].try_into();
            u64::from_le_bytes(part.unwrap())
        });
        match kind & 0xff {
            1 => Said::Opened,
            2 => Said::Done {
                thread: (kind >> 8) as usize,
                number,
                seq,
            },
            3 => Said::Durable { seq },
            4 => Said::Closed,
            _ => Said::Failed,
        }
    }
}

/// What springs at the n-th changing call of the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spring {
    /// It kills itself.
    Kill,
    /// The file system mounted here shuts down, with these flags.
    Cut(PathBuf, u32),
}

/// What a writer is told.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) dir: PathBuf,
    pub(crate) seed: u64,
    pub(crate) life: u64,
    /// The changing call at which it springs, from 1; 0 is never.
    pub(crate) at: u64,
    pub(crate) place: Place,
    pub(crate) spring: Spring,
}

impl Task {
    /// The arguments behind [`ARGUMENT`].
    pub(crate) fn arguments(&self) -> Vec<String> {
        let place = Place::ALL.iter().position(|place| *place == self.place);
        let (mount, flags) = match &self.spring {
            Spring::Kill => ("-".to_owned(), 0),
            Spring::Cut(mount, flags) => (mount.display().to_string(), *flags),
        };
        let numbers = [self.seed, self.life, self.at, place.unwrap_or(0) as u64];
        let mut out = vec![self.dir.display().to_string()];
        out.extend(numbers.map(|number| number.to_string()));
        out.extend([mount, flags.to_string()]);
        out
    }

    fn parse(arguments: &[String]) -> Option<Task> {
        let [dir, seed, life, at, place, mount, flags] = arguments else {
            return None;
        };
        let spring = match mount.as_str() {
            "-" => Spring::Kill,
            mount => Spring::Cut(mount.into(), flags.parse().ok()?),
        };
        Some(Task {
            dir: dir.into(),
            seed: seed.parse().ok()?,
            life: life.parse().ok()?,
            at: at.parse().ok()?,
            place: *Place::ALL.get(place.parse::<usize>().ok()?)?,
            spring,
        })
    }
}

/// The options of a life of the database in `dir`.
pub(crate) fn scenario(dir: &Path) -> Scenario {
    Scenario::in_dir(dir, Mode::Threads)
}

/// The whole process.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let task = Task::parse(arguments).expect("the arguments of a writer");
    let out = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    let writer = Writer {
        life: Life::new(task.seed, task.life),
        out: File::from(out),
        done: Default::default(),
        newest: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    match writer.live(&task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("life {}: {error:?}", task.life);
            writer.say(Said::Failed);
            ExitCode::from(3)
        }
    }
}

struct Writer {
    life: Life,
    out: File,
    /// The last step of each thread that has returned.
    done: [AtomicU64; THREADS],
    /// The newest sequence number that has returned.
    newest: AtomicU64,
    stop: AtomicBool,
}

impl Writer {
    fn say(&self, said: Said) {
        // Nobody listens any more once the parent has died; then there is no reason to go on.
        if (&self.out).write_all(&said.bytes()).is_err() {
            std::process::exit(4);
        }
    }

    fn live(&self, task: &Task) -> Result<(), Error> {
        let scenario = scenario(&task.dir);
        let options_seed = self.life.options_seed();
        let spring = task.spring.clone();
        let trap = Arc::new(Trap {
            at: task.at,
            place: task.place,
            spring: Box::new(move || match &spring {
                Spring::Kill => sys::kill_self(),
                Spring::Cut(mount, flags) => sys::shut_down(mount, *flags).unwrap(),
            }),
            calls: AtomicU64::new(0),
        });
        let options = scenario
            .options(options_seed)
            .vfs(Arc::new(TrapVfs::new(trap)));
        let db = options.open(&task.dir)?;
        self.say(Said::Opened);
        let ends: Vec<Result<(), Error>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let mut hand = Hand {
                        writer: self,
                        db: db.clone(),
                        default: scenario.durability(options_seed),
                        thread,
                        spaces: Default::default(),
                        flying: VecDeque::new(),
                    };
                    scope.spawn(move || hand.work())
                })
                .collect();
            if let Some(time) = self.life.closes_after {
                thread::sleep(time);
                self.stop.store(true, Ordering::Relaxed);
            }
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        ends.into_iter().collect::<Result<(), Error>>()?;
        db.close()?;
        self.say(Said::Closed);
        Ok(())
    }
}

/// A thread of the writer.
struct Hand<'a> {
    writer: &'a Writer,
    db: Db,
    default: Durability,
    thread: usize,
    spaces: [Option<Keyspace>; SPACES],
    /// Submitted and not waited for: number, ticket, and whether the write is durable then.
    flying: VecDeque<(u64, Ticket, bool)>,
}

impl Hand<'_> {
    fn work(&mut self) -> Result<(), Error> {
        let result = self.steps();
        if result.is_err() {
            self.writer.stop.store(true, Ordering::Relaxed); // So that the others end, too.
        }
        result
    }

    fn steps(&mut self) -> Result<(), Error> {
        for number in 1.. {
            if self.writer.stop.load(Ordering::Relaxed) {
                break;
            }
            self.chore(number)?;
            let step = self.writer.life.step(self.thread, number);
            self.take(&step)?;
        }
        self.land(0)
    }

    fn take(&mut self, step: &Step) -> Result<(), Error> {
        match &step.act {
            Act::Batch {
                writes,
                durability,
                submit,
            } => {
                let mut batch = self.batch(step, writes)?;
                if let Some(durability) = durability {
                    batch.durability(*durability);
                }
                let durable = durability.unwrap_or(self.default) == Durability::Sync;
                if *submit {
                    let ticket = self.db.submit(batch)?;
                    self.flying.push_back((step.id.number, ticket, durable));
                    return self.land(WINDOW);
                }
                let seq = self.db.write(batch)?;
                self.done(step.id.number, seq.get(), durable)
            }
            Act::One(write) => {
                let key = steps::key(self.thread, write.slot);
                let space = self.space(write.space)?;
                let seq = match write.change {
                    Change::Put(value) => space.put(key, value.bytes()),
                    Change::PutExpiring(value, at_once) => {
                        space.put_expiring(key, value.bytes(), expiry(at_once))
                    }
                    Change::PutIfAbsent(value) => match space.put_if_absent(key, value.bytes())? {
                        Swap::Done(seq) => Ok(seq),
                        // It has written nothing; what it saw is older than it.
                        _ => Ok(SeqNo::ZERO),
                    },
                    Change::Merge(more) => space.merge(key, more.bytes()),
                    Change::Append(more) => space.append(key, more.bytes()),
                    Change::Delete => space.delete(key),
                    Change::DeleteTo(end) => space.delete_range(key..steps::key(self.thread, end)),
                }?;
                // The number of what wrote nothing is that of another write, which may not be
                // durable.
                let durable = self.default == Durability::Sync && !step.may_write_nothing();
                self.done(step.id.number, seq.get(), durable)
            }
            Act::Drop => {
                let name = steps::space_name(self.thread, SPACES - 1);
                self.space(SPACES - 1)?;
                self.db.drop_keyspace(&name)?;
                self.spaces[SPACES - 1] = None;
                self.done(step.id.number, 0, false)
            }
        }
    }

    fn space(&mut self, space: usize) -> Result<Keyspace, Error> {
        if let Some(found) = &self.spaces[space] {
            return Ok(found.clone());
        }
        let name = steps::space_name(self.thread, space);
        let made = self.db.keyspace(&name)?;
        let options = made.options();
        if options.merge_operator.is_none() {
            made.set_options(options.merge_operator(APPEND))?;
        }
        Ok(self.spaces[space].insert(made).clone())
    }

    /// The mark is the last entry but the first key of all, and its version is the batch's.
    fn batch(&mut self, step: &Step, writes: &[steps::Write]) -> Result<Batch, Error> {
        let seen = std::array::from_fn(|i| self.writer.done[i].load(Ordering::SeqCst));
        let mark = Mark { id: step.id, seen };
        let mut batch = Batch::new();
        for write in writes {
            let space = self.space(write.space)?;
            let key = steps::key(self.thread, write.slot);
            let mut space = batch.keyspace(&space);
            match write.change {
                Change::Put(value) | Change::PutIfAbsent(value) => space.put(key, value.bytes()),
                Change::PutExpiring(value, at_once) => {
                    space.put_expiring(key, value.bytes(), expiry(at_once))
                }
                Change::Merge(more) => space.merge(key, more.bytes()),
                Change::Append(more) => space.append(key, more.bytes()),
                Change::Delete => space.delete(key),
                Change::DeleteTo(end) => space.delete_range(key..steps::key(self.thread, end)),
            };
        }
        let mark_key = steps::mark_key(self.thread);
        batch
            .keyspace(&self.space(1)?)
            .put(HOT, [mark_key.as_bytes(), &mark.bytes()].concat());
        batch.keyspace(&self.space(0)?).put(mark_key, mark.bytes());
        Ok(batch)
    }

    /// Waits for submitted batches until at most `left` fly.
    fn land(&mut self, left: usize) -> Result<(), Error> {
        while self.flying.len() > left
            && let Some((number, ticket, durable)) = self.flying.pop_front()
        {
            let seq = ticket.wait()?.get();
            self.say_done(number, seq, durable);
        }
        Ok(())
    }

    /// A step has returned, and with it all that were submitted before.
    fn done(&mut self, number: u64, seq: u64, durable: bool) -> Result<(), Error> {
        self.land(0)?;
        self.say_done(number, seq, durable);
        Ok(())
    }

    fn say_done(&self, number: u64, seq: u64, durable: bool) {
        let (writer, thread) = (self.writer, self.thread);
        writer.newest.fetch_max(seq, Ordering::SeqCst);
        writer.done[thread].store(number, Ordering::SeqCst);
        writer.say(Said::Done {
            thread,
            number,
            seq,
        });
        if durable {
            writer.say(Said::Durable { seq });
        }
    }

    fn chore(&mut self, number: u64) -> Result<(), Error> {
        let newest = self.writer.newest.load(Ordering::SeqCst);
        match self.writer.life.chore(self.thread, number) {
            0..=5 => self.db.flush()?,
            6..=11 => self.db.sync()?,
            12..=13 => return self.db.compact(..),
            14 => return self.db.compact_all(),
            15 => return self.db.wait_idle(),
            _ => return Ok(()),
        }
        self.writer.say(Said::Durable { seq: newest });
        Ok(())
    }
}
