//! Calling the provider for a paid call, once, and keeping its answer.

use super::{
    Capability, Edge, Site,
    envelope::{Invocation, MAX_BODY_BYTES},
    error::{ApiError, Receipt},
    payment::Paid,
    refused,
};
use crate::{
    failpoint::Point,
    ledger::{DeliveryRecord, LedgerError, Settlement},
    lifecycle::{Delivery, Failure},
    outbound::{Refused, refusal},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{TimeDelta, Utc};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::time::Duration;

/// How long after a provider's time limit a call counts as lost with the process that made it.
const LOST_AFTER: TimeDelta = TimeDelta::seconds(10);
/// How often a request looks whether another one got the answer.
const POLL: Duration = Duration::from_millis(100);
/// How often storing a provider's answer is tried.
const STORE_ATTEMPTS: u32 = 20;

/// What is to be done about a delivery.
enum Turn {
    /// The answer is stored.
    Stored(Value),
    /// We call; this is the number of the attempt.
    Ours(u64),
    /// Somebody else calls.
    Theirs,
    /// It failed for good.
    Over(Failure),
}

/// Why a call came to nothing.
struct Failed {
    failure: Failure,
    /// What the provider answered, where that was the failure.
    http_status: Option<u16>,
    why: String,
    /// Its URL leads where no call may go.
    refused: Option<Refused>,
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

/// Has the provider serve a paid call, or takes the answer that is already there.
pub(super) async fn deliver(
    edge: &Edge,
    site: &Site,
    capability: &Capability,
    invocation: &Invocation,
    settlement: &Settlement,
) -> Result<Paid, ApiError> {
    let pull = settlement.pull.ok_or(ApiError::Internal)?;
    let paid = |result, replayed| Paid {
        settlement: settlement.id,
        payer: settlement.payer,
        amount: settlement.amount,
        pull,
        result,
        replayed,
    };
    let attempt = loop {
        match take_turn(site, capability, settlement).await {
            Ok(Turn::Stored(result)) => return Ok(paid(result, true)),
            Ok(Turn::Ours(attempt)) => break attempt,
            Ok(Turn::Theirs) => tokio::time::sleep(POLL).await,
            Ok(Turn::Over(failure)) => {
                return Err(ApiError::Provider(failure, receipt(settlement)));
            }
            Err(error) if error.is_conflict() => tokio::time::sleep(POLL).await,
            Err(error) => return Err(internal(&error, settlement)),
        }
    };
    // Committed as `calling`: from here on a crash leaves `unknown`, not a second call.
    let outcome = call(edge, capability, invocation, settlement).await;
    let stored = store(site, settlement, attempt, &outcome).await;
    match outcome {
        Ok((_, result)) => {
            // The agent has paid and the provider has served: the answer goes out even if it could
            // not be kept.
            if let Err(error) = stored {
                tracing::error!(
                    payment = %settlement.id, %error,
                    "ALARM: served, but the answer could not be kept; no refund is due, whatever the \
                     ledger will say"
                );
            }
            Ok(paid(result, false))
        }
        Err(Failed { failure, why, refused, .. }) => {
            tracing::error!(
                payment = %settlement.id, why, "ALARM: paid and not served: a refund is due"
            );
            if let Some(refused) = refused {
                refused::keep(site, capability, settlement.agent_id.as_deref(), &refused).await;
            }
            stored.map_err(|error| internal(&error, settlement))?;
            Err(ApiError::Provider(failure, receipt(settlement)))
        }
    }
}

/// Keeps the outcome; the provider has worked, so a passing fault of the database must not lose it.
async fn store(
    site: &Site,
    settlement: &Settlement,
    attempt: u64,
    outcome: &Result<(u16, Value), Failed>,
) -> Result<(), LedgerError> {
    let mut tries = 0;
    loop {
        let stored = async {
            let mut tx = site.ledger.begin().await?;
            match outcome {
                Ok((status, result)) => {
                    tx.finish_delivery(settlement, attempt, *status, result).await?;
                }
                Err(Failed { failure, http_status, why, .. }) => {
                    tx.fail_delivery(settlement, attempt, *failure, *http_status, why).await?;
                }
            }
            tx.commit(Point::EndDelivery).await
        };
        tries += 1;
        match stored.await {
            Err(error)
                if tries < STORE_ATTEMPTS && (error.is_conflict() || error.is_unavailable()) =>
            {
                tokio::time::sleep(POLL).await;
            }
            stored => return stored,
        }
    }
}

fn internal(error: &LedgerError, settlement: &Settlement) -> ApiError {
    tracing::error!(payment = %settlement.id, %error, "edge: the ledger failed after payment");
    // The money has come in: the caller must ask again, not pay again.
    ApiError::Pending { status: settlement.status, tx_hash: settlement.pull.map(|at| at.tx_hash) }
}

/// What an agent that was not served needs to talk to the operator.
fn receipt(settlement: &Settlement) -> Receipt {
    Receipt { settlement: settlement.id, tx_hash: settlement.pull.map(|pull| pull.tx_hash) }
}

/// Looks at the delivery and takes it on if it is free. What it decides is committed.
async fn take_turn(
    site: &Site,
    capability: &Capability,
    settlement: &Settlement,
) -> Result<Turn, LedgerError> {
    let mut tx = site.ledger.read().await?;
    let known = tx.delivery(settlement.id).await?;
    drop(tx);
    match &known {
        Some(DeliveryRecord { state: Delivery::Delivered, response: Some(response), .. }) => {
            return Ok(Turn::Stored(response.clone()));
        }
        Some(DeliveryRecord { state: Delivery::Calling, age, attempts, .. }) => {
            let limit =
                TimeDelta::from_std(capability.timeout).unwrap_or(TimeDelta::MAX) + LOST_AFTER;
            if *age >= limit {
                let why = "the process that called the provider is gone";
                let mut tx = site.ledger.begin().await?;
                tx.fail_delivery(settlement, *attempts, Failure::Lost, None, why).await?;
                tx.commit(Point::LoseDelivery).await?;
                tracing::error!(
                    payment = %settlement.id, why, "ALARM: paid and not served: a refund is due"
                );
            }
            return Ok(Turn::Theirs);
        }
        Some(DeliveryRecord { state: Delivery::Unknown, .. }) if !capability.idempotent => {
            return Ok(Turn::Over(
                known.as_ref().and_then(|known| known.failure).unwrap_or(Failure::Lost),
            ));
        }
        None | Some(DeliveryRecord { state: Delivery::Unknown | Delivery::None, .. }) => {}
        Some(known) => return Ok(Turn::Over(known.failure.unwrap_or(Failure::Error))),
    }
    let mut tx = site.ledger.begin().await?;
    let attempt = tx.begin_delivery(settlement, known.as_ref(), capability.idempotent).await?;
    tx.commit(Point::BeginDelivery).await?;
    Ok(Turn::Ours(attempt))
}

/// One signed call (E.5): `X-JECP-Signature: v1=base64(HMAC-SHA256(secret, timestamp "." body))`.
async fn call(
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
    let signature = sign(&capability.hmac_secret, &timestamp, &body)
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

fn sign(secret: &[u8], timestamp: &str, body: &str) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    Some(format!("v1={}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
}
