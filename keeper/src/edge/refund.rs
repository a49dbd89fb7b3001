//! `POST /v1/refunds/request`: an agent asks for a payment back that came to nothing. What is due is
//! asked for without it, too; this says how it stands. Nothing that was served is given back here.

use super::{Edge, Site, agent::Invoker, error::ApiError, payment::ledger_down};
use crate::{
    eip3009::{Authorization, Unverified, domain},
    failpoint::Point,
    ledger::{Ledger, LedgerError, Refund, Requested, Settlement},
    lifecycle::{HoldReason, RefundState},
    metrics::REFUNDS_TOTAL,
    x402::{PAYMENT_SIGNATURE, Payment, Version, X_PAYMENT},
};
use alloy::primitives::B256;
use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// A request is a hash and a sentence.
const MAX_BODY: usize = 16 * 1024;
/// Longest reason that is kept.
const MAX_REASON: usize = 500;
/// A call whose outcome is unknown may be repeated for so long before it is given back.
const PATIENCE: TimeDelta = TimeDelta::minutes(10);

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    tx_hash: B256,
    reason: String,
}

/// The handler.
pub(super) async fn request(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut response = match answer(&edge, &parts.headers, body).await {
        Ok(response) => response,
        Err(error) => error.respond(None, None),
    };
    let no_store = header::HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

async fn answer(edge: &Edge, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let Some(_place) = edge.pools.read.enter() else {
        return Err(ApiError::Degraded("too many requests are being answered now".to_owned()));
    };
    let body = to_bytes(body, MAX_BODY)
        .await
        .map_err(|_| ApiError::TooLarge("the body is larger than 16 KB"))?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|_| {
        ApiError::InvalidRequest("it must be {\"tx_hash\": \"0x…\", \"reason\": \"…\"}".to_owned())
    })?;
    let reason = asked.reason.trim();
    if reason.is_empty() || reason.chars().count() > MAX_REASON {
        let why = format!("reason must have between 1 and {MAX_REASON} characters");
        return Err(ApiError::InvalidRequest(why));
    }
    let Some(site) = edge.health.site() else {
        return Err(ApiError::Degraded("this hub is starting".to_owned()));
    };
    let payment = own_payment(edge, &site, headers, asked.tx_hash).await?;
    let due = is_due(&site.ledger, &payment).await.map_err(|error| ledger_down(&error))?;
    if !due {
        return Err(ApiError::RefundNotDue);
    }
    let reason = format!("asked for by the agent: {reason}");
    let refund = ask(&site, &payment, &reason).await?;
    if refund.state == RefundState::Held && refund.hold_reason == Some(HoldReason::AgentDayLimit) {
        return Err(ApiError::RefundInvestigation { threshold: site.refunds.agent_day });
    }
    let body = json!({
        "jecp": "1.0",
        "status": "accepted",
        "refund": {
            "id": refund.id,
            "state": refund.state.as_str(),
            "transaction_id": refund.settlement,
            "tx_hash": asked.tx_hash,
            "amount_usdc_micro": refund.amount.micro().to_string(),
            "requested_at": refund.requested_at,
            "paid_at": refund.paid_at,
            "refund_tx": refund.paid_by.map(|by| by.tx_hash),
        },
    });
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

/// The caller's own payment among those that a transaction pulled. Whoever is not its payer learns
/// nothing: the transaction is public, what it paid for is not.
async fn own_payment(
    edge: &Edge,
    site: &Site,
    headers: &HeaderMap,
    tx_hash: B256,
) -> Result<Settlement, ApiError> {
    if let Invoker::Agent(agent) = Invoker::of_headers(edge, headers).await? {
        let found = async {
            let mut tx = site.ledger.read().await?;
            tx.settlements_of_pull(site.network.chain_id(), tx_hash).await
        };
        let found = found.await.map_err(|error| ledger_down(&error))?;
        let is_own = |known: &Settlement| known.agent_id.as_deref() == Some(agent.id());
        return found.into_iter().find(is_own).ok_or(ApiError::PaymentUnknown);
    }
    let payment = shown_payment(headers).ok_or(ApiError::PaymentUnknown)?;
    let (signed, chain_id) = (&payment.authorization, site.network.chain_id());
    let domain = domain(&site.network.usdc(), chain_id);
    let authorization = Authorization::<Unverified>::new(signed.clone(), payment.signature.clone());
    if payment.network != site.network || authorization.signed_by_payer(&domain).is_err() {
        return Err(ApiError::PaymentUnknown);
    }
    let found = async {
        let mut tx = site.ledger.read().await?;
        tx.settlement_by_identity(chain_id, site.splitter.asset, signed.from, signed.nonce).await
    };
    let found = found.await.map_err(|error| ledger_down(&error))?;
    let is_it = |known: &Settlement| known.pull.is_some_and(|pull| pull.tx_hash == tx_hash);
    found.filter(is_it).ok_or(ApiError::PaymentUnknown)
}

/// The payment that the caller shows, which only its payer has.
fn shown_payment(headers: &HeaderMap) -> Option<Payment> {
    let v1 = headers.get(X_PAYMENT).map(|value| (Version::V1, value));
    let v2 = headers.get(PAYMENT_SIGNATURE).map(|value| (Version::V2, value));
    let (version, value) = v1.or(v2)?;
    Payment::decode(version, value.as_bytes()).ok()
}

async fn is_due(ledger: &Ledger, payment: &Settlement) -> Result<bool, LedgerError> {
    ledger.read().await?.is_refund_due(payment.id, PATIENCE).await
}

/// Asks for it, or finds what was asked for before.
async fn ask(site: &Site, payment: &Settlement, reason: &str) -> Result<Refund, ApiError> {
    let requested = async {
        let mut tx = site.ledger.begin().await?;
        let requested = tx.request_refund(payment.id, reason, &site.refunds).await?;
        if matches!(requested, Requested::New(_)) {
            tx.commit(Point::Refund).await?;
        }
        Ok(requested)
    };
    match requested.await {
        Ok(Requested::New(refund)) => {
            REFUNDS_TOTAL.add(1, [refund.state.as_str()]);
            if let Some(reason) = refund.hold_reason {
                tracing::error!(
                    refund = %refund.id, payment = %payment.id, agent_id = refund.agent_id,
                    amount = %refund.amount, %reason, "ALARM: a refund is held for a human"
                );
            }
            Ok(refund)
        }
        Ok(Requested::Known(refund)) => Ok(refund),
        Ok(Requested::NotPaid | Requested::NotFinished) => Err(ApiError::RefundNotDue),
        Err(error) => Err(ledger_down(&error)),
    }
}
