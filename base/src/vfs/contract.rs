//! What every [`Vfs`] does alike, as a script of random calls with its results written down.
//!
//! Two file systems agree if their transcripts do. An error shows as its kind; where systems differ
//! by nature (a write to a file opened for reading) only that it is one.

use std::fmt::{Debug, Write};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{LockGuard, OpenMode, Vfs, VfsFile};

/// Plays a random script below the empty directory `root` and writes down what every call answered.
pub(super) fn transcript(vfs: &dyn Vfs, root: &Path, seed: u64, steps: usize) -> String {
    let mut script = Script {
        vfs,
        root,
        state: seed,
        files: Vec::new(),
        locks: Vec::new(),
        text: String::new(),
    };
    for step in 0..steps {
        write!(script.text, "{step} ").unwrap();
        script.step();
    }
    script.dump();
    script.text
}

struct Script<'a> {
    vfs: &'a dyn Vfs,
    root: &'a Path,
    state: u64,
    files: Vec<Arc<dyn VfsFile>>,
    locks: Vec<Box<dyn LockGuard>>,
    text: String,
}

impl Script<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.state >> 33) % limit
    }

    fn path(&mut self) -> (PathBuf, String) {
        let names = [
            "a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "a/x", "no/a", ".",
        ];
        let name = names[self.below(names.len() as u64) as usize];
        (self.root.join(name), name.to_owned())
    }

    fn note(&mut self, what: &str, answer: io::Result<impl Debug>) {
        match answer {
            Ok(answer) => writeln!(self.text, "{what}: {answer:?}"),
            Err(error) => writeln!(self.text, "{what}: failed, {:?}", error.kind()),
        }
        .unwrap();
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.vfs.metadata(path).is_ok_and(|found| found.is_dir)
    }

    fn step(&mut self) {
        let ((path, name), (other, to)) = (self.path(), self.path());
        match self.below(22) {
            0..5 => self.open(&path, &name),
            5..10 => self.write(),
            10 | 11 => self.read(),
            12 => {
                let answer = self.vfs.create_dir(&path);
                // Of the root itself systems say different things.
                match name.as_str() {
                    "." => self.note("mkdir root", Ok(answer.is_err())),
                    _ => self.note(&format!("mkdir {name}"), answer),
                }
            }
            13 | 14 if name != "." && to != "." => {
                let answer = self.vfs.rename(&path, &other);
                self.note(&format!("rename {name} {to}"), answer);
            }
            15 if name != "." && to != "." => {
                let answer = self.vfs.hard_link(&path, &other);
                self.note(&format!("link {name} {to}"), answer);
            }
            16 if !self.is_dir(&path) => {
                let answer = self.vfs.remove_file(&path);
                self.note(&format!("remove {name}"), answer);
            }
            17 => {
                let names = self.vfs.read_dir(&path).map(|mut names| {
                    names.sort();
                    names
                });
                self.note(&format!("list {name}"), names);
            }
            18 if self.is_dir(&path) || self.vfs.metadata(&path).is_err() => {
                let answer = self.vfs.sync_dir(&path);
                self.note(&format!("sync {name}"), answer);
            }
            19 => self.look(&path, &name),
            20 if !self.is_dir(&path) => {
                let exclusive = self.below(2) == 0;
                let answer = self.vfs.lock(&path, exclusive);
                let held = answer.map(|guard| guard.map(|guard| self.locks.push(guard)).is_some());
                self.note(&format!("lock {name} {exclusive}"), held);
            }
            _ if self.below(3) == 0 => {
                self.locks.clear();
                self.files.truncate(6);
                self.note("unlock", Ok(()));
            }
            _ => self.note("nothing", Ok(())),
        }
    }

    fn open(&mut self, path: &Path, name: &str) {
        let mode = match self.below(4) {
            0 => OpenMode::Read,
            1 => OpenMode::ReadWrite,
            2 => OpenMode::CreateNew,
            _ => OpenMode::CreateOrTruncate,
        };
        if mode == OpenMode::Read && self.is_dir(path) {
            return self.note("nothing", Ok(()));
        }
        let answer = self.vfs.open(path, mode);
        let answer = answer.map(|file| self.files.push(file));
        self.note(&format!("open {name} {mode:?}"), answer);
    }

    fn file(&mut self) -> Option<(usize, Arc<dyn VfsFile>)> {
        let which = self.below(self.files.len().max(1) as u64) as usize;
        Some((which, self.files.get(which)?.clone()))
    }

    fn write(&mut self) {
        let (offset, len, fill) = (self.below(9000), self.below(9000), self.below(256));
        let Some((which, file)) = self.file() else {
            return self.note("nothing", Ok(()));
        };
        let offset = match self.below(20) {
            0 => u64::MAX,
            _ => offset,
        };
        let answer = file.write_at(&vec![fill as u8; len as usize], offset);
        let what = format!("write {which} {offset} {len}");
        match answer {
            Err(_) => self.note(&what, Ok("failed")), // Not open for writing, or a wild offset.
            answer => self.note(&what, answer),
        }
        let answer = file.sync_data();
        self.note(&format!("sync {which}"), answer);
    }

    fn read(&mut self) {
        let (offset, len) = (self.below(20_000), self.below(9000));
        let Some((which, file)) = self.file() else {
            return self.note("nothing", Ok(()));
        };
        let mut buf = vec![0; len as usize];
        let answer = file.read_at(&mut buf, offset);
        self.note(
            &format!("read {which} {offset}"),
            answer.map(|n| (n, sum(&buf[..n]))),
        );
        let answer = file.read_at(&mut buf, u64::MAX);
        self.note("read beyond", answer);
        let answer = file.len();
        self.note("len", answer);
    }

    fn look(&mut self, path: &Path, name: &str) {
        let found = self.vfs.metadata(path).map(|found| match found.is_dir {
            true => (0, 0),
            false => (found.len, found.links),
        });
        self.note(&format!("look {name}"), found);
    }

    /// All files, by open and by map.
    fn dump(&mut self) {
        for name in ["a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a"] {
            let path = self.root.join(name);
            self.look(&path, name);
            if self.is_dir(&path) {
                continue;
            }
            let Ok(file) = self.vfs.open(&path, OpenMode::Read) else {
                continue;
            };
            let len = file.len().unwrap();
            let map = file.map(len).unwrap();
            let mut buf = vec![0; len as usize];
            assert_eq!(file.read_at(&mut buf, 0).unwrap() as u64, len);
            assert!(map == buf, "a map shows what a read does");
            self.note("map", Ok(sum(&map)));
            let answer = file.map(len + 1).map(drop);
            self.note("map beyond", answer);
        }
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let add = |sum: u64, byte: &u8| sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
    bytes.iter().fold(0, add)
}

