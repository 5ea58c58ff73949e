//! The mode `corrupt` on one database, closed and killed, as every test run has it.

mod common;

#[test]
fn no_damage_leads_to_a_wrong_answer() {
    let counts = common::run("corrupt", 1, 1);
    assert!(counts["single bits flipped"] > 100_000);
    assert!(counts["salvaged"] > 10_000 && counts["losses reported"] > 1000);
    assert!(counts["taken for a tear"] > 100);
}
