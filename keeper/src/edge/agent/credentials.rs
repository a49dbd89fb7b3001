//! Who an agent says it is, and whether it is (S02 3).
//!
//! Keys are 192 random bits, so that nothing slower than a keyed hash is needed at rest: without the
//! hub's secret the table lets nobody try a key, and with it there is nothing to guess.

use super::{mandate::Mandate, refusal::Refusal};
use crate::shared_secret::from_environment;
use alloy::{hex, primitives::B256};
use axum::http::HeaderMap;
use hmac::{Hmac, Mac};
use rand::{Rng, rngs::OsRng};
use serde::Deserialize;
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;

const X_AGENT_ID: &str = "x-agent-id";
const X_API_KEY: &str = "x-api-key";

/// A shorter secret could be guessed.
const MIN_SECRET: usize = 32;
/// Letters of a hub's prefix (S02 3.1).
const PREFIX: std::ops::RangeInclusive<usize> = 2..=8;
/// Characters behind the prefix.
const RANDOM: std::ops::RangeInclusive<usize> = 16..=64;

/// The hub's secret under which agents' keys are hashed.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct KeySecret(Hmac<Sha256>);

impl TryFrom<String> for KeySecret {
    type Error = String;

    /// The secret itself, or "$NAME" for one in the environment.
    fn try_from(text: String) -> Result<Self, String> {
        let secret = from_environment("agent_key_secret", &text)?;
        if secret.len() < MIN_SECRET {
            return Err(format!("agent_key_secret must have at least {MIN_SECRET} characters"));
        }
        let mac = Hmac::new_from_slice(secret.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Self(mac))
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret")
    }
}

impl KeySecret {
    /// What the ledger keeps of an agent's key. It is of no use for another agent.
    pub fn hash(&self, agent_id: &str, key: &ApiKey) -> B256 {
        let mut mac = self.0.clone();
        mac.update(agent_id.as_bytes());
        mac.update(b":");
        mac.update(key.as_bytes());
        B256::from_slice(&mac.finalize().into_bytes())
    }

    /// Whether a key is the agent's. Takes as long for a wrong one, and for an agent that there is
    /// not.
    pub(super) fn is_right(&self, agent_id: &str, key: &ApiKey, kept: Option<B256>) -> bool {
        let given = self.hash(agent_id, key);
        let is_equal = given.as_slice().ct_eq(kept.unwrap_or_default().as_slice());
        bool::from(is_equal) & kept.is_some()
    }
}

/// Before the names of a hub's agents: two to eight lower-case letters.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct AgentPrefix(String);

impl Default for AgentPrefix {
    fn default() -> Self {
        Self("keeper".to_owned())
    }
}

impl TryFrom<String> for AgentPrefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match is_prefix(&text) {
            true => Ok(Self(text)),
            false => Err("agent_prefix must be 2 to 8 lower-case letters".to_owned()),
        }
    }
}

