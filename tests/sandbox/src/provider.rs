//! A provider that sells an echo.

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::Utc;
use hmac::{Hmac, Mac};
use rand::{Rng, rngs::OsRng};
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use tokio::net::TcpListener;

/// How old a hub's signature may be.
const MAX_SKEW_SECONDS: i64 = 300;

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    failing: AtomicBool,
}

/// A running provider; it ends with this value. It refuses calls that its hub did not sign.
#[derive(Debug)]
pub struct SampleProvider {
    url: String,
    secret: String,
    counters: Arc<Counters>,
    server: tokio::task::JoinHandle<()>,
}

impl SampleProvider {
    /// Starts it on a free port, with a secret of its own.
    pub async fn start() -> eyre::Result<Self> {
        let secret: [u8; 32] = OsRng.r#gen();
        let counters = Arc::new(Counters::default());
        let app = Router::new()
            .route("/echo", post(echo))
            .with_state((secret.to_vec(), Arc::clone(&counters)));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/echo", listener.local_addr()?);
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the sample provider stopped");
            }
        });
        Ok(Self { url, secret: BASE64_STANDARD.encode(secret), counters, server })
    }

    /// Where the hub calls it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The shared secret, base64.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// How many signed calls it has had.
    pub fn calls(&self) -> u64 {
        self.counters.calls.load(Ordering::SeqCst)
    }

    /// From now on every call fails with 500, or works again.
    pub fn set_failing(&self, failing: bool) {
        self.counters.failing.store(failing, Ordering::SeqCst);
    }
}

impl Drop for SampleProvider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn echo(
    State((secret, counters)): State<(Vec<u8>, Arc<Counters>)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !is_signed(&secret, &headers, &body) {
        return (StatusCode::UNAUTHORIZED, "INVALID_SIGNATURE").into_response();
    }
    let calls = counters.calls.fetch_add(1, Ordering::SeqCst) + 1;
    if counters.failing.load(Ordering::SeqCst) {
        return (StatusCode::INTERNAL_SERVER_ERROR, "out of order").into_response();
    }
    let input: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    axum::Json(json!({"echo": input["input"], "call": calls})).into_response()
}

/// `X-JECP-Signature: v1=base64(HMAC-SHA256(secret, timestamp "." body))`, five minutes old at
/// most.
fn is_signed(secret: &[u8], headers: &HeaderMap, body: &[u8]) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(signature), Some(timestamp)) = (text("x-jecp-signature"), text("x-jecp-timestamp"))
    else {
        return false;
    };
    let Ok(when) = timestamp.parse::<i64>() else { return false };
    let Some(Ok(tag)) = signature.strip_prefix("v1=").map(|tag| BASE64_STANDARD.decode(tag)) else {
        return false;
    };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return false };
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    (Utc::now().timestamp() - when).abs() <= MAX_SKEW_SECONDS && mac.verify_slice(&tag).is_ok()
}
