//! EIP-3009 as USDC does it: what a payer signs, when the signature is good, and how the chain
//! tells who consumed an authorization nonce. Pure.
//!
//! Source: EIP-3009, EIP-712, EIP-2, Circle's FiatTokenV2_2.

mod attribution;
mod authorization;
mod pulled;
mod token;

pub use attribution::{Inflow, inflows};
pub use authorization::{
    Authorization, MIN_REMAINING_SECONDS, PULL_CALL_BYTES, Terms, Unverified, Verified, domain,
    sign,
};
pub use pulled::{PullCall, read_pull_call};
pub use token::FiatToken;
