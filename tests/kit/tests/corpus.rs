//! Replays what fuzzing has found, without a fuzzer. One test, for memory is counted over the whole process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]

use std::path::Path;

use peak_alloc::PeakAlloc;
use terrace_kit::fuzz::TARGETS;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

#[test]
fn every_input_of_the_corpus_is_answered_well() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut failures = Vec::new();
    for target in TARGETS {
        let folder = corpus.join(target.name);
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default();
        files.sort();
        assert!(!files.is_empty(), "{} has no corpus", target.name);
        for file in &files {
            let data = std::fs::read(file).unwrap();
            if let Err(wrong) = target.run(&data) {
                failures.push(format!("{}: {wrong}", file.display()));
            }
        }
        println!("{}: {} inputs", target.name, files.len());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let folders = std::fs::read_dir(&corpus).unwrap().count();
    assert_eq!(folders, TARGETS.len(), "a corpus belongs to no target");
}
