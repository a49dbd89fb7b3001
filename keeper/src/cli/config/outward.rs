//! What leaves the daemon beside payments: webhooks and spans; and how much of everything goes on at a
//! time.

use crate::{
    edge,
    outbound::Guard,
    shared_secret::secret,
    webhooks::{Endpoint, EventType},
};
use serde::{Deserialize, Deserializer, de::Error};
use std::collections::BTreeSet;
use url::Url;

/// `[[webhook]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Webhook {
    url: Url,
    /// Base64, or "$NAME" for one in the environment.
    #[serde(deserialize_with = "shared")]
    secret: Shared,
    /// What is told.
    events: BTreeSet<EventType>,
}

/// A secret that no error and no log shows.
struct Shared(Vec<u8>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

fn shared<'de, D: Deserializer<'de>>(from: D) -> Result<Shared, D::Error> {
    let text = String::deserialize(from)?;
    secret("webhook.secret", &text).map(Shared).map_err(D::Error::custom)
}

impl Webhook {
    /// For the service.
    pub(in crate::cli) fn endpoint(&self) -> Endpoint {
        Endpoint {
            url: self.url.clone(),
            secret: self.secret.0.clone(),
            events: self.events.clone(),
        }
    }
}

pub(super) fn check(webhooks: &[Webhook], guard: &Guard) -> Result<(), String> {
    let mut known = BTreeSet::new();
    for Webhook { url, events, .. } in webhooks {
        let name = format!("webhook {}", url.host_str().unwrap_or_default());
        guard.admit(url.as_str()).map_err(|refused| format!("{name}: {refused}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("{name}: url must not hold credentials; what is sent is signed"));
        }
        if events.is_empty() {
            return Err(format!("{name}: events is empty, so it would never be told anything"));
        }
        if !known.insert(url) {
            return Err(format!("{name}: its url is listed twice; list all its events once"));
        }
    }
    Ok(())
}

/// `[telemetry]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Telemetry {
    /// Where spans are sent, by OTLP over HTTP; nowhere unless set.
    pub(in crate::cli) otlp_endpoint: Option<Url>,
}

impl Telemetry {
    pub(super) fn check(&self) -> Result<(), String> {
        match &self.otlp_endpoint {
            Some(url) if !["http", "https"].contains(&url.scheme()) => {
                Err("telemetry.otlp_endpoint must be http or https".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// `[http.pools]`: how much goes on at a time, each kind apart from the others.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli) struct Pools {
    /// Calls of agents.
    invoke: usize,
    /// Requests that only look.
    read: usize,
    /// Calls of providers.
    provider: usize,
}

impl Default for Pools {
    fn default() -> Self {
        let edge::PoolLimits { invoke, read, provider } = edge::PoolLimits::default();
        Self { invoke, read, provider }
    }
}

impl Pools {
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, limit) in
            [("invoke", self.invoke), ("read", self.read), ("provider", self.provider)]
        {
            if !(1..=edge::MAX_POOL).contains(&limit) {
                return Err(format!("http.pools.{name} must be between 1 and {}", edge::MAX_POOL));
            }
        }
        Ok(())
    }

    /// For the edge.
    pub(in crate::cli) const fn limits(self) -> edge::PoolLimits {
        let Self { invoke, read, provider } = self;
        edge::PoolLimits { invoke, read, provider }
    }
}
