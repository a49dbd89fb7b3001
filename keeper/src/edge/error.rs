//! Refusals in the words of JECP (S03): a code from the closed catalogue, a sentence, what to do
//! next.

use crate::{
    lifecycle::{Failure, Status},
    x402::Subcause,
};
use alloy::primitives::B256;
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ApiError {
    /// Body is not JSON.
    UnsupportedMediaType,
    /// Body does not have the protocol's form.
    InvalidRequest(String),
    /// `jecp` is not "1.0".
    UnsupportedVersion,
    /// Body is too large.
    TooLarge,
    /// Nobody sells that.
    CapabilityNotFound,
    /// Its capability is sold, but not this action of it.
    ActionNotFound,
    /// The payment is no good; no money moved.
    PaymentInvalid {
        /// Why, in the closed registry.
        subcause: Subcause,
        /// More, for people.
        message: String,
        /// Transaction that used the authorization, where it is known.
        tx_hash: Option<B256>,
    },
    /// x402 is not taken here.
    NotAccepted(Subcause),
    /// The authorization belongs to another request.
    SettlementReused {
        /// Transaction that pulled it, if it was pulled.
        tx_hash: Option<B256>,
        /// That request's id. The caller has signed for it.
        request_id: Option<String>,
        /// When its pull was seen.
        settled_at: Option<DateTime<Utc>>,
    },
    /// The request id was used for something else.
    DuplicateRequest,
    /// The payment is on its way; it must not be paid again.
    Pending {
        /// How far it is.
        status: Status,
        /// Transaction to look for.
        tx_hash: Option<B256>,
    },
    /// The payment disagrees with the chain; a human looks at it.
    Held(Receipt),
    /// Too many calls of this capability failed; nothing was reserved.
    NotSold,
    /// Something behind the edge is missing.
    Degraded(String),
    /// The provider refused, broke or stayed silent after it was paid; a refund is due.
    Provider(Failure, Receipt),
    /// Anything else. Details are in the log only.
    Internal,
}

/// What an agent that paid needs to talk to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Receipt {
    /// Id of the settlement.
    pub(super) settlement: Uuid,
    /// Transaction that pulled it.
    pub(super) tx_hash: Option<B256>,
}

/// Seconds after which a caller may try again.
const RETRY_SOON: u64 = 2;
/// The same, when an operator has to do something first.
const RETRY_LATER: u64 = 60;

impl ApiError {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::InvalidRequest(_) => "INVALID_REQUEST",
            Self::UnsupportedVersion => "UNSUPPORTED_VERSION",
            Self::TooLarge => "INPUT_TOO_LARGE",
            Self::CapabilityNotFound => "CAPABILITY_NOT_FOUND",
            Self::ActionNotFound => "ACTION_NOT_FOUND",
            Self::PaymentInvalid { .. } => "X402_PAYMENT_INVALID",
            Self::NotAccepted(_) => "X402_NOT_ACCEPTED",
            Self::SettlementReused { .. } => "X402_SETTLEMENT_REUSED",
            Self::DuplicateRequest => "DUPLICATE_REQUEST",
            Self::Pending { .. } | Self::Degraded(_) | Self::Held(_) => "SERVICE_DEGRADED",
            Self::Provider(Failure::Error | Failure::Lost, _) => "PROVIDER_ERROR",
            Self::Provider(Failure::Timeout, _) => "PROVIDER_TIMEOUT",
            Self::Provider(Failure::Unavailable, _) | Self::NotSold => "PROVIDER_UNAVAILABLE",
            Self::Provider(Failure::Forgone, _) => "EXECUTION_FAILED",
            Self::Internal => "INTERNAL_ERROR",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidRequest(_) | Self::UnsupportedVersion => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::CapabilityNotFound | Self::ActionNotFound => StatusCode::NOT_FOUND,
            Self::PaymentInvalid { .. } | Self::NotAccepted(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::SettlementReused { .. } | Self::DuplicateRequest => StatusCode::CONFLICT,
            Self::Pending { .. } | Self::Degraded(_) | Self::Held(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Provider(Failure::Error | Failure::Lost, _) => StatusCode::BAD_GATEWAY,
            Self::Provider(Failure::Timeout, _) => StatusCode::GATEWAY_TIMEOUT,
            Self::Provider(Failure::Unavailable, _) | Self::NotSold => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Provider(Failure::Forgone, _) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::UnsupportedMediaType => "the body must be application/json".to_owned(),
            Self::InvalidRequest(why) => format!("the body is not a JECP call: {why}"),
            Self::UnsupportedVersion => "this hub speaks jecp \"1.0\"".to_owned(),
            Self::TooLarge => "the body is larger than 10 MB".to_owned(),
            Self::CapabilityNotFound => "nobody sells this capability here".to_owned(),
            Self::ActionNotFound => "this capability has no such action here".to_owned(),
            // A used authorization may have moved money, to us or to nobody.
            Self::PaymentInvalid { subcause: Subcause::NonceReused, message, .. } => {
                format!("the payment was refused: {message}")
            }
            Self::PaymentInvalid { message, .. } => {
                format!("the payment was refused and no money moved: {message}")
            }
            Self::NotAccepted(Subcause::X402Disabled) => {
                "x402 is switched off at this hub; no money moved".to_owned()
            }
            Self::NotAccepted(_) => {
                "this action cannot be paid with x402 now; no money moved".to_owned()
            }
            Self::SettlementReused { .. } => {
                "this authorization pays for another request".to_owned()
            }
            Self::DuplicateRequest => {
                "this request id was used for another call; take a new one".to_owned()
            }
            Self::Pending { .. } => {
                "the payment is on its way; repeat this very call, do not pay again".to_owned()
            }
            Self::Held(_) => {
                "the payment is held for the operator: the chain shows something else than was \
                 agreed"
                    .to_owned()
            }
            Self::NotSold => {
                "too many calls of this capability failed; it is not sold until its operator has \
                 looked; no money moved"
                    .to_owned()
            }
            Self::Degraded(why) => why.clone(),
            Self::Provider(Failure::Error, _) => {
                "the provider failed after it was paid; a refund is due".to_owned()
            }
            Self::Provider(Failure::Timeout, _) => {
                "the provider did not answer in time after it was paid; a refund is due".to_owned()
            }
            Self::Provider(Failure::Unavailable, _) => {
                "the provider could not be reached after it was paid; a refund is due".to_owned()
            }
            Self::Provider(Failure::Lost, _) => {
                "the provider was paid, its answer was lost; a refund is due".to_owned()
            }
            Self::Provider(Failure::Forgone, _) => {
                "paid, and not asked for in time: it is not served any more; a refund is due"
                    .to_owned()
            }
            Self::Internal => "something went wrong here; the operator's log knows".to_owned(),
        }
    }

