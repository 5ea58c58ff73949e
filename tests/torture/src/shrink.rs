//! Making a failing workload short: parts of it are left out, large ones first, while it goes on failing.

use std::time::{Duration, Instant};

use crate::place::Place;

/// How long to try.
const PATIENCE: Duration = Duration::from_secs(60);

/// The shortest workload found that `fails`, and how.
pub(crate) fn shortest<T>(
    whole: &Place,
    wrong: T,
    fails: &dyn Fn(&Place) -> Option<T>,
) -> (Place, T) {
    let start = Instant::now();
    let (mut place, mut wrong) = (whole.clone(), wrong);
    let mut part = place.ops.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < place.ops.len() && start.elapsed() < PATIENCE {
            let mut ops = place.ops.clone();
            ops.drain(at..(at + part).min(ops.len()));
            let without = Place::of(ops);
            match fails(&without) {
                Some(same) => {
                    (place, wrong) = (without, same);
                    shorter = true;
                }
                None => at += part,
            }
        }
        if !shorter || part > 1 {
            part /= 2;
        }
    }
    (place, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let fails = |place: &Place| {
            let has = |op| place.ops.contains(&op);
            (has(7) && has(31) && has(44)).then_some(place.ops.len())
        };
        let (place, wrong) = shortest(&Place::whole(50), 50, &fails);
        assert_eq!((place.ops, wrong), (vec![7, 31, 44], 3));
    }
}
