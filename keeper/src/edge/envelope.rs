//! The JECP envelope of a call (S01 3.2).

use super::{agent::Mandate, catalogue::is_word, error::ApiError};
use alloy::primitives::B256;
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Largest body (S01 7).
pub(super) const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;
/// Largest input, as compact JSON.
const MAX_INPUT_BYTES: usize = 5 * 1024 * 1024;
/// Largest metadata, as compact JSON.
const MAX_METADATA_BYTES: usize = 4 * 1024;
/// Longest `X-Idempotency-Key`, as long as the ledger's column.
const MAX_KEY: usize = 255;
/// The header of that name.
const IDEMPOTENCY_KEY: &str = "x-idempotency-key";

/// A call. Fields that this release does not know are refused rather than ignored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Invocation {
    pub(super) jecp: String,
    pub(super) id: String,
    pub(super) capability: String,
    pub(super) action: String,
    pub(super) input: Value,
    /// The caller's own notes: bounded, and read by nobody here.
    #[serde(default)]
    metadata: Map<String, Value>,
    /// `X-Idempotency-Key`.
    #[serde(skip)]
    key: Option<String>,
    pub(super) mandate: Option<Mandate>,
}

/// Whether a body is JSON by its header. None at all is tolerated (R-307).
pub(super) fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let media_type = value.to_str().ok().and_then(|value| value.split(';').next()).unwrap_or("");
    if media_type.trim().eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(ApiError::UnsupportedMediaType)
    }
}

