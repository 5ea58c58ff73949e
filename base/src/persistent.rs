//! A sorted map whose copies share what they have in common.
//!
//! A [`PersistentMap`] is a B+-tree of reference-counted nodes. A clone costs one counter. A change
//! copies the nodes on one path from the root, and only those that another copy still shares, so a
//! change costs the logarithm of the number of entries however many copies there are:
//!
//! ```text
//!        before      after           after `insert(6)`: two new nodes, the rest is shared
//!        [1 5 9]     [1 5 9]'
//!        /  |  \    ____/|\
//!    [1 2][5 7][9]      [5 6 7]'
//! ```
//!
//! It holds state of which readers keep old copies while one writer makes the next: the tables of a
//! version, the keyspaces of a manifest, deleted ranges.
//!
//! # Invariants
//!
//! Keys rise. An inner node names each child by the first key below it. All leaves have one depth.
//! No node is empty.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Entries of a full node. A full node that gets one more is cut in half.
const FULL: usize = 32;
/// A node with fewer entries is joined with a neighbour, if both fit into one.
const SPARSE: usize = FULL / 4;

enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<Child<K, V>>),
}

/// A node below another, with its first key.
type Child<K, V> = (K, Arc<Node<K, V>>);

/// A sorted map that is cheap to clone and to change; see the essay on top of this file.
pub struct PersistentMap<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Node<K, V> {
        match self {
            Node::Leaf(entries) => Node::Leaf(entries.clone()),
            Node::Inner(children) => Node::Inner(children.clone()),
        }
    }
}

impl<K, V> Clone for PersistentMap<K, V> {
    fn clone(&self) -> PersistentMap<K, V> {
        PersistentMap {
            root: self.root.clone(),
            len: self.len,
        }
    }
}

impl<K, V> Default for PersistentMap<K, V> {
    fn default() -> PersistentMap<K, V> {
        PersistentMap::new()
    }
}

impl<K, V> PersistentMap<K, V> {
    /// A map without entries.
    pub const fn new() -> PersistentMap<K, V> {
        PersistentMap { root: None, len: 0 }
    }

    /// Number of entries.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if there is no entry.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, by rising key.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.iter_from(|_| Ordering::Greater)
    }

    /// All keys, rising.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, by rising key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entries from the first on whose key is not `Less`, where `place` says how a key compares
    /// with the place that is looked for.
    pub fn iter_from(&self, place: impl Fn(&K) -> Ordering) -> Iter<'_, K, V> {
        let mut iter = Iter {
            path: Vec::new(),
            leaf: [].iter(),
        };
        let mut node = self.root.as_deref();
        while let Some(at) = node {
            match at {
                Node::Leaf(entries) => {
                    let start = entries.partition_point(|(key, _)| place(key).is_lt());
                    iter.leaf = entries.get(start..).unwrap_or(&[]).iter();
                    node = None;
                }
                Node::Inner(children) => {
                    let i = child_of(children, |key| place(key).is_le());
                    let mut rest = children.get(i..).unwrap_or(&[]).iter();
                    node = rest.next().map(|(_, child)| &**child);
                    iter.path.push(rest);
                }
            }
        }
        iter
    }

    /// The last entry whose key is not `Greater`, where `place` says how a key compares with the
    /// place that is looked for.
    #[inline]
    pub fn floor(&self, place: impl Fn(&K) -> Ordering) -> Option<(&K, &V)> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let behind = entries.partition_point(|(key, _)| place(key).is_le());
                    return entries.get(behind.checked_sub(1)?).map(|(k, v)| (k, v));
                }
                Node::Inner(children) => {
                    let i = child_of(children, |key| place(key).is_le());
                    node = &**children.get(i).map(|(_, child)| child)?;
                }
            }
        }
    }

    /// The first entry.
    pub fn first(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }
}

impl<K: Ord, V> PersistentMap<K, V> {
    /// The value of `key`.
    #[inline]
    pub fn get(&self, key: &K) -> Option<&V> {
        let (found, value) = self.floor(|k| k.cmp(key))?;
        (found == key).then_some(value)
    }

    /// True if `key` has a value.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }
}

