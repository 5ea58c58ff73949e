//! Who may open a database while who else has it open, and what opening and closing do to its files.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use terrace::vfs::{Call, CrashPolicy, Fault, FaultVfs, ImageKind, MemVfs, Op};
use terrace::{Batch, Db, Durability, ErrorKind, Options};
use terrace_kit::{Generator, Mode, Model, Oracle, Profile, Runner, Scenario, registered};

fn kind<T: std::fmt::Debug>(result: terrace::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn one_writer_or_many_readers_have_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let mem = Options::new().vfs(MemVfs::new(1));
    for options in [Options::new(), mem] {
        let path = match options.clone().create(false).open(dir.path()) {
            Err(_) => dir.path(),
            Ok(_) => Path::new("/db"),
        };
        let reading = options.clone().read_only(true);
        let writer = options.open(path).unwrap();
        assert_eq!(kind(options.open(path)), ErrorKind::Locked);
        assert_eq!(kind(reading.open(path)), ErrorKind::Locked);
        writer.put("k", "v").unwrap();
        writer.close().unwrap();

        let readers = [reading.open(path).unwrap(), reading.open(path).unwrap()];
        assert_eq!(kind(options.open(path)), ErrorKind::Locked);
        for reader in &readers {
            assert_eq!(reader.get("k").unwrap().unwrap(), "v");
        }
        let [first, second] = readers;
        drop(first);
        assert_eq!(kind(options.open(path)), ErrorKind::Locked);
        second.close().unwrap();
        options.open(path).unwrap().put("k", "w").unwrap();
        assert_eq!(reading.open(path).unwrap().get("k").unwrap().unwrap(), "w");
    }
}

#[test]
fn the_last_handle_frees_it_and_an_iterator_is_none() {
    let vfs = MemVfs::crashable(1);
    let options = Options::new()
        .vfs(vfs.clone())
        .durability(Durability::Buffered);
    let db = options.open("/db").unwrap();
    let users = db.keyspace("users").unwrap();
    users.put("k", "v").unwrap();
    let (iter, cursor) = (users.iter(), users.cursor());
    let snapshot = users.snapshot();
    let clone = db.clone();
    drop(db);
    assert_eq!(kind(options.open("/db")), ErrorKind::Locked);
    drop(clone);
    drop(users);
    assert_eq!(
        kind(options.open("/db")),
        ErrorKind::Locked,
        "a snapshot is a handle"
    );
    drop(snapshot);

    // It has synced what was buffered, and closed well.
    let cut = vfs.image(ImageKind::Cut, CrashPolicy::DropAll, 1);
    let db = Options::new().vfs(cut).open("/db").unwrap();
    assert_eq!(
        db.keyspace("users").unwrap().get("k").unwrap().unwrap(),
        "v"
    );
    let db = options.open("/db").unwrap();
    assert_eq!(iter.count(), 1);
    drop((db, cursor));
}

/// Some tables, some entries in the log only, and changes of the catalogue in both.
fn filled(vfs: &Arc<MemVfs>, seed: u64) -> Model {
    let mut scenario = Scenario::on(vfs.clone(), Mode::Manual);
    (scenario.mixed_durability, scenario.short_replays) = (false, false);
    let mut runner = Runner::new(scenario, seed).unwrap();
    let mut ops = Generator::new(seed, Profile::changes_only());
    runner.run((&mut ops).take(150)).unwrap();
    runner.db().unwrap().flush().unwrap();
    runner.run(ops.take(60)).unwrap();
    let model = runner.model().clone();
    runner.close(true).unwrap();
    model
}

