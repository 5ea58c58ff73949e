//! Figures of a database under load: faults that endurance tests found once, measured again
//!
//! ```text
//! cargo bench --features testing --bench endurance                # all, about four minutes
//! cargo bench --features testing --bench endurance -- tombstones  # those with the word in the name
//! ```
//!
//! Each line says what was done, what was measured when the fault was found, on two cores, and what
//! is measured now. The databases lie on disk, in a temporary directory. Times depend on the
//! machine; the point is the order of magnitude.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A failure ends the bench.

use std::collections::VecDeque;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use terrace::{Batch, Compression, Db, Durability, KeyspaceOptions, Options};
use terrace_base::hash::seeded;

const MIB: f64 = (1 << 20) as f64;

/// One figure.
struct Figure {
    name: &'static str,
    what: &'static str,
    at_first: &'static str,
    /// Measures it in an empty directory.
    run: fn(&Path) -> String,
}

const FIGURES: &[Figure] = &[
    Figure {
        name: "memory-wall",
        what: "16 writers, memory 4 MiB, 5 s: longest pause of all writers",
        at_first: "all stop within 1.2 s",
        run: memory_wall,
    },
    Figure {
        name: "many-writers",
        what: "64 writers of 100 bytes, memory 4 MiB, 10 s: longest put",
        at_first: "29 hang",
        run: many_writers,
    },
    Figure {
        name: "compact-all",
        what: "compact_all of 22 MB beside a writer",
        at_first: "never returns",
        run: compact_all,
    },
    Figure {
        name: "ticket",
        what: "submit after a sync has begun, longest of 20 waits without a caller",
        at_first: "1.02 s",
        run: ticket,
    },
    Figure {
        name: "large-transaction",
        what: "commit after 200 K reads, beside a writer that flushes: commit; longest put",
        at_first: "never returns",
        run: large_transaction,
    },
    Figure {
        name: "idle-databases",
        what: "500 idle databases: share of a core, threads",
        at_first: "9.8 %, 1,500",
        run: idle_databases,
    },
    Figure {
        name: "close",
        what: "close after 10 s of random puts by 8 threads, 8 more of them busy: longest of 5",
        at_first: "5.5 s",
        run: close,
    },
    Figure {
        name: "obsolete-files",
        what: "random puts over 10 M keys for 20 s: table files, tables",
        at_first: "3,846 MB, 1,133 MB",
        run: obsolete_files,
    },
    Figure {
        name: "blob-files",
        what: "500 values of 64 KiB overwritten for 15 s: blob files at most (31 MiB live)",
        at_first: "1,028 MiB",
        run: blob_files,
    },
    Figure {
        name: "log",
        what: "100 keys of 1 KB overwritten for 1.2 s: log at the end; the next open",
        at_first: "728 to 975 MB",
        run: log,
    },
    Figure {
        name: "short-lives",
        what: "open, one put, drop, 2,000 times: files, bytes; first and last 50 opens",
        at_first: "2,003 files, 556 MiB; 9 and 98 ms each",
        run: short_lives,
    },
    Figure {
        name: "range-delete-batch",
        what: "a batch of 8,000 range deletes",
        at_first: "5.9 s",
        run: range_delete_batch,
    },
    Figure {
        name: "range-delete-scan",
        what: "scan of 3 entries beside 20,000 range deletes",
        at_first: "2.0 ms",
        run: range_delete_scan,
    },
    Figure {
        name: "range-delete-transaction",
        what: "1,000 deletes of ..cutoff in a transaction with a savepoint",
        at_first: "not done",
        run: range_delete_transaction,
    },
    Figure {
        name: "appends",
        what: "a batch of 2,500 appends of 50 bytes to one key: time, log",
        at_first: "1.2 GB of memory",
        run: appends,
    },
    Figure {
        name: "keyspaces",
        what: "4,000 keyspaces with options: open",
        at_first: "1.05 s",
        run: keyspaces,
    },
    Figure {
        name: "ingest-numbers",
        what: "sequence numbers that an ingest of 1 entry takes",
        at_first: "4,294,967,296",
        run: ingest_numbers,
    },
    Figure {
        name: "packed-miss",
        what: "get of an absent key, tables that LZ4 packs 20:1",
        at_first: "5.1 us",
        run: packed_miss,
    },
    Figure {
        name: "idle-merges",
        what: "504 bytes into a settled database of 60 MB, 15 s idle: bytes compacted",
        at_first: "59 MB, three times",
        run: idle_merges,
    },
    Figure {
        name: "tombstones",
        what: "1 M keys put and deleted: two walks, 98 more; bytes on disk after 10 s idle",
        at_first: "113 ms each; 128 MiB",
        run: tombstones,
    },
    Figure {
        name: "queue",
        what: "a queue of 300 K by `first` and `delete`",
        at_first: "not done in 170 s",
        run: queue,
    },
];

