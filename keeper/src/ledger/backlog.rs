//! How much waits: for an operator's dashboard, and for whoever decides whether something stands still.

use super::{
    Result, Tx,
    columns::{bigint, hex, unsigned},
    query::{execute, fetch_all},
};
use alloy::primitives::Address;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// Work of one kind that no transaction has done yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// Pull, record, split.
    pub kind: String,
    /// How much of it.
    pub count: u64,
    /// How long the oldest has waited.
    pub oldest: TimeDelta,
}

#[derive(sqlx::FromRow)]
struct Row {
    kind: String,
    number: i64,
    oldest: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct StatusRow {
    status: String,
    number: i64,
}

impl Tx {
    /// What waits at a Splitter, by kind.
    pub async fn backlog(&mut self, chain_id: u64, splitter: Address) -> Result<Vec<Backlog>> {
        const SELECT: &str = "SELECT kind, count(*) AS number, min(created_at) AS oldest
            FROM intents WHERE chain_id = $1 AND splitter = $2 AND state IN ('open', 'claimed')
            GROUP BY kind ORDER BY kind";
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, Row, SELECT, chain, hex(splitter))?;
        let clock = self.clock().await?;
        rows.into_iter()
            .map(|row| {
                Ok(Backlog {
                    kind: row.kind,
                    count: unsigned("intents", row.number)?,
                    oldest: clock - row.oldest,
                })
            })
            .collect()
    }

    /// How many payments of a Splitter are not over, by status.
    pub async fn open_statuses(
        &mut self,
        chain_id: u64,
        splitter: Address,
    ) -> Result<Vec<(String, u64)>> {
        const SELECT: &str = "SELECT status, count(*) AS number FROM x402_settlements
            WHERE chain_id = $1 AND splitter = $2 AND status IN ('reserved', 'settle_pending',
                'facilitator_attested', 'orphaned', 'mismatched')
            GROUP BY status ORDER BY status";
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, StatusRow, SELECT, chain, hex(splitter))?;
        rows.into_iter()
            .map(|row| Ok((row.status, unsigned("x402_settlements", row.number)?)))
            .collect()
    }

    /// Notes the trace, in OpenTelemetry's sense, of the call that made a payment.
    pub async fn keep_otel_trace(&mut self, settlement: Uuid, trace: &str) -> Result<()> {
        const UPDATE: &str = "UPDATE x402_settlements SET otel_trace_id = $1 WHERE id = $2";
        execute!(self, UPDATE, trace, settlement.to_string())?;
        Ok(())
    }
}
