//! The answer to an unpaid call: one offer, written as x402 v1 body, x402 v2 header and JECP block.

use super::{MicroUsdc, Network, Payment, Subcause, Version};
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
    /// Always [`Version::V2`].
    pub x402_version: Version,
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
            x402_version: Version::V2,
            error: Some(error.to_owned()),
            resource: json!({
                "url": self.resource,
                "description": self.description,
                "mimeType": "application/json",
            }),
            accepts: vec![self.v2_requirements()],
        }
    }

    /// Whether a payment claims to be for this offer. What a client says that it accepted must be what
    /// was offered, field by field; what it signed is for others to check.
    ///
    /// # Errors
    /// Which claim is wrong.
    pub fn is_claimed_by(&self, payment: &Payment) -> Result<(), Subcause> {
        if payment.network != self.network {
            return Err(Subcause::NetworkUnsupported);
        }
        // x402 v1 repeats nothing of the offer but the network.
        let Some(accepted) = &payment.accepted else { return Ok(()) };
        let offered = self.v2_requirements();
        let claims = [
            (accepted.scheme == offered.scheme, Subcause::UnsupportedScheme),
            (accepted.network == offered.network, Subcause::NetworkMismatch),
            (accepted.asset == offered.asset, Subcause::AssetMismatch),
            (accepted.pay_to == offered.pay_to, Subcause::PaytoMismatch),
            (accepted.amount == offered.amount, Subcause::AmountMismatch),
            // The token's domain.
            (accepted.extra == offered.extra, Subcause::AssetMismatch),
            (accepted.max_timeout_seconds == offered.max_timeout_seconds, Subcause::Expired),
        ];
        claims.into_iter().try_for_each(|(agrees, wrong)| if agrees { Ok(()) } else { Err(wrong) })
    }

    /// The entry of JECP S06 2.2 in `payment.accepts`, each key in both spellings (C-34) and with
    /// `amount`, which its SDK reads (C-41).
    pub fn jecp_entry(&self) -> Value {
        let amount = self.amount.micro().to_string();
        let mut extra = self.domain_extra();
        extra.insert("splitter_capability_id".to_owned(), json!(self.splitter_capability_id));
        extra.insert("facilitator_url".to_owned(), json!(self.facilitator_url));
        json!({
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
        })
    }

    fn domain_extra(&self) -> Map<String, Value> {
        Map::from_iter([
            ("name".to_owned(), json!(self.asset.name)),
            ("version".to_owned(), json!(self.asset.version)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x402::encode_header;

    fn offer() -> Offer {
        Offer {
            network: Network::BaseSepolia,
            asset: Network::BaseSepolia.usdc(),
            pay_to: Address::repeat_byte(7),
            amount: MicroUsdc::new(200_000).unwrap(),
            resource: "https://hub.example/v1/invoke".to_owned(),
            description: "Echoes".to_owned(),
            max_timeout_seconds: 60,
            splitter_capability_id: B256::repeat_byte(1),
            facilitator_url: "https://hub.example".to_owned(),
        }
    }

    fn payment(change: impl Fn(&mut Value)) -> Result<Payment, Subcause> {
        let mut wire = json!({
            "x402Version": Version::V2,
            "accepted": offer().v2_requirements(),
            "payload": {
                "signature": "0x11",
                "authorization": {
                    "from": Address::repeat_byte(1), "to": Address::repeat_byte(7),
                    "value": "200000", "validAfter": "0", "validBefore": "1800000000",
                    "nonce": B256::repeat_byte(2),
                },
            },
        });
        change(&mut wire["accepted"]);
        Payment::decode(Version::V2, encode_header(&wire).unwrap().as_bytes())
    }

    /// x402 v2: what a client accepted is what was offered, each field of it.
    #[test]
    fn what_was_accepted_must_be_what_was_offered() {
        offer().is_claimed_by(&payment(|_| {}).unwrap()).unwrap();
        type Case = (fn(&mut Value), Subcause);
        let cases: [Case; 10] = [
            (|it| it["network"] = "eip155:8453".into(), Subcause::NetworkUnsupported),
            (|it| it["network"] = "base-sepolia".into(), Subcause::NetworkMismatch),
            (|it| it["asset"] = json!(Address::repeat_byte(3)), Subcause::AssetMismatch),
            (|it| it["payTo"] = json!(Address::repeat_byte(3)), Subcause::PaytoMismatch),
            (|it| it["amount"] = "199999".into(), Subcause::AmountMismatch),
            (|it| it["amount"] = "0200000".into(), Subcause::AmountMismatch),
            (|it| it["extra"]["name"] = "USD Coin".into(), Subcause::AssetMismatch),
            (|it| it["extra"]["more"] = 1.into(), Subcause::AssetMismatch),
            (|it| it["extra"] = json!({}), Subcause::AssetMismatch),
            (|it| it["maxTimeoutSeconds"] = 61.into(), Subcause::Expired),
        ];
        for (change, expected) in cases {
            let claimed = payment(change).and_then(|payment| offer().is_claimed_by(&payment));
            assert_eq!(claimed, Err(expected));
        }
        let scheme = payment(|it| it["scheme"] = "upto".into());
        assert_eq!(scheme.map(drop), Err(Subcause::UnsupportedScheme));
    }

    /// Order does not matter, nor how addresses are written.
    #[test]
    fn the_same_terms_in_another_spelling_are_the_same() {
        let spelt = payment(|it| {
            it["payTo"] = it["payTo"].as_str().unwrap().to_lowercase().into();
            it["extra"] = json!({"version": "2", "name": "USDC"});
        });
        offer().is_claimed_by(&spelt.unwrap()).unwrap();
    }

    /// C-34, C-41: each key in both spellings, and `amount`.
    #[test]
    fn jecps_entry_has_both_spellings() {
        let entry = offer().jecp_entry();
        for (snake, camel) in [
            ("pay_to", "payTo"),
            ("max_amount_required", "maxAmountRequired"),
            ("max_amount_required", "amount"),
            ("mime_type", "mimeType"),
            ("max_timeout_seconds", "maxTimeoutSeconds"),
        ] {
            assert!(!entry[snake].is_null() && entry[snake] == entry[camel], "{snake}");
        }
    }
}
