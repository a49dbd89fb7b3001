//! Whole-system tests. Each module names the promise that its tests keep.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, and says where"
)]

mod abi;
mod boot;
mod crash;
mod docs;
mod edge;
mod hostile;
mod kms;
mod ledger;
mod reorg;
mod replacement;
mod restart;
mod scripts;
mod support;
mod way;
