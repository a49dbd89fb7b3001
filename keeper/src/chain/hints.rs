//! Hints: ways to hear of a transaction sooner than from a sealed block. None is evidence. All that
//! a hint does is that the head is looked at again at once; what is booked comes from blocks, with
//! or without it.

use super::{
    Chain, Heads, Result, SendClass, Sent,
    client::{Endpoint, http},
};
use alloy::primitives::{B256, Bytes};
use serde::de::IgnoredAny;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

/// How long a send waits for inclusion: a block of Base.
const SYNC_WAIT: Duration = Duration::from_secs(2);
/// How often a preconfirmation is asked for: a flashblock of Base.
const PRECONFIRMATION_POLL: Duration = Duration::from_millis(200);
/// After two blocks of Base the head itself has been looked at.
const PRECONFIRMATION_LIMIT: Duration = Duration::from_secs(4);

/// Which hints are used.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Whether a send waits for inclusion, where nodes can do that.
    pub send_sync: bool,
    /// An endpoint that shows receipts of blocks which are not sealed yet.
    pub preconfirmations: Option<Url>,
}

impl Chain {
    /// The same chain with these hints.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn with_hints(self, hints: &Hints) -> Result<Self> {
        let preconfirmations = match &hints.preconfirmations {
            Some(url) => Some(Arc::new(Endpoint::new(&http()?, url))),
            None => None,
        };
        Ok(Self { send_sync: hints.send_sync, preconfirmations, ..self })
    }

    /// Whether [`Chain::broadcast`] waits for inclusion, so that the caller had better not wait for
    /// it.
    pub const fn waits_for_inclusion(&self) -> bool {
        self.send_sync
    }

    /// Hands a signed transaction to every endpoint, with the hints that are switched on.
    pub async fn broadcast(&self, raw: &Bytes, hash: B256, heads: &Heads) -> Sent {
        if let Some(endpoint) = &self.preconfirmations {
            tokio::spawn(await_preconfirmation(Arc::clone(endpoint), hash, heads.clone()));
        }
        if !self.send_sync {
            return self.send_raw(raw).await;
        }
        let started = Instant::now();
        let sent = self.send_raw_sync(raw, SYNC_WAIT).await;
        if sent.class == SendClass::Accepted {
            let millis = started.elapsed().as_millis();
            tracing::info!(%hash, millis, "a node says that it is included");
            heads.nudge();
        }
        sent
    }
}

/// Asks until the endpoint has a receipt, then has the head looked at.
async fn await_preconfirmation(endpoint: Arc<Endpoint>, hash: B256, heads: Heads) {
    let started = Instant::now();
    let seen = async {
        loop {
            sleep(PRECONFIRMATION_POLL).await;
            let request = endpoint.client.request("eth_getTransactionReceipt", (hash,));
            let receipt: Option<IgnoredAny> = request.await.unwrap_or_default();
            if receipt.is_some() {
                return;
            }
        }
    };
    match timeout(PRECONFIRMATION_LIMIT, seen).await {
        Ok(()) => {
            let millis = started.elapsed().as_millis();
            tracing::info!(%hash, millis, "preconfirmed");
            heads.nudge();
        }
        Err(_) => tracing::debug!(%hash, "not preconfirmed in time"),
    }
}
