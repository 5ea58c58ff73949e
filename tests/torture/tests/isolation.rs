//! The mode `isolation`, for a moment.

use terrace_torture::{Budget, MODES, Plan};

#[test]
fn transactions_are_as_if_one_after_another() {
    let mode = MODES.iter().find(|mode| mode.name == "isolation");
    let counts = (mode.unwrap().run)(&Plan::new(1, Budget::Count(3000))).unwrap();
    assert!(counts["transactions committed"] >= 3000);
    assert!(counts["dependencies"] > 3000);
}
