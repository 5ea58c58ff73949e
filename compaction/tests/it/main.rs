//! Tests of the shape of the tree, of edits, pickers and merges.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod edits;
mod folds;
mod golden;
mod many_tables;
mod merges;
mod runs;
mod simulation;
mod store;
