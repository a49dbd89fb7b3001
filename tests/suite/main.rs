//! Whole-system tests. Each module names the promise that its tests keep.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, and says where"
)]

mod abi;
mod accidents;
mod agents;
mod audit;
mod booked;
mod boot;
mod bounds;
mod chain;
mod clients;
mod crash;
mod discovery;
mod docs;
mod drift;
mod driver;
mod edge;
mod external;
mod facilitator;
mod faults;
mod finality;
mod flags;
mod gate;
mod hints;
mod hostile;
mod kms;
mod ledger;
mod lookout;
mod openapi;
mod operations;
mod orders;
mod outbound;
mod payers;
mod quarantine;
mod rebuild;
mod reconcile;
mod reconciler;
mod refunds;
mod reorg;
mod reorgs;
mod replacement;
mod replay;
mod restart;
mod rig;
mod roles;
mod scripts;
mod send;
mod signing;
mod spending;
mod statements;
mod support;
mod surplus;
mod telemetry;
mod way;
mod webhooks;
