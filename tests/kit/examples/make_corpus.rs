//! Writes the inputs that fuzzing begins with into `fuzz/corpus`: always the same.
#![allow(clippy::disallowed_methods)]

use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for target in terrace_kit::fuzz::TARGETS {
        let folder = corpus.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (i, seed) in target.seeds().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{i:02}")), seed)?;
        }
        println!("{}: {} seeds", target.name, target.seeds().len());
    }
    Ok(())
}