fn main() {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    for figure in FIGURES {
        if wanted
            .as_ref()
            .is_some_and(|word| !figure.name.contains(word))
        {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let now = (figure.run)(&dir.path().join("db"));
        println!("{:<26} {}", figure.name, figure.what);
        println!("{:26} at first {}; now {now}", "", figure.at_first);
    }
}

fn options(memory: u64) -> Options {
    Options::new()
        .durability(Durability::Buffered)
        .memory(memory)
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = work();
    (value, start.elapsed())
}

/// Numbers in no order.
fn mixed(n: u64) -> u64 {
    seeded(n, 7)
}

/// Bytes of the files whose name ends so, as the disk holds them, and how many there are.
fn files(dir: &Path, ending: &str) -> (f64, usize) {
    let names = fs::read_dir(dir).unwrap().flatten();
    let wanted = names.filter(|name| name.file_name().to_string_lossy().ends_with(ending));
    let sizes = wanted.filter_map(|entry| Some(entry.metadata().ok()?.len()));
    sizes.fold((0.0, 0), |(bytes, n), size| (bytes + size as f64, n + 1))
}

/// Runs `threads` writers of `value` bytes over `keys` keys for `time`; the longest time between
/// two puts of the database, and the longest put.
fn load(db: &Db, threads: u64, value: usize, keys: u64, time: Duration) -> (Duration, Duration) {
    let done = AtomicBool::new(false);
    let (puts, longest) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut pause = Duration::ZERO;
    thread::scope(|scope| {
        for writer in 0..threads {
            let (done, puts, longest) = (&done, &puts, &longest);
            scope.spawn(move || {
                for i in 0.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = mixed(i * threads + writer) % keys;
                    let value = vec![i as u8; value];
                    let ((), took) = timed(|| ignore(db.put(key.to_be_bytes(), value)));
                    longest.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
                    puts.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let start = Instant::now();
        let (mut seen, mut since) = (0, start);
        while start.elapsed() < time {
            thread::sleep(Duration::from_millis(5));
            let now = puts.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            pause = pause.max(since.elapsed());
        }
        done.store(true, Ordering::Relaxed);
    });
    (pause, Duration::from_micros(longest.into_inner()))
}

fn ignore<T>(result: terrace::Result<T>) {
    result.unwrap();
}

fn memory_wall(dir: &Path) -> String {
    let db = options(4 << 20).open(dir).unwrap();
    ms(load(&db, 16, 300, u64::MAX, Duration::from_secs(5)).0)
}

fn many_writers(dir: &Path) -> String {
    let db = options(4 << 20).open(dir).unwrap();
    ms(load(&db, 64, 100, u64::MAX, Duration::from_secs(10)).1)
}

fn compact_all(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    for i in 0..200_000u64 {
        db.put(i.to_be_bytes(), [i as u8; 100]).unwrap();
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                db.put((mixed(i) % 200_000).to_be_bytes(), [7; 100])
                    .unwrap();
            }
        });
        thread::sleep(Duration::from_secs(1));
        let (compacted, took) = timed(|| db.compact_all());
        done.store(true, Ordering::Relaxed);
        compacted.unwrap();
        ms(took)
    })
}

fn ticket(dir: &Path) -> String {
    let db = Options::new().open(dir).unwrap();
    let mut longest = Duration::ZERO;
    for i in 0..20u8 {
        let submit = |key: &str| {
            let mut batch = Batch::new();
            batch.put(key, [i]);
            db.submit(batch).unwrap()
        };
        let first = submit("first");
        thread::spawn(move || first.wait());
        thread::sleep(Duration::from_micros(200)); // So that the sync has begun.
        let second = submit("second");
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        let mut second = std::pin::pin!(second);
        let ((), took) = timed(|| {
            // A future that is only polled leads no sync itself.
            while Future::poll(second.as_mut(), &mut context).is_pending() {
                thread::sleep(Duration::from_micros(100));
            }
        });
        longest = longest.max(took);
    }
    ms(longest)
}

