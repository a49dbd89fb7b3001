//! A JSON-RPC endpoint that fails as nodes and the ways to them do. It stands between the keeper and
//! the chain; without a rule it passes everything on.
//!
//! One thing it is always: as strict as a public node. Anvil takes any number of transactions of one
//! sender, others take sixteen.

use crate::stale::Stale;
use alloy::{
    consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable},
    eips::eip2718::Decodable2718,
    primitives::{B256, Bytes, U64, keccak256},
};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::net::TcpListener;

/// Transactions of one sender that a node's pool takes.
pub const POOL_LIMIT: u64 = 16;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// It never reaches the node: the connection is cut.
    Dropped,
    /// The node gets it; instead of the answer the connection is cut.
    AnswerLost,
    /// The node gets it; a gateway answers 504 in its place.
    TimedOut,
    /// The node's answer takes so much longer; others overtake it.
    Delayed(Duration),
    /// It never reaches the node: this HTTP status.
    Status(u16),
    /// It never reaches the node: this JSON-RPC error.
    Refused(i64, &'static str),
    /// The node gets it; the caller gets this JSON-RPC error.
    Denied(i64, &'static str),
    /// The node's result is changed on its way. The first argument has the request's parameters.
    Changed(fn(&Value, &mut Value)),
}

impl Fault {
    /// The node says that there is no such thing.
    pub const NULL: Self = Self::Changed(|_, result| *result = Value::Null);
    /// The node says that there is nothing.
    pub const EMPTY: Self = Self::Changed(|_, result| *result = json!([]));
    /// The node lists what it has the wrong way round.
    pub const REVERSED: Self = Self::Changed(|_, result| {
        if let Some(list) = result.as_array_mut() {
            list.reverse();
        }
    });
}

/// Which requests a fault hits.
#[derive(Debug)]
pub struct Rule {
    method: &'static str,
    fault: Fault,
    /// Every how many requests of the method.
    every: u64,
    /// How many more; `None` is until the proxy is healed.
    left: Option<u64>,
    seen: u64,
}

impl Rule {
    /// Every request of a method, until the proxy is healed.
    pub const fn new(method: &'static str, fault: Fault) -> Self {
        Self { method, fault, every: 1, left: None, seen: 0 }
    }

    /// Only the next so many.
    pub const fn times(mut self, times: u64) -> Self {
        self.left = Some(times);
        self
    }

    /// Only every so many.
    pub const fn every(mut self, every: u64) -> Self {
        self.every = every;
        self
    }

    /// Whether it hits this request.
    const fn hits(&mut self) -> bool {
        if matches!(self.left, Some(0)) {
            return false;
        }
        self.seen = self.seen.saturating_add(1);
        if self.every == 0 || !self.seen.is_multiple_of(self.every) {
            return false;
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        true
    }
}

/// What the proxy knows.
#[derive(Debug, Default)]
struct Book {
    /// The first rule that hits a request counts.
    rules: Vec<Rule>,
    stale: Option<Stale>,
    struck: BTreeMap<String, u64>,
    most_pending: u64,
    overflowed: u64,
    sent: Vec<B256>,
}

pub(crate) struct Node {
    client: reqwest::Client,
    target: String,
    book: Mutex<Book>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("target", &self.target).finish_non_exhaustive()
    }
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
            // A connection ends with the runtime that opened it, and tests have one each.
            client: reqwest::Client::builder().pool_max_idle_per_host(0).build()?,
            target: target.to_owned(),
            book: Mutex::default(),
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

    /// One more thing that goes wrong. Earlier rules come first.
    pub fn add(&self, rule: Rule) {
        self.node.book().rules.push(rule);
    }

    /// The next request of a method fails, after those of earlier rules.
    pub fn next(&self, method: &'static str, fault: Fault) {
        self.add(Rule::new(method, fault).times(1));
    }

    /// From now on every request is answered by a node that has stopped at the present head, or
    /// only every so many: a load balancer with a lame node behind it.
    pub async fn freeze(&self, every: u64) -> eyre::Result<()> {
        let stale = Stale::at_head(&self.node, every).await?;
        self.node.book().stale = Some(stale);
        Ok(())
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let mut book = self.node.book();
        book.rules.clear();
        book.stale = None;
    }

    /// How many requests of a method were struck by a rule so far.
    pub fn struck(&self, method: &str) -> u64 {
        self.node.book().struck.get(method).copied().unwrap_or(0)
    }

    /// Whether every rule with a count has been used up.
    pub fn is_spent(&self) -> bool {
        self.node.book().rules.iter().all(|rule| matches!(rule.left, None | Some(0)))
    }

    /// The most transactions of one sender that were in the node's pool at once.
    pub fn most_pending(&self) -> u64 {
        self.node.book().most_pending
    }

    /// Hashes of the transactions that were handed to the node through it, in order.
    pub fn sent(&self) -> Vec<B256> {
        self.node.book().sent.clone()
    }

    /// Transactions that were refused because their sender had [`POOL_LIMIT`] in the pool.
    pub fn overflowed(&self) -> u64 {
        self.node.book().overflowed
    }
}

impl Drop for RpcProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Node {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault of the first rule that hits.
    fn fault(&self, method: &str) -> Option<Fault> {
        let mut book = self.book();
        let mut rules = book.rules.iter_mut().filter(|rule| rule.method == method);
        let fault = rules.find_map(|rule| rule.hits().then_some(rule.fault))?;
        let struck = book.struck.entry(method.to_owned()).or_default();
        *struck = struck.saturating_add(1);
        Some(fault)
    }

    /// What the node, or its stale neighbour, answers.
    async fn ask(&self, request: &Value) -> eyre::Result<Value> {
        if request["method"] == "eth_sendRawTransaction" {
            if let Some(error) = self.refuse_overflow(request).await? {
                return Ok(reply(request, "error", error));
            }
            let raw: Bytes = serde_json::from_value(request["params"][0].clone())?;
            self.book().sent.push(keccak256(&raw));
        }
        let stale = self.book().stale.as_mut().and_then(Stale::turn);
        match stale {
            Some(stale) => stale.answer(self, request).await,
            None => self.forward(request).await,
        }
    }

    /// Asks the node.
    pub(crate) async fn forward(&self, request: &Value) -> eyre::Result<Value> {
        Ok(self.client.post(&self.target).json(request).send().await?.json().await?)
    }

    /// The pool of every node but anvil's.
    async fn refuse_overflow(&self, request: &Value) -> eyre::Result<Option<Value>> {
        let raw: Bytes = serde_json::from_value(request["params"][0].clone())?;
        let transaction = TxEnvelope::decode_2718_exact(&raw)?;
        let sender = transaction.recover_signer()?;
        let count = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionCount",
                           "params": [sender, "latest"]});
        let count: U64 = serde_json::from_value(self.forward(&count).await?["result"].take())?;
        let pending = transaction.nonce().saturating_add(1).saturating_sub(count.to());
        let mut book = self.book();
        if pending > POOL_LIMIT {
            book.overflowed = book.overflowed.saturating_add(1);
            return Ok(Some(json!({"code": -32000, "message": "txpool is full"})));
        }
        book.most_pending = book.most_pending.max(pending);
        Ok(None)
    }
}

