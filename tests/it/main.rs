//! Tests of the whole engine through its public API.

mod machine;
mod regressions;
