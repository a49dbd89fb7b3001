//! One attempt to tell an endpoint, signed (E.5).

use super::Endpoint;
use crate::{
    ledger::WebhookRecord,
    outbound::{Outbound, Reason, Refused, refusal},
    shared_secret::signature,
};
use chrono::Utc;
use std::time::Duration;

/// How long an endpoint may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why an endpoint has not taken a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What it answered, if it did.
    pub(super) http_status: Option<u16>,
    /// In a few words; no host's own words.
    pub(super) why: String,
    /// Its URL leads where no call may go.
    pub(super) refused: Option<Refused>,
}

impl Refusal {
    fn passing(why: &str) -> Self {
        Self { http_status: None, why: why.to_owned(), refused: None }
    }

    /// A name that has no address now may have one later; anything else is for good.
    fn refused(refused: Refused) -> Self {
        let why = refused.reason.to_string();
        match refused.reason {
            Reason::DnsResolveFailed => Self::passing(&why),
            _ => Self { http_status: None, why, refused: Some(refused) },
        }
    }
}

/// Sends it. Every status of 2xx means that the endpoint has it; its body is not read.
pub(super) async fn send(
    outbound: &Outbound,
    endpoint: &Endpoint,
    webhook: &WebhookRecord,
) -> Result<u16, Refusal> {
    let timestamp = Utc::now().timestamp().to_string();
    let signature = signature(&endpoint.secret, &timestamp, webhook.body.as_bytes())
        .ok_or_else(|| Refusal::passing("the secret cannot sign"))?;
    let answer = outbound
        .post(&endpoint.url)
        .map_err(Refusal::refused)?
        .timeout(TIMEOUT)
        .header("content-type", "application/json")
        .header("x-jecp-webhook-signature", signature)
        .header("x-jecp-webhook-timestamp", timestamp)
        .header("idempotency-key", webhook.id.to_string())
        .body(webhook.body.clone())
        .send()
        .await
        .map_err(|error| match refusal(&error) {
            Some(reason) => Refusal::refused(Refused::of(reason, &endpoint.url)),
            None if error.is_timeout() => Refusal::passing("no answer in time"),
            None if error.is_connect() => Refusal::passing("no connection"),
            None => Refusal::passing("the connection broke"),
        })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(status.as_u16());
    }
    let why = format!("HTTP status {status}");
    Err(Refusal { http_status: Some(status.as_u16()), why, refused: None })
}
