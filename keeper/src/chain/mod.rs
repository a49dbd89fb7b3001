//! The chain as the keeper reads it and sends to it: JSON-RPC endpoints with failover, heads,
//! receipts, logs, fees, finality, and what a node's answer to a transaction means.

mod broadcast;
mod client;
mod fees;
mod finality;
mod heads;
mod hints;
mod history;
mod multicall;
mod send;
mod stream;
mod types;

pub use broadcast::Sent;
pub use client::Chain;
pub use fees::{DataFee, GAS_PRICE_ORACLE};
pub use finality::{FinalBlock, Finality};
pub use heads::{Heads, Reorgs, SeenHead};
pub use hints::Hints;
pub use history::Reorg;
pub use multicall::{Answers, Read, Reader};
pub use send::{SendClass, classify_send_error};
pub use stream::follow_stream;
pub use types::{BlockTag, Head, Receipt, Transaction};

/// Why the chain could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChainError {
    /// No endpoint gave a usable answer.
    #[error("no RPC endpoint answered {method}: {reason}")]
    Unavailable {
        /// What was asked.
        method: &'static str,
        /// What the last endpoint said.
        reason: String,
    },
    /// The node answered that it will not or cannot do it.
    #[error("the node refused {method}: {reason}")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// What the last endpoint said.
        reason: String,
    },
    /// The call was executed and reverted.
    #[error("the call reverted: {reason}")]
    Reverted {
        /// The node's words.
        reason: String,
        /// Revert data, empty when the node gave none.
        data: alloy::primitives::Bytes,
    },
    /// An answer is not of the form that it must have.
    #[error("{method} answered with something else than expected: {reason}")]
    Malformed {
        /// What was asked.
        method: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl ChainError {
    /// Whether the call itself failed, by reverting or for want of gas, which some nodes call a refusal.
    pub fn is_of_the_call(&self) -> bool {
        match self {
            Self::Reverted { .. } => true,
            Self::Refused { reason, .. } => reason.to_lowercase().contains("gas"),
            Self::Unavailable { .. } | Self::Malformed { .. } => false,
        }
    }
}

/// Result of a read.
pub type Result<T, E = ChainError> = std::result::Result<T, E>;
