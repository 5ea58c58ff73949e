//! Mode `corrupt` on one database, closed and killed.

// A test that prints, which the lints' exceptions for tests do not see.
#![allow(clippy::panic)]

use terrace_torture::{Budget, MODES, Plan};

#[test]
fn no_damage_leads_to_a_wrong_answer() {
    let mode = MODES.iter().find(|mode| mode.name == "corrupt");
    let Some(mode) = mode else {
        panic!("there is no such mode")
    };
    let plan = Plan::new(1, Budget::Count(1));
    let counts = match (mode.run)(&plan) {
        Ok(counts) => counts,
        Err(failure) => panic!("{failure}"),
    };
    println!("{counts:#?} in {:?}", plan.elapsed());
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    assert!(count("single bits flipped") > 100_000, "{counts:?}");
    assert!(
        count("salvaged") > 10_000 && count("losses reported") > 1000,
        "{counts:?}"
    );
    assert!(count("taken for a tear") > 100, "{counts:?}");
    assert!("{counts:?}");
}
