//! The body of `/verify` and `/settle`.

use super::{MAX_BODY_BYTES, reason::Reason};
use crate::x402::{Network, Payment, PaymentRequirements, Subcause, Version};
use alloy::primitives::{Address, B256};
use axum::body::{Body, to_bytes};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// What every answer names, as far as the body told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    /// Whose words are spoken.
    pub(super) version: Version,
    /// Who pays.
    pub(super) payer: Option<Address>,
    /// Where, by the name that was given.
    pub(super) network: String,
}

/// A refusal that names what it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Why.
    pub(super) reason: Reason,
    /// The same for people.
    pub(super) message: String,
    /// The transaction that it is about, if there is one.
    pub(super) tx_hash: Option<B256>,
}

impl Refusal {
    /// Without a transaction.
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), tx_hash: None }
    }
}

/// What is to be verified or settled. Nothing about it has been checked but its form.
#[derive(Debug)]
pub(super) struct Order {
    /// The payment; its hash is that of the whole payload in canonical form.
    pub(super) payment: Payment,
    /// What it is held against. Those of version 1 are translated.
    pub(super) requirements: PaymentRequirements,
    /// Hash of version and requirements as they were sent, the resource among them.
    pub(super) content_hash: B256,
}

/// Requirements of version 1.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequirementsV1 {
    scheme: String,
    network: String,
    max_amount_required: String,
    asset: Address,
    pay_to: Address,
    max_timeout_seconds: u64,
    #[serde(default)]
    extra: Option<Map<String, Value>>,
}

/// Reads a body, as JSON and whatever it is about.
pub(super) async fn read(body: Body, here: Network) -> (About, Result<Value, Refusal>) {
    let json = match to_bytes(body, MAX_BODY_BYTES).await {
        Ok(bytes) => serde_json::from_slice::<Value>(&bytes)
            .map_err(|error| Refusal::new(Reason::Payload, format!("the body: {error}"))),
        Err(_) => {
            let message = format!("the body is longer than {MAX_BODY_BYTES} bytes");
            Err(Refusal::new(Reason::Payload, message))
        }
    };
    let about = about(json.as_ref().unwrap_or(&Value::Null), here);
    (about, json)
}

/// What a body is about, however wrong the rest of it is.
pub(super) fn about(body: &Value, here: Network) -> About {
    let payload = &body["paymentPayload"];
    let versions = [&body["x402Version"], &payload["x402Version"]];
    let version = match versions.into_iter().find_map(Value::as_u64) {
        Some(1) => Version::V1,
        _ => Version::V2,
    };
    let payer = payload["payload"]["authorization"]["from"].as_str();
    let networks = [
        &body["paymentRequirements"]["network"],
        &payload["accepted"]["network"],
        &payload["network"],
    ];
    let network = networks.into_iter().find_map(Value::as_str).unwrap_or(match version {
        Version::V1 => here.v1(),
        Version::V2 => here.caip2(),
    });
    About {
        version,
        payer: payer.and_then(|payer| payer.parse().ok()),
        network: network.to_owned(),
    }
}

impl Order {
    /// Takes a body apart.
    ///
    /// # Errors
    /// When it does not have the form that its version prescribes, or payload and requirements do
    /// not fit each other.
    pub(super) fn parse(about: &About, body: &Value) -> Result<Self, Refusal> {
        let version = about.version;
        let (payload, required) = (&body["paymentPayload"], &body["paymentRequirements"]);
        let says = |value: &Value| value["x402Version"].as_u64();
        // A body without a version of its own is its payload's.
        let outer = says(body).or_else(|| says(payload));
        if outer != Some(version.number()) || says(payload) != outer {
            let message = "x402Version of body and payload must both be 1 or both be 2";
            return Err(Refusal::new(Reason::Version, message));
        }
        if payload["payload"]["authorization"].is_null() && payload["payload"].is_object() {
            let message = "only EIP-3009 authorizations are settled here";
            return Err(Refusal::new(Reason::PayloadType, message));
        }
        let requirements = requirements(version, required)?;
        if requirements.scheme != "exact" {
            return Err(Refusal::new(Reason::Scheme, "only the scheme exact is settled here"));
        }
        let Some(network) = Network::from_wire(&requirements.network) else {
            return Err(Refusal::new(Reason::Network, "this network is not served here"));
        };
        let json = canonical(payload)?;
        let payment = Payment::parse(version, &json).map_err(|subcause| match subcause {
            Subcause::UnsupportedScheme => Refusal::new(Reason::Scheme, "the payload's scheme"),
            Subcause::NetworkMismatch | Subcause::NetworkUnsupported => {
                Refusal::new(Reason::NetworkMismatch, "the payload's network")
            }
            _ => Refusal::new(
                Reason::Payload,
                "paymentPayload must have a signature and an EIP-3009 authorization",
            ),
        })?;
        if payment.network != network {
            let message = "payload and requirements name different networks";
            return Err(Refusal::new(Reason::NetworkMismatch, message));
        }
        if payment.accepted.as_ref().is_some_and(|accepted| *accepted != requirements) {
            let message = "paymentPayload.accepted and paymentRequirements differ";
            return Err(Refusal::new(Reason::Requirements, message));
        }
        let content = canonical(&json!({
            "paymentRequirements": required,
            "x402Version": version.number(),
        }))?;
        let content_hash = B256::from_slice(&Sha256::digest(content));
        Ok(Self { payment, requirements, content_hash })
    }
}

