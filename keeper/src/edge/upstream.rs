//! Calls that a wallet pays: passed on to the hub behind us, which has the wallets.
//!
//! What goes there and what comes back is listed by name. An answer is streamed, up to a limit.

use super::{envelope::MAX_BODY_BYTES, error::ApiError};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use serde::Deserialize;
use serde_json::{Number, Value};
use std::{fmt, io, time::Duration};
use tokio::time::timeout;
use url::Url;

/// What a caller's headers tell the hub.
const SENT: [HeaderName; 5] = [
    HeaderName::from_static("x-agent-id"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-idempotency-key"),
    header::ACCEPT,
];
/// What the hub's headers tell the caller. A receipt of x402 is not among them.
const RETURNED: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::RETRY_AFTER,
    header::LINK,
    HeaderName::from_static("sunset"),
    HeaderName::from_static("deprecation"),
];
/// Codes of a hub that say: this wallet cannot pay this.
const SHORT: [&str; 3] =
    ["PAYMENT_REQUIRED", "INSUFFICIENT_BALANCE", "WALLET_INSUFFICIENT_BALANCE"];
const JSON: &str = "application/json";
/// What a caller is told when the hub had nothing of it.
const NOT_SENT: &str = "the hub that takes wallets cannot be reached; nothing was charged";
/// The same, when it may have had it.
const UNKNOWN: &str =
    "the hub that takes wallets does not answer; repeat this very call, with its id";
/// Longest refusal that is read rather than streamed.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// Longest time that an operator may have callers wait.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// Where wallets are: `[upstream]` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSettings {
    /// The hub; `/v1/invoke` is appended.
    url: Url,
    /// Where people fill their wallets.
    topup_url: Url,
    /// How long it may take to begin its answer, and between two parts of it.
    #[serde(default = "default_timeout", with = "humantime_serde")]
    timeout: Duration,
}

const fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

impl UpstreamSettings {
    /// Whether it can be what it is meant to be.
    ///
    /// # Errors
    /// What to change, in a sentence.
    pub fn check(&self, public_url: &Url, test_mode: bool) -> Result<(), String> {
        for (name, url) in [("url", &self.url), ("topup_url", &self.topup_url)] {
            if url.scheme() != "https" && !(test_mode && url.scheme() == "http") {
                return Err(format!(
                    "upstream.{name} {url} must be https (http is for test_mode = true)"
                ));
            }
        }
        if self.url.origin() == public_url.origin() {
            return Err("upstream.url is http.public_url: calls would come back".to_owned());
        }
        if self.timeout.is_zero() || self.timeout > MAX_TIMEOUT {
            return Err("upstream.timeout must be between 1s and 5m".to_owned());
        }
        Ok(())
    }
}

/// The hub behind us.
#[derive(Debug)]
pub struct Upstream {
    endpoint: Url,
    topup_url: Url,
    timeout: Duration,
    /// A pool of its own: a slow hub keeps nobody else waiting.
    client: reqwest::Client,
}

/// What became of a call that a wallet should pay.
#[derive(Debug)]
pub(super) enum Passed {
    /// The hub's answer.
    Answer(Response),
    /// The wallet does not have it; what it has, if that was said.
    Short(Option<Number>),
}

