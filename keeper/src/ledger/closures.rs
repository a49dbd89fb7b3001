//! Why a Splitter takes no payments for a while.

use super::{
    Result, Tx,
    audit_log::Action,
    columns::{bigint, hex, now, word},
    query::{execute, fetch_all},
};
use crate::lifecycle::words;
use alloy::primitives::Address;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

/// What closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosureReason {
    /// The token is paused: nothing can be pulled, split or withdrawn.
    TokenPaused,
    /// The token's blacklist has the Splitter, the treasury or the reserve.
    Blacklisted,
    /// The token's code or implementation is another one than before.
    TokenChanged,
    /// This machine's clock is off by more than five seconds.
    ClockSkew,
    /// Chain, journal and settlements disagree.
    Drift,
    /// Two endpoints disagree about what is final.
    SourcesDiffer,
}

words!(ClosureReason {
    TokenPaused => "token_paused",
    Blacklisted => "blacklisted",
    TokenChanged => "token_changed",
    ClockSkew => "clock_skew",
    Drift => "drift",
    SourcesDiffer => "sources_differ",
});

impl ClosureReason {
    /// Whether it is over when its cause is. Any other waits for a human (`keeper flags lift`).
    pub const fn heals_itself(self) -> bool {
        matches!(self, Self::TokenPaused | Self::Blacklisted | Self::ClockSkew)
    }

    /// Whether nothing is recorded or split either: what it says puts the books in doubt.
    pub const fn stops_recording(self) -> bool {
        matches!(self, Self::TokenChanged | Self::Drift | Self::SourcesDiffer)
    }
}

/// A closure that is not lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Closure {
    /// What closed it.
    pub reason: ClosureReason,
    /// In words.
    pub detail: String,
    /// Since when.
    pub closed_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Row {
    reason: String,
    detail: String,
    closed_at: DateTime<Utc>,
}

/// Whether nothing closes a Splitter that stops recording. `$intents` names a table with its chain
/// and address.
macro_rules! unfrozen {
    ($intents:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM closures c WHERE c.chain_id = ",
            $intents,
            ".chain_id AND c.splitter = ",
            $intents,
            ".splitter AND c.lifted_at IS NULL
            AND c.reason IN ('token_changed', 'drift', 'sources_differ'))"
        )
    };
}
pub(super) use unfrozen;

impl Tx {
    /// What closes a Splitter now, oldest first.
    pub async fn closures(&mut self, chain_id: u64, splitter: Address) -> Result<Vec<Closure>> {
        const SELECT: &str = "SELECT reason, detail, closed_at FROM closures
            WHERE chain_id = $1 AND splitter = $2 AND lifted_at IS NULL ORDER BY id";
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, Row, SELECT, chain, hex(splitter))?;
        rows.into_iter()
            .map(|row| {
                Ok(Closure {
                    reason: word("closures.reason", &row.reason, ClosureReason::from_word)?,
                    detail: row.detail,
                    closed_at: row.closed_at,
                })
            })
            .collect()
    }

    /// Closes a Splitter. False when it is closed for that reason already.
    pub async fn close(
        &mut self,
        chain_id: u64,
        splitter: Address,
        reason: ClosureReason,
        detail: &str,
    ) -> Result<bool> {
        const INSERT: &str = "INSERT INTO closures (chain_id, splitter, reason, detail, closed_at)
            VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (chain_id, splitter, reason) WHERE lifted_at IS NULL DO NOTHING";
        let chain = bigint("chain id", chain_id)?;
        if execute!(self, INSERT, chain, hex(splitter), reason.as_str(), detail, now())? == 0 {
            return Ok(false);
        }
        let logged = json!({"reason": reason, "detail": detail});
        self.log_action(Action::Closed, Some((chain_id, splitter)), None, &logged).await?;
        Ok(true)
    }

    /// Lifts a closure. False when there was none.
    pub async fn lift(
        &mut self,
        chain_id: u64,
        splitter: Address,
        reason: ClosureReason,
        why: &str,
    ) -> Result<bool> {
        const UPDATE: &str = "UPDATE closures SET lifted_at = $1, lifted_why = $2
            WHERE chain_id = $3 AND splitter = $4 AND reason = $5 AND lifted_at IS NULL";
        let chain = bigint("chain id", chain_id)?;
        if execute!(self, UPDATE, now(), why, chain, hex(splitter), reason.as_str())? == 0 {
            return Ok(false);
        }
        let logged = json!({"reason": reason, "why": why});
        self.log_action(Action::Lifted, Some((chain_id, splitter)), None, &logged).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words in the SQL are those that the method knows.
    #[test]
    fn sql_and_code_agree_on_what_stops_recording() {
        let sql = unfrozen!("intents");
        for reason in ClosureReason::ALL {
            let is_listed = sql.contains(&format!("'{reason}'"));
            assert_eq!(is_listed, reason.stops_recording(), "{reason}");
        }
    }
}
