//! The 402: what a call costs and how it may be paid.
//!
//! One answer for all: x402 v1 in the body, x402 v2 in a header, JECP's `payment` block beside them.
//! Stock clients take every entry of the root's `accepts` for an x402 one, so a wallet stands in the
//! block alone (C-34).

use super::{PaymentMethods, envelope::Invocation, error::ApiError};
use crate::x402::{MicroUsdc, Offer, PAYMENT_REQUIRED, encode_header};
use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Number, Value, json};
use url::Url;

/// Seconds for which a price is meant to be acted upon (R-016).
const TTL_SECONDS: u64 = 30;
/// Seconds after which an unpaid caller may look again.
const RETRY_AFTER: u64 = 30;
/// Where the code is explained.
const DOCUMENTATION: &str = "https://jecp.dev/errors/payment_required";

/// What a caller reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tongue {
    /// x402 alone: `error` must be a string (docs/decisions/0002).
    X402,
    /// JECP: it has credentials, and wants the envelope.
    Jecp,
}

impl Tongue {
    /// Who sends credentials speaks JECP.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let has = |name: &str| headers.contains_key(name);
        if has("x-agent-id") || has("x-api-key") { Self::Jecp } else { Self::X402 }
    }
}

/// The ways to pay for a call; there is one at least.
#[derive(Debug)]
pub(super) struct Challenge<'a> {
    /// The call.
    pub(super) invocation: &'a Invocation,
    /// What it costs.
    pub(super) price: MicroUsdc,
    /// With x402.
    pub(super) offer: Option<Offer>,
    /// From a wallet, which is filled there.
    pub(super) topup: Option<Url>,
    /// What the wallet holds, USDC, where that is known.
    pub(super) remaining: Option<Number>,
    /// Who reads it.
    pub(super) tongue: Tongue,
}

impl Challenge<'_> {
    /// The answer.
    ///
    /// # Errors
    /// When nothing could pay, or when something cannot be written.
    pub(super) fn respond(&self) -> Result<Response, ApiError> {
        let methods = match (&self.topup, &self.offer) {
            (Some(_), Some(_)) => PaymentMethods::Both,
            (Some(_), None) => PaymentMethods::Stripe,
            (None, Some(_)) => PaymentMethods::X402,
            (None, None) => return Err(ApiError::Internal),
        };
        let text = match methods {
            PaymentMethods::Stripe => "payment required: top up the wallet and repeat the call",
            _ => "payment required: repeat the call with a signed EIP-3009 authorization",
        };
        let remaining = self.remaining.clone().map_or_else(|| json!(0.0), Value::Number);
        let mut details = json!({
            "required_usdc": usdc(self.price),
            "remaining_usdc": remaining,
            "subcause": "x402_or_wallet",
        });
        let mut body = Map::new();
        if let Some(offer) = &self.offer {
            body.insert("x402Version".to_owned(), json!(1));
            body.insert("accepts".to_owned(), json!([offer.v1_requirements()]));
        }
        body.insert("jecp".to_owned(), json!("1.0"));
        body.insert("id".to_owned(), json!(self.invocation.id));
        body.insert("status".to_owned(), json!("failed"));
        match (self.tongue, &self.offer) {
            (Tongue::X402, Some(_)) => {
                body.insert("error".to_owned(), json!(text));
                body.insert("code".to_owned(), json!("PAYMENT_REQUIRED"));
                body.insert("details".to_owned(), details);
                body.insert("documentation_url".to_owned(), json!(DOCUMENTATION));
            }
            // No x402 client can pay what takes wallets alone.
            (Tongue::Jecp, _) | (Tongue::X402, None) => {
                details["documentation_url"] = json!(DOCUMENTATION);
                let error = json!({
                    "code": "PAYMENT_REQUIRED",
                    "message": text,
                    "details": details,
                    "documentation_url": DOCUMENTATION,
                });
                body.insert("error".to_owned(), error);
            }
        }
        body.insert("payment".to_owned(), self.payment_block()?);
        body.insert("next_action".to_owned(), self.next_action(text));
        let mut response = (StatusCode::PAYMENT_REQUIRED, Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(offer) = &self.offer {
            let v2 = encode_header(&offer.v2_challenge(text)).map_err(|_| ApiError::Internal)?;
            headers.insert(PAYMENT_REQUIRED, header_text(&v2)?);
        }
        // S06 11.3, to the letter.
        let scheme = match (methods, &self.offer) {
            (PaymentMethods::X402, Some(offer)) => {
                format!("x402, scheme=\"exact\", network=\"{}\"", offer.network)
            }
            (PaymentMethods::Both, _) => "x402, Bearer".to_owned(),
            _ => "Bearer".to_owned(),
        };
        headers.insert(header::WWW_AUTHENTICATE, header_text(&scheme)?);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        Ok(response)
    }

    /// The `payment` block of JECP S06 2.2; the wallet comes first (R-003).
    fn payment_block(&self) -> Result<Value, ApiError> {
        let mut accepts = Vec::new();
        if let Some(topup) = &self.topup {
            accepts.push(json!({
                "scheme": "stripe-wallet",
                "amount_usd": usdc(self.price),
                "topup_url": self.returning(topup),
            }));
        }
        let longest = self.offer.as_ref().map_or(TTL_SECONDS, |offer| offer.max_timeout_seconds);
        let next = match &self.offer {
            Some(offer) => {
                accepts.push(offer.jecp_entry());
                json!({
                    "type": "x402_settle",
                    "hint": "sign an EIP-3009 authorization for the exact entry of accepts and repeat \
                             the call with it in X-Payment",
                })
            }
            None => self.next_action("top up the wallet and repeat the call"),
        };
        Ok(json!({
            "x402Version": 1,
            "accepts": accepts,
            "ttl_seconds": longest.min(TTL_SECONDS),
            "next_action": next,
        }))
    }

    /// R-017: the wallet where there is one, so that an SDK that knows no x402 goes on as ever (R-021).
    fn next_action(&self, hint: &str) -> Value {
        match &self.topup {
            None => json!({"type": "x402_settle", "hint": hint}),
            Some(topup) => {
                let mut next = json!({
                    "type": "topup",
                    "ui": self.returning(topup),
                    "hint": "top up the wallet and repeat the call",
                });
                if self.offer.is_some() {
                    next["alternative"] = json!("pay this call with x402: see payment.accepts");
                }
                next
            }
        }
    }

    /// Where a wallet is filled, with the way back (R-018).
    fn returning(&self, topup: &Url) -> Url {
        let mut url = topup.clone();
        url.query_pairs_mut().append_pair("return", &self.invocation.id);
        url
    }
}

