//! What an agent is told that may not call (S03 3.1 to 3.5).

use super::{provenance::Mismatch, rate::Limited, trust::Tier};
use crate::{edge::challenge::usdc, x402::MicroUsdc};
use axum::http::StatusCode;
use serde_json::{Value, json};

/// Why an agent may not make this call. Nothing was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum Refusal {
    /// No credentials.
    Missing,
    /// Not the hub's; which half is wrong is not said (S02 3.5).
    Wrong,
    /// The mandate holds no more.
    Expired,
    /// The mandate's provenance is not accepted.
    Provenance(Mismatch),
    /// The mandate allows less than the price.
    Budget {
        /// The price.
        price: MicroUsdc,
        /// What it allows.
        budget: MicroUsdc,
    },
    /// Not trusted enough yet.
    Trust {
        /// What the capability asks for.
        required: Tier,
        /// What the agent has.
        current: Tier,
    },
    /// Too many calls within a minute.
    Rate(Limited),
}

impl Refusal {
    pub(in crate::edge) const fn code(&self) -> &'static str {
        match self {
            Self::Missing => "AUTH_REQUIRED",
            Self::Wrong => "INVALID_API_KEY",
            Self::Expired => "MANDATE_EXPIRED",
            Self::Provenance(_) => "PROVENANCE_MISMATCH",
            Self::Budget { .. } => "INSUFFICIENT_BUDGET",
            Self::Trust { .. } => "INSUFFICIENT_TRUST",
            Self::Rate(_) => "RATE_LIMITED",
        }
    }

    pub(in crate::edge) const fn status(&self) -> StatusCode {
        match self {
            Self::Missing | Self::Wrong | Self::Expired => StatusCode::UNAUTHORIZED,
            Self::Provenance(_) | Self::Trust { .. } => StatusCode::FORBIDDEN,
            Self::Budget { .. } => StatusCode::PAYMENT_REQUIRED,
            Self::Rate(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub(in crate::edge) fn message(&self) -> String {
        match self {
            Self::Missing => {
                "this hub asks for X-Agent-ID and X-API-Key, or a mandate with both".to_owned()
            }
            Self::Wrong => "these are no credentials of this hub".to_owned(),
            Self::Expired => "the mandate has expired; nothing was done".to_owned(),
            Self::Provenance(mismatch) => {
                let why = match mismatch {
                    Mismatch::WireMalformed => "does not have the form v2:<unix>:<nonce>:<hmac>",
                    Mismatch::V1Unavailable => "is of version 1, which ended on 2026-11-01",
                    Mismatch::ClockSkew(_) => "is not of now; look at your clock",
                    Mismatch::Hmac => "was not made with this key, for this agent",
                    Mismatch::NonceReplay => "was used before; each request needs one of its own",
                };
                format!("the mandate's provenance_hash {why}; nothing was done")
            }
            Self::Budget { price, budget } => format!(
                "the call costs {price} USDC and the mandate allows {budget}; no money moved"
            ),
            Self::Trust { required, current } => {
                format!("this capability is for agents of tier {required}; yours is {current}")
            }
            Self::Rate(limited) => format!(
                "an agent of tier {} may make {} calls in any 60 seconds; no money moved",
                limited.tier, limited.limit
            ),
        }
    }

    /// Nothing is said before the agent is known.
    pub(in crate::edge) fn details(&self) -> Value {
        match self {
            Self::Missing | Self::Wrong | Self::Expired => json!({}),
            Self::Provenance(mismatch) => {
                let drift = match mismatch {
                    Mismatch::ClockSkew(drift) => Some(drift),
                    _ => None,
                };
                json!({"subcause": mismatch.as_str(), "drift_seconds": drift})
            }
            Self::Budget { price, budget } => json!({
                "required_usdc": usdc(*price),
                "remaining_usdc": usdc(*budget),
                "budget_usdc": usdc(*budget),
            }),
            Self::Trust { required, current } => json!({"required": required, "current": current}),
            Self::Rate(limited) => json!({
                "tier": limited.tier,
                "limit_rpm": limited.limit,
                "retry_after_seconds": limited.retry_after,
                "reset_at": limited.reset_at,
            }),
        }
    }

    pub(in crate::edge) fn next_action(&self) -> Value {
        match self {
            Self::Missing | Self::Wrong => json!({
                "type": "register",
                "description": "ask the operator of this hub for an agent_id and an api_key, and \
                                send them as X-Agent-ID and X-API-Key",
            }),
            Self::Expired => json!({
                "type": "renew_mandate",
                "description": "ask the agent's owner for a mandate with a later expires_at",
            }),
            Self::Provenance(_) => json!({
                "type": "renew_mandate",
                "description": "call again with a fresh provenance_hash: the time of now, a nonce \
                                that was not used, HMAC-SHA256 under the api_key",
            }),
            Self::Budget { .. } => json!({
                "type": "renew_mandate",
                "description": "ask the agent's owner for a mandate with a larger budget_usdc",
            }),
            Self::Trust { required, current } => json!({
                "type": "earn_trust",
                "current_tier": current,
                "required_tier": required,
                "fallback": {
                    "description": format!(
                        "an agent is of tier {required} after {} calls that were served",
                        required.calls()
                    ),
                },
            }),
            Self::Rate(limited) => {
                json!({"type": "wait", "retry_after_seconds": limited.retry_after})
            }
        }
    }

    pub(in crate::edge) const fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Rate(limited) => Some(limited.retry_after),
            _ => None,
        }
    }
}
