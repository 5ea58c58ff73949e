//! The input: regular files of a directory tree, and the words in them.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use terrace::MAX_KEY_LEN;

use crate::Failure;

/// Larger files are skipped: each is one value and, with its words, one batch, which are limited to
/// 1 GiB.
pub(crate) const MAX_FILE: u64 = 64 << 20;
/// Words are runs of ASCII letters, digits and underscores of these lengths, in lower case.
const WORD_LENGTHS: std::ops::RangeInclusive<usize> = 3..=40;

/// Why a file is not in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Skip {
    NotRegular,
    Unreadable,
    KeyTooLong,
    TooLarge,
    TooManyWords,
    Changed,
}

impl Skip {
    pub(crate) const ALL: [Skip; 6] = [
        Skip::NotRegular,
        Skip::Unreadable,
        Skip::KeyTooLong,
        Skip::TooLarge,
        Skip::TooManyWords,
        Skip::Changed,
    ];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Skip::NotRegular => "not a regular file (links, sockets, devices)",
            Skip::Unreadable => "unreadable",
            Skip::KeyTooLong => "path too long for a key",
            Skip::TooLarge => "over 64 MiB",
            Skip::TooManyWords => "more words than fit into one batch",
            Skip::Changed => "changed on disk meanwhile",
        }
    }
}

/// One file as it was when the tree was walked.
#[derive(Debug)]
pub(crate) struct File {
    /// Relative to the root.
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    modified: Option<SystemTime>,
}

impl File {
    /// The path as a key.
    pub(crate) fn key(&self) -> &[u8] {
        self.path.as_os_str().as_encoded_bytes()
    }
}

/// What is to be indexed.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) root: PathBuf,
    pub(crate) files: Vec<File>,
    pub(crate) bytes: u64,
    pub(crate) skipped: BTreeMap<Skip, u64>,
    /// The walk ended because of the limit.
    pub(crate) cut: bool,
}

impl Source {
    pub(crate) fn empty(root: &Path) -> Source {
        Source {
            root: root.to_path_buf(),
            files: Vec::new(),
            bytes: 0,
            skipped: BTreeMap::new(),
            cut: false,
        }
    }

    /// The files below `root` in the order of their names, until their sizes exceed `limit`.
    pub(crate) fn walk(root: &Path, limit: u64) -> Result<Source, Failure> {
        let root = fs::canonicalize(root)
            .map_err(|error| format!("cannot open {}: {error}", root.display()))?;
        let mut source = Source::empty(&root);
        let mut stack = vec![PathBuf::new()];
        while let Some(path) = stack.pop() {
            let Ok(metadata) = fs::symlink_metadata(root.join(&path)) else {
                source.skip(Skip::Unreadable);
                continue;
            };
            if metadata.is_dir() {
                match children(&root, &path) {
                    Ok(names) => stack.extend(names),
                    Err(_) => source.skip(Skip::Unreadable),
                }
                continue;
            }
            let file = File {
                size: metadata.len(),
                modified: metadata.modified().ok(),
                path,
            };
            // The longest key of a file is that of its longest word, a NUL, and its path.
            let key = file.key().len() + WORD_LENGTHS.end() + 1;
            let reason = match file.size {
                _ if !metadata.is_file() => Some(Skip::NotRegular),
                _ if key > MAX_KEY_LEN => Some(Skip::KeyTooLong),
                size if size > MAX_FILE => Some(Skip::TooLarge),
                _ => None,
            };
            match reason {
                Some(reason) => source.skip(reason),
                None if source.bytes + file.size > limit => {
                    source.cut = true;
                    break;
                }
                None => {
                    source.bytes += file.size;
                    source.files.push(file);
                }
            }
        }
        Ok(source)
    }

    pub(crate) fn push(&mut self, path: PathBuf, size: u64) {
        self.files.push(File {
            path,
            size,
            modified: None,
        });
    }

    pub(crate) fn skip(&mut self, reason: Skip) {
        *self.skipped.entry(reason).or_default() += 1;
    }

    /// What the file holds now. If it has grown since the walk, one byte more than it had is enough
    /// to tell.
    pub(crate) fn read(&self, file: &File) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(file.size as usize);
        fs::File::open(self.root.join(&file.path))?
            .take(file.size + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// True if the file is not the one that the walk saw.
    pub(crate) fn has_changed(&self, file: &File) -> bool {
        match fs::symlink_metadata(self.root.join(&file.path)) {
            Ok(now) => now.len() != file.size || now.modified().ok() != file.modified,
            Err(_) => true,
        }
    }
}

/// Last name first, so that a stack gives them back in order.
fn children(root: &Path, path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries: io::Result<Vec<_>> = fs::read_dir(root.join(path))?.collect();
    let mut names: Vec<_> = entries?
        .into_iter()
        .map(|entry| path.join(entry.file_name()))
        .collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

/// The words of a text, each once.
#[derive(Debug)]
pub(crate) struct Words {
    lower: Vec<u8>,
}

impl Words {
    pub(crate) fn new(text: &[u8]) -> Words {
        Words {
            lower: text.to_ascii_lowercase(),
        }
    }

    /// In order.
    pub(crate) fn sorted(&self) -> Vec<&[u8]> {
        let is_other = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'_';
        let words: HashSet<&[u8]> = self
            .lower
            .split(is_other)
            .filter(|word| WORD_LENGTHS.contains(&word.len()))
            .collect();
        let mut words: Vec<&[u8]> = words.into_iter().collect();
        words.sort_unstable();
        words
    }
}

/// The key in `words` that says that `path` has `word`.
pub(crate) fn word_key(out: &mut Vec<u8>, word: &[u8], path: &[u8]) {
    out.clear();
    out.extend_from_slice(word);
    out.push(0);
    out.extend_from_slice(path);
}
