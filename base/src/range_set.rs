//! Deleted ranges of keys, and what they hide.
//!
//! A range delete is one write: from its sequence number on, every older entry of the range is
//! gone. The deletes that are in force together form a [`RangeSet`], which never changes; another
//! delete makes another set. An entry written at `seq` is hidden from a reader at `at` if a delete
//! above `seq` and not above `at` covers its key.
//!
//! # How deletes are found
//!
//! The deletes are the nodes of an *interval tree*: a search tree by keyspace and first key in
//! which each node also knows the last end, the oldest and the newest delete
//! of its subtree. A search for what covers a key leaves out
//!
//! - what begins behind the key: the right side of each node that does,
//! - subtrees in which every delete ends at or before the key,
//! - subtrees in which no delete is newer than what was found, or none is old enough for the
//!   reader.
//!
//! ```text
//! deletes [b, f) at 5, [d, k) at 9, [m, p) at 7           [d, k) at 9; furthest p, 5 to 9
//!                                                          /                      \
//!                                      [b, f) at 5; furthest f, 5    [m, p) at 7; furthest p, 7
//! ```
//!
//! So an answer takes the logarithm of the number of deletes, also where all overlap, as those of a
//! log whose head is deleted again and again do. Nodes are shared between a set and the next: one
//! more delete copies a path. The tree is a treap: its balance comes from priorities that are a
//! hash of the sequence number.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::hash::seeded;
use crate::key::{KeyspaceId, SeqNo, UserKey};
use crate::persistent::PersistentMap;

/// One range delete.
#[derive(Clone, PartialEq, Eq)]
pub struct DeletedRange {
    /// The keyspace of the keys.
    pub keyspace: KeyspaceId,
    /// The first key that is gone.
    pub lower: Box<[u8]>,
    /// The first key behind the range; the range goes to the keyspace's end if there is none.
    pub upper: Option<Box<[u8]>>,
    /// When it was written.
    pub seq: SeqNo,
}

impl DeletedRange {
    /// True if it covers all that `other` does.
    pub fn covers(&self, other: &DeletedRange) -> bool {
        self.keyspace == other.keyspace
            && self.lower <= other.lower
            && ends_by(other.upper.as_deref(), self.upper.as_deref())
    }

    /// True if it covers every key from `first` to `last`.
    pub fn covers_keys(&self, first: UserKey<'_>, last: UserKey<'_>) -> bool {
        first.keyspace == self.keyspace
            && last.keyspace == self.keyspace
            && *self.lower <= *first.bytes
            && is_before(last.bytes, self.upper.as_deref())
    }

    /// True if it covers a key from `first` to `last`, should there be one.
    pub fn touches(&self, first: UserKey<'_>, last: UserKey<'_>) -> bool {
        let begins = UserKey::new(self.keyspace, &self.lower);
        let ends_behind_first =
            (first.keyspace < self.keyspace) || is_before(first.bytes, self.upper.as_deref());
        first.keyspace <= self.keyspace && begins <= last && ends_behind_first
    }
}

impl fmt::Debug for DeletedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}, ", UserKey::new(self.keyspace, &self.lower))?;
        match &self.upper {
            Some(upper) => write!(f, "{})#{}", upper.escape_ascii(), self.seq),
            None => write!(f, "end)#{}", self.seq),
        }
    }
}

/// True if `key` lies before the end `upper` of a range; `None` is the keyspace's end.
fn is_before(key: &[u8], upper: Option<&[u8]>) -> bool {
    upper.is_none_or(|upper| key < upper)
}

/// True if a range that ends at `a` ends no later than one that ends at `b`.
fn ends_by(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    match (a, b) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(a), Some(b)) => a <= b,
    }
}

/// Memory that a delete takes beside its keys: the delete, a node of the tree and its place by age.
const OVERHEAD: u64 = 256;

type Tree = Option<Arc<Node>>;

/// A delete, and what is known of all deletes at and below it.
struct Node {
    range: Arc<DeletedRange>,
    left: Tree,
    right: Tree,
    /// The delete whose end lies furthest behind.
    furthest: Arc<DeletedRange>,
    oldest: SeqNo,
    newest: SeqNo,
}

