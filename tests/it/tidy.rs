//! Rules of the source tree that no compiler checks: layers, sizes, widths, phrases.
//!
//! The order of the folders of `src/` is the table in `ARCHITECTURE.md`. A rule is a function over
//! text, so that each has a test in which it is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Lines of a file.
const MAX_FILE: usize = 600;
/// Lines of a function.
const MAX_FUNCTION: usize = 70;
/// Columns of a line.
const MAX_WIDTH: usize = 100;
/// Columns of a drawing or a grammar in documentation.
const MAX_DRAWING: usize = 118;

/// Functions that are longer: steps in a fixed order that share most of their variables. The name
/// stands after the file's.
const LONG_FUNCTIONS: [&str; 8] = [
    "committer.rs append_if", // The commit, under one lock: a call for each step costs 1 % of a put.
    "assemble.rs assemble",   // Puts the parts of an engine together, each used by the next.
    "opening.rs existing",    // Recovery: reads, judges and decides.
    "mod.rs exact",           // Salvage with a manifest.
    "large_values.rs begin_blob_file", // A file that is created, listed and known to every view.
    "log.rs read_log",        // Salvage of the log.
    "recover.rs read_segment", // Recovery of a segment, frame by frame.
    "edit_text.rs parse_line", // One arm for each line of an edit's text.
];

/// Phrases of a private dialect, each with what to write instead.
const PHRASES: [(&str, &str); 5] = [
    ("so many", "the maximum number of"),
    ("what comes of", "the result of"),
    ("of which kind", "the kind of"),
    ("whoever", "a thread that"),
    ("is told by", "is reported by"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file below a folder, as a path from the root and its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap();
                found.push((path.to_str().unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// Sources of the product: of every crate, without tests beside the code.
fn product() -> Vec<(String, String)> {
    let folders = [
        "src",
        "base/src",
        "wal/src",
        "sstable/src",
        "compaction/src",
    ];
    let all = folders.into_iter().flat_map(sources);
    let product: Vec<_> = all.filter(|(path, _)| !is_test(path)).collect();
    assert!(product.len() > 150, "{} files", product.len());
    product
}

fn is_test(path: &str) -> bool {
    path.ends_with("_tests.rs") || path.contains("schedule_tests/")
}

/// The text above the tests at the end of a file.
fn without_tests(text: &str) -> &str {
    let end = ["\n#[cfg(test)]\nmod ", "\n#[cfg(test)]\n#[path"];
    let end = end.iter().filter_map(|mark| text.find(mark)).min();
    end.map_or(text, |end| &text[..end])
}

/// The folders of `src/`, from the lowest layer up: the rows of the table in `ARCHITECTURE.md`.
fn layers() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, table) = text
        .split_once("| folder | what it holds |\n|---|---|\n")
        .unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).unwrap().to_owned())
        .collect()
}

/// The folder, or file, of `src/` that a path lies in.
fn layer_of(path: &str) -> &str {
    let inner = path.strip_prefix("src/").unwrap_or(path);
    let end = inner.find(['/', '.']).unwrap_or(inner.len());
    &inner[..end]
}

/// The public names of the crate's root, each with the layer that it comes from.
fn exports() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut names = BTreeMap::new();
    for item in text.split("pub use ").skip(1) {
        let (item, _) = item.split_once(';').unwrap();
        let layer = item.split("::").next().unwrap();
        let list = item.rsplit("::").next().unwrap().trim_matches(['{', '}']);
        for name in list.split(',').map(str::trim) {
            names.insert(name.to_owned(), layer.to_owned());
        }
    }
    names
}

/// First names after `crate::`, groups taken apart; comments do not count.
fn imports(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = without_tests(text)
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or_default(),
            None => rest,
        };
        let names = list
            .split(',')
            .take(if rest.starts_with('{') { 99 } else { 1 });
        for name in names.map(str::trim) {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
            found.insert(name[..end.unwrap_or(name.len())].to_owned());
        }
    }
    found.remove("");
    found
}

