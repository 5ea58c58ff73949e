//! The life of an engine in one child process, from the first write to the reopening.
//!
//! The rows follow each other as below, so that each engine meets a row in a comparable state.
//! Every read is checked: it must find what exists, must not find what does not, and one in 64 is
//! compared with the value that was written. A wrong answer ends the child with an error.

use crate::Result;
use crate::engines::{Durability, Engine, Reader, Settle};
use crate::job::{Job, Role, Row};
use crate::measure::{self, MemoryWatch, Noise, SAMPLE, Timed};
use crate::stats::Histogram;
use crate::workload::{Workload, key};
use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

mod rmw;

/// Pairs of a batch in fillbatch.
const BATCH: usize = 1000;
/// Entries that a seek goes on to read.
const NEXTS: usize = 10;
/// One read of so many is compared with what was written.
const COMPARE: usize = 64;

/// Generations of values: what fillrandom writes, what overwrite writes, and what comes after.
const FIRST: u32 = 0;
const SECOND: u32 = 1;
const THIRD: u32 = 2;

/// Does the work of one child.
pub fn run<E: Engine>(job: &Job) -> Result<()> {
    match job.role {
        Role::Measure => Life::<E>::new(job).measure(),
        Role::Die => die::<E>(job),
    }
}

struct Life<'j, E> {
    job: &'j Job,
    work: Workload,
    /// Since the row before, and its share.
    noise: Cell<(Noise, f64)>,
    engine: std::marker::PhantomData<E>,
}

impl<'j, E: Engine> Life<'j, E> {
    fn new(job: &'j Job) -> Life<'j, E> {
        Life {
            job,
            work: Workload::new(job.keys, job.value),
            noise: Cell::new((Noise::now(), 0.0)),
            engine: std::marker::PhantomData,
        }
    }

    fn measure(&mut self) -> Result<()> {
        if self.job.wants("fillseq") {
            self.fillseq()?;
        }
        if self.job.wants("fillbatch") {
            self.fillbatch()?;
        }
        let rest = [
            "fillseq",
            "fillbatch",
            "fillsync 1",
            "fillsync 8",
            "fillsync 64",
        ];
        let apart = |row: &str| rest.contains(&row) || row == "reopen killed" || row == "rmw";
        let mut rows = crate::job::ROWS.iter().map(|(row, _)| row);
        if rows.any(|row| !apart(row) && self.job.wants(row)) {
            self.main_database()?;
        }
        if self.job.wants("reopen killed") {
            self.reopen_killed()?;
        }
        if self.job.wants("rmw") {
            self.rmw()?;
        }
        for threads in [1, 8, 64] {
            if self.job.wants(&format!("fillsync {threads}")) {
                self.fillsync(threads)?;
            }
        }
        Ok(())
    }

    /// A fresh directory, after a rest.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        measure::calm(self.job.pause() / 2);
        let dir = self.job.dir.join(name);
        fs::create_dir(&dir)?;
        self.noise.set((Noise::now(), 0.0));
        Ok(dir)
    }

    fn open(&self, dir: &Path, durability: Durability) -> Result<E> {
        E::open(dir, &self.job.config(durability))
    }

    /// Percent of the machine that others used since the row before. A row that was measured together
    /// with that one shares its figure.
    fn foreign(&self) -> f64 {
        let (since, mut percent) = self.noise.get();
        if since.elapsed() > Duration::from_millis(100) {
            percent = since.percent();
            self.noise.set((Noise::now(), percent));
        }
        percent
    }

