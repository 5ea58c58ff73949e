//! Tests of the whole engine through its public API.
// All of this is a test, helpers included, which the lints' exceptions for tests do not see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]

mod arguments;
mod machine;
mod regressions;