/// Imports of a file that lead to a layer which does not stand below its own.
fn upward(
    path: &str,
    text: &str,
    layers: &[String],
    exports: &BTreeMap<String, String>,
) -> Vec<String> {
    let place = |layer: &str| layers.iter().position(|known| known == layer);
    let own = layer_of(path);
    let Some(from) = place(own) else {
        return vec![format!("{path}: `{own}` has no row in ARCHITECTURE.md")];
    };
    let imported = imports(text).into_iter();
    let wrong = imported.filter_map(|name| {
        let layer = exports.get(&name).unwrap_or(&name);
        let to = place(layer)?;
        (to > from).then(|| format!("{path}: `{own}` imports `{name}` of `{layer}`, above it"))
    });
    wrong.collect()
}

/// `impl Engine` outside the folder that holds it.
fn strays(path: &str, text: &str) -> Vec<String> {
    let inside = path.starts_with("src/engine/") || is_test(path);
    let blocks = without_tests(text)
        .lines()
        .filter(|line| line.starts_with("impl Engine"));
    let wrong = blocks.filter(|_| !inside);
    wrong
        .map(|_| format!("{path}: `impl Engine` outside of src/engine"))
        .collect()
}

/// Functions of more than [`MAX_FUNCTION`] lines, by name.
fn long_functions(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some((before, rest)) = code.split_once("fn ") else {
            continue;
        };
        let words = before.split(' ').filter(|word| !word.is_empty());
        let known = ["pub", "const", "unsafe", "async"];
        if !words
            .clone()
            .all(|word| known.contains(&word) || word.starts_with("pub("))
        {
            continue;
        }
        let head = lines[n..]
            .iter()
            .find(|line| line.ends_with(['{', ';', '}']));
        if head.is_some_and(|line| line.ends_with(';')) {
            continue; // A signature in a trait.
        }
        let closed = format!("{}}}", " ".repeat(indent));
        let end = lines[n..].iter().position(|line| *line == closed);
        if end.is_some_and(|len| len + 1 > MAX_FUNCTION) {
            let name = rest.split(['(', '<']).next().unwrap_or(rest);
            found.push(name.to_owned());
        }
    }
    found
}

/// Lines that are too wide, but for rows of tables.
fn wide_lines(path: &str, text: &str) -> Vec<String> {
    let mut drawing = false;
    let wide = without_tests(text).lines().enumerate().filter(|(_, line)| {
        drawing ^= line.contains("/// ```") || line.contains("//! ```");
        let most = if drawing { MAX_DRAWING } else { MAX_WIDTH };
        let code = line.trim_start();
        let is_row = code.starts_with("/// |") || code.starts_with("//! |");
        line.chars().count() > most && !is_row
    });
    wide.map(|(n, line)| format!("{path}:{}: {} columns", n + 1, line.chars().count()))
        .collect()
}

/// Documentation that makes sense only beside what stands before it, and banned phrases.
fn vague_lines(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let Some((_, comment)) = line.split_once("//") else {
            continue;
        };
        let words = comment.trim_start_matches(['/', '!', ' ']);
        let neighbours = [
            "The same,",
            "The same for",
            "The same backwards",
            "As above",
            "Ditto",
        ];
        if neighbours.iter().any(|start| words.starts_with(start)) {
            found.push(format!(
                "{path}:{}: refers to its neighbour: {words}",
                n + 1
            ));
        }
        for (phrase, better) in PHRASES {
            if comment.to_lowercase().contains(phrase) {
                let at = n + 1;
                found.push(format!("{path}:{at}: `{phrase}`; write `{better}`"));
            }
        }
    }
    found
}