#[cfg(test)]
mod tests {
    use super::super::{FaultVfs, MemVfs, OsVfs};
    use super::*;

    #[test]
    fn file_systems_agree() {
        for seed in 0..60 {
            let dir = tempfile::tempdir().unwrap();
            let os = transcript(&OsVfs, dir.path(), seed, 300);
            // A held directory is that directory, also after it was moved and has a successor.
            let home = tempfile::tempdir().unwrap();
            let root = home.path().join("root");
            OsVfs.create_dir(&root).unwrap();
            if let Some(held) = OsVfs.hold(&root).unwrap() {
                OsVfs.rename(&root, &home.path().join("moved")).unwrap();
                OsVfs.create_dir(&root).unwrap();
                assert_eq!(transcript(&*held, &root, seed, 300), os, "seed {seed}");
                assert!(OsVfs.read_dir(&root).unwrap().is_empty());
            }
            let fault = FaultVfs::new(MemVfs::crashable(seed));
            let vfs: [Arc<dyn Vfs>; 3] = [MemVfs::new(seed), MemVfs::crashable(seed), fault];
            for vfs in vfs {
                vfs.create_dir(Path::new("/root")).unwrap();
                let mem = transcript(&*vfs, Path::new("/root"), seed, 300);
                let mut lines = os.lines().zip(mem.lines());
                if let Some((os, mem)) = lines.find(|(os, mem)| os != mem) {
                    panic!("seed {seed}: the system says\n{os}\n{vfs:?} says\n{mem}");
                }
                assert_eq!(os.len(), mem.len());
            }
        }
    }
}
