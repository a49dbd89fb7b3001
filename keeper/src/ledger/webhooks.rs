//! What others are told of payments: derived from the events in the order of their positions, each
//! event at most once per endpoint, and kept until an endpoint has taken it.

use super::{
    LedgerError, Result, Tx,
    columns::{bigint, hash, now, unsigned, uuid, word},
    query::{execute, fetch_all, fetch_optional},
};
use crate::lifecycle::words;
use alloy::primitives::B256;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

/// Where a webhook stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookState {
    /// Its endpoint has not taken it yet.
    Waiting,
    /// It has.
    Delivered,
    /// It was given up.
    Abandoned,
}

words!(WebhookState {
    Waiting => "waiting",
    Delivered => "delivered",
    Abandoned => "abandoned",
});

/// An event that somebody may want to be told of, with the payment that it happened to.
#[derive(Debug, Clone)]
pub struct NotableEvent {
    /// Its number.
    pub seq: u64,
    /// Machine and event, "status.confirm".
    pub kind: String,
    /// JSON.
    pub body: String,
    /// Hash of the event: what its webhooks' ids are made of.
    pub hash: B256,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// The payment.
    pub settlement: Uuid,
    /// Its trace.
    pub trace_id: B256,
    /// Its payer.
    pub payer: String,
    /// What it paid, micro-USDC.
    pub amount_micro: u64,
    /// What it paid for.
    pub capability: Option<String>,
    /// Who asked.
    pub agent_id: Option<String>,
    /// With which request.
    pub request_id: Option<String>,
    /// The transaction that pulled it.
    pub tx_hash: Option<String>,
}

/// A webhook on its way.
#[derive(Debug, Clone, Serialize)]
pub struct WebhookRecord {
    /// The receiver's idempotency key; the same at every attempt.
    pub id: Uuid,
    /// Where it goes.
    pub endpoint: String,
    /// What it tells of.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it stands.
    pub state: WebhookState,
    /// How often it was sent.
    pub attempts: u64,
    /// When it is sent next.
    pub due_at: DateTime<Utc>,
    /// What the endpoint answered last.
    pub http_status: Option<i64>,
    /// Why it was not taken.
    pub reason: Option<String>,
    /// When it was written down.
    pub created_at: DateTime<Utc>,
    /// The exact bytes that are sent.
    pub body: String,
}

/// What came of sending a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookOutcome {
    /// Where it stands now.
    pub state: WebhookState,
    /// When it is sent again, if it is.
    pub due_at: DateTime<Utc>,
    /// What the endpoint answered.
    pub http_status: Option<u16>,
    /// Why it was not taken.
    pub reason: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct EventRow {
    seq: i64,
    kind: String,
    body: String,
    hash: String,
    at: DateTime<Utc>,
    settlement_id: String,
    trace_id: String,
    payer: String,
    amount_usdc_micro: i64,
    capability_id: Option<String>,
    agent_id: Option<String>,
    request_id: Option<String>,
    tx_hash: Option<String>,
}

impl TryFrom<EventRow> for NotableEvent {
    type Error = LedgerError;

    fn try_from(row: EventRow) -> Result<Self> {
        Ok(Self {
            seq: unsigned("settlement_events.seq", row.seq)?,
            kind: row.kind,
            body: row.body,
            hash: hash("settlement_events.hash", &row.hash)?,
            at: row.at,
            settlement: uuid("settlement_events.settlement_id", &row.settlement_id)?,
            trace_id: hash("x402_settlements.trace_id", &row.trace_id)?,
            payer: row.payer,
            amount_micro: unsigned("x402_settlements.amount_usdc_micro", row.amount_usdc_micro)?,
            capability: row.capability_id,
            agent_id: row.agent_id,
            request_id: row.request_id,
            tx_hash: row.tx_hash,
        })
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    endpoint: String,
    #[sqlx(rename = "type")]
    kind: String,
    state: String,
    attempts: i64,
    due_at: DateTime<Utc>,
    http_status: Option<i64>,
    reason: Option<String>,
    created_at: DateTime<Utc>,
    body: String,
}

impl TryFrom<Row> for WebhookRecord {
    type Error = LedgerError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: uuid("webhook_deliveries.id", &row.id)?,
            endpoint: row.endpoint,
            kind: row.kind,
            state: word("webhook_deliveries.state", &row.state, WebhookState::from_word)?,
            attempts: unsigned("webhook_deliveries.attempts", row.attempts)?,
            due_at: row.due_at,
            http_status: row.http_status,
            reason: row.reason,
            created_at: row.created_at,
            body: row.body,
        })
    }
}

