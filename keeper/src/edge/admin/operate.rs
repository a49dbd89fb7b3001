//! What the operator does over HTTP: move a switch, have a log looked at again, see
//! whether what was attributed agrees. Each is also a command: `keeper flags`, `replay`, `reconcile`.

use super::{bad_request, refusal, starting, unavailable};
use crate::{
    edge::{Edge, Site},
    failpoint::Point,
    ledger::{Flag, LedgerError, Outcome, Scope, SplitterRecord, Stream},
    watcher::{FoundLog, WatcherError},
};
use alloy::primitives::B256;
use axum::{
    Json,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Largest order.
const MAX_BODY: usize = 16 * 1024;
/// How long it is waited until a log was read again.
const REREAD_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked.
const POLL: Duration = Duration::from_millis(200);

/// A switch, as the operator wants it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlagOrder {
    flag: String,
    value: bool,
    reason: Option<String>,
}

/// A log that is to be looked at again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayOrder {
    tx_hash: B256,
    log_index: u64,
}

/// The operator's order, with the place that it takes.
async fn order<T: DeserializeOwned>(
    edge: &Edge,
    request: Request,
) -> Result<(Arc<Site>, T), Box<Response>> {
    let (parts, body) = request.into_parts();
    edge.admit(&parts.headers)?;
    let body = to_bytes(body, MAX_BODY).await.unwrap_or(Bytes::new());
    let order = serde_json::from_slice(&body).map_err(|error| bad_request(&error.to_string()))?;
    Ok((edge.health.site().ok_or_else(starting)?, order))
}

/// `POST /admin/feature-flags`: `{flag, value, reason}`.
pub(super) async fn feature_flags(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    match move_flag(&edge, request).await {
        Ok(answer) | Err(answer) => *answer,
    }
}

async fn move_flag(edge: &Edge, request: Request) -> Result<Box<Response>, Box<Response>> {
    let (site, order) = order::<FlagOrder>(edge, request).await?;
    let Some(flag) = Flag::from_word(&order.flag) else {
        let known: Vec<_> = Flag::ALL.iter().map(Flag::to_string).collect();
        return Err(bad_request(&format!("flag must be one of {}", known.join(", "))));
    };
    let reason = order.reason.unwrap_or_else(|| "over HTTP, without a reason".to_owned());
    let moved = async {
        let mut tx = site.ledger.begin().await?;
        tx.set_flag(flag, order.value, &reason).await?;
        tx.commit(Point::Order).await?;
        site.refresh_intake().await
    };
    moved.await.map_err(|error: LedgerError| unavailable("feature-flags", &error))?;
    tracing::warn!(%flag, value = order.value, reason, "a switch was moved over HTTP");
    Ok(Box::new(
        Json(json!({"flag": flag, "value": order.value, "reason": reason})).into_response(),
    ))
}

/// `POST /admin/keeper/replay-log`: `{tx_hash, log_index}`. What is ingested is left alone.
pub(super) async fn replay_log(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    match replay(&edge, request).await {
        Ok(answer) | Err(answer) => *answer,
    }
}

async fn replay(edge: &Edge, request: Request) -> Result<Box<Response>, Box<Response>> {
    let (site, ReplayOrder { tx_hash, log_index }) = order::<ReplayOrder>(edge, request).await?;
    let found =
        find(&site, tx_hash, log_index).await.map_err(|error| unavailable("replay-log", &error))?;
    let Some(found) = found else {
        let what = "it is not mined, or no log of the active Splitter that the ledger keeps";
        return Err(refusal(StatusCode::NOT_FOUND, "UNKNOWN_LOG", what));
    };
    let (status, told) =
        look_again(&site, &found).await.map_err(|error| unavailable("replay-log", &error))?;
    Ok(Box::new((status, Json(told)).into_response()))
}

async fn find(site: &Site, tx_hash: B256, index: u64) -> Result<Option<FoundLog>, WatcherError> {
    let Some(receipt) = site.chain.receipt(tx_hash).await? else { return Ok(None) };
    let log = (tx_hash, index);
    FoundLog::read(&site.chain, site.splitter, receipt.block_number(), log).await
}

