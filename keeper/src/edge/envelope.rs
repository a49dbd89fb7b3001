//! The JECP envelope of a call (S01 3.2).

use super::{agent::Mandate, error::ApiError};
use alloy::primitives::B256;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Largest body (S01 7).
pub(super) const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;

/// A call. Fields that this release does not know are refused rather than ignored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Invocation {
    pub(super) jecp: String,
    pub(super) id: String,
    pub(super) capability: String,
    pub(super) action: String,
    pub(super) input: Value,
    pub(super) mandate: Option<Mandate>,
}

impl Invocation {
    /// Parses and checks a body.
    pub(super) fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Self, ApiError> {
        // A missing content type is tolerated (R-307).
        let media_type = content_type.map(|value| value.split(';').next().unwrap_or("").trim());
        if media_type.is_some_and(|media| !media.eq_ignore_ascii_case("application/json")) {
            return Err(ApiError::UnsupportedMediaType);
        }
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
        Ok(invocation)
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

    /// SHA-256 of capability, action, input in canonical form and provenance (R-090): what must be equal for a
    /// repeated call to be the same call.
    pub(super) fn content_hash(&self) -> Result<B256, ApiError> {
        let input = serde_json_canonicalizer::to_vec(&self.input)
            .map_err(|error| ApiError::InvalidRequest(format!("input: {error}")))?;
        let mut hasher = Sha256::new();
        hasher.update(&self.capability);
        hasher.update("|");
        hasher.update(&self.action);
        hasher.update("|");
        hasher.update(input);
        hasher.update("|");
        let provenance = self.mandate.as_ref().and_then(|it| it.provenance_hash.as_deref());
        hasher.update(provenance.unwrap_or(""));
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
        Invocation::parse(Some("application/json; charset=utf-8"), body.to_string().as_bytes())
    }

    #[test]
    fn key_order_is_not_content() {
        let reordered = r#"{"input":{"a":"x","b":1},"action":"echo","id":"call-2","capability":"demo/echo","jecp":"1.0"}"#;
        let reordered = Invocation::parse(None, reordered.as_bytes()).unwrap();
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

    /// R-090: a provenance is content; the rest of a mandate is not, so that it can be renewed.
    #[test]
    fn a_provenance_is_content() {
        let hash = |mandate: Value| {
            let mut call = body();
            call["mandate"] = mandate;
            parse(&call).unwrap().content_hash().unwrap()
        };
        let plain = parse(&body()).unwrap().content_hash().unwrap();
        assert_eq!(hash(json!({"budget_usdc": 1})), plain);
        let one = hash(json!({"provenance_hash": "v2:1"}));
        assert_ne!(one, plain);
        assert_ne!(one, hash(json!({"provenance_hash": "v2:2"})));
        assert_eq!(one, hash(json!({"provenance_hash": "v2:1", "budget_usdc": 2})));
        let known = Sha256::digest(r#"demo/echo|echo|{"a":"x","b":1}|v2:1"#);
        assert_eq!(one, B256::from_slice(&known));
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
        assert_eq!(
            Invocation::parse(Some("text/plain"), b"{}").map(drop).map_err(|e| e.code()),
            Err("UNSUPPORTED_MEDIA_TYPE")
        );
        assert_eq!(
            Invocation::parse(None, b"{").map(drop).map_err(|e| e.code()),
            Err("INVALID_REQUEST")
        );
    }
}