impl<K: Ord + Clone, V: Clone> PersistentMap<K, V> {
    /// Gives `key` a value; the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(vec![(key, value)])));
            self.len = 1;
            return None;
        };
        let (before, right) = insert(Arc::make_mut(root), key, value);
        if let Some((separator, right)) = right
            && let Some(first) = first_key(root)
        {
            let children = vec![(first.clone(), Arc::clone(root)), (separator, right)];
            self.root = Some(Arc::new(Node::Inner(children)));
        }
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes `key` out; the value that it had.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        if !self.contains_key(key) {
            return None; // Nothing is copied for a key that is not there.
        }
        let root = self.root.as_mut()?;
        let value = remove(Arc::make_mut(root), key)?;
        self.len -= 1;
        match &**root {
            Node::Leaf(entries) if entries.is_empty() => self.root = None,
            Node::Inner(children) => {
                if let [(_, only)] = &**children {
                    self.root = Some(Arc::clone(only));
                }
            }
            Node::Leaf(_) => {}
        }
        Some(value)
    }

    /// The value of `key`, to change it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if !self.contains_key(key) {
            return None;
        }
        let mut node = Arc::make_mut(self.root.as_mut()?);
        loop {
            match node {
                Node::Leaf(entries) => {
                    let i = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                    return entries.get_mut(i).map(|(_, value)| value);
                }
                Node::Inner(children) => {
                    let i = child_of(children, |k| k <= key);
                    node = Arc::make_mut(children.get_mut(i).map(|(_, child)| child)?);
                }
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for PersistentMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> PersistentMap<K, V> {
        let mut map = PersistentMap::new();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for PersistentMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for PersistentMap<K, V> {
    fn eq(&self, other: &PersistentMap<K, V>) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for PersistentMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for PersistentMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The child that a search enters: the last one that `reaches` the place, or the first.
fn child_of<K, V>(children: &[Child<K, V>], reaches: impl Fn(&K) -> bool) -> usize {
    let behind = children.partition_point(|(key, _)| reaches(key));
    behind.saturating_sub(1)
}

fn first_key<K, V>(node: &Node<K, V>) -> Option<&K> {
    match node {
        Node::Leaf(entries) => entries.first().map(|(key, _)| key),
        Node::Inner(children) => children.first().map(|(key, _)| key),
    }
}

type Split<K, V> = Option<Child<K, V>>;

/// Inserts below `node`: the value before, and the new right half of a node that was full.
fn insert<K: Ord + Clone, V: Clone>(
    node: &mut Node<K, V>,
    key: K,
    value: V,
) -> (Option<V>, Split<K, V>) {
    match node {
        Node::Leaf(entries) => match entries.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(i) => {
                let before = entries.get_mut(i);
                let before = before.map(|(_, v)| std::mem::replace(v, value));
                (before, None)
            }
            Err(i) => {
                entries.insert(i, (key, value));
                (None, cut(entries, i, Node::Leaf))
            }
        },
        Node::Inner(children) => {
            let i = child_of(children, |k| *k <= key);
            let Some((separator, child)) = children.get_mut(i) else {
                return (None, None); // No inner node is empty.
            };
            if key < *separator {
                *separator = key.clone();
            }
            let (before, right) = insert(Arc::make_mut(child), key, value);
            let Some(right) = right else {
                return (before, None);
            };
            children.insert(i + 1, right);
            (before, cut(children, i + 1, Node::Inner))
        }
    }
}

/// The right part of an overfull node, into which an entry went at `at`. Keys that come in rising
/// order leave full nodes.
fn cut<K: Clone, T, V>(
    entries: &mut Vec<(K, T)>,
    at: usize,
    node: impl Fn(Vec<(K, T)>) -> Node<K, V>,
) -> Split<K, V> {
    if entries.len() <= FULL {
        return None;
    }
    let last = entries.len() - 1;
    let right = entries.split_off(if at == last { last } else { FULL / 2 });
    let separator = right.first()?.0.clone();
    Some((separator, Arc::new(node(right))))
}

/// Takes `key`, which is there, out of what lies below `node`.
fn remove<K: Ord + Clone, V: Clone>(node: &mut Node<K, V>, key: &K) -> Option<V> {
    match node {
        Node::Leaf(entries) => {
            let i = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
            Some(entries.remove(i).1)
        }
        Node::Inner(children) => {
            let i = child_of(children, |k| k <= key);
            let (first, child) = children.get_mut(i)?;
            let value = remove(Arc::make_mut(child), key)?;
            if first == key
                && let Some(next) = first_key(child)
            {
                *first = next.clone();
            }
            match len(child) {
                0 => drop(children.remove(i)),
                n if n < SPARSE => join(children, i),
                _ => {}
            }
            Some(value)
        }
    }
}

fn len<K, V>(node: &Node<K, V>) -> usize {
    match node {
        Node::Leaf(entries) => entries.len(),
        Node::Inner(children) => children.len(),
    }
}

/// Joins child `i` with a neighbour, if one node holds both.
fn join<K: Clone, V: Clone>(children: &mut Vec<Child<K, V>>, i: usize) {
    let fits = |pair: &[Child<K, V>]| match pair {
        [(_, left), (_, right)] => len(left) + len(right) <= FULL,
        _ => false,
    };
    let neighbours = [i.checked_sub(1), Some(i)].into_iter().flatten();
    let mut joinable = neighbours.filter(|&left| children.get(left..left + 2).is_some_and(fits));
    let Some(left) = joinable.next() else { return };
    let (_, right) = children.remove(left + 1);
    let Some((_, left)) = children.get_mut(left) else {
        return;
    };
    match (Arc::make_mut(left), Arc::unwrap_or_clone(right)) {
        (Node::Leaf(left), Node::Leaf(right)) => left.extend(right),
        (Node::Inner(left), Node::Inner(right)) => left.extend(right),
        _ => {} // All leaves have one depth.
    }
}

/// Goes through a [`PersistentMap`] by rising key.
pub struct Iter<'a, K, V> {
    /// What is left of each inner node on the way down.
    path: Vec<std::slice::Iter<'a, Child<K, V>>>,
    leaf: std::slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<(&'a K, &'a V)> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            let mut node = loop {
                match self.path.last_mut()?.next() {
                    Some((_, child)) => break &**child,
                    None => drop(self.path.pop()),
                }
            };
            while let Node::Inner(children) = node {
                let mut rest = children.iter();
                let Some((_, child)) = rest.next() else { break };
                self.path.push(rest);
                node = child;
            }
            if let Node::Leaf(entries) = node {
                self.leaf = entries.iter();
            }
        }
    }
}

impl<K, V> fmt::Debug for Iter<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "persistent_tests.rs"]
mod tests;
