//! A JSON-RPC endpoint that lies.

use alloy::{
    hex,
    primitives::{B256, keccak256},
};
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use serde_json::{Value, json};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, Ordering},
};
use tokio::net::TcpListener;

/// What is wrong with the node behind an [`RpcProxy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RpcFault {
    /// Nothing.
    None,
    /// It has lost its index of logs and says that there are none.
    NoLogs,
    /// It refuses to search for logs.
    RefusesLogs,
}

#[derive(Debug)]
struct Node {
    client: reqwest::Client,
    target: String,
    fault: AtomicU8,
    sent: Mutex<Vec<B256>>,
}

/// A running proxy in front of a node; it ends with this value.
#[derive(Debug)]
pub struct RpcProxy {
    url: String,
    node: Arc<Node>,
    server: tokio::task::JoinHandle<()>,
}

impl RpcProxy {
    /// Starts it on a free port.
    pub async fn start(target: &str) -> eyre::Result<Self> {
        let node = Arc::new(Node {
            client: reqwest::Client::new(),
            target: target.to_owned(),
            fault: AtomicU8::new(RpcFault::None as u8),
            sent: Mutex::default(),
        });
        let app = Router::new().route("/", post(answer)).with_state(Arc::clone(&node));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the RPC proxy stopped");
            }
        });
        Ok(Self { url, node, server })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Hashes of the transactions that were handed to the node through it, in order.
    pub fn sent(&self) -> Vec<B256> {
        self.node.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this is wrong.
    pub fn set_fault(&self, fault: RpcFault) {
        self.node.fault.store(fault as u8, Ordering::SeqCst);
    }
}

impl Drop for RpcProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    State(node): State<Arc<Node>>,
    Json(request): Json<Value>,
) -> axum::response::Response {
    let fault = node.fault.load(Ordering::SeqCst);
    let id = &request["id"];
    if request["method"] == "eth_sendRawTransaction" {
        let raw = request["params"][0].as_str().unwrap_or_default();
        let hash = keccak256(hex::decode(raw).unwrap_or_default());
        node.sent.lock().unwrap_or_else(PoisonError::into_inner).push(hash);
    }
    if request["method"] == "eth_getLogs" {
        if fault == RpcFault::NoLogs as u8 {
            return Json(json!({"jsonrpc": "2.0", "id": id, "result": []})).into_response();
        }
        if fault == RpcFault::RefusesLogs as u8 {
            let error = json!({"code": -32005, "message": "query returned more than 0 results"});
            return Json(json!({"jsonrpc": "2.0", "id": id, "error": error})).into_response();
        }
    }
    let forwarded =
        async { node.client.post(&node.target).json(&request).send().await?.json::<Value>().await };
    match forwarded.await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
