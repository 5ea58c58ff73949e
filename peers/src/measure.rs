//! Clocks and counters.

use crate::Result;
use crate::stats::Histogram;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One operation of so many has its own time taken, so that the clock costs 2 ns an operation.
pub const SAMPLE: usize = 16;

/// What a loop took.
#[derive(Debug, Default)]
pub struct Timed {
    pub ops: usize,
    pub elapsed: Duration,
    pub latency: Histogram,
}

/// Runs `op(0)` to `op(count - 1)`. The whole is timed by two clock readings; within, the first
/// operation of each group of 16 is timed, and the longest group is noted, so that no stall hides.
#[inline]
pub fn run(count: usize, mut op: impl FnMut(usize) -> Result<()>) -> Result<Timed> {
    let mut latency = Histogram::default();
    let start = Instant::now();
    let mut group_start = start;
    for first in (0..count).step_by(SAMPLE) {
        op(first)?;
        let sampled = Instant::now();
        latency.add((sampled - group_start).as_nanos() as u64);
        for i in first + 1..(first + SAMPLE).min(count) {
            op(i)?;
        }
        let now = Instant::now();
        latency.note_max((now - group_start).as_nanos() as u64);
        group_start = now;
    }
    let elapsed = group_start - start;
    Ok(Timed {
        ops: count,
        elapsed,
        latency,
    })
}

/// Runs groups of 16 until told to stop.
#[inline]
pub fn run_until(stop: &AtomicBool, mut op: impl FnMut(usize) -> Result<()>) -> Result<Timed> {
    let mut latency = Histogram::default();
    let start = Instant::now();
    let mut group_start = start;
    let mut ops = 0;
    while !stop.load(Ordering::Relaxed) {
        op(ops)?;
        let sampled = Instant::now();
        latency.add((sampled - group_start).as_nanos() as u64);
        for i in ops + 1..ops + SAMPLE {
            op(i)?;
        }
        let now = Instant::now();
        latency.note_max((now - group_start).as_nanos() as u64);
        group_start = now;
        ops += SAMPLE;
    }
    Ok(Timed {
        ops,
        elapsed: group_start - start,
        latency,
    })
}

/// Runs until told to stop, with the time of each operation: for those that take microseconds.
pub fn run_each_until(stop: &AtomicBool, mut op: impl FnMut(usize) -> Result<()>) -> Result<Timed> {
    let mut timed = Timed::default();
    let start = Instant::now();
    let mut last = start;
    while !stop.load(Ordering::Relaxed) {
        op(timed.ops)?;
        let now = Instant::now();
        timed.latency.add((now - last).as_nanos() as u64);
        last = now;
        timed.ops += 1;
    }
    timed.elapsed = last - start;
    Ok(timed)
}

/// Seconds of processor time of all threads of this process, user and system.
pub fn cpu_seconds() -> f64 {
    rusage_seconds(libc::RUSAGE_SELF)
}

fn rusage_seconds(who: libc::c_int) -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole rusage, which the call fills; zeroes are a valid one.
    let usage = unsafe {
        libc::getrusage(who, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Seconds that all processors of the machine were busy since it started.
fn machine_busy_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut fields = stat.lines().next().unwrap_or_default().split_whitespace();
    fields.next();
    let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy: f64 = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|i| ticks.get(*i))
        .sum();
    // SAFETY: no arguments that could be wrong.
    busy / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

/// Bytes that this process has caused to be written to the device, stores through maps included.
pub fn written_bytes() -> u64 {
    proc_field("/proc/self/io", "write_bytes:")
}

/// Anonymous resident memory in bytes.
fn rss_anon() -> u64 {
    proc_field("/proc/self/status", "RssAnon:") * 1024
}

fn proc_field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let field = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    field.unwrap_or(0)
}

/// Watches the anonymous memory of the process from a thread of its own.
#[derive(Debug)]
pub struct MemoryWatch {
    base: u64,
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// Begins; what is resident now is not counted.
    pub fn start() -> MemoryWatch {
        let peak = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let base = rss_anon();
        let (peak_in, stop_in) = (Arc::clone(&peak), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stop_in.load(Ordering::Relaxed) {
                peak_in.fetch_max(rss_anon(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        MemoryWatch {
            base,
            peak,
            stop,
            thread: Some(thread),
        }
    }

    /// The most that was resident beyond the beginning.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).saturating_sub(self.base)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Bytes that the files of a directory take on disk: a hole counts nothing, space taken ahead counts.
pub fn disk_bytes(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() {
            disk_bytes(&entry.path())?
        } else {
            meta.blocks() * 512
        };
    }
    Ok(sum)
}

/// How busy the machine was with other work than ours since a moment.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    start: Instant,
    machine: f64,
    ours: f64,
}

impl Noise {
    pub fn now() -> Noise {
        Noise {
            start: Instant::now(),
            machine: machine_busy_seconds(),
            ours: rusage_seconds(libc::RUSAGE_SELF) + rusage_seconds(libc::RUSAGE_CHILDREN),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Percent of all processors that others used, the kernel's own threads included.
    pub fn percent(&self) -> f64 {
        let now = Noise::now();
        let busy = (now.machine - self.machine) - (now.ours - self.ours);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let all = (now.start - self.start).as_secs_f64() * processors as f64;
        (100.0 * busy / all).clamp(0.0, 100.0)
    }
}

/// Waits until nobody uses more than a tenth of the machine for half a second, or until it is tired.
pub fn wait_for_quiet(patience: Duration) {
    let start = Instant::now();
    while start.elapsed() < patience {
        let noise = Noise::now();
        std::thread::sleep(Duration::from_millis(500));
        if noise.percent() < 10.0 {
            return;
        }
    }
}

/// Writes back what earlier work left dirty, and lets the machine rest.
pub fn calm(pause: Duration) {
    // SAFETY: no arguments that could be wrong.
    unsafe { libc::sync() };
    std::thread::sleep(pause);
}