    fn report(&self, row: &str, value: f64, latency: Option<&Histogram>) -> Result<()> {
        let foreign = self.foreign();
        if !self.job.wants(row) {
            return Ok(());
        }
        let row = Row {
            row: row.into(),
            value,
            latency: latency.map(Histogram::latency),
            foreign,
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&row)?)?;
        Ok(out.flush()?)
    }

    fn report_rate(&self, row: &str, timed: &Timed) -> Result<()> {
        let rate = timed.ops as f64 / timed.elapsed.as_secs_f64();
        self.report(row, rate, Some(&timed.latency))
    }

    fn fillseq(&mut self) -> Result<()> {
        let dir = self.fresh("fillseq")?;
        self.work.ascending();
        let (engine, work) = (self.open(&dir, Durability::Buffered)?, &self.work);
        let timed = measure::run(work.keys.len(), |i| {
            engine.put_ascending(&work.keys[i], work.value(work.order[i], FIRST))
        })?;
        self.report_rate("fillseq", &timed)?;
        engine.close()?;
        Ok(fs::remove_dir_all(dir)?)
    }

    fn fillbatch(&mut self) -> Result<()> {
        let dir = self.fresh("fillbatch")?;
        self.work.in_order_of_number();
        let (engine, work) = (self.open(&dir, Durability::Buffered)?, &self.work);
        let mut latency = Histogram::default();
        let start = Instant::now();
        let mut last = start;
        for first in (0..work.keys.len()).step_by(BATCH) {
            let range = first..(first + BATCH).min(work.keys.len());
            engine.put_batch(
                range.map(|i| (work.keys[i].as_slice(), work.value(work.order[i], FIRST))),
            )?;
            let now = Instant::now();
            latency.add((now - last).as_nanos() as u64);
            last = now;
        }
        let rate = work.keys.len() as f64 / (last - start).as_secs_f64();
        self.report("fillbatch", rate, Some(&latency))?;
        engine.close()?;
        Ok(fs::remove_dir_all(dir)?)
    }

    /// The database that most rows share.
    fn main_database(&mut self) -> Result<()> {
        let dir = self.fresh("main")?;
        let memory = MemoryWatch::start();
        let engine = self.open(&dir, Durability::Buffered)?;
        let written = measure::written_bytes();
        self.write_rows(&engine)?;
        self.settle(&engine)?;
        measure::calm(Duration::ZERO);
        let written = measure::written_bytes() - written;
        self.report("written bytes", written as f64, None)?;
        self.report("disk bytes", engine.disk_bytes(&dir)? as f64, None)?;
        self.read_rows(&engine)?;
        if self.job.wants("readwhilewriting") || self.job.wants("writewhilereading") {
            self.read_while_writing(&engine)?;
        }
        self.report("peak rss anon", memory.peak() as f64, None)?;
        drop(memory);
        self.reopen_clean(engine, &dir)?;
        Ok(fs::remove_dir_all(dir)?)
    }

    fn write_rows(&mut self, engine: &E) -> Result<()> {
        self.work.in_order_of_number();
        let timed = self.put_all(engine, FIRST)?;
        self.report_rate("fillrandom", &timed)?;

        self.work.shuffled(self.job.seed ^ 0x6f76_6572);
        let cpu = measure::cpu_seconds();
        let timed = self.put_all(engine, SECOND)?;
        let cpu = measure::cpu_seconds() - cpu;
        self.report_rate("overwrite", &timed)?;
        self.report("overwrite cpu", cpu, None)
    }

    fn put_all(&self, engine: &E, generation: u32) -> Result<Timed> {
        let work = &self.work;
        measure::run(work.keys.len(), |i| {
            engine.put(&work.keys[i], work.value(work.order[i], generation))
        })
    }

    fn settle(&self, engine: &E) -> Result<()> {
        let cpu = measure::cpu_seconds();
        let start = Instant::now();
        if let Some(watching) = engine.wait_idle()? {
            let took = start.elapsed().saturating_sub(watching);
            self.report("settle", took.as_secs_f64(), None)?;
            self.report("settle cpu", measure::cpu_seconds() - cpu, None)?;
        }
        if !self.compacts() {
            return Ok(());
        }
        let start = Instant::now();
        if let Some(watching) = engine.compact()? {
            let took = start.elapsed().saturating_sub(watching);
            self.report("compact", took.as_secs_f64(), None)?;
        }
        Ok(())
    }

    /// Whether this engine is compacted before it is read.
    fn compacts(&self) -> bool {
        match self.job.settle {
            Settle::Idle => false,
            Settle::Peers => E::COMPACT_TO_READ,
            Settle::Full => true,
        }
    }

    /// All is read once, unmeasured, by a scan and by gets: pages are mapped and caches are warm for everyone.
    fn warm(&mut self, reader: &mut E::Reader<'_>, generation: u32) -> Result<()> {
        let mut sum = Checksum::default();
        let count = reader.scan(|key, value| sum.add(key, value))?;
        expect_count::<E>("warming scan", count, self.job.keys)?;
        self.work.shuffled(self.job.seed ^ 0x7761_726d);
        self.get_rows(reader, self.job.keys / 2, generation)?;
        Ok(())
    }

    /// The reads of a database at rest.
    fn read_rows(&mut self, engine: &E) -> Result<()> {
        let seed = self.job.seed;
        let mut reader = engine.reader()?;
        self.warm(&mut reader, SECOND)?;

        self.scan_row("readseq", &mut reader, false)?;
        self.scan_row("readreverse", &mut reader, true)?;

        self.work.shuffled(seed ^ 0x7265_6164);
        let timed = self.get_rows(&mut reader, self.job.keys, SECOND)?;
        self.report_rate("readrandom", &timed)?;

        self.work.missing(seed ^ 0x6d69_7373);
        let timed = self.missing_row(&mut reader)?;
        self.report_rate("readmissing", &timed)?;

        self.work.zipfian(seed ^ 0x686f_7421);
        let timed = self.get_rows(&mut reader, self.job.keys, SECOND)?;
        self.report_rate("readhot", &timed)?;

        self.work.shuffled(seed ^ 0x7365_656b);
        let timed = self.seek_row(&mut reader)?;
        self.report_rate("seekrandom", &timed)
    }

    fn scan_row(&self, row: &str, reader: &mut E::Reader<'_>, back: bool) -> Result<()> {
        let mut sum = Checksum::default();
        let start = Instant::now();
        let count = if back {
            reader.scan_back(|key, value| sum.add(key, value))?
        } else {
            reader.scan(|key, value| sum.add(key, value))?
        };
        let elapsed = start.elapsed();
        expect_count::<E>(row, count, self.job.keys)?;
        std::hint::black_box(sum);
        self.report(row, count as f64 / elapsed.as_secs_f64(), None)
    }

    /// Gets the first `count` keys of the order.
    fn get_rows(&self, reader: &mut E::Reader<'_>, count: usize, generation: u32) -> Result<Timed> {
        let work = &self.work;
        let mut sum = Checksum::default();
        let timed = measure::run(count, |i| {
            let key = &work.keys[i];
            if i % COMPARE == SAMPLE / 2 {
                let wanted = work.value(work.order[i], generation);
                return compare::<E>(reader, key, &[wanted]);
            }
            if !reader.get(key, |value| sum.add(key, value))? {
                return Err(format!("key {key:x?} is gone").into());
            }
            Ok(())
        });
        std::hint::black_box(sum);
        timed
    }

    fn missing_row(&self, reader: &mut E::Reader<'_>) -> Result<Timed> {
        let work = &self.work;
        measure::run(work.keys.len(), |i| {
            let key = &work.keys[i];
            if reader.get(key, touch)? && E::REAL {
                return Err(format!("key {key:x?} was never written").into());
            }
            Ok(())
        })
    }

    fn seek_row(&self, reader: &mut E::Reader<'_>) -> Result<Timed> {
        let work = &self.work;
        let mut sum = Checksum::default();
        let timed = measure::run(work.keys.len() / 4, |i| {
            let key = &work.keys[i];
            let mut first = None;
            let count = reader.seek(key, NEXTS, |found, value| {
                sum.add(found, value);
                first.get_or_insert_with(|| found.first_chunk() == Some(key));
            })?;
            if count == 0 || first != Some(true) {
                return Err(format!("a seek to key {key:x?} missed it").into());
            }
            Ok(())
        });
        std::hint::black_box(sum);
        timed
    }

    /// One writer at full speed beside one reader, for a fixed time.
    fn read_while_writing(&mut self, engine: &E) -> Result<()> {
        self.work.shuffled(self.job.seed ^ 0x6265_7369);
        let work = &self.work;
        let n = work.keys.len();
        let stop = AtomicBool::new(false);
        let (reads, writes) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                measure::run_until(&stop, |i| {
                    let at = (i + n / 2) % n;
                    engine.put(&work.keys[at], work.value(work.order[at], THIRD))
                })
            });
            let reader = scope.spawn(|| {
                let mut reader = engine.reader()?;
                let mut sum = Checksum::default();
                measure::run_until(&stop, |i| {
                    let at = i % n;
                    let key = &work.keys[at];
                    if i % COMPARE == SAMPLE / 2 {
                        reader.refresh()?;
                        let i = work.order[at];
                        let wanted = [work.value(i, SECOND), work.value(i, THIRD)];
                        return compare::<E>(&mut reader, key, &wanted);
                    }
                    if !reader.get(key, |value| sum.add(key, value))? {
                        return Err(format!("key {key:x?} is gone").into());
                    }
                    Ok(())
                })
            });
            std::thread::sleep(Duration::from_millis(self.job.mixed_ms));
            stop.store(true, Ordering::Relaxed);
            (reader.join(), writer.join())
        });
        let panicked = |_| "a thread panicked";
        self.report_rate("readwhilewriting", &reads.map_err(panicked)??)?;
        self.report_rate("writewhilereading", &writes.map_err(panicked)??)
    }

    fn reopen_clean(&self, engine: E, dir: &Path) -> Result<()> {
        let start = Instant::now();
        engine.close()?;
        self.report("close", start.elapsed().as_secs_f64(), None)?;
        if !self.job.wants("reopen clean") {
            return Ok(());
        }
        measure::calm(self.job.pause() / 4);
        let (engine, took) = self.time_open(dir)?;
        self.report("reopen clean", took.as_secs_f64(), None)?;
        engine.close()
    }

    /// Opens and reads one key.
    fn time_open(&self, dir: &Path) -> Result<(E, Duration)> {
        let start = Instant::now();
        let engine = self.open(dir, Durability::Buffered)?;
        let found = engine.reader()?.get(&key(0), touch)?;
        let took = start.elapsed();
        if !found {
            return Err("the first key is gone after the reopening".into());
        }
        Ok((engine, took))
    }

    /// Opens what a killed process left behind, and looks that nothing is missing.
    fn reopen_killed(&mut self) -> Result<()> {
        let dir = self.fresh("killed")?;
        let job = Job {
            role: Role::Die,
            dir: dir.clone(),
            ..self.job.clone()
        };
        let status = Command::new(std::env::current_exe()?)
            .args(["--job", &serde_json::to_string(&job)?])
            .status()?;
        if std::os::unix::process::ExitStatusExt::signal(&status) != Some(libc::SIGKILL) {
            return Err(format!("the writer was to be killed, but ended with {status}").into());
        }
        measure::calm(Duration::ZERO);
        let (engine, took) = self.time_open(&dir)?;
        self.report("reopen killed", took.as_secs_f64(), None)?;
        self.work.in_order_of_number();
        let mut reader = engine.reader()?;
        self.get_rows(&mut reader, self.job.keys / 4, FIRST)?;
        drop(reader);
        engine.close()?;
        Ok(fs::remove_dir_all(dir)?)
    }

    /// Some threads write for a fixed time, each write durable before it returns.
    fn fillsync(&mut self, threads: usize) -> Result<()> {
        let dir = self.fresh(&format!("fillsync-{threads}"))?;
        self.work.in_order_of_number();
        let engine = self.open(&dir, Durability::Sync)?;
        let work = &self.work;
        let stop = AtomicBool::new(false);
        let barrier = Barrier::new(threads + 1);
        let share = (work.keys.len() / threads).max(1);
        let parts: Result<Vec<Timed>> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..threads)
                .map(|thread| {
                    let (engine, stop, barrier) = (&engine, &stop, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        measure::run_each_until(stop, |i| {
                            let at = (thread * share + i % share) % work.keys.len();
                            engine.put(&work.keys[at], work.value(work.order[at], FIRST))
                        })
                    })
                })
                .collect();
            barrier.wait();
            std::thread::sleep(Duration::from_millis(self.job.sync_ms));
            stop.store(true, Ordering::Relaxed);
            let parts = writers.into_iter();
            parts
                .map(|part| part.join().map_err(|_| "a thread panicked")?)
                .collect()
        });
        let mut all = Timed::default();
        for part in parts? {
            all.ops += part.ops;
            all.elapsed = all.elapsed.max(part.elapsed);
            all.latency.merge(&part.latency);
        }
        self.report_rate(&format!("fillsync {threads}"), &all)?;
        engine.close()?;
        Ok(fs::remove_dir_all(dir)?)
    }
}