#[test]
fn opening_reading_and_closing_changes_nothing() {
    for seed in 0..10 {
        let vfs = MemVfs::new(seed);
        let model = filled(&vfs, seed);
        let options = registered(Options::new()).vfs(vfs.clone());
        for (read_only, manual) in [(true, false), (false, false), (false, true)] {
            let (before, hash) = (vfs.mutations(), vfs.content_hash());
            let db = options
                .clone()
                .read_only(read_only)
                .tune(|tuning| tuning.manual = manual)
                .open("/db")
                .unwrap();
            Oracle::check(&db, &model, model.len()..=model.len()).unwrap();
            let snapshot = db.snapshot();
            assert_eq!(snapshot.iter().count() as u64, snapshot.count(..).unwrap());
            db.health().unwrap();
            drop(snapshot);
            match seed % 2 {
                0 => db.close().unwrap(),
                _ => drop(db),
            }
            assert_eq!(
                vfs.mutations() - before,
                0,
                "seed {seed}, read_only {read_only}"
            );
            assert_eq!(vfs.content_hash(), hash);
        }
    }
}

#[test]
fn a_new_database_that_was_never_written_is_opened_without_a_change() {
    let vfs = MemVfs::new(1);
    let options = Options::new().vfs(vfs.clone());
    options.open("/db").unwrap().close().unwrap();
    let before = vfs.mutations();
    options.open("/db").unwrap().close().unwrap();
    assert_eq!(vfs.mutations(), before);
}

fn writes_say(db: &Db, want: ErrorKind) {
    let mut batch = Batch::new();
    batch.put("k", "v");
    assert_eq!(kind(db.put("k", "v")), want);
    assert_eq!(kind(db.delete("k")), want);
    assert_eq!(kind(db.write(batch.clone())), want);
    assert_eq!(kind(db.submit(batch)), want);
    assert_eq!(kind(db.keyspace("new")), want);
    assert_eq!(kind(db.flush()), want);
    assert_eq!(kind(db.sync()), want);
    assert_eq!(kind(db.wait_idle()), want);
    assert_eq!(kind(db.compact_all()), want);
    assert_eq!(kind(db.compact(..)), want);
}

#[test]
fn a_reader_refuses_writes_and_reads_on() {
    for clean in [true, false] {
        let vfs = MemVfs::crashable(3);
        let options = Options::new().vfs(vfs.clone());
        let db = options.open("/db").unwrap();
        let users = db.keyspace("users").unwrap();
        users.put("in", "a table").unwrap();
        db.flush().unwrap();
        users.put("beside", "in the log").unwrap();
        let vfs = match clean {
            true => {
                db.close().unwrap();
                vfs
            }
            false => vfs.image(ImageKind::Kill, CrashPolicy::KeepAll, 1),
        };
        let (before, hash) = (vfs.mutations(), vfs.content_hash());
        let db = Options::new()
            .vfs(vfs.clone())
            .read_only(true)
            .open("/db")
            .unwrap();
        let users = db.keyspace("users").unwrap();
        assert_eq!(users.iter().count(), 2);
        writes_say(&db, ErrorKind::ReadOnly);
        assert_eq!(kind(db.drop_keyspace("users")), ErrorKind::ReadOnly);
        db.health().unwrap();
        assert_eq!(users.get("in").unwrap().unwrap(), "a table");
        assert_eq!(users.get("beside").unwrap().unwrap(), "in the log");
        db.close().unwrap();
        writes_say(&db, ErrorKind::Closed);
        assert_eq!((vfs.mutations(), vfs.content_hash()), (before, hash));
    }
}

fn changes(call: &Call) -> bool {
    matches!(
        call.op,
        Op::Create | Op::CreateDir | Op::Rename | Op::HardLink | Op::Remove | Op::Write
    )
}

