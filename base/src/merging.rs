//! Several sorted sources read as one.
//!
//! Each child keeps a *head*: a number that orders as its present key does as far as it goes
//! ([`UserKey::head`](crate::key::UserKey::head)); an exhausted child has a head beyond all others.
//! The next entry is the least head, found by a linear scan over at most a few dozen numbers that
//! lie in two cache lines; only equal heads compare keys. A loser tree was measured no faster up to
//! 16 children.
//!
//! Where keys share a long beginning, as padded numbers and URLs do, their heads are alike and say
//! nothing. So when the two least heads are equal, those two keys are compared, and if they part
//! far from their start, heads are taken anew: of what follows a *prefix* that ends a little before
//! that place. A key without the prefix has a head below or above all others. When two such keys
//! are the least, the walk has left the prefix, and another is found in the same way, or none.
//!
//! ```text
//! least keys    user:0000001742 user:0000001745     equal heads, for `user:000` is alike
//! prefix        user:0000            6 bytes before they part
//! heads         000174 000174..      compared up to 12 bytes from there
//! ```
//!
//! Most steps do not even scan. While the child that gave the last entry stays below the
//! runner-up's head, it stays (a gallop): one comparison a step.
//!
//! ```text
//! children   a: 1 2 3 9      b: 4 8      c: 5
//! after seek current = a (1), runner-up head = 4: the steps to 2 and 3 look at a alone;
//!            9 > 4, so scan: current = b (4), runner-up head = 5; ...
//! ```

use std::cmp::Ordering;

use bytes::Bytes;

use crate::error::Result;
use crate::iterator::InternalIterator;
use crate::key::{KeyRef, KeyspaceId, OwnedKey, SeqNo, UserKey, ValueKind, head_of};

const END: u128 = u128::MAX;
/// The head of a key above the prefix: above that of every key with it.
const ABOVE: u128 = 1 << 96;
/// The prefix ends this many bytes before the place where two keys part, so that it lasts for a
/// while.
const SLACK: usize = 6;
const EMPTY: KeyRef<'static> = KeyRef::new(
    UserKey::new(KeyspaceId(0), &[]),
    SeqNo::ZERO,
    ValueKind::Tombstone,
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// The entries of all children in one order. No two children may hold the same key and sequence
/// number.
#[derive(Debug)]
pub struct MergingIterator<I> {
    children: Vec<I>,
    /// Forward: the head of each child. Backward: its complement, so that the least is always next.
    heads: Vec<u128>,
    current: Option<usize>,
    /// The least head among the children other than the current one, or `END`.
    runner_up: u128,
    /// The child with that head.
    second: usize,
    direction: Direction,
    /// What heads leave out, of keys in this keyspace; empty: nothing.
    prefix: Vec<u8>,
    keyspace: KeyspaceId,
}

impl<I: InternalIterator> MergingIterator<I> {
    /// Merges `children`; not valid until positioned.
    pub fn new(children: Vec<I>) -> MergingIterator<I> {
        let heads = vec![END; children.len()];
        MergingIterator {
            children,
            heads,
            current: None,
            runner_up: END,
            second: usize::MAX,
            direction: Direction::Forward,
            prefix: Vec::new(),
            keyspace: KeyspaceId(0),
        }
    }

    /// The children, for example to count what they read.
    pub fn children(&self) -> &[I] {
        &self.children
    }

    /// Which child the entry comes from.
    pub fn current_child(&self) -> Option<usize> {
        self.current
    }

    /// Positions every child by `place` and takes the least in `direction`.
    fn position(
        &mut self,
        direction: Direction,
        mut place: impl FnMut(&mut I) -> Result<()>,
    ) -> Result<()> {
        self.direction = direction;
        self.current = None;
        for child in &mut self.children {
            place(child)?;
        }
        self.refresh();
        self.choose();
        Ok(())
    }

