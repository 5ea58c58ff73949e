//! What a damaged database may answer, and what a salvage of it must keep and say.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use terrace::vfs::{MemVfs, Vfs};
use terrace::{Db, Error, ErrorKind, LossKind, Salvage, SeqNo};
use terrace_kit::APPEND;

use super::subject::{DIR, Disk, NAMES, Place, State, Subject, disk_of, options, vfs_of};

/// What an outcome was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The right answers to everything.
    Harmless,
    /// An error at the open, or at the reads that touch the damage.
    Told,
    /// A state of before, where nothing says that there was more.
    Earlier,
}

/// What the answers to a damage may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// The last state, or an error that names the damage.
    LastOrTold,
    /// This state and no error.
    Exactly(u64),
    /// An error.
    Told,
    /// Also an earlier state, from this number on: nothing in the files says that there was more.
    FromOrTold(u64),
}

type Check<T> = Result<T, String>;

fn open(vfs: &Arc<MemVfs>, seed: u64) -> terrace::Result<Db> {
    let shared: Arc<dyn Vfs> = vfs.clone();
    options(seed).vfs(shared).open(Path::new(DIR))
}

/// An error must say that the files are damaged, and where.
fn names_damage(error: &Error) -> Check<()> {
    match (error.kind(), error.file()) {
        (ErrorKind::Corruption, Some(_)) => Ok(()),
        (ErrorKind::Corruption, None) => Err(format!("an error without a file: {error:?}")),
        _ => Err(format!("not an error that names damage: {error:?}")),
    }
}

/// Opens `disk` and reads all of it.
pub fn open_and_read(
    subject: &Subject,
    disk: &Disk,
    seed: u64,
    allowed: Allowed,
) -> Check<Outcome> {
    let vfs = vfs_of(disk);
    let db = match open(&vfs, seed) {
        Ok(db) => db,
        Err(error) => {
            names_damage(&error)?;
            if disk
                .iter()
                .any(|(path, bytes)| vfs.read_file(path).as_ref() != Some(bytes))
            {
                return Err(format!("a failed open has changed files: {error}"));
            }
            return match allowed {
                Allowed::Exactly(_) => Err(format!("harmless damage, but: {error}")),
                _ => Ok(Outcome::Told),
            };
        }
    };
    let answers = Answers::of(&db)?;
    db.close().map_err(|error| format!("close: {error:?}"))?;
    let last = subject.last_seq();
    let states: Vec<u64> = match allowed {
        Allowed::LastOrTold => vec![last],
        Allowed::Exactly(seq) => vec![seq],
        Allowed::Told => vec![],
        Allowed::FromOrTold(least) => {
            let later = subject.writes.iter().map(|written| written.seq);
            later.filter(|seq| *seq >= least).collect()
        }
    };
    let told = answers.errors > 0;
    if told && matches!(allowed, Allowed::Exactly(_)) {
        return Err("harmless damage, but reads fail".into());
    }
    if states.is_empty() {
        return Err("damage below a promise was taken for a tear".into());
    }
    let mut wrong = String::new();
    for seq in states.iter().rev() {
        match answers.compare(&subject.state_at(*seq)) {
            Ok(()) if told => return Ok(Outcome::Told),
            Ok(()) if *seq == last => return Ok(Outcome::Harmless),
            Ok(()) => return Ok(Outcome::Earlier),
            Err(what) if wrong.is_empty() => wrong = what,
            Err(_) => {}
        }
    }
    Err(wrong)
}

/// What a database answers about each place; places that it does not have are left out.
struct Answers {
    gets: BTreeMap<Place, Option<Option<Vec<u8>>>>,
    errors: usize,
}

/// Which of ours a keyspace is, whatever it is called now.
fn keyspace_of(name: &str) -> Option<usize> {
    let by_id = name
        .strip_prefix("salvaged-")
        .and_then(|id| id.trim_end_matches('\'').parse().ok());
    let by_name = NAMES.iter().position(|known| *known == name);
    by_name.or(by_id).filter(|n| *n < NAMES.len())
}

impl Answers {
    fn of(db: &Db) -> Check<Answers> {
        let mut answers = Answers {
            gets: BTreeMap::new(),
            errors: 0,
        };
        let names = db.keyspaces().map_err(|error| format!("{error:?}"))?;
        for name in names {
            let n = keyspace_of(&name).ok_or(format!("a keyspace `{name}` from nowhere"))?;
            let keyspace = db.keyspace(&name).map_err(|error| format!("{error:?}"))?;
            for key in 0..12 {
                let key = format!("key{key:02}").into_bytes();
                let got = match keyspace.get(&key) {
                    Ok(value) => Some(value.map(|value| value.to_vec())),
                    Err(error) => {
                        names_damage(&error)?;
                        answers.errors += 1;
                        None
                    }
                };
                answers.gets.insert((n, key), got);
            }
            for entry in keyspace.iter().chain(keyspace.iter().rev()) {
                match entry {
                    Ok((key, value)) => match answers.gets.get(&(n, key.to_vec())) {
                        None => return Err(format!("a key {key:?} that nobody wrote")),
                        Some(Some(got)) if got.as_deref() != Some(&value[..]) => {
                            return Err(format!("a scan says {value:?} of {key:?}, a get {got:?}"));
                        }
                        Some(_) => {}
                    },
                    Err(error) => {
                        names_damage(&error)?;
                        answers.errors += 1;
                    }
                }
            }
        }
        Ok(answers)
    }

