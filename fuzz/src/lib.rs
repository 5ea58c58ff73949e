//! Makes a fuzzer of a target of `terrace_kit::fuzz`, where all that a fuzzer does is.
//!
//! Memory is counted by the global allocator: an input that takes more than its target allows is a failure.

pub use libfuzzer_sys;

use std::sync::OnceLock;

use peak_alloc::PeakAlloc;
use terrace_kit::fuzz::{Target, find};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Tries one input of the target `name`.
///
/// # Panics
/// If something is wrong.
pub fn run(name: &'static str, data: &[u8]) {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| find(name).expect("a target of this name"));
    if let Err(wrong) = target.run(data) {
        panic!("{name}: {wrong}");
    }
}

/// The fuzzer of one target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::run($name, data));
    };
}
