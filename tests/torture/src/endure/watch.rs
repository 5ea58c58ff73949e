//! Liveness: every call says when it starts and ends, and a watchdog ends the process if one takes too long
//!
//! Time is counted in ticks of the watchdog, not by the clock: on a machine that does not let the
//! watchdog run, no call gets older either. What the simulated disk adds is counted as well and
//! granted to each call. A call that is over its bound is printed with every other call under way,
//! the state of every thread as the kernel sees it and, with `TERRACE_GDB` set, their stacks; then
//! the process ends.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::rounds::locked;

/// The longest that a call on a few keys may take.
pub(crate) const SHORT: Duration = Duration::from_secs(10);
/// The longest that a call on the whole database may take: `close`, `flush`, `compact_all`,
/// `wait_idle`, an ingest and the like.
pub(crate) const WHOLE: Duration = Duration::from_secs(30);

const TICK: Duration = Duration::from_millis(100);

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Keys,
    Database,
}

impl Reach {
    pub(crate) fn bound(self) -> Duration {
        match self {
            Reach::Keys => SHORT,
            Reach::Database => WHOLE,
        }
    }
}

/// What a thread is in.
#[derive(Clone, Copy, Debug)]
struct Current {
    name: &'static str,
    reach: Reach,
    /// Ticks when it started.
    since: u64,
    /// What the disk had added by then, in microseconds.
    disk: u64,
}

/// One thread as the watchdog sees it.
#[derive(Debug)]
pub(crate) struct Slot {
    who: String,
    current: Mutex<Option<Current>>,
    /// The longest call so far, in microseconds less what the disk added, by name.
    slowest: Mutex<Vec<(&'static str, Reach, u64)>>,
}

/// The calls of all threads.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    slots: Mutex<Vec<Arc<Slot>>>,
    ticks: AtomicU64,
    /// What the simulated disk has added so far, in microseconds.
    disk: AtomicU64,
    calls: AtomicUsize,
}

impl Watch {
    /// A place for a thread that makes calls.
    pub(crate) fn slot(&self, who: String) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            who,
            current: Mutex::new(None),
            slowest: Mutex::default(),
        });
        locked(&self.slots).push(slot.clone());
        slot
    }

    /// Makes a call that the watchdog sees.
    pub(crate) fn call<T>(
        &self,
        slot: &Slot,
        name: &'static str,
        reach: Reach,
        call: impl FnOnce() -> T,
    ) -> T {
        let (since, disk) = (
            self.ticks.load(Ordering::Relaxed),
            self.disk.load(Ordering::Relaxed),
        );
        *locked(&slot.current) = Some(Current {
            name,
            reach,
            since,
            disk,
        });
        self.calls.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let result = call();
        let took = started.elapsed().as_micros() as u64;
        let added = self.disk.load(Ordering::Relaxed) - disk;
        let took = took.saturating_sub(added);
        *locked(&slot.current) = None;
        note(&mut locked(&slot.slowest), (name, reach, took));
        result
    }

    /// The simulated disk makes a call wait.
    pub(crate) fn disk_adds(&self, time: Duration) {
        self.disk
            .fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// What the simulated disk has added so far.
    pub(crate) fn disk_added(&self) -> Duration {
        Duration::from_micros(self.disk.load(Ordering::Relaxed))
    }

    /// How many calls were made.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed) as u64
    }

    /// The longest time that a call of each name took, in microseconds.
    pub(crate) fn slowest(&self) -> Vec<(&'static str, Reach, u64)> {
        let mut all = Vec::new();
        for slot in locked(&self.slots).iter() {
            for &call in locked(&slot.slowest).iter() {
                note(&mut all, call);
            }
        }
        all.sort_by_key(|(_, _, took)| std::cmp::Reverse(*took));
        all
    }

    /// Starts the watchdog, which ends the process by `fail` when a call is over its bound.
    pub(crate) fn start(self: &Arc<Watch>, fail: impl Fn(String) + Send + 'static) {
        let watch = self.clone();
        let run = move || {
            loop {
                thread::sleep(TICK);
                watch.ticks.fetch_add(1, Ordering::Relaxed);
                if let Some(what) = watch.late() {
                    fail(format!("{what}\n{}{}", watch.calls_now(), threads()));
                }
            }
        };
        let named = thread::Builder::new().name("endure-watch".into());
        named.spawn(run).expect("a watchdog");
    }

    fn age(&self, current: &Current) -> (Duration, Duration) {
        let ticks = self.ticks.load(Ordering::Relaxed) - current.since;
        let disk = self.disk.load(Ordering::Relaxed) - current.disk;
        (TICK * ticks as u32, Duration::from_micros(disk))
    }

    /// The first call that is over its bound.
    fn late(&self) -> Option<String> {
        let slots = locked(&self.slots);
        slots.iter().find_map(|slot| {
            let current = (*locked(&slot.current))?;
            let (age, disk) = self.age(&current);
            let bound = current.reach.bound();
            (age > bound + disk).then(|| {
                let who = &slot.who;
                format!(
                    "liveness: {who}: `{}` has not returned after {age:?} (bound {bound:?}, and {disk:?} of the disk)",
                    current.name
                )
            })
        })
    }

    fn calls_now(&self) -> String {
        let mut out = String::new();
        for slot in locked(&self.slots).iter() {
            let current = *locked(&slot.current);
            let line = match current {
                Some(current) => format!("in `{}` for {:?}", current.name, self.age(&current).0),
                None => "in no call".to_owned(),
            };
            out += &format!("  {}: {line}\n", slot.who);
        }
        out
    }
}

