//! The facilitator API of x402: `POST /verify`, `POST /settle`, `GET /supported`, versions 1 and 2, and
//! `GET /v1/payments` for what outlived a caller's patience.
//!
//! A resource server of somebody else points here instead of at a hosted facilitator. It serves its
//! agents itself: for what it has settled there is no delivery of ours, and no refund.

mod answer;
mod callers;
mod payments;
mod reason;
mod requirements;
mod settle;
mod supported;
mod verify;
mod wire;

pub use callers::{Caller, CallerError, Callers};

use super::Edge;
use axum::{
    Router,
    http::{HeaderValue, header},
    routing::{get, post},
};
use std::sync::Arc;

/// Largest body: a payment and its requirements, extensions included.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The routes.
pub(super) fn router() -> Router<Arc<Edge>> {
    Router::new()
        .route("/verify", post(verify::verify))
        .route("/settle", post(settle::settle))
        .route("/supported", get(supported::supported))
        .route("/v1/payments", get(payments::by_authorization))
        .route("/v1/payments/{tx_hash}", get(payments::by_hash))
        // Read by the handlers themselves, which answer in the words of the protocol.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(axum::middleware::map_response(async |mut response: axum::response::Response| {
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }))
}

/// Reads a body, whatever it is: for fuzz targets.
#[cfg(feature = "fuzzing")]
pub(super) fn read_order(body: &[u8]) {
    let Ok(json) = serde_json::from_slice(body) else { return };
    drop(wire::Order::parse(&wire::about(&json, crate::x402::Network::BaseSepolia), &json));
}
