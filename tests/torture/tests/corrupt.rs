//! Mode `corrupt` on one database, closed and killed.

mod common;

#[test]
fn no_damage_leads_to_a_wrong_answer() {
    let counts = common::run("corrupt", 1, 1);
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    assert!(count("single bits flipped") > 100_000, "{counts:?}");
    assert!(count("salvaged") > 10_000, "{counts:?}");
    assert!(count("losses reported") > 1000, "{counts:?}");
    assert!(count("taken for a tear") > 100, "{counts:?}");
}
