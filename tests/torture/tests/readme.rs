//! What can be checked of the documents. The totals in the readme are those of the files that runs add to; with
//! `TERRACE_UPDATE_README=1` they are written into it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // It is a test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use terrace_torture::{Report, grouped};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Checks that the readme has `wanted` between its marks of this name, or puts it there.
fn check(name: &str, source: &str, wanted: &str) {
    let begin = format!("<!-- {name}: from {source} -->\n");
    let end = format!("<!-- {name}: end -->\n");
    let path = root().join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(&begin).unwrap();
    let (shown, after) = rest.split_once(&end).unwrap();
    if std::env::var_os("TERRACE_UPDATE_README").is_some() {
        std::fs::write(&path, format!("{before}{begin}{wanted}{end}{after}")).unwrap();
        return;
    }
    assert!(
        shown == wanted,
        "the readme shows other totals than {source}; run this test with TERRACE_UPDATE_README=1"
    );
}

/// What `fuzz/run.sh` adds up for a target.
#[derive(Deserialize)]
struct Fuzzed {
    executions: u64,
    cpu_seconds: u64,
    edges: u64,
    failures: u64,
}

/// One test, since both parts are written into one file.
#[test]
fn the_readme_says_what_the_totals_do() {
    let report = Report::load(&root().join("tests/torture/report.json")).unwrap();
    assert!(!report.modes.is_empty(), "report.json is missing or empty");
    check(
        "torture",
        "tests/torture/report.json",
        &format!("\n{report}\n"),
    );

    let totals = std::fs::read(root().join("fuzz/totals.json")).unwrap();
    let totals: BTreeMap<String, Fuzzed> = serde_json::from_slice(&totals).unwrap();
    let targets: BTreeSet<&str> = terrace_kit::fuzz::TARGETS
        .iter()
        .map(|target| target.name)
        .collect();
    assert!(
        totals.keys().map(String::as_str).eq(targets),
        "totals.json has other targets"
    );
    let mut table =
        "\n| target | processor minutes | inputs run | edges reached | failures |\n".to_owned();
    table += "|---|---:|---:|---:|---:|\n";
    for (
        name,
        Fuzzed {
            executions,
            cpu_seconds,
            edges,
            failures,
        },
    ) in &totals
    {
        let minutes = cpu_seconds / 60;
        let (inputs, edges) = (grouped(*executions), grouped(*edges));
        table += &format!("| `{name}` | {minutes} | {inputs} | {edges} | {failures} |\n");
    }
    check("fuzz", "fuzz/totals.json", &(table + "\n"));
}
