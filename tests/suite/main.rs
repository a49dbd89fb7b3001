//! Whole-system tests. Each module names the promise that its tests keep.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, and says where"
)]

mod abi;
mod accidents;
mod audit;
mod booked;
mod boot;
mod chain;
mod crash;
mod docs;
mod edge;
mod faults;
mod finality;
mod hints;
mod hostile;
mod kms;
mod ledger;
mod orders;
mod quarantine;
mod reorg;
mod reorgs;
mod replacement;
mod restart;
mod rig;
mod roles;
mod scripts;
mod send;
mod signing;
mod spending;
mod support;
mod surplus;
mod way;
