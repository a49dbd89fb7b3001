//! What an external facilitator said of a payment. Its word is kept, and moves no status: that takes a
//! Transfer in a block.

use super::{
    LedgerError, Result, Settlement, Tx,
    columns::{bigint, hex, uuid},
    query::{execute, fetch_optional},
};
use alloy::primitives::B256;
use serde_json::Value;
use uuid::Uuid;

#[derive(sqlx::FromRow)]
struct Other {
    id: String,
}

impl Tx {
    /// Keeps a facilitator's answer to `/settle`, in the row and in the event log.
    pub async fn facilitator_answered(&mut self, settlement: Uuid, answer: &Value) -> Result<()> {
        const POSTGRES: &str = "UPDATE x402_settlements
            SET facilitator_response_jsonb = CAST($1 AS JSONB) WHERE id = $2";
        const SQLITE: &str =
            "UPDATE x402_settlements SET facilitator_response_jsonb = $1 WHERE id = $2";
        let text = serde_json::to_string(answer)?;
        let id = settlement.to_string();
        let updated = match self {
            Self::Postgres(_) => execute!(self, POSTGRES, &text, &id)?,
            Self::Sqlite(_) => execute!(self, SQLITE, &text, &id)?,
        };
        // Its row is locked now: its status is what it will be when this is committed.
        let known = self.settlement(settlement).await?.filter(|_| updated == 1);
        let Some(known) = known else {
            return Err(LedgerError::Conflict(format!("payment {settlement}")));
        };
        let (trace, state) = (known.trace_id, known.status.as_str());
        self.append_to_locked(settlement, trace, "facilitator.answered", state, answer).await
    }

    /// Another payment that was pulled in a transaction, where this one was not.
    pub async fn pulled_instead(
        &mut self,
        settlement: &Settlement,
        transaction: B256,
    ) -> Result<Option<Uuid>> {
        const SELECT: &str = "SELECT o.id FROM x402_settlements o
            WHERE o.chain_id = $1 AND o.tx_hash = $2 AND o.id <> $3 AND NOT EXISTS (
                SELECT 1 FROM x402_pull_events e WHERE e.chain_id = $1 AND e.tx_hash = $2
                AND e.payer = $4 AND e.eip3009_nonce = $5)
            ORDER BY o.id LIMIT 1";
        let found = fetch_optional!(
            self,
            Other,
            SELECT,
            bigint("chain id", settlement.chain_id)?,
            hex(transaction),
            settlement.id.to_string(),
            hex(settlement.payer),
            hex(settlement.nonce),
        )?;
        found.map(|other| uuid("x402_settlements.id", &other.id)).transpose()
    }
}
