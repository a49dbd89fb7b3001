//! Whether agents got what they paid for, and the answers kept for those who ask again.

use super::{
    LedgerError, Result, Settlement, Tx,
    columns::{bigint, hex, now, unsigned, uuid, word},
    query::{execute, fetch_all, fetch_optional},
};
use crate::lifecycle::{Delivery, DeliveryEvent, Failure};
use alloy::primitives::Address;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

/// A delivery as stored.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// Its state.
    pub state: Delivery,
    /// How often the provider was called. Whoever called last may store the answer.
    pub attempts: u64,
    /// How long ago the provider was last called, by the database's clock.
    pub age: TimeDelta,
    /// The answer that the agent gets, also when it asks again.
    pub response: Option<Value>,
    /// Why there is none.
    pub failure: Option<Failure>,
}

#[derive(sqlx::FromRow)]
struct Row {
    state: String,
    attempts: i64,
    started_at: DateTime<Utc>,
    response_body: Option<String>,
    failure: Option<String>,
}

impl Tx {
    /// The delivery of a settlement, once there is one.
    pub async fn delivery(&mut self, settlement: Uuid) -> Result<Option<DeliveryRecord>> {
        const SELECT: &str = "SELECT state, attempts, started_at, response_body, failure
            FROM deliveries WHERE settlement_id = $1";
        let Some(row) = fetch_optional!(self, Row, SELECT, settlement.to_string())? else {
            return Ok(None);
        };
        Ok(Some(DeliveryRecord {
            state: word("deliveries.state", &row.state, Delivery::from_word)?,
            attempts: unsigned("deliveries.attempts", row.attempts)?,
            age: self.clock().await? - row.started_at,
            response: row.response_body.map(|body| serde_json::from_str(&body)).transpose()?,
            failure: row
                .failure
                .map(|failure| word("deliveries.failure", &failure, Failure::from_word))
                .transpose()?,
        }))
    }

    /// Takes a delivery on. The caller that gets the number of its attempt calls the provider,
    /// nobody else; it commits first.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when somebody else has it, [`LedgerError::Illegal`] when it is
    /// over or must not be repeated.
    pub async fn begin_delivery(
        &mut self,
        settlement: &Settlement,
        known: Option<&DeliveryRecord>,
        idempotent: bool,
    ) -> Result<u64> {
        const INSERT: &str = "INSERT INTO deliveries
            (settlement_id, state, attempts, refund_due, started_at) VALUES ($1, $2, 1, $3, $4)
            ON CONFLICT DO NOTHING";
        const AGAIN: &str = "UPDATE deliveries SET state = $1, attempts = attempts + 1,
            refund_due = $2, started_at = $3
            WHERE settlement_id = $4 AND state = $5 AND attempts = $6";
        let from = known.map_or(Delivery::None, |known| known.state);
        let state = from.step(DeliveryEvent::Call, idempotent)?;
        let id = settlement.id.to_string();
        let attempts = known.map_or(0, |known| known.attempts);
        let clock = self.clock().await?;
        let rows = if known.is_none() {
            execute!(self, INSERT, &id, state.as_str(), false, clock)?
        } else {
            let attempts = bigint("attempts", attempts)?;
            execute!(self, AGAIN, state.as_str(), false, clock, &id, from.as_str(), attempts)?
        };
        one(rows, settlement)?;
        let attempt = attempts.saturating_add(1);
        let (id, trace) = (settlement.id, settlement.trace_id);
        let body = json!({"attempt": attempt});
        self.append_event(id, trace, "delivery.call", state.as_str(), &body).await?;
        Ok(attempt)
    }

    /// Stores the provider's answer to an attempt, also to one that was given up in between.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when the provider was called again since, or the delivery is over.
    pub async fn finish_delivery(
        &mut self,
        settlement: &Settlement,
        attempt: u64,
        http_status: u16,
        response: &Value,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE deliveries SET state = 'delivered', http_status = $1,
            response_body = $2, refund_due = $3, finished_at = $4, failure = NULL,
            failure_text = NULL
            WHERE settlement_id = $5 AND attempts = $6 AND state IN ('calling', 'unknown')";
        let id = settlement.id.to_string();
        let body = serde_json::to_string(response)?;
        let status = bigint("http status", http_status)?;
        let attempt = bigint("attempts", attempt)?;
        let rows = execute!(self, UPDATE, status, body, false, now(), &id, attempt)?;
        one(rows, settlement)?;
        let body = json!({"attempt": attempt, "http_status": http_status});
        let (id, trace) = (settlement.id, settlement.trace_id);
        self.append_event(id, trace, "delivery.answer", "delivered", &body).await
    }

