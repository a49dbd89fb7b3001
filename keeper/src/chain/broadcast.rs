//! Handing transactions to nodes.

use super::{
    Chain, SendClass,
    client::{Endpoint, describe},
    send::classify_send_error,
};
use alloy::{
    primitives::{B256, Bytes},
    rpc::json_rpc::RpcError,
    transports::TransportErrorKind,
};
use futures::future::join_all;
use serde::de::IgnoredAny;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::timeout;

/// How long an endpoint may take to say whether it takes a transaction. One that is silent must not
/// hold up what comes next.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// JSON-RPC: there is no such method, or it is switched off.
const NO_METHOD: [i64; 2] = [-32_601, -32_004];

/// What became of handing a transaction to every endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// All in all.
    pub class: SendClass,
    /// What each endpoint said, by host and port.
    pub by_endpoint: Vec<(String, SendClass)>,
}

impl Sent {
    fn merge(by_endpoint: Vec<(String, SendClass)>) -> Self {
        let class = SendClass::merge(by_endpoint.iter().map(|(_, class)| *class));
        Self { class, by_endpoint }
    }
}

impl Chain {
    /// Hands a signed transaction to every endpoint at once and merges what they say. Each has its
    /// own time; who does not answer in it may have taken the transaction.
    pub async fn send_raw(&self, raw: &Bytes) -> Sent {
        let sent = self.endpoints.iter().map(async |endpoint| {
            let class = endpoint.send(raw).await;
            (endpoint.name.clone(), class)
        });
        Sent::merge(join_all(sent).await)
    }

    /// The same, but nodes that can (EIP-7966) answer when they see the transaction included; after
    /// `wait` nobody waits for them. It is a hint of when to look: their word for inclusion may rest
    /// on a block that is not sealed. A node that did not answer in time has most likely taken the
    /// transaction, which is [`SendClass::Unknown`].
    pub async fn send_raw_sync(&self, raw: &Bytes, wait: Duration) -> Sent {
        let sent = self.endpoints.iter().map(async |endpoint| {
            let class = endpoint.send_sync(raw, wait).await;
            (endpoint.name.clone(), class)
        });
        Sent::merge(join_all(sent).await)
    }
}

impl Endpoint {
    async fn send(&self, raw: &Bytes) -> SendClass {
        let request = self.client.request::<_, B256>("eth_sendRawTransaction", (raw,));
        match timeout(SEND_TIMEOUT, request).await {
            Ok(Ok(_)) => SendClass::Accepted,
            Ok(Err(error)) => self.refusal(&error),
            Err(_) => self.silence(),
        }
    }

    /// Waits by its own clock: nodes do not agree on how, or whether, they are told for how long.
    async fn send_sync(&self, raw: &Bytes, wait: Duration) -> SendClass {
        if self.lacks_sync.load(Ordering::Relaxed) {
            return self.send(raw).await;
        }
        let request =
            self.client.request::<_, Option<IgnoredAny>>("eth_sendRawTransactionSync", (raw,));
        let error = match timeout(wait, request).await {
            Ok(Ok(Some(_))) => return SendClass::Accepted,
            // No receipt and no error.
            Ok(Ok(None)) => return self.send(raw).await,
            Ok(Err(error)) => error,
            Err(_) => return self.silence(),
        };
        if error.as_error_resp().is_some_and(|error| NO_METHOD.contains(&error.code)) {
            tracing::info!(endpoint = self.name, "no eth_sendRawTransactionSync: not used");
            self.lacks_sync.store(true, Ordering::Relaxed);
        }
        match self.refusal(&error) {
            // Whatever it meant: the same bytes twice do no harm.
            SendClass::Unknown => self.send(raw).await,
            class => class,
        }
    }

    fn refusal(&self, error: &RpcError<TransportErrorKind>) -> SendClass {
        let class = error
            .as_error_resp()
            .map_or(SendClass::Unknown, |error| classify_send_error(error.code, &error.message));
        tracing::debug!(
            endpoint = self.name,
            class = class.as_str(),
            reason = describe(error),
            "the node did not take a transaction"
        );
        class
    }

    fn silence(&self) -> SendClass {
        tracing::debug!(endpoint = self.name, "the node did not answer in time to a transaction");
        SendClass::Unknown
    }
}