impl Invocation {
    /// Parses and checks a body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let invocation: Self = serde_json::from_slice(body)
            .map_err(|error| ApiError::InvalidRequest(error.to_string()))?;
        if invocation.jecp != "1.0" {
            return Err(ApiError::UnsupportedVersion);
        }
        let id_is_good = (4..=64).contains(&invocation.id.len())
            && invocation
                .id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !id_is_good {
            return Err(ApiError::InvalidRequest(
                "id must be 4 to 64 characters of [A-Za-z0-9_-]".to_owned(),
            ));
        }
        let named = invocation.capability.splitn(2, '/').all(is_word);
        if !named || !is_word(&invocation.action) {
            return Err(ApiError::InvalidRequest(
                "capability is \"namespace\" or \"namespace/name\", action a name, all of them \
                 [a-z][a-z0-9-]*"
                    .to_owned(),
            ));
        }
        // A part is no larger than the whole.
        if body.len() > MAX_INPUT_BYTES && invocation.input.to_string().len() > MAX_INPUT_BYTES {
            return Err(ApiError::TooLarge("the input is larger than 5 MB"));
        }
        let metadata = serde_json::to_vec(&invocation.metadata).map_err(|_| ApiError::Internal)?;
        if metadata.len() > MAX_METADATA_BYTES {
            return Err(ApiError::TooLarge("the metadata is larger than 4 KB"));
        }
        Ok(invocation)
    }

    /// With the name that the caller's header gives it, if any (R-101).
    pub(super) fn keyed(self, headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
        let (key, more) = (keys.next(), keys.next());
        let Some(key) = key else { return Ok(self) };
        let key = key.to_str().ok().filter(|key| {
            (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
        });
        match (key, more) {
            (Some(key), None) => Ok(Self { key: Some(key.to_owned()), ..self }),
            _ => Err(ApiError::InvalidRequest(
                "X-Idempotency-Key stands once, with 1 to 255 visible characters".to_owned(),
            )),
        }
    }

    /// What makes a repeated call the same call, beside its caller and content.
    pub(super) fn request_id(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.id)
    }

    /// Whether it asks for this capability: "demo" or "demo/echo", action "echo".
    pub(super) fn asks_for(&self, namespace: &str, action: &str) -> bool {
        let (asked, name) = self
            .capability
            .split_once('/')
            .map_or((self.capability.as_str(), None), |(n, c)| (n, Some(c)));
        asked == namespace && self.action == action && name.is_none_or(|name| name == action)
    }

    /// First half of the capability's name.
    pub(super) fn namespace(&self) -> &str {
        self.capability.split_once('/').map_or(self.capability.as_str(), |(namespace, _)| namespace)
    }

    /// SHA-256 of capability, action and input in canonical form (R-090): what must be equal for a repeated
    /// call to be the same call. A provenance proves who calls, is good once and so is new in every
    /// repeat: it is no content (docs/decisions/0012).
    pub(super) fn content_hash(&self) -> Result<B256, ApiError> {
        let input = serde_json_canonicalizer::to_vec(&self.input)
            .map_err(|error| ApiError::InvalidRequest(format!("input: {error}")))?;
        let mut hasher = Sha256::new();
        hasher.update(&self.capability);
        hasher.update("|");
        hasher.update(&self.action);
        hasher.update("|");
        hasher.update(input);
        Ok(B256::from_slice(&hasher.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body() -> Value {
        json!({"jecp": "1.0", "id": "call-1", "capability": "demo/echo", "action": "echo",
               "input": {"b": 1, "a": "x"}})
    }

    fn parse(body: &Value) -> Result<Invocation, ApiError> {
        Invocation::parse(body.to_string().as_bytes())
    }

    #[test]
    fn key_order_is_not_content() {
        let reordered = r#"{"input":{"a":"x","b":1},"action":"echo","id":"call-2","capability":"demo/echo","jecp":"1.0"}"#;
        let reordered = Invocation::parse(reordered.as_bytes()).unwrap();
        assert_eq!(
            parse(&body()).unwrap().content_hash().unwrap(),
            reordered.content_hash().unwrap()
        );
        let mut other = body();
        other["input"]["b"] = 2.into();
        assert_ne!(
            parse(&other).unwrap().content_hash().unwrap(),
            reordered.content_hash().unwrap()
        );
    }

    /// R-090: a mandate is no content, so that a call can be repeated with a fresh provenance.
    #[test]
    fn a_mandate_is_no_content() {
        let hash = |mandate: Value| {
            let mut call = body();
            call["mandate"] = mandate;
            parse(&call).unwrap().content_hash().unwrap()
        };
        let plain = parse(&body()).unwrap().content_hash().unwrap();
        assert_eq!(hash(json!({"budget_usdc": 1, "provenance_hash": "v2:1"})), plain);
        let known = Sha256::digest(r#"demo/echo|echo|{"a":"x","b":1}"#);
        assert_eq!(plain, B256::from_slice(&known));
    }

    #[test]
    fn names() {
        let mut call = body();
        for (name, expected) in
            [("demo/echo", true), ("demo", true), ("demo/other", false), ("other", false)]
        {
            call["capability"] = name.into();
            assert_eq!(parse(&call).unwrap().asks_for("demo", "echo"), expected, "{name}");
        }
    }

    #[test]
    fn refused_forms() {
        let change = |key: &str, value: Value| {
            let mut call = body();
            call[key] = value;
            parse(&call).map(drop).map_err(|error| error.code())
        };
        assert_eq!(change("jecp", "2.0".into()), Err("UNSUPPORTED_VERSION"));
        assert_eq!(change("id", "abc".into()), Err("INVALID_REQUEST"));
        assert_eq!(change("id", "a b c".into()), Err("INVALID_REQUEST"));
        assert_eq!(change("mandate", json!({"budget_usdc": 1001})), Err("INVALID_REQUEST"));
        assert_eq!(change("mandate", json!({"budget_total_usdc": 1})), Err("INVALID_REQUEST"));
        for name in ["Demo", "demo/", "/echo", "demo/echo/more", "1demo", "demo/e cho", ""] {
            assert_eq!(change("capability", name.into()), Err("INVALID_REQUEST"), "{name}");
        }
        assert_eq!(change("action", "Echo".into()), Err("INVALID_REQUEST"));
        assert_eq!(change("metadata", json!("note")), Err("INVALID_REQUEST"));
        assert_eq!(Invocation::parse(b"{").map(drop).map_err(|e| e.code()), Err("INVALID_REQUEST"));
    }

    /// R-316: to the byte.
    #[test]
    fn sizes() {
        // Quotes of a string, braces and name of an object.
        let (quotes, object) = (2, r#"{"a":""}"#.len());
        let change = |key: &str, value: Value| {
            let mut call = body();
            call[key] = value;
            parse(&call).map(drop).map_err(|error| error.code())
        };
        let input = |size: usize| change("input", "x".repeat(size - quotes).into());
        assert_eq!(input(MAX_INPUT_BYTES), Ok(()));
        assert_eq!(input(MAX_INPUT_BYTES + 1), Err("INPUT_TOO_LARGE"));
        let metadata = |size: usize| change("metadata", json!({"a": "x".repeat(size - object)}));
        assert_eq!(metadata(MAX_METADATA_BYTES), Ok(()));
        assert_eq!(metadata(MAX_METADATA_BYTES + 1), Err("INPUT_TOO_LARGE"));
    }

    #[test]
    fn media_types() {
        let check = |value: &str| {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]);
            check_media_type(&headers).is_ok()
        };
        assert!(check_media_type(&HeaderMap::new()).is_ok());
        assert!(check("application/json") && check("Application/JSON; charset=utf-8"));
        assert!(!check("text/plain") && !check("") && !check("application/json-seq"));
    }

    /// R-101: the header names the call for repeats, and nothing else.
    #[test]
    fn a_key_overrides_the_id() {
        let keyed = |keys: &[&str]| {
            let name = || axum::http::HeaderName::from_static(IDEMPOTENCY_KEY);
            let headers =
                HeaderMap::from_iter(keys.iter().map(|key| (name(), key.parse().unwrap())));
            parse(&body()).unwrap().keyed(&headers).map_err(|error| error.code())
        };
        assert_eq!(keyed(&[]).unwrap().request_id(), "call-1");
        let named = keyed(&["order:7/2"]).unwrap();
        assert_eq!((named.request_id(), named.id.as_str()), ("order:7/2", "call-1"));
        for bad in [&["a", "a"][..], &[""], &["a b"], &["x".repeat(256).as_str()]] {
            assert_eq!(keyed(bad).map(drop), Err("INVALID_REQUEST"), "{bad:?}");
        }
    }
}
