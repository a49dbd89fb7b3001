//! One attempt to tell an endpoint, signed (E.5).

use super::Endpoint;
use crate::{ledger::WebhookRecord, shared_secret::signature};
use chrono::Utc;
use std::{sync::LazyLock, time::Duration};

/// Follows no redirects: they would lead past every check.
static HTTP: LazyLock<Option<reqwest::Client>> = LazyLock::new(|| {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().ok()
});

/// How long an endpoint may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why an endpoint has not taken a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What it answered, if it did.
    pub(super) http_status: Option<u16>,
    /// In a few words; no host's own words.
    pub(super) why: String,
    /// It must not be tried again.
    pub(super) is_for_good: bool,
}

impl Refusal {
    fn passing(why: &str) -> Self {
        Self { http_status: None, why: why.to_owned(), is_for_good: false }
    }
}

/// Sends it. Every status of 2xx means that the endpoint has it; its body is not read.
pub(super) async fn send(
    endpoint: &Endpoint,
    webhook: &WebhookRecord,
) -> Result<u16, Refusal> {
    let timestamp = Utc::now().timestamp().to_string();
    let signature = signature(&endpoint.secret, &timestamp, webhook.body.as_bytes())
        .ok_or_else(|| Refusal::passing("the secret cannot sign"))?;
    let http = HTTP.as_ref().ok_or_else(|| Refusal::passing("there is no HTTP client"))?;
    let answer = http
        .post(endpoint.url.clone())
        .timeout(TIMEOUT)
        .header("content-type", "application/json")
        .header("x-jecp-webhook-signature", signature)
        .header("x-jecp-webhook-timestamp", timestamp)
        .header("idempotency-key", webhook.id.to_string())
        .body(webhook.body.clone())
        .send()
        .await
        .map_err(|error| {
            Refusal::passing(if error.is_timeout() {
                "no answer in time"
            } else if error.is_connect() {
                "no connection"
            } else {
                "the connection broke"
            })
        })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(status.as_u16());
    }
    let why = format!("HTTP status {status}");
    Err(Refusal { http_status: Some(status.as_u16()), why, is_for_good: false })
}