fn large_transaction(dir: &Path) -> String {
    const KEYS: u32 = 200_000;
    let db = options(4 << 20).open(dir).unwrap();
    for i in 0..KEYS {
        db.put(i.to_be_bytes(), "1").unwrap();
    }
    let others = db.keyspace("others").unwrap();
    let (done, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0u64.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let ((), took) = timed(|| ignore(others.put(i.to_be_bytes(), [7; 100])));
                longest.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
                if i % 1_000 == 0 {
                    db.flush().unwrap();
                }
            }
        });
        let tx = db.transaction();
        for i in 0..KEYS {
            black_box(tx.get(i.to_be_bytes()).unwrap());
        }
        tx.put("sum", "1").unwrap();
        longest.store(0, Ordering::Relaxed);
        let (committed, took) = timed(|| tx.commit());
        done.store(true, Ordering::Relaxed);
        committed.unwrap();
        let longest = Duration::from_micros(longest.load(Ordering::Relaxed));
        format!("{}; {}", ms(took), ms(longest))
    })
}

/// Time of the processor that this process has used, in ticks of 10 ms, and its threads.
fn processor() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let field = |at: usize| fields[at].parse::<u64>().unwrap();
    (field(11) + field(12), field(17))
}

fn idle_databases(dir: &Path) -> String {
    let open = |i: u32| {
        let db = options(4 << 20)
            .open(dir.with_extension(i.to_string()))
            .unwrap();
        db.put("k", "v").unwrap();
        db
    };
    let databases: Vec<Db> = (0..500).map(open).collect();
    thread::sleep(Duration::from_secs(8)); // What is due is done by then.
    let (before, threads) = processor();
    thread::sleep(Duration::from_secs(10));
    let ticks = processor().0 - before;
    drop(databases);
    format!("{:.1} %, {threads}", ticks as f64 / 10.0)
}

fn close(dir: &Path) -> String {
    let done = AtomicBool::new(false);
    let longest = thread::scope(|scope| {
        for n in 0..8 {
            let done = &done;
            scope.spawn(move || {
                let mut x = n;
                while !done.load(Ordering::Relaxed) {
                    x = black_box(mixed(x));
                }
            });
        }
        let once = |i: u32| {
            let db = options(64 << 20)
                .open(dir.with_extension(i.to_string()))
                .unwrap();
            load(&db, 8, 100, 1 << 24, Duration::from_secs(10));
            let (closed, took) = timed(|| db.close());
            closed.unwrap();
            took
        };
        let longest = (0..5).map(once).max().unwrap();
        done.store(true, Ordering::Relaxed);
        longest
    });
    ms(longest)
}

fn obsolete_files(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    load(&db, 2, 100, 10_000_000, Duration::from_secs(20));
    let tables = db.stats().table_bytes as f64;
    let (held, _) = files(dir, ".sst");
    format!("{:.0} MB, {:.0} MB", held / 1e6, tables / 1e6)
}

fn blob_files(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    let (start, mut most) = (Instant::now(), 0.0f64);
    for i in 0u64.. {
        if start.elapsed() > Duration::from_secs(15) {
            break;
        }
        db.put((i % 500).to_be_bytes(), vec![i as u8; 64 << 10])
            .unwrap();
        if i % 64 == 0 {
            most = most.max(files(dir, ".blob").0);
        }
    }
    format!("{:.0} MiB", most / MIB)
}

fn log(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    let start = Instant::now();
    for i in 0u64.. {
        if start.elapsed() > Duration::from_millis(1_200) {
            break;
        }
        db.put((i % 100).to_be_bytes(), [i as u8; 1_000]).unwrap();
    }
    let log = db.stats().log_bytes as f64;
    drop(db);
    let (db, took) = timed(|| options(64 << 20).open(dir).unwrap());
    drop(db);
    format!("{:.0} MB; {}", log / 1e6, ms(took))
}

fn short_lives(dir: &Path) -> String {
    let mut lives: VecDeque<Duration> = VecDeque::new();
    for i in 0..2_000u32 {
        let ((), took) = timed(|| {
            let db = options(64 << 20).open(dir).unwrap();
            db.put(i.to_be_bytes(), [7; 100]).unwrap();
        });
        lives.push_back(took);
    }
    let (bytes, count) = files(dir, "");
    let mean = |part: &[Duration]| ms(part.iter().sum::<Duration>() / 50);
    let lives = lives.make_contiguous();
    let (first, last) = (mean(&lives[..50]), mean(&lives[1_950..]));
    format!(
        "{count} files, {:.1} MiB; {first} and {last} each",
        bytes / MIB
    )
}

fn range_delete_batch(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    let mut batch = Batch::new();
    for i in 0..8_000u32 {
        let key = i.to_be_bytes();
        batch.put(key, "1");
        batch.delete_range(key..(i + 1).to_be_bytes());
    }
    ms(timed(|| db.write(batch).unwrap()).1)
}

