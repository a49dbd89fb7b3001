//! One call of a provider, signed (E.5), limited in time and in what is read of its answer.

use super::{
    Edge,
    capability::Capability,
    envelope::{Invocation, MAX_BODY_BYTES},
};
use crate::{
    ledger::Settlement,
    lifecycle::Failure,
    outbound::{Refused, refusal},
    shared_secret::signature,
};
use chrono::Utc;
use serde_json::{Value, json};

/// Why a call came to nothing.
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// What the provider answered, where that was the failure.
    pub(super) http_status: Option<u16>,
    pub(super) why: String,
    /// Its URL leads where no call may go.
    pub(super) refused: Option<Refused>,
}

impl Failed {
    fn new(failure: Failure, why: &str) -> Self {
        Self { failure, http_status: None, why: why.to_owned(), refused: None }
    }

    fn refused(refused: Refused) -> Self {
        let why = refused.to_string();
        Self { refused: Some(refused), ..Self::new(Failure::Unavailable, &why) }
    }
}

/// Calls it. A settlement's delivery is committed as `calling` before.
pub(super) async fn call(
    edge: &Edge,
    capability: &Capability,
    invocation: &Invocation,
    settlement: &Settlement,
) -> Result<(u16, Value), Failed> {
    let body = json!({
        "id": invocation.id,
        "capability": invocation.capability,
        "action": invocation.action,
        "input": invocation.input,
        "settlement": settlement.id,
    })
    .to_string();
    let timestamp = Utc::now().timestamp().to_string();
    let signature = signature(&capability.hmac_secret, &timestamp, body.as_bytes())
        .ok_or_else(|| Failed::new(Failure::Error, "the secret cannot sign"))?;
    let answer = edge
        .outbound
        .post(&capability.endpoint)
        .map_err(Failed::refused)?
        .timeout(capability.timeout)
        .header("content-type", "application/json")
        .header("x-jecp-signature", signature)
        .header("x-jecp-timestamp", timestamp)
        .header("x-jecp-namespace", &capability.namespace)
        // A provider that sees the same settlement twice can tell a repeat.
        .header("idempotency-key", settlement.id.to_string())
        .body(body)
        .send()
        .await
        .map_err(|error| match refusal(&error) {
            Some(reason) => Failed::refused(Refused::of(reason, &capability.endpoint)),
            None => failed(&error),
        })?;
    let status = answer.status();
    if !status.is_success() {
        let why = format!("HTTP status {status}");
        let http_status = Some(status.as_u16());
        return Err(Failed { failure: Failure::Error, http_status, why, refused: None });
    }
    let body = read(answer).await?;
    let result = serde_json::from_slice(&body)
        .map_err(|_| Failed::new(Failure::Error, "the answer is no JSON"))?;
    Ok((status.as_u16(), result))
}

/// An answer's body, up to a limit: it is kept, and shown again.
async fn read(mut answer: reqwest::Response) -> Result<Vec<u8>, Failed> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| failed(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY_BYTES {
            return Err(Failed::new(Failure::Error, "the answer is larger than 10 MB"));
        }
    }
    Ok(body)
}

fn failed(error: &reqwest::Error) -> Failed {
    if error.is_timeout() {
        Failed::new(Failure::Timeout, "no answer in time")
    } else if error.is_connect() {
        Failed::new(Failure::Unavailable, "no connection")
    } else {
        Failed::new(Failure::Lost, "the connection broke")
    }
}
