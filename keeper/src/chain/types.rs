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
    /// The hash of the block before it.
    pub parent_hash: B256,
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
    operator_fee_scalar: Option<U128>,
    operator_fee_constant: Option<U128>,
    /// Chains write it since Jovian, which changed what the operator's scalar means.
    da_footprint_gas_scalar: Option<U64>,
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

    /// What the chain's operator takes beyond the execution fee, wei. Isthmus counts the scalar in
    /// millionths, Jovian in hundreds. Nodes leave both fields out where both are zero.
    pub fn operator_fee(&self) -> u128 {
        let scalar = self.operator_fee_scalar.unwrap_or_default().to::<u128>();
        let constant = self.operator_fee_constant.unwrap_or_default().to::<u128>();
        let product = u128::from(self.gas_used()).saturating_mul(scalar);
        let by_gas = match self.da_footprint_gas_scalar {
            Some(_) => product.saturating_mul(100),
            None => product / 1_000_000,
        };
        by_gas.saturating_add(constant)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn receipt(extra: serde_json::Value) -> Receipt {
        let mut receipt = json!({
            "transactionHash": B256::ZERO, "status": "0x1", "blockNumber": "0x1",
            "blockHash": B256::ZERO, "gasUsed": "0x186a0", "effectiveGasPrice": "0x2", "logs": [],
        });
        receipt.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(receipt).unwrap()
    }

    /// 100,000 gas, as chains of each fork write it.
    #[test]
    fn each_fork_has_its_operator_fee() {
        for (fork, fields, fee) in [
            ("before Isthmus", json!({}), 0),
            (
                "Isthmus",
                json!({"operatorFeeScalar": "0x1e8480", "operatorFeeConstant": "0x7"}),
                200_007,
            ),
            (
                "Jovian",
                json!({"operatorFeeScalar": "0x3", "operatorFeeConstant": "0x7",
                       "daFootprintGasScalar": "0x190"}),
                30_000_007,
            ),
            ("Jovian, without a fee", json!({"daFootprintGasScalar": "0x190"}), 0),
        ] {
            assert_eq!(receipt(fields).operator_fee(), fee, "{fork}");
        }
        assert_eq!(receipt(json!({})).l2_fee(), 200_000);
        assert_eq!(receipt(json!({"l1Fee": "0x5"})).l1_fee(), Some(5));
    }
}
