//! Calling the provider for a paid call, once, and keeping its answer.

use super::{
    Capability, Edge, Site,
    envelope::Invocation,
    error::{ApiError, Receipt},
    payment::Paid,
    pools::Place,
    provider::{Failed, call},
    refused,
};
use crate::{
    failpoint::Point,
    ledger::{DeliveryRecord, LedgerError, Settlement},
    lifecycle::{Delivery, Failure},
};
use chrono::TimeDelta;
use serde_json::Value;
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
    /// It is to be called, but the caller has no place among those that call providers.
    Crowded,
    /// It failed for good.
    Over(Failure),
}

/// Has the provider serve a paid call, or takes the answer that is already there. A new payment comes
/// with its place among the provider calls; one that is asked for again waits for it here.
pub(super) async fn deliver(
    edge: &Edge,
    site: &Site,
    capability: &Capability,
    invocation: &Invocation,
    settlement: &Settlement,
    mut place: Option<Place>,
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
        match take_turn(site, capability, settlement, place.as_ref()).await {
            Ok(Turn::Stored(result)) => return Ok(paid(result, true)),
            Ok(Turn::Ours(attempt)) => break attempt,
            Ok(Turn::Theirs) => tokio::time::sleep(POLL).await,
            Ok(Turn::Crowded) => {
                let waited = tokio::time::timeout(site.settle_timeout, edge.pools.provider.wait());
                place = waited.await.ok().flatten();
                if place.is_none() {
                    let tx_hash = settlement.pull.map(|at| at.tx_hash);
                    return Err(ApiError::Pending { status: settlement.status, tx_hash });
                }
            }
            Ok(Turn::Over(failure)) => {
                return Err(ApiError::Provider(failure, receipt(settlement)));
            }
            Err(error) if error.is_conflict() => tokio::time::sleep(POLL).await,
            Err(error) => return Err(internal(&error, settlement)),
        }
    };
    // Committed as `calling`: from here on a crash leaves `unknown`, not a second call.
    let outcome = call(edge, capability, invocation, settlement).await;
    drop(place);
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
    place: Option<&Place>,
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
    if place.is_none() {
        return Ok(Turn::Crowded);
    }
    let mut tx = site.ledger.begin().await?;
    let attempt = tx.begin_delivery(settlement, known.as_ref(), capability.idempotent).await?;
    tx.commit(Point::BeginDelivery).await?;
    Ok(Turn::Ours(attempt))
}