fn requirements(version: Version, json: &Value) -> Result<PaymentRequirements, Refusal> {
    let wrong = |error: serde_json::Error| {
        Refusal::new(Reason::Requirements, format!("paymentRequirements: {error}"))
    };
    match version {
        Version::V1 => {
            let written = RequirementsV1::deserialize(json).map_err(wrong)?;
            Ok(PaymentRequirements {
                scheme: written.scheme,
                network: written.network,
                amount: written.max_amount_required,
                asset: written.asset,
                pay_to: written.pay_to,
                max_timeout_seconds: written.max_timeout_seconds,
                extra: written.extra.unwrap_or_default(),
            })
        }
        Version::V2 => PaymentRequirements::deserialize(json).map_err(wrong),
    }
}

/// JSON without spaces, its keys in order: what is the same in another spelling is the same.
fn canonical(value: &Value) -> Result<Vec<u8>, Refusal> {
    serde_json_canonicalizer::to_vec(value)
        .map_err(|error| Refusal::new(Reason::Payload, format!("the body: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(version: u64) -> Value {
        let requirements = match version {
            1 => json!({
                "scheme": "exact", "network": "base-sepolia", "maxAmountRequired": "200000",
                "asset": Network::BaseSepolia.usdc().address, "payTo": Address::repeat_byte(2),
                "resource": "https://shop.example/x", "description": "", "mimeType": "",
                "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2"},
            }),
            _ => json!({
                "scheme": "exact", "network": "eip155:84532", "amount": "200000",
                "asset": Network::BaseSepolia.usdc().address, "payTo": Address::repeat_byte(2),
                "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2"},
            }),
        };
        let mut payload = json!({
            "x402Version": version,
            "payload": {"signature": "0x00", "authorization": {
                "from": Address::repeat_byte(1), "to": Address::repeat_byte(2), "value": "200000",
                "validAfter": "0", "validBefore": "9999999999", "nonce": B256::repeat_byte(3),
            }},
        });
        if version == 1 {
            payload["scheme"] = json!("exact");
            payload["network"] = json!("base-sepolia");
        } else {
            payload["accepted"] = requirements.clone();
        }
        json!({"x402Version": version, "paymentPayload": payload,
               "paymentRequirements": requirements})
    }

    fn parse(body: &Value) -> Result<Order, Refusal> {
        Order::parse(&about(body, Network::BaseSepolia), body)
    }

    #[test]
    fn both_versions_say_the_same() {
        let (one, two) = (parse(&body(1)).unwrap(), parse(&body(2)).unwrap());
        assert_eq!(one.requirements.amount, two.requirements.amount);
        assert_eq!(one.requirements.pay_to, two.requirements.pay_to);
        assert_eq!(one.payment.authorization, two.payment.authorization);
        assert_ne!(one.content_hash, two.content_hash);
        for version in [1, 2] {
            let told = about(&body(version), Network::Base);
            assert_eq!(told.payer, Some(Address::repeat_byte(1)));
            assert_eq!(told.version.number(), version);
            assert_eq!(told.network, ["base-sepolia", "eip155:84532"][usize::from(version == 2)]);
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let refused = |version, path: &str, value: Value| {
            let mut body = body(version);
            *body.pointer_mut(path).unwrap() = value;
            parse(&body).unwrap_err().reason
        };
        for (version, path, value, reason) in [
            (1, "/x402Version", json!(2), Reason::Version),
            (2, "/x402Version", json!(1), Reason::Version),
            (2, "/paymentPayload/x402Version", json!(3), Reason::Version),
            (1, "/paymentPayload/payload/signature", json!("zz"), Reason::Payload),
            (1, "/paymentPayload/payload/authorization/value", json!(5), Reason::Payload),
            (
                2,
                "/paymentPayload/payload",
                json!({"signature": "0x", "permit2Authorization": {}}),
                Reason::PayloadType,
            ),
            (1, "/paymentPayload/scheme", json!("upto"), Reason::Scheme),
            (1, "/paymentRequirements/scheme", json!("upto"), Reason::Scheme),
            (1, "/paymentRequirements/network", json!("polygon"), Reason::Network),
            (1, "/paymentRequirements/network", json!("base"), Reason::NetworkMismatch),
            (1, "/paymentPayload/network", json!("polygon"), Reason::NetworkMismatch),
            (2, "/paymentPayload/accepted/network", json!("eip155:1"), Reason::NetworkMismatch),
            (2, "/paymentPayload/accepted/amount", json!("1"), Reason::Requirements),
            (2, "/paymentPayload/accepted/maxTimeoutSeconds", json!(61), Reason::Requirements),
            (2, "/paymentPayload/accepted/extra/name", json!("USD"), Reason::Requirements),
            (2, "/paymentRequirements/payTo", json!("somebody"), Reason::Requirements),
            (1, "/paymentRequirements/maxTimeoutSeconds", json!("60"), Reason::Requirements),
        ] {
            assert_eq!(refused(version, path, value), reason, "v{version} {path}");
        }
        assert_eq!(parse(&json!({})).unwrap_err().reason, Reason::Version);
        assert_eq!(parse(&json!([1])).unwrap_err().reason, Reason::Version);
    }

    #[test]
    fn spelling_does_not_matter_and_content_does() {
        let order = parse(&body(1)).unwrap();
        let text = serde_json::to_string_pretty(&body(1)).unwrap();
        let again = parse(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(
            (order.payment.hash, order.content_hash),
            (again.payment.hash, again.content_hash)
        );
        let mut other = body(1);
        other["paymentRequirements"]["resource"] = json!("https://shop.example/y");
        assert_ne!(parse(&other).unwrap().content_hash, order.content_hash);
    }
}
