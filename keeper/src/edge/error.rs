//! Refusals in the words of JECP (S03): a code from the closed catalogue, a sentence, what to do
//! next.

use super::agent::Refusal;
use super::{PaymentMethods, capability::Sunset, schema::Fault};
use crate::{
    lifecycle::{Failure, Status},
    outbound::{Field, Refused},
    x402::Subcause,
};
use alloy::primitives::B256;
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, SecondsFormat, Utc};
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
    /// Something of it is too large, and what.
    TooLarge(&'static str),
    /// The input is not what the capability asks for.
    InputSchema(Vec<Fault>),
    /// Nobody sells that.
    CapabilityNotFound,
    /// Its capability is sold, but not this action of it.
    ActionNotFound,
    /// The action has ended.
    Deprecated {
        /// Its name.
        capability: String,
        /// When, and who does its work.
        sunset: Sunset,
    },
    /// The agent may not make this call.
    Agent(Refusal),
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
    /// The facilitator named a transaction that is another payment's.
    TxHashSeen(B256),
    /// The facilitator did not answer in time.
    FacilitatorTimeout {
        /// Why.
        subcause: Subcause,
        /// Whom we asked.
        url: String,
        /// How long.
        elapsed_ms: u64,
        /// It may have pulled: this very call must be repeated, and nothing be paid again.
        is_pending: bool,
    },
    /// The facilitator could not be reached, or is not who it should be.
    FacilitatorUnreachable {
        /// Why.
        subcause: Subcause,
        /// Whom we asked.
        url: String,
        /// More precisely.
        last_error: &'static str,
        /// As above.
        is_pending: bool,
    },
    /// A URL that this call needs leads where no call may go; nothing was reserved.
    UrlBlocked(Field, Refused),
    /// Something behind the edge is missing.
    Degraded(String),
    /// The provider refused, broke or stayed silent after it was paid; a refund is due.
    Provider(Failure, Receipt),
    /// Nobody knows this payment, or not as the caller's.
    PaymentUnknown,
    /// The payment was served, or its call is not over: nothing is given back for it.
    RefundNotDue,
    /// The agent has asked for too many refunds within 24 hours; a human looks at this one.
    RefundInvestigation {
        /// So many are given back without asking anybody.
        threshold: u64,
    },
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
/// The same, when a facilitator did not answer.
const RETRY_FACILITATOR: u64 = 30;
/// The same, when an operator has to do something first.
const RETRY_LATER: u64 = 60;

impl ApiError {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::InvalidRequest(_) => "INVALID_REQUEST",
            Self::UnsupportedVersion => "UNSUPPORTED_VERSION",
            Self::TooLarge(_) => "INPUT_TOO_LARGE",
            Self::InputSchema(_) => "INPUT_SCHEMA_VIOLATION",
            Self::Deprecated { .. } => "CAPABILITY_DEPRECATED",
            Self::CapabilityNotFound => "CAPABILITY_NOT_FOUND",
            Self::ActionNotFound => "ACTION_NOT_FOUND",
            Self::Agent(refusal) => refusal.code(),
            Self::PaymentInvalid { .. } => "X402_PAYMENT_INVALID",
            Self::NotAccepted(_) => "X402_NOT_ACCEPTED",
            Self::SettlementReused { .. } | Self::TxHashSeen(_) => "X402_SETTLEMENT_REUSED",
            Self::FacilitatorTimeout { .. } => "X402_SETTLEMENT_TIMEOUT",
            Self::FacilitatorUnreachable { .. } => "X402_FACILITATOR_UNREACHABLE",
            Self::DuplicateRequest => "DUPLICATE_REQUEST",
            Self::Pending { .. } | Self::Degraded(_) | Self::Held(_) => "SERVICE_DEGRADED",
            Self::Provider(Failure::Error | Failure::Lost, _) => "PROVIDER_ERROR",
            Self::Provider(Failure::Timeout, _) => "PROVIDER_TIMEOUT",
            Self::Provider(Failure::Unavailable, _) | Self::NotSold => "PROVIDER_UNAVAILABLE",
            Self::Provider(Failure::Forgone, _) => "EXECUTION_FAILED",
            Self::PaymentUnknown => "TRANSACTION_NOT_FOUND",
            Self::RefundNotDue => "REFUND_NOT_DUE",
            Self::RefundInvestigation { .. } => "REFUND_INVESTIGATION_REQUIRED",
            Self::UrlBlocked(..) => "URL_BLOCKED_SSRF",
            Self::Internal => "INTERNAL_ERROR",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidRequest(_) | Self::UnsupportedVersion | Self::InputSchema(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Deprecated { .. } => StatusCode::GONE,
            Self::CapabilityNotFound | Self::ActionNotFound => StatusCode::NOT_FOUND,
            Self::Agent(refusal) => refusal.status(),
            Self::PaymentInvalid { .. } | Self::NotAccepted(_) | Self::UrlBlocked(..) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::SettlementReused { .. } | Self::TxHashSeen(_) | Self::DuplicateRequest => {
                StatusCode::CONFLICT
            }
            Self::FacilitatorTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::FacilitatorUnreachable { .. } => StatusCode::BAD_GATEWAY,
            Self::Pending { .. } | Self::Degraded(_) | Self::Held(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Provider(Failure::Error | Failure::Lost, _) => StatusCode::BAD_GATEWAY,
            Self::Provider(Failure::Timeout, _) => StatusCode::GATEWAY_TIMEOUT,
            Self::Provider(Failure::Unavailable, _) | Self::NotSold => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Provider(Failure::Forgone, _) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::PaymentUnknown => StatusCode::NOT_FOUND,
            Self::RefundNotDue | Self::RefundInvestigation { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::UnsupportedMediaType => "the body must be application/json".to_owned(),
            Self::InvalidRequest(why) => format!("the body is not a JECP call: {why}"),
            Self::UnsupportedVersion => "this hub speaks jecp \"1.0\"".to_owned(),
            Self::TooLarge(what) => (*what).to_owned(),
            Self::InputSchema(_) => {
                "the input is not what this capability asks for; details.errors says where"
                    .to_owned()
            }
            Self::Deprecated { capability, .. } => format!("{capability} is not sold any more"),
            Self::CapabilityNotFound => "nobody sells this capability here".to_owned(),
            Self::ActionNotFound => "this capability has no such action here".to_owned(),
            Self::Agent(refusal) => refusal.message(),
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
            Self::NotAccepted(Subcause::NetworkUnsupported) => {
                "this hub does not sell on that network; no money moved".to_owned()
            }
            Self::NotAccepted(_) => {
                "this action cannot be paid with x402 now; no money moved".to_owned()
            }
            Self::SettlementReused { .. } => {
                "this authorization pays for another request".to_owned()
            }
            Self::TxHashSeen(_) => {
                "whoever settles named a transaction that pays for another request; repeat this very \
                 call, do not pay again"
                    .to_owned()
            }
            Self::FacilitatorTimeout { is_pending: false, .. }
            | Self::FacilitatorUnreachable { is_pending: false, .. } => {
                "whoever settles could not be asked; no money moved".to_owned()
            }
            Self::FacilitatorTimeout { .. } | Self::FacilitatorUnreachable { .. } => {
                "nobody knows yet whether the payment was settled; repeat this very call, do not pay \
                 again"
                    .to_owned()
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
            Self::UrlBlocked(..) => {
                "the provider's endpoint has no address that this hub calls; no money moved".to_owned()
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
            Self::PaymentUnknown => {
                "no payment of yours was made in this transaction; send the payment's own header \
                 with the request"
                    .to_owned()
            }
            Self::RefundNotDue => {
                "this payment was served, or its call is not over; nothing is given back for it"
                    .to_owned()
            }
            Self::RefundInvestigation { .. } => {
                "too many refunds were asked for within 24 hours; this one is written down, and a \
                 human looks at it"
                    .to_owned()
            }
            Self::Internal => "something went wrong here; the operator's log knows".to_owned(),
        }
    }

    fn details(&self, methods: Option<PaymentMethods>) -> Value {
        match self {
            Self::InputSchema(faults) => {
                let errors = faults.iter().map(|fault| {
                    json!({
                        "instance_path": fault.instance_path,
                        "schema_path": fault.schema_path,
                        "reason": fault.reason,
                    })
                });
                json!({"errors": errors.collect::<Vec<_>>()})
            }
            Self::Deprecated { capability, sunset } => json!({
                "capability": capability,
                "sunset_at": sunset.at.to_rfc3339_opts(SecondsFormat::Secs, true),
                "successor": sunset.successor,
            }),
            Self::Agent(refusal) => refusal.details(),
            Self::PaymentInvalid { subcause, tx_hash, .. } => {
                json!({"subcause": subcause.as_str(), "tx_hash": tx_hash})
            }
            Self::NotAccepted(subcause) => {
                let accepted: &[_] = match (subcause, methods) {
                    (Subcause::NetworkUnsupported, Some(methods)) => methods.words(),
                    (_, Some(methods)) if methods.take_stripe() => PaymentMethods::Stripe.words(),
                    _ => &[],
                };
                json!({"subcause": subcause.as_str(), "received": "x402", "accepted": accepted})
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
            Self::TxHashSeen(tx_hash) => {
                json!({"subcause": Subcause::TxHashSeen.as_str(), "tx_hash": tx_hash})
            }
            Self::FacilitatorTimeout { subcause, url, elapsed_ms, is_pending } => json!({
                "subcause": subcause.as_str(),
                "facilitator_url": url,
                "elapsed_ms": elapsed_ms,
                "settlement": is_pending.then_some(Status::SettlePending.as_str()),
            }),
            Self::FacilitatorUnreachable { subcause, url, last_error, is_pending } => json!({
                "subcause": subcause.as_str(),
                "facilitator_url": url,
                "last_error": last_error,
                "settlement": is_pending.then_some(Status::SettlePending.as_str()),
            }),
            Self::NotSold => json!({"reason": "too_many_failures"}),
            Self::UrlBlocked(field, refused) => json!({
                "field": field.as_str(),
                "blocked_url": refused.blocked_url,
                "reason": refused.reason.as_str(),
            }),
            Self::Provider(_, receipt) => json!({
                "refund": "due",
                "tx_hash": receipt.tx_hash,
                "transaction_id": receipt.settlement,
            }),
            Self::RefundInvestigation { threshold } => {
                json!({"threshold": threshold, "window": "24h"})
            }
            _ => json!({}),
        }
    }

    fn next_action(&self, methods: Option<PaymentMethods>) -> Value {
        match self {
            Self::Agent(refusal) => refusal.next_action(),
            Self::UnsupportedMediaType
            | Self::InvalidRequest(_)
            | Self::UnsupportedVersion
            | Self::TooLarge(_)
            | Self::InputSchema(_)
            | Self::CapabilityNotFound
            | Self::ActionNotFound => json!({
                "type": "lookup_schema",
                "schema_url": "https://jecp.dev/spec/v1.0/01-protocol.md",
            }),
            Self::Deprecated { sunset, .. } => json!({
                "type": "lookup_schema",
                "hint": match &sunset.successor {
                    Some(successor) => format!("call {successor} instead"),
                    None => "nothing takes its place here".to_owned(),
                },
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
            Self::NotAccepted(Subcause::NetworkUnsupported) => json!({
                "type": "x402_settle",
                "hint": "call again without payment, then pay on the network that the 402 names",
            }),
            Self::NotAccepted(_) if methods.is_some_and(PaymentMethods::take_stripe) => json!({
                "type": "topup",
                "hint": "call again without payment and with credentials: a wallet pays",
            }),
            Self::NotAccepted(_)
            | Self::Held(_)
            | Self::NotSold
            | Self::PaymentUnknown
            | Self::RefundNotDue
            | Self::RefundInvestigation { .. }
            | Self::UrlBlocked(..)
            | Self::Internal => {
                json!({"type": "wait", "retry_after_seconds": RETRY_LATER})
            }
            Self::FacilitatorTimeout { is_pending, .. }
            | Self::FacilitatorUnreachable { is_pending, .. } => json!({
                "type": "x402_settle",
                "retry_after_seconds": RETRY_FACILITATOR,
                "hint": if *is_pending {
                    "repeat this very call; do not pay again"
                } else {
                    "repeat this very call, or pay in another way that the action takes"
                },
            }),
            Self::TxHashSeen(_) => json!({
                "type": "x402_settle",
                "hint": "repeat this very call; do not pay again",
            }),
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
            Self::Agent(refusal) => refusal.retry_after(),
            Self::Pending { .. } => Some(RETRY_SOON),
            Self::FacilitatorTimeout { .. } | Self::FacilitatorUnreachable { .. } => {
                Some(RETRY_FACILITATOR)
            }
            Self::Degraded(_) | Self::Held(_) | Self::NotSold => Some(RETRY_LATER),
            Self::Provider(Failure::Unavailable, _) => Some(RETRY_LATER),
            _ => None,
        }
    }

    /// The answer to a request; its id, and how what it asks for may be paid, where they are known.
    pub(super) fn respond(&self, id: Option<&str>, methods: Option<PaymentMethods>) -> Response {
        let code = self.code();
        let documentation = format!("https://jecp.dev/errors/{}", code.to_lowercase());
        let mut details = self.details(methods);
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
            "next_action": self.next_action(methods),
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

#[cfg(test)]
mod tests;
