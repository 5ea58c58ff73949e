//! Stripes: the sequence numbers between two snapshots. No reader can tell the versions of one
//! stripe apart.
//!
//! A snapshot at `s` sees what was written up to `s`. A job lists the snapshots once, together with
//! the sequence number that is visible; the latter counts as one more snapshot, because readers may
//! still start there.
//!
//! ```text
//! snapshots 5 and 9, visible 12        stripe 0      | 1         | 2            | 3
//!                                      0 1 2 3 4 5   | 6 7 8 9   | 10 11 12     | 13 ...
//! versions of one key                      3   5         8         10  12
//! kept (the newest of each stripe)             5         8             12
//! ```
//!
//! 3 goes because every reader that could see it sees 5. A tombstone is in nobody's way only in
//! stripe 0: above it, a lower stripe may hold a version that must stay, and that the tombstone
//! hides.

use terrace_base::SeqNo;

/// Sequence numbers cut into stripes by the snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stripes {
    /// The last sequence number of each stripe but the newest, rising.
    ends: Vec<SeqNo>,
    /// For each of these the time of the oldest reader that sees the whole stripe: what has expired
    /// by then has expired for all of them.
    times: Vec<u64>,
}

impl Stripes {
    /// Cuts at `snapshots`, in any order, and at `visible`. What is newer than `visible` hides
    /// nothing older. Nothing expires.
    pub fn new(snapshots: &[SeqNo], visible: SeqNo) -> Stripes {
        let snapshots: Vec<(SeqNo, u64)> = snapshots.iter().map(|&seq| (seq, 0)).collect();
        Stripes::at(&snapshots, visible, 0)
    }

    /// Cuts at `snapshots`, each with its time, and at `visible`, whose readers have the time `now`
    /// or a later one. Times are milliseconds since 1970.
    pub fn at(snapshots: &[(SeqNo, u64)], visible: SeqNo, now: u64) -> Stripes {
        let mut all = snapshots.to_vec();
        all.push((visible, now));
        all.sort_unstable();
        all.dedup_by_key(|(seq, _)| *seq); // The first of each is the one with the earliest time.
        let (ends, mut times): (Vec<SeqNo>, Vec<u64>) = all.into_iter().unzip();
        // A reader of a later stripe sees an earlier one too: the earliest time counts.
        let mut earliest = u64::MAX;
        for time in times.iter_mut().rev() {
            earliest = earliest.min(*time);
            *time = earliest;
        }
        Stripes { ends, times }
    }

    /// What expires at or before this has expired for every reader of the stripe.
    pub fn time_of(&self, stripe: usize) -> u64 {
        self.times.get(stripe).copied().unwrap_or(0)
    }

    /// The stripe of `seq`; 0 is the oldest.
    #[inline]
    pub fn of(&self, seq: SeqNo) -> usize {
        match *self.ends.as_slice() {
            [end] => usize::from(seq > end),
            ref ends => ends.partition_point(|&end| end < seq),
        }
    }

    /// The last sequence number of the stripe of `seq`; of the newest, which has no end, `seq`
    /// itself.
    pub fn end_of(&self, seq: SeqNo) -> SeqNo {
        self.ends.get(self.of(seq)).copied().unwrap_or(seq)
    }

    /// The last sequence number that every reader sees alike: the oldest snapshot, else what is
    /// visible.
    pub fn settled(&self) -> SeqNo {
        self.ends.first().copied().unwrap_or(SeqNo::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_end_at_snapshots() {
        let stripes = Stripes::new(
            &[SeqNo::new(9), SeqNo::new(5), SeqNo::new(9)],
            SeqNo::new(12),
        );
        let of = |n| stripes.of(SeqNo::new(n));
        assert_eq!([0, 5, 6, 9, 10, 12, 13].map(of), [0, 0, 1, 1, 2, 2, 3]);
        assert_eq!(stripes.settled(), SeqNo::new(5));
        let end_of = |n| stripes.end_of(SeqNo::new(n)).get();
        assert_eq!(
            [0, 5, 6, 9, 10, 12, 13].map(end_of),
            [5, 5, 9, 9, 12, 12, 13]
        );
        let none = Stripes::new(&[], SeqNo::new(12));
        assert_eq!([0, 12, 13].map(|n| none.of(SeqNo::new(n))), [0, 0, 1]);
    }
}
