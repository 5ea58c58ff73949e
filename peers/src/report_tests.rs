use super::*;
use crate::job::Row;

/// A table of two engines; a negative value was measured in noise.
fn table(row: &str, ours: &[f64], theirs: &[f64]) -> String {
    let mut results = Results::default();
    for (engine, values) in [("a", ours), ("b", theirs)] {
        for (round, value) in values.iter().enumerate() {
            let row = Row {
                row: row.into(),
                value: value.abs(),
                latency: None,
                foreign: if *value < 0.0 { 90.0 } else { 1.0 },
            };
            results.add(engine, round, vec![row]);
        }
    }
    let options = Options {
        engines: vec!["a".into(), "b".into()],
        base: Some("a".into()),
        noise: 50.0,
        ..Options::default()
    };
    let mut text = String::new();
    value_table(&mut text, &options, &results);
    text
}

#[test]
fn a_ratio_above_one_is_good_whatever_the_unit() {
    let text = table("readrandom", &[8e5, 1e6, 9e5], &[4e5, 4e5, 4e5]);
    assert!(
        text.contains("| readrandom, K/s | 900 | 400 | **2.25x** (2.00..2.50) |"),
        "{text}"
    );
    let text = table("reopen clean", &[0.5], &[1.0]);
    assert!(
        text.contains("| reopen clean, s | 0.500 | 1.00 | **2.00x** (2.00..2.00) |"),
        "{text}"
    );
}

#[test]
fn rounds_measured_in_noise_are_left_out() {
    let text = table("readrandom", &[8e5, -1e6, 8e5], &[4e5, 4e5, -4e5]);
    assert!(
        text.contains("| readrandom, K/s | 800 | 400 | **2.00x** (2.00..2.00) |"),
        "{text}"
    );
    let text = table("readrandom", &[-8e5], &[4e5]);
    assert!(
        text.contains("| readrandom, K/s | ~800 | 400 | ~**2.00x** (2.00..2.00) |"),
        "{text}"
    );
}

#[test]
fn numbers_have_three_digits() {
    for (value, text) in [
        (0.0, "0"),
        (0.000_151_2, "0.000151"),
        (0.0456, "0.0456"),
        (1.0, "1.00"),
        (45.678, "45.7"),
        (999.4, "999"),
        (21_345.6, "21346"),
    ] {
        assert_eq!(three_digits(value), text);
    }
}

#[test]
fn versions_come_from_the_lock_file() {
    let lock = "[[package]]\nname = \"a-b\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"b\"\nversion = \"4.0.0\"\n";
    assert_eq!(locked(lock, "b"), Some("4.0.0"));
    assert_eq!(locked(lock, "a-b"), Some("1.2.3"));
    assert_eq!(locked(lock, "c"), None);
}
