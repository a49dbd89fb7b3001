//! `GET /v1/payments/{tx_hash}` and `GET /v1/payments?payer=&nonce=`: what became of a payment.
//!
//! A caller of the facilitator API, with its token, and an agent, with its credentials, is told of its
//! own payments. With `auth = "payer"` an agent has no credentials: whoever knows the hash, or payer and
//! authorization nonce, is told what the chain shows anyway. Nobody is told of another's.

use crate::{
    edge::{Edge, agent::Invoker, error::ApiError, payment::latest_pull, token::refusal},
    ledger::{LedgerError, Settlement},
};
use alloy::primitives::{Address, B256};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn by_hash(
    State(edge): State<Arc<Edge>>,
    Path(tx_hash): Path<String>,
    headers: HeaderMap,
) -> Response {
    match tx_hash.parse::<B256>() {
        Ok(hash) => answer(&edge, &headers, Asked::Hash(hash)).await,
        Err(_) => *refusal(StatusCode::BAD_REQUEST, "INVALID_TX_HASH", "0x and 64 hex digits"),
    }
}

pub(super) async fn by_authorization(
    State(edge): State<Arc<Edge>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let (mut payer, mut nonce) = (None, None);
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match &*name {
            "payer" => payer = value.parse().ok(),
            "nonce" => nonce = value.parse().ok(),
            _ => {}
        }
    }
    match (payer, nonce) {
        (Some(payer), Some(nonce)) => {
            answer(&edge, &headers, Asked::Authorization(payer, nonce)).await
        }
        _ => {
            let message = "payer (0x and 40 hex digits) and nonce (0x and 64)";
            *refusal(StatusCode::BAD_REQUEST, "INVALID_QUERY", message)
        }
    }
}

enum Asked {
    Hash(B256),
    Authorization(Address, B256),
}

async fn answer(edge: &Edge, headers: &HeaderMap, asked: Asked) -> Response {
    // Who asks with a token is told of its own.
    let agent = match edge.caller_if_any(headers) {
        Ok(Some(caller)) => Some(caller.agent_id()),
        Ok(None) => match Invoker::of_headers(edge, headers).await {
            Ok(Invoker::Agent(agent)) => Some(agent.id().to_owned()),
            Ok(Invoker::Payer) => None,
            Err(refusal) => return refusal.respond(None, None),
        },
        Err(refusal) => return *refusal,
    };
    let Some(site) = edge.health.site() else {
        return *refusal(StatusCode::SERVICE_UNAVAILABLE, "STARTING", "not there yet; see /readyz");
    };
    let found = async {
        let mut tx = site.ledger.read().await?;
        let found = match asked {
            Asked::Hash(hash) => tx.settlements_of_pull(site.network.chain_id(), hash).await?,
            Asked::Authorization(payer, nonce) => {
                let (chain_id, asset) = (site.network.chain_id(), site.splitter.asset);
                let known = tx.settlement_by_identity(chain_id, asset, payer, nonce).await?;
                known.into_iter().collect()
            }
        };
        Ok::<_, LedgerError>(found)
    };
    let found = match found.await {
        Ok(found) => found,
        Err(failure) => {
            tracing::warn!(error = %failure, "cannot look up a payment");
            return *refusal(StatusCode::SERVICE_UNAVAILABLE, "LEDGER_UNAVAILABLE", "try again");
        }
    };
    let is_own = |settlement: &Settlement| match (&agent, &settlement.agent_id) {
        (Some(agent), Some(of)) => agent == of,
        (Some(_), None) => false,
        (None, of) => !of.as_ref().is_some_and(|of| of.starts_with("caller:")),
    };
    let mut told = Vec::new();
    for settlement in found.iter().filter(|settlement| is_own(settlement)) {
        match tell(&site, settlement).await {
            Ok(payment) => told.push(payment),
            Err(_) => {
                return *refusal(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "LEDGER_UNAVAILABLE",
                    "try again",
                );
            }
        }
    }
    let Some(mut first) = told.first().cloned() else {
        let message = "no payment of yours is known by this";
        return *refusal(StatusCode::NOT_FOUND, "UNKNOWN_PAYMENT", message);
    };
    // Somebody may have pulled several in one transaction.
    if told.len() > 1 {
        first["payments"] = Value::Array(told);
    }
    Json(first).into_response()
}

async fn tell(site: &crate::edge::Site, settlement: &Settlement) -> Result<Value, ApiError> {
    let tx_hash = match settlement.pull {
        Some(pull) => Some(pull.tx_hash),
        None => latest_pull(site, settlement).await?,
    };
    Ok(json!({
        "status": settlement.status.as_str(),
        "success": settlement.status.is_paid(),
        "tx_hash": tx_hash,
        "network": site.network.caip2(),
        "payer": settlement.payer,
        "nonce": settlement.nonce,
        "pay_to": settlement.pay_to,
        "amount": settlement.amount.micro().to_string(),
        "log_index": settlement.pull.map(|pull| pull.log_index),
        "block_number": settlement.pull.map(|pull| pull.block_number),
        "settled_at": settlement.settled_at,
        "chain_confirmed_at": settlement.confirmed_at,
    }))
}
