//! What only the operator may see and do, behind a token; and what tells everybody how the daemon is.

mod operate;
mod status;

use super::{Edge, health, trace};
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{fmt, sync::Arc};

/// A shorter token could be guessed.
const MIN_LENGTH: usize = 20;
/// Other name of the token's header (C-88).
const X_ADMIN_TOKEN: &str = "x-admin-token";

/// The operator's token; only its hash is kept.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct AdminToken([u8; 32]);

impl TryFrom<String> for AdminToken {
    type Error = String;

    fn try_from(token: String) -> Result<Self, String> {
        if token.len() < MIN_LENGTH {
            return Err(format!("admin_token must have at least {MIN_LENGTH} characters"));
        }
        Ok(Self(Sha256::digest(token).into()))
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

impl AdminToken {
    /// Whether a request carries it. Takes as long for a wrong one as for the right one.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let given = match bearer {
            Some((_, token)) => Some(token.trim()),
            None => headers.get(X_ADMIN_TOKEN).and_then(|value| value.to_str().ok()),
        };
        let Some(given) = given else { return false };
        let given: [u8; 32] = Sha256::digest(given).into();
        let differences =
            self.0.iter().zip(given).fold(0, |all, (mine, theirs)| all | (mine ^ theirs));
        std::hint::black_box(differences) == 0
    }
}

impl Edge {
    /// Lets the operator through. Where no token is configured there is nothing to find.
    ///
    /// # Errors
    /// The answer for everybody else.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Box<Response>> {
        let refuse = |status: StatusCode, code: &str| {
            Box::new((status, Json(json!({"error": {"code": code}}))).into_response())
        };
        match &self.admin_token {
            None => Err(refuse(StatusCode::NOT_FOUND, "NOT_FOUND")),
            Some(token) if token.is_in(headers) => Ok(()),
            Some(_) => {
                let mut response = refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
                let challenge = header::HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                Err(response)
            }
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
        return *answer_error(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_DEGRADED", why);
    };
    let mut response = next.run(request).await;
    let no_store = header::HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

fn answer_error(status: StatusCode, code: &str, message: &str) -> Box<Response> {
    Box::new((status, Json(json!({"error": {"code": code, "message": message}}))).into_response())
}

fn bad_request(why: &str) -> Box<Response> {
    answer_error(StatusCode::BAD_REQUEST, "INVALID_REQUEST", why)
}

fn starting() -> Box<Response> {
    answer_error(StatusCode::SERVICE_UNAVAILABLE, "STARTING", "not there yet; see /readyz")
}

/// What failed is for the log.
fn unavailable(what: &str, error: &impl std::error::Error) -> Box<Response> {
    tracing::warn!(what, %error, "an operator's request failed");
    answer_error(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "try again; the log says why")
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
