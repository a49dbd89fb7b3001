//! What anybody may read before they pay: who this hub is, what it sells, how it is called.
//!
//! Every document is made from the catalogue and the daemon's state when it is asked for, so that none
//! can be older than what it speaks of. x402 is offered in them while it can be paid with.

mod agent_card;
mod agent_guide;
mod capabilities;
mod hub;
mod llms;
mod openapi;

pub use hub::Hub;

use super::{Edge, PaymentMethods, Site, TrustRoot};
use axum::{
    Router,
    http::{HeaderValue, Method, header},
    middleware::map_response,
    response::Response,
    routing::get,
};
use std::sync::Arc;
use tower_http::cors::{Any, CorsLayer};

/// For what changes with the catalogue: browsers five minutes, caches between ten (S05 11).
const SHORT: HeaderValue = HeaderValue::from_static("public, max-age=300, s-maxage=600");
/// For the card: an hour, and a day.
const LONG: HeaderValue = HeaderValue::from_static("public, max-age=3600, s-maxage=86400");

/// The routes.
pub(super) fn router() -> Router<Arc<Edge>> {
    let card = Router::new()
        .route("/.well-known/agent.json", get(agent_card::agent_card))
        .layer(map_response(async |response: Response| cached(response, LONG)));
    let rest = Router::new()
        .route("/.well-known/agent-guide.json", get(agent_guide::agent_guide))
        .route("/v1/capabilities", get(capabilities::all))
        .route("/v1/capabilities/{namespace}", get(capabilities::by_id))
        .route("/v1/capabilities/{namespace}/{action}", get(capabilities::by_name))
        .route("/llms.txt", get(llms::llms))
        .route("/openapi.json", get(openapi::openapi))
        .layer(map_response(async |response: Response| cached(response, SHORT)));
    //
    let cors = CorsLayer::new().allow_origin(Any).allow_methods([Method::GET]);
    card.merge(rest).layer(cors)
}

/// Only what is good is kept.
fn cached(mut response: Response, how: HeaderValue) -> Response {
    let how =
        if response.status().is_success() { how } else { HeaderValue::from_static("no-store") };
    response.headers_mut().insert(header::CACHE_CONTROL, how);
    response
}

impl Edge {
    /// Where payments go, while x402 is offered: configured, trusted, and not switched off.
    fn x402_offered(&self) -> Option<Arc<Site>> {
        let site = self.health.site()?;
        let on = self.health.trust_root() != TrustRoot::Mismatch && !site.intake.is_disabled();
        on.then_some(site)
    }

    /// How calls may be paid for, of the ways that an action takes.
    fn payment_methods(&self, taken: PaymentMethods) -> Vec<&'static str> {
        let (wallets, x402) = (self.upstream.is_some(), self.x402_offered().is_some());
        let open = |word: &str| if word == "x402" { x402 } else { wallets };
        taken.words().iter().copied().filter(|word| open(word)).collect()
    }

    /// An absolute URL of this hub.
    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.as_str().trim_end_matches('/'))
    }
}
