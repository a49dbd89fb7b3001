//! The event log of a settlement, hash-chained.

use super::{
    LedgerError, Result, Tx,
    columns::{hash, hex, now},
    query::{execute, fetch_all, fetch_optional},
};
use crate::lifecycle::event_hash;
use alloy::primitives::B256;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// One event as stored.
#[derive(Debug, Clone, Serialize)]
pub struct TraceEvent {
    /// Position within the settlement.
    pub n: u64,
    /// What happened: machine and event, "status.pull_seen".
    pub kind: String,
    /// State of that machine afterwards.
    pub state: String,
    /// The exact JSON bytes that were hashed.
    pub body: String,
    /// Hash of the event before; the trace id for the first.
    pub prev_hash: B256,
    /// Hash of this event.
    pub hash: B256,
}

#[derive(sqlx::FromRow)]
struct Row {
    n: i64,
    kind: String,
    state: String,
    body: String,
    prev_hash: String,
    hash: String,
}

impl TryFrom<Row> for TraceEvent {
    type Error = LedgerError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            n: super::columns::unsigned("settlement_events.n", row.n)?,
            kind: row.kind,
            state: row.state,
            body: row.body,
            prev_hash: hash("settlement_events.prev_hash", &row.prev_hash)?,
            hash: hash("settlement_events.hash", &row.hash)?,
        })
    }
}

impl TraceEvent {
    /// The hash that this event must have.
    pub fn expected_hash(&self) -> Option<B256> {
        let n = u32::try_from(self.n).ok()?;
        Some(event_hash(self.prev_hash, n, &self.state, &self.kind, self.body.as_bytes()))
    }
}

/// An event's body in JCS form, so that its hash can be recomputed from its meaning, and that hash,
/// which chains it to the one before.
struct Link {
    body: String,
    hash: B256,
}

impl Link {
    fn new<B: Serialize>(
        previous: B256,
        n: i64,
        kind: &str,
        state: &str,
        body: &B,
    ) -> Result<Self> {
        let body = String::from_utf8(serde_json_canonicalizer::to_vec(body)?).map_err(|_| {
            LedgerError::OutOfRange { what: "event body", value: "not UTF-8".to_owned() }
        })?;
        let number = u32::try_from(n)
            .map_err(|_| LedgerError::OutOfRange { what: "event number", value: n.to_string() })?;
        let hash = event_hash(previous, number, state, kind, body.as_bytes());
        Ok(Self { body, hash })
    }
}

impl Tx {
    /// Appends an event to a settlement's log.
    pub(super) async fn append_event<B: Serialize>(
        &mut self,
        settlement: Uuid,
        trace_id: B256,
        kind: &str,
        state: &str,
        body: &B,
    ) -> Result<()> {
        const LOCK: &str = "SELECT 1 FROM x402_settlements WHERE id = $1 FOR NO KEY UPDATE";
        // Two writers must not append to one log at once. FOR UPDATE would wait for rows that only
        // refer to the settlement, and deadlock. On SQLite this is the only writer.
        if matches!(self, Self::Postgres(_)) {
            execute!(self, LOCK, settlement.to_string())?;
        }
        self.append_to_locked(settlement, trace_id, kind, state, body).await
    }

    /// The same for a settlement whose row this transaction has changed, and so has locked.
    pub(super) async fn append_to_locked<B: Serialize>(
        &mut self,
        settlement: Uuid,
        trace_id: B256,
        kind: &str,
        state: &str,
        body: &B,
    ) -> Result<()> {
        #[derive(sqlx::FromRow)]
        struct Last {
            n: i64,
            hash: String,
        }
        const LAST: &str = "SELECT n, hash FROM settlement_events
            WHERE settlement_id = $1 ORDER BY n DESC LIMIT 1";
        let (n, previous) = match fetch_optional!(self, Last, LAST, settlement.to_string())? {
            Some(last) => (last.n.saturating_add(1), hash("settlement_events.hash", &last.hash)?),
            None => (0, trace_id),
        };
        const INSERT: &str = "INSERT INTO settlement_events
            (settlement_id, n, kind, state, body, prev_hash, hash, at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let Link { body, hash: linked } = Link::new(previous, n, kind, state, body)?;
        let id = settlement.to_string();
        execute!(self, INSERT, &id, n, kind, state, &body, hex(previous), hex(linked), now())?;
        Ok(())
    }

    /// Begins the log of a settlement with two events, in one statement. Each is a kind, a state and a
    /// body.
    pub(super) async fn begin_events(
        &mut self,
        settlement: Uuid,
        trace_id: B256,
        events: [(&str, &str, &Value); 2],
    ) -> Result<()> {
        const INSERT: &str = "INSERT INTO settlement_events
            (settlement_id, n, kind, state, body, prev_hash, hash, at)
            VALUES ($1, 0, $2, $3, $4, $5, $6, $10), ($1, 1, $7, $8, $9, $6, $11, $10)";
        let [(first_kind, first_state, first), (second_kind, second_state, second)] = events;
        let first = Link::new(trace_id, 0, first_kind, first_state, first)?;
        let second = Link::new(first.hash, 1, second_kind, second_state, second)?;
        execute!(
            self,
            INSERT,
            settlement.to_string(),
            first_kind,
            first_state,
            &first.body,
            hex(trace_id),
            hex(first.hash),
            second_kind,
            second_state,
            &second.body,
            now(),
            hex(second.hash),
        )?;
        Ok(())
    }

    /// The events of a settlement, in order.
    pub async fn events(&mut self, settlement: Uuid) -> Result<Vec<TraceEvent>> {
        const SELECT: &str = "SELECT n, kind, state, body, prev_hash, hash FROM settlement_events
            WHERE settlement_id = $1 ORDER BY n";
        let rows = fetch_all!(self, Row, SELECT, settlement.to_string())?;
        rows.into_iter().map(TraceEvent::try_from).collect()
    }
}