/// An amount as the JSON number that JECP shows people. It is parsed from decimal text; nothing is
/// computed with it.
pub(super) fn usdc(amount: MicroUsdc) -> Value {
    amount.to_string().parse().map_or(Value::Null, |number: Number| Value::Number(number))
}

/// A header's value.
pub(super) fn header_text(value: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(value).map_err(|_| ApiError::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x402::Network;
    use alloy::primitives::{Address, B256};

    fn invocation() -> Invocation {
        let call = json!({"jecp": "1.0", "id": "call-1", "capability": "demo/echo",
                          "action": "echo", "input": {}});
        Invocation::parse(call.to_string().as_bytes()).unwrap()
    }

    fn offer() -> Offer {
        Offer {
            network: Network::Base,
            asset: Network::Base.usdc(),
            pay_to: Address::repeat_byte(7),
            amount: MicroUsdc::new(200_000).unwrap(),
            resource: "https://hub.example/v1/invoke".to_owned(),
            description: "Echoes".to_owned(),
            max_timeout_seconds: 20,
            splitter_capability_id: B256::repeat_byte(1),
            facilitator_url: "https://hub.example".to_owned(),
        }
    }

    async fn answer(
        offer: Option<Offer>,
        topup: Option<&str>,
        tongue: Tongue,
    ) -> (HeaderMap, Value) {
        let invocation = invocation();
        let price = MicroUsdc::new(200_000).unwrap();
        let topup = topup.map(|url| url.parse().unwrap());
        let challenge =
            Challenge { invocation: &invocation, price, offer, topup, remaining: None, tongue };
        let (parts, body) = challenge.respond().unwrap().into_parts();
        assert_eq!(parts.status, StatusCode::PAYMENT_REQUIRED);
        let body = axum::body::to_bytes(body, 100_000).await.unwrap();
        (parts.headers, serde_json::from_slice(&body).unwrap())
    }

    /// R-003, R-004, R-017 to R-019, R-033 to R-035.
    #[tokio::test]
    async fn the_ways_to_pay_and_their_words() {
        let topup = Some("https://hub.example/topup?plan=a");
        let (headers, both) = answer(Some(offer()), topup, Tongue::Jecp).await;
        assert_eq!(headers["www-authenticate"], "x402, Bearer");
        let accepts = both["payment"]["accepts"].as_array().unwrap();
        assert_eq!(accepts.len(), 2);
        assert_eq!(accepts[0]["scheme"], "stripe-wallet");
        assert_eq!(accepts[0]["amount_usd"].as_f64(), Some(0.2));
        assert_eq!(accepts[0]["topup_url"], "https://hub.example/topup?plan=a&return=call-1");
        assert_eq!(accepts[1]["scheme"], "exact");
        assert_eq!(both["accepts"].as_array().unwrap().len(), 1, "x402 clients read the root");
        assert_eq!(both["next_action"]["type"], "topup");
        assert_eq!(both["payment"]["next_action"]["type"], "x402_settle");
        assert_eq!(both["payment"]["ttl_seconds"], 20);

        let (headers, wallet) = answer(None, topup, Tongue::X402).await;
        assert_eq!(headers["www-authenticate"], "Bearer");
        assert!(!headers.contains_key(PAYMENT_REQUIRED));
        assert_eq!(wallet["payment"]["accepts"].as_array().unwrap().len(), 1);
        assert!(wallet.get("accepts").is_none() && wallet.get("x402Version").is_none());
        assert!(!wallet.to_string().contains("exact"));
        assert_eq!(wallet["error"]["code"], "PAYMENT_REQUIRED");

        let (headers, exact) = answer(Some(offer()), None, Tongue::X402).await;
        assert_eq!(headers["www-authenticate"], r#"x402, scheme="exact", network="base""#);
        assert_eq!(exact["payment"]["accepts"].as_array().unwrap().len(), 1);
        assert_eq!(exact["next_action"]["type"], "x402_settle");
    }

    /// docs/decisions/0002: a string for stock clients, the envelope for who has credentials.
    #[tokio::test]
    async fn error_is_what_the_caller_can_read() {
        let (_, stock) = answer(Some(offer()), None, Tongue::X402).await;
        assert!(stock["error"].is_string());
        assert_eq!(stock["code"], "PAYMENT_REQUIRED");
        let (_, agent) = answer(Some(offer()), None, Tongue::Jecp).await;
        assert_eq!(agent["error"]["code"], "PAYMENT_REQUIRED");
        assert_eq!(agent["error"]["details"]["required_usdc"].as_f64(), Some(0.2));
        assert_eq!(agent["error"]["documentation_url"], DOCUMENTATION);
        assert_eq!(agent["accepts"], stock["accepts"]);
        assert_eq!(agent["payment"], stock["payment"]);
    }
}
