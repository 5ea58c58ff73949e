//! Where the living keys of a queue begin and end.
//!
//! A keyspace that is used as a queue has a long stretch of tombstones in front of its first living
//! key. So that [`Keyspace::pop_first`](crate::Keyspace::pop_first) does not walk over them each
//! time, the commit path remembers, for each keyspace that was popped from, a key below which
//! nothing is alive, and one above which nothing is. It stays exact because every write passes
//! here: a put below the one, or above the other, moves it there.
//!
//! ```text
//! a(dead) b(dead) c d e      pop_first found c: nothing is alive below c
//! put a                      nothing is alive below a
//! ```
//!
//! All this happens under the commit lock, and is about the newest appended state.

use terrace_base::{KeyspaceId, UserKey, ValueKind};

/// More keyspaces than this are not remembered: then all are forgotten, which costs each a walk.
const MOST: usize = 1024;

/// One end of the order of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    First,
    Last,
}

/// What a walk has found: nothing is alive between `from`, where it began, and `to`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof<'a> {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) side: Side,
    /// What was remembered when the walk began.
    pub(crate) from: Option<&'a [u8]>,
    pub(crate) to: &'a [u8],
}

#[derive(Debug)]
struct Known {
    keyspace: KeyspaceId,
    /// Nothing below is alive.
    first: Option<Vec<u8>>,
    /// Nothing above is alive.
    last: Option<Vec<u8>>,
}

impl Known {
    fn side(&mut self, side: Side) -> &mut Option<Vec<u8>> {
        match side {
            Side::First => &mut self.first,
            Side::Last => &mut self.last,
        }
    }
}

/// What is known of every keyspace that was popped from.
#[derive(Debug, Default)]
pub(crate) struct Ends(Vec<Known>);

impl Ends {
    fn find(&mut self, keyspace: KeyspaceId) -> Option<&mut Known> {
        self.0.iter_mut().find(|known| known.keyspace == keyspace)
    }

    /// The key beyond which nothing is alive at an end, if that is known.
    pub(crate) fn get(&mut self, keyspace: KeyspaceId, side: Side) -> Option<Vec<u8>> {
        self.find(keyspace)?.side(side).clone()
    }

    /// Every entry that is written passes here.
    #[inline]
    pub(crate) fn wrote(&mut self, user: UserKey<'_>, kind: ValueKind) {
        if !self.0.is_empty() && kind != ValueKind::Tombstone {
            self.came_alive(user);
        }
    }

    #[inline(never)]
    fn came_alive(&mut self, user: UserKey<'_>) {
        let Some(known) = self.find(user.keyspace) else {
            return;
        };
        for (end, outside) in [
            (&mut known.first, std::cmp::Ordering::Less),
            (&mut known.last, std::cmp::Ordering::Greater),
        ] {
            if let Some(end) = end
                && user.bytes.cmp(end) == outside
            {
                end.clear();
                end.extend_from_slice(user.bytes);
            }
        }
    }

    /// True if nothing came alive before the place where the walk began.
    pub(crate) fn admit(&mut self, proof: &Proof<'_>) -> bool {
        let Some(from) = proof.from else {
            return true;
        };
        let known = self.find(proof.keyspace);
        let now = known.and_then(|known| known.side(proof.side).as_deref());
        now.is_some_and(|now| match proof.side {
            Side::First => now >= from,
            Side::Last => now <= from,
        })
    }

    /// Nothing has come alive between the beginning and the end of the walk either.
    pub(crate) fn note_proof(&mut self, proof: &Proof<'_>) {
        if self.find(proof.keyspace).is_none() {
            if self.0.len() == MOST {
                self.0.clear();
            }
            self.0.push(Known {
                keyspace: proof.keyspace,
                first: None,
                last: None,
            });
        }
        let Some(known) = self.find(proof.keyspace) else {
            return;
        };
        match known.side(proof.side) {
            Some(end) => {
                let further = match proof.side {
                    Side::First => proof.to > end.as_slice(),
                    Side::Last => proof.to < end.as_slice(),
                };
                if further {
                    end.clear();
                    end.extend_from_slice(proof.to);
                }
            }
            none => *none = Some(proof.to.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_moves_with_proofs_and_back_with_puts_beyond_it() {
        let id = KeyspaceId(3);
        let mut ends = Ends::default();
        let proof = |from, to| Proof {
            keyspace: id,
            side: Side::First,
            from,
            to,
        };
        ends.wrote(UserKey::new(id, b"a"), ValueKind::Put);
        assert_eq!(ends.get(id, Side::First), None);
        ends.note_proof(&proof(None, b"m"));
        assert_eq!(ends.get(id, Side::First).unwrap(), b"m");
        assert_eq!(ends.get(id, Side::Last), None);
        ends.wrote(UserKey::new(id, b"z"), ValueKind::Put);
        ends.wrote(UserKey::new(KeyspaceId(4), b"a"), ValueKind::Put);
        ends.wrote(UserKey::new(id, b"b"), ValueKind::Tombstone);
        assert!(ends.admit(&proof(Some(b"m"), b"n")));
        ends.wrote(UserKey::new(id, b"c"), ValueKind::Put);
        assert!(!ends.admit(&proof(Some(b"m"), b"n")));
        assert_eq!(ends.get(id, Side::First).unwrap(), b"c");
        ends.note_proof(&proof(Some(b"c"), b"b"));
        assert_eq!(
            ends.get(id, Side::First).unwrap(),
            b"c",
            "never back by a proof"
        );
    }

    #[test]
    fn what_was_forgotten_admits_no_proof_that_rests_on_it() {
        let mut ends = Ends::default();
        let proof = |n, from| Proof {
            keyspace: KeyspaceId(n),
            side: Side::Last,
            from,
            to: b"k",
        };
        for n in 0..=MOST as u32 {
            ends.note_proof(&proof(n, None));
        }
        assert_eq!(ends.0.len(), 1);
        assert!(!ends.admit(&proof(0, Some(b"k"))));
        assert!(ends.admit(&proof(0, None)));
    }
}
