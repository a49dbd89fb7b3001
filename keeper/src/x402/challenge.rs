//! The answer to an unpaid call: one offer, written as x402 v1 body, x402 v2 header and JECP block.

use super::{MicroUsdc, Network};
use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A token with its EIP-712 domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// The token.
    pub address: Address,
    /// `name` of its EIP-712 domain.
    pub name: &'static str,
    /// `version` of its EIP-712 domain.
    pub version: &'static str,
}

/// What a caller must pay, for what, to whom.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Where.
    pub network: Network,
    /// In which token.
    pub asset: Asset,
    /// The Splitter.
    pub pay_to: Address,
    /// Exactly this much.
    pub amount: MicroUsdc,
    /// Absolute URL of the resource.
    pub resource: String,
    /// One line for people.
    pub description: String,
    /// Seconds that the caller has between challenge and payment.
    pub max_timeout_seconds: u64,
    /// Id of the capability at the Splitter.
    pub splitter_capability_id: B256,
    /// Who settles; this daemon in `self` mode.
    pub facilitator_url: String,
}

/// One entry of `accepts` in x402 v2. Clients echo it in `accepted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRequirements {
    /// `exact`.
    pub scheme: String,
    /// CAIP-2.
    pub network: String,
    /// Atomic units, decimal.
    pub amount: String,
    /// The token.
    pub asset: Address,
    /// Payee.
    pub pay_to: Address,
    /// Seconds.
    pub max_timeout_seconds: u64,
    /// EIP-712 domain of the token, and what a client does not know.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

/// The `PAYMENT-REQUIRED` header of x402 v2, before base64.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRequired {
    /// 2.
    pub x402_version: u64,
    /// For people.
    #[serde(default)]
    pub error: Option<String>,
    /// What is sold.
    #[serde(default)]
    pub resource: Value,
    /// The ways to pay.
    pub accepts: Vec<PaymentRequirements>,
}

impl Offer {
    /// The only entry of `accepts` in x402 v1. Stock clients parse it strictly: no `outputSchema`,
    /// description and mimeType always strings, the resource an absolute URL.
    pub fn v1_requirements(&self) -> Value {
        json!({
            "scheme": "exact",
            "network": self.network.v1(),
            "maxAmountRequired": self.amount.micro().to_string(),
            "asset": self.asset.address,
            "payTo": self.pay_to,
            "resource": self.resource,
            "description": self.description,
            "mimeType": "application/json",
            "maxTimeoutSeconds": self.max_timeout_seconds,
            "extra": self.domain_extra(),
        })
    }

    /// The requirements of x402 v2.
    pub fn v2_requirements(&self) -> PaymentRequirements {
        PaymentRequirements {
            scheme: "exact".to_owned(),
            network: self.network.caip2().to_owned(),
            amount: self.amount.micro().to_string(),
            asset: self.asset.address,
            pay_to: self.pay_to,
            max_timeout_seconds: self.max_timeout_seconds,
            extra: self.domain_extra(),
        }
    }

    /// The `PAYMENT-REQUIRED` header of x402 v2.
    pub fn v2_challenge(&self, error: &str) -> PaymentRequired {
        PaymentRequired {
            x402_version: 2,
            error: Some(error.to_owned()),
            resource: json!({
                "url": self.resource,
                "description": self.description,
                "mimeType": "application/json",
            }),
            accepts: vec![self.v2_requirements()],
        }
    }

    /// The `payment` block of JECP S06 2.2, each key in both spellings (C-34) and with `amount`,
    /// which its SDK reads (C-41).
    pub fn jecp_block(&self) -> Value {
        let amount = self.amount.micro().to_string();
        let mut extra = self.domain_extra();
        extra.insert("splitter_capability_id".to_owned(), json!(self.splitter_capability_id));
        extra.insert("facilitator_url".to_owned(), json!(self.facilitator_url));
        json!({
            "x402Version": 1,
            "accepts": [{
                "scheme": "exact",
                "network": self.network.v1(),
                "asset": self.asset.address,
                "asset_symbol": "USDC",
                "asset_decimals": 6,
                "amount": amount,
                "max_amount_required": amount,
                "maxAmountRequired": amount,
                "pay_to": self.pay_to,
                "payTo": self.pay_to,
                "resource": self.resource,
                "description": self.description,
                "mime_type": "application/json",
                "mimeType": "application/json",
                "max_timeout_seconds": self.max_timeout_seconds,
                "maxTimeoutSeconds": self.max_timeout_seconds,
                "extra": extra,
            }],
            "ttl_seconds": self.max_timeout_seconds.min(30),
            "next_action": {
                "type": "x402_settle",
                "hint": "sign an EIP-3009 authorization for accepts[0] and repeat the call with it in X-Payment",
            },
        })
    }

    fn domain_extra(&self) -> Map<String, Value> {
        Map::from_iter([
            ("name".to_owned(), json!(self.asset.name)),
            ("version".to_owned(), json!(self.asset.version)),
        ])
    }
}