/// Permissions do not bind root, so the file system says no.
#[test]
fn a_directory_that_cannot_be_written_can_be_read() {
    const EACCES: i32 = 13;
    const EROFS: i32 = 30;
    let mem = MemVfs::new(5);
    let model = filled(&mem, 5);
    let hash = mem.content_hash();
    for errno in [EACCES, EROFS] {
        let vfs = FaultVfs::new(mem.clone());
        let options = registered(Options::new()).vfs(vfs.clone());
        vfs.arm_when(changes, Fault::Errno(errno), true);
        let db = options.clone().read_only(true).open("/db").unwrap();
        Oracle::check(&db, &model, model.len()..=model.len()).unwrap();
        db.close().unwrap();
        assert_eq!(vfs.injected(), 0, "a reader does not even try");

        // A writer can open what was closed well, and fails with its first write.
        let db = options.open("/db").unwrap();
        Oracle::check(&db, &model, model.len()..=model.len()).unwrap();
        let error = db.put("k", "v").unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Io | ErrorKind::ReadOnly),
            "{error:?}"
        );
        assert!(db.close().is_ok() || vfs.injected() > 0);

        // Where even the lock is refused, opening says so, with the path.
        vfs.disarm();
        vfs.arm_when(|call| call.op == Op::Lock, Fault::Errno(errno), true);
        let error = options.open("/db").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("LOCK"), "{error}");
        vfs.disarm();
        let vfs = FaultVfs::new(MemVfs::new(1));
        vfs.arm_when(changes, Fault::Errno(errno), true);
        assert_eq!(kind(Options::new().vfs(vfs).open("/new/db")), ErrorKind::Io);
    }
    let _ = hash;
    let db = registered(Options::new()).vfs(mem).open("/db").unwrap();
    let found = Oracle::read(&db).unwrap();
    let want = model.now();
    for (name, map) in &want.keyspaces {
        for (key, entry) in map.iter().filter(|(key, _)| *key != "k") {
            assert_eq!(found[name].get(key), Some(&entry.value));
        }
    }
}

const CHILD: &str = "TERRACE_CHILD";

/// Not a test of its own: the other process of the tests below. It opens the database in the
/// directory named by the environment, says how that went, and lives until it is killed.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let (how, dir) = task.split_once(' ').unwrap();
    let options = Options::new().durability(Durability::Buffered);
    let opened = match how {
        "read" => options.read_only(true).open(dir),
        _ => options.open(dir),
    };
    match &opened {
        Ok(db) => {
            for i in 0..if how == "write" { 1000 } else { 0 } {
                db.put(format!("{i:04}"), [7; 100]).unwrap();
            }
            println!("child: open");
        }
        Err(error) => println!("child: {:?}", error.kind()),
    }
    loop {
        std::thread::park();
    }
}

struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Starts another process on `dir`; with what it said.
fn other(how: &str, dir: &Path) -> (Other, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["opening::child", "--exact", "--nocapture"])
        .env(CHILD, format!("{how} {}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let other = Other(child);
    let said = out.lines().map(Result::unwrap).find_map(|line| {
        let at = line.find("child: ")?;
        Some(line[at + 7..].to_string())
    });
    (other, said.unwrap())
}

#[test]
fn another_process_is_kept_out_and_its_death_lets_us_in() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("db");
    let reading = Options::new().read_only(true);

    let (writer, said) = other("write", &dir);
    assert_eq!(said, "open");
    assert_eq!(kind(Db::open(&dir)), ErrorKind::Locked);
    assert_eq!(kind(reading.open(&dir)), ErrorKind::Locked);
    drop(writer);
    // It was killed, and a Buffered write survives that.
    let reader = reading.open(&dir).unwrap();
    assert_eq!(reader.iter().count(), 1000);
    reader.close().unwrap();
    let db = Db::open(&dir).unwrap();
    assert_eq!(db.iter().map(Result::unwrap).count(), 1000);

    let (kept_out, said) = other("write", &dir);
    assert_eq!(said, "Locked");
    drop(kept_out);
    let (kept_out, said) = other("read", &dir);
    assert_eq!(said, "Locked");
    drop(kept_out);
    db.close().unwrap();

    let (reader, said) = other("read", &dir);
    assert_eq!(said, "open");
    assert_eq!(kind(Db::open(&dir)), ErrorKind::Locked);
    assert_eq!(reading.open(&dir).unwrap().iter().count(), 1000);
    drop(reader);
    Db::open(&dir).unwrap().put("k", "v").unwrap();
}

/// A process that is being started holds copies of all our files for a moment, the lock's included.
#[test]
fn a_process_started_meanwhile_does_not_keep_the_lock() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("db");
    Db::open(&dir).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let child = Command::new("true").stdin(Stdio::null()).spawn();
                child.unwrap().wait().unwrap();
            }
        });
        let options = Options::new().create(false);
        let failed = (0..1000).find_map(|i| Some((i, options.open(&dir).err()?)));
        stop.store(true, Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
}
