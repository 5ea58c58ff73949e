//! What the fuzzers do with bytes: one function a target, which says what was wrong.
//!
//! The functions live here so that `cargo test` replays the corpus that fuzzing has left in
//! `fuzz/corpus` without a fuzzer ([`TARGETS`] is what both go through). Each takes any bytes.
//! Beside "no panic" it holds the code against what it promises: what decodes is encoded to what
//! decodes to the same; entries rise strictly and every way of reading them agrees; an answer is an
//! entry that is there; an open of whatever directory gives the database, or an error of the kind
//! that says so.
//!
//! The first byte of an input holds flags. With [`REPAIR`] the checksums are put right before
//! anything is decoded, for no mutation gets past a CRC: see `repair`.
//!
//! Memory is bounded by [`Target::memory`], as counted by the allocator [`HEAP`] in the binaries
//! that use it.

mod directory;
mod disk;
mod input;
mod log;
mod operations;
mod repair;
mod seeds;
mod table;
mod table_parts;

use peak_alloc::PeakAlloc;

/// What every body returns: in words what is wrong.
pub type Outcome<T = ()> = Result<T, String>;

/// The allocator whose peak [`Target::run`] looks at, where a binary has made it the global one.
pub static HEAP: PeakAlloc = PeakAlloc;

/// Flag of an input's first byte: checksums are put right.
pub const REPAIR: u8 = 1;

/// Bytes on top of what an input may take, for any target.
const SLACK: usize = 1 << 20;
/// No LZ4 stream unpacks to more than this many times its length.
const LZ4_RATIO: usize = 255;

/// Something to fuzz.
#[derive(Debug)]
pub struct Target {
    /// Its name: of the fuzzer, and of the corpus' folder.
    pub name: &'static str,
    body: fn(&[u8]) -> Outcome,
    seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes of memory for each byte of input, and beyond.
    per_byte: usize,
    fixed: usize,
}

const fn target(
    name: &'static str,
    body: fn(&[u8]) -> Outcome,
    seeds: fn() -> Vec<Vec<u8>>,
) -> Target {
    Target {
        name,
        body,
        seeds,
        per_byte: 4,
        fixed: SLACK,
    }
}

impl Target {
    /// Blocks may be unpacked: once into columns, once into records, and once more to compare.
    const fn unpacks(mut self) -> Target {
        self.per_byte += 4 * LZ4_RATIO;
        self
    }

    /// Whole databases are opened, with their files in memory.
    const fn opens(mut self) -> Target {
        self.fixed += 64 << 20;
        self.unpacks()
    }

    /// Most bytes of memory that an input of `len` bytes may take.
    pub fn memory(&self, len: usize) -> usize {
        self.fixed.saturating_add(self.per_byte.saturating_mul(len))
    }

    /// Inputs to begin with, made from valid structures.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }

    /// Tries one input.
    ///
    /// # Errors
    /// What is wrong.
    pub fn run(&self, data: &[u8]) -> Outcome {
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        (self.body)(data)?;
        let used = HEAP.peak_usage().saturating_sub(before);
        let most = self.memory(data.len());
        match used <= most {
            true => Ok(()),
            false => Err(format!(
                "{} bytes of input took {used} bytes of memory, more than {most}",
                data.len()
            )),
        }
    }
}

/// All targets.
pub static TARGETS: &[Target] = &[
    target("frame", log::frame, seeds::frame),
    target("segment", log::segment, seeds::segment),
    target("edit", log::edit, seeds::edit),
    target("batch", log::batch, seeds::batch),
    target("footer", table_parts::footer, seeds::footer),
    target("fences", table_parts::fences, seeds::fences),
    target("index", table_parts::index, seeds::index),
    target("block", table_parts::block, seeds::block),
    target("packed", table_parts::packed, seeds::packed).unpacks(),
    target("table", table::table, seeds::table).unpacks(),
    target("directory", directory::directory, seeds::directory).opens(),
    target("operations", operations::operations, seeds::operations).opens(),
];

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// An error unless `fits`.
fn expect(fits: bool, what: impl FnOnce() -> String) -> Outcome {
    match fits {
        true => Ok(()),
        false => Err(what()),
    }
}