impl Tx {
    /// Up to which position a chain's events are turned into webhooks; `None` before the first look.
    pub async fn webhook_cursor(&mut self, chain_id: u64) -> Result<Option<u64>> {
        const SELECT: &str =
            "SELECT next_position AS number FROM webhook_cursors WHERE chain_id = $1";
        let chain = bigint("chain id", chain_id)?;
        let row = fetch_optional!(self, Number, SELECT, chain)?;
        let next = row.and_then(|row| row.number);
        next.map(|next| unsigned("webhook_cursors.next_position", next)).transpose()
    }

    /// Moves that cursor from where the caller has seen it.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when somebody else has moved it.
    pub async fn advance_webhooks(
        &mut self,
        chain_id: u64,
        from: Option<u64>,
        next: u64,
    ) -> Result<()> {
        const INSERT: &str = "INSERT INTO webhook_cursors (chain_id, next_position, updated_at)
            VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        const UPDATE: &str = "UPDATE webhook_cursors SET next_position = $2, updated_at = $3
            WHERE chain_id = $1 AND next_position = $4";
        let (chain, next) = (bigint("chain id", chain_id)?, bigint("event position", next)?);
        let moved = match from {
            None => execute!(self, INSERT, chain, next, now())?,
            Some(from) => {
                let from = bigint("event position", from)?;
                execute!(self, UPDATE, chain, next, now(), from)?
            }
        };
        match moved {
            1 => Ok(()),
            _ => Err(LedgerError::Conflict(format!("webhooks of chain {chain_id}"))),
        }
    }

