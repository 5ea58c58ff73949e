//! How large each level should be.
//!
//! The last level decides. A level should hold a tenth (one part in `fan_out`) of the one below it,
//! up to the *base* level, the first whose target is no larger than `base_bytes`; levels above it
//! should be empty, and level 0 is merged straight into it. So a small database has two levels, and
//! about a ninth of a large one lies above the last, however fast it grew.
//!
//! ```text
//! base_bytes = 256 MiB, fan_out = 10
//! last level     base    targets
//! 100 MiB        L6      -
//!   2 GiB        L5      L5 205 MiB
//!  10 GiB        L4      L4 102 MiB, L5 1 GiB
//! ```
//!
//! While levels above the base still hold tables, level 0 goes into the topmost of them, so that
//! nothing passes an older version; their target is nothing, and they run empty.

use super::{LAST, PickOptions};
use crate::version::{LEVELS, Version};

/// The wanted shape of a [`Version`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Where level 0 is merged into.
    pub base: usize,
    /// The wanted size of each level. Unlimited for level 0, which counts runs, and for the last.
    pub bytes: [u64; LEVELS],
}

/// The wanted shape of `version`.
pub fn targets(version: &Version, options: &PickOptions) -> Targets {
    let mut bytes = [0; LEVELS];
    let mut base = LAST;
    let mut target = version.level(LAST).size();
    while base > 1 && target > options.base_bytes {
        base -= 1;
        target /= options.fan_out.max(2);
        if let Some(slot) = bytes.get_mut(base) {
            *slot = target;
        }
    }
    let topmost = (1..LEVELS).find(|&n| !version.level(n).is_empty());
    let [first, .., last] = &mut bytes;
    (*first, *last) = (u64::MAX, u64::MAX);
    Targets {
        base: base.min(topmost.unwrap_or(LAST)),
        bytes,
    }
}

impl Targets {
    /// The wanted size of level `n`.
    pub fn of(&self, n: usize) -> u64 {
        self.bytes.get(n).copied().unwrap_or(u64::MAX)
    }
}

/// An estimate of the bytes that must be written until `version` has its shape. Writers are paced
/// by it.
///
/// Level 0, once due, is merged with the whole base level; then what each level holds too much is
/// merged with its share of the next.
pub fn debt(version: &Version, options: &PickOptions) -> u64 {
    let targets = targets(version, options);
    let level0 = version.level(0);
    let (mut debt, mut carried) = (0u64, 0u64);
    if level0.runs.len() >= options.due_runs() {
        carried = level0.size();
        debt = carried.saturating_add(version.level(targets.base).size());
    }
    for n in targets.base..LAST {
        let size = version.level(n).size().saturating_add(carried);
        carried = size.saturating_sub(targets.of(n));
        let next = version.level(n + 1).size();
        let share = u128::from(carried) * u128::from(next) / u128::from(size.max(1));
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        debt = debt.saturating_add(carried).saturating_add(share);
    }
    debt
}
