//! Deliberate bugs, to see that the tests notice them.
//!
//! Built with `--cfg terrace_mutants`, the engine holds the bugs that `tests/mutants.txt` lists,
//! and the environment variable `TERRACE_MUTANT` switches on one of them. Built otherwise
//! [`mutant`] is the constant false and nothing of them is left. No feature sets that cfg, so none
//! can come into a program by way of another crate.

/// True if the deliberate bug `name` is switched on.
#[cfg(not(terrace_mutants))]
#[inline(always)]
pub const fn mutant(name: &str) -> bool {
    let _ = name;
    false
}

/// True if the deliberate bug `name` is switched on.
#[cfg(terrace_mutants)]
pub fn mutant(name: &str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| std::env::var("TERRACE_MUTANT").ok())
        .as_deref()
        == Some(name)
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_no_bug_without_a_name() {
        assert!(!super::mutant("no-such-bug"));
    }
}