/// Notes a call if it is the longest of its name.
fn note(calls: &mut Vec<(&'static str, Reach, u64)>, call: (&'static str, Reach, u64)) {
    match calls.iter_mut().find(|(name, ..)| *name == call.0) {
        Some((_, _, most)) => *most = call.2.max(*most),
        None => calls.push(call),
    }
}

/// The state of every thread of this process as the kernel sees it.
pub(crate) fn threads() -> String {
    let mut out = String::new();
    for task in tasks() {
        let read = |file: &str| {
            let text = std::fs::read_to_string(task.join(file)).unwrap_or_default();
            text.trim().to_owned()
        };
        let status = read("status");
        let field = |name: &str| {
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let stack: Vec<String> = read("stack")
            .lines()
            .take(4)
            .map(|line| line.trim_start_matches("[<0>] ").to_owned())
            .collect();
        out += &format!(
            "  thread {} {}: {}, in {}, switches {}+{}, stack {}\n",
            task.file_name().unwrap_or_default().display(),
            read("comm"),
            field("State:"),
            read("wchan"),
            field("voluntary_ctxt_switches:"),
            field("nonvoluntary_ctxt_switches:"),
            stack.join(" < "),
        );
    }
    if std::env::var_os("TERRACE_GDB").is_some() {
        out += &stacks();
    }
    out
}

/// The threads of this process below `/proc`.
pub(crate) fn tasks() -> Vec<std::path::PathBuf> {
    let dir = std::fs::read_dir(Path::new("/proc/self/task"));
    let mut tasks: Vec<_> = dir
        .into_iter()
        .flatten()
        .flatten()
        .map(|task| task.path())
        .collect();
    tasks.sort();
    tasks
}

fn stacks() -> String {
    let gdb = std::process::Command::new("gdb")
        .args(["-p", &std::process::id().to_string(), "-batch"])
        .args(["-ex", "thread apply all backtrace 14"])
        .output();
    gdb.map_or_else(
        |error| format!("gdb: {error}\n"),
        |run| String::from_utf8_lossy(&run.stdout).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that never returns is named, with its age and its thread.
    #[test]
    fn a_call_over_its_bound_is_named() {
        let watch = Watch::default();
        let slot = watch.slot("writer 7".into());
        watch.call(&slot, "put", Reach::Keys, || {
            let ticks = |time: Duration| (time.as_millis() / TICK.as_millis()) as u64;
            watch.ticks.fetch_add(ticks(SHORT), Ordering::Relaxed);
            assert_eq!(watch.late(), None);
            watch.disk_adds(Duration::from_secs(5));
            watch.ticks.fetch_add(50, Ordering::Relaxed);
            assert_eq!(watch.late(), None, "what the disk adds is granted");
            watch.ticks.fetch_add(1, Ordering::Relaxed);
            let late = watch.late().unwrap();
            assert!(
                late.contains("writer 7") && late.contains("`put`"),
                "{late}"
            );
        });
        assert_eq!(watch.late(), None);
        assert_eq!(watch.slowest().len(), 1);
        assert!(threads().contains("thread"));
    }
}
