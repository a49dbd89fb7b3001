//! JSON-RPC over several endpoints.

use super::{BlockTag, ChainError, Head, Receipt, Result, Transaction};
use crate::metrics::RPC_REQUEST_SECONDS;
use alloy::{
    primitives::{Address, B256, Bytes, U64, U256},
    rpc::{
        client::RpcClient,
        json_rpc::{RpcError, RpcRecv, RpcSend},
        types::{Filter, Log},
    },
    sol_types::SolCall,
    transports::{TransportErrorKind, http::Http},
};
use serde_json::json;
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;
use url::Url;

/// How long an endpoint may take for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Blocks that an endpoint may be behind the best of them and still be read from.
const MAX_BEHIND: u64 = 5;

/// A chain behind one or more endpoints. Cheap to clone.
///
/// Reads go to the endpoints in turn until one answers. A transaction goes to all of them: a
/// fall-back that stops at the first answer would let an error win the race.
#[derive(Debug, Clone)]
pub struct Chain {
    pub(super) endpoints: Arc<[Arc<Endpoint>]>,
    /// Whether the chain has a fee oracle, once somebody has asked.
    pub(super) oracle: Arc<OnceCell<bool>>,
    /// Whether the chain has Multicall3, once somebody has asked.
    pub(super) multicall: Arc<OnceCell<bool>>,
    /// Whether a send waits for inclusion.
    pub(super) send_sync: bool,
    /// Who says early that a transaction will be in a block.
    pub(super) preconfirmations: Option<Arc<Endpoint>>,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    /// Host and port: URLs carry keys.
    pub(super) name: String,
    pub(super) client: RpcClient,
    /// It said that it has no `eth_sendRawTransactionSync`.
    pub(super) lacks_sync: AtomicBool,
}

impl Endpoint {
    /// Connects lazily.
    pub(super) fn new(http: &reqwest::Client, url: &Url) -> Self {
        let host = url.host_str().unwrap_or("?");
        let port = url.port_or_known_default().unwrap_or(0);
        Self {
            name: format!("{host}:{port}"),
            client: RpcClient::new(Http::with_client(http.clone(), url.clone()), true),
            lacks_sync: AtomicBool::new(false),
        }
    }
}

/// The connections of all endpoints.
pub(super) fn http() -> Result<reqwest::Client> {
    reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build().map_err(|error| {
        ChainError::Unavailable { method: "HTTP client", reason: error.to_string() }
    })
}