    /// Stores that the provider failed an attempt, or that nobody knows; either way a refund is due.
    /// The status is the provider's, where it answered with one that means failure.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when the attempt is not the last one, or is over.
    pub async fn fail_delivery(
        &mut self,
        settlement: &Settlement,
        attempt: u64,
        failure: Failure,
        http_status: Option<u16>,
        text: &str,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE deliveries SET state = $1, failure = $2, failure_text = $3,
            refund_due = $4, finished_at = $5, http_status = $6
            WHERE settlement_id = $7 AND attempts = $8 AND state = 'calling'";
        let event = failure.event();
        let state = Delivery::Calling.step(event, false)?;
        let (id, attempt) = (settlement.id.to_string(), bigint("attempts", attempt)?);
        let (to, word) = (state.as_str(), failure.as_str());
        let status = http_status.map(|status| bigint("http status", status)).transpose()?;
        let rows = execute!(self, UPDATE, to, word, text, true, now(), status, &id, attempt)?;
        one(rows, settlement)?;
        let kind = format!("delivery.{event}");
        let body = json!({
            "attempt": attempt, "failure": word, "refund_due": true, "text": text,
        });
        let (id, trace) = (settlement.id, settlement.trace_id);
        self.append_event(id, trace, &kind, state.as_str(), &body).await
    }

    /// Stores that nobody came back for what was paid; a refund is due.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when somebody came in this very moment.
    pub async fn forgo_delivery(&mut self, settlement: &Settlement) -> Result<()> {
        const INSERT: &str = "INSERT INTO deliveries
            (settlement_id, state, attempts, refund_due, failure, started_at, finished_at)
            VALUES ($1, $2, 0, $3, $4, $5, $5) ON CONFLICT DO NOTHING";
        let failure = Failure::Forgone.as_str();
        let state = Delivery::None.step(Failure::Forgone.event(), false)?;
        let clock = self.clock().await?;
        let id = settlement.id.to_string();
        let rows = execute!(self, INSERT, &id, state.as_str(), true, failure, clock)?;
        one(rows, settlement)?;
        let body = json!({"failure": failure, "refund_due": true});
        let (id, trace) = (settlement.id, settlement.trace_id);
        self.append_event(id, trace, "delivery.forgo", state.as_str(), &body).await
    }

    /// Paid settlements that nobody delivers: the provider was called longer ago than `calling`
    /// allows, or never, and the money came in longer ago than `uncalled` allows. What a caller of
    /// the facilitator API sold is his to deliver.
    pub async fn undelivered(
        &mut self,
        chain_id: u64,
        splitter: Address,
        calling: TimeDelta,
        uncalled: TimeDelta,
    ) -> Result<Vec<Uuid>> {
        const SELECT: &str = "SELECT s.id FROM x402_settlements s
            LEFT JOIN deliveries d ON d.settlement_id = s.id
            WHERE s.chain_id = $1 AND s.splitter = $2 AND s.kind = 'capability'
            AND coalesce(s.agent_id, '') NOT LIKE 'caller:%'
            AND s.status IN ('facilitator_attested', 'chain_confirmed')
            AND (d.settlement_id IS NULL AND s.settled_at < $3
                OR d.state = 'calling' AND d.started_at < $4)";
        #[derive(sqlx::FromRow)]
        struct Id {
            id: String,
        }
        let clock = self.clock().await?;
        let chain = bigint("chain id", chain_id)?;
        let (settled, started) = (clock - uncalled, clock - calling);
        let rows = fetch_all!(self, Id, SELECT, chain, hex(splitter), settled, started)?;
        rows.into_iter().map(|row| uuid("x402_settlements.id", &row.id)).collect()
    }
}

fn one(rows: u64, settlement: &Settlement) -> Result<()> {
    if rows == 1 {
        Ok(())
    } else {
        Err(LedgerError::Conflict(format!("delivery of payment {}", settlement.id)))
    }
}
