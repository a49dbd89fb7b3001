//! x402-keeper: makes an x402 payment final, exactly once, and can prove it.
pub mod audit;
pub mod chain;
pub mod cli;
pub mod driver;
pub mod edge;
pub mod eip3009;
pub mod facilitator;
pub mod failpoint;
pub mod ledger;
pub mod lifecycle;
pub mod metrics;
pub mod outbox;
pub mod reconciler;
pub mod signer;
pub mod splitter;
pub mod watcher;
pub mod x402;
