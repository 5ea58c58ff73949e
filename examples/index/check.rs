//! Verification of everything stored.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use terrace::{Db, Readable};

use crate::Failure;
use crate::source::{Skip, Source, Words, word_key};

/// How many files the frequent words are taken from.
const SAMPLE: usize = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Acknowledged,
    Skipped,
}

/// What is known about each file.
#[derive(Debug)]
pub(crate) struct Expected {
    states: Vec<State>,
}

impl Expected {
    pub(crate) fn new(files: usize) -> Expected {
        Expected {
            states: vec![State::Unknown; files],
        }
    }

    fn set(&mut self, index: usize, state: State) {
        if let Some(known) = self.states.get_mut(index)
            && *known == State::Unknown
        {
            *known = state;
        }
    }

    pub(crate) fn acknowledged(&mut self, index: usize) {
        self.set(index, State::Acknowledged);
    }

    pub(crate) fn skipped(&mut self, index: usize) {
        self.set(index, State::Skipped);
    }

    pub(crate) fn is_settled(&self, index: usize) -> bool {
        self.states
            .get(index)
            .is_some_and(|state| *state != State::Unknown)
    }

    fn is_acknowledged(&self, index: usize) -> bool {
        self.states.get(index) == Some(&State::Acknowledged)
    }

    pub(crate) fn count_acknowledged(&self) -> u64 {
        let acknowledged = self.states.iter();
        acknowledged
            .filter(|state| **state == State::Acknowledged)
            .count() as u64
    }
}

/// What a check found in the database.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) files: u64,
    pub(crate) words: u64,
    /// Of the files' contents.
    pub(crate) bytes: u64,
    /// Of all keys and values.
    pub(crate) stored: u64,
    /// In how many files each of the words asked for is.
    pub(crate) counts: Vec<u64>,
    pub(crate) gets: u64,
    pub(crate) get_time: Duration,
    pub(crate) scan_time: Duration,
}

/// Compares the database with the disk and with itself: every acknowledged file is there with its
/// bytes, every file that is there has exactly its words, and there is nothing else.
pub(crate) fn check(
    db: &Db,
    source: &mut Source,
    expected: &Expected,
    wanted: &[Vec<u8>],
    bar: &ProgressBar,
) -> Result<Checked, Failure> {
    // A snapshot and a keyspace read alike; one moment for everything is what a check wants.
    let snapshot = db.snapshot();
    let files = snapshot.keyspace(&db.keyspace("files")?);
    let words = snapshot.keyspace(&db.keyspace("words")?);
    let mut checked = Checked {
        counts: vec![0; wanted.len()],
        ..Checked::default()
    };
    let mut words_of = vec![0u64; source.files.len()];
    let mut changed = 0;
    for (index, (file, count)) in source.files.iter().zip(&mut words_of).enumerate() {
        bar.inc(1);
        let started = Instant::now();
        let stored = files.get(file.key())?;
        checked.get_time += started.elapsed();
        checked.gets += 1;
        let name = file.path.display();
        let Some(stored) = stored else {
            if expected.is_acknowledged(index) {
                return Err(format!("{name} was acknowledged and is lost").into());
            }
            continue;
        };
        if source.read(file).ok().as_deref() != Some(&stored[..]) {
            if !source.has_changed(file) {
                return Err(format!("{name} is not in the database as it is on disk").into());
            }
            changed += 1;
        }
        let text = Words::new(&stored);
        let list = text.sorted();
        let started = Instant::now();
        all_there(&words, &list, file.key()).map_err(|error| format!("{name}: {error}"))?;
        checked.get_time += started.elapsed();
        checked.gets += list.len() as u64;
        checked.files += 1;
        checked.bytes += stored.len() as u64;
        checked.stored += (file.key().len() + stored.len()) as u64;
        *count = list.len() as u64;
        for (word, count) in wanted.iter().zip(&mut checked.counts) {
            *count += u64::from(list.binary_search(&word.as_slice()).is_ok());
        }
    }
    let started = Instant::now();
    scan(&files, &words, source, &words_of, &mut checked)?;
    checked.scan_time = started.elapsed();
    if changed > 0 {
        source.skipped.insert(Skip::Changed, changed);
    }
    Ok(checked)
}