impl Node {
    fn new(range: Arc<DeletedRange>, left: Tree, right: Tree) -> Arc<Node> {
        let (mut furthest, mut oldest, mut newest) = (&range, range.seq, range.seq);
        for child in [&left, &right].into_iter().flatten() {
            if cmp_ends(&child.furthest, furthest).is_gt() {
                furthest = &child.furthest;
            }
            oldest = oldest.min(child.oldest);
            newest = newest.max(child.newest);
        }
        let furthest = Arc::clone(furthest);
        Arc::new(Node {
            range,
            left,
            right,
            furthest,
            oldest,
            newest,
        })
    }

    fn begins_at_or_before(&self, key: UserKey<'_>) -> bool {
        UserKey::new(self.range.keyspace, &self.range.lower) <= key
    }
}

/// The order of two deletes by where they end.
fn cmp_ends(a: &DeletedRange, b: &DeletedRange) -> Ordering {
    let by_key = || match (&a.upper, &b.upper) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    };
    a.keyspace.cmp(&b.keyspace).then_with(by_key)
}

/// The order of two deletes in the tree.
fn cmp_starts(a: &DeletedRange, b: &DeletedRange) -> Ordering {
    let (a, b) = ((a.keyspace, &a.lower, a.seq), (b.keyspace, &b.lower, b.seq));
    a.cmp(&b)
}

/// True if `range` ends behind `key`, which need not lie in its keyspace.
fn ends_behind(range: &DeletedRange, key: UserKey<'_>) -> bool {
    range.keyspace > key.keyspace
        || (range.keyspace == key.keyspace && is_before(key.bytes, range.upper.as_deref()))
}

fn priority(range: &DeletedRange) -> u64 {
    seeded(range.seq.get(), 0x9E37_79B9_7F4A_7C15)
}

/// The range deletes that are in force together.
#[derive(Clone, Default)]
pub struct RangeSet {
    by_age: PersistentMap<SeqNo, Arc<DeletedRange>>,
    root: Tree,
    key_bytes: u64,
}

impl PartialEq for RangeSet {
    fn eq(&self, other: &RangeSet) -> bool {
        self.by_age == other.by_age
    }
}

impl Eq for RangeSet {}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

impl RangeSet {
    /// The set of these deletes. Costs as much as sorting them.
    pub fn new(mut ranges: Vec<Arc<DeletedRange>>) -> RangeSet {
        ranges.sort_by_key(|range| range.seq);
        ranges.dedup_by_key(|range| range.seq);
        let by_age = ranges.iter().map(|range| (range.seq, Arc::clone(range)));
        let by_age = by_age.collect();
        let key_bytes = ranges.iter().map(|range| key_bytes(range)).sum();
        ranges.sort_by(|a, b| cmp_starts(a, b));
        RangeSet {
            by_age,
            root: build(&ranges),
            key_bytes,
        }
    }

    /// Adds a delete; one of a sequence number that is there already changes nothing.
    pub fn insert(&mut self, range: Arc<DeletedRange>) {
        if self.by_age.contains_key(&range.seq) {
            return;
        }
        self.key_bytes += key_bytes(&range);
        self.root = Some(insert(&self.root, &range));
        self.by_age.insert(range.seq, range);
    }

    /// Takes the delete at `seq` out; false if there is none.
    pub fn remove(&mut self, seq: SeqNo) -> bool {
        let Some(range) = self.by_age.remove(&seq) else {
            return false;
        };
        self.key_bytes -= key_bytes(&range);
        self.root = remove(&self.root, &range);
        true
    }

    /// This set and one delete more.
    pub fn with(&self, range: DeletedRange) -> RangeSet {
        let mut next = self.clone();
        next.insert(Arc::new(range));
        next
    }

