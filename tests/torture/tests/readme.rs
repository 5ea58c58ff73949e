//! The totals in the readme are those of the report file. With `TERRACE_UPDATE_README=1` they are written into it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // It is a test.

use std::path::Path;

use terrace_torture::Report;

const BEGIN: &str = "<!-- torture: from tests/torture/report.json -->\n";
const END: &str = "<!-- torture: end -->\n";

#[test]
fn the_readme_says_what_the_report_does() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let report = Report::load(&here.join("report.json")).unwrap();
    assert!(!report.modes.is_empty(), "report.json is missing or empty");
    let path = here.join("../../README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    let wanted = format!("\n{report}\n");
    if std::env::var_os("TERRACE_UPDATE_README").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert!(
        shown == wanted,
        "the readme shows other totals than report.json; run this test with TERRACE_UPDATE_README=1"
    );
}
