//! JSON-RPC over several endpoints.

use super::{
    BlockTag, ChainError, Head, Receipt, Result, SendClass, Transaction, classify_send_error,
};
use crate::lifecycle::{Fees, Market};
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
use std::{sync::Arc, time::Duration};
use url::Url;

/// How long an endpoint may take for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Tip offered to the sequencer, wei per gas. Base orders by tip; its blocks are rarely full.
const PRIORITY_FEE: u64 = 1_000_000;

/// A chain behind one or more endpoints. Cheap to clone.
///
/// Reads go to the endpoints in turn until one answers. A transaction goes to all of them: a
/// fall-back that stops at the first answer would let an error win the race.
#[derive(Debug, Clone)]
pub struct Chain {
    endpoints: Arc<[Endpoint]>,
}

#[derive(Debug, Clone)]
struct Endpoint {
    /// Host and port: URLs carry keys.
    name: String,
    client: RpcClient,
}

impl Chain {
    /// Connects lazily: nothing is sent before the first read.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn new(urls: &[Url]) -> Result<Self> {
        let http =
            reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build().map_err(|error| {
                ChainError::Unavailable { method: "HTTP client", reason: error.to_string() }
            })?;
        let endpoints = urls
            .iter()
            .map(|url| Endpoint {
                name: format!(
                    "{}:{}",
                    url.host_str().unwrap_or("?"),
                    url.port_or_known_default().unwrap_or(0)
                ),
                client: RpcClient::new(Http::with_client(http.clone(), url.clone()), true),
            })
            .collect();
        Ok(Self { endpoints })
    }

    /// Asks one endpoint after the other.
    async fn request<P: RpcSend, R: RpcRecv>(&self, method: &'static str, params: P) -> Result<R> {
        let mut failure =
            ChainError::Unavailable { method, reason: "none is configured".to_owned() };
        for endpoint in self.endpoints.iter() {
            match endpoint.client.request(method, params.clone()).await {
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

    /// The same chain through one endpoint only, for reads that must not mix two nodes' views. The
    /// first that answers is taken.
    pub async fn pinned(&self) -> Result<Self> {
        let mut reason = "none is configured".to_owned();
        for endpoint in self.endpoints.iter() {
            let answer = endpoint.client.request::<_, U64>("eth_blockNumber", ()).await;
            match answer {
                Ok(_) => {
                    return Ok(Self { endpoints: Arc::new([endpoint.clone()]) });
                }
                Err(error) => reason = format!("{}: {}", endpoint.name, describe(&error)),
            }
        }
        Err(ChainError::Unavailable { method: "eth_blockNumber", reason })
    }

    /// EIP-155 chain id.
    pub async fn chain_id(&self) -> Result<u64> {
        Ok(self.request::<_, U64>("eth_chainId", ()).await?.to())
    }

    /// A block's header.
    pub async fn head(&self, tag: BlockTag) -> Result<Head> {
        let method = "eth_getBlockByNumber";
        let block: Option<Head> = self.request(method, (tag.to_string(), false)).await?;
        block.ok_or_else(|| ChainError::Malformed { method, reason: format!("no block {tag}") })
    }

    /// Code at an account.
    pub async fn code(&self, account: Address) -> Result<Bytes> {
        self.request("eth_getCode", (account, "latest")).await
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
            let one = Self { endpoints: Arc::new([endpoint.clone()]) };
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
        let answer = self.simulate(None, to, &call.abi_encode().into(), tag).await?;
        C::abi_decode_returns(&answer).map_err(|error| ChainError::Malformed {
            method: C::SIGNATURE,
            reason: error.to_string(),
        })
    }

    /// Executes calldata without sending it.
    pub async fn simulate(
        &self,
        from: Option<Address>,
        to: Address,
        input: &Bytes,
        tag: BlockTag,
    ) -> Result<Bytes> {
        let mut call = json!({"to": to, "input": input});
        if let Some(from) = from {
            call["from"] = json!(from);
        }
        self.request("eth_call", (call, tag.to_string())).await
    }

    /// Fees with headroom: twice the base fee, which cannot double in fewer than six full blocks
    /// anywhere and in many more on Base, plus a fixed tip.
    pub async fn market(&self) -> Result<Market> {
        let base_fee = self.head(BlockTag::Latest).await?.base_fee();
        let fees = Fees {
            max_fee_per_gas: base_fee.saturating_mul(2).saturating_add(PRIORITY_FEE),
            max_priority_fee_per_gas: PRIORITY_FEE,
        };
        Ok(Market { base_fee, fees })
    }

    /// An account's balance, wei.
    pub async fn balance(&self, account: Address) -> Result<U256> {
        self.request("eth_getBalance", (account, "latest")).await
    }

    /// Hands a signed transaction to every endpoint and merges what they say: taken by one is
    /// taken, and among refusals the unknown outweighs the certain.
    pub async fn send_raw(&self, raw: &Bytes) -> SendClass {
        let mut merged: Option<SendClass> = None;
        for endpoint in self.endpoints.iter() {
            let answer = endpoint.client.request::<_, B256>("eth_sendRawTransaction", (raw,)).await;
            let class = match answer {
                Ok(_) => SendClass::Accepted,
                Err(error) => {
                    let class = error
                        .as_error_resp()
                        .map_or(SendClass::Unknown, |error| classify_send_error(&error.message));
                    tracing::debug!(
                        endpoint = endpoint.name,
                        class = class.as_str(),
                        reason = describe(&error),
                        "the node refused a transaction"
                    );
                    class
                }
            };
            merged = Some(match (merged, class) {
                (Some(SendClass::Accepted), _) | (_, SendClass::Accepted) => SendClass::Accepted,
                (Some(SendClass::Known), _) | (_, SendClass::Known) => SendClass::Known,
                (Some(SendClass::Unknown), _) | (_, SendClass::Unknown) => SendClass::Unknown,
                (Some(first), _) => first,
                (None, class) => class,
            });
        }
        merged.unwrap_or(SendClass::Unknown)
    }
}

/// A revert is an answer; everything else sends the caller to the next endpoint.
fn refine(
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
fn describe(error: &RpcError<TransportErrorKind>) -> String {
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