    /// Takes the heads of all children anew.
    fn refresh(&mut self) {
        for i in 0..self.children.len() {
            let head = self
                .children
                .get(i)
                .map_or(END, |child| self.head_of(child));
            if let Some(slot) = self.heads.get_mut(i) {
                *slot = head;
            }
        }
    }

    #[inline]
    fn head_of(&self, child: &I) -> u128 {
        if !child.valid() {
            return END;
        }
        let user = child.key().user;
        let head = match self.prefix.is_empty() {
            true => user.head(),
            false => self.head_after_prefix(user),
        };
        match self.direction {
            Direction::Forward => head,
            // The complement of a head is below END because no head is 0xff..ff; of head 0 it is
            // END - 0, so it is lowered by one: order among heads is kept, ties compare keys
            // anyway.
            Direction::Backward => (!head).min(END - 1),
        }
    }

    /// The 12 bytes that follow the prefix; of a key without the prefix, where that lies.
    #[inline(never)]
    fn head_after_prefix(&self, user: UserKey<'_>) -> u128 {
        let prefix = self.prefix.as_slice();
        match user.bytes.split_at_checked(prefix.len()) {
            Some((front, rest)) if front == prefix && user.keyspace == self.keyspace => {
                let more = rest.get(8..).unwrap_or(&[]);
                (u128::from(head_of(rest)) << 32) | u128::from(head_of(more) >> 32)
            }
            _ if user < UserKey::new(self.keyspace, prefix) => 0,
            _ => ABOVE,
        }
    }

    /// Makes the runner-up the current child, which the one before has passed.
    fn take_second(&mut self) {
        let (best, head) = (self.second, self.runner_up);
        if self.heads.get(best) != Some(&head) {
            return self.choose(); // It is not known.
        }
        let (mut second, mut runner_up) = (usize::MAX, END);
        for (i, &other) in self.heads.iter().enumerate() {
            if other < runner_up && i != best {
                (second, runner_up) = (i, other);
            }
        }
        if runner_up == head {
            return self.choose(); // Alike: their keys decide.
        }
        self.current = Some(best);
        (self.second, self.runner_up) = (second, runner_up);
    }

    /// Finds the child with the least key in the direction of travel, and the runner-up's head.
    fn choose(&mut self) {
        self.scan();
        if self.runner_up < END
            && let Some(best) = self.current
            && self.heads.get(best) == Some(&self.runner_up)
            && self.sharpen(best)
        {
            self.scan();
        }
    }

    fn scan(&mut self) {
        let mut best: Option<usize> = None;
        let (mut best_head, mut runner_up) = (END, END);
        let mut second = usize::MAX;
        for (i, &head) in self.heads.iter().enumerate() {
            if head > runner_up || head == END {
                continue; // Most children end here.
            }
            let wins = head < best_head
                || (head == best_head && best.is_some_and(|best| self.before(i, best)));
            if wins {
                (second, runner_up) = (best.unwrap_or(usize::MAX), best_head);
                (best, best_head) = (Some(i), head);
            } else {
                (second, runner_up) = (i, head);
            }
        }
        self.current = best;
        (self.second, self.runner_up) = (second, runner_up);
    }

    /// Takes heads of what follows another prefix, if that tells the two least keys apart, whose
    /// heads are equal; false if it does not.
    #[cold]
    fn sharpen(&mut self, best: usize) -> bool {
        let tied = |i: &usize| *i != best && self.heads.get(*i) == Some(&self.runner_up);
        let other = (0..self.children.len()).find(tied);
        let key = |i: usize| self.children.get(i).map(|child| child.key().user);
        let Some((a, b)) = key(best).zip(other.and_then(key)) else {
            return false;
        };
        if a == b {
            return false; // Versions of one key.
        }
        let pairs = a.bytes.iter().zip(b.bytes);
        let shared = match a.keyspace == b.keyspace {
            true => pairs.take_while(|(a, b)| a == b).count(),
            false => 0,
        };
        let prefix = a.bytes.get(..shared.saturating_sub(SLACK)).unwrap_or(&[]);
        let within = a.keyspace == self.keyspace && a.bytes.starts_with(&self.prefix);
        if within && prefix.len() <= self.prefix.len() {
            return false; // They part so late that a head does not come so far, or end too soon.
        }
        let (prefix, keyspace) = (prefix.to_vec(), a.keyspace);
        (self.prefix, self.keyspace) = (prefix, keyspace);
        self.refresh();
        true
    }

