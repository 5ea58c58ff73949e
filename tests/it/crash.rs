//! Power cuts and kills at every call that changes a file, in a workload, in the recoveries from them, and
//! behind those.
//!
//! Before each changing call a hook builds the images that a crash at this moment may leave: one cut for
//! every policy, and the kill. Each is opened, and what it holds must be one of the states that the model
//! allows. Then more is written and the power is cut again: what a killed process left could be read, but was
//! not on the disk, so this is where a recovery that trusts it loses data. Some recoveries are crashed
//! themselves, at each of their changing calls.
//!
//! `TERRACE_CRASH_SEED=n` runs one seed alone; `TERRACE_CRASH_SEEDS=n` runs that many instead of the default.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use terrace::vfs::{CrashPolicy, ImageKind, MemVfs, Vfs};
use terrace::{Db, Durability, Options};

use crate::workload::{Bounds, DIR, History, Op, Random, Run, State, dump, hash_of, operations};

/// Operations of one workload.
const OPERATIONS: usize = 45;
/// One recovery in so many is crashed at each of its calls.
const NESTED: u64 = 24;

#[derive(Debug, Default)]
struct Counts {
    calls: u64,
    images: u64,
    distinct: u64,
    nested: u64,
    second_cuts: u64,
    failures: Vec<String>,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.calls += other.calls;
        self.images += other.images;
        self.distinct += other.distinct;
        self.nested += other.nested;
        self.second_cuts += other.second_cuts;
        self.failures.extend(other.failures);
    }
}

/// An image of a recovery: what ended it, what that kept, before which call.
type Nested = (ImageKind, CrashPolicy, u64, Arc<MemVfs>);

/// Crashes one workload everywhere.
struct Crasher {
    seed: u64,
    options: Options,
    history: Arc<Mutex<History>>,
    counts: Counts,
    /// What was found in an image, by its content; equal images need to be opened once.
    found: HashMap<(ImageKind, u64), u64>,
    distinct: HashSet<u64>,
}

impl Crasher {
    /// All images of the moment before the changing call `call`.
    fn crash_at(&mut self, vfs: &MemVfs, call: u64) {
        self.counts.calls += 1;
        let history = self.history.clone();
        let history = history.lock().unwrap_or_else(|p| p.into_inner());
        let cuts = CrashPolicy::ALL
            .iter()
            .map(|policy| (ImageKind::Cut, *policy));
        for (kind, policy) in cuts.chain([(ImageKind::Kill, CrashPolicy::KeepAll)]) {
            if self.counts.failures.len() >= 5 {
                return;
            }
            let image = vfs.image(kind, policy, self.seed ^ (call << 8));
            let bounds = match kind {
                ImageKind::Cut => history.after_cut(),
                ImageKind::Kill => history.after_kill(),
            };
            let what = format!("seed {} call {call} {kind:?} {policy:?}", self.seed);
            if let Err(wrong) = self.try_image(&image, kind, bounds, &history, call) {
                self.counts.failures.push(format!("{what}: {wrong}"));
            }
        }
    }

    fn try_image(
        &mut self,
        image: &Arc<MemVfs>,
        kind: ImageKind,
        bounds: Bounds,
        history: &History,
        call: u64,
    ) -> Result<(), String> {
        self.counts.images += 1;
        let content = image.content_hash();
        if self.distinct.insert(content) {
            self.counts.distinct += 1;
        }
        let key = (kind, content);
        if let Some(hash) = self.found.get(&key) {
            return match history.find(*hash, bounds) {
                Some(_) => Ok(()),
                None => Err(format!(
                    "an image found before is not one of {bounds:?} any more"
                )),
            };
        }
        let mut random = Random::new(content ^ call);
        if random.below(NESTED) == 0 {
            let clone = image.image(ImageKind::Kill, CrashPolicy::KeepAll, call);
            self.crash_recovery(&clone, kind, history, &mut random)?;
        }
        let (db, found) = open_and_read(image, &self.options)?;
        let hash = hash_of(&found);
        if history.find(hash, bounds).is_none() {
            return Err(history.explain(&found, bounds));
        }
        self.found.insert(key, hash);
        no_file_left_over(image, &db)?;
        self.counts.second_cuts += 1;
        write_and_cut(
            image,
            &db,
            &self.options,
            found,
            &mut random,
            history.last_seq,
        )
    }