impl Chain {
    /// Connects lazily: nothing is sent before the first read.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn new(urls: &[Url]) -> Result<Self> {
        let http = http()?;
        Ok(Self {
            endpoints: urls.iter().map(|url| Arc::new(Endpoint::new(&http, url))).collect(),
            oracle: Arc::default(),
            multicall: Arc::default(),
            send_sync: false,
            preconfirmations: None,
        })
    }

    /// Asks one endpoint after the other.
    pub(super) async fn request<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R> {
        let mut failure =
            ChainError::Unavailable { method, reason: "none is configured".to_owned() };
        for endpoint in self.endpoints.iter() {
            let begun = Instant::now();
            let answer = endpoint.client.request(method, params.clone()).await;
            let outcome = if answer.is_ok() { "answer" } else { "error" };
            RPC_REQUEST_SECONDS.record(begun.elapsed(), [&endpoint.name, outcome]);
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    failure = refine(method, &endpoint.name, &error);
                    if matches!(failure, ChainError::Reverted { .. }) {
                        return Err(failure);
                    }
                    tracing::debug!(method, error = %failure, "no answer");
                }
            }
        }
        Err(failure)
    }

    /// The same chain through one endpoint only, for reads that must not mix two nodes' views: the
    /// first that is not behind the others.
    ///
    /// # Errors
    /// When no endpoint answers.
    pub async fn pinned(&self) -> Result<Self> {
        self.pinned_at(0).await
    }

    /// The same through the first endpoint that has also come as far as block `least`. A node that
    /// lags answers questions about blocks that it does not have as if nothing were in them.
    ///
    /// # Errors
    /// When no endpoint answers, or none has come as far.
    pub async fn pinned_at(&self, least: u64) -> Result<Self> {
        let method = "eth_blockNumber";
        let asked = self.endpoints.iter().map(|endpoint| async move {
            let head = endpoint.client.request::<_, U64>(method, ()).await;
            (endpoint, head.map(|number| number.to::<u64>()))
        });
        let heads = futures::future::join_all(asked).await;
        let best = heads.iter().filter_map(|(_, head)| head.as_ref().ok()).max().copied();
        let least = least.max(best.unwrap_or_default().saturating_sub(MAX_BEHIND));
        let mut reason = "none is configured".to_owned();
        for (endpoint, head) in heads {
            match head {
                Ok(head) if head >= least => {
                    let endpoints = Arc::new([Arc::clone(endpoint)]);
                    return Ok(Self { endpoints, ..self.clone() });
                }
                Ok(head) => {
                    reason = format!("{}: its head is {head}, before {least}", endpoint.name);
                }
                Err(error) => reason = format!("{}: {}", endpoint.name, describe(&error)),
            }
        }
        Err(ChainError::Unavailable { method, reason })
    }

    /// Each endpoint by itself, best first: what they say can be held against each other.
    pub fn singly(&self) -> Vec<Self> {
        let one = |endpoint| Self { endpoints: Arc::new([endpoint]), ..self.clone() };
        self.endpoints.iter().cloned().map(one).collect()
    }

    /// Host and port of the first endpoint.
    pub fn name(&self) -> &str {
        self.endpoints.first().map_or("?", |endpoint| &endpoint.name)
    }

    /// EIP-155 chain id.
    pub async fn chain_id(&self) -> Result<u64> {
        Ok(self.request::<_, U64>("eth_chainId", ()).await?.to())
    }

    /// A block's header.
    pub async fn head(&self, tag: BlockTag) -> Result<Head> {
        let method = "eth_getBlockByNumber";
        let block = self.head_if_any(tag).await?;
        block.ok_or_else(|| ChainError::Malformed { method, reason: format!("no block {tag}") })
    }

    /// A block's header, if the node has that block.
    pub(super) async fn head_if_any(&self, tag: BlockTag) -> Result<Option<Head>> {
        self.request("eth_getBlockByNumber", (tag.to_string(), false)).await
    }

    /// The header of the block with this hash, if the node has it.
    pub(super) async fn head_by_hash(&self, hash: B256) -> Result<Option<Head>> {
        self.request("eth_getBlockByHash", (hash, false)).await
    }

    /// Code at an account.
    pub async fn code(&self, account: Address) -> Result<Bytes> {
        self.code_at(account, BlockTag::Latest).await
    }

    /// Code at an account at a block.
    pub async fn code_at(&self, account: Address, tag: BlockTag) -> Result<Bytes> {
        self.request("eth_getCode", (account, tag.to_string())).await
    }

    /// A word of an account's storage at a block.
    pub async fn storage(&self, account: Address, slot: B256, tag: BlockTag) -> Result<B256> {
        self.request("eth_getStorageAt", (account, slot, tag.to_string())).await
    }

    /// An account's transaction count: its next account nonce at that block.
    pub async fn transaction_count(&self, account: Address, tag: BlockTag) -> Result<u64> {
        let params = (account, tag.to_string());
        Ok(self.request::<_, U64>("eth_getTransactionCount", params).await?.to())
    }

    /// The highest transaction count that any endpoint knows of: their pools differ.
    pub async fn highest_transaction_count(&self, account: Address, tag: BlockTag) -> Result<u64> {
        let mut highest = None;
        let mut failure = None;
        for endpoint in self.endpoints.iter() {
            let one = Self { endpoints: Arc::new([Arc::clone(endpoint)]), ..self.clone() };
            match one.transaction_count(account, tag).await {
                Ok(count) => highest = highest.max(Some(count)),
                Err(error) => failure = Some(error),
            }
        }
        highest.ok_or_else(|| {
            let reason = "none is configured".to_owned();
            let method = "eth_getTransactionCount";
            failure.unwrap_or(ChainError::Unavailable { method, reason })
        })
    }

    /// A receipt, once the transaction is mined.
    pub async fn receipt(&self, transaction: B256) -> Result<Option<Receipt>> {
        self.request("eth_getTransactionReceipt", (transaction,)).await
    }

    /// A transaction.
    pub async fn transaction(&self, transaction: B256) -> Result<Option<Transaction>> {
        self.request("eth_getTransactionByHash", (transaction,)).await
    }

    /// A transaction's bytes, as they were signed. Not every node has this method.
    pub async fn raw_transaction(&self, transaction: B256) -> Result<Option<Bytes>> {
        self.request("eth_getRawTransactionByHash", (transaction,)).await
    }

    /// Logs of a range of blocks. A node that finds the range too long is asked for its halves.
    pub async fn logs(&self, filter: &Filter, from: u64, to: u64) -> Result<Vec<Log>> {
        let mut found = Vec::new();
        let mut ranges = vec![(from, to)];
        while let Some((from, to)) = ranges.pop() {
            let part = filter.clone().from_block(from).to_block(to);
            match self.request::<_, Vec<Log>>("eth_getLogs", (&part,)).await {
                Ok(logs) => found.extend(logs),
                Err(ChainError::Refused { .. }) if from < to => {
                    let middle = from.midpoint(to);
                    ranges.extend([(middle.saturating_add(1), to), (from, middle)]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Calls a function without sending anything.
    pub async fn call<C: SolCall>(
        &self,
        to: Address,
        call: &C,
        tag: BlockTag,
    ) -> Result<C::Return> {
        let answer = self.eth_call(to, &call.abi_encode().into(), tag).await?;
        C::abi_decode_returns(&answer).map_err(|error| ChainError::Malformed {
            method: C::SIGNATURE,
            reason: error.to_string(),
        })
    }

    pub(super) async fn eth_call(
        &self,
        to: Address,
        input: &Bytes,
        tag: BlockTag,
    ) -> Result<Bytes> {
        self.request("eth_call", (json!({"to": to, "input": input}), tag.to_string())).await
    }

    /// Executes a transaction at the newest block without sending it, within its gas.
    pub async fn simulate(
        &self,
        from: Address,
        to: Address,
        input: &Bytes,
        gas_limit: u64,
    ) -> Result<Bytes> {
        let gas = U64::from(gas_limit);
        let call = json!({"from": from, "to": to, "input": input, "gas": gas});
        self.request("eth_call", (call, BlockTag::Latest.to_string())).await
    }

    /// An account's balance, wei.
    pub async fn balance(&self, account: Address) -> Result<U256> {
        self.request("eth_getBalance", (account, "latest")).await
    }
}

/// A revert is an answer; everything else sends the caller to the next endpoint.
pub(super) fn refine(
    method: &'static str,
    endpoint: &str,
    error: &RpcError<TransportErrorKind>,
) -> ChainError {
    let reason = format!("{endpoint}: {}", describe(error));
    match error.as_error_resp() {
        Some(response)
            if response.code == 3 || response.message.to_lowercase().contains("revert") =>
        {
            ChainError::Reverted {
                reason: response.message.to_string(),
                data: response.as_revert_data().unwrap_or_default(),
            }
        }
        Some(_) => ChainError::Refused { method, reason },
        None => ChainError::Unavailable { method, reason },
    }
}

/// An error without URLs, which may carry keys.
pub(super) fn describe(error: &RpcError<TransportErrorKind>) -> String {
    match error {
        RpcError::ErrorResp(response) => format!("error {}: {}", response.code, response.message),
        RpcError::Transport(TransportErrorKind::HttpError(http)) => {
            format!("HTTP status {}", http.status)
        }
        RpcError::Transport(_) => "no connection or no answer in time".to_owned(),
        RpcError::NullResp => "empty answer".to_owned(),
        RpcError::DeserError { err, .. } | RpcError::SerError(err) => {
            format!("unreadable answer: {err}")
        }
        RpcError::UnsupportedFeature(what) => format!("unsupported: {what}"),
        RpcError::LocalUsageError(_) => "request not sent".to_owned(),
    }
}
