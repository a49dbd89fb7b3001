//! The edge: all HTTP. Agents call `POST /v1/invoke` and pay with x402; operators look at `/livez`,
//! `/readyz`, `/health`, `/metrics` and, with a token, at `/v1/traces/{trace_id}`.
//!
//! It is up before anything else is, and says why it cannot sell yet.

mod admin;
mod capability;
mod catalogue;
mod checks;
mod delivery;
mod discovery;
mod envelope;
mod error;
mod facilitator;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod health;
mod intake;
mod invoke;
mod payment;
#[cfg(test)]
mod properties;
mod server;
mod site;
mod trace;

pub use admin::AdminToken;
pub use capability::{Capability, Registration, Registrations};
pub(crate) use catalogue::one_line;
pub use catalogue::{Catalogue, CatalogueError};
pub use discovery::Hub;
pub use facilitator::{Caller, CallerError, Callers};
pub use health::{Health, TrustRoot};
pub use intake::{Intake, Shut};
pub use server::{Connections, serve};
pub use site::{Auth, Site};

use crate::metrics::Metrics;
use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, header},
    routing::{get, post},
};
use std::sync::Arc;
use tokio_util::task::TaskTracker;
use tower_http::cors::{Any, CorsLayer};
use url::Url;

/// What a browser may read of an answer.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "x-payment-response,payment-required,payment-response,x-request-id,retry-after,www-authenticate",
);

/// What every request sees.
#[derive(Debug)]
pub struct Edge {
    /// Where agents reach this daemon.
    pub public_url: Url,
    /// The operator's token, without which there is nothing for the operator.
    pub admin_token: Option<AdminToken>,
    /// Who an agent is.
    pub auth: Auth,
    /// What is sold.
    pub catalogue: Catalogue,
    /// How the hub presents itself.
    pub hub: Hub,
    /// Who may use the facilitator API.
    pub callers: Callers,
    /// How the daemon is.
    pub health: Health,
    /// What was counted.
    pub metrics: Metrics,
    /// Client for provider calls.
    pub http: reqwest::Client,
    /// Payments being settled; they end before the program does.
    pub work: TaskTracker,
}

/// The routes.
pub fn router(edge: Arc<Edge>) -> Router {
    let cors = CorsLayer::new().allow_origin(Any).allow_methods([Method::POST]).allow_headers([
        header::CONTENT_TYPE,
        HeaderName::from_static("x-payment"),
        HeaderName::from_static("payment-signature"),
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("x-agent-id"),
        HeaderName::from_static("x-api-key"),
        // Stock clients send it with the payment, although it is a response header.
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
    ]);
    let invoke = Router::new()
        .route("/v1/invoke", post(invoke::invoke))
        // Read by the handler itself, which answers 413 in the words of the protocol.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(axum::middleware::map_response(async |mut response: axum::response::Response| {
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }))
        .layer(cors)
        // On preflights too, which the layer above answers by itself without them.
        .layer(axum::middleware::map_response(async |mut response: axum::response::Response| {
            response.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
            response
        }));
    Router::new()
        .merge(invoke)
        .merge(facilitator::router())
        .merge(discovery::router())
        .route("/v1/traces/{trace_id}", get(trace::trace))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics))
        .with_state(edge)
}