    /// Opens an image with crashes at each changing call of its recovery.
    fn crash_recovery(
        &mut self,
        image: &Arc<MemVfs>,
        kind: ImageKind,
        history: &History,
        random: &mut Random,
    ) -> Result<(), String> {
        let nested: Arc<Mutex<Vec<Nested>>> = Arc::default();
        let (sink, salt) = (nested.clone(), random.next());
        image.set_hook(Some(Arc::new(move |vfs, call| {
            let policies = CrashPolicy::ALL;
            let one = policies[(salt.wrapping_add(call) % policies.len() as u64) as usize];
            let mut sink = sink.lock().unwrap_or_else(|p| p.into_inner());
            for (kind, policy) in [
                (ImageKind::Kill, CrashPolicy::KeepAll),
                (ImageKind::Cut, CrashPolicy::DropAll),
                (ImageKind::Cut, one),
            ] {
                sink.push((kind, policy, call, vfs.image(kind, policy, salt ^ call)));
            }
        })));
        let opened = open(image, &self.options);
        image.set_hook(None);
        let db = opened.map_err(|e| format!("cannot be opened: {e}"))?;
        drop(db);
        let images = std::mem::take(&mut *nested.lock().unwrap_or_else(|p| p.into_inner()));
        for (second, policy, call, image) in images {
            self.counts.nested += 1;
            if self.distinct.insert(image.content_hash()) {
                self.counts.distinct += 1;
            }
            let bounds = match (kind, second) {
                (ImageKind::Kill, ImageKind::Kill) => history.after_kill(),
                _ => history.after_cut(),
            };
            let mut check = || {
                let (db, found) = open_and_read(&image, &self.options)?;
                if history.find(hash_of(&found), bounds).is_none() {
                    return Err(history.explain(&found, bounds));
                }
                no_file_left_over(&image, &db)?;
                write_and_cut(&image, &db, &self.options, found, random, history.last_seq)
            };
            check().map_err(|wrong| {
                format!("then {second:?} {policy:?} at call {call} of recovery: {wrong}")
            })?;
        }
        Ok(())
    }
}

fn open(vfs: &Arc<MemVfs>, options: &Options) -> terrace::Result<Db> {
    let vfs: Arc<dyn Vfs> = vfs.clone();
    options.clone().vfs(vfs).open(Path::new(DIR))
}

fn open_and_read(vfs: &Arc<MemVfs>, options: &Options) -> Result<(Db, State), String> {
    let db = open(vfs, options).map_err(|e| format!("cannot be opened: {e}"))?;
    let found = dump(&db).map_err(|e| format!("cannot be read: {e}"))?;
    Ok((db, found))
}

/// After an open every file of ours is one that the manifest lists.
fn no_file_left_over(vfs: &MemVfs, db: &Db) -> Result<(), String> {
    let stats = db.stats();
    let files = vfs.files();
    let with = |extension: &str| {
        let found = files
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|e| e == extension));
        let lens: Vec<u64> = found.map(|(_, len)| *len).collect();
        (lens.len(), lens.iter().sum::<u64>())
    };
    let manifests = files
        .iter()
        .filter(|(path, _)| path.to_string_lossy().contains("MANIFEST-"))
        .count();
    let tables: usize = stats.levels.iter().map(|level| level.tables).sum();
    if with("sst") != (tables, stats.table_bytes)
        || with("wal").1 != stats.log_bytes
        || manifests != 1
        || with("tmp").0 != 0
    {
        return Err(format!("files are left over: {files:?}"));
    }
    Ok(())
}

