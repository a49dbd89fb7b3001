//! `GET /v1/status/x402`: where everything stands, for the operator.

use super::{starting, unavailable};
use crate::{
    edge::{Edge, Site},
    ledger::{LedgerError, SplitterRecord, Stream},
};
use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn status(State(edge): State<Arc<Edge>>, headers: HeaderMap) -> Response {
    match answer(&edge, &headers).await {
        Ok(answer) | Err(answer) => *answer,
    }
}

async fn answer(edge: &Edge, headers: &HeaderMap) -> Result<Box<Response>, Box<Response>> {
    edge.admit(headers)?;
    let site = edge.health.site().ok_or_else(starting)?;
    let told = tell(edge, &site).await.map_err(|error| unavailable("status", &error))?;
    Ok(Box::new(Json(told).into_response()))
}

async fn tell(edge: &Edge, site: &Site) -> Result<Value, LedgerError> {
    let SplitterRecord { chain_id, address, authorized_settler, .. } = site.splitter;
    let mut tx = site.ledger.read().await?;
    let flags = tx.flags().await?;
    let closures: Vec<_> = tx.closures(chain_id, address).await?;
    let mut streams = serde_json::Map::new();
    for stream in [Stream::Mirror, Stream::Journal, Stream::Verified] {
        let next = tx.cursor(chain_id, address, stream).await?;
        let last = next.map(|next| next.saturating_sub(1));
        streams.insert(stream.as_str().to_owned(), json!(last));
    }
    let backlog: Vec<_> = tx
        .backlog(chain_id, address)
        .await?
        .into_iter()
        .map(|one| {
            json!({
                "kind": one.kind,
                "count": one.count,
                "oldest_seconds": one.oldest.num_seconds(),
            })
        })
        .collect();
    let payments: serde_json::Map<_, _> = tx
        .open_statuses(chain_id, address)
        .await?
        .into_iter()
        .map(|(status, count)| (status, json!(count)))
        .collect();
    Ok(json!({
        "network": site.network.to_string(),
        "chain_id": chain_id,
        "splitter": address,
        "asset": site.splitter.asset,
        "enabled": !site.intake.is_disabled(),
        "flags": flags,
        "closed_for": closures.iter().map(|closure| json!({
            "reason": closure.reason,
            "detail": closure.detail,
            "since": closure.closed_at,
        })).collect::<Vec<_>>(),
        "head": site.heads.latest().map(|seen| seen.head.number()),
        "streams": streams,
        "keeper": {
            "authorized_settler_eoa": authorized_settler,
            "puller_eoa": site.puller,
            "trust_root": edge.health.trust_root().as_str(),
            "is_led": site.is_led(&mut tx).await?,
            "waits": backlog,
        },
        "payments": payments,
        "webhooks_waiting": tx.waiting_webhooks(chain_id).await?,
    }))
}