    /// True if child `a` comes before child `b` in the direction of travel. Both are valid.
    fn before(&self, a: usize, b: usize) -> bool {
        let (Some(a), Some(b)) = (self.children.get(a), self.children.get(b)) else {
            return false;
        };
        let order = a.key().cmp(&b.key());
        match self.direction {
            Direction::Forward => order == Ordering::Less,
            Direction::Backward => order == Ordering::Greater,
        }
    }

    /// Turns round: every other child is placed on the far side of the current key.
    #[cold]
    fn turn(&mut self, direction: Direction) -> Result<()> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        let here: OwnedKey = match self.children.get(current) {
            Some(child) => child.key().to_owned(),
            None => return Ok(()),
        };
        for (i, child) in self.children.iter_mut().enumerate() {
            match direction {
                _ if i == current => {}
                Direction::Forward => child.seek(here.as_ref())?,
                Direction::Backward => child.seek_for_prev(here.as_ref())?,
            }
        }
        self.direction = direction;
        self.refresh();
        // The caller moves the current child next, and chooses.
        (self.second, self.runner_up) = (usize::MAX, 0);
        self.current = Some(current);
        Ok(())
    }

    #[inline]
    fn step(&mut self, direction: Direction) -> Result<()> {
        if self.direction != direction {
            self.turn(direction)?;
        }
        let Some(i) = self.current else { return Ok(()) };
        let Some(child) = self.children.get_mut(i) else {
            return Ok(());
        };
        let moved = match direction {
            Direction::Forward => child.next(),
            Direction::Backward => child.prev(),
        };
        if let Err(error) = moved {
            self.current = None;
            return Err(error);
        }
        let head = self
            .children
            .get(i)
            .map_or(END, |child| self.head_of(child));
        // Still ahead of all others, it stays: only a scan needs its head.
        if head >= self.runner_up {
            if let Some(slot) = self.heads.get_mut(i) {
                *slot = head;
            }
            match head > self.runner_up {
                true => self.take_second(),
                false => self.choose(),
            }
        }
        Ok(())
    }

    #[inline]
    fn child(&self) -> Option<&I> {
        self.current.and_then(|i| self.children.get(i))
    }
}

impl<I: InternalIterator> InternalIterator for MergingIterator<I> {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.position(Direction::Forward, |child| child.seek(target))
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.position(Direction::Backward, |child| child.seek_for_prev(target))
    }

    fn first(&mut self) -> Result<()> {
        self.position(Direction::Forward, |child| child.first())
    }

    fn last(&mut self) -> Result<()> {
        self.position(Direction::Backward, |child| child.last())
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        self.step(Direction::Forward)
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        self.step(Direction::Backward)
    }

    #[inline]
    fn valid(&self) -> bool {
        self.current.is_some()
    }

    #[inline]
    fn key(&self) -> KeyRef<'_> {
        self.child().map_or(EMPTY, |child| child.key())
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.child().map_or(&[], |child| child.value())
    }

    #[inline]
    fn key_bytes(&self) -> Bytes {
        self.child()
            .map_or_else(Bytes::new, |child| child.key_bytes())
    }

    #[inline]
    fn value_bytes(&self) -> Bytes {
        self.child()
            .map_or_else(Bytes::new, |child| child.value_bytes())
    }
}

#[cfg(test)]
#[path = "merging_tests.rs"]
mod tests;
