//! x402-keeper: makes an x402 payment final, exactly once, and can prove it.
pub mod eip3009;
pub mod lifecycle;
pub mod splitter;
pub mod x402;