/// Writes a quarter of the keys as fillrandom does, and is killed.
fn die<E: Engine>(job: &Job) -> Result<()> {
    let mut work = Workload::new(job.keys, job.value);
    work.in_order_of_number();
    let engine = E::open(&job.dir, &job.config(Durability::Buffered))?;
    for i in 0..job.keys / 4 {
        engine.put(&work.keys[i], work.value(work.order[i], FIRST))?;
    }
    // SAFETY: a signal to ourselves.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    Err("still alive".into())
}

/// Touches what was read, so that nothing of it is optimised away.
#[derive(Clone, Copy, Debug, Default)]
struct Checksum(u64);

impl Checksum {
    /// The first eight bytes of the value and its last, and the last of the key.
    #[inline]
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let head = value
            .first_chunk()
            .map_or(0, |head| u64::from_le_bytes(*head));
        let tail = value.last().copied().unwrap_or(0);
        let key = key.last().copied().unwrap_or(0);
        self.0 = self
            .0
            .wrapping_add(head ^ u64::from(tail) ^ u64::from(key) << 8);
    }
}

/// For rows that want no sum.
fn touch(value: &[u8]) {
    std::hint::black_box(value.first().copied());
}

/// Gets a key whose value must be one of those wanted.
fn compare<E: Engine>(reader: &mut E::Reader<'_>, key: &[u8], wanted: &[&[u8]]) -> Result<()> {
    let mut right = false;
    let found = reader.get(key, |value| right = wanted.contains(&value))?;
    if !found || (E::REAL && !right) {
        let what = if found {
            "has a wrong value"
        } else {
            "is gone"
        };
        return Err(format!("key {key:x?} {what}").into());
    }
    Ok(())
}

fn expect_count<E: Engine>(what: &str, count: usize, keys: usize) -> Result<()> {
    if E::REAL && count != keys {
        return Err(format!("{what} saw {count} entries of {keys}").into());
    }
    Ok(())
}
