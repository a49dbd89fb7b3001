//! `GET /supported`: what is settled here, for everybody to see.

use crate::edge::Edge;
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use std::sync::Arc;

pub(super) async fn supported(State(edge): State<Arc<Edge>>) -> Response {
    let Some(site) = edge.health.site() else {
        let body = json!({"kinds": [], "extensions": [], "signers": {}});
        let mut response = (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(2));
        return response;
    };
    let network = site.network;
    Json(json!({
        "kinds": [
            {"x402Version": 1, "scheme": "exact", "network": network.v1()},
            {"x402Version": 2, "scheme": "exact", "network": network.caip2()},
        ],
        "extensions": [],
        "signers": {(network.caip2()): [site.puller]},
    }))
    .into_response()
}
