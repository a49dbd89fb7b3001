//! What was noticed and decided beside the payments' own events. Append-only.

use super::{
    LedgerError, Result, Tx,
    columns::{bigint, hex, now, uuid, word},
    query::{execute, fetch_all},
};
use crate::lifecycle::words;
use alloy::primitives::Address;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

/// What happened. Names as the conformance suites spell them, where they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A switch was moved.
    FlagSet,
    /// A Splitter takes no payments any more.
    Closed,
    /// It does again.
    Lifted,
}

words!(Action {
    FlagSet => "x402.flag_set",
    Closed => "x402.closed",
    Lifted => "x402.lifted",
});

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRecord {
    /// What happened.
    pub action: Action,
    /// To which payment, if to one.
    pub settlement: Option<Uuid>,
    /// JSON.
    pub detail: String,
    /// When.
    pub at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Row {
    action: String,
    settlement_id: Option<String>,
    detail: String,
    at: DateTime<Utc>,
}

impl Tx {
    /// Logs that something happened, to a Splitter and a payment if it did to one. Once per action
    /// and payment: false when it stands there already.
    pub async fn log_action<D: Serialize>(
        &mut self,
        action: Action,
        splitter: Option<(u64, Address)>,
        settlement: Option<Uuid>,
        detail: &D,
    ) -> Result<bool> {
        const INSERT: &str = "INSERT INTO audit_log
            (action, chain_id, splitter, settlement_id, detail, at) VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (action, settlement_id) DO NOTHING";
        let detail =
            String::from_utf8(serde_json_canonicalizer::to_vec(detail)?).map_err(|_| {
                LedgerError::OutOfRange { what: "audit detail", value: "not UTF-8".to_owned() }
            })?;
        let chain = splitter.map(|(chain_id, _)| bigint("chain id", chain_id)).transpose()?;
        let at = splitter.map(|(_, address)| hex(address));
        let settlement = settlement.map(|id| id.to_string());
        let done = execute!(self, INSERT, action.as_str(), chain, at, settlement, &detail, now())?;
        Ok(done == 1)
    }

    /// Every line of one action, oldest first.
    pub async fn actions(&mut self, action: Action) -> Result<Vec<ActionRecord>> {
        const SELECT: &str = "SELECT action, settlement_id, detail, at FROM audit_log
            WHERE action = $1 ORDER BY seq";
        let rows = fetch_all!(self, Row, SELECT, action.as_str())?;
        rows.into_iter()
            .map(|row| {
                let settlement = row.settlement_id.as_deref();
                Ok(ActionRecord {
                    action: word("audit_log.action", &row.action, Action::from_word)?,
                    settlement: settlement
                        .map(|id| uuid("audit_log.settlement_id", id))
                        .transpose()?,
                    detail: row.detail,
                    at: row.at,
                })
            })
            .collect()
    }
}
