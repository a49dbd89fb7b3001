//! The answer to a paid call.

use super::{Network, Version, header::encode_header};
use alloy::primitives::{Address, B256};
use serde::Serialize;

/// What `X-PAYMENT-RESPONSE` and `PAYMENT-RESPONSE` say of a settled payment.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Transaction that pulled the payment.
    pub transaction: B256,
    /// Where.
    pub network: Network,
    /// Who paid.
    pub payer: Address,
}

/// The superset that clients of x402 and of JECP read (C-41).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    success: bool,
    transaction: B256,
    tx_hash: B256,
    network: &'static str,
    network_id: u64,
    payer: Address,
}

impl Receipt {
    /// The header's value in the words of the client's version.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn encode(&self, version: Version) -> Result<String, serde_json::Error> {
        let network = match version {
            Version::V1 => self.network.v1(),
            Version::V2 => self.network.caip2(),
        };
        encode_header(&Wire {
            success: true,
            transaction: self.transaction,
            tx_hash: self.transaction,
            network,
            network_id: self.network.chain_id(),
            payer: self.payer,
        })
    }
}