impl Upstream {
    /// A client of the hub.
    ///
    /// # Errors
    /// When this machine cannot make one.
    pub fn new(settings: UpstreamSettings) -> Result<Self, reqwest::Error> {
        let UpstreamSettings { url: mut endpoint, topup_url, timeout } = settings;
        let path = format!("{}/v1/invoke", endpoint.path().trim_end_matches('/'));
        endpoint.set_path(&path);
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout)
            .build()?;
        Ok(Self { endpoint, topup_url, timeout, client })
    }

    /// Where people fill their wallets.
    pub(super) const fn topup_url(&self) -> &Url {
        &self.topup_url
    }

    /// Passes a call on, as it came.
    ///
    /// # Errors
    /// When the hub does not answer, or not in the words of the protocol.
    pub(super) async fn pass(&self, headers: &HeaderMap, body: Bytes) -> Result<Passed, ApiError> {
        let mut request =
            self.client.post(self.endpoint.clone()).header(header::CONTENT_TYPE, JSON).body(body);
        for name in SENT {
            if let Some(value) = headers.get(&name) {
                request = request.header(name, value);
            }
        }
        let mut answer = match timeout(self.timeout, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_connect() => return Err(silent(&error, NOT_SENT)),
            Ok(Err(error)) => return Err(silent(&error, UNKNOWN)),
            Err(elapsed) => return Err(silent(&elapsed, UNKNOWN)),
        };
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let media = kind.and_then(|kind| kind.split(';').next()).unwrap_or("").trim();
        // What proxies and servers say of themselves is nobody's business.
        if ![JSON, "text/event-stream"].contains(&media) || answer.status().is_redirection() {
            tracing::error!(status = %answer.status(), "upstream: no answer of the protocol");
            return Err(ApiError::Degraded(UNKNOWN.to_owned()));
        }
        if answer.status() == StatusCode::PAYMENT_REQUIRED {
            return self.refusal(&mut answer).await;
        }
        let longest = u64::try_from(MAX_BODY_BYTES).unwrap_or(u64::MAX);
        if answer.content_length().is_some_and(|length| length > longest) {
            tracing::error!("upstream: the answer is larger than 10 MB");
            return Err(ApiError::Degraded(UNKNOWN.to_owned()));
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        for name in RETURNED {
            if let Some(value) = answer.headers().get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        if answer.status() == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        *response.body_mut() = streamed(answer, self.timeout);
        Ok(Passed::Answer(response))
    }

    /// A 402 of the hub: the wallet is short, or the caller has a bound of his own.
    async fn refusal(&self, answer: &mut reqwest::Response) -> Result<Passed, ApiError> {
        let Ok(Some(body)) = timeout(self.timeout, short_body(answer)).await else {
            return Err(ApiError::Degraded(UNKNOWN.to_owned()));
        };
        let said: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let envelope = if said["error"].is_object() { &said["error"] } else { &said };
        let code = envelope["code"].as_str().unwrap_or("PAYMENT_REQUIRED");
        if SHORT.contains(&code) {
            let remaining = envelope["details"]["remaining_usdc"].as_number().cloned();
            return Ok(Passed::Short(remaining));
        }
        let headers = [(header::WWW_AUTHENTICATE, "Bearer"), (header::CONTENT_TYPE, JSON)];
        Ok(Passed::Answer((StatusCode::PAYMENT_REQUIRED, headers, body).into_response()))
    }
}

fn silent(error: &impl fmt::Display, told: &str) -> ApiError {
    tracing::error!(%error, "upstream: no answer");
    ApiError::Degraded(told.to_owned())
}

/// A short body; `None` if it is not short, or breaks off.
async fn short_body(answer: &mut reqwest::Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.ok()? {
        body.extend_from_slice(&part);
        if body.len() > MAX_REFUSAL_BYTES {
            return None;
        }
    }
    Some(body)
}

/// The rest of an answer as it comes. It breaks off when it stalls or grows too long, so that nobody
/// takes a part for the whole.
fn streamed(answer: reqwest::Response, patience: Duration) -> Body {
    let parts = stream::try_unfold((answer, 0_usize), move |(mut answer, sent)| async move {
        let Some(part) = timeout(patience, answer.chunk())
            .await
            .map_err(|_| io::Error::other("the upstream stalls"))?
            .map_err(|_| io::Error::other("the upstream broke off"))?
        else {
            return Ok(None);
        };
        let sent = sent.saturating_add(part.len());
        if sent > MAX_BODY_BYTES {
            return Err(io::Error::other("the upstream's answer is too long"));
        }
        Ok(Some((part, (answer, sent))))
    });
    Body::from_stream(parts)
}