/// Leaves alone what is ingested, and has the watcher read what is not.
async fn look_again(site: &Site, found: &FoundLog) -> Result<(StatusCode, Value), LedgerError> {
    let SplitterRecord { chain_id, address, .. } = found.record;
    let block = found.at.block_number;
    let (is_ingested, mut told) = found.tell(&site.ledger).await?;
    if is_ingested {
        found.skip(&site.ledger).await?;
        told["outcome"] = json!("already ingested: nothing to do");
        told["duplicate"] = json!(true);
        return Ok((StatusCode::OK, told));
    }
    told["duplicate"] = json!(false);
    let mut tx = site.ledger.read().await?;
    let next = tx.cursor(chain_id, address, Stream::Mirror).await?;
    drop(tx);
    if next.is_none_or(|next| next <= block) {
        told["outcome"] = json!("the mirror has not come to its block; it is read by itself");
        return Ok((StatusCode::ACCEPTED, told));
    }
    let reason = format!("replay of log {} of {}", found.at.log_index, found.at.tx_hash);
    let mut tx = site.ledger.begin().await?;
    let id = tx.add_reread(chain_id, address, (block, block), &reason).await?;
    tx.commit(Point::Order).await?;
    let begun = Instant::now();
    while begun.elapsed() < REREAD_LIMIT {
        let mut tx = site.ledger.read().await?;
        let outcome = tx.reread_outcome(id).await?;
        drop(tx);
        if let Some(Outcome { text, succeeded }) = outcome {
            told = found.tell(&site.ledger).await?.1;
            told["duplicate"] = json!(false);
            told["outcome"] = json!(text);
            let status = if succeeded { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
            return Ok((status, told));
        }
        tokio::time::sleep(POLL).await;
    }
    told["outcome"] = json!(format!("reread {id} is written down; the daemon that leads does it"));
    Ok((StatusCode::ACCEPTED, told))
}

/// `GET /admin/reconciler/attribution-audit`: per capability, what the settlements say was recorded,
/// what the contract's logs say, and what came in. 409 when they differ.
pub(super) async fn attribution_audit(
    State(edge): State<Arc<Edge>>,
    headers: HeaderMap,
) -> Response {
    match audit(&edge, &headers).await {
        Ok(answer) | Err(answer) => *answer,
    }
}

async fn audit(edge: &Edge, headers: &HeaderMap) -> Result<Box<Response>, Box<Response>> {
    edge.admit(headers)?;
    let site = edge.health.site().ok_or_else(starting)?;
    let SplitterRecord { chain_id, address, asset, .. } = site.splitter;
    let sums = async {
        let mut tx = site.ledger.read().await?;
        let Some(next) = tx.cursor(chain_id, address, Stream::Journal).await? else {
            return Ok(None);
        };
        let up_to = next.saturating_sub(1);
        let scope = Scope { chain_id, splitter: address, asset, up_to };
        let sums = tx.capability_sums(&scope).await?;
        Ok(Some((up_to, sums, tx.closures(chain_id, address).await?)))
    };
    let sums = sums.await.map_err(|error: LedgerError| unavailable("attribution-audit", &error))?;
    let Some((block, sums, closures)) = sums else { return Err(starting()) };
    let mut total: u64 = 0;
    let capabilities: Vec<_> = sums
        .iter()
        .map(|one| {
            let drift = one
                .recorded_micro
                .abs_diff(one.recorded_logs_micro)
                .saturating_add(one.paid_micro.abs_diff(one.inflow_micro))
                .saturating_add(one.split_micro.abs_diff(one.split_logs_micro));
            total = total.saturating_add(drift);
            json!({"sums": one, "drift_micro": drift})
        })
        .collect();
    let body = json!({
        "chain_id": chain_id,
        "splitter": address,
        "block": block,
        "capabilities": capabilities,
        "drift_micro": total,
        "closed_for": closures.iter().map(|closure| closure.reason).collect::<Vec<_>>(),
    });
    let status = if total == 0 { StatusCode::OK } else { StatusCode::CONFLICT };
    Ok(Box::new((status, Json(body)).into_response()))
}