/// Writes under `Sync` to what a crash left, under a new sequence number, cuts the power, and finds it all
/// again; then closes, and a second open has nothing to write.
fn write_and_cut(
    vfs: &Arc<MemVfs>,
    db: &Db,
    options: &Options,
    mut state: State,
    random: &mut Random,
    last_seq: u64,
) -> Result<(), String> {
    // What was read once stays: a recovery makes durable what it lets others see. And what it removed may be
    // gone although a name that it relied on is not there.
    for policy in [CrashPolicy::DropAll, CrashPolicy::RandomEntries] {
        let again = vfs.image(ImageKind::Cut, policy, random.next());
        let (_, found) = open_and_read(&again, options)
            .map_err(|wrong| format!("read and cut by {policy:?}: {wrong}"))?;
        if found != state {
            return Err(format!("read, cut by {policy:?}, and not the same"));
        }
    }
    let mut batch = terrace::Batch::new();
    batch
        .put("after the crash", "1")
        .durability(Durability::Sync);
    let seq = db
        .write(batch)
        .map_err(|e| format!("cannot be written: {e}"))?;
    if seq.get() <= last_seq {
        return Err(format!(
            "{seq} was given out before: {last_seq} was the last"
        ));
    }
    let default = state.entry("default".into()).or_default();
    default.insert(b"after the crash".to_vec(), b"1".to_vec());
    let policies = CrashPolicy::ALL;
    let one = policies[random.below(policies.len() as u64) as usize];
    for policy in [CrashPolicy::DropAll, one] {
        let again = vfs.image(ImageKind::Cut, policy, random.next());
        let (db, found) = open_and_read(&again, options)
            .map_err(|wrong| format!("written and cut by {policy:?}: {wrong}"))?;
        if found != state {
            let before = db.stats();
            return Err(format!(
                "written, cut by {policy:?}, and not the same: {before:?}"
            ));
        }
        db.close().map_err(|e| format!("cannot be closed: {e}"))?;
        let calls = again.mutations();
        let (db, found) =
            open_and_read(&again, options).map_err(|wrong| format!("closed: {wrong}"))?;
        if found != state {
            return Err("closed, and not the same".into());
        }
        db.close()
            .map_err(|e| format!("cannot be closed again: {e}"))?;
        if again.mutations() != calls {
            return Err("an open after a close wrote something".into());
        }
    }
    Ok(())
}

/// Crashes the workload of `seed` at each of its calls.
fn crash_everywhere(seed: u64) -> Counts {
    let vfs = MemVfs::crashable(seed);
    let mut run = Run::seeded(vfs.clone(), seed);
    let crasher = Arc::new(Mutex::new(Crasher {
        seed,
        options: run.options.clone(),
        history: run.history.clone(),
        counts: Counts::default(),
        found: HashMap::new(),
        distinct: HashSet::new(),
    }));
    let hook = crasher.clone();
    vfs.set_hook(Some(Arc::new(move |vfs, call| {
        hook.lock().unwrap().crash_at(vfs, call);
    })));
    run.open().expect("an empty directory can be opened");
    for op in operations(seed, OPERATIONS) {
        run.apply(&op)
            .unwrap_or_else(|e| panic!("seed {seed}: {op:?}: {e}"));
    }
    let found = dump(run.db.as_ref().unwrap()).unwrap();
    assert!(
        found == **run.history().latest(),
        "seed {seed}: the database is wrong before any crash"
    );
    run.db.take().unwrap().close().unwrap();
    {
        let mut history = run.history();
        history.durable = history.returned;
    }
    let end = vfs.mutations() + 1;
    crasher.lock().unwrap().crash_at(&vfs, end);
    vfs.set_hook(None);
    let mut crasher = crasher.lock().unwrap_or_else(|p| p.into_inner());
    std::mem::take(&mut crasher.counts)
}

fn crash_seeds(first: u64, default: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("TERRACE_CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("TERRACE_CRASH_SEEDS").unwrap_or(default),
    };
    let mut all = Counts::default();
    for seed in seeds.clone() {
        all.add(crash_everywhere(seed));
        if !all.failures.is_empty() {
            break;
        }
    }
    println!(
        "seeds {seeds:?}: {} calls, {} images, {} distinct, {} second cuts, {} in recoveries; {} wrong",
        all.calls,
        all.images,
        all.distinct,
        all.second_cuts,
        all.nested,
        all.failures.len()
    );
    assert!(all.failures.is_empty(), "{}", all.failures.join("\n"));
}

