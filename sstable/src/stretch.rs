//! How much of a table lies between two keys, told from its fences.
//!
//! Fences know the first key of each block, how many entries and tombstones it has, and where it
//! lies. So whole blocks are counted without being read; of a block that only begins or only ends
//! in the range no more is known than that, and it is counted whole. A stretch is therefore never
//! too small, and too large by less than two blocks.
//!
//! ```text
//! blocks       [a..e] [f..k] [l..r] [s..z]
//! g to n              ^^^^^^^^^^^^^            two blocks, of which f and o..r are too much
//! l to s                     ^^^^^^            exact
//! ```
#![deny(clippy::indexing_slicing)]

use terrace_base::key::KeyspaceId;

use crate::reader::Table;

/// What a stretch of a table holds at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// Blocks.
    pub blocks: u64,
    /// Entries in them, tombstones included.
    pub entries: u64,
    /// Tombstones among them.
    pub tombstones: u64,
    /// What the blocks take, with their share of everything else in the file.
    pub bytes: u64,
}

impl Table {
    /// The blocks that can hold a key of `keyspace` from `lower` to before `upper`, or to the
    /// keyspace's end. Reads no block.
    pub fn stretch(&self, keyspace: KeyspaceId, lower: &[u8], upper: Option<&[u8]>) -> Stretch {
        let fences = self.fences();
        let blocks = fences.between(keyspace, lower, upper);
        let place = |i: usize| fences.range(i).unwrap_or_default();
        let (Some(last), false) = (blocks.end.checked_sub(1), blocks.is_empty()) else {
            return Stretch::default();
        };
        let bytes = (place(last).end - place(blocks.start).start) as u128;
        let all = place(fences.len() - 1).end.max(1) as u128;
        let mut stretch = Stretch {
            blocks: blocks.len() as u64,
            bytes: (bytes * u128::from(self.info().size)).div_ceil(all) as u64,
            ..Stretch::default()
        };
        for meta in blocks.filter_map(|i| fences.meta(i)) {
            stretch.entries += u64::from(meta.entries);
            stretch.tombstones += u64::from(meta.tombstones);
        }
        stretch
    }
}

#[cfg(test)]
#[path = "stretch_tests.rs"]
mod tests;
