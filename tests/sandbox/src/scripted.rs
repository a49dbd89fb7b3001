//! A JSON-RPC endpoint that says what it is told to say.

use axum::{Json, Router, extract::State, routing::post};
use serde_json::{Value, json};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::net::TcpListener;

/// Answers a method with its parameters: the members of the answer, `result` or `error`.
type Script = dyn Fn(&str, &Value) -> Value + Send + Sync;

struct Endpoint {
    script: Box<Script>,
    asked: Mutex<Vec<String>>,
}

/// A running endpoint without a node; it ends with this value.
pub struct ScriptedRpc {
    url: String,
    endpoint: Arc<Endpoint>,
    server: tokio::task::JoinHandle<()>,
}

impl fmt::Debug for ScriptedRpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedRpc").field("url", &self.url).finish_non_exhaustive()
    }
}

impl ScriptedRpc {
    /// Starts it on a free port.
    pub async fn start(
        script: impl Fn(&str, &Value) -> Value + Send + Sync + 'static,
    ) -> eyre::Result<Self> {
        let endpoint =
            Arc::new(Endpoint { script: Box::new(script), asked: Mutex::new(Vec::new()) });
        let app = Router::new().route("/", post(answer)).with_state(Arc::clone(&endpoint));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the scripted endpoint stopped");
            }
        });
        Ok(Self { url, endpoint, server })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The methods that it was asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        self.endpoint.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ScriptedRpc {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, Json(request): Json<Value>) -> Json<Value> {
    let method = request["method"].as_str().unwrap_or_default();
    endpoint.asked.lock().unwrap_or_else(PoisonError::into_inner).push(method.to_owned());
    let mut answer = (endpoint.script)(method, &request["params"]);
    answer["jsonrpc"] = json!("2.0");
    answer["id"] = request["id"].clone();
    Json(answer)
}
