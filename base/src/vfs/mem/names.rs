//! The directory tree: the names that a reader sees, those that are durable, and the changes in
//! between.
//!
//! A change *sets* one or two names: creation, a link and a directory set one to a file or
//! directory, removal sets one to nothing, a rename sets two as a unit. `visible = durable +
//! pending`, and each pending change may reach the disk on its own, except that two that touch the
//! same name keep their order. A change becomes durable when its *home* is synced: the directory of
//! the name, of a rename that of the new name.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::normalize;
use super::node::Node;

/// Names a directory. The root is 0.
pub(super) type DirId = u64;

pub(super) const ROOT: DirId = 0;

/// What has a name.
#[derive(Clone)]
pub(super) enum Entry {
    Dir(DirId),
    File(Arc<Node>),
}

impl Entry {
    fn same(&self, other: &Entry) -> bool {
        match (self, other) {
            (Entry::Dir(a), Entry::Dir(b)) => a == b,
            (Entry::File(a), Entry::File(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

pub(super) type Entries = BTreeMap<OsString, Entry>;

/// One directory.
#[derive(Clone, Default)]
pub(super) struct Dir {
    pub(super) visible: Entries,
    pub(super) durable: Entries,
}

/// A name and what it is set to.
#[derive(Clone)]
pub(super) struct Set {
    pub(super) dir: DirId,
    pub(super) name: OsString,
    pub(super) entry: Option<Entry>,
}

/// A change of the tree: all of its names or none.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) home: DirId,
    pub(super) sets: Vec<Set>,
}

/// The directory tree.
pub(super) struct Names {
    pub(super) dirs: BTreeMap<DirId, Dir>,
    pub(super) pending: Vec<Change>,
    next_dir: DirId,
    /// False: every change is durable at once, and durable names are not kept.
    tracked: bool,
}

/// Where a path leads: the name in its directory, and what has it.
pub(super) struct Place {
    pub(super) dir: DirId,
    pub(super) name: OsString,
    pub(super) entry: Option<Entry>,
}

impl Place {
    /// What has the name, or that nothing has.
    pub(super) fn found(self) -> io::Result<Entry> {
        self.entry.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The file that has the name.
    pub(super) fn file(self) -> io::Result<Arc<Node>> {
        match self.found()? {
            Entry::File(node) => Ok(node),
            Entry::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }
}

impl Names {
    pub(super) fn new(tracked: bool) -> Names {
        Names {
            dirs: BTreeMap::from([(ROOT, Dir::default())]),
            pending: Vec::new(),
            next_dir: ROOT + 1,
            tracked,
        }
    }

    /// A tree with these directories; numbers of new ones go on where `self` stands.
    pub(super) fn successor(&self, dirs: BTreeMap<DirId, Dir>, pending: Vec<Change>) -> Names {
        for entry in dirs.values().flat_map(|dir| dir.visible.values()) {
            if let Entry::File(node) = entry {
                node.links.fetch_add(1, Ordering::Relaxed);
            }
        }
        Names {
            dirs,
            pending,
            next_dir: self.next_dir,
            tracked: true,
        }
    }

    /// The durable names of a directory.
    pub(super) fn durable<'a>(&self, dir: &'a Dir) -> &'a Entries {
        if self.tracked {
            &dir.durable
        } else {
            &dir.visible
        }
    }

    /// The directories with their durable names alone.
    pub(super) fn durable_dirs(&self) -> BTreeMap<DirId, Dir> {
        let durable = |dir: &Dir| Dir {
            visible: Entries::new(),
            durable: self.durable(dir).clone(),
        };
        let dirs = self.dirs.iter();
        dirs.map(|(id, dir)| (*id, durable(dir))).collect()
    }

    fn entry(&self, dir: DirId, name: &OsString) -> Option<&Entry> {
        self.dirs.get(&dir)?.visible.get(name)
    }

    /// Follows all but the last part of `path`.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        let path = normalize(path);
        let mut dir = ROOT;
        let mut last: Option<OsString> = None;
        for part in path.components() {
            let Component::Normal(name) = part else {
                continue;
            };
            if let Some(above) = last.replace(name.to_owned()) {
                dir = match self.entry(dir, &above) {
                    Some(Entry::Dir(below)) => *below,
                    Some(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                    None => return Err(io::ErrorKind::NotFound.into()),
                };
            }
        }
        let Some(name) = last else {
            let (name, entry) = (OsString::from("/"), Some(Entry::Dir(ROOT)));
            return Ok(Place { dir, name, entry });
        };
        let entry = self.entry(dir, &name).cloned();
        Ok(Place { dir, name, entry })
    }

    /// The directory that has the name `path`.
    pub(super) fn dir(&self, path: &Path) -> io::Result<(DirId, &Dir)> {
        match self.place(path)?.found()? {
            Entry::Dir(id) => match self.dirs.get(&id) {
                Some(dir) => Ok((id, dir)),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            Entry::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Sets names, visibly.
    fn apply(&mut self, home: DirId, sets: Vec<Set>) {
        for set in &sets {
            let Some(dir) = self.dirs.get_mut(&set.dir) else {
                continue;
            };
            let old = match set.entry.clone() {
                Some(entry) => {
                    if let Entry::File(node) = &entry {
                        node.links.fetch_add(1, Ordering::Relaxed);
                    }
                    dir.visible.insert(set.name.clone(), entry)
                }
                None => dir.visible.remove(&set.name),
            };
            if let Some(Entry::File(node)) = old {
                node.links.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if self.tracked {
            self.pending.push(Change { home, sets });
        }
    }

    fn set(&mut self, place: Place, entry: Option<Entry>) {
        let Place { dir, name, .. } = place;
        self.apply(dir, vec![Set { dir, name, entry }]);
    }

    /// Gives `node` the name, which is free.
    pub(super) fn create(&mut self, place: Place, node: Arc<Node>) {
        self.set(place, Some(Entry::File(node)));
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        if place.entry.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.next_dir;
        self.next_dir += 1;
        self.dirs.insert(id, Dir::default());
        self.set(place, Some(Entry::Dir(id)));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        match &place.entry {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Entry::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            Some(Entry::File(_)) => {
                self.set(place, None);
                Ok(())
            }
        }
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.place(from)?.found()?, self.place(to)?);
        if to.entry.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if let Entry::Dir(_) = from {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.set(to, Some(from));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (old, new) = (self.place(from)?, self.place(to)?);
        let Some(entry) = old.entry else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let (from, to) = (normalize(from), normalize(to));
        if from != to && to.starts_with(&from) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if from != to && from.starts_with(&to) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        match (&entry, &new.entry) {
            (entry, Some(target)) if entry.same(target) => return Ok(()),
            (Entry::File(_), Some(Entry::Dir(_))) => {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            (Entry::Dir(_), Some(Entry::File(_))) => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            (Entry::Dir(_), Some(Entry::Dir(target)))
                if self
                    .dirs
                    .get(target)
                    .is_some_and(|dir| !dir.visible.is_empty()) =>
            {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            _ => {}
        }
        let gone = Set {
            dir: old.dir,
            name: old.name,
            entry: None,
        };
        let come = Set {
            dir: new.dir,
            name: new.name,
            entry: Some(entry),
        };
        self.apply(new.dir, vec![gone, come]);
        Ok(())
    }

    /// Makes the names in a directory durable, and earlier changes that these rest on.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        let (id, _) = self.dir(path)?;
        self.persist(|change| change.home == id);
        Ok(())
    }

    /// Makes the name `path` and those above it durable.
    pub(super) fn persist_path(&mut self, path: &Path) {
        let path = normalize(path);
        for path in path.ancestors() {
            if let Ok(Place { dir, name, .. }) = self.place(path) {
                self.persist(|change| {
                    let touches = |set: &Set| set.dir == dir && set.name == name;
                    change.sets.iter().any(touches)
                });
            }
        }
    }

    fn persist(&mut self, wanted: impl Fn(&Change) -> bool) {
        let mut needed = HashSet::new();
        let mut durable = vec![false; self.pending.len()];
        for (change, durable) in self.pending.iter().zip(&mut durable).rev() {
            let key = |set: &Set| (set.dir, set.name.clone());
            if wanted(change) || change.sets.iter().any(|set| needed.contains(&key(set))) {
                needed.extend(change.sets.iter().map(key));
                *durable = true;
            }
        }
        let pending = std::mem::take(&mut self.pending);
        for (change, durable) in pending.into_iter().zip(durable) {
            if durable {
                settle(&mut self.dirs, change);
            } else {
                self.pending.push(change);
            }
        }
    }

    /// Writes down what of the names and files is durable, for a hash.
    pub(super) fn describe(&self, text: &mut Vec<u8>) {
        let set = |text: &mut Vec<u8>, name: &OsString, entry: Option<&Entry>| {
            text.extend_from_slice(name.as_encoded_bytes());
            text.push(0);
            match entry {
                Some(Entry::File(node)) => {
                    text.extend_from_slice(&node.id.to_le_bytes());
                    node.state(|file| file.describe(text));
                }
                Some(Entry::Dir(id)) => text.extend_from_slice(&id.to_le_bytes()),
                None => {}
            }
        };
        for dir in self.dirs.values() {
            for (name, entry) in self.durable(dir) {
                set(text, name, Some(entry));
            }
            text.push(1);
        }
        for change in &self.pending {
            for one in &change.sets {
                set(text, &one.name, one.entry.as_ref());
            }
            text.push(2);
        }
    }

    /// Every name of a file, with the file, in order. Directories too, with `None`.
    pub(super) fn walk(&self) -> Vec<(PathBuf, Option<&Arc<Node>>)> {
        let mut found = Vec::new();
        let mut todo = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, dir)) = todo.pop() {
            for (name, entry) in self.dirs.get(&dir).iter().flat_map(|dir| &dir.visible) {
                let path = path.join(name);
                match entry {
                    Entry::File(node) => found.push((path, Some(node))),
                    Entry::Dir(below) => {
                        todo.push((path.clone(), *below));
                        found.push((path, None));
                    }
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }
}

/// Sets the durable names of `change`.
pub(super) fn settle(dirs: &mut BTreeMap<DirId, Dir>, change: Change) {
    for Set { dir, name, entry } in change.sets {
        if let Some(dir) = dirs.get_mut(&dir) {
            match entry {
                Some(entry) => dir.durable.insert(name, entry),
                None => dir.durable.remove(&name),
            };
        }
    }
}
