//! What the keeper reads of blocks, receipts and transactions; everything else in the answers is
//! ignored, whatever fields a chain adds.

use alloy::{
    primitives::{Address, B256, Bytes, U64, U128},
    rpc::types::Log,
};
use serde::Deserialize;
use std::fmt;

/// Which block to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockTag {
    /// The block after it, as the node's pool would make it. Only counts are read of it.
    Pending,
    /// Newest sealed block.
    Latest,
    /// Newest block whose data is on L1.
    Safe,
    /// Newest block that is final.
    Finalized,
    /// By number.
    Number(u64),
}

impl fmt::Display for BlockTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("pending"),
            Self::Latest => f.write_str("latest"),
            Self::Safe => f.write_str("safe"),
            Self::Finalized => f.write_str("finalized"),
            Self::Number(number) => write!(f, "{number:#x}"),
        }
    }
}

/// A block's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    number: U64,
    /// Its hash.
    pub hash: B256,
    timestamp: U64,
    base_fee_per_gas: Option<U64>,
}

impl Head {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number.to()
    }

    /// Its time, seconds.
    pub fn timestamp(&self) -> u64 {
        self.timestamp.to()
    }

    /// Wei per gas; zero before EIP-1559.
    pub fn base_fee(&self) -> u64 {
        self.base_fee_per_gas.unwrap_or_default().to()
    }
}

/// A receipt.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The transaction.
    pub transaction_hash: B256,
    status: U64,
    block_number: U64,
    /// The block.
    pub block_hash: B256,
    gas_used: U64,
    effective_gas_price: U128,
    l1_fee: Option<U128>,
    /// All logs of the transaction, in order.
    pub logs: Vec<Log>,
}

impl Receipt {
    /// Whether it succeeded.
    pub fn success(&self) -> bool {
        self.status == U64::ONE
    }

    /// Number of the block.
    pub fn block_number(&self) -> u64 {
        self.block_number.to()
    }

    /// Gas used.
    pub fn gas_used(&self) -> u64 {
        self.gas_used.to()
    }

    /// Fee for execution, wei.
    pub fn l2_fee(&self) -> u128 {
        self.effective_gas_price.to::<u128>().saturating_mul(u128::from(self.gas_used()))
    }

    /// Fee for data on L1, wei, on chains that have one.
    pub fn l1_fee(&self) -> Option<u128> {
        self.l1_fee.map(|fee| fee.to())
    }
}

/// A mined transaction.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    /// Who signed it.
    pub from: Address,
    /// Whom it called.
    pub to: Option<Address>,
    /// With what.
    pub input: Bytes,
    nonce: U64,
}

impl Transaction {
    /// The sender's account nonce.
    pub fn account_nonce(&self) -> u64 {
        self.nonce.to()
    }
}
