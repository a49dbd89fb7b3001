//! Who an agent is, as the file has it.

use super::Http;
use crate::edge::Auth;
use serde::Deserialize;

/// Who an agent is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AuthKind {
    /// Who has credentials of this hub.
    #[default]
    Credentials,
    /// The paying address.
    Payer,
}

/// What is missing.
const NO_SECRET: &str = "http.auth = \"credentials\", which it is unless set, needs \
                         http.agent_key_secret; without accounts it is auth = \"payer\"";

impl Http {
    /// For the edge.
    pub(crate) fn auth(&self) -> eyre::Result<Auth> {
        match self.auth {
            AuthKind::Payer => Ok(Auth::Payer),
            AuthKind::Credentials => {
                let secret = self.agent_key_secret.clone();
                Ok(Auth::Credentials(secret.ok_or_else(|| eyre::eyre!(NO_SECRET))?))
            }
        }
    }

    pub(super) fn check_agents(&self) -> Result<(), String> {
        if self.auth == AuthKind::Credentials && self.agent_key_secret.is_none() {
            return Err(NO_SECRET.to_owned());
        }
        if !self.calls_per_minute.is_open() {
            return Err("http.calls_per_minute must be at least 1 for each tier".to_owned());
        }
        Ok(())
    }
}