/// A JSON-RPC answer.
pub(crate) fn reply(request: &Value, field: &str, value: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": request["id"], field: value})
}

async fn answer(State(node): State<Arc<Node>>, Json(request): Json<Value>) -> Response {
    // Several requests in one share the fault of the first; what is changed is changed in all that ask the
    // same.
    let first = if request.is_array() { &request[0] } else { &request };
    let fault = node.fault(first["method"].as_str().unwrap_or_default());
    let error = |code, message| {
        Json(reply(&request, "error", json!({"code": code, "message": message}))).into_response()
    };
    match fault {
        Some(Fault::Dropped) => cut(),
        Some(Fault::Status(status)) => {
            return StatusCode::from_u16(status).unwrap_or_default().into_response();
        }
        Some(Fault::Refused(code, message)) => return error(code, message),
        _ => {}
    }
    let mut answer = match node.ask(&request).await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    match fault {
        Some(Fault::AnswerLost) => cut(),
        Some(Fault::TimedOut) => return StatusCode::GATEWAY_TIMEOUT.into_response(),
        Some(Fault::Denied(code, message)) => return error(code, message),
        Some(Fault::Delayed(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::Changed(change)) => {
            let (asked, told) = match (request.as_array(), answer.as_array_mut()) {
                (Some(asked), Some(told)) => (asked.iter().collect(), told.iter_mut().collect()),
                _ => (vec![&request], vec![&mut answer]),
            };
            for told in told {
                let one = asked.iter().find(|one| one["id"] == told["id"]);
                let one = one.filter(|one| one["method"] == first["method"]);
                if let (Some(one), Some(result)) = (one, told.get_mut("result")) {
                    change(&one["params"], result);
                }
            }
        }
        _ => {}
    }
    Json(answer).into_response()
}

/// Ends the connection without a word. A server has no other way to do that than to end its task.
fn cut() -> ! {
    std::panic::resume_unwind(Box::new("cut"))
}
