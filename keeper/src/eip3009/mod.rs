//! EIP-3009 as USDC does it: what a payer signs, when the signature is good, and how the chain
//! tells who consumed an authorization nonce. Pure.
//!
//! Source: EIP-3009, EIP-712, EIP-2, ERC-1271, ERC-6492, Circle's FiatTokenV2_2.

mod attribution;
mod authorization;
mod multicall;
mod pulled;
mod signature;
mod token;

pub use attribution::{Inflow, inflows};
pub use authorization::{
    Authorization, Checked, MIN_REMAINING_SECONDS, PULL_CALL_BYTES, Pull, QUESTION_GAS, Terms,
    UNDEPLOYED_QUESTION_GAS, Unconfirmed, Unverified, Verified, domain, sign,
};
pub use multicall::{MULTICALL3, Multicall3};
pub use pulled::{PullCall, ReadPull, read_pull, read_pull_call};
pub use signature::{Deployment, MAX_SIGNATURE_BYTES, PayerSignature, Wallet};
pub use token::{FiatToken, FiatTokenBytes};
