//! Tokens that operators and callers bring, and what is answered without the right one.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A shorter token could be guessed.
const MIN_LENGTH: usize = 20;

/// The hash of a token; the token itself is not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of a token as it is configured; `field` is its name there.
    ///
    /// # Errors
    /// When it could be guessed.
    pub(super) fn of(field: &str, token: &str) -> Result<Self, String> {
        if token.len() < MIN_LENGTH {
            return Err(format!("{field} must have at least {MIN_LENGTH} characters"));
        }
        Ok(Self(Sha256::digest(token).into()))
    }

    /// Whether it is this one's. Takes as long for a wrong one as for the right one.
    pub(super) fn is_of(&self, token: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(token).into();
        self.0.ct_eq(&given).into()
    }
}

/// The token of a request, if it carries one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// A refusal outside of the agents' protocol.
pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Box<Response> {
    Box::new((status, Json(json!({"error": {"code": code, "message": message}}))).into_response())
}

/// Whoever brings no token, or a wrong one.
pub(super) fn unauthorized(message: &str) -> Box<Response> {
    let mut response = refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
    let challenge = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
