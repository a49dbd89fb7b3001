//! What `/verify` and `/settle` answer: always with payer, network and, where there is one, the
//! transaction.

use super::{
    reason::Reason,
    wire::{About, Refusal},
};
use crate::{
    edge::error::ApiError,
    x402::{MicroUsdc, Subcause, Version},
};
use alloy::primitives::B256;
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

/// Seconds after which a caller may try again.
const RETRY_AFTER: u64 = 2;

/// Which of the two answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/verify`.
    Verify,
    /// `/settle`.
    Settle,
}

impl Endpoint {
    /// Its name in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Settle => "settle",
        }
    }

    /// Why it could not do its work, when that lies with us.
    pub(super) const fn failed(self) -> Reason {
        match self {
            Self::Verify => Reason::VerifyFailed,
            Self::Settle => Reason::SettleFailed,
        }
    }
}

/// A good payment.
pub(super) fn valid(about: &About) -> Response {
    Json(json!({"isValid": true, "payer": about.payer})).into_response()
}

/// A settled payment.
pub(super) fn settled(about: &About, amount: MicroUsdc, tx_hash: B256, replayed: bool) -> Response {
    let mut body = json!({
        "success": true,
        "transaction": tx_hash,
        "network": about.network,
        "payer": about.payer,
        "replayed": replayed,
    });
    if about.version == Version::V2 {
        body["amount"] = json!(amount.micro().to_string());
        // Its SDK lets through what is in here, and nothing that it does not know.
        body["extra"] = json!({"replayed": replayed});
    }
    Json(body).into_response()
}

/// A refused one.
pub(super) fn refused(endpoint: Endpoint, about: &About, refusal: &Refusal) -> Response {
    let Refusal { reason, message, tx_hash } = refusal;
    let word = reason.word(about.version);
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    match endpoint {
        Endpoint::Verify => {
            put("isValid", json!(false));
            put("invalidReason", json!(word));
            put("invalidMessage", json!(message));
        }
        Endpoint::Settle => {
            put("success", json!(false));
            put("errorReason", json!(word));
            put("errorMessage", json!(message));
        }
    }
    // Absent rather than null: stock servers of version 1 take no null.
    if let Some(payer) = about.payer {
        put("payer", json!(payer));
    }
    put("network", json!(about.network));
    put("transaction", tx_hash.map_or_else(|| json!(""), |hash| json!(hash)));
    let status = match reason {
        reason if reason.is_malformed() => StatusCode::BAD_REQUEST,
        reason if reason.is_ours() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let mut response = (status, Json(body)).into_response();
    if reason.is_ours() || *reason == Reason::Pending {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
    }
    response
}

/// Where a caller looks up what became of a payment.
pub(super) fn lookup(tx_hash: Option<B256>) -> String {
    tx_hash.map_or_else(
        || "/v1/payments?payer=&nonce=".to_owned(),
        |hash| format!("/v1/payments/{hash}"),
    )
}

/// What the gateway would have answered, in the words of x402. `expired` says which end of its window
/// an authorization is beyond.
pub(super) fn translate(endpoint: Endpoint, error: &ApiError, expired: Reason) -> Refusal {
    let (reason, tx_hash) = match error {
        ApiError::PaymentInvalid { subcause, tx_hash, .. } => {
            let reason = match subcause {
                Subcause::SignatureInvalid | Subcause::SignatureMalleable => Reason::Signature,
                Subcause::AmountMismatch => Reason::Value,
                Subcause::PaytoMismatch => Reason::Recipient,
                Subcause::NetworkMismatch => Reason::NetworkMismatch,
                Subcause::AssetMismatch => Reason::Requirements,
                Subcause::Expired => expired,
                Subcause::NonceReused => Reason::NonceUsed,
                Subcause::InsufficientFunds => Reason::Funds,
                Subcause::UnsupportedScheme => Reason::Scheme,
                _ => Reason::Payload,
            };
            (reason, *tx_hash)
        }
        ApiError::NotAccepted(Subcause::CapabilityWalletOnly) => (Reason::Requirements, None),
        ApiError::SettlementReused { tx_hash, .. } => (Reason::Duplicate, *tx_hash),
        ApiError::DuplicateRequest => (Reason::Duplicate, None),
        ApiError::Pending { tx_hash, .. } => (Reason::Pending, *tx_hash),
        ApiError::Held(receipt) => (Reason::State, receipt.tx_hash),
        _ => (endpoint.failed(), None),
    };
    let message = match reason {
        Reason::Pending => format!(
            "the payment is on its way, do not pay again: send this very request again, or look at {}",
            lookup(tx_hash)
        ),
        _ => error.message(),
    };
    Refusal { reason, message, tx_hash }
}
