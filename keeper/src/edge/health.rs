//! How the daemon is, for operators and their orchestrators.

use super::{Edge, Shut, Site};
use crate::{ledger::LedgerError, lifecycle::Closed};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

/// What Prometheus calls its text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the key in KMS is the one that the contract obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustRoot {
    /// Not known yet.
    Unknown,
    /// It is.
    Ok,
    /// It is not: x402 is off and no service runs.
    Mismatch,
}

impl TrustRoot {
    /// Its word in `/health`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Mismatch => "mismatch",
        }
    }
}

/// The daemon's state, written by whoever starts it, read by every request.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    trust_root: TrustRoot,
    /// What is not there yet.
    waiting: BTreeMap<String, &'static str>,
    site: Option<Arc<Site>>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A daemon that has just begun.
    pub fn new() -> Self {
        let waiting = BTreeMap::from([("boot".to_owned(), "starting")]);
        Self {
            started: Instant::now(),
            inner: RwLock::new(Inner { trust_root: TrustRoot::Unknown, waiting, site: None }),
        }
    }

    /// Something is missing. Anybody may read this: hosts, keys and texts of errors are for the log.
    pub fn wait_for(&self, component: &str) {
        let reason = "not there yet; the log says why";
        self.write(|inner| inner.waiting.insert(component.to_owned(), reason));
    }

    /// It is there.
    pub fn found(&self, component: &str) {
        self.write(|inner| inner.waiting.remove(component));
    }

    /// What is known of the trust root.
    pub fn set_trust_root(&self, trust_root: TrustRoot) {
        self.write(|inner| inner.trust_root = trust_root);
    }

    /// From now on payments are taken.
    pub fn open(&self, site: Arc<Site>) {
        self.write(|inner| {
            inner.waiting.remove("boot");
            inner.site = Some(site);
        });
    }

    /// Whether the key is the contract's.
    pub fn trust_root(&self) -> TrustRoot {
        self.read(|inner| inner.trust_root)
    }

    /// Where payments go, if they can be taken.
    pub fn site(&self) -> Option<Arc<Site>> {
        self.read(|inner| inner.site.clone())
    }

    /// What is missing.
    pub fn waiting(&self) -> BTreeMap<String, &'static str> {
        self.read(|inner| inner.waiting.clone())
    }

    fn read<T>(&self, read: impl FnOnce(&Inner) -> T) -> T {
        read(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut Inner) -> T) {
        write(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The process runs.
pub(super) async fn livez() -> &'static str {
    "ok"
}

/// The process can take payments; 503 with the reasons when it cannot.
pub(super) async fn readyz(State(edge): State<Arc<Edge>>) -> Response {
    let waiting = missing(&edge).await;
    let status = if waiting.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": waiting.is_empty(), "waiting_for": waiting}))).into_response()
}

/// What is missing right now: what start-up found, and whether ledger and lease still answer.
async fn missing(edge: &Edge) -> BTreeMap<String, &'static str> {
    let mut waiting = edge.health.waiting();
    if edge.health.trust_root() == TrustRoot::Mismatch {
        waiting.insert(
            "trust_root".to_owned(),
            "the settler's KMS key is not the Splitter's AUTHORIZED_SETTLER",
        );
    }
    let Some(site) = edge.health.site() else { return waiting };
    if !site.heads.is_answered() {
        waiting.insert("chain".to_owned(), "no RPC endpoint answers");
    } else if site.heads.is_silent(site.max_silence) {
        waiting.insert("chain".to_owned(), "no new block");
    }
    let looked = async {
        let mut tx = site.ledger.read().await?;
        let held = site.is_led(&mut tx).await?;
        let caught_up = site.has_caught_up(&mut tx).await?;
        let unsigned = site.is_unsigned(&mut tx).await?;
        let shut = site.shut(&mut tx).await?;
        Ok::<_, LedgerError>((held, caught_up, unsigned, site.closed(&mut tx).await?, shut))
    };
    match looked.await {
        Ok((held, caught_up, unsigned, closed, shut)) => {
            match shut {
                // Then it answers as it should: there is nothing to wait for.
                None | Some(Shut::Disabled) => {}
                Some(Shut::Unsigned) => {
                    waiting.insert("signing".to_owned(), "an operator has switched it off");
                }
                Some(Shut::Closed(reasons)) => {
                    for reason in reasons {
                        let why = match reason.heals_itself() {
                            true => "closed until that is over",
                            false => "closed until an operator has looked into it",
                        };
                        waiting.insert(reason.to_string(), why);
                    }
                }
            }
            match closed {
                None => {}
                Some(Closed::Quarantine) => {
                    let why = "account nonces may be used that the ledger does not know";
                    waiting.insert("quarantine".to_owned(), why);
                }
                Some(Closed::TransactionCap | Closed::DayCap | Closed::LowBalance) => {
                    let why = "a spending limit is reached, or a balance is low";
                    waiting.insert("spending".to_owned(), why);
                }
            }
            if unsigned {
                waiting.insert("kms".to_owned(), "transactions wait for a signature");
            }
            if !held {
                waiting.insert("lease".to_owned(), "no daemon runs the background services");
            }
            if !caught_up {
                waiting.insert("mirror".to_owned(), "catching up with the chain");
            }
        }
        Err(error) => {
            tracing::warn!(%error, "readiness: the database does not answer");
            waiting.insert("database".to_owned(), "does not answer");
        }
    }
    waiting
}

/// For people: status, version, what is missing.
pub(super) async fn health(State(edge): State<Arc<Edge>>) -> Response {
    let waiting = missing(&edge).await;
    let trust_root = edge.health.trust_root();
    let status = if waiting.is_empty() { "ok" } else { "degraded" };
    let mut checks = Map::new();
    for (component, reason) in waiting {
        checks.insert(component, Value::from(reason));
    }
    let enabled = edge.health.site().is_some_and(|site| !site.intake.is_disabled());
    let body = json!({
        "status": status,
        "engine": "x402-keeper",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": edge.health.started.elapsed().as_secs(),
        "waiting_for": checks,
        "x402": {"trust_root": trust_root.as_str(), "enabled": enabled},
    });
    ([(header::CACHE_CONTROL, "no-cache")], Json(body)).into_response()
}

/// For Prometheus. What is in it: docs/metrics.md.
pub(super) async fn metrics(State(edge): State<Arc<Edge>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], edge.metrics.render())
}