    /// All deletes of some sets. Costs as much as those of all but the largest.
    pub fn union<'a>(sets: impl IntoIterator<Item = &'a RangeSet>) -> RangeSet {
        let mut sets: Vec<&RangeSet> = sets.into_iter().collect();
        sets.sort_by_key(|set| std::cmp::Reverse(set.len()));
        let mut sets = sets.into_iter();
        let mut all = sets.next().cloned().unwrap_or_default();
        for range in sets.flat_map(RangeSet::ranges) {
            all.insert(Arc::clone(range));
        }
        all
    }

    /// The set without deletes that are of no use: a later one covers all of the range, and every
    /// reader that sees the first sees the later one too. Readers see alike what was written up to
    /// `alike` of a sequence number.
    pub fn without_superseded(&self, alike: impl Fn(SeqNo) -> SeqNo) -> RangeSet {
        let mut rest = self.clone();
        for range in self.ranges() {
            if self.is_superseded(range, alike(range.seq)) {
                rest.remove(range.seq);
            }
        }
        rest
    }

    /// True if a delete that is newer than `range`, and not above `upto`, covers all of it.
    pub fn is_superseded(&self, range: &DeletedRange, upto: SeqNo) -> bool {
        fn search(tree: &Tree, range: &DeletedRange, upto: SeqNo) -> bool {
            let Some(node) = tree else { return false };
            if node.newest <= range.seq
                || node.oldest > upto
                || cmp_ends(&node.furthest, range).is_lt()
            {
                return false;
            }
            if !node.begins_at_or_before(UserKey::new(range.keyspace, &range.lower)) {
                return search(&node.left, range, upto);
            }
            let newer = node.range.seq > range.seq && node.range.seq <= upto;
            (newer && node.range.covers(range))
                || search(&node.right, range, upto)
                || search(&node.left, range, upto)
        }
        search(&self.root, range, upto)
    }

    /// True if nothing is deleted by range.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// How many deletes there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Bytes of all keys that bound ranges.
    pub fn key_bytes(&self) -> u64 {
        self.key_bytes
    }

    /// An estimate of the memory that the set takes.
    pub fn memory(&self) -> u64 {
        self.key_bytes + self.len() as u64 * OVERHEAD
    }

    /// The deletes, oldest first.
    pub fn ranges(&self) -> impl Iterator<Item = &Arc<DeletedRange>> {
        self.by_age.values()
    }

    /// The delete at `seq`.
    pub fn get(&self, seq: SeqNo) -> Option<&Arc<DeletedRange>> {
        self.by_age.get(&seq)
    }

    /// The newest delete that covers `key` and that a reader at `at` sees.
    #[inline]
    pub fn covering(&self, key: UserKey<'_>, at: SeqNo) -> Option<&DeletedRange> {
        let mut best = None;
        newest(&self.root, key, at, &mut best);
        best
    }

    /// The sequence number of the newest delete of `key` at or below `at`; zero if there is none.
    #[inline]
    pub fn newest(&self, key: UserKey<'_>, at: SeqNo) -> SeqNo {
        if self.is_empty() {
            return SeqNo::ZERO;
        }
        self.covering(key, at)
            .map_or(SeqNo::ZERO, |range| range.seq)
    }

    /// The sequence number of the oldest delete of `key` above `seq`.
    #[inline]
    pub fn oldest_above(&self, key: UserKey<'_>, seq: SeqNo) -> Option<SeqNo> {
        let mut best = None;
        oldest(&self.root, key, seq, &mut best);
        best
    }

    /// True if a delete covers a key from `first` to `last`, should there be one.
    pub fn touches(&self, first: UserKey<'_>, last: UserKey<'_>) -> bool {
        self.find_touching(first, last, SeqNo::ZERO, |_| true)
            .is_some()
    }

    /// A delete above `above` that covers a key from `first` to `last`, should there be one, and
    /// that is `wanted`.
    pub fn find_touching(
        &self,
        first: UserKey<'_>,
        last: UserKey<'_>,
        above: SeqNo,
        mut wanted: impl FnMut(&DeletedRange) -> bool,
    ) -> Option<&DeletedRange> {
        find_touching(&self.root, first, last, above, &mut wanted)
    }
}

fn key_bytes(range: &DeletedRange) -> u64 {
    (range.lower.len() + range.upper.as_ref().map_or(0, |upper| upper.len())) as u64
}

/// The tree of deletes in the order of the tree.
fn build(ranges: &[Arc<DeletedRange>]) -> Tree {
    let priorities = ranges.iter().map(|range| priority(range)).enumerate();
    let (top, _) = priorities.max_by_key(|(_, priority)| *priority)?;
    let (left, right) = ranges.split_at(top);
    let (range, right) = right.split_first()?;
    Some(Node::new(Arc::clone(range), build(left), build(right)))
}

fn insert(tree: &Tree, new: &Arc<DeletedRange>) -> Arc<Node> {
    match tree {
        Some(node) if priority(&node.range) >= priority(new) => {
            let range = Arc::clone(&node.range);
            match cmp_starts(new, &range) {
                Ordering::Less => {
                    let left = insert(&node.left, new);
                    Node::new(range, Some(left), node.right.clone())
                }
                _ => {
                    let right = insert(&node.right, new);
                    Node::new(range, node.left.clone(), Some(right))
                }
            }
        }
        tree => {
            let (left, right) = split(tree, new);
            Node::new(Arc::clone(new), left, right)
        }
    }
}