    fn details(&self) -> Value {
        match self {
            Self::PaymentInvalid { subcause, tx_hash, .. } => {
                json!({"subcause": subcause.as_str(), "tx_hash": tx_hash})
            }
            Self::NotAccepted(subcause) => {
                json!({"subcause": subcause.as_str(), "received": "x402", "accepted": []})
            }
            Self::SettlementReused { tx_hash, request_id, settled_at } => json!({
                "subcause": Subcause::NonceReused.as_str(),
                "tx_hash": tx_hash,
                "original_request_id": request_id,
                "original_settled_at": settled_at,
            }),
            Self::Pending { status, tx_hash } => {
                json!({"settlement": status.as_str(), "tx_hash": tx_hash})
            }
            Self::Held(receipt) => json!({
                "settlement": Status::Mismatched.as_str(),
                "tx_hash": receipt.tx_hash,
                "transaction_id": receipt.settlement,
            }),
            Self::NotSold => json!({"reason": "too_many_failures"}),
            Self::Provider(_, receipt) => json!({
                "refund": "due",
                "tx_hash": receipt.tx_hash,
                "transaction_id": receipt.settlement,
            }),
            _ => json!({}),
        }
    }

    fn next_action(&self) -> Value {
        match self {
            Self::UnsupportedMediaType
            | Self::InvalidRequest(_)
            | Self::UnsupportedVersion
            | Self::TooLarge
            | Self::CapabilityNotFound
            | Self::ActionNotFound => json!({
                "type": "lookup_schema",
                "schema_url": "https://jecp.dev/spec/v1.0/01-protocol.md",
            }),
            Self::DuplicateRequest => json!({
                "type": "x402_settle",
                "hint": "call again with an id that you have not used",
            }),
            Self::PaymentInvalid { .. } | Self::SettlementReused { .. } => {
                json!({
                    "type": "x402_settle",
                    "hint": "call again without payment, then pay what the 402 asks for with a new \
                             authorization",
                })
            }
            Self::NotAccepted(_) | Self::Held(_) | Self::NotSold | Self::Internal => {
                json!({"type": "wait", "retry_after_seconds": RETRY_LATER})
            }
            Self::Pending { .. } => json!({"type": "wait", "retry_after_seconds": RETRY_SOON}),
            Self::Degraded(_) => json!({"type": "wait", "retry_after_seconds": RETRY_LATER}),
            Self::Provider(..) => json!({
                "type": "wait",
                "retry_after_seconds": RETRY_LATER,
                "hint": "the operator refunds the payment; do not pay again for this request",
            }),
        }
    }

    const fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Pending { .. } => Some(RETRY_SOON),
            Self::Degraded(_) | Self::Held(_) | Self::NotSold => Some(RETRY_LATER),
            Self::Provider(Failure::Unavailable, _) => Some(RETRY_LATER),
            _ => None,
        }
    }

    /// The answer to a request; `id` where it is known.
    pub(super) fn respond(&self, id: Option<&str>) -> Response {
        let code = self.code();
        let documentation = format!("https://jecp.dev/errors/{}", code.to_lowercase());
        let mut details = self.details();
        let deep_link = match details["subcause"].as_str() {
            Some(subcause) => format!("{documentation}#{subcause}"),
            None => documentation.clone(),
        };
        if let Some(details) = details.as_object_mut() {
            details.retain(|_, value| !value.is_null());
        }
        details["documentation_url"] = json!(deep_link);
        let mut body = json!({
            "jecp": "1.0",
            "status": "failed",
            "error": {
                "code": code,
                "message": self.message(),
                "details": details,
                "documentation_url": documentation,
            },
            "next_action": self.next_action(),
        });
        if let Some(id) = id {
            body["id"] = json!(id);
        }
        let mut response = (self.status(), Json(body)).into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
