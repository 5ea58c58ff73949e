//! Which part of a workload to run, and which crashes of it to look at, as a failure prints it.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use terrace_kit::{Op, Outcome, Profile, Random, Runner};

/// Which operations, and which crashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Numbers of operations, in order.
    pub(crate) ops: Vec<usize>,
    /// Only the crashes before this call of this life.
    only: Option<(u64, u64)>,
}

impl Place {
    /// The first `count` operations, and all crashes.
    pub(crate) fn whole(count: usize) -> Place {
        Place::of((0..count).collect())
    }

    /// These operations, and all crashes.
    pub(crate) fn of(ops: Vec<usize>) -> Place {
        Place { ops, only: None }
    }

    /// The same operations, and the crashes before one call.
    pub(crate) fn only(&self, life: u64, call: u64) -> Place {
        Place {
            only: Some((life, call)),
            ..self.clone()
        }
    }

    /// True if the crashes before this call of this life are to be looked at.
    pub(crate) fn looks_at(&self, life: u64, call: u64) -> bool {
        self.only.is_none_or(|only| only == (life, call))
    }
}

/// Does operation number `at` of the workload of `seed`.
pub(crate) fn operate(runner: &mut Runner, profile: &Profile, seed: u64, at: usize) -> Outcome {
    let number = Random::new(seed ^ (at as u64) << 40).number();
    let op: Op = profile.op(number);
    runner
        .apply(&op)
        .map_err(|trouble| trouble.within(format_args!("operation {at}, {op:.200?}")))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<RangeInclusive<usize>> = Vec::new();
        for &op in &self.ops {
            match runs.last_mut() {
                Some(run) if *run.end() + 1 == op => *run = *run.start()..=op,
                _ => runs.push(op..=op),
            }
        }
        for (i, run) in runs.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match run.start() == run.end() {
                true => write!(f, "{comma}{}", run.start())?,
                false => write!(f, "{comma}{}-{}", run.start(), run.end())?,
            }
        }
        match self.only {
            Some((life, call)) => write!(f, "@{life}.{call}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let wrong = || format!("{text} is no place such as 0,3,7-12@2.117");
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (ops, only) = match text.split_once('@') {
            Some((ops, only)) => {
                let (life, call) = only.split_once('.').ok_or_else(wrong)?;
                (ops, Some((number(life)?, number(call)?)))
            }
            None => (text, None),
        };
        let mut place = Place {
            ops: Vec::new(),
            only,
        };
        for run in ops.split(',').filter(|run| !run.is_empty()) {
            let (first, last) = run.split_once('-').unwrap_or((run, run));
            let (first, last) = (number(first)? as usize, number(last)? as usize);
            if last >= 100_000 {
                return Err(wrong());
            }
            place.ops.extend(first..=last);
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_printed() {
        for (ops, text) in [
            (vec![], ""),
            (vec![3], "3"),
            (vec![0, 1, 2, 5, 7, 8], "0-2,5,7-8"),
        ] {
            for place in [Place::of(ops.clone()), Place::of(ops).only(2, 117)] {
                let printed = place.to_string();
                assert!(printed.starts_with(text));
                assert_eq!(printed.parse(), Ok(place));
            }
        }
        for wrong in ["x", "1-", "1@2", "1@2.x", "0-99999999999"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
