//! Whole-system tests. Each module names the promise that its tests keep.

mod abi;
mod boot;
mod edge;
mod kms;
mod ledger;
mod restart;
mod scripts;
mod support;
mod way;