fn range_delete_scan(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    for i in 0..1_000u32 {
        db.put([b"row", &i.to_be_bytes()[..]].concat(), "1")
            .unwrap();
    }
    for i in 0..20_000u32 {
        let mut batch = Batch::new();
        let key = |i: u32| [b"elsewhere", &i.to_be_bytes()[..]].concat();
        batch.put(key(2 * i), "1");
        batch.delete_range(key(2 * i)..key(2 * i + 1));
        db.write(batch).unwrap();
    }
    let scan = || black_box(db.range("row"..).take(3).count());
    let times = (0..1_000).map(|_| timed(scan).1);
    format!("{:.1} us", times.sum::<Duration>().as_secs_f64() * 1e3)
}

fn range_delete_transaction(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    let tx = db.transaction();
    let savepoint = tx.savepoint();
    let ((), took) = timed(|| {
        for i in 0..1_000u32 {
            tx.delete_range(..i.to_be_bytes()).unwrap();
        }
    });
    tx.rollback_to(&savepoint).unwrap();
    ms(took)
}

fn appends(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    let mut batch = Batch::new();
    for _ in 0..2_500 {
        batch.append("log", [b'x'; 50]);
    }
    let took = timed(|| db.write(batch).unwrap()).1;
    format!("{}, {:.1} MiB", ms(took), db.stats().log_bytes as f64 / MIB)
}

fn keyspaces(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    for i in 0..4_000 {
        let options = KeyspaceOptions::new().compression(Some(Compression::Lz4));
        db.create_keyspace(&format!("keyspace {i}"), options)
            .unwrap();
    }
    db.close().unwrap();
    let (db, took) = timed(|| options(64 << 20).open(dir).unwrap());
    drop(db);
    ms(took)
}

fn ingest_numbers(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    let before = db.put("k", "v").unwrap().get();
    let after = db.ingest([("a", "b")]).unwrap().get();
    (after - before).to_string()
}

fn packed_miss(dir: &Path) -> String {
    let db = options(256 << 20)
        .compression(Compression::Lz4)
        .open(dir)
        .unwrap();
    for i in 0..500_000u64 {
        db.put(mixed(i).to_be_bytes(), [7; 200]).unwrap();
    }
    db.compact_all().unwrap();
    let misses = 100_000;
    let miss = || {
        for i in 0..misses {
            black_box(db.contains_key(mixed(i + (1 << 40)).to_be_bytes()).unwrap());
        }
    };
    miss(); // So that the tables are open.
    let took = timed(miss).1;
    format!("{:.0} ns", took.as_secs_f64() * 1e9 / misses as f64)
}

fn idle_merges(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    for i in 0..500_000u64 {
        db.put(mixed(i).to_be_bytes(), [i as u8; 100]).unwrap();
    }
    db.compact_all().unwrap();
    let before = db.stats().bytes_compacted;
    for i in 0..4u64 {
        db.put(mixed(i).to_be_bytes(), [7; 100]).unwrap();
        db.delete(mixed(i + 9).to_be_bytes()).unwrap();
    }
    db.flush().unwrap();
    thread::sleep(Duration::from_secs(15));
    let more = db.stats().bytes_compacted - before;
    format!("{:.1} MB", more as f64 / 1e6)
}

fn tombstones(dir: &Path) -> String {
    const KEYS: u32 = 1_000_000;
    let db = options(64 << 20).open(dir).unwrap();
    for i in 0..KEYS {
        db.put(i.to_be_bytes(), [7; 20]).unwrap();
    }
    db.put(KEYS.to_be_bytes(), "the only one").unwrap();
    for i in 0..KEYS {
        db.delete(i.to_be_bytes()).unwrap();
    }
    let walk = || black_box(db.iter().next().unwrap().unwrap());
    let (first, second) = (timed(walk).1, timed(walk).1);
    let more = (0..98).map(|_| timed(walk).1).sum::<Duration>() / 98;
    thread::sleep(Duration::from_secs(10));
    let (bytes, _) = files(dir, "");
    let (first, second, more) = (ms(first), ms(second), more.as_nanos());
    format!("{first}, {second}, {more} ns each; {:.0} MiB", bytes / MIB)
}

fn queue(dir: &Path) -> String {
    let db = options(64 << 20).open(dir).unwrap();
    for i in 0..300_000u32 {
        db.put(i.to_be_bytes(), [7; 100]).unwrap();
    }
    let ((), took) = timed(|| {
        while let Some((key, _)) = db.first().unwrap() {
            db.delete(key).unwrap();
        }
    });
    format!("{:.1} s", took.as_secs_f64())
}
