//! Checks of the documents: totals and figures, and links.
//!
//! The totals in `docs/testing.md` are those of the files to which runs add, and the figures in the
//! readme are those of `docs/performance.md`; with `TERRACE_UPDATE_DOCS=1` they are written there.
//! Every relative link leads to a file.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // It is a test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use terrace_torture::{Report, grouped};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap()
}

/// The text before, between and after the marks of this name.
fn split<'t>(text: &'t str, name: &str, source: &str) -> (&'t str, &'t str, &'t str) {
    let begin = format!("<!-- {name}: from {source} -->\n");
    let end = format!("<!-- {name}: end -->\n");
    let start = text.find(&begin).unwrap() + begin.len();
    let length = text[start..].find(&end).unwrap();
    let (before, rest) = text.split_at(start);
    let (shown, after) = rest.split_at(length);
    (before, shown, after)
}

/// Checks that the document has `wanted` between its marks of this name, or writes it there.
fn check(document: &str, name: &str, source: &str, wanted: &str) {
    let text = read(document);
    let (before, shown, after) = split(&text, name, source);
    if std::env::var_os("TERRACE_UPDATE_DOCS").is_some() {
        std::fs::write(root().join(document), format!("{before}{wanted}{after}")).unwrap();
        return;
    }
    assert!(
        shown == wanted,
        "{document} differs from {source}; run this test with TERRACE_UPDATE_DOCS=1"
    );
}

/// Totals of a target, as `fuzz/run.sh` writes them.
#[derive(Deserialize)]
struct Fuzzed {
    executions: u64,
    cpu_seconds: u64,
    edges: u64,
    failures: u64,
}

/// One test, since both tables are written into one file.
#[test]
fn testing_shows_the_totals_of_all_runs() {
    let report = Report::load(&root().join("tests/torture/report.json")).unwrap();
    assert!(!report.modes.is_empty(), "report.json is missing or empty");
    check(
        "docs/testing.md",
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
    check(
        "docs/testing.md",
        "fuzz",
        "fuzz/totals.json",
        &(table + "\n"),
    );
}

/// The cells of a row, without the blanks around them.
fn cells(row: &str) -> Vec<&str> {
    let row = row.trim_matches('|');
    row.split('|').map(str::trim).collect()
}

/// The readme chooses rows and describes each in its last cell.
#[test]
fn readme_shows_figures_of_the_performance_page() {
    let performance = read("docs/performance.md");
    let (_, measured) = performance.split_once("<!-- peers: None -->\n").unwrap();
    let (measured, _) = measured.split_once("\n\n").unwrap();
    let measured: BTreeMap<&str, Vec<&str>> = measured
        .lines()
        .map(cells)
        .map(|row| (row[0], row))
        .collect();

    let readme = read("README.md");
    let (_, shown, _) = split(&readme, "figures", "docs/performance.md");
    let mut lines = shown.lines();
    let mut wanted = String::new();
    for line in lines.by_ref().take(3) {
        wanted += &format!("{line}\n");
    }
    let mut rows = 0;
    for line in lines.filter(|line| line.starts_with('|')) {
        let shown = cells(line);
        let row = measured.get(shown[0]);
        let row = row.unwrap_or_else(|| panic!("docs/performance.md has no row {}", shown[0]));
        wanted += &format!("| {} | {} |\n", row[..4].join(" | "), shown[4]);
        rows += 1;
    }
    assert!(rows > 0, "the readme shows no figures");
    check(
        "README.md",
        "figures",
        "docs/performance.md",
        &(wanted + "\n"),
    );
}

/// Documents below `folder`; build outputs and hidden folders are left out.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            documents(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Targets of the links in a document, without those in code.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            code = !code;
        } else if !code {
            let starts = line.match_indices("](").map(|(at, mark)| at + mark.len());
            let targets = starts.map(|start| line[start..].split(')').next().unwrap());
            found.extend(targets);
        }
    }
    found
}

/// The anchor of a heading: lower case, blanks as hyphens, punctuation left out.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then_some(c),
    });
    kept.collect()
}

/// Links of a document in `folder` that lead to no file there, or to no heading of it.
fn broken<'t>(folder: &Path, text: &'t str) -> Vec<&'t str> {
    let leads = |link: &str| {
        if link.contains("://") || link.starts_with("mailto:") {
            return true;
        }
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() {
            text.to_owned()
        } else if heading.is_empty() {
            return folder.join(file).exists();
        } else {
            std::fs::read_to_string(folder.join(file)).unwrap_or_default()
        };
        let mut headings = target.lines().filter(|line| line.starts_with('#'));
        headings.any(|line| anchor(line) == heading)
    };
    links(text)
        .into_iter()
        .filter(|link| !leads(link))
        .collect()
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut files = Vec::new();
    documents(&root(), &mut files);
    let (mut count, mut wrong) = (0, Vec::new());
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        count += links(&text).len();
        let broken = broken(file.parent().unwrap(), &text);
        let shown = file.strip_prefix(root()).unwrap();
        wrong.extend(
            broken
                .iter()
                .map(|link| format!("{}: {link}", shown.display())),
        );
    }
    assert!(wrong.is_empty(), "broken links: {wrong:#?}");
    assert!(
        files.len() >= 10 && count >= 10,
        "{} documents, {count} links",
        files.len()
    );
}

#[test]
fn broken_links_are_found() {
    let text = "\
# Two words, one

[file](README.md) [page](docs/gone.md), [outside](https://example.com/gone.md) [here](#two-words-one)
[heading](README.md#promises) [no heading](README.md#gone) [not here](#gone)

```text
[code](docs/code.md)
```
";
    assert_eq!(
        broken(&root(), text),
        ["docs/gone.md", "README.md#gone", "#gone"]
    );
}
