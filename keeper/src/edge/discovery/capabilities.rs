//! `/v1/capabilities`: what is sold, page by page, and one of it (S05 6, 7).

use super::super::{Capability, Edge, Registration, challenge::usdc, error::ApiError};
use axum::{
    Json,
    extract::{Path, RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Capabilities of a page, unless another number is asked for.
const PAGE: usize = 50;
/// Most capabilities of a page.
const MAX_PAGE: usize = 100;

pub(super) async fn all(State(edge): State<Arc<Edge>>, RawQuery(query): RawQuery) -> Response {
    let (mut limit, mut after) = (PAGE, None);
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match name.as_ref() {
            "limit" => match value.parse() {
                Ok(number @ 1..=MAX_PAGE) => limit = number,
                _ => return refused("limit is a number from 1 to 100"),
            },
            "cursor" => after = Some(value.into_owned()),
            // Whatever else somebody filters by is not known here.
            _ => {}
        }
    }
    let mut sold: Vec<_> = edge.catalogue.all().iter().map(|one| (one.name(), one)).collect();
    sold.sort_by(|one, other| one.0.cmp(&other.0));
    let first = after.map_or(0, |after| sold.partition_point(|(name, _)| *name <= after));
    let rest = sold.get(first..).unwrap_or_default();
    let page = rest.get(..limit).unwrap_or(rest);
    let next = (page.len() < rest.len()).then(|| page.last().map(|(name, _)| name)).flatten();
    Json(json!({
        "capabilities": page.iter().map(|(_, one)| entry(&edge, one)).collect::<Vec<_>>(),
        "total": sold.len(),
        "next_cursor": next,
    }))
    .into_response()
}

/// The name as one segment, "demo%2Fecho".
pub(super) async fn by_id(State(edge): State<Arc<Edge>>, Path(id): Path<String>) -> Response {
    one(&edge, &id)
}

/// The name as it is, "demo/echo".
pub(super) async fn by_name(
    State(edge): State<Arc<Edge>>,
    Path((namespace, action)): Path<(String, String)>,
) -> Response {
    one(&edge, &format!("{namespace}/{action}"))
}

fn one(edge: &Edge, id: &str) -> Response {
    match edge.catalogue.all().iter().find(|capability| capability.name() == id) {
        Some(capability) => Json(entry(edge, capability)).into_response(),
        None => ApiError::CapabilityNotFound.respond(None, None),
    }
}

fn entry(edge: &Edge, capability: &Capability) -> Value {
    let offered = edge.x402_offered();
    let registration = offered.and_then(|site| site.registrations.get(capability.id));
    json!({
        "id": capability.name(),
        "namespace": capability.namespace,
        "description": capability.description,
        "trust_tier_required": capability.trust_tier_required,
        "available": registration == Some(Registration::Active),
        "actions": [{
            "id": capability.action,
            "description": capability.description,
            "price_usdc": usdc(capability.price),
            "pricing": {
                "base": format!("${}", capability.price),
                "currency": "USDC",
                "model": "per_call",
            },
            "payment_methods": edge.payment_methods(capability.methods),
        }],
    })
}

fn refused(why: &str) -> Response {
    let error = json!({"code": "INVALID_REQUEST", "message": why});
    let body = json!({"jecp": "1.0", "status": "failed", "error": error});
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}