fn is_prefix(text: &str) -> bool {
    PREFIX.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// An agent's key. It is in no log.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct ApiKey(String);

impl From<String> for ApiKey {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for ApiKey {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

impl ApiKey {
    /// To be shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub(super) const fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// An agent's name and its key.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Name.
    pub agent_id: String,
    /// Key.
    pub api_key: ApiKey,
}

impl Credentials {
    /// New ones: `{prefix}_ag_<24 hex>` and `{prefix}_ak_<48 hex>`.
    pub fn generate(AgentPrefix(prefix): &AgentPrefix) -> Self {
        let (agent, key): ([u8; 12], [u8; 24]) = (OsRng.r#gen(), OsRng.r#gen());
        Self {
            agent_id: format!("{prefix}_ag_{}", hex::encode(agent)),
            api_key: format!("{prefix}_ak_{}", hex::encode(key)).into(),
        }
    }

    /// Those of a call: of the mandate, else of the headers (S02 4.3).
    pub(super) fn of_call(headers: &HeaderMap, mandate: Option<&Mandate>) -> Result<Self, Refusal> {
        let agent_id = match mandate.and_then(|mandate| mandate.agent_id.clone()) {
            Some(agent_id) => agent_id,
            None => only(headers, X_AGENT_ID)?,
        };
        let api_key = match mandate.and_then(|mandate| mandate.api_key.clone()) {
            Some(api_key) => api_key,
            None => only(headers, X_API_KEY)?.into(),
        };
        // Nothing is asked of the ledger that could not be an agent there.
        match is_name(&agent_id, "ag") && is_name(api_key.reveal(), "ak") {
            true => Ok(Self { agent_id, api_key }),
            false => Err(Refusal::Wrong),
        }
    }
}

/// The one header of a name.
fn only(headers: &HeaderMap, name: &str) -> Result<String, Refusal> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(Refusal::Missing)?;
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(text.to_owned()),
        _ => Err(Refusal::Wrong),
    }
}

/// `^[a-z]{2,8}_<kind>_[A-Za-z0-9]{16,64}$`
fn is_name(text: &str, kind: &str) -> bool {
    let mut parts = text.split('_');
    let (Some(prefix), Some(found), Some(random), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    is_prefix(prefix)
        && found == kind
        && RANDOM.contains(&random.len())
        && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> KeySecret {
        KeySecret::try_from(text.repeat(4)).unwrap()
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    const AGENT: &str = "keeper_ag_0123456789abcdef01234567";
    const KEY: &str = "keeper_ak_0123456789abcdef0123456789abcdef0123456789abcdef";

    /// E.4: 96 and 192 random bits in the forms that the specification has.
    #[test]
    fn credentials_have_their_form_and_are_random() {
        let prefix = AgentPrefix::try_from("acme".to_owned()).unwrap();
        let (one, other) = (Credentials::generate(&prefix), Credentials::generate(&prefix));
        assert!(is_name(&one.agent_id, "ag") && is_name(one.api_key.reveal(), "ak"));
        assert_eq!((one.agent_id.len(), one.api_key.reveal().len()), (8 + 24, 8 + 48));
        assert!(one.agent_id != other.agent_id && one.api_key != other.api_key);
        for prefix in ["a", "ninechars", "Acme", "ac-me", ""] {
            AgentPrefix::try_from(prefix.to_owned()).unwrap_err();
        }
        for wrong in [
            "",
            "ag",
            "keeper_ak_0123456789abcdef",
            "keeper_ag_short",
            "k_ag_0123456789abcdef",
            "keeper_ag_0123456789abcdef_",
            "keeper_ag_0123456789abcde\0",
        ] {
            assert!(!is_name(wrong, "ag"), "{wrong}");
        }
    }

    /// what is kept is of no use without the hub's secret, nor for another agent.
    #[test]
    fn a_key_is_right_for_one_agent_under_one_secret() {
        let (key, other) = (ApiKey::from(KEY), ApiKey::from("keeper_ak_0123456789abcdef"));
        let kept = secret("secret-1").hash(AGENT, &key);
        assert!(secret("secret-1").is_right(AGENT, &key, Some(kept)));
        assert!(!secret("secret-1").is_right(AGENT, &other, Some(kept)));
        assert!(!secret("secret-1").is_right("keeper_ag_x", &key, Some(kept)));
        assert!(!secret("secret-2").is_right(AGENT, &key, Some(kept)));
        assert!(!secret("secret-1").is_right(AGENT, &key, None));
    }

    #[test]
    fn a_secret_is_long_and_shown_nowhere() {
        KeySecret::try_from("short".to_owned()).unwrap_err();
        let missing = KeySecret::try_from("$NO_SUCH_VARIABLE".to_owned()).unwrap_err();
        assert!(missing.contains("no variable NO_SUCH_VARIABLE"), "{missing}");
        assert_eq!(format!("{:?}", secret("secret-1")), "KeySecret");
        assert_eq!(format!("{:?}", ApiKey::from(KEY)), "ApiKey");
    }

    /// either both or nothing; the mandate comes before the headers.
    #[test]
    fn credentials_come_from_the_mandate_or_the_headers() {
        let both = headers(&[("x-agent-id", AGENT), ("x-api-key", KEY)]);
        let found = Credentials::of_call(&both, None).unwrap();
        assert_eq!((found.agent_id.as_str(), found.api_key.reveal()), (AGENT, KEY));
        let mandate: Mandate = serde_json::from_value(
            serde_json::json!({"agent_id": AGENT.replace("keeper", "acme"), "api_key": KEY}),
        )
        .unwrap();
        for headers in [both, HeaderMap::new()] {
            let found = Credentials::of_call(&headers, Some(&mandate)).unwrap();
            assert!(found.agent_id.starts_with("acme_ag_"));
        }
        let refused =
            |all: &[(&'static str, &str)]| Credentials::of_call(&headers(all), None).err().unwrap();
        assert_eq!(refused(&[]), Refusal::Missing);
        assert_eq!(refused(&[("x-agent-id", AGENT)]), Refusal::Missing);
        assert_eq!(refused(&[("x-api-key", KEY)]), Refusal::Missing);
        assert_eq!(refused(&[("x-agent-id", KEY), ("x-api-key", AGENT)]), Refusal::Wrong);
        let twice = [("x-agent-id", AGENT), ("x-agent-id", AGENT), ("x-api-key", KEY)];
        assert_eq!(refused(&twice), Refusal::Wrong);
    }
}