/// What lies before `at` in the order of the tree, and what lies behind it.
fn split(tree: &Tree, at: &DeletedRange) -> (Tree, Tree) {
    let Some(node) = tree else {
        return (None, None);
    };
    let range = Arc::clone(&node.range);
    match cmp_starts(&range, at) {
        Ordering::Less => {
            let (left, right) = split(&node.right, at);
            (Some(Node::new(range, node.left.clone(), left)), right)
        }
        _ => {
            let (left, right) = split(&node.left, at);
            (left, Some(Node::new(range, right, node.right.clone())))
        }
    }
}

fn remove(tree: &Tree, gone: &DeletedRange) -> Tree {
    let node = tree.as_ref()?;
    let range = Arc::clone(&node.range);
    match cmp_starts(gone, &range) {
        Ordering::Equal => join(&node.left, &node.right),
        Ordering::Less => {
            let left = remove(&node.left, gone);
            Some(Node::new(range, left, node.right.clone()))
        }
        Ordering::Greater => {
            let right = remove(&node.right, gone);
            Some(Node::new(range, node.left.clone(), right))
        }
    }
}

/// One tree of two, of which the first lies before the second.
fn join(left: &Tree, right: &Tree) -> Tree {
    match (left, right) {
        (Some(l), Some(r)) if priority(&l.range) >= priority(&r.range) => {
            let right = join(&l.right, right);
            Some(Node::new(Arc::clone(&l.range), l.left.clone(), right))
        }
        (Some(_), Some(r)) => {
            let left = join(left, &r.left);
            Some(Node::new(Arc::clone(&r.range), left, r.right.clone()))
        }
        (one, other) => one.clone().or_else(|| other.clone()),
    }
}

fn newest<'a>(tree: &'a Tree, key: UserKey<'_>, at: SeqNo, best: &mut Option<&'a DeletedRange>) {
    let Some(node) = tree else { return };
    let found = best.map_or(SeqNo::ZERO, |range| range.seq);
    if node.newest <= found || node.oldest > at || !ends_behind(&node.furthest, key) {
        return;
    }
    if !node.begins_at_or_before(key) {
        return newest(&node.left, key, at, best);
    }
    let range = &*node.range;
    if range.seq > found && range.seq <= at && ends_behind(range, key) {
        *best = Some(range);
    }
    let age = |tree: &Tree| tree.as_ref().map_or(SeqNo::ZERO, |node| node.newest);
    let (first, second) = match age(&node.left) > age(&node.right) {
        true => (&node.left, &node.right),
        false => (&node.right, &node.left),
    };
    newest(first, key, at, best);
    newest(second, key, at, best);
}

fn oldest(tree: &Tree, key: UserKey<'_>, above: SeqNo, best: &mut Option<SeqNo>) {
    let Some(node) = tree else { return };
    let older = |seq: SeqNo, best: &Option<SeqNo>| best.is_none_or(|found| seq < found);
    if node.newest <= above || !older(node.oldest, best) || !ends_behind(&node.furthest, key) {
        return;
    }
    if !node.begins_at_or_before(key) {
        return oldest(&node.left, key, above, best);
    }
    let range = &*node.range;
    if range.seq > above && older(range.seq, best) && ends_behind(range, key) {
        *best = Some(range.seq);
    }
    let age = |tree: &Tree| tree.as_ref().map_or(SeqNo::MAX, |node| node.oldest);
    let (first, second) = match age(&node.right) < age(&node.left) {
        true => (&node.right, &node.left),
        false => (&node.left, &node.right),
    };
    oldest(first, key, above, best);
    oldest(second, key, above, best);
}

fn find_touching<'a>(
    tree: &'a Tree,
    first: UserKey<'_>,
    last: UserKey<'_>,
    above: SeqNo,
    wanted: &mut impl FnMut(&DeletedRange) -> bool,
) -> Option<&'a DeletedRange> {
    let node = tree.as_ref()?;
    if node.newest <= above || !ends_behind(&node.furthest, first) {
        return None;
    }
    if let Some(found) = find_touching(&node.left, first, last, above, wanted) {
        return Some(found);
    }
    if !node.begins_at_or_before(last) {
        return None;
    }
    let range = &*node.range;
    if range.seq > above && ends_behind(range, first) && wanted(range) {
        return Some(range);
    }
    find_touching(&node.right, first, last, above, wanted)
}

#[cfg(test)]
#[path = "range_set_tests.rs"]
mod tests;