#[test]
fn crashes_lose_nothing_a() {
    crash_seeds(1, 12);
}

#[test]
fn crashes_lose_nothing_b() {
    crash_seeds(1001, 12);
}

/// With its threads at work: flushes of a part of the log, compactions and spares come at any moment. The
/// model is read before and after an image is made, and whatever happened in between is allowed.
#[test]
fn crashes_lose_nothing_beside_threads() {
    let mut images = 0;
    for seed in 0..12u64 {
        let vfs = MemVfs::crashable(seed);
        let mut run = Run::seeded(vfs.clone(), seed);
        run.options = run.options.clone().tune(|t| {
            t.manual = false;
            t.memtable_bytes = Some(6 << 10);
        });
        let (history, taken) = (run.history.clone(), Arc::new(Mutex::new(Vec::new())));
        let sink = taken.clone();
        vfs.set_hook(Some(Arc::new(move |vfs, call| {
            if call % 3 != 0 {
                return;
            }
            for (kind, policy) in [
                (ImageKind::Cut, CrashPolicy::DropAll),
                (
                    ImageKind::Cut,
                    CrashPolicy::ALL[call as usize / 3 % CrashPolicy::ALL.len()],
                ),
                (ImageKind::Kill, CrashPolicy::KeepAll),
            ] {
                let look = || {
                    let history = history.lock().unwrap_or_else(|p| p.into_inner());
                    (history.after_cut(), history.after_kill())
                };
                let before = look();
                let image = vfs.image(kind, policy, call);
                let low = match kind {
                    ImageKind::Cut => before.0.low,
                    ImageKind::Kill => before.1.low,
                };
                let bounds = Bounds {
                    low,
                    high: look().0.high,
                };
                let what = format!("seed {seed} call {call} {kind:?} {policy:?}");
                let mut sink = sink.lock().unwrap_or_else(|p| p.into_inner());
                sink.push((what, bounds, image));
            }
        })));
        run.open().unwrap();
        for op in operations(seed, 150) {
            // Flushes, drops and the like are left to the background, which comes in between.
            if !matches!(
                op,
                Op::Flush | Op::Idle | Op::Compact | Op::Snapshot | Op::Sync
            ) {
                run.apply(&op)
                    .unwrap_or_else(|e| panic!("seed {seed}: {op:?}: {e}"));
            }
        }
        run.forget().unwrap().close().unwrap();
        vfs.set_hook(None);
        let history = run.history();
        let options = crate::workload::small_options(vfs, seed);
        let taken = std::mem::take(&mut *taken.lock().unwrap());
        for (what, bounds, image) in taken {
            images += 1;
            let (db, found) =
                open_and_read(&image, &options).unwrap_or_else(|e| panic!("{what}: {e}"));
            let at = history.find(hash_of(&found), bounds);
            assert!(at.is_some(), "{what}: {}", history.explain(&found, bounds));
            no_file_left_over(&image, &db).unwrap_or_else(|e| panic!("{what}: {e}"));
            let mut random = Random::new(seed);
            write_and_cut(&image, &db, &options, found, &mut random, 0)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }
    println!("{images} images beside threads");
    assert!(images > 1000);
}

/// Also after a life that only rewrote tables, and so left the log as it was.
#[test]
fn an_open_after_a_close_writes_nothing() {
    let mut reopened = 0;
    for seed in 0..60 {
        let vfs = MemVfs::crashable(seed);
        let mut run = Run::seeded(vfs.clone(), seed);
        run.open().unwrap();
        for op in operations(seed, 40) {
            if !matches!(op, Op::Reopen | Op::Flush | Op::Idle) {
                run.apply(&op).unwrap();
                continue;
            }
            run.apply(&Op::Release).unwrap();
            for work in [&op, &Op::Compact, &Op::Release] {
                run.apply(work).unwrap();
                run.forget().unwrap().close().unwrap();
                let calls = vfs.mutations();
                run.open().unwrap();
                run.apply(&Op::Read).unwrap();
                assert_eq!(vfs.mutations(), calls, "seed {seed}, after {work:?}");
                reopened += 1;
            }
        }
    }
    assert!(reopened > 500);
}