fn nothing(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn folders_import_only_lower_layers() {
    let (layers, exports) = (layers(), exports());
    assert!(layers.len() >= 15 && exports.len() >= 30);
    let above = ["src/lib.rs", "src/internals.rs"];
    let files = sources("src").into_iter();
    let files = files.filter(|(path, _)| !is_test(path) && !above.contains(&path.as_str()));
    nothing(
        files
            .flat_map(|(path, text)| upward(&path, &text, &layers, &exports))
            .collect(),
    );
}

#[test]
fn engine_methods_stand_in_engine() {
    let files = sources("src").into_iter();
    nothing(
        files
            .flat_map(|(path, text)| strays(&path, &text))
            .collect(),
    );
}

#[test]
fn files_are_short() {
    let long = product().into_iter().filter_map(|(path, text)| {
        let lines = text.lines().count();
        (lines > MAX_FILE).then(|| format!("{path}: {lines} lines"))
    });
    nothing(long.collect());
}

/// A function that was made short leaves the list of exceptions.
#[test]
fn functions_are_short() {
    let files = product().into_iter();
    let long = files.flat_map(|(path, text)| {
        let file = path.rsplit('/').next().unwrap().to_owned();
        let names = long_functions(&text).into_iter();
        names.map(move |name| format!("{file} {name}"))
    });
    let long: BTreeSet<String> = long.collect();
    let known: BTreeSet<String> = LONG_FUNCTIONS.map(str::to_owned).into();
    assert_eq!(long, known);
}

#[test]
fn lines_are_narrow() {
    let files = product().into_iter();
    nothing(
        files
            .flat_map(|(path, text)| wide_lines(&path, &text))
            .collect(),
    );
}

#[test]
fn documentation_stands_alone() {
    let files = product().into_iter();
    nothing(
        files
            .flat_map(|(path, text)| vague_lines(&path, &text))
            .collect(),
    );
}

#[test]
fn broken_rules_are_found() {
    let layers: Vec<String> = ["bounds", "read", "db"].map(str::to_owned).into();
    let exports = BTreeMap::from([("Db".to_owned(), "db".to_owned())]);
    let check = |path: &str, text: &str| upward(path, text, &layers, &exports).len();
    assert_eq!(check("src/db/mod.rs", "use crate::read::view::View;"), 0);
    assert_eq!(check("src/read/view.rs", "use crate::db::Handle;"), 1);
    assert_eq!(check("src/read/view.rs", "use crate::{Db, bounds};"), 1);
    assert_eq!(check("src/read/view.rs", "fn f(db: &crate::db::Db) {}"), 1);
    assert_eq!(check("src/read/view.rs", "// See crate::db.\n"), 0);
    assert_eq!(
        check("src/read/a.rs", "\n#[cfg(test)]\nmod t { use crate::Db; }"),
        0
    );
    assert_eq!(check("src/other.rs", ""), 1);

    assert_eq!(strays("src/jobs/flush.rs", "impl Engine {\n}").len(), 1);
    assert_eq!(strays("src/engine/mod.rs", "impl Engine {\n}").len(), 0);

    let long = format!(
        "    pub(crate) fn f<T>(x: T) {{\n{}    }}\n",
        "x;\n".repeat(70)
    );
    assert_eq!(long_functions(&long), ["f"]);
    let short = format!("fn f() {{\n{}}}\n", "x;\n".repeat(68));
    assert!(long_functions(&short).is_empty());

    let wide = format!("// {}", "x".repeat(98));
    assert_eq!(wide_lines("a.rs", &wide).len(), 1);
    assert_eq!(wide_lines("a.rs", &wide[1..]).len(), 0);
    let drawing = |width| format!("//! ```text\n{}\n//! ```\n{wide}", "x".repeat(width));
    assert_eq!(wide_lines("a.rs", &drawing(118)), ["a.rs:4: 101 columns"]);
    assert_eq!(wide_lines("a.rs", &drawing(119)).len(), 2);

    assert_eq!(vague_lines("a.rs", "/// The same backwards.").len(), 1);
    assert_eq!(vague_lines("a.rs", "    // What comes of it.").len(), 1);
    assert_eq!(vague_lines("a.rs", "/// So many keys are few.").len(), 1);
    assert_eq!(vague_lines("a.rs", "let x = 1; // Fine.").len(), 0);
}

/// Every row of the table is a folder or a file, and the paths that the page names are there.
#[test]
fn architecture_names_what_exists() {
    for layer in layers() {
        let folder = root().join("src").join(&layer);
        let file = folder.with_extension("rs");
        assert!(folder.is_dir() || file.is_file(), "{layer}");
    }
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let paths = text.split('`').skip(1).step_by(2);
    let paths = paths.filter(|path| path.ends_with(".rs") || path.ends_with('/'));
    let paths = paths.filter(|path| !path.contains('*'));
    let exists = |path: &str| [path, &format!("src/{path}")].iter().any(|p| is_there(p));
    let missing: Vec<&str> = paths.filter(|path| !exists(path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn is_there(path: &str) -> bool {
    root().join(Path::new(path)).exists()
}
