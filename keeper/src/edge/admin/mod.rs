//! What only the operator may see and do, behind a token; and what tells everybody how the daemon is.

mod operate;
mod status;

use super::{
    Edge, health,
    token::{TokenHash, bearer, refusal, unauthorized},
    trace,
};
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;
use std::{fmt, sync::Arc};

/// Other name of the token's header (C-88).
const X_ADMIN_TOKEN: &str = "x-admin-token";

/// The operator's token.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct AdminToken(TokenHash);

impl TryFrom<String> for AdminToken {
    type Error = String;

    fn try_from(token: String) -> Result<Self, String> {
        TokenHash::of("admin_token", &token).map(Self)
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

impl AdminToken {
    /// Whether a request carries it.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let other = || headers.get(X_ADMIN_TOKEN).and_then(|value| value.to_str().ok());
        bearer(headers).or_else(other).is_some_and(|given| self.0.is_of(given))
    }
}

impl Edge {
    /// Lets the operator through. Where no token is configured there is nothing to find.
    ///
    /// # Errors
    /// The answer for everybody else.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Box<Response>> {
        match &self.admin_token {
            None => {
                let why = "this daemon has no admin_token";
                Err(refusal(StatusCode::NOT_FOUND, "NOT_FOUND", why))
            }
            Some(token) if token.is_in(headers) => Ok(()),
            Some(_) => Err(unauthorized("the operator's token is wanted")),
        }
    }
}

/// The operator's routes. A process without an edge serves these and nothing else.
pub(super) fn routes(edge: &Arc<Edge>) -> Router<Arc<Edge>> {
    let looking = Router::new()
        .route("/v1/traces/{trace_id}", get(trace::trace))
        .route("/v1/status/x402", get(status::status))
        .route("/admin/feature-flags", post(operate::feature_flags))
        .route("/admin/keeper/replay-log", post(operate::replay_log))
        .route("/admin/reconciler/attribution-audit", get(operate::attribution_audit))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(edge), in_its_pool));
    // In no pool: they are there when everything else is full.
    Router::new()
        .merge(looking)
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics))
}

/// Lets a request through that finds a place among those that look.
async fn in_its_pool(State(edge): State<Arc<Edge>>, request: Request, next: Next) -> Response {
    let Some(_place) = edge.pools.read.enter() else {
        let why = "too many requests are being answered now";
        return *refusal(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_DEGRADED", why);
    };
    let mut response = next.run(request).await;
    let no_store = header::HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

fn bad_request(why: &str) -> Box<Response> {
    refusal(StatusCode::BAD_REQUEST, "INVALID_REQUEST", why)
}

fn starting() -> Box<Response> {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "STARTING", "not there yet; see /readyz")
}

/// What failed is for the log.
fn unavailable(what: &str, error: &impl std::error::Error) -> Box<Response> {
    tracing::warn!(what, %error, "an operator's request failed");
    refusal(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "try again; the log says why")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a token of twenty letters and more";

    fn is_in(name: &'static str, value: &str) -> bool {
        let token = AdminToken::try_from(TOKEN.to_owned()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        token.is_in(&headers)
    }

    /// C-88: either header.
    #[test]
    fn the_token_is_taken_from_either_header() {
        assert!(is_in("authorization", &format!("Bearer {TOKEN}")));
        assert!(is_in("authorization", &format!("bearer {TOKEN}")));
        assert!(is_in("x-admin-token", TOKEN));
    }

    #[test]
    fn nothing_else_is_the_token() {
        assert!(!is_in("authorization", TOKEN));
        assert!(!is_in("authorization", &format!("Basic {TOKEN}")));
        assert!(!is_in("authorization", "Bearer "));
        assert!(!is_in("x-admin-token", &TOKEN[1..]));
        assert!(!is_in("x-api-key", TOKEN));
    }

    #[test]
    fn a_token_that_could_be_guessed_is_refused_and_none_is_shown() {
        AdminToken::try_from("short".to_owned()).unwrap_err();
        let token = AdminToken::try_from(TOKEN.to_owned()).unwrap();
        assert_eq!(format!("{token:?}"), "AdminToken");
    }
}