/// Asks for each word of a file.
fn all_there(words: &impl Readable, list: &[&[u8]], path: &[u8]) -> Result<(), Failure> {
    let mut key = Vec::new();
    for word in list {
        word_key(&mut key, word, path);
        if !words.contains_key(&key)? {
            let word = String::from_utf8_lossy(word);
            return Err(format!("the file is there without its word {word}").into());
        }
    }
    Ok(())
}

/// Walks over everything: the words are in order, belong to files that are there, and no file has
/// too many.
fn scan(
    files: &impl Readable,
    words: &impl Readable,
    source: &Source,
    words_of: &[u64],
    checked: &mut Checked,
) -> Result<(), Failure> {
    let indexes: HashMap<&[u8], usize> = source
        .files
        .iter()
        .enumerate()
        .map(|(index, file)| (file.key(), index))
        .collect();
    let mut seen = vec![0u64; words_of.len()];
    let mut last = Vec::new();
    let mut cursor = words.cursor();
    let mut on = cursor.first()?;
    while on {
        let key = cursor.key();
        if key <= last.as_slice() {
            return Err("the words are out of order".into());
        }
        last.clear();
        last.extend_from_slice(key);
        let nul = key.iter().position(|byte| *byte == 0);
        let path = nul.and_then(|nul| key.get(nul + 1..));
        let index = path.and_then(|path| indexes.get(path).copied());
        let slot = index.and_then(|index| seen.get_mut(index));
        *slot.ok_or("a word belongs to no file")? += 1;
        checked.words += 1;
        checked.stored += key.len() as u64;
        on = cursor.next()?;
    }
    let indexed = source.files.iter().zip(seen.iter().zip(words_of));
    for (file, (seen, words)) in indexed {
        if seen != words {
            let name = file.path.display();
            return Err(format!("{name} has {seen} words where {words} belong").into());
        }
    }
    let mut count = 0;
    for key in files.iter().keys().rev() {
        key?;
        count += 1;
    }
    if count != checked.files {
        return Err(format!("{count} files are stored where {} belong", checked.files).into());
    }
    Ok(())
}

/// The three words that most files of a sample have.
pub(crate) fn frequent_words(source: &Source) -> Result<Vec<Vec<u8>>, Failure> {
    let step = source.files.len().div_ceil(SAMPLE).max(1);
    let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
    for file in source.files.iter().step_by(step) {
        let Ok(bytes) = source.read(file) else {
            continue; // The check will say so.
        };
        for word in Words::new(&bytes).sorted() {
            *counts.entry(word.to_vec()).or_default() += 1;
        }
    }
    let mut words: Vec<_> = counts.into_iter().collect();
    words.sort_by(|(a, m), (b, n)| n.cmp(m).then(a.cmp(b)));
    Ok(words.into_iter().take(3).map(|(word, _)| word).collect())
}

/// Answers a few questions from the database and compares with what the check has counted.
pub(crate) fn queries(
    db: &Db,
    source: &Source,
    wanted: &[Vec<u8>],
    checked: &Checked,
) -> Result<(), Failure> {
    let words = db.keyspace("words")?;
    for (word, expected) in wanted.iter().zip(&checked.counts) {
        let started = Instant::now();
        let mut prefix = word.clone();
        prefix.push(0);
        let mut count = 0;
        for key in words.prefix(&prefix).keys() {
            key?;
            count += 1;
        }
        let time = started.elapsed();
        let word = String::from_utf8_lossy(word);
        println!("query: {count} files have the word `{word}` ({time:.1?})");
        if count != *expected {
            return Err(format!("{expected} files have `{word}`").into());
        }
    }
    let Some(file) = source.files.get(source.files.len() / 2) else {
        return Ok(());
    };
    let folder = file.path.parent().unwrap_or(&file.path);
    let prefix = folder.as_os_str().as_encoded_bytes();
    let started = Instant::now();
    let (mut count, mut bytes) = (0, 0);
    for entry in db.keyspace("files")?.prefix(prefix) {
        let (_, value) = entry?;
        count += 1;
        bytes += value.len() as u64;
    }
    let time = started.elapsed();
    println!(
        "query: {count} files with {} start with `{}` ({time:.1?})",
        crate::report::size(bytes),
        folder.display()
    );
    let there = source.files.iter().filter(|f| f.key().starts_with(prefix));
    if count > there.count() {
        return Err("the prefix gave files that are not there".into());
    }
    Ok(())
}