    /// The events of a chain's payments at positions from `from` on and before `until` that
    /// somebody may want to be told of, in order.
    pub async fn notable_events(
        &mut self,
        chain_id: u64,
        from: u64,
        until: u64,
    ) -> Result<Vec<NotableEvent>> {
        const SELECT: &str = "SELECT e.seq, e.kind, e.body, e.hash, e.at, e.settlement_id,
                s.trace_id, s.payer, s.amount_usdc_micro, s.capability_id, s.agent_id,
                s.request_id, s.tx_hash
            FROM event_positions p
            JOIN settlement_events e ON e.seq = p.seq
            JOIN x402_settlements s ON s.id = e.settlement_id
            WHERE p.position >= $1 AND p.position < $2 AND s.chain_id = $3
            AND e.kind IN ('delivery.answer', 'refund.pay', 'status.confirm', 'status.disagree',
                'keeper.record_seen')
            ORDER BY p.position";
        let (from, until) = (bigint("event position", from)?, bigint("event position", until)?);
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, EventRow, SELECT, from, until, chain)?;
        rows.into_iter().map(NotableEvent::try_from).collect()
    }

    /// Writes down that an endpoint is to be told of an event. Once per event and endpoint: false
    /// when that stands there already.
    pub async fn add_webhook(
        &mut self,
        chain_id: u64,
        event: &NotableEvent,
        endpoint: &str,
        id: Uuid,
        kind: &str,
        body: &str,
    ) -> Result<bool> {
        const INSERT: &str = "INSERT INTO webhook_deliveries
            (id, chain_id, event_seq, endpoint, type, body, state, attempts, due_at, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, 'waiting', 0, $7, $7) ON CONFLICT DO NOTHING";
        let (chain, seq) = (bigint("chain id", chain_id)?, bigint("event seq", event.seq)?);
        let id = id.to_string();
        let added = execute!(self, INSERT, id, chain, seq, endpoint, kind, body, now())?;
        Ok(added == 1)
    }

    /// Webhooks of a chain that an endpoint is to be sent now, oldest first.
    pub async fn due_webhooks(
        &mut self,
        chain_id: u64,
        endpoint: &str,
        at: DateTime<Utc>,
        limit: u64,
    ) -> Result<Vec<WebhookRecord>> {
        const SELECT: &str = "SELECT id, endpoint, type, state, attempts, due_at, http_status,
                reason, created_at, body
            FROM webhook_deliveries
            WHERE chain_id = $1 AND endpoint = $2 AND state = 'waiting' AND due_at <= $3
            ORDER BY due_at, event_seq LIMIT $4";
        let (chain, limit) = (bigint("chain id", chain_id)?, bigint("limit", limit)?);
        let rows = fetch_all!(self, Row, SELECT, chain, endpoint, at, limit)?;
        rows.into_iter().map(WebhookRecord::try_from).collect()
    }

    /// Stores what came of sending a webhook.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when it was sent or changed by somebody else in between.
    pub async fn finish_webhook(
        &mut self,
        sent: &WebhookRecord,
        outcome: &WebhookOutcome,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE webhook_deliveries SET state = $1, attempts = attempts + 1,
            due_at = $2, http_status = $3, reason = $4, finished_at = $5
            WHERE id = $6 AND state = 'waiting' AND attempts = $7";
        let status = outcome.http_status.map(i64::from);
        let finished = (outcome.state != WebhookState::Waiting).then(now);
        let attempts = bigint("attempts", sent.attempts)?;
        let (state, reason) = (outcome.state.as_str(), outcome.reason.as_deref());
        let id = sent.id.to_string();
        let due = outcome.due_at;
        match execute!(self, UPDATE, state, due, status, reason, finished, id, attempts)? {
            1 => Ok(()),
            _ => Err(LedgerError::Conflict(format!("webhook {}", sent.id))),
        }
    }

    /// The newest webhooks, newest first; those in one state, if one is named.
    pub async fn webhooks(
        &mut self,
        state: Option<WebhookState>,
        newest: u64,
    ) -> Result<Vec<WebhookRecord>> {
        const SELECT: &str = "SELECT id, endpoint, type, state, attempts, due_at, http_status,
                reason, created_at, body
            FROM webhook_deliveries WHERE $1 = '' OR state = $1
            ORDER BY created_at DESC, event_seq DESC LIMIT $2";
        let state = state.map_or("", WebhookState::as_str);
        let rows = fetch_all!(self, Row, SELECT, state, bigint("limit", newest)?)?;
        rows.into_iter().map(WebhookRecord::try_from).collect()
    }

    /// Has a webhook that was given up sent again, from the first attempt on. False when it was not
    /// given up.
    pub async fn retry_webhook(&mut self, id: Uuid) -> Result<bool> {
        const UPDATE: &str = "UPDATE webhook_deliveries SET state = 'waiting', attempts = 0,
            due_at = $1, finished_at = NULL WHERE id = $2 AND state = 'abandoned'";
        Ok(execute!(self, UPDATE, now(), id.to_string())? == 1)
    }

    /// How many webhooks of a chain wait.
    pub async fn waiting_webhooks(&mut self, chain_id: u64) -> Result<u64> {
        const SELECT: &str = "SELECT count(*) AS number FROM webhook_deliveries
            WHERE chain_id = $1 AND state = 'waiting'";
        let chain = bigint("chain id", chain_id)?;
        let row = fetch_optional!(self, Number, SELECT, chain)?;
        unsigned("webhook_deliveries", row.and_then(|row| row.number).unwrap_or(0))
    }
}
