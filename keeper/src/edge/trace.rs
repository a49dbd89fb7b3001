//! `GET /v1/traces/{trace_id}`: everything that the ledger knows of one payment. It tells who bought
//! what, so it is for the operator.

use super::{Edge, token::refusal};
use alloy::primitives::B256;
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::sync::Arc;

pub(super) async fn trace(
    State(edge): State<Arc<Edge>>,
    Path(trace_id): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = edge.admit(&headers) {
        return *refused;
    }
    let Ok(trace_id) = trace_id.parse::<B256>() else {
        return *refusal(StatusCode::BAD_REQUEST, "INVALID_TRACE_ID", "0x and 64 hex digits");
    };
    let Some(site) = edge.health.site() else {
        return *refusal(StatusCode::SERVICE_UNAVAILABLE, "STARTING", "not there yet; see /readyz");
    };
    let found = async { site.ledger.read().await?.trace(trace_id).await };
    match found.await {
        Ok(Some(trace)) => ([(header::CACHE_CONTROL, "no-store")], Json(trace)).into_response(),
        Ok(None) => *refusal(StatusCode::NOT_FOUND, "UNKNOWN_TRACE", "no payment has this trace"),
        Err(failure) => {
            tracing::warn!(%trace_id, error = %failure, "cannot read a trace");
            *refusal(StatusCode::SERVICE_UNAVAILABLE, "LEDGER_UNAVAILABLE", "try again")
        }
    }
}