    /// An error unless every answer is that of `state`.
    fn compare(&self, state: &State) -> Check<()> {
        for (place, (_, value)) in state {
            let got = self.gets.get(place).cloned().unwrap_or(Some(None));
            if got.is_some_and(|got| got != *value) {
                return Err(format!(
                    "{place:?} is {:?}, not {:?}",
                    self.gets.get(place).cloned().flatten().flatten().map(text),
                    value.clone().map(text)
                ));
            }
        }
        Ok(())
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Salvages `disk`: it opens, invents nothing, and has all that it does not report. Returns the
/// number of losses.
pub fn salvage(subject: &Subject, disk: &Disk, seed: u64, allowed: Allowed) -> Check<u64> {
    let vfs = vfs_of(disk);
    let shared: Arc<dyn Vfs> = vfs.clone();
    let (db, report) = options(seed)
        .vfs(shared)
        .salvage(Path::new(DIR))
        .map_err(|error| format!("salvage: {error:?}"))?;
    let within = |text: String| format!("salvage: {text}\n{report}");
    name_operators(&db, &report).map_err(within)?;
    let answers = Answers::of(&db).map_err(within)?;
    if answers.errors > 0 {
        return Err(within("reads fail".into()));
    }
    let last = match allowed {
        Allowed::Exactly(seq) => seq,
        _ => subject.last_seq(),
    };
    let exact = !matches!(allowed, Allowed::FromOrTold(_));
    judge(subject, &answers, &report, last, exact).map_err(within)?;
    nothing_is_gone(disk, &disk_of(&vfs), &report).map_err(within)?;
    db.close().map_err(|error| within(format!("{error:?}")))?;
    let again = open(&vfs, seed).map_err(|error| within(format!("open: {error:?}")))?;
    let second = Answers::of(&again)?;
    if second.gets != answers.gets {
        return Err(within("reopened, it says something else".into()));
    }
    Ok(report.losses.len() as u64)
}

/// Where the manifest is lost, or the name of a keyspace, its options may be: then the operator has
/// to be named again.
fn name_operators(db: &Db, report: &Salvage) -> Check<()> {
    let unknown = |loss: &terrace::Loss| loss.kind == LossKind::Manifest;
    for name in db.keyspaces().map_err(|error| format!("{error:?}"))? {
        let keyspace = db.keyspace(&name).map_err(|error| format!("{error:?}"))?;
        if keyspace.options().merge_operator.is_some() {
            continue;
        }
        if !report.losses.iter().any(unknown) && !report.renamed.contains(&name) {
            return Err(format!(
                "`{name}` has lost its options, and no loss says so"
            ));
        }
        let options = keyspace.options().merge_operator(APPEND);
        let set = keyspace.set_options(options);
        set.map_err(|error| format!("{error:?}"))?;
    }
    Ok(())
}

fn judge(
    subject: &Subject,
    answers: &Answers,
    report: &Salvage,
    last: u64,
    exact: bool,
) -> Check<()> {
    for (place, got) in &answers.gets {
        if let Some(Some(value)) = got
            && !subject.was_written(place, value)
        {
            return Err(format!(
                "{place:?} = {:?} was never written",
                text(value.clone())
            ));
        }
    }
    if !exact {
        return Ok(());
    }
    for (place, (seq, value)) in subject.state_at(last) {
        let got = answers.gets.get(&place).cloned().flatten().flatten();
        if got == value {
            continue;
        }
        let covered = report.losses.iter().any(|loss| match loss.kind {
            LossKind::Manifest => value.is_none(),
            _ => names(place.0).iter().any(|name| {
                let numbers = subject.numbers(&place, last);
                let mut numbers = numbers.into_iter().chain([seq]);
                numbers.any(|seq| loss.covers(name, &place.1, SeqNo::new(seq)))
            }),
        });
        if !covered {
            let (got, value) = (got.map(text), value.map(text));
            return Err(format!(
                "{place:?}#{seq} is {got:?}, not {value:?}, and no loss says so"
            ));
        }
    }
    Ok(())
}

/// What the keyspace may be called.
fn names(keyspace: usize) -> [String; 2] {
    [NAMES[keyspace].to_owned(), format!("salvaged-{keyspace}")]
}

/// Every file that there was is there, or aside, as it was. An undamaged database may lose
/// leftovers.
fn nothing_is_gone(before: &Disk, after: &Disk, report: &Salvage) -> Check<()> {
    let Some(aside) = &report.aside else {
        return Ok(());
    };
    for (path, bytes) in before {
        let name = path.file_name().unwrap_or_default();
        let there = after.get(path) == Some(bytes) || after.get(&aside.join(name)) == Some(bytes);
        if !there && name != "LOCK" {
            return Err(format!("{} is gone", path.display()));
        }
    }
    Ok(())
}
