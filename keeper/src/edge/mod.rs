//! The edge: all HTTP. Agents call `POST /v1/invoke` and pay with x402; operators look at `/livez`,
//! `/readyz`, `/health`, `/metrics` and, with a token, at `/v1/traces/{trace_id}`.
//!
//! It is up before anything else is, and says why it cannot sell yet.

mod admin;
mod agent;
mod capability;
mod catalogue;
mod challenge;
mod checks;
mod delivery;
mod discovery;
mod envelope;
mod error;
mod external;
mod facilitator;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod health;
mod intake;
mod invoke;
mod payment;
mod pools;
#[cfg(test)]
mod properties;
mod provider;
mod refund;
mod refused;
mod schema;
mod server;
mod site;
mod token;
mod trace;
mod upstream;

pub use admin::AdminToken;
pub use agent::{AgentPrefix, ApiKey, Auth, CallsPerMinute, Credentials, KeySecret, Tier};
pub use capability::{Capability, PaymentMethods, Registration, Registrations, Sunset};
pub(crate) use catalogue::one_line;
pub use catalogue::{Catalogue, CatalogueError};
pub use discovery::Hub;
pub use facilitator::{Caller, CallerError, Callers};
pub use health::{Health, TrustRoot};
pub use intake::{Intake, Shut};
pub use pools::{MAX_POOL, PoolLimits, Pools};
pub use schema::InputSchema;
pub use server::{Connections, serve};
pub use site::Site;
pub use upstream::{Upstream, UpstreamSettings};

use crate::{metrics::Metrics, outbound::Outbound};
use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, header},
    routing::post,
};
use std::sync::Arc;
use tokio_util::task::TaskTracker;
use tower_http::cors::{Any, CorsLayer};
use url::Url;

/// What a browser may read of an answer.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "x-payment-response,payment-required,payment-response,x-request-id,retry-after,www-authenticate,\
     sunset,deprecation,link",
);

/// When the alias ends.
const ALIAS_SUNSET: HeaderValue = HeaderValue::from_static("Sat, 01 Jan 2028 00:00:00 GMT");
/// Where that is said.
const ALIAS_LINK: HeaderValue = HeaderValue::from_static(
    "<https://jecp.dev/spec/v1.0/01-protocol.md#21-legacy-alias>; rel=\"deprecation\"",
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
    /// How often it may call.
    pub calls_per_minute: CallsPerMinute,
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
    /// The hub that has wallets, if there is one.
    pub upstream: Option<Upstream>,
    /// Client for provider calls.
    pub outbound: Outbound,
    /// Payments being settled; they end before the program does.
    pub work: TaskTracker,
    /// How much goes on at a time.
    pub pools: Pools,
}

/// The routes.
pub fn router(edge: Arc<Edge>) -> Router {
    let cors = CorsLayer::new().allow_origin(Any).allow_methods([Method::POST]).allow_headers([
        header::CONTENT_TYPE,
        HeaderName::from_static("x-payment"),
        HeaderName::from_static("payment-signature"),
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("x-idempotency-key"),
        HeaderName::from_static("x-agent-id"),
        HeaderName::from_static("x-api-key"),
        // Stock clients send it with the payment, although it is a response header.
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
    ]);
    // The same under the name that it had first; whatever it answers says that it ends.
    let alias = Router::new().route("/v1/jecp", post(invoke::invoke));
    let alias = alias.layer(cors.clone()).layer(axum::middleware::map_response(
        async |mut response: axum::response::Response| {
            let headers = response.headers_mut();
            headers.insert("deprecation", HeaderValue::from_static("true"));
            headers.insert("sunset", ALIAS_SUNSET);
            headers.append(header::LINK, ALIAS_LINK);
            response
        },
    ));
    let invoke = Router::new()
        .route("/v1/invoke", post(invoke::invoke))
        .layer(cors)
        .merge(alias)
        // Read by the handler itself, which answers 413 in the words of the protocol.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(axum::middleware::map_response(async |mut response: axum::response::Response| {
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }))
        // On preflights too, which the layer for browsers answers by itself without them.
        .layer(axum::middleware::map_response(async |mut response: axum::response::Response| {
            response.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
            response
        }));
    Router::new()
        .merge(invoke)
        .merge(facilitator::router())
        .merge(discovery::router())
        .route("/v1/refunds/request", post(refund::request))
        // Its other name (C-96).
        .route("/v1/refunds", post(refund::request))
        .merge(admin::routes(&edge))
        .with_state(edge)
}

/// The routes of a process that sells nothing.
pub fn operators_router(edge: Arc<Edge>) -> Router {
    admin::routes(&edge).with_state(edge)
}
