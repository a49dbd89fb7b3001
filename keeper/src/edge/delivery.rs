//! Calling the provider for a paid call, once, and keeping its answer.

use super::{
    Capability, Edge, Site,
    envelope::Invocation,
    error::{ApiError, ProviderFailure},
    payment::Paid,
};
use crate::{
    ledger::{DeliveryRecord, LedgerError, Settlement},
    lifecycle::{Delivery, DeliveryEvent},
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
    /// We call, for the so manieth time.
    Ours(u64),
    /// Somebody else calls.
    Theirs,
    /// It failed for good.
    Over(ProviderFailure),
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
            Ok(Turn::Over(failure)) => return Err(ApiError::Provider(failure)),
            Err(error) if error.is_conflict() => {}
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
                tracing::error!(payment = %settlement.id, %error, "the answer could not be kept");
            }
            Ok(paid(result, false))
        }
        Err((failure, why)) => {
            tracing::error!(payment = %settlement.id, why, "the provider failed: a refund is due");
            stored.map_err(|error| internal(&error, settlement))?;
            Err(ApiError::Provider(failure))
        }
    }
}

/// Keeps the outcome; the provider has worked, so a passing fault of the database must not lose it.
async fn store(
    site: &Site,
    settlement: &Settlement,
    attempt: u64,
    outcome: &Result<(u16, Value), (ProviderFailure, String)>,
) -> Result<(), LedgerError> {
    let mut tries = 0;
    loop {
        let stored = async {
            let mut tx = site.ledger.begin().await?;
            match outcome {
                Ok((status, result)) => {
                    tx.finish_delivery(settlement, attempt, *status, result).await?;
                }
                Err((failure, why)) => {
                    tx.fail_delivery(settlement, attempt, failure.event(), why).await?;
                }
            }
            tx.commit().await
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
    let transaction = settlement.pull.map(|pull| pull.tx_hash);
    // The money has come in: the caller must ask again, not pay again.
    ApiError::Pending { transaction }
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
                tx.fail_delivery(settlement, *attempts, DeliveryEvent::Lose, why).await?;
                tx.commit().await?;
                tracing::error!(
                    payment = %settlement.id, why, "ALARM: paid and not served: a refund is due"
                );
            }
            return Ok(Turn::Theirs);
        }
        Some(DeliveryRecord { state: Delivery::Unknown, .. }) if !capability.idempotent => {
            return Ok(Turn::Over(ProviderFailure::Unknown));
        }
        None | Some(DeliveryRecord { state: Delivery::Unknown | Delivery::None, .. }) => {}
        Some(_) => return Ok(Turn::Over(ProviderFailure::Error)),
    }
    let mut tx = site.ledger.begin().await?;
    let attempt = tx.begin_delivery(settlement, known.as_ref(), capability.idempotent).await?;
    tx.commit().await?;
    Ok(Turn::Ours(attempt))
}

/// One signed call (E.5): `X-JECP-Signature: v1=base64(HMAC-SHA256(secret, timestamp "." body))`.
async fn call(
    edge: &Edge,
    capability: &Capability,
    invocation: &Invocation,
    settlement: &Settlement,
) -> Result<(u16, Value), (ProviderFailure, String)> {
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
        .ok_or((ProviderFailure::Error, "the secret cannot sign".to_owned()))?;
    let answer = edge
        .http
        .post(capability.endpoint.clone())
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
        .map_err(|error| failed(&error))?;
    let status = answer.status();
    if !status.is_success() {
        return Err((ProviderFailure::Error, format!("HTTP status {status}")));
    }
    let result = answer.json().await.map_err(|error| failed(&error))?;
    Ok((status.as_u16(), result))
}

impl ProviderFailure {
    /// A provider that was reached and did not say no may have done the work.
    const fn event(self) -> DeliveryEvent {
        match self {
            Self::Error | Self::Unavailable => DeliveryEvent::Fail,
            Self::Timeout | Self::Unknown => DeliveryEvent::Lose,
        }
    }
}

fn failed(error: &reqwest::Error) -> (ProviderFailure, String) {
    if error.is_timeout() {
        (ProviderFailure::Timeout, "no answer in time".to_owned())
    } else if error.is_connect() {
        (ProviderFailure::Unavailable, "no connection".to_owned())
    } else if error.is_decode() {
        (ProviderFailure::Error, "the answer is no JSON".to_owned())
    } else {
        (ProviderFailure::Unknown, "the connection broke".to_owned())
    }
}

fn sign(secret: &[u8], timestamp: &str, body: &str) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    Some(format!("v1={}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
}
