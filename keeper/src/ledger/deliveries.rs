//! Whether agents got what they paid for, and the answers kept for those who ask again.

use super::{
    LedgerError, Result, Settlement, Tx,
    columns::{bigint, now, word},
    query::{execute, fetch_optional},
};
use crate::lifecycle::{Delivery, DeliveryEvent};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

/// A delivery as stored.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// Its state.
    pub state: Delivery,
    /// When the provider was last called.
    pub started_at: DateTime<Utc>,
    /// The answer that the agent gets, also when it asks again.
    pub response: Option<Value>,
    /// Why there is none.
    pub failure: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    state: String,
    started_at: DateTime<Utc>,
    response_body: Option<String>,
    failure: Option<String>,
}

impl Tx {
    /// The delivery of a settlement, once there is one.
    pub async fn delivery(&mut self, settlement: Uuid) -> Result<Option<DeliveryRecord>> {
        const SELECT: &str = "SELECT state, started_at, response_body, failure FROM deliveries
            WHERE settlement_id = $1";
        let Some(row) = fetch_optional!(self, Row, SELECT, settlement.to_string())? else {
            return Ok(None);
        };
        Ok(Some(DeliveryRecord {
            state: word("deliveries.state", &row.state, Delivery::from_word)?,
            started_at: row.started_at,
            response: row.response_body.map(|body| serde_json::from_str(&body)).transpose()?,
            failure: row.failure,
        }))
    }

    /// Takes a delivery on. The caller that gets `Ok` calls the provider, nobody else; it commits
    /// first.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when somebody else has it, [`LedgerError::Illegal`] when it is
    /// over or must not be repeated.
    pub async fn begin_delivery(
        &mut self,
        settlement: &Settlement,
        known: Option<&DeliveryRecord>,
        idempotent: bool,
    ) -> Result<()> {
        const INSERT: &str = "INSERT INTO deliveries
            (settlement_id, state, attempts, refund_due, started_at) VALUES ($1, $2, 1, $3, $4)
            ON CONFLICT DO NOTHING";
        const AGAIN: &str = "UPDATE deliveries SET state = $1, attempts = attempts + 1,
            refund_due = $2, started_at = $3 WHERE settlement_id = $4 AND state = $5";
        let from = known.map_or(Delivery::None, |known| known.state);
        let state = from.step(DeliveryEvent::Call, idempotent)?;
        let id = settlement.id.to_string();
        let rows = if known.is_none() {
            execute!(self, INSERT, &id, state.as_str(), false, now())?
        } else {
            execute!(self, AGAIN, state.as_str(), false, now(), &id, from.as_str())?
        };
        if rows != 1 {
            return Err(LedgerError::Conflict(format!("delivery of payment {id}")));
        }
        let (id, trace) = (settlement.id, settlement.trace_id);
        self.append_event(id, trace, "delivery.call", state.as_str(), &json!({})).await
    }

    /// Stores the provider's answer.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when the delivery is not being called any more.
    pub async fn finish_delivery(
        &mut self,
        settlement: &Settlement,
        http_status: u16,
        response: &Value,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE deliveries SET state = 'delivered', http_status = $1,
            response_body = $2, finished_at = $3 WHERE settlement_id = $4 AND state = 'calling'";
        let id = settlement.id.to_string();
        let body = serde_json::to_string(response)?;
        let status = bigint("http status", http_status)?;
        if execute!(self, UPDATE, status, body, now(), &id)? != 1 {
            return Err(LedgerError::Conflict(format!("delivery of payment {id}")));
        }
        let body = json!({"http_status": http_status});
        let (id, trace) = (settlement.id, settlement.trace_id);
        self.append_event(id, trace, "delivery.answer", "delivered", &body).await
    }

    /// Stores that the provider failed, or that nobody knows; either way a refund is due.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when the delivery is not being called any more.
    pub async fn fail_delivery(
        &mut self,
        settlement: &Settlement,
        event: DeliveryEvent,
        failure: &str,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE deliveries SET state = $1, failure = $2, refund_due = $3,
            finished_at = $4 WHERE settlement_id = $5 AND state = 'calling'";
        let state = Delivery::Calling.step(event, false)?;
        let id = settlement.id.to_string();
        if execute!(self, UPDATE, state.as_str(), failure, true, now(), &id)? != 1 {
            return Err(LedgerError::Conflict(format!("delivery of payment {id}")));
        }
        let kind = format!("delivery.{event}");
        let body = json!({"failure": failure, "refund_due": true});
        let (id, trace) = (settlement.id, settlement.trace_id);
        self.append_event(id, trace, &kind, state.as_str(), &body).await
    }
}
